//! The error numbers of this platform, under the names of POSIX. What `io::Error::raw_os_error` answers, and what becomes `OSError`.

#[cfg(unix)]
pub use libc::{
    EALREADY, EBADF, ECANCELED, ECONNABORTED, ECONNREFUSED, ECONNRESET, EINTR, EINVAL, EIO, EISCONN, EMFILE, EMSGSIZE, ENOTCONN, EPIPE,
    ETIMEDOUT,
};

#[cfg(windows)]
pub use of_windows::*;

/// Winsock has numbers of its own for sockets; the rest is Win32's.
#[cfg(windows)]
mod of_windows {
    use windows_sys::Win32::Foundation::{ERROR_IO_DEVICE, ERROR_OPERATION_ABORTED};
    use windows_sys::Win32::Networking::WinSock;

    pub const EALREADY: i32 = WinSock::WSAEALREADY;
    /// As CPython has it: a closed socket is none.
    pub const EBADF: i32 = WinSock::WSAENOTSOCK;
    pub const ECANCELED: i32 = ERROR_OPERATION_ABORTED as i32;
    pub const ECONNABORTED: i32 = WinSock::WSAECONNABORTED;
    pub const ECONNREFUSED: i32 = WinSock::WSAECONNREFUSED;
    pub const ECONNRESET: i32 = WinSock::WSAECONNRESET;
    pub const EINTR: i32 = WinSock::WSAEINTR;
    pub const EINVAL: i32 = WinSock::WSAEINVAL;
    pub const EIO: i32 = ERROR_IO_DEVICE as i32;
    pub const EISCONN: i32 = WinSock::WSAEISCONN;
    pub const EMFILE: i32 = WinSock::WSAEMFILE;
    pub const EMSGSIZE: i32 = WinSock::WSAEMSGSIZE;
    pub const ENOTCONN: i32 = WinSock::WSAENOTCONN;
    pub const EPIPE: i32 = WinSock::WSAESHUTDOWN;
    pub const ETIMEDOUT: i32 = WinSock::WSAETIMEDOUT;
}
