//! The simulated engine: a network in memory, a clock that is moved by hand, faults on request. No system calls and no time of its own, so that the same
//! seed and the same schedule of threads give the same run. For tests, also under a model checker.
//!
//! Seed 0 is the well-behaved network: receives take all that has come, sends all that fits, and handles complete in the order in which something happened to
//! them. Any other seed splits and merges receives, shortens sends, lets the handles complete in any order (never the bytes of one handle), leaves
//! completions for a later poll, and lets a poll come back empty-handed.
//!
//! Error numbers are Linux'.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::buffer::{Copied, BufferSource, LARGE_RECEIVE, NoLargeBuffers, Outgoing, RECEIVE_SIZE, Received};
use crate::completion::{Completion, Outcome, Token};
use crate::sync::{Condvar, Mutex};

use super::{AcceptWindow, Address, Closing, Engine, Feature, Handle, Kind, SocketOptions, Submission, ThreadClock};

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
    ShutdownWrite,
}

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
        self.network.state.lock().clock += nanoseconds(time);
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

impl Engine for Simulated {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn supports(&self, feature: Feature) -> bool {
        match feature {
            Feature::PendingAccepts => self.network.state.lock().needs_pending_accepts,
            Feature::UnixSockets | Feature::FineTimer => true,
        }
    }

    fn adopt(&self, descriptor: i64, kind: Kind) -> io::Result<Handle> {
        let mut state = self.network.state.lock();
        state.attempt(Fault::Adopt)?;
        let number = state.find(descriptor).ok_or_else(|| io::Error::from_raw_os_error(EBADF))?;
        let fits = matches!(state.sockets[number], Socket::Listener(_)) == (kind == Kind::Listener);
        if !fits {
            return Err(io::Error::from_raw_os_error(EINVAL));
        }
        Ok(self.network.hold(number, descriptor, kind))
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
        listener.window = Some(window);
        if needs_pending {
            listener.top_up();
        }
        self.network.list(&mut state, number);
        Ok(())
    }

    fn pause_accept(&self, handle: &Handle) {
        self.network.state.lock().listener(handle.state::<Held>().socket).pause();
    }

    fn receive(&self, handle: &Handle) {
        let mut state = self.network.state.lock();
        let number = handle.state::<Held>().socket;
        state.stream(number).receiving = true;
        self.network.list(&mut state, number);
    }

    fn pause_receive(&self, handle: &Handle) {
        self.network.state.lock().stream(handle.state::<Held>().socket).receiving = false;
    }

    fn send(&self, handle: &Handle, data: Outgoing) -> Submission {
        let mut state = self.network.state.lock();
        let number = handle.state::<Held>().socket;
        assert!(state.stream(number).unsent.is_none(), "one send at a time may be pending on a handle");
        let mut unsent = Unsent { data, sent: 0 };
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

    fn poll(&self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
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
            let woken = std::mem::take(&mut state.woken);
            if completions.len() > before || woken || deadline.is_some_and(|deadline| deadline <= state.clock) {
                break;
            }
            if state.ready.is_empty() {
                state.sleeping = true;
                self.network.happened.notify_all();
                state = self.network.changed.wait(state);
                state.sleeping = false;
            }
        }
        drop(state);
        Ok(())
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

struct Network {
    /// Guards everything; never held while a handle or bytes of the layers above are dropped.
    state: Mutex<State>,
    /// Notified when there may be something to poll for.
    changed: Condvar,
    /// Notified when our side has done something, or sleeps in `poll`: for tests that wait for it.
    happened: Condvar,
    /// Held by the one who polls.
    polling: Mutex<()>,
}

impl Network {
    /// A handle of a socket.
    fn hold(self: &Arc<Self>, socket: usize, descriptor: i64, kind: Kind) -> Handle {
        let held = Held { network: Arc::clone(self), socket, descriptor };
        Handle::new(descriptor, kind, Box::new(held), |_| {})
    }

    fn wait_until(&self, timeout: Duration, mut condition: impl FnMut(&mut State) -> bool) -> bool {
        let mut state = self.state.lock();
        while !condition(&mut state) {
            let timed_out;
            // Each thing that happens begins a new wait: the time-out is against a hang, not a measure.
            (state, timed_out) = self.happened.wait_for(state, timeout);
            if timed_out {
                return condition(&mut state);
            }
        }
        true
    }

    /// Puts a socket on the list of those with something to do, if it has.
    fn list(&self, state: &mut State, socket: usize) {
        if state.list(socket) {
            self.changed.notify_all();
        }
    }
}

/// The engine's state of a handle; the last one to drop the handle frees the descriptor.
struct Held {
    network: Arc<Network>,
    socket: usize,
    descriptor: i64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.network.state.lock();
        state.descriptors[self.descriptor as usize] = None;
        let unsent = state.close(self.socket, Closing::Orderly);
        drop(state);
        drop(unsent);
    }
}

struct State {
    /// None: the well-behaved network.
    random: Option<Random>,
    /// Nanoseconds.
    clock: u64,
    woken: bool,
    /// The leader sleeps in `poll`.
    sleeping: bool,
    /// Never used again, so that a peer finds its own.
    sockets: Vec<Socket>,
    /// The lowest free number is used again, as the system does it.
    descriptors: Vec<Option<usize>>,
    /// Sockets with something to do, each once.
    ready: VecDeque<usize>,
    faults: Vec<(Fault, i32)>,
    cpu_times: Vec<Option<u64>>,
    needs_pending_accepts: bool,
}

enum Socket {
    Listener(Listener),
    Stream(Stream),
}

#[derive(Default)]
struct Listener {
    token: Option<Token>,
    accepting: bool,
    closed: bool,
    listed: bool,
    window: Option<AcceptWindow>,
    pending: usize,
    backlog: VecDeque<(usize, Address)>,
}

struct Stream {
    token: Option<Token>,
    listed: bool,
    closed: bool,
    receiving: bool,
    /// The end or an error has been told; there is nothing more to receive.
    over: bool,
    large: bool,
    /// What the peer has sent and nobody has received.
    incoming: VecDeque<u8>,
    finished: bool,
    failure: Option<i32>,
    failure_told: bool,
    /// What the peer has not taken yet.
    arrived: Vec<u8>,
    window: usize,
    unsent: Option<Unsent>,
    write_shut: bool,
    aborted: bool,
}

struct Unsent {
    data: Outgoing,
    sent: usize,
}

impl State {
    fn add(&mut self, socket: Socket) -> i64 {
        self.sockets.push(socket);
        self.number(self.sockets.len() - 1)
    }

    /// A descriptor for a socket.
    fn number(&mut self, socket: usize) -> i64 {
        let free = self.descriptors.iter().position(Option::is_none).unwrap_or(self.descriptors.len());
        if free == self.descriptors.len() {
            self.descriptors.push(None);
        }
        self.descriptors[free] = Some(socket);
        free as i64
    }

    fn find(&self, descriptor: i64) -> Option<usize> {
        *self.descriptors.get(usize::try_from(descriptor).ok()?)?
    }

    fn listener(&mut self, socket: usize) -> &mut Listener {
        match &mut self.sockets[socket] {
            Socket::Listener(listener) => listener,
            Socket::Stream(_) => panic!("a listener was expected"),
        }
    }

    fn stream(&mut self, socket: usize) -> &mut Stream {
        match &mut self.sockets[socket] {
            Socket::Stream(stream) => stream,
            Socket::Listener(_) => panic!("a connection was expected"),
        }
    }

    /// The error of the first waiting fault that is meant.
    fn take_fault(&mut self, is_meant: impl Fn(Fault) -> bool) -> Option<(Fault, io::Error)> {
        let position = self.faults.iter().position(|(fault, _)| is_meant(*fault))?;
        let (fault, number) = self.faults.remove(position);
        Some((fault, io::Error::from_raw_os_error(number)))
    }

    /// Fails if a fault of this kind waits.
    fn attempt(&mut self, operation: Fault) -> io::Result<()> {
        self.take_fault(|fault| fault == operation).map_or(Ok(()), |(_, error)| Err(error))
    }

    /// True once in `of` times, and never on the well-behaved network.
    fn chance(&mut self, of: u64) -> bool {
        self.random.as_mut().is_some_and(|random| random.below(of) == 0)
    }

    /// A number from `least` to `most`; on the well-behaved network always `most`.
    fn up_to(&mut self, least: usize, most: usize) -> usize {
        match &mut self.random {
            // Mostly everything, sometimes a byte or so: both ends have their bugs.
            Some(random) if most > least => match random.below(3) {
                0 => most,
                1 => least + random.below((most - least).min(8) as u64 + 1) as usize,
                _ => least + random.below((most - least) as u64 + 1) as usize,
            },
            _ => most,
        }
    }

    fn list(&mut self, socket: usize) -> bool {
        let (listed, has_work) = match &mut self.sockets[socket] {
            Socket::Listener(listener) => (&mut listener.listed, listener.accepting && !listener.backlog.is_empty()),
            Socket::Stream(stream) => {
                let has_work = stream.has_work();
                (&mut stream.listed, has_work)
            }
        };
        if has_work && !*listed {
            *listed = true;
            self.ready.push_back(socket);
        }
        has_work
    }

    /// Lets each listed socket do something, until the bytes of one poll are received.
    fn progress(&mut self, network: &Arc<Network>, buffers: &dyn BufferSource, completions: &mut Vec<Completion>, over: &mut Vec<Unsent>) {
        let before = completions.len();
        let mut bytes = 0;
        for _ in 0..self.ready.len() {
            if bytes >= RECEIVE_SIZE || (completions.len() > before && self.chance(4)) {
                return;
            }
            let any = match &mut self.random {
                Some(random) => random.below(self.ready.len() as u64) as usize,
                None => 0,
            };
            let Some(socket) = self.ready.remove(any) else { return };
            match &mut self.sockets[socket] {
                Socket::Listener(listener) => {
                    listener.listed = false;
                    self.accept_step(network, socket, completions);
                }
                Socket::Stream(stream) => {
                    stream.listed = false;
                    let Some(token) = stream.token else { continue };
                    if let Some(outcome) = self.send_step(socket, over) {
                        completions.push(Completion { token, outcome });
                    }
                    if let Some(outcome) = self.receive_step(socket, buffers) {
                        if let Outcome::Received(received) = &outcome {
                            bytes += received.len();
                        }
                        completions.push(Completion { token, outcome });
                    }
                }
            }
            self.list(socket);
        }
    }

    fn accept_step(&mut self, network: &Arc<Network>, socket: usize, completions: &mut Vec<Completion>) {
        let needs_pending = self.needs_pending_accepts;
        let listener = self.listener(socket);
        let Some(token) = listener.token else { return };
        let most = if needs_pending { listener.pending } else { ACCEPTS_A_POLL };
        for _ in 0..most {
            let listener = self.listener(socket);
            if !listener.accepting || listener.backlog.is_empty() {
                break;
            }
            let fault = self.take_fault(|fault| matches!(fault, Fault::Accept { .. }));
            let listener = self.listener(socket);
            listener.pending = listener.pending.saturating_sub(1);
            let outcome = match fault {
                Some((Fault::Accept { pause: true }, error)) => {
                    listener.pause();
                    Outcome::AcceptFailed { error, pause: true }
                }
                Some((_, error)) => {
                    if let Some((lost, _)) = listener.backlog.pop_front() {
                        self.stream(lost).aborted = true;
                    }
                    Outcome::AcceptFailed { error, pause: false }
                }
                None => {
                    let Some((stream, peer)) = listener.backlog.pop_front() else { break };
                    let kind = if matches!(peer, Address::Unix(_)) { Kind::Unix } else { Kind::Tcp };
                    let descriptor = self.number(stream);
                    Outcome::Accepted { handle: network.hold(stream, descriptor, kind), peer }
                }
            };
            completions.push(Completion { token, outcome });
        }
        let listener = self.listener(socket);
        if needs_pending && listener.accepting && listener.window.is_some_and(|window| listener.pending < window.minimum.max(1)) {
            listener.top_up();
        }
    }

    fn send_step(&mut self, socket: usize, over: &mut Vec<Unsent>) -> Option<Outcome> {
        let stream = self.stream(socket);
        let mut unsent = stream.unsent.take()?;
        let result = self.transmit(socket, &mut unsent);
        let outcome = match result {
            Ok(()) if !unsent.data.is_empty() => {
                self.stream(socket).unsent = Some(unsent);
                return None;
            }
            Ok(()) => Outcome::Sent { bytes: unsent.sent },
            Err(error) => Outcome::SendFailed { error, sent: unsent.sent, unsent: unsent.data.len() },
        };
        over.push(unsent);
        Some(outcome)
    }

    fn receive_step(&mut self, socket: usize, buffers: &dyn BufferSource) -> Option<Outcome> {
        let stream = self.stream(socket);
        if let Some(number) = stream.failure
            && !stream.failure_told
            && (!stream.receiving || stream.over || stream.incoming.is_empty())
        {
            stream.failure_told = true;
            stream.over = true;
            return Some(Outcome::ReceiveFailed(io::Error::from_raw_os_error(number)));
        }
        if !stream.receiving || stream.over {
            return None;
        }
        let available = stream.incoming.len().min(RECEIVE_SIZE);
        if available == 0 {
            if !stream.finished {
                return None;
            }
            stream.over = true;
            return Some(Outcome::Ended);
        }
        if let Err(error) = self.attempt(Fault::Receive) {
            let stream = self.stream(socket);
            stream.failure = error.raw_os_error();
            stream.failure_told = true;
            stream.over = true;
            return Some(Outcome::ReceiveFailed(error));
        }
        let count = self.up_to(1, available);
        let stream = self.stream(socket);
        let bytes: Box<[u8]> = stream.incoming.drain(..count).collect();
        let large = std::mem::replace(&mut stream.large, count >= LARGE_RECEIVE);
        if large
            && count >= LARGE_RECEIVE / 2
            && let Some(mut buffer) = buffers.take()
        {
            stream.large = true;
            buffer.memory()[..count].copy_from_slice(&bytes);
            return Some(Outcome::Received(Received::Large { buffer, length: count }));
        }
        Some(Outcome::Received(Received::Small(Copied::of(&bytes))))
    }

    /// Gives the peer what its window takes.
    fn transmit(&mut self, socket: usize, unsent: &mut Unsent) -> io::Result<()> {
        let stream = self.stream(socket);
        if stream.closed || stream.write_shut {
            return Err(io::Error::from_raw_os_error(EPIPE));
        }
        if let Some(number) = stream.failure {
            return Err(io::Error::from_raw_os_error(number));
        }
        if let Err(error) = self.attempt(Fault::Send) {
            self.stream(socket).failure = error.raw_os_error();
            return Err(error);
        }
        let stream = self.stream(socket);
        let room = stream.window.saturating_sub(stream.arrived.len()).min(unsent.data.len());
        let count = self.up_to(0, room);
        let stream = self.stream(socket);
        let mut left = count;
        while left > 0 {
            let mut slices = [io::IoSlice::new(&[])];
            unsent.data.slices(&mut slices);
            let part = slices[0].len().min(left);
            stream.arrived.extend_from_slice(&slices[0][..part]);
            unsent.data.advance(part);
            left -= part;
        }
        unsent.sent += count;
        Ok(())
    }

    #[must_use = "to be dropped after the lock is released"]
    fn close(&mut self, socket: usize, how: Closing) -> Option<Unsent> {
        match &mut self.sockets[socket] {
            Socket::Listener(listener) => {
                listener.closed = true;
                listener.pause();
                for (refused, _) in std::mem::take(&mut listener.backlog) {
                    self.stream(refused).aborted = true;
                }
                None
            }
            Socket::Stream(stream) => {
                if !std::mem::replace(&mut stream.closed, true) {
                    stream.write_shut = true;
                    stream.aborted = how == Closing::Abort;
                    stream.incoming = VecDeque::new();
                }
                stream.unsent.take()
            }
        }
    }
}

impl Listener {
    fn top_up(&mut self) {
        self.pending = self.window.map_or(0, |window| window.maximum.max(1));
    }

    fn pause(&mut self) {
        self.accepting = false;
        self.pending = 0;
    }
}

impl Stream {
    fn has_work(&self) -> bool {
        if self.closed || self.token.is_none() {
            return false;
        }
        let can_send = self.unsent.is_some() && (self.failure.is_some() || self.write_shut || self.arrived.len() < self.window);
        let can_receive = self.receiving && !self.over && (!self.incoming.is_empty() || self.finished);
        can_send || can_receive || (self.failure.is_some() && !self.failure_told)
    }
}

impl Default for Stream {
    fn default() -> Self {
        Stream {
            token: None,
            listed: false,
            closed: false,
            receiving: false,
            over: false,
            large: false,
            incoming: VecDeque::new(),
            finished: false,
            failure: None,
            failure_told: false,
            arrived: Vec::new(),
            window: usize::MAX,
            unsent: None,
            write_shut: false,
            aborted: false,
        }
    }
}

/// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not 0. (That it is not quite even does not matter here.)
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

const ACCEPTS_A_POLL: usize = 128;

const EBADF: i32 = 9;
const EINVAL: i32 = 22;
const EPIPE: i32 = 32;
const ECONNRESET: i32 = 104;
const ENOTCONN: i32 = 107;
const ECONNREFUSED: i32 = 111;
