//! Waits: a copy of a descriptor, in the epoll set for one event at a time. Knows nothing of who waits, or for how long.
//!
//! epoll(7) keeps a descriptor in the set until every copy of it is closed, so closing ours takes it out first; and while we hold ours the owner's close does not
//! take it out. `EPOLLONESHOT` disarms it with the event, and `EPOLL_CTL_MOD` arms it again and tells at once what is ready already (epoll_ctl(2)).

use super::*;

/// The engine's state of a watched handle.
#[derive(Default)]
struct Watched {
    /// Guards whether it is in the epoll set, and so the order of the calls that change that.
    state: Mutex<Watching>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Watching {
    #[default]
    NotYet,
    InSet,
    Closed,
}

pub(super) fn watch(descriptor: i64) -> io::Result<Handle> {
    let descriptor = c_int::try_from(descriptor).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: no pointers are passed.
    let copy = check(unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 0) })?;
    Ok(Handle::new(own(copy).into(), Kind::Watched, Box::new(Watched::default()), release))
}

/// Whether the descriptor is ready at this moment.
pub(super) fn is_ready(handle: &Handle, interest: Interest) -> bool {
    let mut entry = libc::pollfd { fd: descriptor_of(handle), events: events_of(interest) as i16, revents: 0 };
    // SAFETY: one entry, which lives until the call returns.
    unsafe { libc::poll(&mut entry, 1, 0) == 1 }
}

impl Epoll {
    pub(super) fn begin_wait(&self, handle: &Handle, interest: Interest) -> io::Result<()> {
        let Some(token) = handle.token() else { return Err(io::Error::from_raw_os_error(libc::EINVAL)) };
        let mut state = handle.state::<Watched>().state.lock();
        let operation = match *state {
            Watching::NotYet => libc::EPOLL_CTL_ADD,
            Watching::InSet => libc::EPOLL_CTL_MOD,
            Watching::Closed => return Err(io::Error::from_raw_os_error(libc::EBADF)),
        };
        match self.control(operation, descriptor_of(handle), events_of(interest) | libc::EPOLLONESHOT, token.to_bits()) {
            Ok(()) => {
                *state = Watching::InSet;
                Ok(())
            }
            // epoll_ctl(2): "the target file fd does not support epoll. This error can occur if fd refers to, for example, a regular file or a directory."
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a file or directory cannot be waited for, it is always ready: read it in a call of its own (submit), or wait for a pipe, a socket, an eventfd or a process",
            )),
            Err(error) => Err(error),
        }
    }

    pub(super) fn stop_watching(&self, handle: &Handle) {
        let mut state = handle.state::<Watched>().state.lock();
        if std::mem::replace(&mut *state, Watching::Closed) == Watching::InSet {
            // It can only fail where the whole set is gone.
            let _ = self.control(libc::EPOLL_CTL_DEL, descriptor_of(handle), 0, 0);
        }
    }
}

/// The flags of epoll(7); those of poll(2) are the same. Hang-ups and errors are always told.
fn events_of(interest: Interest) -> c_int {
    match interest {
        Interest::Readable => libc::EPOLLIN,
        Interest::Writable => libc::EPOLLOUT,
    }
}
