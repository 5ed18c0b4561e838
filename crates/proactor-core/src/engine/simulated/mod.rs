//! The simulated engine: a network in memory, a clock that is moved by hand, faults on request. No system calls and no time of its own, so that the same
//! seed and the same schedule of threads give the same run. For tests, also under a model checker.
//!
//! Seed 0 is the well-behaved network: receives take all that has come, sends all that fits, and handles complete in the order in which something happened to
//! them. Any other seed splits and merges receives, shortens sends, lets the handles complete in any order (never the bytes of one handle), leaves
//! completions for a later poll, and lets a poll come back empty-handed.
//!
//! Error numbers are the platform's.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::buffer::{BufferSource, Copied, LARGE_RECEIVE, NoLargeBuffers, Outgoing, RECEIVE_SIZE, Received};
use crate::completion::{Completion, Datagram, Outcome, Token};
use crate::numbers::{EALREADY, EBADF, ECONNREFUSED, ECONNRESET, EINVAL, EISCONN, ENOTCONN, EPIPE};
use crate::source::Source;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex};

use super::{
    AcceptWindow, Address, Closing, Engine, Feature, FileSubmission, Handle, Interest, Kind, SocketOptions, Submission, ThreadClock,
};

/// What `Simulated::fail_next` can let fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Adopt,
    Associate,
    /// `pause`: the cause lasts, and the client stays in the backlog; otherwise the client is lost.
    Accept {
        pause: bool,
    },
    /// The next receive that would have brought something; the connection is dead afterwards.
    Receive,
    /// The next attempt to send, also that of a pending send; the connection is dead afterwards.
    Send,
    /// The next piece of a file that is to be sent: this network does not, it has to be read. The number does not matter.
    SendFile,
    ShutdownWrite,
    /// The next attempt to connect, at once.
    Connect,
    /// Asking for a count of accepts.
    AcceptSome,
    /// Copying a descriptor to wait for it.
    Watch,
    Wait,
}

mod connecting;
mod datagrams;
mod files;
mod network;

pub use datagrams::Correspondent;
use datagrams::*;
use network::*;

pub struct Simulated {
    network: Arc<Network>,
    buffers: Arc<dyn BufferSource>,
}

impl Simulated {
    pub fn open(seed: u64) -> Self {
        Self::with_buffers(seed, Arc::new(NoLargeBuffers))
    }

    pub fn with_buffers(seed: u64, buffers: Arc<dyn BufferSource>) -> Self {
        let state = State {
            random: (seed != 0).then_some(Random(seed)),
            clock: 1_000_000_000,
            woken: false,
            sleeping: false,
            sockets: Vec::new(),
            descriptors: Vec::new(),
            ready: VecDeque::new(),
            faults: Vec::new(),
            cpu_times: Vec::new(),
            needs_pending_accepts: false,
        };
        let network = Network { state: Mutex::new(state), changed: Condvar::new(), happened: Condvar::new(), polling: Mutex::new(()) };
        Simulated { network: Arc::new(network), buffers }
    }

    /// Moves the clock; polls whose time has run out return.
    pub fn advance(&self, time: Duration) {
        let mut state = self.network.state.lock();
        state.clock += nanoseconds(time);
        state.sleeping = false; // until the one who polls has looked at the clock
        drop(state);
        self.network.changed.notify_all();
    }

    /// Waits, in real time, until the leader sleeps and there is nothing left to do; false when `timeout` ran out.
    pub fn wait_quiet(&self, timeout: Duration) -> bool {
        self.network.wait_until(timeout, |state| state.sleeping && state.ready.is_empty() && !state.woken)
    }

    /// A listening socket, to be adopted.
    pub fn listen(&self) -> i64 {
        self.network.state.lock().add(Socket::Listener(Listener::default()))
    }

    /// A client connects to a listener; `address` is its own.
    ///
    /// # Errors
    /// ECONNREFUSED where nobody listens.
    pub fn connect(&self, listener: i64, address: Address) -> io::Result<Peer> {
        let mut state = self.network.state.lock();
        let refused = || io::Error::from_raw_os_error(ECONNREFUSED);
        let number = state.find(listener).ok_or_else(refused)?;
        let stream = state.sockets.len();
        match &mut state.sockets[number] {
            Socket::Listener(listener) if !listener.closed => listener.backlog.push_back((stream, address)),
            _ => return Err(refused()),
        }
        state.sockets.push(Socket::Stream(Stream::default()));
        self.network.list(&mut state, number);
        Ok(Peer { network: Arc::clone(&self.network), socket: stream })
    }

    /// A connected socket, to be adopted, and its peer.
    pub fn pair(&self) -> (i64, Peer) {
        let mut state = self.network.state.lock();
        let descriptor = state.add(Socket::Stream(Stream::default()));
        (descriptor, Peer { network: Arc::clone(&self.network), socket: state.sockets.len() - 1 })
    }

    /// Something to wait for, which the test makes ready; with its descriptor.
    pub fn object(&self) -> (i64, Signal) {
        let mut state = self.network.state.lock();
        let descriptor = state.add(Socket::Object(Object::default()));
        (descriptor, Signal { network: Arc::clone(&self.network), object: state.sockets.len() - 1 })
    }

    /// Lets the next operation of a kind fail, on whichever handle it comes. Faults of one kind wait in line.
    pub fn fail_next(&self, fault: Fault, number: i32) {
        self.network.state.lock().faults.push((fault, number));
    }

    /// From here on accepts have to be pending, as on IOCP: a client waits while there is none. Call it before `accept`.
    pub fn need_pending_accepts(&self) {
        self.network.state.lock().needs_pending_accepts = true;
    }

    /// How many accepts are pending on a listener.
    pub fn pending_accepts(&self, listener: i64) -> usize {
        let state = self.network.state.lock();
        match state.find(listener).map(|number| &state.sockets[number]) {
            Some(Socket::Listener(listener)) => listener.pending,
            _ => 0,
        }
    }

    /// Sets the CPU time of a thread, in nanoseconds; None: it has ended. It stands still at 0 otherwise.
    pub fn set_cpu_time(&self, clock: ThreadClock, time: Option<u64>) {
        self.network.state.lock().cpu_times[clock.0 as usize] = time;
    }
}

/// The other end of a connection. Safe from any thread; never blocks.
pub struct Peer {
    network: Arc<Network>,
    socket: usize,
}

impl Peer {
    /// Sends; nothing happens once the connection is dead or closed.
    pub fn send(&self, bytes: &[u8]) {
        self.change(|stream| {
            assert!(!stream.finished, "the peer has finished sending");
            if stream.failure.is_none() && !stream.closed {
                stream.incoming.extend(bytes);
            }
        });
    }

    /// The peer has finished sending (FIN).
    pub fn finish(&self) {
        self.change(|stream| stream.finished = true);
    }

    /// The peer resets the connection.
    pub fn reset(&self) {
        self.fail(ECONNRESET);
    }

    /// The connection dies of an error.
    pub fn fail(&self, number: i32) {
        self.change(|stream| {
            stream.failure.get_or_insert(number);
        });
    }

    /// Takes what has come since the last call, which makes room in the window.
    pub fn received(&self) -> Vec<u8> {
        self.change(|stream| std::mem::take(&mut stream.arrived))
    }

    /// How many bytes come through before the peer takes them with `received`; without limit at first.
    pub fn set_window(&self, bytes: usize) {
        self.change(|stream| stream.window = bytes);
    }

    /// Whether our side has finished sending; what came before may still wait in `received`.
    pub fn ended(&self) -> bool {
        self.change(|stream| stream.write_shut && !stream.aborted)
    }

    /// Whether our side has reset the connection.
    pub fn was_reset(&self) -> bool {
        self.change(|stream| stream.aborted)
    }

    /// Waits, in real time, until something has come that was not taken, or our side has ended; false when `timeout` ran out.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.network.wait_until(timeout, |state| {
            let stream = state.stream(self.socket);
            !stream.arrived.is_empty() || stream.write_shut || stream.aborted || stream.closed
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Stream) -> T) -> T {
        let mut state = self.network.state.lock();
        let result = change(state.stream(self.socket));
        self.network.list(&mut state, self.socket);
        result
    }
}

/// What makes an object ready. Safe from any thread; never blocks.
pub struct Signal {
    network: Arc<Network>,
    object: usize,
}

impl Signal {
    /// Waits for the object complete from here on, or no longer.
    pub fn set(&self, ready: bool) {
        let mut state = self.network.state.lock();
        state.object(self.object).ready = ready;
        for socket in 0..state.sockets.len() {
            if matches!(&state.sockets[socket], Socket::Wait(wait) if wait.object == self.object) {
                self.network.list(&mut state, socket);
            }
        }
    }
}

impl Simulated {
    /// `patience`: for how much real time it waits at most.
    fn poll_within(&self, timeout: Option<Duration>, patience: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        let _one_at_a_time = self.network.polling.lock();
        // Dropped after the lock is released.
        let mut over = Vec::new();
        let mut state = self.network.state.lock();
        let deadline = timeout.map(|timeout| state.clock.saturating_add(nanoseconds(timeout)));
        if state.chance(16) {
            return Ok(());
        }
        let before = completions.len();
        loop {
            state.progress(&self.network, &*self.buffers, completions, &mut over);
            // A poll that would not sleep leaves the notification to the next one that would.
            let woken = timeout != Some(Duration::ZERO) && std::mem::take(&mut state.woken);
            if completions.len() > before || woken || deadline.is_some_and(|deadline| deadline <= state.clock) {
                break;
            }
            if state.ready.is_empty() {
                state.sleeping = true;
                self.network.happened.notify_all();
                let out_of_patience;
                (state, out_of_patience) = match patience {
                    None => (self.network.changed.wait(state), false),
                    Some(patience) => self.network.changed.wait_for(state, patience),
                };
                state.sleeping = false;
                if out_of_patience {
                    break;
                }
            }
        }
        drop(state);
        Ok(())
    }
}

impl Engine for Simulated {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn supports(&self, feature: Feature) -> bool {
        match feature {
            Feature::PendingAccepts => self.network.state.lock().needs_pending_accepts,
            Feature::UnixSockets | Feature::FineTimer => true,
            Feature::NamedPipes | Feature::RealTime => false,
        }
    }

    fn adopt(&self, descriptor: i64, kind: Kind) -> io::Result<Handle> {
        let mut state = self.network.state.lock();
        state.attempt(Fault::Adopt)?;
        let number = state.find(descriptor).ok_or_else(|| io::Error::from_raw_os_error(EBADF))?;
        let fits = match state.sockets[number] {
            Socket::Listener(_) => kind == Kind::Listener,
            Socket::Stream(_) => matches!(kind, Kind::Tcp | Kind::Unix),
            Socket::Datagrams(_) => kind == Kind::Datagram,
            Socket::Object(_) | Socket::Wait(_) => false,
        };
        if !fits {
            return Err(io::Error::from_raw_os_error(EINVAL));
        }
        Ok(self.network.hold(number, descriptor, kind))
    }

    fn discard(&self, descriptor: i64) {
        let mut state = self.network.state.lock();
        let Some(number) = state.find(descriptor) else { return };
        state.descriptors[descriptor as usize] = None;
        let unsent = state.close(number, Closing::Orderly);
        drop(state);
        drop(unsent);
    }

    fn associate(&self, handle: &Handle, token: Token) -> io::Result<()> {
        let mut state = self.network.state.lock();
        state.attempt(Fault::Associate)?;
        if !handle.set_token(token) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the handle is associated already"));
        }
        let number = handle.state::<Held>().socket;
        match &mut state.sockets[number] {
            Socket::Listener(listener) => listener.token = Some(token),
            Socket::Stream(stream) => stream.token = Some(token),
            Socket::Datagrams(socket) => socket.token = Some(token),
            Socket::Wait(wait) => wait.token = Some(token),
            Socket::Object(_) => unreachable!("an object has no handle"),
        }
        self.network.list(&mut state, number);
        Ok(())
    }

    fn accept(&self, handle: &Handle, window: AcceptWindow, _options: &SocketOptions) -> io::Result<()> {
        let mut state = self.network.state.lock();
        let needs_pending = state.needs_pending_accepts;
        let number = handle.state::<Held>().socket;
        let listener = state.listener(number);
        if listener.closed {
            return Err(io::Error::from_raw_os_error(EBADF));
        }
        if listener.token.is_none() {
            return Err(io::Error::from_raw_os_error(EINVAL));
        }
        listener.accepting = true;
        listener.left = usize::MAX;
        listener.window = Some(window);
        if needs_pending {
            listener.top_up();
        }
        self.network.list(&mut state, number);
        Ok(())
    }

    fn accept_some(&self, handle: &Handle, count: usize) -> io::Result<()> {
        let mut state = self.network.state.lock();
        state.attempt(Fault::AcceptSome)?;
        let needs_pending = state.needs_pending_accepts;
        let number = handle.state::<Held>().socket;
        let listener = state.listener(number);
        if listener.closed {
            return Err(io::Error::from_raw_os_error(EBADF));
        }
        listener.accepting = true;
        listener.left = count;
        listener.window = None;
        if needs_pending {
            listener.pending = count; // each of them is one
        }
        self.network.list(&mut state, number);
        Ok(())
    }

    fn surrender(&self, handle: Handle) -> i64 {
        handle.state::<Held>().surrendered.store(true, Ordering::Release);
        handle.disown().expect("an accepted handle that was not associated")
    }

    fn connect(&self, handle: &Handle, _address: &Address) -> Submission {
        self.begin_connect(handle)
    }

    fn cancel_connect(&self, handle: &Handle) -> bool {
        let number = handle.state::<Held>().socket;
        self.network.state.lock().cancel_connect(number)
    }

    fn pause_accept(&self, handle: &Handle) {
        self.network.state.lock().listener(handle.state::<Held>().socket).pause();
    }

    fn receive(&self, handle: &Handle) {
        let mut state = self.network.state.lock();
        let number = handle.state::<Held>().socket;
        *state.receiving(number) = true;
        self.network.list(&mut state, number);
    }

    fn pause_receive(&self, handle: &Handle) {
        *self.network.state.lock().receiving(handle.state::<Held>().socket) = false;
    }

    fn send(&self, handle: &Handle, data: Outgoing) -> Submission {
        let mut state = self.network.state.lock();
        let number = handle.state::<Held>().socket;
        assert!(state.stream(number).unsent.is_none(), "one send at a time may be pending on a handle");
        let mut unsent = Unsent { data, sent: 0, address: None };
        let result = state.transmit(number, &mut unsent);
        self.network.happened.notify_all();
        match result {
            Ok(()) if unsent.data.is_empty() => Submission::Done { bytes: unsent.sent },
            Ok(()) => {
                state.stream(number).unsent = Some(unsent);
                self.network.list(&mut state, number);
                Submission::Pending
            }
            Err(error) => {
                self.network.list(&mut state, number);
                drop(state);
                Submission::Failed { error, sent: unsent.sent, unsent: unsent.data.len() }
            }
        }
    }

    fn send_file(&self, handle: &Handle, source: &dyn Source, offset: u64, length: u64) -> FileSubmission {
        self.send_a_file(handle, source, offset, length)
    }

    fn send_to(&self, handle: &Handle, data: Outgoing, address: Option<&Address>) -> Submission {
        self.send_datagram(handle, data, address)
    }

    fn progress(&self, handle: &Handle) -> usize {
        let number = handle.state::<Held>().socket;
        self.network.state.lock().progress_of(number)
    }

    fn cancel_send(&self, handle: &Handle) -> Option<usize> {
        let number = handle.state::<Held>().socket;
        let unsent = self.network.state.lock().take_unsent(number);
        unsent.map(|unsent| unsent.sent)
    }

    fn taken(&self, handle: &Handle) -> usize {
        let number = handle.state::<Held>().socket;
        self.network.state.lock().taken_of(number)
    }

    fn shutdown_write(&self, handle: &Handle) -> io::Result<()> {
        let mut state = self.network.state.lock();
        state.attempt(Fault::ShutdownWrite)?;
        let stream = state.stream(handle.state::<Held>().socket);
        if stream.failure.is_some() && !stream.write_shut {
            return Err(io::Error::from_raw_os_error(ENOTCONN));
        }
        stream.write_shut = true;
        self.network.happened.notify_all();
        Ok(())
    }

    fn close(&self, handle: &Handle, how: Closing) {
        let unsent = self.network.state.lock().close(handle.state::<Held>().socket, how);
        self.network.happened.notify_all();
        drop(unsent);
    }

    fn watch(&self, descriptor: i64) -> io::Result<Handle> {
        let mut state = self.network.state.lock();
        state.attempt(Fault::Watch)?;
        let object = state.find(descriptor).ok_or_else(|| io::Error::from_raw_os_error(EBADF))?;
        if !matches!(state.sockets[object], Socket::Object(_)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "only an object can be waited for on this engine"));
        }
        let copy = state.add(Socket::Wait(Wait { object, token: None, waiting: false, listed: false, closed: false }));
        let number = state.sockets.len() - 1;
        Ok(self.network.hold(number, copy, Kind::Watched))
    }

    fn wait(&self, handle: &Handle, _interest: Interest) -> io::Result<()> {
        let mut state = self.network.state.lock();
        state.attempt(Fault::Wait)?;
        let number = handle.state::<Held>().socket;
        let wait = state.wait(number);
        if wait.closed {
            return Err(io::Error::from_raw_os_error(EBADF));
        }
        if wait.token.is_none() {
            return Err(io::Error::from_raw_os_error(EINVAL));
        }
        wait.waiting = true;
        self.network.list(&mut state, number);
        Ok(())
    }

    fn is_ready(&self, handle: &Handle, _interest: Interest) -> bool {
        self.network.state.lock().is_ready(handle.state::<Held>().socket)
    }

    fn poll(&self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.poll_within(timeout, None, completions)
    }

    fn poll_patiently(&self, timeout: Option<Duration>, patience: Duration, completions: &mut Vec<Completion>) -> io::Result<()> {
        let timeout = if patience.is_zero() { Some(patience) } else { timeout };
        self.poll_within(timeout, Some(patience), completions)
    }

    fn wake(&self) {
        self.network.state.lock().woken = true;
        self.network.changed.notify_all();
    }

    fn now(&self) -> u64 {
        self.network.state.lock().clock
    }

    /// A new clock for every call: a model checker's threads cannot be told apart in here.
    fn thread_clock(&self) -> ThreadClock {
        let mut state = self.network.state.lock();
        state.cpu_times.push(Some(0));
        ThreadClock(state.cpu_times.len() as u64 - 1)
    }

    fn cpu_time(&self, clock: ThreadClock) -> Option<u64> {
        self.network.state.lock().cpu_times[clock.0 as usize]
    }

    /// There is nothing of the system's to close.
    fn forked(&self) {}
}
