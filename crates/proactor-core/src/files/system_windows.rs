//! The system calls on Windows, each with its errors as values: Win32's numbers, negative. Those that wait; `overlapped.rs` has those that do not.
//!
//! # Handles
//! A file is read and written by a handle of the library's own, made from whatever opened the file (`reopen`): overlapped, because a handle that is not does one request at a time, whoever
//! asks, and because only such a one completes on a port. Of a pipe, a console, or a file that nobody may open a second time there is a copy of the handle only; threads read and write it.

use std::cell::OnceCell;
use std::io;
use std::mem;
use std::os::windows::io::{AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle, RawHandle};
use std::ptr;
use std::sync::OnceLock;

use windows_sys::Wdk::Storage::FileSystem::{
    FILE_ACCESS_INFORMATION, FILE_INFORMATION_CLASS, FILE_MODE_INFORMATION, FILE_NO_INTERMEDIATE_BUFFERING, FILE_SYNCHRONOUS_IO_ALERT,
    FILE_SYNCHRONOUS_IO_NONALERT, FileAccessInformation, FileModeInformation, NtQueryInformationFile,
};
use windows_sys::Win32::Foundation::{
    CloseHandle, ERROR_BROKEN_PIPE, ERROR_HANDLE_EOF, ERROR_INVALID_HANDLE, ERROR_IO_INCOMPLETE, ERROR_IO_PENDING, GetLastError,
    INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_APPEND_DATA, FILE_FLAG_NO_BUFFERING, FILE_FLAG_OVERLAPPED, FILE_GENERIC_READ, FILE_GENERIC_WRITE, FILE_READ_DATA,
    FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE, FILE_TYPE_DISK, FILE_WRITE_DATA, FlushFileBuffers, GetFileType, ReOpenFile,
    ReadFile, WriteFile,
};
use windows_sys::Win32::System::IO::{
    CreateIoCompletionPort, GetOverlappedResult, OVERLAPPED, OVERLAPPED_0, OVERLAPPED_0_0, PostQueuedCompletionStatus,
};
use windows_sys::Win32::System::Threading::CreateEventW;

use super::{Access, Action, Cached, File, Request};
use crate::numbers::EINVAL;

pub type Descriptor = OwnedHandle;
pub type RawDescriptor = RawHandle;

/// What there is to know of an open file.
pub(super) struct Nature {
    /// Its handle takes requests that do not wait.
    overlapped: bool,
    /// The engine on whose port its completions arrive; for good, since a handle is never taken off its port. None: none has been able to.
    engine: OnceLock<Option<u64>>,
}

impl Nature {
    pub(super) fn of(handle: &Descriptor, _direct: bool) -> Self {
        let overlapped = mode(handle.as_raw_handle()).is_some_and(|mode| mode & SYNCHRONOUS == 0);
        Nature { overlapped, engine: OnceLock::new() }
    }

    /// Where a handle is not overlapped, its transfers are one after the other, and each leaves the position that it shares with its owner's where it ended.
    pub(super) fn has_no_position(&self) -> bool {
        self.overlapped
    }

    /// Whether its completions arrive on this engine's port.
    fn arrives_at(&self, file: RawHandle, port: &Descriptor, engine: u64) -> bool {
        let associate = || {
            // SAFETY: no pointers are passed, and both are open. No thread is added that waits.
            let port = unsafe { CreateIoCompletionPort(file, port.as_raw_handle(), 0, 0) };
            (!port.is_null()).then_some(engine)
        };
        self.overlapped && *self.engine.get_or_init(associate) == Some(engine)
    }
}

pub(super) fn raw(descriptor: &Descriptor) -> RawDescriptor {
    descriptor.as_raw_handle()
}

pub(super) fn close(descriptor: RawDescriptor) {
    // SAFETY: the caller's handle, which nobody uses any more.
    unsafe { CloseHandle(descriptor) };
}

/// The same open file by a handle of its own, and what the file was opened for. `direct`: its owner bypasses the cache, with another handle than this.
pub(super) fn duplicate(descriptor: RawDescriptor, direct: bool) -> io::Result<(Descriptor, Access)> {
    let granted = granted(descriptor).ok_or_else(|| io::Error::from_raw_os_error(ERROR_INVALID_HANDLE as i32))?;
    let access = Access {
        readable: granted & FILE_READ_DATA != 0,
        writable: granted & (FILE_WRITE_DATA | FILE_APPEND_DATA) != 0,
        direct: direct || mode(descriptor).is_some_and(|mode| mode & FILE_NO_INTERMEDIATE_BUFFERING != 0),
    };
    // SAFETY: `granted` has found that it is open, and the caller keeps it so during the call.
    let file = unsafe { BorrowedHandle::borrow_raw(descriptor) };
    Ok((reopen(file, access.direct, false)?, access))
}

/// The same file by a handle of its own, which outlives the other: overlapped, or, where there can be none, a copy of the other. `direct`: past the cache
/// (FILE_FLAG_NO_BUFFERING). `appends`: what is written goes to the end, whatever its offset.
///
/// # Errors
/// It is no open file, or there are no handles left; with `direct`, the file cannot be opened so.
///
/// Source: [ReOpenFile](https://learn.microsoft.com/windows/win32/api/winbase/nf-winbase-reopenfile)
pub fn reopen(file: BorrowedHandle<'_>, direct: bool, appends: bool) -> io::Result<Descriptor> {
    let descriptor = file.as_raw_handle();
    let error = match (disk(descriptor), granted(descriptor)) {
        (true, Some(granted)) => {
            // No more than the other has: the file's permissions would give what it has not asked for. Without FILE_WRITE_DATA, Windows ignores offsets and appends.
            let asked = granted & (FILE_GENERIC_READ | FILE_GENERIC_WRITE) & if appends { !FILE_WRITE_DATA } else { !0 };
            let flags = FILE_FLAG_OVERLAPPED | if direct { FILE_FLAG_NO_BUFFERING } else { 0 };
            let shared = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
            // SAFETY: no pointers are passed.
            let handle = unsafe { ReOpenFile(descriptor, asked, shared, flags) };
            if handle != INVALID_HANDLE_VALUE {
                // SAFETY: it is new, so it is nobody else's.
                return Ok(unsafe { OwnedHandle::from_raw_handle(handle) });
            }
            io::Error::last_os_error()
        }
        _ => io::Error::from_raw_os_error(EINVAL),
    };
    if direct {
        return Err(error);
    }
    file.try_clone_to_owned()
}

fn disk(descriptor: RawDescriptor) -> bool {
    // SAFETY: no pointers are passed.
    unsafe { GetFileType(descriptor) == FILE_TYPE_DISK }
}

/// What may be done by this handle: an ACCESS_MASK.
fn granted(descriptor: RawDescriptor) -> Option<u32> {
    let mut information = FILE_ACCESS_INFORMATION::default();
    // SAFETY: the class's own type.
    unsafe { query(descriptor, FileAccessInformation, &mut information) }.then_some(information.AccessFlags)
}

fn mode(descriptor: RawDescriptor) -> Option<u32> {
    let mut information = FILE_MODE_INFORMATION::default();
    // SAFETY: the class's own type.
    unsafe { query(descriptor, FileModeInformation, &mut information) }.then_some(information.Mode)
}

/// # Safety
/// `T` is what the kernel fills for this class: plain numbers.
unsafe fn query<T>(descriptor: RawDescriptor, class: FILE_INFORMATION_CLASS, information: &mut T) -> bool {
    // SAFETY: all zero is a block of numbers.
    let mut status = unsafe { mem::zeroed() };
    // SAFETY: both are writable for as long as is said, until the call returns; it waits, whatever the handle is.
    unsafe { NtQueryInformationFile(descriptor, &mut status, ptr::from_mut(information).cast(), size_of::<T>() as u32, class) >= 0 }
}

/// Wakes the port's owner with an empty packet.
pub(super) fn raise(port: &Descriptor) {
    // SAFETY: no pointers are passed. It fails only where there is no memory: then the packets that are there already have woken it.
    unsafe { PostQueuedCompletionStatus(port.as_raw_handle(), 0, 0, ptr::null()) };
}

/// FlushFileBuffers waits, and so do handles that are not overlapped, or that have gone to another engine's port.
pub(super) fn blocks(request: &Request, port: &Descriptor, engine: u64) -> bool {
    let file = &request.file;
    matches!(request.action, Action::Sync { .. }) || !file.nature.arrives_at(file.descriptor(), port, engine)
}

/// For a transfer at that offset, which signals `event`.
fn placed(offset: u64, event: RawHandle) -> OVERLAPPED {
    let place = OVERLAPPED_0_0 { Offset: offset as u32, OffsetHigh: (offset >> 32) as u32 };
    OVERLAPPED { Internal: 0, InternalHigh: 0, Anonymous: OVERLAPPED_0 { Anonymous: place }, hEvent: event }
}

/// Passes what is left of a request to the kernel, with an OVERLAPPED that says where it lies and is filled in here. `Ok` where it was taken: the OVERLAPPED and the request's
/// memory are the kernel's until it is complete; or Win32's number.
///
/// # Safety
/// `overlapped` is writable, and it, the request's memory and its file stay until then.
pub(super) unsafe fn begin(request: &Request, overlapped: *mut OVERLAPPED, event: RawHandle) -> Result<(), u32> {
    let (start, length, offset) = request.rest();
    if i64::try_from(offset).is_err() {
        return Err(EINVAL as u32);
    }
    // SAFETY: the caller's promise.
    unsafe { overlapped.write(placed(offset, event)) };
    let file = request.file.descriptor();
    // SAFETY: the request owns its memory, which is writable (a read) or readable (a write) for `length` bytes, at most 1 GiB; the caller keeps it.
    let taken = unsafe {
        match request.action {
            Action::Read => ReadFile(file, start, length as u32, ptr::null_mut(), overlapped),
            Action::Write => WriteFile(file, start, length as u32, ptr::null_mut(), overlapped),
            Action::Sync { .. } => unreachable!("it waits, so it is passed to no port"),
        }
    };
    if taken != 0 {
        return Ok(());
    }
    // SAFETY: no pointers are passed.
    match unsafe { GetLastError() } {
        ERROR_IO_PENDING => Ok(()),
        number => Err(number),
    }
}

/// What became of a request that `begin` has passed on: bytes, or Win32's number. None: it is not complete.
///
/// # Safety
/// The OVERLAPPED is that of `begin`, and `file` the same.
pub(super) unsafe fn result(file: RawHandle, overlapped: *const OVERLAPPED, wait: bool) -> Option<Result<usize, u32>> {
    let mut count = 0;
    // SAFETY: the caller's promise; `count` is writable.
    if unsafe { GetOverlappedResult(file, overlapped, &mut count, wait.into()) } != 0 {
        return Some(Ok(count as usize));
    }
    // SAFETY: no pointers are passed.
    let number = unsafe { GetLastError() };
    // Whatever the call says, as long as the kernel has not written what became of it, it has the memory.
    // SAFETY: the caller's promise.
    let status = unsafe { (&raw const (*overlapped).Internal).read_volatile() };
    (number != ERROR_IO_INCOMPLETE && status != STATUS_PENDING).then_some(Err(number))
}

/// Waits until it is complete.
///
/// # Safety
/// As of `result`.
unsafe fn completed(file: RawHandle, overlapped: *const OVERLAPPED) -> Result<usize, u32> {
    loop {
        // SAFETY: the caller's promise.
        if let Some(result) = unsafe { result(file, overlapped, true) } {
            return result;
        }
    }
}

/// As `Request::advance` takes it.
pub(super) fn answer(action: Action, result: Result<usize, u32>) -> i64 {
    match result {
        Ok(count) => count as i64,
        Err(ERROR_HANDLE_EOF | ERROR_BROKEN_PIPE) if action == Action::Read => 0,
        Err(number) => -i64::from(number),
    }
}

/// One system call for what is left of the request, waited for: bytes, or a negative error number.
pub(super) fn transfer(request: &Request) -> i64 {
    if let Action::Sync { data_only } = request.action {
        return sync(request.file.descriptor(), data_only).map_or_else(|number| -i64::from(number), |()| 0);
    }
    let event = match event_of_thread() {
        Ok(event) => event,
        Err(number) => return -i64::from(number),
    };
    let mut overlapped = OVERLAPPED::default();
    let overlapped = &raw mut overlapped;
    // SAFETY: it stays until `completed` has seen that the request is complete; the request is the caller's meanwhile.
    let begun = unsafe { begin(request, overlapped, event) };
    let result = match begun {
        Err(number) => Err(number),
        // SAFETY: as above.
        Ok(()) => unsafe { completed(request.file.descriptor(), overlapped) },
    };
    answer(request.action, result)
}

/// Reads once at an offset, and waits for it.
pub(super) fn read_at(descriptor: RawDescriptor, memory: &mut [u8], offset: u64) -> io::Result<usize> {
    let failure = |number: u32| io::Error::from_raw_os_error(number as i32);
    let mut overlapped = placed(offset, event_of_thread().map_err(failure)?);
    let overlapped = &raw mut overlapped;
    let length = u32::try_from(memory.len()).unwrap_or(u32::MAX);
    // SAFETY: both stay until `completed` has seen that the read is complete, and the memory is writable for its length.
    let taken = unsafe { ReadFile(descriptor, memory.as_mut_ptr(), length, ptr::null_mut(), overlapped) };
    // SAFETY: no pointers are passed.
    let number = if taken == 0 { unsafe { GetLastError() } } else { ERROR_IO_PENDING };
    let result = match number {
        // SAFETY: the OVERLAPPED is this read's, and the file the same.
        ERROR_IO_PENDING => unsafe { completed(descriptor, overlapped) },
        number => Err(number),
    };
    match answer(Action::Read, result) {
        count @ 0.. => Ok(count as usize),
        number => Err(failure(number.unsigned_abs() as u32)),
    }
}

/// What a thread waits by for its one request. The lowest bit says that no packet is to go to the file's port, if it has one:
/// [GetQueuedCompletionStatus](https://learn.microsoft.com/windows/win32/api/ioapiset/nf-ioapiset-getqueuedcompletionstatus).
fn event_of_thread() -> Result<RawHandle, u32> {
    thread_local! {
        static EVENT: OnceCell<OwnedHandle> = const { OnceCell::new() };
    }
    EVENT.with(|known| {
        if known.get().is_none() {
            // SAFETY: no pointers are passed. Raised by hand, not raised.
            let event = unsafe { CreateEventW(ptr::null(), 1, 0, ptr::null()) };
            if event.is_null() {
                // SAFETY: no pointers are passed.
                return Err(unsafe { GetLastError() });
            }
            // SAFETY: it is new, so it is nobody else's.
            let _ = known.set(unsafe { OwnedHandle::from_raw_handle(event) });
        }
        Ok(known.get().expect("set above").as_raw_handle().map_addr(|number| number | 1))
    })
}

/// FlushFileBuffers, which knows no difference. It asks for a file that is open for writing.
pub(super) fn sync(descriptor: RawDescriptor, _data_only: bool) -> Result<(), i32> {
    // SAFETY: no pointers are passed.
    if unsafe { FlushFileBuffers(descriptor) } != 0 {
        return Ok(());
    }
    // SAFETY: no pointers are passed.
    Err(unsafe { GetLastError() } as i32)
}

impl File {
    /// Windows does not tell what is in memory, so nothing is read without waiting.
    ///
    /// # Safety
    /// `start` is writable for `length` bytes.
    pub unsafe fn read_cached(&self, _start: *mut u8, length: usize, _offset: u64) -> Cached {
        if length == 0 { Cached::Whole(0) } else { Cached::Part(0) }
    }
}

const SYNCHRONOUS: u32 = FILE_SYNCHRONOUS_IO_ALERT | FILE_SYNCHRONOUS_IO_NONALERT;
/// The kernel has not written what became of the request.
const STATUS_PENDING: usize = windows_sys::Win32::Foundation::STATUS_PENDING as usize;
