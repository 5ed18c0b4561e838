//! The engine's state of a listener and of a stream, sending, which is the caller's own work until the socket is full, and closing.

use super::*;

pub(super) struct Listener {
    pub(super) unix: bool,
    /// `ACCEPTING`, `COUNTED`, `NO_DELAY`, `KEEP_ALIVE`, `OLD_BACKLOG`, `CLOSED`.
    pub(super) flags: AtomicU32,
    /// Where accepts are `COUNTED`: how many are still to be made. Set under `armed`; only `poll` counts down.
    pub(super) left: AtomicUsize,
    /// Guards whether the listener is in the epoll set.
    pub(super) armed: Mutex<bool>,
}

/// The engine's state of a connection or of a datagram socket; small, since there are many idle ones.
#[derive(Default)]
pub(super) struct Stream {
    pub(super) readiness: Readiness,
    /// The error that ended the connection, once somebody has taken it from the socket (which tells it only once); else 0.
    pub(super) error: AtomicI32,
    /// Guards the rest of a blocked send, and an attempt to connect.
    pub(super) unsent: Mutex<Option<Box<Unsent>>>,
    /// Of the last blocked send that is over: how many bytes the kernel took. Set under `unsent`.
    pub(super) taken: AtomicUsize,
}

pub(super) struct Unsent {
    pub(super) data: Outgoing,
    pub(super) sent: usize,
    /// Where a datagram goes, if not to the socket's peer.
    pub(super) address: Option<Address>,
}

impl Stream {
    pub(super) fn send(&self, descriptor: c_int, mut data: Outgoing) -> Submission {
        let flags = self.readiness.flags();
        debug_assert!(flags & (WRITE_BLOCKED | CLOSED) != WRITE_BLOCKED, "one send at a time may be pending on a handle");
        let mut sent = 0;
        let blocked = if flags & CLOSED != 0 {
            Err(libc::EPIPE)
        } else if flags & WRITE_BLOCKED != 0 {
            Err(libc::EALREADY)
        } else {
            transmit(descriptor, &mut data, &mut sent)
        };
        match blocked {
            Ok(false) => Submission::Done { bytes: sent },
            Ok(true) => self.send_later(descriptor, Unsent { data, sent, address: None }),
            Err(number) => Submission::Failed { error: self.remember(number), sent, unsent: data.len() },
        }
    }

    /// Leaves the rest of a send to `poll`, unless there is room by now.
    pub(super) fn send_later(&self, descriptor: c_int, mut rest: Unsent) -> Submission {
        let mut unsent = self.unsent.lock();
        let flags = self.readiness.set(WRITE_BLOCKED);
        let result = if flags & CLOSED != 0 { Err(libc::EPIPE) } else { transmit(descriptor, &mut rest.data, &mut rest.sent) };
        if let Ok(true) = result {
            *unsent = Some(Box::new(rest));
            return Submission::Pending;
        }
        self.readiness.clear(WRITE_BLOCKED);
        drop(unsent);
        match result {
            Ok(_) => Submission::Done { bytes: rest.sent },
            Err(number) => Submission::Failed { error: self.remember(number), sent: rest.sent, unsent: rest.data.len() },
        }
    }

    /// After an edge: goes on with what is pending; the outcome if it is over. Only `poll`.
    #[cold]
    pub(super) fn go_on(&self, descriptor: c_int, flags: u32) -> Option<Outcome> {
        if flags & CONNECTING != 0 { self.conclude_connect(descriptor) } else { self.continue_send(descriptor) }
    }

    /// Goes on with a blocked send; the outcome if it is over.
    pub(super) fn continue_send(&self, descriptor: c_int) -> Option<Outcome> {
        let mut unsent = self.unsent.lock();
        let rest = unsent.as_mut()?;
        let result = transmit(descriptor, &mut rest.data, &mut rest.sent);
        if let Ok(true) = result {
            return None;
        }
        let (sent, left) = (rest.sent, rest.data.len());
        self.taken.store(sent, Ordering::Relaxed);
        // The memory first: whoever finds nothing here to give up may tell its owner that it is his again.
        *unsent = None;
        self.readiness.clear(WRITE_BLOCKED);
        drop(unsent);
        Some(match result {
            Ok(_) => Outcome::Sent { bytes: sent },
            Err(number) => Outcome::SendFailed { error: self.remember(number), sent, unsent: left },
        })
    }

    /// Gives up a blocked send; how much of it was sent, if it was there.
    pub(super) fn cancel_send(&self) -> Option<usize> {
        let mut unsent = self.unsent.lock();
        let rest = unsent.take()?;
        self.readiness.clear(WRITE_BLOCKED);
        drop(unsent);
        Some(rest.sent)
    }

    /// The error of a failed send. The socket tells its error once, whoever asks, and says "broken pipe" afterwards: so it is kept for the receiver,
    /// and what somebody else was told before is preferred.
    pub(super) fn remember(&self, number: c_int) -> io::Error {
        let number = match number {
            libc::EPIPE => match self.error.load(Ordering::Acquire) {
                0 => number,
                first => first,
            },
            _ => {
                self.error.store(number, Ordering::Release);
                number
            }
        };
        io::Error::from_raw_os_error(number)
    }

    /// Takes the socket's error, if it has one, and keeps it.
    pub(super) fn take_error(&self, descriptor: c_int) -> bool {
        let number = match get_option(descriptor, libc::SO_ERROR) {
            Ok(0) | Err(_) => return false,
            // A reset that follows the peer's end.
            Ok(libc::EPIPE) => libc::ECONNRESET,
            Ok(number) => number,
        };
        self.error.store(number, Ordering::Release);
        true
    }

    /// Notes what an event tells besides readiness; answers the flags before.
    pub(super) fn note(&self, descriptor: c_int, kind: Kind, events: u32) -> u32 {
        let mut seen = 0;
        if events & HANG_UP != 0 {
            seen |= HUNG_UP;
        }
        if events & URGENT != 0 {
            seen |= MARKED;
        }
        if events & ERROR != 0 && self.readiness.flags() & UNLINKED == 0 && self.take_error(descriptor) {
            seen |= FAILED;
        }
        // A TCP socket hangs up when both sides have ended, or at a reset, which is told anyway. A Unix socket's peer can be seen to have closed.
        if events & libc::EPOLLHUP as u32 != 0 && kind == Kind::Unix && self.readiness.flags() & WRITE_SHUT == 0 {
            seen |= GONE;
        }
        if seen != 0 { self.readiness.set(seen) } else { self.readiness.flags() }
    }

    /// After the end, once: that the peer receives nothing either. Only `poll`.
    pub(super) fn hung_up(&self) -> Option<Outcome> {
        if self.readiness.flags() & (GONE | END_TOLD | CLOSED) != GONE | END_TOLD {
            return None;
        }
        self.readiness.clear(END_TOLD);
        Some(Outcome::HungUp)
    }

    /// Tells an end (0) from an error, where a receive has brought `number` (0: an end). A sender may have taken the error away a moment ago, and then the
    /// socket shows an end. But the peer's end alone leaves our side open, and an error closes both.
    pub(super) fn end_or_error(&self, descriptor: c_int, kind: Kind, number: c_int) -> c_int {
        let taken = self.error.load(Ordering::Acquire);
        match number {
            0 if taken == 0 && kind == Kind::Tcp && hung_up(descriptor) && self.readiness.flags() & WRITE_SHUT == 0 => libc::ECONNRESET,
            0 | libc::EAGAIN | libc::EPIPE if taken != 0 => taken,
            number => {
                if number != 0 {
                    self.error.store(number, Ordering::Release);
                }
                number
            }
        }
    }
}

impl Epoll {
    pub(super) fn close_listener(&self, handle: &Handle) {
        let listener: &Listener = handle.state();
        listener.flags.fetch_or(CLOSED, Ordering::AcqRel);
        self.pause_accepts(handle);
        // Others may still hold the handle, but clients must be refused from now on. shutdown(2) would also stop the other processes of a pre-forking server.
        if !self.let_go(handle) {
            shutdown(descriptor_of(handle), libc::SHUT_RDWR).ok();
        }
    }

    /// Makes the number name something harmless, which is closed with the handle: the socket itself, and its address, are free at once. False if it cannot be.
    pub(super) fn let_go(&self, handle: &Handle) -> bool {
        self.using().is_some_and(|_using| {
            // SAFETY: no pointers are passed; both numbers belong to this engine, and are kept open meanwhile.
            unsafe { libc::dup3(self.interrupter.load(Ordering::Relaxed), descriptor_of(handle), libc::O_CLOEXEC) >= 0 }
        })
    }

    pub(super) fn close_stream(&self, handle: &Handle, how: Closing) {
        let stream: &Stream = handle.state();
        let flags = stream.readiness.set(CLOSED | WRITE_SHUT);
        if flags & CLOSED != 0 {
            return;
        }
        let unsent = {
            let mut unsent = stream.unsent.lock();
            stream.readiness.clear(CONNECTING);
            if let Some(unsent) = &*unsent {
                stream.taken.store(unsent.sent, Ordering::Relaxed);
            }
            unsent.take()
        };
        let descriptor = descriptor_of(handle);
        if how == Closing::Abort && handle.kind() == Kind::Tcp {
            // The reset must not wait for the last reference to the handle, and dissolving the association sends it at once.
            let _ = set_linger(descriptor, 0);
            disconnect(descriptor);
        } else if flags & OVER != 0 && unsent.is_none() && handle.references() <= LAST_REFERENCES {
            // Both sides are done, and nobody else holds it: the close that follows at once says it all.
        } else {
            // Blocked peers see it now, whoever still holds the handle, or a copy of the descriptor.
            shutdown(descriptor, libc::SHUT_RDWR).ok();
            if how == Closing::Orderly && flags & OVER == 0 {
                // A TCP socket that is closed with unread bytes sends a reset, which would destroy what is still on its way to the peer.
                discard(descriptor);
            }
        }
        drop(unsent);
    }
}

pub(super) fn wants_receive(flags: u32) -> bool {
    flags & (RECEIVING | READABLE | OVER | CLOSED) == RECEIVING | READABLE
}

/// Sends until everything is taken (false) or the socket is full (true). An error is an error number.
pub(super) fn transmit(descriptor: c_int, data: &mut Outgoing, sent: &mut usize) -> Result<bool, c_int> {
    while !data.is_empty() {
        let (asked, result) = match data.single() {
            Some(bytes) => (bytes.len(), send(descriptor, bytes)),
            None => {
                let mut slices = [IoSlice::new(&[]); SLICES_A_SEND];
                let count = data.slices(&mut slices);
                let slices = &slices[..count];
                (slices.iter().map(|slice| slice.len()).sum(), send_gathered(descriptor, slices))
            }
        };
        match result {
            Ok(count) => {
                data.advance(count);
                *sent += count;
                if count < asked {
                    return Ok(true);
                }
            }
            Err(libc::EAGAIN) => return Ok(true),
            Err(libc::EINTR) => {}
            Err(number) => return Err(number),
        }
    }
    Ok(false)
}

/// Whether an error of accept(2) concerns one connection only, so that the next may fare better. accept(2): "Linux accept() passes already-pending network errors on the new socket as an
/// error code"; a firewall's EPERM as well. Everything else lasts, or is unknown and must not make the listener spin.
pub(super) fn concerns_one_connection(number: c_int) -> bool {
    matches!(
        number,
        libc::ECONNABORTED
            | libc::EINTR
            | libc::EPERM
            | libc::EPROTO
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::EOPNOTSUPP
            | libc::ENETUNREACH
            | libc::ETIMEDOUT
            | libc::ECONNRESET
    )
}
