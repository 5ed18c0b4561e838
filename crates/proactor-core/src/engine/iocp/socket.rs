//! Winsock's calls, each with its errors as values. Knows sockets; knows nothing of ports and operations.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::windows::io::{AsRawSocket, BorrowedHandle, FromRawSocket, OwnedHandle};
use std::ptr;

use windows_sys::Wdk::System::SystemServices::RtlGetVersion;
use windows_sys::Win32::Foundation::{
    ERROR_CONNECTION_ABORTED, ERROR_CONNECTION_REFUSED, ERROR_DUP_NAME, ERROR_HOST_UNREACHABLE, ERROR_INVALID_NETNAME,
    ERROR_NETNAME_DELETED, ERROR_NETWORK_UNREACHABLE, ERROR_PORT_UNREACHABLE, ERROR_SEM_TIMEOUT, HANDLE, NTSTATUS, RtlNtStatusToDosError,
    STATUS_INVALID_CONNECTION,
};
use windows_sys::Win32::Networking::WinSock::{
    AF_INET, AF_INET6, INVALID_SOCKET, IPPROTO_TCP, LINGER, LPFN_ACCEPTEX, LPFN_CONNECTEX, LPFN_TRANSMITFILE, SIO_BASE_HANDLE,
    SIO_GET_EXTENSION_FUNCTION_POINTER, SIO_TCP_INFO, SIO_UDP_CONNRESET, SIO_UDP_NETRESET, SO_ACCEPTCONN, SO_EXCLUSIVEADDRUSE,
    SO_KEEPALIVE, SO_LINGER, SO_PROTOCOL_INFOW, SO_RCVBUF, SO_REUSEADDR, SO_SNDBUF, SO_TYPE, SO_UPDATE_ACCEPT_CONTEXT,
    SO_UPDATE_CONNECT_CONTEXT, SOCK_DGRAM, SOCK_STREAM, SOCKADDR_IN, SOCKADDR_IN6, SOCKADDR_STORAGE, SOCKET, SOCKET_ERROR, SOL_SOCKET,
    TCP_INFO_v0, TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL, TRANSMIT_FILE_BUFFERS, WSA_FLAG_NO_HANDLE_INHERIT, WSA_FLAG_OVERLAPPED, WSABUF,
    WSADATA, WSAEADDRINUSE, WSAEADDRNOTAVAIL, WSAEHOSTUNREACH, WSAEINVAL, WSAENETUNREACH, WSAENOTCONN, WSAGetLastError, WSAID_ACCEPTEX,
    WSAID_CONNECTEX, WSAID_TRANSMITFILE, WSAIoctl, WSAPROTOCOL_INFOW, WSARecv, WSASend, WSASendTo, WSASocketW, WSAStartup, bind,
    getsockopt, setsockopt,
};
use windows_sys::Win32::Storage::FileSystem::{FILE_TYPE_DISK, GetFileSizeEx, GetFileType};
use windows_sys::Win32::System::IO::{CancelIoEx, OVERLAPPED, OVERLAPPED_0, OVERLAPPED_0_0};
use windows_sys::Win32::System::SystemInformation::OSVERSIONINFOEXW;
use windows_sys::Win32::System::SystemServices::VER_NT_WORKSTATION;

use crate::engine::SocketOptions;
use crate::numbers::{ECONNABORTED, ECONNREFUSED, ECONNRESET, ETIMEDOUT};

/// AcceptEx: "The number of bytes reserved for the local address information. This value must be at least 16 bytes more than the maximum address length".
const ADDRESS: usize = size_of::<SOCKADDR_STORAGE>() + 16;
pub(super) const ADDRESSES: usize = 2 * ADDRESS;

pub(super) type AcceptEx =
    unsafe extern "system" fn(SOCKET, SOCKET, *mut core::ffi::c_void, u32, u32, u32, *mut u32, *mut OVERLAPPED) -> windows_sys::core::BOOL;

pub(super) type ConnectEx = unsafe extern "system" fn(
    SOCKET,
    *const windows_sys::Win32::Networking::WinSock::SOCKADDR,
    i32,
    *const core::ffi::c_void,
    u32,
    *mut u32,
    *mut OVERLAPPED,
) -> windows_sys::core::BOOL;

pub(super) type TransmitFile =
    unsafe extern "system" fn(SOCKET, HANDLE, u32, u32, *mut OVERLAPPED, *const TRANSMIT_FILE_BUFFERS, u32) -> windows_sys::core::BOOL;

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

/// An address as Winsock has it.
pub(super) struct RawAddress {
    storage: SOCKADDR_STORAGE,
    length: i32,
}

impl RawAddress {
    pub(super) fn new(address: SocketAddr) -> Self {
        let mut storage = SOCKADDR_STORAGE::default();
        let place = &raw mut storage;
        let length = match address {
            SocketAddr::V4(address) => {
                let mut raw = SOCKADDR_IN { sin_family: AF_INET, sin_port: address.port().to_be(), ..SOCKADDR_IN::default() };
                raw.sin_addr.S_un.S_addr = u32::from_ne_bytes(address.ip().octets());
                // SAFETY: every address fits into the storage, which is aligned for it.
                unsafe { place.cast::<SOCKADDR_IN>().write(raw) };
                size_of::<SOCKADDR_IN>()
            }
            SocketAddr::V6(address) => {
                let mut raw = SOCKADDR_IN6 {
                    sin6_family: AF_INET6,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: address.flowinfo(),
                    ..SOCKADDR_IN6::default()
                };
                raw.sin6_addr.u.Byte = address.ip().octets();
                raw.Anonymous.sin6_scope_id = address.scope_id();
                // SAFETY: as above.
                unsafe { place.cast::<SOCKADDR_IN6>().write(raw) };
                size_of::<SOCKADDR_IN6>()
            }
        };
        RawAddress { storage, length: length as i32 }
    }
}

/// What the number is of. No other call may be made with it before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Listener,
    Stream,
    Datagram,
    Other,
}

/// # Errors
/// It is no socket.
pub(super) fn type_of(socket: SOCKET) -> io::Result<Type> {
    Ok(match option(socket, SO_TYPE)? {
        SOCK_STREAM if option(socket, SO_ACCEPTCONN)? != 0 => Type::Listener,
        SOCK_STREAM => Type::Stream,
        SOCK_DGRAM => Type::Datagram,
        _ => Type::Other,
    })
}

/// The socket's name. Of one that is not bound Windows tells none; it is no address of the socket's family and no port, as on Linux.
pub(super) fn local_address(socket: &impl AsRawSocket, name: io::Result<SocketAddr>) -> io::Result<SocketAddr> {
    if !name.as_ref().is_err_and(|error| error.raw_os_error() == Some(WSAEINVAL)) {
        return name;
    }
    let mut protocol = MaybeUninit::<WSAPROTOCOL_INFOW>::zeroed();
    let mut length = size_of::<WSAPROTOCOL_INFOW>() as i32;
    // SAFETY: `protocol` is writable for `length` bytes.
    let result =
        unsafe { getsockopt(socket.as_raw_socket() as SOCKET, SOL_SOCKET, SO_PROTOCOL_INFOW, protocol.as_mut_ptr().cast(), &mut length) };
    if result == SOCKET_ERROR {
        return Err(last_error());
    }
    // SAFETY: numbers and characters only, of which all zeros are valid.
    let six = unsafe { protocol.assume_init() }.iAddressFamily == i32::from(AF_INET6);
    Ok(if six { (Ipv6Addr::UNSPECIFIED, 0).into() } else { (Ipv4Addr::UNSPECIFIED, 0).into() })
}

/// Binds the socket; where no address is given, to whatever the system chooses of the family of `like`.
pub(super) fn bind_to(socket: &impl AsRawSocket, address: Option<SocketAddr>, like: SocketAddr) -> io::Result<()> {
    let any = match like {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let raw = RawAddress::new(address.unwrap_or(any));
    // SAFETY: the address is readable for its length.
    let result = unsafe { bind(socket.as_raw_socket() as SOCKET, (&raw const raw.storage).cast(), raw.length) };
    if result == SOCKET_ERROR { Err(last_error()) } else { Ok(()) }
}

fn option(socket: SOCKET, name: i32) -> io::Result<i32> {
    let mut value = 0i32;
    let mut length = size_of::<i32>() as i32;
    // SAFETY: `value` is writable for `length` bytes. (SO_ACCEPTCONN may fill less of it, and the rest is 0.)
    let result = unsafe { getsockopt(socket, SOL_SOCKET, name, (&raw mut value).cast(), &mut length) };
    if result == SOCKET_ERROR { Err(last_error()) } else { Ok(value) }
}

fn set_option<T>(socket: SOCKET, name: i32, value: &T) -> io::Result<()> {
    set_option_of(SOL_SOCKET, socket, name, value)
}

fn set_option_of<T>(level: i32, socket: SOCKET, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: `value` is readable for its size.
    let result = unsafe { setsockopt(socket, level, name, ptr::from_ref(value).cast(), size_of::<T>() as i32) };
    if result == SOCKET_ERROR { Err(last_error()) } else { Ok(()) }
}

/// Keep-alive that notices a peer which has gone without a word after two minutes (a minute of silence, then four probes), instead of the system's two hours.
pub(super) fn set_options(socket: &TcpStream, options: &SocketOptions) -> io::Result<()> {
    socket.set_nodelay(options.no_delay)?;
    set_option(number(socket), SO_KEEPALIVE, &i32::from(options.keep_alive))?;
    if options.keep_alive {
        for (name, value) in [(TCP_KEEPIDLE, 60), (TCP_KEEPINTVL, 15), (TCP_KEEPCNT, 4)] {
            // Windows has them since 10 1709; before that the system's times hold.
            let _ = set_option_of(IPPROTO_TCP, number(socket), name, &value);
        }
    }
    Ok(())
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

/// Asks the socket's provider for something, or tells it.
///
/// # Safety
/// `Input` and `Output` are what the request takes and fills, in any of their values.
unsafe fn request<Input, Output>(socket: &impl AsRawSocket, code: u32, input: &Input, output: &mut Output) -> io::Result<()> {
    let mut count = 0;
    // SAFETY: `input` is readable and `output` writable for their sizes, and both live until the call, which is not overlapped, returns; the rest is the caller's promise.
    let result = unsafe {
        WSAIoctl(
            socket.as_raw_socket() as SOCKET,
            code,
            ptr::from_ref(input).cast(),
            size_of::<Input>() as u32,
            ptr::from_mut(output).cast(),
            size_of::<Output>() as u32,
            &mut count,
            ptr::null_mut(),
            None,
        )
    };
    if result == SOCKET_ERROR { Err(last_error()) } else { Ok(()) }
}

/// AcceptEx as the listener's provider has it.
pub(super) fn accept_function(listener: &TcpListener) -> io::Result<AcceptEx> {
    let mut function: LPFN_ACCEPTEX = None;
    // SAFETY: a name goes in, and the function of that name, or none, comes out.
    unsafe { request(listener, SIO_GET_EXTENSION_FUNCTION_POINTER, &WSAID_ACCEPTEX, &mut function) }?;
    function.ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "the listener's network provider has no AcceptEx"))
}

/// Datagrams come to a socket that has an address; one that is only received from is given none by Windows. A failure is the first receive's to tell.
pub(super) fn bind_if_unbound(socket: &UdpSocket) {
    if socket.local_addr().is_ok_and(|address| address.port() != 0) {
        return;
    }
    for like in [SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))] {
        if bind_to(socket, None, like).is_ok() {
            return;
        }
    }
}

/// The socket as the driver below Winsock knows it, whatever lies in between.
pub(super) fn base(socket: &impl AsRawSocket) -> io::Result<SOCKET> {
    let mut base: SOCKET = INVALID_SOCKET;
    // SAFETY: nothing goes in, and a socket comes out.
    unsafe { request(socket, SIO_BASE_HANDLE, &(), &mut base) }?;
    Ok(base)
}

/// An answer that nobody was there for a datagram says nothing of those that come: it must not fail the next receive, as it does on Windows otherwise.
pub(super) fn ignore_unreachable(socket: &UdpSocket) {
    for code in [SIO_UDP_CONNRESET, SIO_UDP_NETRESET] {
        // SAFETY: a BOOL goes in. Where the provider does not know it (Wine the second), it has nothing to switch off.
        let _ = unsafe { request(socket, code, &0i32, &mut ()) };
    }
}

/// ConnectEx as the socket's provider has it.
pub(super) fn connect_function(socket: &TcpStream) -> io::Result<ConnectEx> {
    let mut function: LPFN_CONNECTEX = None;
    // SAFETY: as for AcceptEx.
    unsafe { request(socket, SIO_GET_EXTENSION_FUNCTION_POINTER, &WSAID_CONNECTEX, &mut function) }?;
    function.ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "the socket's network provider has no ConnectEx"))
}

/// Begins to connect; answers as Winsock does.
///
/// # Safety
/// `address`, `overlapped` and `socket` live until the packet has come.
pub(super) unsafe fn begin_connect(function: ConnectEx, socket: SOCKET, address: &RawAddress, overlapped: *mut OVERLAPPED) -> i32 {
    // SAFETY: the address is readable for its length; nothing is sent with it; the rest is the caller's promise.
    let connected =
        unsafe { function(socket, (&raw const address.storage).cast(), address.length, ptr::null(), 0, ptr::null_mut(), overlapped) };
    if connected != 0 { 0 } else { SOCKET_ERROR }
}

/// A connected socket becomes one like others: only then it has a peer, and can be shut down.
pub(super) fn complete_connect(socket: &TcpStream) -> io::Result<()> {
    // SAFETY: the option has no value.
    let result = unsafe { setsockopt(number(socket), SOL_SOCKET, SO_UPDATE_CONNECT_CONTEXT, ptr::null(), 0) };
    if result == SOCKET_ERROR { Err(last_error()) } else { Ok(()) }
}

/// Gives a socket the options of another one whose place it takes, as far as they matter.
pub(super) fn inherit(socket: &TcpStream, from: &TcpStream) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(from.nodelay()?)?;
    for name in [SO_KEEPALIVE, SO_RCVBUF, SO_SNDBUF, SO_EXCLUSIVEADDRUSE, SO_REUSEADDR] {
        let value = option(number(from), name)?;
        // What is off is so from the start, and the last two exclude one another.
        if value != 0 {
            set_option(number(socket), name, &value)?;
        }
    }
    Ok(())
}

/// Sends a datagram at once or not at all.
pub(super) fn send_datagram(socket: &UdpSocket, slices: &[IoSlice<'_>], address: Option<&RawAddress>) -> io::Result<()> {
    let (name, length) = address.map_or((ptr::null(), 0), |address| ((&raw const address.storage).cast(), address.length));
    let mut sent = 0;
    // SAFETY: an IoSlice is a WSABUF ("guaranteed to be ABI compatible with ... WSABUF on Windows"), all is readable until the call returns, and nothing is overlapped.
    let result = unsafe {
        WSASendTo(
            socket.as_raw_socket() as SOCKET,
            slices.as_ptr().cast(),
            slices.len() as u32,
            &mut sent,
            0,
            name,
            length,
            ptr::null_mut(),
            None,
        )
    };
    if result == SOCKET_ERROR { Err(last_error()) } else { Ok(()) }
}

/// Begins to send a datagram; answers as Winsock does.
///
/// # Safety
/// `bytes`, `address` and `overlapped` live until the packet has come.
pub(super) unsafe fn begin_send_to(socket: SOCKET, bytes: &[u8], address: Option<&RawAddress>, overlapped: *mut OVERLAPPED) -> i32 {
    let (name, length) = address.map_or((ptr::null(), 0), |address| ((&raw const address.storage).cast(), address.length));
    let buffer = WSABUF { len: bytes.len() as u32, buf: bytes.as_ptr().cast_mut() };
    // SAFETY: Winsock copies the WSABUF before it returns, and only reads what it names; the rest is the caller's promise.
    unsafe { WSASendTo(socket, &buffer, 1, ptr::null_mut(), 0, name, length, overlapped, None) }
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

/// TransmitFile as the socket's provider has it.
pub(super) fn transmit_function(socket: &TcpStream) -> io::Result<TransmitFile> {
    let mut function: LPFN_TRANSMITFILE = None;
    // SAFETY: as for AcceptEx.
    unsafe { request(socket, SIO_GET_EXTENSION_FUNCTION_POINTER, &WSAID_TRANSMITFILE, &mut function) }?;
    function.ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "the socket's network provider has no TransmitFile"))
}

/// Begins to send `length` bytes of a file, at least one; answers as Winsock does.
///
/// # Safety
/// `overlapped`, `file` and `socket` live until the packet has come.
pub(super) unsafe fn begin_transmit(
    function: TransmitFile,
    socket: SOCKET,
    file: HANDLE,
    offset: u64,
    length: u32,
    overlapped: *mut OVERLAPPED,
) -> i32 {
    let place = OVERLAPPED_0_0 { Offset: offset as u32, OffsetHigh: (offset >> 32) as u32 };
    // SAFETY: the caller's promise; the kernel has not got it yet.
    unsafe { (*overlapped).Anonymous = OVERLAPPED_0 { Anonymous: place } };
    // SAFETY: the caller's promise. Nothing goes before or after the file, and the size of each send is the system's to choose.
    let sent = unsafe { function(socket, file, length, 0, overlapped, ptr::null(), 0) };
    if sent != 0 { 0 } else { SOCKET_ERROR }
}

/// A copy of a file's handle for TransmitFile, and the file's size. None: it is no file on a disk.
pub(super) fn copy_of_file(file: HANDLE) -> Option<(OwnedHandle, u64)> {
    // SAFETY: no pointers are passed.
    if unsafe { GetFileType(file) } != FILE_TYPE_DISK {
        return None;
    }
    let mut size = 0;
    // SAFETY: `size` is writable.
    let known = unsafe { GetFileSizeEx(file, &mut size) } != 0;
    // SAFETY: it is open, as its source promises, which outlives this call.
    let copy = unsafe { BorrowedHandle::borrow_raw(file) }.try_clone_to_owned();
    known.then_some((copy.ok()?, size as u64))
}

/// How many bytes TCP has sent on the connection in all; None where it does not tell (before Windows 10 1703, and under Wine).
pub(super) fn bytes_out(socket: &TcpStream) -> Option<u64> {
    let mut info = TCP_INFO_v0::default();
    // SAFETY: the number of a version goes in, and that version comes out.
    unsafe { request(socket, SIO_TCP_INFO, &0u32, &mut info) }.ok()?;
    Some(info.BytesOut)
}

/// TransmitFile: "Workstation and client versions of Windows optimize the TransmitFile function for minimum memory and resource utilization by limiting the number of concurrent
/// TransmitFile operations allowed on the system to a maximum of two."
pub(super) fn sends_two_files_at_a_time() -> bool {
    let mut version = OSVERSIONINFOEXW { dwOSVersionInfoSize: size_of::<OSVERSIONINFOEXW>() as u32, ..OSVERSIONINFOEXW::default() };
    // SAFETY: writable for the size that it tells.
    let known = unsafe { RtlGetVersion((&raw mut version).cast()) } >= 0;
    !known || u32::from(version.wProductType) == VER_NT_WORKSTATION
}

/// What the kernel holds for the socket ends early; each operation still gets its packet.
pub(super) fn cancel(socket: &impl AsRawSocket) {
    // SAFETY: the socket is open; no operation is named, which means all. A failure says that there is none.
    unsafe { CancelIoEx(socket.as_raw_socket() as _, ptr::null()) };
}

/// As `cancel`, of one operation.
pub(super) fn cancel_one(socket: &impl AsRawSocket, overlapped: *const OVERLAPPED) {
    // SAFETY: the socket is open; the pointer is compared, and not followed.
    unsafe { CancelIoEx(socket.as_raw_socket() as _, overlapped) };
}

/// The error number of a packet, as Winsock's calls would tell it; 0: none. (The kernel tells NTSTATUS, whose Win32 numbers are not Winsock's.)
pub(super) fn number_of(status: usize) -> i32 {
    let status = status as NTSTATUS;
    if status >= 0 {
        return 0;
    }
    if status == STATUS_INVALID_CONNECTION {
        return WSAENOTCONN; // its Win32 number stands for others too; an accept whose client has reset ends so under Wine
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
        ERROR_DUP_NAME => WSAEADDRINUSE,
        ERROR_INVALID_NETNAME => WSAEADDRNOTAVAIL,
        number => number as i32,
    }
}
