//! The system calls, each with its errors as values. (Windows: `system_windows.rs`)

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Access, Action, Cached, File, Request};

pub type Descriptor = OwnedFd;
pub type RawDescriptor = RawFd;

/// What there is to know of an open file.
pub(super) struct Nature {
    /// The file system cannot tell what is in memory.
    waits: AtomicBool,
}

impl Nature {
    pub(super) fn of(_descriptor: &Descriptor, direct: bool) -> Self {
        Nature { waits: AtomicBool::new(direct) }
    }

    /// Calls at offsets neither use nor move it.
    pub(super) fn has_no_position(&self) -> bool {
        true
    }
}

pub(super) fn raw(descriptor: &Descriptor) -> RawDescriptor {
    descriptor.as_raw_fd()
}

pub(super) fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

pub(super) fn close(descriptor: RawFd) {
    // SAFETY: the caller's descriptor, which nobody uses any more.
    unsafe { libc::close(descriptor) };
}

/// The same open file once more: fcntl(2), F_DUPFD_CLOEXEC and F_GETFL, which tells whether it bypasses the page cache.
pub(super) fn duplicate(descriptor: RawFd, _direct: bool) -> io::Result<(OwnedFd, Access)> {
    // SAFETY: no pointers are passed.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFL) };
    // SAFETY: as above.
    let copy = if flags < 0 { -1 } else { unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 0) } };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    let mode = flags & libc::O_ACCMODE;
    let access = Access { readable: mode != libc::O_WRONLY, writable: mode != libc::O_RDONLY, direct: flags & libc::O_DIRECT != 0 };
    // SAFETY: it is new, so it is nobody else's.
    Ok((unsafe { OwnedFd::from_raw_fd(copy) }, access))
}

/// A counter to sleep on: eventfd(2).
pub(super) fn event() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is new, so it is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

pub(super) fn raise(event: &Descriptor) {
    let one = 1u64;
    // SAFETY: eight bytes are read from `one`. It fails only if it is raised already, as high as it gets.
    unsafe { libc::write(event.as_raw_fd(), (&raw const one).cast(), 8) };
}

pub(super) fn lower(event: RawFd) {
    let mut count = 0u64;
    // SAFETY: eight bytes are written to `count`. EAGAIN: it was not raised.
    unsafe { libc::read(event, (&raw mut count).cast(), 8) };
}

/// The ring does everything.
pub(super) fn blocks(_request: &Request, _owner: &Descriptor, _engine: u64) -> bool {
    false
}

/// Waits at most so many milliseconds until the descriptor is readable.
pub(super) fn wait_readable(descriptor: RawFd, milliseconds: i32) {
    let mut entry = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives until the call returns. Whatever it answers, the caller looks for itself.
    unsafe { libc::poll(&mut entry, 1, milliseconds) };
}

/// One system call for what is left of the request: bytes, or a negative error number.
pub(super) fn transfer(request: &Request) -> i64 {
    let descriptor = request.file.descriptor();
    let (start, length, offset) = request.rest();
    let Ok(offset) = i64::try_from(offset) else { return -i64::from(libc::EINVAL) };
    // SAFETY: the request owns its memory, which is writable (a read) or readable (a write) for `length` bytes.
    let result = unsafe {
        match request.action {
            Action::Read => libc::pread64(descriptor, start.cast(), length, offset) as i64,
            Action::Write => libc::pwrite64(descriptor, start.cast(), length, offset) as i64,
            Action::Sync { data_only: false } => libc::fsync(descriptor).into(),
            Action::Sync { data_only: true } => libc::fdatasync(descriptor).into(),
        }
    };
    if result < 0 { -i64::from(errno()) } else { result }
}

/// Reads once at an offset: pread(2).
pub(super) fn read_at(descriptor: RawFd, memory: &mut [u8], offset: u64) -> io::Result<usize> {
    let offset = i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    loop {
        // SAFETY: `memory` is writable for its whole length.
        let count = unsafe { libc::pread64(descriptor, memory.as_mut_ptr().cast(), memory.len(), offset) };
        if count >= 0 {
            return Ok(count as usize);
        }
        if errno() != libc::EINTR {
            return Err(io::Error::last_os_error());
        }
    }
}

pub(super) fn sync(descriptor: RawFd, data_only: bool) -> Result<(), i32> {
    loop {
        // SAFETY: no pointers are passed.
        let result = unsafe { if data_only { libc::fdatasync(descriptor) } else { libc::fsync(descriptor) } };
        match result {
            0 => return Ok(()),
            _ if errno() == libc::EINTR => {}
            _ => return Err(errno()),
        }
    }
}

impl File {
    /// Reads what is in memory, without waiting for the disk: preadv2(2), RWF_NOWAIT.
    ///
    /// # Safety
    /// `start` is writable for `length` bytes.
    pub unsafe fn read_cached(&self, start: *mut u8, length: usize, offset: u64) -> Cached {
        let mut done = 0;
        while done < length && !self.nature.waits.load(Ordering::Relaxed) {
            let part = libc::iovec { iov_base: start.wrapping_add(done).cast(), iov_len: length - done };
            let Ok(at) = i64::try_from(offset + done as u64) else { break };
            // SAFETY: the caller's promise; `part` lies within the memory.
            let result = unsafe { libc::preadv2(self.descriptor(), &raw const part, 1, at, libc::RWF_NOWAIT) };
            match result {
                0 => return Cached::Whole(done),
                1.. => done += result as usize,
                _ => {
                    if matches!(errno(), libc::EOPNOTSUPP | libc::ENOSYS | libc::EPERM) {
                        self.nature.waits.store(true, Ordering::Relaxed);
                    }
                    break;
                }
            }
        }
        if done == length { Cached::Whole(done) } else { Cached::Part(done) }
    }
}
