//! What a stream's bytes go over: a TCP socket, or a named pipe's end; and what they are received into. Nothing here waits.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::windows::io::{IntoRawHandle, IntoRawSocket, OwnedHandle};

use windows_sys::Win32::Networking::WinSock::{SOCKET, WSAEOPNOTSUPP, WSAEWOULDBLOCK};
use windows_sys::Win32::System::IO::OVERLAPPED;

use super::pipe::{self, PipeEnd};
use super::socket;
use crate::buffer::{LargeBuffer, Outgoing, RECEIVE_SIZE};
use crate::engine::Address;
use crate::numbers::EIO;

pub(super) enum Line {
    Socket(TcpStream),
    Pipe(PipeEnd),
}

/// The leader's.
pub(super) struct ReceiveMemory {
    pub(super) scratch: Box<[u8]>,
    /// For a read from a pipe that does not wait; until the release.
    pub(super) event: Option<OwnedHandle>,
    /// A large buffer that was asked for and not used.
    pub(super) spare: Option<Box<dyn LargeBuffer>>,
}

impl ReceiveMemory {
    pub(super) fn new() -> io::Result<Self> {
        Ok(ReceiveMemory { scratch: vec![0; RECEIVE_SIZE].into(), event: Some(pipe::event()?), spare: None })
    }
}

impl Line {
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Line::Socket(socket) => Some(socket),
            Line::Pipe(_) => None,
        }
    }

    /// Gives it away.
    pub(super) fn disown(self) {
        match self {
            Line::Socket(socket) => _ = socket.into_raw_socket(),
            Line::Pipe(end) => _ = end.into_handle().into_raw_handle(),
        }
    }

    /// For what is begun while the line is not at hand.
    pub(super) fn raw(&self) -> Raw {
        match self {
            Line::Socket(socket) => Raw::Socket(socket::number(socket)),
            Line::Pipe(end) => Raw::Pipe(end.raw().addr()),
        }
    }

    pub(super) fn local_address(&self) -> io::Result<Address> {
        match self {
            Line::Socket(socket) => socket::local_address(socket, socket.local_addr()).map(Address::Internet),
            Line::Pipe(end) => Ok(Address::Pipe(Some(end.name().to_owned()))),
        }
    }

    pub(super) fn read(&mut self, memory: &mut [u8], event: &OwnedHandle) -> io::Result<usize> {
        match self {
            Line::Socket(socket) => socket.read(memory),
            Line::Pipe(end) => end.read(memory, event),
        }
    }

    /// A pipe has only writes that the kernel may keep, and says of each at once whether it does.
    pub(super) fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Line::Socket(socket) => socket.write_vectored(slices),
            Line::Pipe(_) => Err(io::Error::from_raw_os_error(WSAEWOULDBLOCK)),
        }
    }

    /// # Errors
    /// EOPNOTSUPP: a pipe has no half-close.
    pub(super) fn shut_write(&self) -> io::Result<()> {
        match self {
            Line::Socket(socket) => socket.shutdown(Shutdown::Write),
            Line::Pipe(_) => Err(io::Error::from_raw_os_error(WSAEOPNOTSUPP)),
        }
    }

    pub(super) fn cancel(&self) {
        match self {
            Line::Socket(socket) => socket::cancel(socket),
            Line::Pipe(end) => end.cancel(),
        }
    }

    /// The peer sees a reset, at the latest when it is closed.
    pub(super) fn reset(&self) {
        match self {
            Line::Socket(socket) => socket::reset_at_close(socket),
            Line::Pipe(end) => end.reset(),
        }
    }

    /// Whether what looks like an end may be a reset: the socket has no peer any more.
    pub(super) fn has_lost_its_peer(&self) -> bool {
        self.tcp().is_some_and(|socket| socket.peer_addr().is_err())
    }

    /// The number as Winsock has it, of an operation that has failed.
    pub(super) fn number_of(&self, number: i32) -> i32 {
        match self {
            Line::Socket(_) => number,
            Line::Pipe(_) => pipe::number_of_stream(number),
        }
    }
}

/// A line's number; it is open as long as something is pending on it.
#[derive(Clone, Copy)]
pub(super) enum Raw {
    Socket(SOCKET),
    Pipe(usize),
}

impl Raw {
    /// # Safety
    /// The line is open, and `overlapped` lives until the packet has come.
    pub(super) unsafe fn begin_receive_nothing(self, overlapped: *mut OVERLAPPED) -> i32 {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Raw::Socket(number) => socket::begin_receive_nothing(number, overlapped),
                Raw::Pipe(number) => PipeEnd::begin_receive_nothing(number as _, overlapped),
            }
        }
    }

    /// # Safety
    /// The line is open, and `bytes` and `overlapped` live until the packet has come.
    pub(super) unsafe fn begin_send(self, bytes: &[u8], overlapped: *mut OVERLAPPED) -> i32 {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Raw::Socket(number) => socket::begin_send(number, bytes, overlapped),
                Raw::Pipe(number) => PipeEnd::begin_send(number as _, bytes, overlapped),
            }
        }
    }

    /// Whether what is begun and done at once is told as such.
    pub(super) fn is_pipe(self) -> bool {
        matches!(self, Raw::Pipe(_))
    }
}

pub(super) const SLICES_A_SEND: usize = 16;

/// A copy of the first bytes left, at most so many.
pub(super) fn first_bytes(data: &Outgoing, limit: usize) -> Box<[u8]> {
    let mut bytes = Vec::with_capacity(limit.min(data.len()));
    let mut slices = [IoSlice::new(&[]); SLICES_A_SEND];
    let count = data.slices(&mut slices);
    for slice in &slices[..count] {
        bytes.extend_from_slice(&slice[..slice.len().min(limit - bytes.len())]);
    }
    bytes.into()
}

/// An error number; 0 at the end.
pub(super) fn read(line: &mut Line, memory: &mut [u8], event: &OwnedHandle) -> Result<usize, i32> {
    match line.read(memory, event) {
        Ok(0) => Err(0),
        Ok(count) => Ok(count),
        Err(error) => Err(error.raw_os_error().unwrap_or(EIO)),
    }
}
