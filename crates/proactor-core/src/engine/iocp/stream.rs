//! The engine's state of a connection, under one lock: what is wanted, what the kernel holds. Knows nothing of who polls.
//!
//! * **Receiving.** A receive of no bytes is pending while nothing is there to receive, so an idle connection holds no buffer. Its packet says that there is something, and the poll
//!   takes it with ordinary receives that do not wait, as many as fit into a poll; then the next receive of no bytes is begun. While receiving is paused, what is there stays there.
//! * **Sending.** What the kernel takes at once it takes from the owner's memory. When it takes no more, up to `CHUNK` bytes are copied into an operation of their own, and its packet
//!   has the rest go on. So the owner gets the bytes back at a close, or when they are given up, although the kernel still reads the copy. A copy counts as taken by the kernel.
//! * **A reset while receiving is paused** would be told by nothing once bytes are unread: then the driver is asked for it (`afd.rs`).
//! * **`close` takes the socket away at once**, so nothing uses it but under the lock; the peer sees the end at once. What is pending is cancelled, and its packets still come; the
//!   number is given back with the last of them, so that it is never another's under a live operation. (Windows itself counts references; under Wine a send that was pending
//!   went out on the successor.) Only a reset, which needs the close, does not wait for a receive of no bytes, nor for the driver's answer.

mod connecting;
mod files;

pub(super) use files::Transmitting;

use std::io::{self, IoSlice, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};

use windows_sys::Win32::Networking::WinSock::{WSAENOBUFS, WSAEWOULDBLOCK};

use super::line::{Line, ReceiveMemory, SLICES_A_SEND, first_bytes, read};
use super::operation::{Operations, What};
use super::{Iocp, afd, socket};
use crate::buffer::{Copied, LARGE_RECEIVE, Outgoing, Received};
use crate::completion::Outcome;
use crate::engine::{Address, Closing, Handle, SocketOptions, Submission};
use crate::numbers::{EALREADY, EBADF, ECANCELED, ECONNRESET, EIO, ENOTCONN, EPIPE};
use crate::sync::Mutex;

pub(super) struct Stream(Mutex<State>);

#[derive(Default)]
struct State {
    /// None once it is closed, or somebody else's.
    line: Option<Line>,
    /// Closed, and kept until nothing is pending.
    closing: Option<Line>,
    receiving: bool,
    /// There is something to receive, an end or an error included, as far as is known.
    readable: bool,
    /// A receive of no bytes is pending.
    probing: bool,
    /// On the poll's list of those to be received from, or on the way there.
    listed: bool,
    /// The end was told: nothing more is received, but a failure may follow.
    ended: bool,
    /// A failure was told: nothing follows.
    failed: bool,
    /// The last receive was large.
    large: bool,
    write_shut: bool,
    /// What ended the connection, once somebody was told; else 0. The system tells it only once.
    error: i32,
    flight: Option<Flight>,
    /// Copies that the kernel took at once, whose packets come all the same.
    taken_at_once: usize,
    unsent: Option<Box<Unsent>>,
    /// The piece of a file that is being sent.
    transfer: Option<Box<files::Transfer>>,
    /// Of the last pending send that is over: how many bytes were taken.
    taken: usize,
    /// The question that is pending whether the connection was reset.
    watch: Option<usize>,
    /// What attempts to connect need; None as long as there was none.
    attempts: Option<Box<Attempts>>,
}

struct Attempts {
    /// That of the last one.
    number: u64,
    pending: bool,
    /// One has succeeded.
    linked: bool,
    /// What its owner had bound the socket to.
    local: Option<SocketAddr>,
    /// The sockets of attempts that were cancelled, with their numbers, until their packets have come.
    former: Vec<(u64, TcpStream)>,
}

/// The copy that the kernel sends from.
struct Flight {
    /// The operation's address, by which its packet is known from those of copies that were taken at once.
    operation: usize,
    length: usize,
    /// It is what is left of a send that was given up.
    given_up: bool,
}

struct Unsent {
    data: Outgoing,
    sent: usize,
}

/// What became of the bytes that were to be sent.
enum Progress {
    All,
    /// A copy of what comes next is with the kernel.
    InFlight,
}

/// What a receive brought.
pub(super) struct Taken {
    pub(super) outcome: Option<Outcome>,
    pub(super) bytes: usize,
    /// It is to be received from again.
    pub(super) stays: bool,
}

impl Stream {
    pub(super) fn new(line: Line) -> Self {
        Stream(Mutex::new(State { line: Some(line), ..State::default() }))
    }

    /// The socket, which is the caller's from here on.
    pub(super) fn disown(&self) {
        if let Some(line) = self.0.lock().line.take() {
            line.disown();
        }
    }

    pub(super) fn configure(&self, options: &SocketOptions) {
        if let Some(socket) = tcp(&self.0.lock().line) {
            // As for an accepted one: a failure is the first receive's to tell.
            let _ = socket::set_options(socket, options);
        }
    }

    pub(super) fn local_address(&self) -> io::Result<Address> {
        self.0.lock().line.as_ref().map_or_else(|| Err(io::Error::from_raw_os_error(EBADF)), Line::local_address)
    }
    /// True: the handle is to be listed.
    #[must_use]
    pub(super) fn receive(&self, handle: &Handle, operations: &Operations) -> bool {
        let mut state = self.0.lock();
        if state.line.is_none() || state.ended || state.failed {
            return false;
        }
        state.receiving = true;
        if state.is_unlinked() {
            return false; // it begins with the connection
        }
        if !state.readable && state.error == 0 {
            state.probe(handle, operations);
        }
        state.list()
    }

    pub(super) fn pause(&self, handle: &Handle, iocp: &Iocp) {
        let mut state = self.0.lock();
        state.receiving = false;
        if state.readable {
            state.watch_for_reset(handle, iocp);
        }
    }

    /// The packet of a receive of no bytes has come. True: the handle is to be listed.
    #[must_use]
    pub(super) fn readable(&self, handle: &Handle, iocp: &Iocp, number: i32) -> bool {
        let mut state = self.0.lock();
        state.probing = false;
        if state.line.is_none() {
            let closed = state.close_when_idle();
            drop(state);
            drop(closed);
            return false;
        }
        state.readable = true;
        if number != 0 && number != ECANCELED {
            state.keep_of_receive(number);
        }
        if !state.receiving {
            state.watch_for_reset(handle, iocp);
        }
        state.list()
    }

    /// The driver has answered; the events. True: the handle is to be listed.
    #[must_use]
    pub(super) fn answered(&self, events: u32) -> bool {
        let mut state = self.0.lock();
        state.watch = None;
        if state.line.is_none() {
            let closed = state.close_when_idle();
            drop(state);
            drop(closed);
            return false;
        }
        if events & afd::ABORT != 0 {
            state.keep(ECONNRESET);
        }
        state.list()
    }

    /// Receives once. Only `poll`.
    pub(super) fn take(&self, handle: &Handle, iocp: &Iocp, memory: &mut ReceiveMemory) -> Taken {
        let mut state = self.0.lock();
        state.listed = false;
        if state.failed || state.line.is_none() {
            return Taken { outcome: None, bytes: 0, stays: false };
        }
        if !state.receiving || state.ended {
            // Paused or over, so nobody would receive their way to the error.
            let outcome = (state.error != 0).then(|| state.fail());
            return Taken { outcome, bytes: 0, stays: false };
        }
        let (received, full) = match state.receive_once(iocp, memory) {
            Ok(taken) => taken,
            Err(WSAEWOULDBLOCK) if state.error == 0 => {
                state.readable = false;
                state.probe(handle, &iocp.operations);
                state.listed = state.wants_list();
                return Taken { outcome: None, bytes: 0, stays: state.listed };
            }
            Err(0) if state.error == 0 && !state.is_reset() => {
                state.ended = true;
                return Taken { outcome: Some(Outcome::Ended), bytes: 0, stays: false };
            }
            Err(number) => {
                if !matches!(number, 0 | WSAEWOULDBLOCK) {
                    state.keep(number);
                }
                return Taken { outcome: Some(state.fail()), bytes: 0, stays: false };
            }
        };
        if !full && state.error == 0 {
            state.readable = false;
            state.probe(handle, &iocp.operations); // an end or an error behind the bytes completes it at once
        }
        state.listed = state.wants_list();
        Taken { bytes: received.len(), outcome: Some(Outcome::Received(received)), stays: state.listed }
    }

    /// The submission; and whether the handle is to be listed, to tell an error.
    pub(super) fn send(&self, handle: &Handle, operations: &Operations, mut data: Outgoing) -> (Submission, bool) {
        let mut state = self.0.lock();
        let failed = |number, sent, unsent| Submission::Failed { error: io::Error::from_raw_os_error(number), sent, unsent };
        if state.line.is_none() {
            return (failed(EPIPE, 0, data.len()), false);
        }
        if state.is_unlinked() {
            return (failed(ENOTCONN, 0, data.len()), false);
        }
        if state.unsent.is_some() || state.transfer.is_some() {
            return (failed(EALREADY, 0, data.len()), false);
        }
        if data.is_empty() {
            return (Submission::Done { bytes: 0 }, false);
        }
        if state.error != 0 {
            return (failed(state.error, 0, data.len()), false);
        }
        let mut sent = 0;
        // After a send that was given up its last bytes go first.
        let progress =
            if state.flight.is_some() { Ok(Progress::InFlight) } else { state.transmit(handle, operations, &mut data, &mut sent) };
        match progress {
            Ok(Progress::All) => (Submission::Done { bytes: sent }, false),
            Ok(Progress::InFlight) => {
                state.unsent = Some(Box::new(Unsent { data, sent }));
                (Submission::Pending, false)
            }
            Err(number) => {
                let number = state.keep(number);
                (failed(number, sent, data.len()), state.list())
            }
        }
    }

    /// The packet of a copy that was sent. The outcome, if the send is over; and whether the handle is to be listed, to tell an error.
    pub(super) fn sent(&self, handle: &Handle, iocp: &Iocp, operation: usize, number: i32, bytes: usize) -> (Option<Outcome>, bool) {
        let mut state = self.0.lock();
        if !matches!(state.flight, Some(Flight { operation: flying, .. }) if flying == operation) {
            state.taken_at_once = state.taken_at_once.saturating_sub(1);
            let closed = if state.line.is_none() { state.close_when_idle() } else { None };
            drop(state);
            drop(closed);
            return (None, false);
        }
        let Some(flight) = state.flight.take() else { return (None, false) };
        if state.line.is_none() {
            let closed = state.close_when_idle();
            drop(state);
            drop(closed);
            return (None, false);
        }
        let Some(mut rest) = state.unsent.take() else {
            if number != 0 {
                state.keep(number);
            }
            return Self::begin_waiting_transfer(&mut state, handle, iocp); // given up, and no send has followed
        };
        if !flight.given_up {
            rest.sent += flight.length;
        }
        let progress = match number {
            0 if bytes == flight.length => {
                let Unsent { data, sent } = &mut *rest;
                state.transmit(handle, &iocp.operations, data, sent)
            }
            0 => Err(EIO), // a stream's overlapped send is whole
            number => Err(state.line.as_ref().map_or(number, |line| line.number_of(number))),
        };
        match progress {
            Ok(Progress::All) => {
                state.taken = rest.sent;
                (Some(Outcome::Sent { bytes: rest.sent }), false)
            }
            Ok(Progress::InFlight) => {
                state.unsent = Some(rest);
                (None, false)
            }
            Err(number) => {
                state.taken = rest.sent;
                let error = io::Error::from_raw_os_error(state.keep(number));
                (Some(Outcome::SendFailed { error, sent: rest.sent, unsent: rest.data.len() }), state.list())
            }
        }
    }

    pub(super) fn progress(&self) -> usize {
        let state = self.0.lock();
        match (&state.unsent, &state.transfer) {
            (Some(unsent), _) => unsent.sent,
            (None, Some(transfer)) => transfer.taken(&state) as usize,
            (None, None) => 0,
        }
    }

    pub(super) fn taken(&self) -> usize {
        self.0.lock().taken
    }

    /// What was taken of a pending send, the copy included that the kernel has.
    pub(super) fn give_up(&self, iocp: &Iocp) -> Option<usize> {
        let mut state = self.0.lock();
        if state.transfer.is_some() {
            return state.cancel_transfer(iocp).then_some(0);
        }
        let unsent = state.unsent.take()?;
        let mut sent = unsent.sent;
        if let Some(flight) = &mut state.flight
            && !flight.given_up
        {
            flight.given_up = true;
            sent += flight.length;
        }
        drop(state);
        drop(unsent);
        Some(sent)
    }

    pub(super) fn shut_write(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        let Some(line) = &state.line else { return Err(io::Error::from_raw_os_error(ENOTCONN)) };
        if !state.write_shut {
            line.shut_write()?;
            state.write_shut = true;
        }
        Ok(())
    }

    /// What the kernel holds ends early. Each still gets its packet.
    pub(super) fn cancel(&self) {
        if let Some(line) = &self.0.lock().line {
            line.cancel();
        }
    }

    pub(super) fn close(&self, how: Closing, iocp: &Iocp) {
        let mut state = self.0.lock();
        let unsent = state.unsent.take();
        state.taken = unsent.as_ref().map_or(state.taken, |unsent| unsent.sent);
        if state.transfer.is_some() {
            state.cancel_transfer(iocp);
        }
        let Some(line) = state.line.take() else { return };
        match (how, &line) {
            (Closing::Abort, _) => line.reset(),
            (Closing::Orderly, Line::Socket(socket)) => {
                // A socket that is closed with unread bytes sends a reset, which would destroy what is still on its way to the peer.
                let _ = socket.shutdown(Shutdown::Write);
                discard(socket);
            }
            // The peer may read what it was sent.
            (Closing::Orderly, Line::Pipe(_)) => {}
        }
        if state.probing || state.flight.is_some() || state.is_connecting() {
            line.cancel();
        }
        if let Some(question) = state.watch {
            iocp.operations.cancel_question(&iocp.afd, question);
        }
        let closed = if how == Closing::Abort && state.flight.is_none() && state.transfer.is_none() && !state.is_connecting() {
            Some(line)
        } else {
            state.closing = Some(line);
            state.close_when_idle()
        };
        drop(state);
        drop((closed, unsent));
    }
}

impl State {
    /// Begins a receive of no bytes, unless one is pending.
    fn probe(&mut self, handle: &Handle, operations: &Operations) {
        let Some(line) = &self.line else { return };
        if self.probing {
            return;
        }
        let raw = line.raw();
        // SAFETY: the line is open; the operation lives until its packet has come.
        match operations.begin(handle, What::Readable, |overlapped, _| unsafe { raw.begin_receive_nothing(overlapped) }) {
            Ok(_) => self.probing = true,
            Err(error) => {
                self.readable = true;
                self.keep_of_receive(error.raw_os_error().unwrap_or(EIO));
            }
        }
    }

    /// Asks to be told of a reset: something is there to receive and nobody receives it, so no receive would tell.
    fn watch_for_reset(&mut self, handle: &Handle, iocp: &Iocp) {
        let Some(socket) = tcp(&self.line) else { return };
        if self.watch.is_some() || self.ended || self.failed || self.error != 0 || self.is_unlinked() {
            return;
        }
        // Where it cannot be asked, the next receive or send tells, as always.
        self.watch = iocp.ask(handle, socket, afd::ABORT).ok();
    }

    /// Whether the handle must get onto the list; then it is said to be there.
    fn list(&mut self) -> bool {
        let must = !self.listed && self.wants_list();
        self.listed |= must;
        must
    }

    fn wants_list(&self) -> bool {
        !self.failed && self.line.is_some() && !self.is_unlinked() && (self.error != 0 || self.receiving && self.readable && !self.ended)
    }

    /// Keeps the first error that tells what became of the connection, and answers it: what follows is its consequence.
    fn keep(&mut self, number: i32) -> i32 {
        if self.error != 0 {
            return self.error;
        }
        if number == EPIPE && (self.write_shut || self.is_pipe()) {
            return number; // our own doing, and the receiver's no matter; nor that a pipe was closed, whose bytes are there to be read
        }
        // Otherwise what Winsock calls shut down was reset before.
        self.error = if number == EPIPE { ECONNRESET } else { number };
        self.error
    }

    /// As `keep`, of a receive: that a pipe's other end was closed is told after the bytes, by the next read.
    fn keep_of_receive(&mut self, number: i32) {
        let number = self.line.as_ref().map_or(number, |line| line.number_of(number));
        if number != EPIPE || !self.is_pipe() {
            self.keep(number);
        }
    }

    fn is_pipe(&self) -> bool {
        matches!(self.line, Some(Line::Pipe(_)))
    }

    /// Tells an end from a reset, which Wine shows as an end to whoever had no operation pending when it came. But the peer's end alone leaves our side open, and a reset closes
    /// both: then the socket has no peer any more.
    fn is_reset(&mut self) -> bool {
        let reset = !self.write_shut && self.line.as_ref().is_some_and(Line::has_lost_its_peer);
        if reset {
            self.keep(ECONNRESET);
        }
        reset
    }

    /// The socket to close, once nothing is pending on it.
    #[must_use = "to be dropped after the lock is released"]
    fn close_when_idle(&mut self) -> Option<Line> {
        if self.taken_at_once > 0
            || self.probing
            || self.flight.is_some()
            || self.transfer.is_some()
            || self.watch.is_some()
            || self.is_connecting()
        {
            None
        } else {
            self.closing.take()
        }
    }

    fn fail(&mut self) -> Outcome {
        self.failed = true;
        Outcome::ReceiveFailed(io::Error::from_raw_os_error(self.error))
    }

    /// What was received, and whether it filled the memory; or the error number, 0 at the end.
    fn receive_once(&mut self, iocp: &Iocp, memory: &mut ReceiveMemory) -> Result<(Received, bool), i32> {
        let (Some(line), Some(event)) = (&mut self.line, &memory.event) else { return Err(EBADF) };
        if self.large
            && let Some(mut buffer) = memory.spare.take().or_else(|| iocp.buffers.take())
        {
            let size = buffer.memory().len();
            let result = read(line, buffer.memory(), event);
            return match result {
                Ok(count) if count >= LARGE_RECEIVE / 2 => Ok((Received::Large { buffer, length: count }, count == size)),
                Ok(count) => {
                    let received = Received::Small(Copied::of(buffer.filled(count)));
                    memory.spare = Some(buffer);
                    self.large = false;
                    Ok((received, count == size))
                }
                Err(number) => {
                    memory.spare = Some(buffer);
                    Err(number)
                }
            };
        }
        let count = read(line, &mut memory.scratch, event)?;
        self.large = count >= LARGE_RECEIVE;
        Ok((Received::Small(Copied::of(&memory.scratch[..count])), count == memory.scratch.len()))
    }

    /// Sends until everything is taken, or a copy of what comes next is with the kernel. `sent` counts what was taken, the copy not included, which is out of `data`.
    fn transmit(&mut self, handle: &Handle, operations: &Operations, data: &mut Outgoing, sent: &mut usize) -> Result<Progress, i32> {
        let Some(line) = &mut self.line else { return Err(EBADF) };
        while !data.is_empty() {
            // In pieces: Winsock takes whatever it is given at once as long as its buffer has any room, and a peer that does not read must not cost its size.
            let result = match data.single() {
                Some(bytes) => line.write(&[IoSlice::new(&bytes[..bytes.len().min(CHUNK)])]),
                None => {
                    let mut slices = [IoSlice::new(&[]); SLICES_A_SEND];
                    let count = data.slices(&mut slices);
                    line.write(&slices[..count])
                }
            };
            match result.map_err(|error| error.raw_os_error().unwrap_or(EIO)) {
                Ok(count) => {
                    data.advance(count);
                    *sent += count;
                }
                Err(WSAEWOULDBLOCK) => {
                    let copy = first_bytes(data, CHUNK);
                    let length = copy.len();
                    let raw = line.raw();
                    let mut at_once = false;
                    let begun = operations.begin(handle, What::Send(copy), |overlapped, what| {
                        let What::Send(bytes) = what else { unreachable!("it was just made") };
                        // SAFETY: the line is open; the operation owns the bytes, and lives until its packet has come.
                        let result = unsafe { raw.begin_send(bytes, overlapped) };
                        at_once = result == 0 && raw.is_pipe();
                        result
                    });
                    let operation = begun.map_err(|error| line.number_of(error.raw_os_error().unwrap_or(WSAENOBUFS)))?;
                    data.advance(length);
                    if at_once {
                        *sent += length;
                        self.taken_at_once += 1;
                        continue;
                    }
                    self.flight = Some(Flight { operation, length, given_up: false });
                    return Ok(Progress::InFlight);
                }
                Err(number) => return Err(number),
            }
        }
        Ok(Progress::All)
    }
}

/// So much is given to the kernel at a time.
const CHUNK: usize = 64 * 1024;

/// Drops what has come, up to a limit: a peer that sends faster than this reads must not hold us here.
fn discard(mut socket: &TcpStream) {
    let mut memory = [0; 16 * 1024];
    for _ in 0..64 {
        if !matches!(socket.read(&mut memory), Ok(1..)) {
            return;
        }
    }
}

/// The socket of a line that is one.
fn tcp(line: &Option<Line>) -> Option<&TcpStream> {
    line.as_ref().and_then(Line::tcp)
}
