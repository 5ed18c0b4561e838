//! The system calls on Windows, each with its errors as values: Win32's numbers, negative. Reads and writes at offsets, which wait; overlapped ones are the engine's.

use std::io;
use std::mem::ManuallyDrop;
use std::os::windows::fs::FileExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle, RawHandle};
use std::sync::atomic::Ordering;

use windows_sys::Win32::Foundation::{CloseHandle, ERROR_HANDLE_EOF};

use super::{Access, Action, Cached, File, Request};
use crate::numbers::{EINVAL, EIO};

pub type Descriptor = OwnedHandle;
pub type RawDescriptor = RawHandle;

pub(super) fn raw(descriptor: &Descriptor) -> RawDescriptor {
    descriptor.as_raw_handle()
}

pub(super) fn close(descriptor: RawDescriptor) {
    // SAFETY: the caller's handle, which nobody uses any more.
    unsafe { CloseHandle(descriptor) };
}

/// Files on ports come with overlapped files.
pub(super) fn duplicate(_descriptor: RawDescriptor) -> io::Result<(Descriptor, Access)> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "files cannot be associated on Windows yet: read and write them with proactor.open"))
}

/// There is no ring to wake.
pub(super) fn raise(_event: &Descriptor) {}

/// One system call for what is left of the request: bytes, or a negative error number. The file's position moves, which nobody here relies on.
pub(super) fn transfer(request: &Request) -> i64 {
    let (start, length, offset) = request.rest();
    if i64::try_from(offset).is_err() {
        return -i64::from(EINVAL);
    }
    let file = borrowed(request.file.descriptor());
    let result = match request.action {
        // SAFETY: the request owns its memory, which is writable for `length` bytes and which nobody else reads meanwhile.
        Action::Read => file.seek_read(unsafe { std::slice::from_raw_parts_mut(start, length) }, offset),
        // SAFETY: the request owns its memory, which is readable for `length` bytes.
        Action::Write => file.seek_write(unsafe { std::slice::from_raw_parts(start, length) }, offset),
        Action::Sync { data_only } => return sync(request.file.descriptor(), data_only).map_or_else(|number| -i64::from(number), |()| 0),
    };
    match result {
        Ok(count) => count as i64,
        Err(error) if error.raw_os_error() == Some(ERROR_HANDLE_EOF as i32) => 0,
        Err(error) => -i64::from(number(&error)),
    }
}

/// Reads once at an offset. The file's position moves.
pub(super) fn read_at(descriptor: RawDescriptor, memory: &mut [u8], offset: u64) -> io::Result<usize> {
    match borrowed(descriptor).seek_read(memory, offset) {
        Err(error) if error.raw_os_error() == Some(ERROR_HANDLE_EOF as i32) => Ok(0),
        result => result,
    }
}

/// FlushFileBuffers, which knows no difference.
pub(super) fn sync(descriptor: RawDescriptor, _data_only: bool) -> Result<(), i32> {
    borrowed(descriptor).sync_all().map_err(|error| number(&error))
}

impl File {
    /// Windows does not tell what is in memory, so nothing is read without waiting.
    ///
    /// # Safety
    /// `start` is writable for `length` bytes.
    pub unsafe fn read_cached(&self, _start: *mut u8, length: usize, _offset: u64) -> Cached {
        self.waits.store(true, Ordering::Relaxed);
        if length == 0 { Cached::Whole(0) } else { Cached::Part(0) }
    }
}

/// The file's handle as std's file, which does not close it.
fn borrowed(descriptor: RawDescriptor) -> ManuallyDrop<std::fs::File> {
    // SAFETY: the file owns the handle, and outlives the call that uses this; it is never dropped, so nothing is closed twice.
    ManuallyDrop::new(unsafe { std::fs::File::from_raw_handle(descriptor) })
}

fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(EIO)
}
