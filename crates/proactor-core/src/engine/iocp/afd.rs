//! Asks the driver below Winsock what has become of a socket, by way of the completion port. Knows sockets and events; knows nothing of who wants to know.
//!
//! IOCTL_AFD_POLL is what select and WSAPoll are made of. Issued on a handle of our own it leaves the socket as it is: neither its port nor its mode of waiting changes, so it serves for sockets of
//! somebody else's as well. It is not documented, but the pollers that programs on Windows are built on depend on it, and it has not changed since Windows Vista. It completes once, and at
//! once where something is there already.

use std::cell::UnsafeCell;
use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr;

use windows_sys::Wdk::Foundation::OBJECT_ATTRIBUTES;
use windows_sys::Wdk::Storage::FileSystem::{FILE_OPEN, NtCreateFile};
use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE, RtlNtStatusToDosError, UNICODE_STRING};
use windows_sys::Win32::Networking::WinSock::{SOCKET, SOCKET_ERROR, WSAENOTSOCK, WSASetLastError};
use windows_sys::Win32::Storage::FileSystem::{FILE_SHARE_READ, FILE_SHARE_WRITE, SYNCHRONIZE};
use windows_sys::Win32::System::IO::{CancelIoEx, CreateIoCompletionPort, DeviceIoControl, IO_STATUS_BLOCK, IO_STATUS_BLOCK_0, OVERLAPPED};

use crate::sync::Mutex;

/// The driver, until it is closed. Guards the handle against being closed while it is used.
pub(super) struct Afd(Mutex<Option<OwnedHandle>>);

/// One question: AFD_POLL_INFO, with the answer in its place. The kernel reads and writes it until the packet has come.
pub(super) struct Question(UnsafeCell<PollInfo>);

#[repr(C)]
struct PollInfo {
    timeout: i64,
    count: u32,
    exclusive: u32,
    handle: HANDLE,
    events: u32,
    status: i32,
}

impl Question {
    /// `base` is the socket as the driver knows it.
    pub(super) fn new(base: SOCKET, events: u32) -> Self {
        Question(UnsafeCell::new(PollInfo {
            timeout: i64::MAX,
            count: 1,
            exclusive: 0,
            handle: base as HANDLE,
            events: events | LOCAL_CLOSE,
            status: 0,
        }))
    }

    /// What has happened, once the packet has come without an error.
    pub(super) fn answer(&mut self) -> u32 {
        let info = self.0.get_mut();
        if info.count > 0 { info.events } else { 0 }
    }
}

impl Afd {
    /// Opens the driver; answers come to `port` under `key`.
    pub(super) fn open(port: &OwnedHandle, key: usize) -> io::Result<Self> {
        // The last part says whose it is, and may be anything.
        let name: Vec<u16> = "\\Device\\Afd\\Proactor".encode_utf16().collect();
        let length = (name.len() * 2) as u16;
        let path = UNICODE_STRING { Length: length, MaximumLength: length, Buffer: name.as_ptr().cast_mut() };
        let attributes = OBJECT_ATTRIBUTES {
            Length: size_of::<OBJECT_ATTRIBUTES>() as u32,
            RootDirectory: ptr::null_mut(),
            ObjectName: &path,
            Attributes: 0,
            SecurityDescriptor: ptr::null(),
            SecurityQualityOfService: ptr::null(),
        };
        let mut handle = INVALID_HANDLE_VALUE;
        let mut result = IO_STATUS_BLOCK { Anonymous: IO_STATUS_BLOCK_0 { Status: 0 }, Information: 0 };
        // SAFETY: the name and what names it are readable, `handle` and `result` writable, until the call returns. Not opened for synchronous use, it is overlapped.
        let status = unsafe {
            NtCreateFile(
                &mut handle,
                SYNCHRONIZE,
                &attributes,
                &mut result,
                ptr::null(),
                0,
                FILE_SHARE_READ | FILE_SHARE_WRITE,
                FILE_OPEN,
                0,
                ptr::null(),
                0,
            )
        };
        if status < 0 {
            // SAFETY: no pointers are passed.
            return Err(io::Error::from_raw_os_error(unsafe { RtlNtStatusToDosError(status) } as i32));
        }
        // SAFETY: it is new, so it is nobody else's.
        let handle = unsafe { OwnedHandle::from_raw_handle(handle) };
        // SAFETY: no pointers are passed.
        let associated = unsafe { CreateIoCompletionPort(handle.as_raw_handle(), port.as_raw_handle(), key, 0) };
        if associated.is_null() { Err(io::Error::last_os_error()) } else { Ok(Afd(Mutex::new(Some(handle)))) }
    }

    /// Asks; answers as Winsock does.
    ///
    /// # Safety
    /// `question` and `overlapped` live until the packet has come.
    pub(super) unsafe fn ask(&self, question: &Question, overlapped: *mut OVERLAPPED) -> i32 {
        let driver = self.0.lock();
        let Some(driver) = &*driver else {
            // SAFETY: no pointers are passed.
            unsafe { WSASetLastError(WSAENOTSOCK) };
            return SOCKET_ERROR;
        };
        let info = question.0.get().cast();
        let size = size_of::<PollInfo>() as u32;
        // SAFETY: the caller's promise; `info` is readable and writable for `size` bytes.
        let asked = unsafe { DeviceIoControl(driver.as_raw_handle(), IOCTL_AFD_POLL, info, size, info, size, ptr::null_mut(), overlapped) };
        if asked != 0 { 0 } else { SOCKET_ERROR }
    }

    /// The question of this OVERLAPPED is answered early, with an error, unless its packet is under way already; null: all are.
    pub(super) fn cancel(&self, overlapped: *const OVERLAPPED) {
        if let Some(driver) = &*self.0.lock() {
            // SAFETY: the pointer is compared, and not followed. A failure says that there is none.
            unsafe { CancelIoEx(driver.as_raw_handle(), overlapped) };
        }
    }

    /// Nothing is asked any more.
    pub(super) fn close(&self) {
        self.0.lock().take();
    }
}

const IOCTL_AFD_POLL: u32 = 0x0001_2024;

// Events. The driver's names for them begin with AFD_POLL_.
pub(super) const RECEIVE: u32 = 0x0001;
pub(super) const SEND: u32 = 0x0004;
/// The peer's end.
pub(super) const DISCONNECT: u32 = 0x0008;
/// A reset, or whatever else ended both directions.
pub(super) const ABORT: u32 = 0x0010;
pub(super) const LOCAL_CLOSE: u32 = 0x0020;
pub(super) const ACCEPT: u32 = 0x0080;
pub(super) const CONNECT_FAIL: u32 = 0x0100;
