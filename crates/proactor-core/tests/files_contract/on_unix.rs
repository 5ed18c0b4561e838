//! What the suite needs of Unix.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use proactor_core::files::File;

/// EBADF, of a file that is open for writing only.
pub const NOT_READABLE: i32 = 9;
/// A mechanism that is not of this platform, and whose it is.
pub const ELSEWHERE: (&str, &str) = ("overlapped", "Windows");

pub fn opened(file: &std::fs::File) -> Arc<File> {
    File::duplicate(file.as_raw_fd()).unwrap().0
}

/// Every file is.
pub fn make_sparse(_file: &std::fs::File) {}
