//! Accepting: the listener is in the epoll set, level-triggered, for as long as accepts are wanted. Knows nothing of who wants them.

use super::*;

impl Epoll {
    pub(super) fn accept_ready(&self, handle: &Handle, token: Token, completions: &mut Vec<Completion>) {
        let listener: &Listener = handle.state();
        let kind = if listener.unix { Kind::Unix } else { Kind::Tcp };
        for _ in 0..ACCEPTS_A_POLL {
            let flags = listener.flags.load(Ordering::Acquire);
            if flags & ACCEPTING == 0 {
                return;
            }
            if flags & COUNTED != 0 && listener.left.load(Ordering::Acquire) == 0 {
                return self.pause_when_counted_out(handle);
            }
            let outcome = match accept(descriptor_of(handle)) {
                Ok((descriptor, peer)) => {
                    if kind == Kind::Tcp && flags & OLD_BACKLOG != 0 {
                        // A failure means that the connection is gone already, which its first receive will tell.
                        let _ = set_options(descriptor, flags & NO_DELAY != 0, flags & KEEP_ALIVE != 0);
                    }
                    let handle = Handle::new(own(descriptor).into(), kind, Box::new(Stream::default()), release);
                    Outcome::Accepted { handle, peer }
                }
                Err(libc::EAGAIN) => {
                    listener.flags.fetch_and(!OLD_BACKLOG, Ordering::AcqRel);
                    return;
                }
                // Closed or paused by another thread meanwhile.
                Err(_) if listener.flags.load(Ordering::Acquire) & ACCEPTING == 0 => return,
                Err(number) => {
                    let pause = !concerns_one_connection(number);
                    if pause {
                        // The listener would be reported again and again, and every accept would fail.
                        self.pause_accepts(handle);
                    }
                    Outcome::AcceptFailed { error: io::Error::from_raw_os_error(number), pause }
                }
            };
            if flags & COUNTED != 0 {
                // Not before it is made: a count that was set meanwhile counts this one, which its caller does not know of yet.
                let _ = listener.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
            }
            completions.push(Completion { token, outcome });
        }
    }

    pub(super) fn begin_accepts(&self, handle: &Handle, options: &SocketOptions) -> io::Result<()> {
        let listener: &Listener = handle.state();
        let mut armed = listener.armed.lock();
        if !listener.unix {
            // Accepted sockets inherit both (Linux: tcp_create_openreq_child, sk_clone), which spares two system calls a connection.
            set_options(descriptor_of(handle), options.no_delay, options.keep_alive)?;
        }
        let mut flags = ACCEPTING | OLD_BACKLOG;
        flags |= if options.no_delay { NO_DELAY } else { 0 };
        flags |= if options.keep_alive { KEEP_ALIVE } else { 0 };
        listener.flags.fetch_and(!(NO_DELAY | KEEP_ALIVE | COUNTED), Ordering::AcqRel);
        self.arm(handle, flags, &mut armed)
    }

    /// As many as `count`, which is at least one; see `Engine::accept_some`.
    pub(super) fn begin_counted_accepts(&self, handle: &Handle, count: usize) -> io::Result<()> {
        let listener: &Listener = handle.state();
        let mut armed = listener.armed.lock();
        listener.left.store(count, Ordering::Release);
        self.arm(handle, ACCEPTING | COUNTED, &mut armed)
    }

    fn arm(&self, handle: &Handle, flags: u32, armed: &mut bool) -> io::Result<()> {
        let Some(token) = handle.token() else { return Err(io::Error::from_raw_os_error(libc::EINVAL)) };
        let listener: &Listener = handle.state();
        if listener.flags.fetch_or(flags, Ordering::AcqRel) & CLOSED != 0 {
            listener.flags.fetch_and(!ACCEPTING, Ordering::AcqRel);
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        if !*armed {
            // Level-triggered: what a poll leaves in the backlog is told again.
            if let Err(error) = self.control(libc::EPOLL_CTL_ADD, descriptor_of(handle), libc::EPOLLIN, token.to_bits()) {
                listener.flags.fetch_and(!ACCEPTING, Ordering::AcqRel);
                return Err(error);
            }
            *armed = true;
        }
        Ok(())
    }

    pub(super) fn pause_accepts(&self, handle: &Handle) {
        let listener: &Listener = handle.state();
        self.disarm(handle, &mut listener.armed.lock());
    }

    /// Unless a new count was set meanwhile.
    fn pause_when_counted_out(&self, handle: &Handle) {
        let listener: &Listener = handle.state();
        let mut armed = listener.armed.lock();
        if listener.left.load(Ordering::Acquire) == 0 {
            self.disarm(handle, &mut armed);
        }
    }

    fn disarm(&self, handle: &Handle, armed: &mut bool) {
        let listener: &Listener = handle.state();
        listener.flags.fetch_and(!ACCEPTING, Ordering::AcqRel);
        if mem::take(armed) {
            // Taken out, not only disarmed: errors and hang-ups are told of every descriptor that is in, and a listener that somebody shut down would spin.
            let _ = self.control(libc::EPOLL_CTL_DEL, descriptor_of(handle), 0, 0);
        }
    }
}
