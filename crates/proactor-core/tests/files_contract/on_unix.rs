//! What the suite needs of Unix.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use proactor_core::files::File;

/// EBADF, of a file that is open for writing only.
pub const NOT_READABLE: i32 = 9;
/// A mechanism that is not of this platform, and whose it is.
pub const ELSEWHERE: (&str, &str) = ("overlapped", "Windows");

pub fn opened(file: &std::fs::File) -> Arc<File> {
    File::duplicate(file.as_raw_fd()).unwrap().0
}

/// Why this process may have no ring, asked of the kernel itself: io_uring_setup(2). Panics where that fails otherwise than by a refusal.
pub fn refusal() -> Option<std::io::Error> {
    let mut parameters = [0u8; 120];
    // SAFETY: the parameters are as large as struct io_uring_params.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
    if ring < 0 {
        let error = std::io::Error::last_os_error();
        let refusals = [Some(libc::ENOSYS), Some(libc::EPERM), Some(libc::ENOMEM)];
        assert!(refusals.contains(&error.raw_os_error()), "io_uring_setup: {error}");
        return Some(error);
    }
    // SAFETY: the descriptor is new, so it is nobody else's.
    drop(unsafe { OwnedFd::from_raw_fd(ring as i32) });
    None
}

/// Every file is.
pub fn make_sparse(_file: &std::fs::File) {}
