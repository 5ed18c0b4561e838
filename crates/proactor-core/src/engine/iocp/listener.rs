//! Accepting: a window of pending AcceptEx, or of a pipe's instances that wait for clients. Knows nothing of who wants the clients.
//!
//! * **The window** is topped up to its maximum when fewer than its minimum are pending. Where accepts are counted, no more are pending than are wanted.
//! * **A pause cancels them**, so that clients wait in the backlog. A client that comes all the same is held until accepting is resumed; a generation tells which accepts a pause has
//!   cancelled.
//! * **`close` closes the socket at once**, so that clients are refused, whoever holds the handle. So nothing uses it but under the lock.
//! * **A pipe has no backlog**: its instances are one. A pause leaves them, so that a few clients may come meanwhile, and one instance stays as long as the listener is open: the name is its.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use windows_sys::Win32::Networking::WinSock::{WSAEACCES, WSAEHOSTUNREACH, WSAENETDOWN, WSAENETUNREACH, WSAENOTCONN};

use super::Iocp;
use super::line::Line;
use super::operation::{Accept, What};
use super::pipe::{self, PipeEnd};
use super::socket::{self, ADDRESSES, AcceptEx};
use super::stream::Stream;
use crate::completion::{Completion, Outcome, Token};
use crate::engine::{AcceptWindow, Address, Handle, Kind, SocketOptions};
use crate::numbers::{EBADF, ECONNABORTED, ECONNREFUSED, ECONNRESET, ETIMEDOUT};
use crate::sync::Mutex;

pub(super) struct Listener(Mutex<State>);

struct State {
    /// None once it is closed.
    door: Option<Door>,
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

/// Where clients come in.
pub(super) enum Door {
    Socket(Socket),
    Pipe(Pipes),
}

pub(super) struct Socket {
    pub(super) socket: TcpListener,
    /// The listener's own, for the family of the sockets that clients get.
    pub(super) address: SocketAddr,
    pub(super) accept: AcceptEx,
}

pub(super) struct Pipes {
    name: String,
    /// Nothing is pending on them.
    idle: Vec<PipeEnd>,
    /// Those that wait for a client, with the addresses of their operations.
    waiting: Vec<(usize, PipeEnd)>,
}

/// What an accept's packet is about.
pub(super) enum Came {
    Socket(TcpStream),
    /// The operation's address.
    Instance(usize),
}

/// What became of an accept that was begun.
enum Begun {
    Pending,
    /// A client was there already.
    Client(Handle, Address),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Nothing,
    Everything,
    /// So many more, at least one.
    Some(usize),
}

impl Listener {
    pub(super) fn new(door: Door) -> Self {
        Listener(Mutex::new(State {
            door: Some(door),
            wanted: Wanted::Nothing,
            window: DEFAULT_WINDOW,
            options: None,
            pending: 0,
            generation: 0,
            held: VecDeque::new(),
        }))
    }

    pub(super) fn close(&self) {
        let (door, held) = {
            let mut state = self.0.lock();
            state.cancel();
            (state.door.take(), std::mem::take(&mut state.held))
        };
        drop(door); // the packets of what was pending still come, with errors
        drop(held);
    }

    pub(super) fn local_address(&self) -> io::Result<Address> {
        match &self.0.lock().door {
            Some(Door::Socket(socket)) => Ok(Address::Internet(socket.address)),
            Some(Door::Pipe(pipes)) => Ok(Address::Pipe(Some(pipes.name.clone()))),
            None => Err(io::Error::from_raw_os_error(EBADF)),
        }
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
            && let Some(door) = &self.door
        {
            door.cancel();
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
        if state.door.is_none() {
            return Err(io::Error::from_raw_os_error(EBADF));
        }
        if let Some((window, options)) = window {
            state.window = window;
            state.options = Some(options.clone());
        } else {
            state.options = None;
        }
        state.wanted = count.map_or(Wanted::Everything, Wanted::Some);
        let result = self.top_up(handle, &mut state);
        let any_held = !state.held.is_empty();
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
        let Some(door) = &mut state.door else { return Ok(()) };
        let maximum = state.window.maximum.max(1);
        let (minimum, target) = match state.wanted {
            Wanted::Nothing => return Ok(()),
            Wanted::Everything => (state.window.minimum.clamp(1, maximum), maximum),
            Wanted::Some(left) => (left.min(maximum), left.min(maximum)),
        };
        if state.pending >= minimum && !door.has_idle() {
            return Ok(());
        }
        // Clients that are there already are wanted as well; more than the window of them are left for the next time.
        let mut come = 0;
        while state.pending + come < target || state.wanted == Wanted::Everything && door.has_idle() {
            let begun = match door {
                Door::Socket(socket) => self.begin_accept(handle, socket, state.generation)?,
                Door::Pipe(pipes) => self.begin_instance(handle, pipes, state.generation)?,
            };
            match begun {
                Begun::Pending => state.pending += 1,
                Begun::Client(client, peer) => {
                    come += 1;
                    state.held.push_back((client, peer));
                }
            }
        }
        Ok(())
    }

    fn begin_accept(&self, handle: &Handle, listener: &Socket, generation: u64) -> io::Result<Begun> {
        let accept = Accept { socket: socket::unconnected(listener.address)?, addresses: UnsafeCell::new([0; ADDRESSES]), generation };
        self.operations.begin(handle, What::Accept(Box::new(accept)), |overlapped, what| {
            let What::Accept(accept) = what else { unreachable!("it was just made") };
            // SAFETY: all three belong to the operation, which lives until its packet has come.
            unsafe { socket::begin_accept(listener.accept, &listener.socket, &accept.socket, accept.addresses.get().cast(), overlapped) }
        })?;
        Ok(Begun::Pending)
    }

    fn begin_instance(&self, handle: &Handle, pipes: &mut Pipes, generation: u64) -> io::Result<Begun> {
        let end = match pipes.idle.pop() {
            Some(end) => end, // the first one has joined as the listener's handle
            None => {
                let end = PipeEnd::another(&pipes.name)?;
                self.join(end.raw())?;
                end
            }
        };
        let begun = self.operations.begin(handle, What::Instance { generation }, |overlapped, _| {
            // SAFETY: the operation lives until its packet has come.
            unsafe { end.begin_accept(overlapped) }
        });
        match begun {
            Ok(address) => {
                pipes.waiting.push((address, end));
                Ok(Begun::Pending)
            }
            Err(error) if pipe::is_connected(&error) => {
                let (client, peer) = client_of(end);
                Ok(Begun::Client(client, peer))
            }
            Err(error) => {
                pipes.idle.push(end);
                Err(error)
            }
        }
    }

    /// An accept's packet has come.
    pub(super) fn accepted(
        &self,
        handle: &Handle,
        token: Token,
        generation: u64,
        came: Came,
        number: i32,
        completions: &mut Vec<Completion>,
    ) {
        let listener: &Listener = handle.state();
        let mut state = listener.0.lock();
        let state = &mut *state;
        let current = generation == state.generation;
        if current {
            state.pending -= 1;
        }
        let Some(door) = &mut state.door else { return };
        match door.client(came, number, state.options.as_ref()) {
            Ok((client, peer)) => {
                if state.wanted == Wanted::Nothing {
                    state.held.push_back((client, peer));
                    return;
                }
                state.count();
                completions.push(Completion { token, outcome: Outcome::Accepted { handle: client, peer } });
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
        self.go_on(handle, token, state, completions);
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
        if state.wanted != Wanted::Nothing && !state.held.is_empty() {
            self.resume(handle); // they were quicker than the wait for them: the next poll tells them
        }
    }
}

impl Door {
    /// Whether clients may have come to what nobody looks at.
    fn has_idle(&self) -> bool {
        matches!(self, Door::Pipe(pipes) if !pipes.idle.is_empty())
    }

    fn cancel(&self) {
        match self {
            Door::Socket(socket) => socket::cancel(&socket.socket),
            Door::Pipe(pipes) => pipes.waiting.iter().for_each(|(_, end)| end.cancel()),
        }
    }

    /// The client of an accept that is over.
    fn client(&mut self, came: Came, number: i32, options: Option<&SocketOptions>) -> io::Result<(Handle, Address)> {
        match (self, came) {
            (Door::Socket(listener), Came::Socket(socket)) => {
                if number != 0 {
                    return Err(io::Error::from_raw_os_error(number));
                }
                let peer = socket::complete_accept(&socket, &listener.socket)?;
                if let Some(options) = options {
                    // A failure means that the connection is gone already, which its first receive will tell.
                    let _ = socket::set_options(&socket, options);
                }
                let number = socket::number(&socket) as i64;
                let client = Handle::new(number, Kind::Tcp, Box::new(Stream::new(Line::Socket(socket))), |_| {});
                Ok((client, Address::Internet(peer)))
            }
            (Door::Pipe(pipes), Came::Instance(address)) => {
                let place = pipes.waiting.iter().position(|(waiting, _)| *waiting == address);
                let (_, end) = pipes.waiting.swap_remove(place.expect("it is there until its packet has come"));
                let error = io::Error::from_raw_os_error(number);
                if number == 0 || pipe::is_connected(&error) {
                    return Ok(client_of(end));
                }
                pipes.idle.push(end);
                Err(error)
            }
            _ => unreachable!("a door is of one sort"),
        }
    }
}

impl Pipes {
    pub(super) fn new(end: PipeEnd) -> Self {
        Pipes { name: end.name().to_owned(), idle: vec![end], waiting: Vec::new() }
    }
}

/// An instance that has a client, who has no name.
fn client_of(end: PipeEnd) -> (Handle, Address) {
    let number = end.raw() as i64;
    (Handle::new(number, Kind::Pipe, Box::new(Stream::new(Line::Pipe(end))), |_| {}), Address::Pipe(None))
}

/// The article's; see `Engine::accept`.
const DEFAULT_WINDOW: AcceptWindow = AcceptWindow { minimum: 2, maximum: 5 };

/// Whether an accept failed because of its client, so that the next may fare better. Everything else lasts, or is unknown and must not make the listener spin.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            ECONNRESET | ECONNABORTED | ECONNREFUSED | ETIMEDOUT | WSAEACCES | WSAEHOSTUNREACH | WSAENETDOWN | WSAENETUNREACH | WSAENOTCONN
        )
    )
}
