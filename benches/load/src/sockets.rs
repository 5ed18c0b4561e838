//! Sockets as the generator and the bare server need them: bound sources, bounded connects, no lingering.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::time::Duration;

use crate::message::Pattern;

/// More than this many connects at once would fill the servers' accept queues (net.core.somaxconn is 4096).
const BATCH: usize = 256;
/// A server that does not answer for so long is taken for dead.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connects, waiting at most `PATIENCE`. Connection number `number` to a loopback address comes from one of 32 loopback addresses, so that
/// tens of thousands of closed connections in TIME_WAIT leave ports to take.
pub fn connect(address: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let SocketAddr::V4(target) = address else {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        return Ok(stream);
    };
    // SAFETY: socket() takes no pointers.
    let descriptor = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was just made and nobody else owns it.
    let stream = unsafe { TcpStream::from_raw_fd(descriptor) };
    stream.set_nodelay(true)?;
    // Also bounds connect(2).
    stream.set_write_timeout(Some(PATIENCE))?;
    if target.ip().is_loopback() {
        let source = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2 + (number % 32) as u8), 0);
        // Without it bind(2) would take a port that is free for every destination, and run out.
        set_option(descriptor, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, &1i32)?;
        // SAFETY: the pointer and the length describe one sockaddr_in that outlives the call.
        check(unsafe { libc::bind(descriptor, (&raw const *raw_address(source)).cast(), size_of::<libc::sockaddr_in>() as u32) })?;
    }
    // SAFETY: as above.
    check(unsafe { libc::connect(descriptor, (&raw const *raw_address(target)).cast(), size_of::<libc::sockaddr_in>() as u32) })?;
    Ok(stream)
}

/// Opens `count` connections and exchanges one echo on each: when this returns, the server has accepted and served every one of them.
pub fn connect_and_prove(address: SocketAddr, count: usize, size: usize, pattern: &Pattern) -> io::Result<Vec<TcpStream>> {
    let mut streams: Vec<TcpStream> = Vec::with_capacity(count);
    while streams.len() < count {
        let first = streams.len();
        for number in first..(first + BATCH).min(count) {
            streams.push(connect(address, number)?);
        }
        echo_once(&mut streams[first..], first, size, pattern)?;
    }
    Ok(streams)
}

/// One verified echo on each stream; the first has the number `first`. The message's command byte says echo.
pub fn echo_once(streams: &mut [TcpStream], first: usize, size: usize, pattern: &Pattern) -> io::Result<()> {
    let mut message = Vec::new();
    let mut answer = vec![0; size];
    for (index, stream) in streams.iter_mut().enumerate() {
        crate::message::write_message(&mut message, pattern, first + index, 0, size, 0);
        stream.write_all(&message)?;
    }
    for (index, stream) in streams.iter_mut().enumerate() {
        crate::message::write_message(&mut message, pattern, first + index, 0, size, 0);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read_exact(&mut answer)?;
        if answer != message {
            return Err(io::Error::other(format!("connection {}: the echo differs", first + index)));
        }
    }
    Ok(())
}

/// Listens on 127.0.0.1 with the largest backlog the kernel allows.
pub fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))?;
    // The standard library asks for 128; a second listen(2) only changes the number.
    // SAFETY: listen() takes no pointers and the descriptor is open.
    check(unsafe { libc::listen(listener.as_raw_fd(), 4096) })?;
    Ok(listener)
}

/// From now on close(2) sends a reset and leaves no TIME_WAIT behind.
pub fn close_with_reset(stream: &TcpStream) -> io::Result<()> {
    set_option(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 })
}

/// Raises the soft limit of open descriptors to the hard one; says so when that is too little.
pub fn need_descriptors(count: usize) -> Result<(), String> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointers describe one rlimit that outlives both calls.
    let done = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
    };
    if done != 0 || limit.rlim_max < count as u64 + 50 {
        return Err(format!("{count} connections need more descriptors than this process may open ({}); see ulimit -n", limit.rlim_max));
    }
    Ok(())
}

fn raw_address(address: SocketAddrV4) -> Box<libc::sockaddr_in> {
    Box::new(libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    })
}

fn set_option<T>(descriptor: RawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length describe one T that outlives the call.
    check(unsafe { libc::setsockopt(descriptor, level, name, (&raw const *value).cast(), size_of::<T>() as u32) })?;
    Ok(())
}

pub fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
