//! The network behind the simulated engine: sockets, what is on its way, and chance. Everything under one lock.

use super::*;

pub(super) struct Network {
    /// Guards everything; never held while a handle or bytes of the layers above are dropped.
    pub(super) state: Mutex<State>,
    /// Notified when there may be something to poll for.
    pub(super) changed: Condvar,
    /// Notified when our side has done something, or sleeps in `poll`: for tests that wait for it.
    pub(super) happened: Condvar,
    /// Held by the one who polls.
    pub(super) polling: Mutex<()>,
}

impl Network {
    /// A handle of a socket.
    pub(super) fn hold(self: &Arc<Self>, socket: usize, descriptor: i64, kind: Kind) -> Handle {
        let held = Held { network: Arc::clone(self), socket, descriptor, surrendered: AtomicBool::new(false) };
        Handle::new(descriptor, kind, Box::new(held), |_| {})
    }

    pub(super) fn wait_until(&self, timeout: Duration, mut condition: impl FnMut(&mut State) -> bool) -> bool {
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
    pub(super) fn list(&self, state: &mut State, socket: usize) {
        if state.list(socket) {
            self.changed.notify_all();
        }
    }
}

/// The engine's state of a handle; the last one to drop the handle frees the descriptor.
pub(super) struct Held {
    pub(super) network: Arc<Network>,
    pub(super) socket: usize,
    pub(super) descriptor: i64,
    /// The descriptor is somebody else's.
    pub(super) surrendered: AtomicBool,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.surrendered.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.network.state.lock();
        state.descriptors[self.descriptor as usize] = None;
        let unsent = state.close(self.socket, Closing::Orderly);
        drop(state);
        drop(unsent);
    }
}

pub(super) struct State {
    /// None: the well-behaved network.
    pub(super) random: Option<Random>,
    /// Nanoseconds.
    pub(super) clock: u64,
    pub(super) woken: bool,
    /// The leader sleeps in `poll`.
    pub(super) sleeping: bool,
    /// Never used again, so that a peer finds its own.
    pub(super) sockets: Vec<Socket>,
    /// The lowest free number is used again, as the system does it.
    pub(super) descriptors: Vec<Option<usize>>,
    /// Sockets with something to do, each once.
    pub(super) ready: VecDeque<usize>,
    pub(super) faults: Vec<(Fault, i32)>,
    pub(super) cpu_times: Vec<Option<u64>>,
    pub(super) needs_pending_accepts: bool,
}

pub(super) enum Socket {
    Listener(Listener),
    Stream(Stream),
    Datagrams(Datagrams),
    /// What tests make ready.
    Object(Object),
    /// Somebody's wait for an object.
    Wait(Wait),
}

#[derive(Default)]
pub(super) struct Object {
    pub(super) ready: bool,
}

pub(super) struct Wait {
    pub(super) object: usize,
    pub(super) token: Option<Token>,
    pub(super) waiting: bool,
    pub(super) listed: bool,
    pub(super) closed: bool,
}

#[derive(Default)]
pub(super) struct Listener {
    pub(super) token: Option<Token>,
    pub(super) accepting: bool,
    pub(super) closed: bool,
    pub(super) listed: bool,
    /// How many are still to be accepted before it pauses.
    pub(super) left: usize,
    pub(super) window: Option<AcceptWindow>,
    pub(super) pending: usize,
    pub(super) backlog: VecDeque<(usize, Address)>,
}

pub(super) struct Stream {
    pub(super) token: Option<Token>,
    pub(super) listed: bool,
    pub(super) closed: bool,
    pub(super) link: Link,
    /// What the peer says to the attempt to connect.
    pub(super) answer: Option<Result<(), i32>>,
    pub(super) receiving: bool,
    /// The end or an error has been told; there is nothing more to receive.
    pub(super) over: bool,
    pub(super) large: bool,
    /// What the peer has sent and nobody has received.
    pub(super) incoming: VecDeque<u8>,
    pub(super) finished: bool,
    pub(super) failure: Option<i32>,
    pub(super) failure_told: bool,
    /// What the peer has not taken yet.
    pub(super) arrived: Vec<u8>,
    pub(super) window: usize,
    pub(super) unsent: Option<Unsent>,
    /// Of the last pending send that is over.
    pub(super) taken: usize,
    pub(super) write_shut: bool,
    pub(super) aborted: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Link {
    #[default]
    Connected,
    Unconnected,
    Connecting,
}

pub(super) struct Unsent {
    pub(super) data: Outgoing,
    pub(super) sent: usize,
    /// Of a datagram.
    pub(super) address: Option<Address>,
}

impl State {
    pub(super) fn add(&mut self, socket: Socket) -> i64 {
        self.sockets.push(socket);
        self.number(self.sockets.len() - 1)
    }

    /// A descriptor for a socket.
    pub(super) fn number(&mut self, socket: usize) -> i64 {
        let free = self.descriptors.iter().position(Option::is_none).unwrap_or(self.descriptors.len());
        if free == self.descriptors.len() {
            self.descriptors.push(None);
        }
        self.descriptors[free] = Some(socket);
        free as i64
    }

    pub(super) fn find(&self, descriptor: i64) -> Option<usize> {
        *self.descriptors.get(usize::try_from(descriptor).ok()?)?
    }

    pub(super) fn listener(&mut self, socket: usize) -> &mut Listener {
        match &mut self.sockets[socket] {
            Socket::Listener(listener) => listener,
            _ => panic!("a listener was expected"),
        }
    }

    pub(super) fn stream(&mut self, socket: usize) -> &mut Stream {
        match &mut self.sockets[socket] {
            Socket::Stream(stream) => stream,
            _ => panic!("a connection was expected"),
        }
    }

    pub(super) fn object(&mut self, socket: usize) -> &mut Object {
        match &mut self.sockets[socket] {
            Socket::Object(object) => object,
            _ => panic!("something to wait for was expected"),
        }
    }

    pub(super) fn wait(&mut self, socket: usize) -> &mut Wait {
        match &mut self.sockets[socket] {
            Socket::Wait(wait) => wait,
            _ => panic!("a watched handle was expected"),
        }
    }

    pub(super) fn is_ready(&mut self, socket: usize) -> bool {
        let object = self.wait(socket).object;
        self.object(object).ready
    }

    /// The error of the first waiting fault that is meant.
    pub(super) fn take_fault(&mut self, is_meant: impl Fn(Fault) -> bool) -> Option<(Fault, io::Error)> {
        let position = self.faults.iter().position(|(fault, _)| is_meant(*fault))?;
        let (fault, number) = self.faults.remove(position);
        Some((fault, io::Error::from_raw_os_error(number)))
    }

    /// Fails if a fault of this kind waits.
    pub(super) fn attempt(&mut self, operation: Fault) -> io::Result<()> {
        self.take_fault(|fault| fault == operation).map_or(Ok(()), |(_, error)| Err(error))
    }

    /// True once in `of` times, and never on the well-behaved network.
    pub(super) fn chance(&mut self, of: u64) -> bool {
        self.random.as_mut().is_some_and(|random| random.below(of) == 0)
    }

    /// A number from `least` to `most`; on the well-behaved network always `most`.
    pub(super) fn up_to(&mut self, least: usize, most: usize) -> usize {
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

    pub(super) fn list(&mut self, socket: usize) -> bool {
        let ready = matches!(self.sockets[socket], Socket::Wait(_)) && self.is_ready(socket);
        let (listed, has_work) = match &mut self.sockets[socket] {
            Socket::Object(_) => return false,
            Socket::Wait(wait) => (&mut wait.listed, wait.waiting && ready && !wait.closed),
            Socket::Listener(listener) => (&mut listener.listed, listener.accepting && !listener.backlog.is_empty()),
            Socket::Datagrams(socket) => {
                let has_work = socket.has_work();
                (&mut socket.listed, has_work)
            }
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
    pub(super) fn progress(
        &mut self,
        network: &Arc<Network>,
        buffers: &dyn BufferSource,
        completions: &mut Vec<Completion>,
        over: &mut Vec<Unsent>,
    ) {
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
                Socket::Object(_) => {}
                Socket::Wait(wait) => {
                    wait.listed = false;
                    let token = wait.token;
                    if self.is_ready(socket)
                        && let Some(token) = token
                        && std::mem::take(&mut self.wait(socket).waiting)
                    {
                        completions.push(Completion { token, outcome: Outcome::Signalled });
                    }
                }
                Socket::Listener(listener) => {
                    listener.listed = false;
                    self.accept_step(network, socket, completions);
                }
                Socket::Datagrams(datagrams) => {
                    datagrams.listed = false;
                    bytes += self.datagrams_step(socket, completions, over);
                }
                Socket::Stream(stream) => {
                    stream.listed = false;
                    let Some(token) = stream.token else { continue };
                    if let Some(outcome) = self.connect_step(socket) {
                        completions.push(Completion { token, outcome });
                    }
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

    pub(super) fn accept_step(&mut self, network: &Arc<Network>, socket: usize, completions: &mut Vec<Completion>) {
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
            let listener = self.listener(socket);
            if listener.left != usize::MAX {
                listener.left = listener.left.saturating_sub(1);
                if listener.left == 0 {
                    listener.pause();
                }
            }
        }
        let listener = self.listener(socket);
        if needs_pending && listener.accepting && listener.window.is_some_and(|window| listener.pending < window.minimum.max(1)) {
            listener.top_up();
        }
    }

    pub(super) fn send_step(&mut self, socket: usize, over: &mut Vec<Unsent>) -> Option<Outcome> {
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
        self.stream(socket).taken = unsent.sent;
        over.push(unsent);
        Some(outcome)
    }

    pub(super) fn receive_step(&mut self, socket: usize, buffers: &dyn BufferSource) -> Option<Outcome> {
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
    pub(super) fn transmit(&mut self, socket: usize, unsent: &mut Unsent) -> io::Result<()> {
        let stream = self.stream(socket);
        if stream.closed || stream.write_shut {
            return Err(io::Error::from_raw_os_error(EPIPE));
        }
        if stream.link != Link::Connected {
            return Err(io::Error::from_raw_os_error(ENOTCONN));
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
    pub(super) fn close(&mut self, socket: usize, how: Closing) -> Option<Unsent> {
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
                stream.taken = stream.unsent.as_ref().map_or(stream.taken, |unsent| unsent.sent);
                stream.unsent.take()
            }
            Socket::Datagrams(socket) => {
                socket.closed = true;
                socket.incoming.clear();
                socket.unsent.take()
            }
            Socket::Wait(wait) => {
                wait.closed = true;
                wait.waiting = false;
                None
            }
            Socket::Object(_) => None,
        }
    }
}

impl Listener {
    pub(super) fn top_up(&mut self) {
        self.pending = self.window.map_or(0, |window| window.maximum.max(1));
    }

    pub(super) fn pause(&mut self) {
        self.accepting = false;
        self.pending = 0;
    }
}

impl Stream {
    pub(super) fn has_work(&self) -> bool {
        if self.closed || self.token.is_none() {
            return false;
        }
        match self.link {
            Link::Connected => {}
            Link::Unconnected => return false,
            Link::Connecting => return self.answer.is_some(),
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
            link: Link::Connected,
            answer: None,
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
            taken: 0,
            write_shut: false,
            aborted: false,
        }
    }
}

/// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not 0. (That it is not quite even does not matter here.)
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) const ACCEPTS_A_POLL: usize = 128;
