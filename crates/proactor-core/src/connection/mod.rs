//! One peer: what came from it, what goes to it, and how it ends. Owns the handle and both queues; knows nothing of workers.
//!
//! ```text
//!   Open ──close, handler failed, too long, idle──▶ Closing ──all sent, or send_timeout──▶ Closed
//!     └────────────reset, abort, send failed────────────────────────────────────────────▶ Closed
//! ```
//! Every transition happens under the connection's lock and answers what must follow (`After`), which is done once the lock is released.

use std::sync::Arc;

use crate::buffer::{Outgoing, Received, SharedBytes};
use crate::completion::Token;
use crate::engine::{Address, Engine, Handle, Submission};
use crate::error::Failure;
use crate::framing::Framer;
use crate::group::{Group, Settings, Traffic, Upper};
use crate::mailbox::Mailbox;
use crate::sync::Mutex;
use crate::sync::atomic::Ordering;
use crate::waiter::Waiter;

/// What a handler is called for.
#[derive(Debug)]
pub enum Event {
    Connected,
    Received(Received),
    Ended,
    Sent(usize),
    Closed(Option<Failure>),
    /// What came after the messages before it is no message: the connection closes once those are handled. No handler is called for it.
    Unreadable(Failure),
}

mod after;
mod files;
mod looking;
mod messages;
mod transitions;
use transitions::taken_by;

pub(crate) use after::{After, Rare};
pub(crate) use files::FileStep;
pub use files::FileTurn;

pub struct Connection<U: Upper> {
    pub id: u64,
    pub peer: Address,
    pub group: Arc<Group<U>>,
    pub token: Token,
    // Guards everything of the connection that changes.
    state: Mutex<State<U>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Open,
    /// Everything queued is still sent, then it closes.
    Closing,
    Closed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WriteEnd {
    Open,
    Wanted,
    Done,
}

/// Why receiving is paused; it goes on when no reason is left.
pub(crate) mod pause {
    pub const INBOX: u8 = 1;
    pub const OUTBOX: u8 = 2;
    pub const USER: u8 = 4;
    pub const TOTAL: u8 = 8;
    pub const CLOSING: u8 = 16;
}

struct State<U: Upper> {
    life: Life,
    /// None once it is closed: whoever still holds the connection holds no descriptor.
    handle: Option<Handle>,
    write_end: WriteEnd,
    /// The peer has finished sending, or has sent what is no message: nothing more is received.
    ended: bool,
    /// And receives nothing either.
    hung_up: bool,
    /// On the group's list of those that stopped receiving because of `total_limit`.
    held: bool,
    /// On the port's list of connections with unwritten sends.
    dirty: bool,
    sending: bool,
    pauses: u8,
    gone: bool,
    /// How many messages had been handled when it closed.
    counted_messages: u64,
    mailbox: Mailbox<Event>,
    inbox_bytes: usize,
    outgoing: Outgoing,
    /// Files that are to be sent after that, and what is to be sent after them.
    files: Option<Box<files::Files>>,
    /// Bytes that the engine owns.
    in_flight: usize,
    /// Somebody is in the call that gives them to the engine, and counts what it took if the connection is closed by then.
    in_call: bool,
    /// How much of a pending send was taken when the idle timer last came.
    taken_then: usize,
    sent_untold: usize,
    /// What of the inbox and the outbox is counted in the group's `queued`.
    accounted: usize,
    failure: Option<Box<Failure>>,
    framer: Option<Box<Framer>>,
    /// None: what has come of the message that is not whole yet is next to nothing.
    unfinished: Option<messages::Part>,
    upper: Option<U::Connection>,
    waiter: Option<Arc<Waiter>>,
    traffic: Traffic,
    /// When bytes last moved, in the engine's nanoseconds.
    active_at: u64,
}

impl<U: Upper> State<U> {
    /// Bytes that wait to be sent, or are with the engine.
    fn outbox_bytes(&self) -> usize {
        self.outgoing.len() + self.in_flight + self.files.as_ref().map_or(0, |files| files.bytes())
    }
}

/// What became of bytes given to `queue`.
pub(crate) enum Queued {
    /// They wait for the end of the handler; `first`: put the connection on the list of those.
    Later {
        first: bool,
    },
    Flush,
    /// The limit is reached; nothing was taken.
    Full,
    Ended(Option<Failure>),
}

pub enum Bytes<'a> {
    Copy(&'a [u8]),
    Shared(SharedBytes),
}

impl Bytes<'_> {
    pub fn len(&self) -> usize {
        match self {
            Bytes::Copy(bytes) => bytes.len(),
            Bytes::Shared(bytes) => (**bytes).as_ref().len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The next message for a handler that reads on by itself.
pub enum Next {
    Message(Received),
    /// The peer has finished sending, or the connection has ended in order.
    End,
    Failed(Failure),
    Wait(Arc<Waiter>, u64),
}

/// A message of this length is written at once rather than at the end of the handler.
const WRITE_AT_ONCE: usize = 64 * 1024;

impl<U: Upper> Connection<U> {
    pub(crate) fn new(id: u64, peer: Address, group: Arc<Group<U>>, handle: Handle, token: Token, now: u64) -> Arc<Self> {
        let framer = group.settings.framing.map(|framing| Box::new(Framer::new(framing)));
        let state = State {
            life: Life::Open,
            handle: Some(handle),
            write_end: WriteEnd::Open,
            ended: false,
            hung_up: false,
            held: false,
            dirty: false,
            sending: false,
            pauses: 0,
            gone: false,
            counted_messages: 0,
            mailbox: Mailbox::default(),
            inbox_bytes: 0,
            outgoing: Outgoing::new(),
            files: None,
            in_flight: 0,
            in_call: false,
            taken_then: 0,
            sent_untold: 0,
            accounted: 0,
            failure: None,
            framer,
            unfinished: None,
            upper: None,
            waiter: None,
            traffic: Traffic::default(),
            active_at: now,
        };
        Arc::new(Connection { id, peer, group, token, state: Mutex::new(state) })
    }

    fn settings(&self) -> &Settings {
        &self.group.settings
    }

    // ---- the leader: what came back ----

    /// The first event; the caller puts the connection into the ready queue.
    pub(crate) fn connected(&self) {
        let scheduled = self.state.lock().mailbox.push(Event::Connected);
        debug_assert!(scheduled, "nothing comes before the first event");
    }

    /// The handle is associated: receives, unless somebody has said otherwise meanwhile.
    pub(crate) fn begin_receiving(&self, engine: &dyn Engine) {
        let state = self.state.lock();
        if state.pauses == 0
            && let Some(handle) = &state.handle
        {
            engine.receive(handle);
        }
    }

    pub(crate) fn received(self: &Arc<Self>, bytes: Received, now: u64, engine: &dyn Engine) -> After<U> {
        let mut after = After::default();
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.life != Life::Open || state.ended {
            return after; // it is closing, or will not be understood any more: nobody wants to hear more
        }
        state.active_at = now;
        state.traffic.received += bytes.len() as u64;
        if let Some(mut framer) = state.framer.take() {
            let (another, result) = self.frame(state, &mut framer, Some(bytes.as_slice()), &mut after);
            let left = framer.buffered();
            state.framer = Some(framer);
            match result {
                Ok(()) => self.count_unfinished(state, left, another, now, engine, &mut after),
                Err(failure) => {
                    self.forget_unfinished(state);
                    self.stop_reading(state, failure, engine, &mut after);
                }
            }
        } else {
            self.count_inbox(state, messages::held(bytes.len()));
            after.schedule = state.mailbox.push(Event::Received(bytes));
        }
        if state.inbox_bytes >= self.settings().receive_limit {
            self.pause_for(state, pause::INBOX, engine);
        }
        // One that holds nothing but a part of a message goes on: nothing would leave its queues, and so nobody would let it receive the rest.
        let holds = state.inbox_bytes + state.outbox_bytes() > 0;
        if holds && self.group.queued.load(Ordering::Relaxed) > self.settings().total_limit && state.pauses & pause::TOTAL == 0 {
            self.pause_for(state, pause::TOTAL, engine);
            if !std::mem::replace(&mut state.held, true) {
                self.group.hold(self.clone());
            }
        }
        after.waiter = state.waiter.clone();
        after
    }

    pub(crate) fn peer_ended(&self, engine: &dyn Engine) -> After<U> {
        let mut after = After::default();
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.life != Life::Open || state.ended {
            return after;
        }
        state.ended = true;
        if let Some(mut framer) = state.framer.take() {
            let (_, result) = self.frame(state, &mut framer, None, &mut after);
            self.forget_unfinished(state);
            if let Err(failure) = result {
                self.stop_reading(state, failure, engine, &mut after);
                after.waiter = state.waiter.clone();
                return after;
            }
        }
        if self.settings().wants.ended || state.mailbox.is_scheduled() {
            after.schedule |= state.mailbox.push(Event::Ended);
        } else {
            self.begin_close(state, None, engine, &mut after);
        }
        after.waiter = state.waiter.clone();
        after
    }

    /// The peer, which has ended, has closed altogether: so does our side, once its handlers are through.
    pub(crate) fn peer_hung_up(&self, engine: &dyn Engine) -> After<U> {
        let mut after = After::default();
        let mut state = self.state.lock();
        let state = &mut *state;
        state.hung_up = true;
        if state.life == Life::Open && !state.mailbox.is_scheduled() {
            self.begin_close(state, None, engine, &mut after);
            after.waiter = state.waiter.clone();
        }
        after
    }

    /// Receiving failed: reset, or worse.
    pub(crate) fn failed(&self, failure: Failure, engine: &dyn Engine) -> After<U> {
        let mut after = After::default();
        self.finalize(&mut self.state.lock(), Some(failure), engine, &mut after);
        after
    }

    /// A send failed; `sent` of its bytes had been written.
    pub(crate) fn send_failed(&self, failure: Failure, sent: usize, engine: &dyn Engine) -> After<U> {
        let mut after = After::default();
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.life == Life::Closed {
            return after;
        }
        self.failed_to_write(state, failure, sent, engine, &mut after);
        after
    }

    /// The engine has written the `bytes` of a pending send.
    pub(crate) fn sent(&self, bytes: usize, now: u64, engine: &dyn Engine) -> After<U> {
        let mut after = After::default();
        let mut state = self.state.lock();
        if state.life == Life::Closed {
            return after; // aborted meanwhile, and counted as dropped
        }
        state.active_at = now;
        if state.files.as_ref().is_some_and(|files| files.is_sending()) {
            self.sent_of_file(&mut state, bytes as u64, true, engine, &mut after);
        } else {
            self.wrote(&mut state, bytes, engine, &mut after);
        }
        after.waiter = state.waiter.clone();
        after
    }

    // ---- a worker: what the handler is called for ----

    /// The next event of a connection that came out of the ready queue, and what `with` makes of the public object; None if there is nothing left to tell.
    pub(crate) fn begin<R>(&self, engine: &dyn Engine, with: impl FnOnce(Option<&U::Connection>) -> R) -> (Option<(Event, R)>, After<U>) {
        let mut after = After::default();
        let mut state = self.state.lock();
        let state = &mut *state;
        loop {
            let event = match state.mailbox.take() {
                None => return (None, after),
                Some(Event::Received(bytes)) => {
                    self.uncount_inbox(state, messages::held(bytes.len()), engine);
                    state.traffic.messages += 1;
                    Event::Received(bytes)
                }
                Some(Event::Ended) => {
                    if state.life != Life::Open {
                        continue;
                    }
                    if !self.settings().wants.ended {
                        self.begin_close(state, None, engine, &mut after);
                        continue;
                    }
                    Event::Ended
                }
                Some(Event::Unreadable(failure)) => {
                    if state.life == Life::Open {
                        self.begin_close(state, Some(failure), engine, &mut after);
                    }
                    continue;
                }
                Some(Event::Sent(_)) => Event::Sent(std::mem::take(&mut state.sent_untold)),
                Some(event) => event,
            };
            let made = with(state.upper.as_ref());
            return (Some((event, made)), after);
        }
    }

    /// The handler is done; true in `schedule`: there is more.
    pub(crate) fn end(&self, engine: &dyn Engine) -> After<U> {
        let mut after = After::default();
        let mut state = self.state.lock();
        let state = &mut *state;
        after.schedule = state.mailbox.finish();
        if !after.schedule {
            if state.ended && (state.hung_up || state.write_end == WriteEnd::Done) && state.life == Life::Open {
                self.begin_close(state, None, engine, &mut after); // both directions have ended
            } else if self.group.draining.load(Ordering::Relaxed) && state.life == Life::Open {
                self.begin_close(state, None, engine, &mut after);
            }
            self.check_gone(state, &mut after);
        }
        after
    }

    /// Where to wait for room in the queue; None if there is room, or the connection has ended.
    pub fn room(&self, length: usize) -> Option<(Arc<Waiter>, u64)> {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.life != Life::Open || !self.is_full(state, length) {
            return None;
        }
        let waiter = state.waiter.get_or_insert_default().clone();
        let changes = waiter.changes();
        Some((waiter, changes))
    }

    // ---- anybody: sending and closing ----

    /// Queues bytes. `deferred`: they may wait for the end of the handler.
    pub(crate) fn queue(&self, bytes: Bytes<'_>, deferred: bool, engine: &dyn Engine) -> Queued {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.life != Life::Open || state.write_end != WriteEnd::Open {
            return Queued::Ended(state.failure.as_deref().cloned());
        }
        let length = bytes.len();
        if self.is_full(state, length) {
            return Queued::Full;
        }
        let outgoing = match &mut state.files {
            None => &mut state.outgoing,
            Some(files) => {
                files.count(length);
                files.last()
            }
        };
        match bytes {
            Bytes::Copy(bytes) => outgoing.push_copy(bytes),
            Bytes::Shared(bytes) => outgoing.push_shared(bytes),
        }
        self.settle(state);
        if state.outbox_bytes() > self.settings().send_limit / 2 {
            self.pause_for(state, pause::OUTBOX, engine);
        }
        if state.sending || state.files.is_some() {
            return Queued::Later { first: false }; // the pending send's completion goes on with it, or the end of the file before it
        }
        if deferred && state.outgoing.len() < WRITE_AT_ONCE {
            return Queued::Later { first: !std::mem::replace(&mut state.dirty, true) };
        }
        Queued::Flush
    }

    /// Writes what is queued, if nobody writes already. Call it with the interpreter released, or for little.
    pub(crate) fn write(&self, engine: &dyn Engine) -> After<U> {
        let mut after = After::default();
        let mut guard = self.state.lock();
        guard.dirty = false;
        loop {
            let state = &mut *guard;
            if state.sending || state.outgoing.is_empty() {
                return after;
            }
            let Some(handle) = &state.handle else { return after };
            let outgoing = std::mem::take(&mut state.outgoing);
            state.in_flight = outgoing.len();
            state.sending = true;
            if outgoing.is_small_copy() {
                // As mostly. It does not block, and takes no longer than to let go of the lock and to take it again.
                let submission = engine.send(handle, outgoing);
                self.submitted(state, submission, engine, &mut after);
                return after;
            }
            let handle = handle.clone();
            state.in_call = true;
            drop(guard);
            let submission = engine.send(&handle, outgoing);
            guard = self.state.lock();
            guard.in_call = false;
            if guard.life == Life::Closed {
                // Aborted meanwhile, and counted as dropped.
                let taken = taken_by(&submission, &handle, engine) as u64;
                guard.traffic.sent += taken;
                guard.traffic.dropped -= taken;
                self.group.count_late(taken, true);
                return after;
            }
            self.submitted(&mut guard, submission, engine, &mut after);
        }
    }

    /// Everything queued is sent, then it closes. What came and was not handled yet is dropped if the user asks (`discard`).
    pub(crate) fn close(&self, failure: Option<Failure>, discard: bool, engine: &dyn Engine) -> After<U> {
        let mut after = After::default();
        let mut state = self.state.lock();
        let state = &mut *state;
        if discard {
            // Whatever its life: of a connection that was reset, or that drains, thousands of messages may still wait for a handler that has had enough.
            self.discard_messages(state, &mut after);
        }
        if state.life == Life::Open {
            self.begin_close(state, failure, engine, &mut after);
        }
        after.waiter = state.waiter.clone();
        after
    }

    /// Ends it now: what is queued is dropped and counted.
    pub(crate) fn abort(&self, failure: Failure, engine: &dyn Engine) -> After<U> {
        let mut after = After::default();
        let mut state = self.state.lock();
        let state = &mut *state;
        self.discard_messages(state, &mut after);
        self.finalize(state, Some(failure), engine, &mut after);
        after
    }

    /// The handle could not be associated: no handler is told of the connection, and its socket is left as it is. None: somebody has ended it
    /// meanwhile. Call it before the connection is given to a worker.
    pub(crate) fn never_was(&self, failure: Failure, engine: &dyn Engine) -> Option<After<U>> {
        let mut after = After::default();
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.life == Life::Closed {
            return None;
        }
        self.forget(state, failure, engine, &mut after);
        Some(after)
    }

    /// A server drains: idle connections close now, the others when their handlers are through.
    pub(crate) fn drain(&self, engine: &dyn Engine) -> After<U> {
        let mut after = After::default();
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.life == Life::Open {
            self.pause_for(state, pause::CLOSING, engine);
            if !state.mailbox.is_scheduled() {
                self.begin_close(state, None, engine, &mut after);
            }
        }
        after.waiter = state.waiter.clone();
        after
    }

    pub(crate) fn shutdown_write(&self, engine: &dyn Engine) -> (Result<(), Option<Failure>>, After<U>) {
        let mut after = After::default();
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.life != Life::Open {
            return (Err(state.failure.as_deref().cloned()), after);
        }
        if state.write_end == WriteEnd::Open {
            state.write_end = WriteEnd::Wanted;
            after.flush = true;
            self.end_if_flushed(state, engine, &mut after);
        }
        (Ok(()), after)
    }

    pub(crate) fn pause(&self, reason: u8, engine: &dyn Engine) {
        self.pause_for(&mut self.state.lock(), reason, engine);
    }

    pub(crate) fn resume(&self, reason: u8, engine: &dyn Engine) {
        self.resume_for(&mut self.state.lock(), reason, engine);
    }

    /// There is room in the group's queues again.
    pub(crate) fn release_hold(&self, engine: &dyn Engine) {
        let mut state = self.state.lock();
        state.held = false;
        self.resume_for(&mut state, pause::TOTAL, engine);
    }

    /// The idle timer came: None if the connection is over, else how long it has been idle. A busy handler is not idle.
    pub(crate) fn idle_for(&self, now: u64, engine: &dyn Engine) -> Option<u64> {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.life != Life::Open {
            return None;
        }
        if state.mailbox.is_scheduled() {
            state.active_at = now;
        }
        if state.sending
            && let Some(handle) = &state.handle
        {
            let taken = engine.progress(handle);
            if taken != std::mem::replace(&mut state.taken_then, taken) {
                state.active_at = now; // a peer that reads slowly is not idle
            }
        }
        Some(now.saturating_sub(state.active_at))
    }
}
