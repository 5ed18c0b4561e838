//! Winsock's calls, each with its errors as values. Knows sockets; knows nothing of ports and operations.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::windows::io::{AsRawSocket, FromRawSocket};
use std::ptr;

use windows_sys::Win32::Foundation::{
    ERROR_CONNECTION_ABORTED, ERROR_CONNECTION_REFUSED, ERROR_HOST_UNREACHABLE, ERROR_NETNAME_DELETED, ERROR_NETWORK_UNREACHABLE,
    ERROR_PORT_UNREACHABLE, ERROR_SEM_TIMEOUT, NTSTATUS, RtlNtStatusToDosError,
};
use windows_sys::Win32::Networking::WinSock::{
    AF_INET, AF_INET6, INVALID_SOCKET, IPPROTO_TCP, LINGER, LPFN_ACCEPTEX, SIO_GET_EXTENSION_FUNCTION_POINTER, SO_ACCEPTCONN, SO_KEEPALIVE,
    SO_LINGER, SO_TYPE, SO_UPDATE_ACCEPT_CONTEXT, SOCK_STREAM, SOCKADDR_STORAGE, SOCKET, SOCKET_ERROR, SOL_SOCKET,
    WSA_FLAG_NO_HANDLE_INHERIT, WSA_FLAG_OVERLAPPED, WSABUF, WSADATA, WSAEHOSTUNREACH, WSAENETUNREACH, WSAGetLastError, WSAID_ACCEPTEX,
    WSAIoctl, WSARecv, WSASend, WSASocketW, WSAStartup, getsockopt, setsockopt,
};
use windows_sys::Win32::System::IO::{CancelIoEx, OVERLAPPED};

use crate::engine::SocketOptions;
use crate::numbers::{ECONNABORTED, ECONNREFUSED, ECONNRESET, ETIMEDOUT};

/// AcceptEx: "The number of bytes reserved for the local address information. This value must be at least 16 bytes more than the maximum address length".
const ADDRESS: usize = size_of::<SOCKADDR_STORAGE>() + 16;
pub(super) const ADDRESSES: usize = 2 * ADDRESS;

pub(super) type AcceptEx =
    unsafe extern "system" fn(SOCKET, SOCKET, *mut core::ffi::c_void, u32, u32, u32, *mut u32, *mut OVERLAPPED) -> windows_sys::core::BOOL;

/// Winsock must be started before anything else; each call counts, and none is taken back while the process lives.
pub(super) fn start() -> io::Result<()> {
    let mut data = WSADATA::default();
    // SAFETY: `data` is writable, and lives until the call returns.
    match unsafe { WSAStartup(0x202, &mut data) } {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

pub(super) fn last_error() -> io::Error {
    // SAFETY: no pointers are passed.
    io::Error::from_raw_os_error(unsafe { WSAGetLastError() })
}

/// Whether the number is a listening socket's, and a stream's. No other call may be made with it before.
///
/// # Errors
/// It is no socket.
pub(super) fn describe(socket: SOCKET) -> io::Result<(bool, bool)> {
    Ok((option(socket, SO_ACCEPTCONN)? != 0, option(socket, SO_TYPE)? == SOCK_STREAM))
}

fn option(socket: SOCKET, name: i32) -> io::Result<i32> {
    let mut value = 0i32;
    let mut length = size_of::<i32>() as i32;
    // SAFETY: `value` is writable for `length` bytes. (SO_ACCEPTCONN may fill less of it, and the rest is 0.)
    let result = unsafe { getsockopt(socket, SOL_SOCKET, name, (&raw mut value).cast(), &mut length) };
    if result == SOCKET_ERROR { Err(last_error()) } else { Ok(value) }
}

fn set_option<T>(socket: SOCKET, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: `value` is readable for its size.
    let result = unsafe { setsockopt(socket, SOL_SOCKET, name, ptr::from_ref(value).cast(), size_of::<T>() as i32) };
    if result == SOCKET_ERROR { Err(last_error()) } else { Ok(()) }
}

pub(super) fn set_options(socket: &TcpStream, options: &SocketOptions) -> io::Result<()> {
    socket.set_nodelay(options.no_delay)?;
    set_option(number(socket), SO_KEEPALIVE, &i32::from(options.keep_alive))
}

/// Closing it makes the peer see a reset.
pub(super) fn reset_at_close(socket: &TcpStream) {
    let linger = LINGER { l_onoff: 1, l_linger: 0 };
    // A failure means that the connection is gone already.
    let _ = set_option(number(socket), SO_LINGER, &linger);
}

/// An accepted socket becomes one like others: only then it has addresses, and can be shut down.
pub(super) fn complete_accept(socket: &TcpStream, listener: &TcpListener) -> io::Result<SocketAddr> {
    set_option(number(socket), SO_UPDATE_ACCEPT_CONTEXT, &(listener.as_raw_socket() as SOCKET))?;
    socket.set_nonblocking(true)?;
    socket.peer_addr()
}

/// A socket for AcceptEx to fill, of the listener's family; children do not inherit it.
pub(super) fn unconnected(like: SocketAddr) -> io::Result<TcpStream> {
    let family = if like.is_ipv6() { AF_INET6 } else { AF_INET };
    // SAFETY: no pointers are passed but the null one, which says that nothing is copied.
    let socket =
        unsafe { WSASocketW(family.into(), SOCK_STREAM, IPPROTO_TCP, ptr::null(), 0, WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT) };
    if socket == INVALID_SOCKET {
        return Err(last_error());
    }
    // SAFETY: it is new, so it is nobody else's.
    Ok(unsafe { TcpStream::from_raw_socket(socket as u64) })
}

pub(super) fn number(socket: &TcpStream) -> SOCKET {
    socket.as_raw_socket() as SOCKET
}

/// AcceptEx as the listener's provider has it.
pub(super) fn accept_function(listener: &TcpListener) -> io::Result<AcceptEx> {
    let mut function: LPFN_ACCEPTEX = None;
    let mut count = 0;
    let name = WSAID_ACCEPTEX;
    // SAFETY: `name` is readable and `function` writable for their sizes, and both live until the call, which is not overlapped, returns.
    let result = unsafe {
        WSAIoctl(
            listener.as_raw_socket() as SOCKET,
            SIO_GET_EXTENSION_FUNCTION_POINTER,
            (&raw const name).cast(),
            size_of_val(&name) as u32,
            (&raw mut function).cast(),
            size_of_val(&function) as u32,
            &mut count,
            ptr::null_mut(),
            None,
        )
    };
    if result == SOCKET_ERROR {
        return Err(last_error());
    }
    function.ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "the listener's network provider has no AcceptEx"))
}

/// Begins an accept into `socket`; answers as Winsock does.
///
/// # Safety
/// `addresses` is writable for `ADDRESSES` bytes, and it, `overlapped` and `socket` live until the packet has come.
pub(super) unsafe fn begin_accept(
    function: AcceptEx,
    listener: &TcpListener,
    socket: &TcpStream,
    addresses: *mut u8,
    overlapped: *mut OVERLAPPED,
) -> i32 {
    let mut received = 0;
    // SAFETY: the caller's promise. No first bytes are waited for (a length of 0): a silent client must not hold an accept.
    let accepted = unsafe {
        function(
            listener.as_raw_socket() as SOCKET,
            number(socket),
            addresses.cast(),
            0,
            ADDRESS as u32,
            ADDRESS as u32,
            &mut received,
            overlapped,
        )
    };
    if accepted != 0 { 0 } else { SOCKET_ERROR }
}

/// Begins a receive of no bytes, which completes when there is something to receive.
///
/// # Safety
/// `overlapped` lives until the packet has come.
pub(super) unsafe fn begin_receive_nothing(socket: SOCKET, overlapped: *mut OVERLAPPED) -> i32 {
    let nothing = WSABUF { len: 0, buf: ptr::null_mut() };
    let mut flags = 0;
    // SAFETY: Winsock copies the WSABUF before it returns, which names no memory; the rest is the caller's promise.
    unsafe { WSARecv(socket, &nothing, 1, ptr::null_mut(), &mut flags, overlapped, None) }
}

/// Begins to send all of `bytes`.
///
/// # Safety
/// `bytes` and `overlapped` live until the packet has come.
pub(super) unsafe fn begin_send(socket: SOCKET, bytes: &[u8], overlapped: *mut OVERLAPPED) -> i32 {
    let buffer = WSABUF { len: bytes.len() as u32, buf: bytes.as_ptr().cast_mut() };
    // SAFETY: Winsock copies the WSABUF before it returns, and only reads what it names; the rest is the caller's promise.
    unsafe { WSASend(socket, &buffer, 1, ptr::null_mut(), 0, overlapped, None) }
}

/// What the kernel holds for the socket ends early; each operation still gets its packet.
pub(super) fn cancel(socket: &impl AsRawSocket) {
    // SAFETY: the socket is open; no operation is named, which means all. A failure says that there is none.
    unsafe { CancelIoEx(socket.as_raw_socket() as _, ptr::null()) };
}

/// The error number of a packet, as Winsock's calls would tell it; 0: none. (The kernel tells NTSTATUS, whose Win32 numbers are not Winsock's.)
pub(super) fn number_of(status: usize) -> i32 {
    let status = status as NTSTATUS;
    if status >= 0 {
        return 0;
    }
    // SAFETY: no pointers are passed.
    match unsafe { RtlNtStatusToDosError(status) } {
        // A reset is a reset, and never an end.
        ERROR_NETNAME_DELETED | ERROR_PORT_UNREACHABLE => ECONNRESET,
        ERROR_CONNECTION_ABORTED => ECONNABORTED,
        ERROR_CONNECTION_REFUSED => ECONNREFUSED,
        ERROR_SEM_TIMEOUT => ETIMEDOUT,
        ERROR_NETWORK_UNREACHABLE => WSAENETUNREACH,
        ERROR_HOST_UNREACHABLE => WSAEHOSTUNREACH,
        number => number as i32,
    }
}
