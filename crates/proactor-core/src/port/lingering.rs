//! Handles of connections that are over, while their peers may still be sending. Owns how long they are kept and how many; knows nothing of connections.
//!
//! To close a TCP socket with unread bytes, or to get some later, answers the peer with a reset, and a reset destroys what is still on its way to it: the end of
//! the reply. So our side is ended, and what comes is read and dropped until the peer has ended too (RFC 1122, 4.2.2.13). No thread waits for it.

use super::*;

/// Lingering ends when nothing has come for this long.
const QUIET: u64 = 2_000_000_000;
/// And after this long whatever comes, where `send_timeout` sets no limit.
const LONGEST: u64 = 30_000_000_000;
/// So many handles may linger; beyond that the oldest is closed.
const MOST: usize = 1024;

pub(super) struct Lingering {
    handle: Handle,
    token: Token,
    until: u64,
    /// Bytes. Only the leader counts; nothing else depends on it.
    dropped: AtomicU64,
}

impl<U: Upper> Port<U> {
    /// The connection is over, and everything of it was sent.
    pub(super) fn begin_lingering(&self, connection: &Connection<U>, handle: Handle) {
        let now = self.engine.now();
        let until = now + connection.group.settings.send_timeout.unwrap_or(LONGEST);
        let token = connection.token;
        let lingering = Arc::new(Lingering { handle: handle.clone(), token, until, dropped: AtomicU64::new(0) });
        let replaced = self.table.lock().replace(token, Entry::Lingering(lingering));
        if replaced.is_err() {
            return self.engine.close(&handle, Closing::Orderly); // it never got as far as the table
        }
        drop(replaced);
        // Not before: the peer's end is now told to the one who waits for it. (One that was under way already is missed, and costs `QUIET`.)
        if self.is_closed() || self.engine.shutdown_write(&handle).is_err() {
            return self.end_lingering(token);
        }
        self.engine.receive(&handle);
        let oldest = {
            let mut all = self.lingering.lock();
            all.push_back(token);
            if all.len() > MOST { all.pop_front() } else { None }
        };
        if let Some(oldest) = oldest {
            self.end_lingering(oldest);
        }
        if self.is_closed() {
            self.end_all_lingering(); // nobody would come for it any more
        } else {
            self.add_timer(now + QUIET, Timer::Discard(Box::new((token, 0))));
        }
    }

    pub(super) fn dispatch_lingering(&self, lingering: &Lingering, outcome: Outcome) {
        match outcome {
            Outcome::Received(bytes) => {
                lingering.dropped.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            Outcome::Ended | Outcome::HungUp | Outcome::ReceiveFailed(_) => self.end_lingering(lingering.token),
            _ => {}
        }
    }

    pub(super) fn check_lingering(&self, token: Token, dropped_before: u64, now: u64) {
        let Some(Entry::Lingering(lingering)) = self.find(token) else { return };
        let dropped = lingering.dropped.load(Ordering::Relaxed);
        if dropped > dropped_before && now < lingering.until {
            self.add_timer((now + QUIET).min(lingering.until), Timer::Discard(Box::new((token, dropped))));
        } else {
            self.end_lingering(token);
        }
    }

    fn end_lingering(&self, token: Token) {
        let entry = self.table.lock().remove(token);
        if let Some(Entry::Lingering(lingering)) = entry {
            self.engine.close(&lingering.handle, Closing::Orderly);
            self.lingering.lock().retain(|other| *other != token);
        }
    }

    pub(super) fn end_all_lingering(&self) {
        let all = std::mem::take(&mut *self.lingering.lock());
        for token in all {
            self.end_lingering(token);
        }
    }
}
