//! The engine's state of a datagram socket, under one lock. Knows nothing of who polls.
//!
//! * **Receiving.** The driver is asked to tell when something is there (`afd.rs`), and the poll takes it with receives that do not wait. (A receive of no bytes would take a datagram away, and one
//!   that only looks completes with an error of which it is not said whether a packet follows.)
//! * **Sending.** A datagram is sent at once. Where there is no room it is copied into an operation, which completes when it was sent. A copy counts as taken by the kernel.
//! * **`close`** is as a stream's: the number is given back when nothing is pending.

use std::io::{self, IoSlice};
use std::net::UdpSocket;
use std::os::windows::io::AsRawSocket;

use windows_sys::Win32::Networking::WinSock::{SD_SEND, SOCKET, SOCKET_ERROR, WSAEWOULDBLOCK, shutdown};

use super::operation::{Letter, What};
use super::socket::{self, RawAddress};
use super::{Iocp, afd};
use crate::buffer::{Copied, Outgoing, Received};
use crate::completion::{Completion, Datagram, Outcome, Token};
use crate::engine::{Address, Handle, Submission};
use crate::numbers::{EALREADY, EBADF, EINVAL, EIO};
use crate::sync::Mutex;

pub(super) struct Datagrams(Mutex<State>);

#[derive(Default)]
struct State {
    /// None once it is closed.
    socket: Option<UdpSocket>,
    /// Closed, and kept until nothing is pending.
    closing: Option<UdpSocket>,
    receiving: bool,
    /// There is something to receive, as far as is known.
    readable: bool,
    /// The question that is pending whether there is.
    question: Option<usize>,
    /// On the poll's list of those to be received from, or on the way there.
    listed: bool,
    /// How many datagrams the kernel holds.
    letters: usize,
    /// The number of the last of them.
    number: u64,
    /// That of a send that is to complete, and its size.
    pending: Option<(u64, usize)>,
    /// Of the last pending send that is over: how many bytes were taken.
    taken: usize,
}

impl Datagrams {
    pub(super) fn new(socket: UdpSocket) -> Self {
        Datagrams(Mutex::new(State { socket: Some(socket), ..State::default() }))
    }

    pub(super) fn local_address(&self) -> io::Result<std::net::SocketAddr> {
        let state = self.0.lock();
        let socket = state.socket()?;
        socket::local_address(socket, socket.local_addr())
    }

    /// The peer of what is sent without an address, and the only one that is received from.
    pub(super) fn connect(&self, address: &Address) -> Submission {
        let connected = match address {
            Address::Internet(address) => self.0.lock().socket().and_then(|socket| socket.connect(address)),
            Address::Unix(_) | Address::Pipe(_) => Err(io::Error::from_raw_os_error(EINVAL)),
        };
        match connected {
            Ok(()) => Submission::Done { bytes: 0 },
            Err(error) => Submission::Failed { error, sent: 0, unsent: 0 },
        }
    }

    pub(super) fn shut_write(&self) -> io::Result<()> {
        let state = self.0.lock();
        // SAFETY: the socket is open.
        let result = unsafe { shutdown(state.socket()?.as_raw_socket() as SOCKET, SD_SEND) };
        if result == SOCKET_ERROR { Err(socket::last_error()) } else { Ok(()) }
    }

    /// True: the handle is to be listed.
    #[must_use]
    pub(super) fn receive(&self, handle: &Handle, iocp: &Iocp) -> bool {
        let mut state = self.0.lock();
        state.receiving = true;
        if let Some(socket) = &state.socket {
            socket::bind_if_unbound(socket);
        }
        state.ask(handle, iocp);
        state.list()
    }

    pub(super) fn pause(&self) {
        self.0.lock().receiving = false;
    }

    /// The driver has answered. True: the handle is to be listed.
    #[must_use]
    pub(super) fn answered(&self) -> bool {
        let mut state = self.0.lock();
        state.question = None;
        // Whatever it says: the next receive tells what there is.
        state.readable = true;
        let closed = state.close_when_idle();
        let list = state.list();
        drop(state);
        drop(closed);
        list
    }

    /// Receives some, until about so many bytes have come. Only `poll`. How many they were, and whether it is to be received from again.
    pub(super) fn take(
        &self,
        handle: &Handle,
        token: Token,
        iocp: &Iocp,
        memory: &mut [u8],
        completions: &mut Vec<Completion>,
        limit: usize,
    ) -> (usize, bool) {
        let mut state = self.0.lock();
        state.listed = false;
        let mut taken = 0;
        for _ in 0..DATAGRAMS_A_TURN {
            if !state.receiving || taken >= limit {
                break;
            }
            let Some(socket) = &state.socket else { break };
            let outcome = match socket.recv_from(memory) {
                Ok((count, sender)) => {
                    taken += count;
                    let bytes = Received::Small(Copied::of(&memory[..count]));
                    // The memory is as large as the largest datagram.
                    let datagram = Datagram { bytes, sender: Some(Address::Internet(sender)), truncated: false };
                    Outcome::ReceivedFrom(Box::new(datagram))
                }
                Err(error) if error.raw_os_error() == Some(WSAEWOULDBLOCK) => {
                    state.readable = false;
                    state.ask(handle, iocp);
                    break;
                }
                Err(error) => {
                    // One at a time: whoever is told may want no more.
                    completions.push(Completion { token, outcome: Outcome::ReceiveFailed(error) });
                    break;
                }
            };
            completions.push(Completion { token, outcome });
        }
        (taken, state.list())
    }

    pub(super) fn send(&self, handle: &Handle, iocp: &Iocp, data: &Outgoing, address: Option<&Address>) -> Submission {
        match self.0.lock().send(handle, iocp, data, address) {
            Ok(true) => Submission::Done { bytes: data.len() },
            Ok(false) => Submission::Pending,
            Err(error) => Submission::Failed { error, sent: 0, unsent: data.len() },
        }
    }

    /// The packet of a datagram has come. The outcome, unless the send was given up.
    pub(super) fn sent(&self, letter: u64, number: i32) -> Option<Outcome> {
        let mut state = self.0.lock();
        state.letters -= 1;
        let pending = state.pending.take_if(|(pending, _)| *pending == letter);
        if let Some((_, bytes)) = pending {
            state.taken = if number == 0 { bytes } else { 0 };
        }
        let closed = state.close_when_idle();
        let open = state.socket.is_some();
        drop(state);
        drop(closed);
        let (_, bytes) = pending.filter(|_| open)?;
        Some(match number {
            0 => Outcome::Sent { bytes },
            number => Outcome::SendFailed { error: io::Error::from_raw_os_error(number), sent: 0, unsent: bytes },
        })
    }

    /// The kernel has all of it.
    pub(super) fn give_up(&self) -> Option<usize> {
        self.0.lock().pending.take().map(|(_, bytes)| bytes)
    }

    pub(super) fn taken(&self) -> usize {
        self.0.lock().taken
    }

    /// What the kernel holds ends early. Each still gets its packet.
    pub(super) fn cancel(&self) {
        if let Some(socket) = &self.0.lock().socket {
            socket::cancel(socket);
        }
    }

    pub(super) fn close(&self, iocp: &Iocp) {
        let mut state = self.0.lock();
        let Some(socket) = state.socket.take() else { return };
        if state.letters > 0 {
            socket::cancel(&socket);
        }
        if let Some(question) = state.question {
            iocp.operations.cancel_question(&iocp.afd, question);
        }
        state.closing = Some(socket);
        let closed = state.close_when_idle();
        drop(state);
        drop(closed);
    }
}

impl State {
    fn socket(&self) -> io::Result<&UdpSocket> {
        self.socket.as_ref().ok_or_else(|| io::Error::from_raw_os_error(EBADF))
    }

    /// Asks whether there is something to receive, unless that is known, or asked already.
    fn ask(&mut self, handle: &Handle, iocp: &Iocp) {
        let Some(socket) = &self.socket else { return };
        if self.readable || self.question.is_some() {
            return;
        }
        match iocp.ask(handle, socket, afd::RECEIVE) {
            Ok(question) => self.question = Some(question),
            // The poll then receives until it is told why.
            Err(_) => self.readable = true,
        }
    }

    /// Whether the handle must get onto the list; then it is said to be there.
    fn list(&mut self) -> bool {
        let must = !self.listed && self.receiving && self.readable && self.socket.is_some();
        self.listed |= must;
        must
    }

    /// False: its packet will tell.
    fn send(&mut self, handle: &Handle, iocp: &Iocp, data: &Outgoing, address: Option<&Address>) -> io::Result<bool> {
        let socket = self.socket()?;
        if self.pending.is_some() {
            return Err(io::Error::from_raw_os_error(EALREADY));
        }
        let address = match address {
            None => None,
            Some(Address::Internet(address)) => Some(RawAddress::new(*address)),
            Some(Address::Unix(_) | Address::Pipe(_)) => return Err(io::Error::from_raw_os_error(EINVAL)),
        };
        let mut slices = [IoSlice::new(&[]); SLICES_A_SEND];
        let count = data.slices(&mut slices).max(1); // a datagram may be empty
        let whole = slices.iter().map(|slice| slice.len()).sum::<usize>() == data.len();
        let joined = if whole { Vec::new() } else { data.to_vec() }; // in more pieces than one call takes
        let sent = if whole {
            socket::send_datagram(socket, &slices[..count], address.as_ref())
        } else {
            socket::send_datagram(socket, &[IoSlice::new(&joined)], address.as_ref())
        };
        match sent {
            Ok(()) => return Ok(true),
            Err(error) if error.raw_os_error() == Some(WSAEWOULDBLOCK) => {}
            Err(error) => return Err(error),
        }
        let number = socket.as_raw_socket() as SOCKET;
        let letter = Letter { number: self.number + 1, bytes: if whole { data.to_vec() } else { joined }, address };
        iocp.operations
            .begin(handle, What::Datagram(Box::new(letter)), |overlapped, what| {
                let What::Datagram(letter) = what else { unreachable!("it was just made") };
                // SAFETY: bytes and address belong to the operation, which lives until its packet has come.
                unsafe { socket::begin_send_to(number, &letter.bytes, letter.address.as_ref(), overlapped) }
            })
            .map_err(|error| error.raw_os_error().map_or_else(|| io::Error::from_raw_os_error(EIO), io::Error::from_raw_os_error))?;
        self.number += 1;
        self.letters += 1;
        self.pending = Some((self.number, data.len()));
        Ok(false)
    }

    /// The socket to close, once nothing is pending on it.
    #[must_use = "to be dropped after the lock is released"]
    fn close_when_idle(&mut self) -> Option<UdpSocket> {
        if self.letters > 0 || self.question.is_some() { None } else { self.closing.take() }
    }
}

/// So many come from one socket before another one has its turn.
const DATAGRAMS_A_TURN: usize = 16;
const SLICES_A_SEND: usize = 16;
