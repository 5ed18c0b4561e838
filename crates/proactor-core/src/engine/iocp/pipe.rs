//! Named pipes: an instance is what a socket is elsewhere, to listen with or to talk over. Knows Win32's calls; knows nothing of ports and of what is pending.
//!
//! Streams of bytes, not of messages. There is no backlog: a client finds an instance that waits for one, or is told ERROR_PIPE_BUSY. Neither side can end its sending alone.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr;

use windows_sys::Win32::Foundation::{
    ERROR_BROKEN_PIPE, ERROR_IO_PENDING, ERROR_MORE_DATA, ERROR_NO_DATA, ERROR_PIPE_CONNECTED, ERROR_PIPE_NOT_CONNECTED, GetLastError,
    HANDLE, INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::Networking::WinSock::{SOCKET_ERROR, WSAEWOULDBLOCK};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, FILE_NAME_INFO, FileNameInfo, GetFileInformationByHandleEx, PIPE_ACCESS_DUPLEX,
    ReadFile, WriteFile,
};
use windows_sys::Win32::System::IO::{CancelIoEx, GetOverlappedResult, OVERLAPPED};
use windows_sys::Win32::System::Pipes::{
    ConnectNamedPipe, CreateNamedPipeW, DisconnectNamedPipe, GetNamedPipeInfo, PIPE_REJECT_REMOTE_CLIENTS, PIPE_SERVER_END, PIPE_TYPE_BYTE,
    PIPE_TYPE_MESSAGE, PIPE_UNLIMITED_INSTANCES, PeekNamedPipe,
};
use windows_sys::Win32::System::Threading::CreateEventW;

use crate::numbers::{ECONNRESET, EINVAL, EPIPE};

/// One end of a pipe.
pub(super) struct PipeEnd {
    handle: OwnedHandle,
    /// Without `\\.\pipe\`.
    name: String,
    serves: bool,
}

impl PipeEnd {
    /// An end that somebody gives away.
    ///
    /// # Errors
    /// `InvalidInput`: it is none, or one of messages.
    pub(super) fn take(handle: OwnedHandle) -> Result<Self, (io::Error, OwnedHandle)> {
        let mut flags = 0;
        // SAFETY: `flags` is writable; nothing else is asked for.
        let known = unsafe { GetNamedPipeInfo(handle.as_raw_handle(), &mut flags, ptr::null_mut(), ptr::null_mut(), ptr::null_mut()) } != 0;
        let refused = |text| io::Error::new(io::ErrorKind::InvalidInput, text);
        if !known {
            return Err((refused("it is neither a socket nor a named pipe"), handle));
        }
        if flags & PIPE_TYPE_MESSAGE != 0 {
            return Err((refused("a named pipe of messages is no stream; make it with PIPE_TYPE_BYTE"), handle));
        }
        match name_of(handle.as_raw_handle()) {
            Ok(name) => Ok(PipeEnd { handle, name, serves: flags & PIPE_SERVER_END != 0 }),
            Err(error) => Err((error, handle)),
        }
    }

    /// A further instance, for one more client.
    pub(super) fn another(name: &str) -> io::Result<Self> {
        Ok(PipeEnd { handle: create(name, false)?, name: name.to_owned(), serves: true })
    }

    pub(super) fn raw(&self) -> HANDLE {
        self.handle.as_raw_handle()
    }

    pub(super) fn into_handle(self) -> OwnedHandle {
        self.handle
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// # Errors
    /// `InvalidInput`: it is the client's.
    pub(super) fn may_listen(&self) -> io::Result<()> {
        let refused = || io::Error::new(io::ErrorKind::InvalidInput, "it is the client's end of a named pipe, which does not listen");
        if self.serves { Ok(()) } else { Err(refused()) }
    }

    /// Waits for a client; answers as Winsock does, with an error where one is there already (`is_connected`).
    ///
    /// # Safety
    /// `overlapped` lives until the packet has come.
    pub(super) unsafe fn begin_accept(&self, overlapped: *mut OVERLAPPED) -> i32 {
        // SAFETY: the caller's promise.
        if unsafe { ConnectNamedPipe(self.raw(), overlapped) } != 0 { 0 } else { SOCKET_ERROR }
    }

    /// Begins a read of no bytes, which completes when there is something to read. Answers as Winsock does.
    ///
    /// # Safety
    /// `overlapped` lives until the packet has come.
    pub(super) unsafe fn begin_receive_nothing(handle: HANDLE, overlapped: *mut OVERLAPPED) -> i32 {
        // SAFETY: no memory is named; the rest is the caller's promise.
        let begun = unsafe { ReadFile(handle, ptr::dangling_mut(), 0, ptr::null_mut(), overlapped) };
        if begun != 0 { 0 } else { SOCKET_ERROR }
    }

    /// Begins to write all of `bytes`. 0: it is done already, and its packet comes all the same.
    ///
    /// # Safety
    /// `bytes` and `overlapped` live until the packet has come.
    pub(super) unsafe fn begin_send(handle: HANDLE, bytes: &[u8], overlapped: *mut OVERLAPPED) -> i32 {
        // SAFETY: the caller's promise.
        let begun = unsafe { WriteFile(handle, bytes.as_ptr(), bytes.len() as u32, ptr::null_mut(), overlapped) };
        if begun != 0 { 0 } else { SOCKET_ERROR }
    }

    /// What is there, without waiting; 0 at the end. One thread at a time: nobody else takes it away in between. `event`: for that thread to wait by.
    pub(super) fn read(&self, memory: &mut [u8], event: &OwnedHandle) -> io::Result<usize> {
        let mut available = 0;
        // SAFETY: `available` is writable; nothing else is asked for.
        let known = unsafe { PeekNamedPipe(self.raw(), ptr::null_mut(), 0, ptr::null_mut(), &mut available, ptr::null_mut()) } != 0;
        if !known {
            return ended_or(last());
        }
        let length = memory.len().min(available as usize);
        if length == 0 {
            return Err(io::Error::from_raw_os_error(WSAEWOULDBLOCK));
        }
        // The lowest bit says that no packet is to go to the port.
        let mut overlapped = OVERLAPPED { hEvent: event.as_raw_handle().map_addr(|number| number | 1), ..OVERLAPPED::default() };
        let overlapped = &raw mut overlapped;
        // SAFETY: the memory is writable for its length, and both stay until the read is complete, which is waited for below.
        let begun = unsafe { ReadFile(self.raw(), memory.as_mut_ptr(), length as u32, ptr::null_mut(), overlapped) } != 0;
        if !begun {
            let number = last();
            if number != ERROR_IO_PENDING && number != ERROR_MORE_DATA {
                return ended_or(number);
            }
        }
        let mut count = 0;
        loop {
            // SAFETY: as above; `count` is writable.
            if unsafe { GetOverlappedResult(self.raw(), overlapped, &mut count, 1) } != 0 {
                return Ok(count as usize);
            }
            let number = last();
            // SAFETY: the OVERLAPPED is alive; the kernel writes it.
            let status = unsafe { (&raw const (*overlapped).Internal).read_volatile() };
            if status != STATUS_PENDING {
                return if number == ERROR_MORE_DATA { Ok(count as usize) } else { ended_or(number) };
            }
        }
    }

    /// What is pending ends early; each operation still gets its packet.
    pub(super) fn cancel(&self) {
        // SAFETY: the handle is open; no operation is named, which means all. A failure says that there is none.
        unsafe { CancelIoEx(self.raw(), ptr::null()) };
    }

    /// The other end sees that the connection is gone, and what it has not read is lost. Only the serving end can do that.
    pub(super) fn reset(&self) {
        if self.serves {
            // SAFETY: no pointers are passed. A failure means that nobody is connected.
            unsafe { DisconnectNamedPipe(self.raw()) };
        }
    }
}

/// What an error of ConnectNamedPipe means: true: a client is there, who may have gone again, of which a read tells.
pub(super) fn is_connected(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(|number| number as u32), Some(ERROR_PIPE_CONNECTED | ERROR_NO_DATA))
}

/// The number that a stream tells, of one of Win32's.
pub(super) fn number_of_stream(number: i32) -> i32 {
    match number as u32 {
        ERROR_BROKEN_PIPE | ERROR_NO_DATA => EPIPE,
        ERROR_PIPE_NOT_CONNECTED => ECONNRESET,
        _ => number,
    }
}

fn ended_or(number: u32) -> io::Result<usize> {
    // The other end was closed, and all that it has written was read.
    if number == ERROR_BROKEN_PIPE { Ok(0) } else { Err(io::Error::from_raw_os_error(number_of_stream(number as i32))) }
}

/// An instance of a pipe that serves this machine. `first`: nobody else may have one of that name.
///
/// # Errors
/// With `first`, ERROR_ACCESS_DENIED where there is one.
///
/// Source: [CreateNamedPipeW](https://learn.microsoft.com/windows/win32/api/namedpipeapi/nf-namedpipeapi-createnamedpipew)
pub fn create(name: &str, first: bool) -> io::Result<OwnedHandle> {
    if name.is_empty() || name.contains(['\\', '\0']) {
        return Err(io::Error::from_raw_os_error(EINVAL));
    }
    let path: Vec<u16> = format!(r"\\.\pipe\{name}").encode_utf16().chain([0]).collect();
    let mode = PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | if first { FILE_FLAG_FIRST_PIPE_INSTANCE } else { 0 };
    // SAFETY: the name ends with a NUL, and lives until the call returns. Without a security descriptor the default one, and no child inherits it.
    let handle = unsafe {
        let kind = PIPE_TYPE_BYTE | PIPE_REJECT_REMOTE_CLIENTS;
        CreateNamedPipeW(path.as_ptr(), mode, kind, PIPE_UNLIMITED_INSTANCES, QUOTA, QUOTA, 0, ptr::null())
    };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is new, so it is nobody else's.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

fn name_of(handle: HANDLE) -> io::Result<String> {
    let mut memory = [0u32; 1024];
    // SAFETY: `memory` is writable for its size, and aligned for what is written.
    let known = unsafe { GetFileInformationByHandleEx(handle, FileNameInfo, memory.as_mut_ptr().cast(), size_of_val(&memory) as u32) } != 0;
    if !known {
        return Err(io::Error::last_os_error());
    }
    let bytes = memory[0] as usize;
    let start = std::mem::offset_of!(FILE_NAME_INFO, FileName);
    let units = (bytes / 2).min((size_of_val(&memory) - start) / 2);
    // SAFETY: the call has written so many, and all lies within `memory`, which is aligned for it.
    let name = unsafe { std::slice::from_raw_parts(memory.as_ptr().cast::<u8>().add(start).cast::<u16>(), units) };
    let name = String::from_utf16_lossy(name);
    // Windows names it relative to the file system of pipes, `\name`.
    Ok(name.rsplit('\\').next().unwrap_or_default().to_owned())
}

/// Whether the number is that of a named pipe's end, which its owner keeps.
pub(super) fn is_pipe(handle: HANDLE) -> bool {
    let mut flags = 0;
    // SAFETY: `flags` is writable; nothing else is asked for.
    unsafe { GetNamedPipeInfo(handle, &mut flags, ptr::null_mut(), ptr::null_mut(), ptr::null_mut()) != 0 }
}

/// For a thread to wait by, for one operation at a time.
pub(super) fn event() -> io::Result<OwnedHandle> {
    // SAFETY: no pointers are passed but null ones. Raised by hand, not raised.
    let event = unsafe { CreateEventW(ptr::null(), 1, 0, ptr::null()) };
    if event.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is new, so it is nobody else's.
    Ok(unsafe { OwnedHandle::from_raw_handle(event) })
}

fn last() -> u32 {
    // SAFETY: no pointers are passed.
    unsafe { GetLastError() }
}

/// So many bytes wait in each direction, as long as nobody reads them.
const QUOTA: u32 = 64 * 1024;
/// The kernel has not written what became of an operation.
const STATUS_PENDING: usize = windows_sys::Win32::Foundation::STATUS_PENDING as usize;
