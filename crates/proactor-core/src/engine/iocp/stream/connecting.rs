//! Attempts to connect, of the stream's own socket. Knows nothing of who waits, or for how long.
//!
//! ConnectEx wants a socket that is bound. After an attempt that has failed or was cancelled a new socket takes the place of the old one, which is closed as soon as the kernel has given the
//! attempt back; it gets the old one's options, and the address that its owner had bound that to. Microsoft says that a socket may be used again after a refusal or a time-out, and nothing of
//! one whose attempt was cancelled; under Wine such an attempt goes on in secret, and the one after a refusal fails. A new socket is right everywhere.

use windows_sys::Win32::Networking::WinSock::SOCKET;

use super::super::operation::Attempt;
use super::super::socket::{ConnectEx, RawAddress};
use super::*;
use crate::engine::Address;
use crate::numbers::{EINVAL, EISCONN};

impl Stream {
    pub(in super::super) fn connect(&self, handle: &Handle, iocp: &Iocp, address: &Address) -> Submission {
        let failed = |error| Submission::Failed { error, sent: 0, unsent: 0 };
        let Address::Internet(address) = address else { return failed(io::Error::from_raw_os_error(EINVAL)) };
        match self.0.lock().begin_attempt(handle, iocp, *address) {
            Ok(()) => Submission::Pending,
            Err(error) => failed(error),
        }
    }

    /// False: none is pending.
    pub(in super::super) fn cancel_connect(&self, handle: &Handle, iocp: &Iocp) -> bool {
        let mut state = self.0.lock();
        if state.line.is_none() || !state.is_connecting() {
            return false;
        }
        let former = state.replace_socket(handle, iocp);
        let Some(attempts) = &mut state.attempts else { return false };
        attempts.pending = false;
        if let Some(former) = former {
            socket::cancel(&former);
            let number = attempts.number;
            attempts.former.push((number, former));
        }
        true
    }

    /// The packet of an attempt has come. The outcome, unless it was cancelled; and whether the handle is to be listed.
    pub(in super::super) fn connected(&self, handle: &Handle, iocp: &Iocp, attempt: u64, number: i32) -> (Option<Outcome>, bool) {
        let mut guard = self.0.lock();
        let state = &mut *guard;
        let Some(attempts) = &mut state.attempts else { return (None, false) };
        if let Some(place) = attempts.former.iter().position(|(number, _)| *number == attempt) {
            let former = attempts.former.swap_remove(place);
            drop(guard);
            drop(former); // connected or not
            return (None, false);
        }
        attempts.pending = false;
        let Some(socket) = tcp(&state.line) else {
            let closed = state.close_when_idle();
            drop(guard);
            drop(closed);
            return (None, false);
        };
        let result = if number == 0 { socket::complete_connect(socket) } else { Err(io::Error::from_raw_os_error(number)) };
        match result {
            Ok(()) => {
                attempts.linked = true;
                if state.receiving {
                    state.probe(handle, &iocp.operations);
                }
                (Some(Outcome::Connected), state.list())
            }
            Err(error) => {
                let former = state.replace_socket(handle, iocp);
                drop(guard);
                drop(former); // nothing is pending on it
                (Some(Outcome::ConnectFailed(error)), false)
            }
        }
    }
}

impl State {
    pub(super) fn is_connecting(&self) -> bool {
        self.attempts.as_ref().is_some_and(|attempts| attempts.pending)
    }

    /// An attempt was begun, and none has succeeded.
    pub(super) fn is_unlinked(&self) -> bool {
        self.attempts.as_ref().is_some_and(|attempts| !attempts.linked)
    }

    fn begin_attempt(&mut self, handle: &Handle, iocp: &Iocp, address: SocketAddr) -> io::Result<()> {
        let Some(socket) = tcp(&self.line) else {
            return Err(io::Error::from_raw_os_error(if self.line.is_some() { EISCONN } else { EBADF }));
        };
        if self.is_connecting() {
            return Err(io::Error::from_raw_os_error(EALREADY));
        }
        if self.attempts.as_ref().is_some_and(|attempts| attempts.linked) || socket.peer_addr().is_ok() {
            return Err(io::Error::from_raw_os_error(EISCONN));
        }
        let function = socket::connect_function(socket)?;
        let attempts = self.attempts.get_or_insert_with(|| Box::new(Attempts::of(socket)));
        if bound_to(socket).is_none() {
            socket::bind_to(socket, attempts.local, address)?;
        }
        let number = socket::number(socket);
        attempts.number += 1;
        let attempt = Attempt { number: attempts.number, address: RawAddress::new(address) };
        begin(iocp, handle, number, function, attempt)?;
        attempts.pending = true;
        // What was seen of the socket before says nothing of the connection.
        (self.readable, self.ended, self.failed, self.large, self.write_shut, self.error) = (false, false, false, false, false, 0);
        Ok(())
    }

    /// Puts a new socket in the place of the one whose attempt is over; the former one. Where there is none to be had, the stream is as good as closed.
    #[must_use = "to be closed once nothing is pending on it"]
    fn replace_socket(&mut self, handle: &Handle, iocp: &Iocp) -> Option<TcpStream> {
        let Some(Line::Socket(former)) = self.line.take() else { return None };
        let replacement = former.local_addr().and_then(|address| {
            let new = socket::unconnected(address)?;
            socket::inherit(&new, &former)?;
            iocp.join(socket::number(&new) as _)?;
            Ok(new)
        });
        if let Ok(new) = replacement {
            handle.replace_descriptor(socket::number(&new) as i64);
            self.line = Some(Line::Socket(new));
        }
        Some(former)
    }
}

impl Attempts {
    fn of(socket: &TcpStream) -> Self {
        Attempts { number: 0, pending: false, linked: false, local: bound_to(socket), former: Vec::new() }
    }
}

fn bound_to(socket: &TcpStream) -> Option<SocketAddr> {
    socket.local_addr().ok().filter(|address| address.port() != 0)
}

fn begin(iocp: &Iocp, handle: &Handle, socket: SOCKET, function: ConnectEx, attempt: Attempt) -> io::Result<()> {
    let begun = iocp.operations.begin(handle, What::Connect(Box::new(attempt)), |overlapped, what| {
        let What::Connect(attempt) = what else { unreachable!("it was just made") };
        // SAFETY: the address belongs to the operation, which lives until its packet has come; the socket stays open as long.
        unsafe { socket::begin_connect(function, socket, &attempt.address, overlapped) }
    });
    begun.map(drop)
}
