//! epoll, level-triggered: a set of descriptors, each with a token.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::sockets::check;

pub const READABLE: u32 = libc::EPOLLIN as u32;
pub const WRITABLE: u32 = libc::EPOLLOUT as u32;

pub struct Epoll {
    descriptor: OwnedFd,
    events: Vec<libc::epoll_event>,
    ready: usize,
}

impl Epoll {
    pub fn new(events_at_once: usize) -> io::Result<Self> {
        // SAFETY: epoll_create1() takes no pointers.
        let descriptor = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor was just made and nobody else owns it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self { descriptor, events: vec![libc::epoll_event { events: 0, u64: 0 }; events_at_once], ready: 0 })
    }

    pub fn add(&self, handle: &impl AsRawFd, token: usize, interest: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, handle, token, interest)
    }

    pub fn modify(&self, handle: &impl AsRawFd, token: usize, interest: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, handle, token, interest)
    }

    /// Waits until something is ready, at most `timeout` (rounded up to whole milliseconds; `None`: for ever). Answers how many are.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let milliseconds = timeout.map_or(-1, |timeout| timeout.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32);
        // SAFETY: the pointer and the length describe the events array, which outlives the call.
        let result =
            unsafe { libc::epoll_wait(self.descriptor.as_raw_fd(), self.events.as_mut_ptr(), self.events.len() as i32, milliseconds) };
        self.ready = match check(result) {
            Ok(ready) => ready as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        Ok(self.ready)
    }

    /// Token and readiness of one of the events the last `wait` found.
    pub fn event(&self, index: usize) -> (usize, u32) {
        let event = self.events[..self.ready][index];
        (event.u64 as usize, event.events)
    }

    fn control(&self, action: i32, handle: &impl AsRawFd, token: usize, interest: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest, u64: token as u64 };
        // SAFETY: the pointer describes one event that outlives the call.
        check(unsafe { libc::epoll_ctl(self.descriptor.as_raw_fd(), action, handle.as_raw_fd(), &raw mut event) })?;
        Ok(())
    }
}
