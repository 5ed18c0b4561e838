//! Accepting: a window of pending AcceptEx. Knows nothing of who wants the clients.
//!
//! * **The window** is topped up to its maximum when fewer than its minimum are pending. Where accepts are counted, no more are pending than are wanted.
//! * **A pause cancels them**, so that clients wait in the backlog. A client that comes all the same is held until accepting is resumed; a generation tells which accepts a pause has
//!   cancelled.
//! * **`close` closes the socket at once**, so that clients are refused, whoever holds the handle. So nothing uses it but under the lock.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};

use windows_sys::Win32::Networking::WinSock::{WSAEACCES, WSAEHOSTUNREACH, WSAENETDOWN, WSAENETUNREACH};

use super::Iocp;
use super::operation::{Accept, What};
use super::socket::{self, ADDRESSES, AcceptEx};
use super::stream::Stream;
use crate::completion::{Completion, Outcome, Token};
use crate::engine::{AcceptWindow, Address, Handle, Kind, SocketOptions};
use crate::numbers::{EBADF, ECONNABORTED, ECONNREFUSED, ECONNRESET, ETIMEDOUT};
use crate::sync::Mutex;

pub(super) struct Listener(Mutex<State>);

struct State {
    /// None once it is closed.
    socket: Option<TcpListener>,
    /// The listener's own, for the family of the sockets that clients get.
    address: SocketAddr,
    accept: AcceptEx,
    wanted: Wanted,
    window: AcceptWindow,
    /// Those of accepted sockets; None: as they inherit them.
    options: Option<SocketOptions>,
    /// Accepts of this generation that the kernel holds.
    pending: usize,
    generation: u64,
    /// Came although accepting was paused.
    held: VecDeque<(Handle, Address)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Nothing,
    Everything,
    /// So many more, at least one.
    Some(usize),
}

impl Listener {
    pub(super) fn new(socket: TcpListener, address: SocketAddr, accept: AcceptEx) -> Self {
        Listener(Mutex::new(State {
            socket: Some(socket),
            address,
            accept,
            wanted: Wanted::Nothing,
            window: DEFAULT_WINDOW,
            options: None,
            pending: 0,
            generation: 0,
            held: VecDeque::new(),
        }))
    }

    pub(super) fn close(&self) {
        let (socket, held) = {
            let mut state = self.0.lock();
            state.cancel();
            (state.socket.take(), std::mem::take(&mut state.held))
        };
        drop(socket); // the packets of what was pending still come, with errors
        drop(held);
    }

    pub(super) fn local_address(&self) -> io::Result<SocketAddr> {
        let state = self.0.lock();
        if state.socket.is_some() { Ok(state.address) } else { Err(io::Error::from_raw_os_error(EBADF)) }
    }

    pub(super) fn pause(&self) {
        self.0.lock().cancel();
    }
}

impl State {
    /// Accepting is over until it is asked for again.
    fn cancel(&mut self) {
        self.wanted = Wanted::Nothing;
        if self.pending > 0
            && let Some(socket) = &self.socket
        {
            socket::cancel(socket);
        }
        self.generation += 1;
        self.pending = 0;
    }

    /// One more has come, or has failed.
    fn count(&mut self) {
        if let Wanted::Some(left) = self.wanted {
            self.wanted = if left > 1 { Wanted::Some(left - 1) } else { Wanted::Nothing };
        }
    }
}

impl Iocp {
    /// `count`: as many, and then no more; None: until they are paused.
    pub(super) fn begin_accepts(
        &self,
        handle: &Handle,
        count: Option<usize>,
        window: Option<(AcceptWindow, &SocketOptions)>,
    ) -> io::Result<()> {
        let listener: &Listener = handle.state();
        let mut state = listener.0.lock();
        if state.socket.is_none() {
            return Err(io::Error::from_raw_os_error(EBADF));
        }
        if let Some((window, options)) = window {
            state.window = window;
            state.options = Some(options.clone());
        } else {
            state.options = None;
        }
        state.wanted = count.map_or(Wanted::Everything, Wanted::Some);
        let any_held = !state.held.is_empty();
        let result = self.top_up(handle, &mut state);
        if result.is_err() {
            state.cancel();
        }
        drop(state);
        if any_held && result.is_ok() {
            self.resume(handle); // the next poll tells them
        }
        result
    }

    fn top_up(&self, handle: &Handle, state: &mut State) -> io::Result<()> {
        let Some(listener) = &state.socket else { return Ok(()) };
        let maximum = state.window.maximum.max(1);
        let (minimum, target) = match state.wanted {
            Wanted::Nothing => return Ok(()),
            Wanted::Everything => (state.window.minimum.clamp(1, maximum), maximum),
            Wanted::Some(left) => (left.min(maximum), left.min(maximum)),
        };
        if state.pending >= minimum {
            return Ok(());
        }
        while state.pending < target {
            let accept = Accept {
                socket: socket::unconnected(state.address)?,
                addresses: UnsafeCell::new([0; ADDRESSES]),
                generation: state.generation,
            };
            self.operations.begin(handle, What::Accept(Box::new(accept)), |overlapped, what| {
                let What::Accept(accept) = what else { unreachable!("it was just made") };
                // SAFETY: all three belong to the operation, which lives until its packet has come.
                unsafe { socket::begin_accept(state.accept, listener, &accept.socket, accept.addresses.get().cast(), overlapped) }
            })?;
            state.pending += 1;
        }
        Ok(())
    }

    /// An accept's packet has come.
    pub(super) fn accepted(&self, handle: &Handle, token: Token, accept: Accept, number: i32, completions: &mut Vec<Completion>) {
        let listener: &Listener = handle.state();
        let mut state = listener.0.lock();
        let current = accept.generation == state.generation;
        if current {
            state.pending -= 1;
        }
        let Some(socket) = &state.socket else { return };
        let came = if number == 0 { socket::complete_accept(&accept.socket, socket) } else { Err(io::Error::from_raw_os_error(number)) };
        match came {
            Ok(peer) => {
                if let Some(options) = &state.options {
                    // A failure means that the connection is gone already, which its first receive will tell.
                    let _ = socket::set_options(&accept.socket, options);
                }
                let client = Handle::new(socket::number(&accept.socket) as i64, Kind::Tcp, Box::new(Stream::new(accept.socket)), |_| {});
                if state.wanted == Wanted::Nothing {
                    state.held.push_back((client, Address::Internet(peer)));
                    return;
                }
                state.count();
                completions.push(Completion { token, outcome: Outcome::Accepted { handle: client, peer: Address::Internet(peer) } });
            }
            Err(_) if !current => return, // cancelled, as was asked for
            Err(error) => {
                let pause = !concerns_one_connection(&error);
                state.count();
                if pause {
                    state.cancel();
                }
                completions.push(Completion { token, outcome: Outcome::AcceptFailed { error, pause } });
            }
        }
        self.go_on(handle, token, &mut state, completions);
    }

    /// Accepting was resumed: those who came meanwhile.
    pub(super) fn tell_held(&self, handle: &Handle, token: Token, completions: &mut Vec<Completion>) {
        let listener: &Listener = handle.state();
        let mut state = listener.0.lock();
        while state.wanted != Wanted::Nothing
            && let Some((client, peer)) = state.held.pop_front()
        {
            state.count();
            completions.push(Completion { token, outcome: Outcome::Accepted { handle: client, peer } });
        }
        self.go_on(handle, token, &mut state, completions);
    }

    fn go_on(&self, handle: &Handle, token: Token, state: &mut State, completions: &mut Vec<Completion>) {
        if let Err(error) = self.top_up(handle, state) {
            // Most likely no more sockets: to go on would fail again at once.
            state.cancel();
            completions.push(Completion { token, outcome: Outcome::AcceptFailed { error, pause: true } });
        }
    }
}

/// The article's; see `Engine::accept`.
const DEFAULT_WINDOW: AcceptWindow = AcceptWindow { minimum: 2, maximum: 5 };

/// Whether an accept failed because of its client, so that the next may fare better. Everything else lasts, or is unknown and must not make the listener spin.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(ECONNRESET | ECONNABORTED | ECONNREFUSED | ETIMEDOUT | WSAEACCES | WSAEHOSTUNREACH | WSAENETDOWN | WSAENETUNREACH)
    )
}
