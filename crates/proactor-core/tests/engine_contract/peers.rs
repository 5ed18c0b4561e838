//! The other end of a real socket, on every platform.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::worlds::Peer;

pub struct SocketPeer {
    pub stream: TcpStream,
    /// Our side has finished.
    finished: bool,
    ended: bool,
    reset: bool,
}

impl SocketPeer {
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(SocketPeer { stream, finished: false, ended: false, reset: false })
    }
}

impl Peer for SocketPeer {
    fn send(&mut self, bytes: &[u8]) -> usize {
        match self.stream.write(bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => panic!("the peer cannot send: {error}"),
        }
    }

    fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("the peer finishes");
        self.finished = true;
    }

    fn reset(self) {
        reset_at_close(&self.stream);
    }

    fn received(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut memory = vec![0; 65_536];
        loop {
            match self.stream.read(&mut memory) {
                Ok(0) => {
                    self.ended = true;
                    // Wine shows a reset as an end to whoever had no receive pending; but then the socket has no peer any more.
                    self.reset |= cfg!(windows) && !self.finished && self.stream.peer_addr().is_err();
                    return bytes;
                }
                Ok(count) => bytes.extend_from_slice(&memory[..count]),
                Err(error) => {
                    self.reset |= error.kind() == io::ErrorKind::ConnectionReset;
                    return bytes;
                }
            }
        }
    }

    fn ended(&mut self) -> bool {
        if !self.ended {
            assert_eq!(self.received(), b"", "take the bytes first");
        }
        self.ended
    }

    fn was_reset(&mut self) -> bool {
        if !self.reset {
            self.received();
        }
        self.reset
    }
}

#[cfg(unix)]
fn reset_at_close(stream: &TcpStream) {
    use std::os::fd::AsRawFd;
    set_option(stream.as_raw_fd(), libc::SO_LINGER, libc::linger { l_onoff: 1, l_linger: 0 });
}

#[cfg(windows)]
fn reset_at_close(stream: &TcpStream) {
    use std::os::windows::io::AsRawSocket;
    use windows_sys::Win32::Networking::WinSock::{LINGER, SO_LINGER};
    set_option(stream.as_raw_socket() as usize, SO_LINGER, LINGER { l_onoff: 1, l_linger: 0 });
}

#[cfg(unix)]
pub fn set_option<T>(descriptor: i32, name: i32, value: T) {
    // SAFETY: `value` is readable for its size.
    let result = unsafe {
        libc::setsockopt(descriptor, libc::SOL_SOCKET, name, std::ptr::from_ref(&value).cast(), size_of::<T>() as libc::socklen_t)
    };
    assert_eq!(result, 0, "sets an option: {}", io::Error::last_os_error());
}

#[cfg(windows)]
pub fn set_option<T>(socket: usize, name: i32, value: T) {
    use windows_sys::Win32::Networking::WinSock::{SOL_SOCKET, setsockopt};
    // SAFETY: `value` is readable for its size.
    let result = unsafe { setsockopt(socket, SOL_SOCKET, name, std::ptr::from_ref(&value).cast(), size_of::<T>() as i32) };
    assert_eq!(result, 0, "sets an option: {}", io::Error::last_os_error());
}
