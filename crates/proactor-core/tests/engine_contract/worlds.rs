//! The worlds that the suite runs in, and the bench that it runs on.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use proactor_core::buffer::{BufferSource, NoLargeBuffers, Outgoing, Received};
use proactor_core::completion::{Completion, Datagram, Outcome, Token};
use proactor_core::engine::simulated::{self, Simulated};
use proactor_core::engine::{AcceptWindow, Address, Engine, Handle, Kind, SocketOptions};

/// Makes an engine, and what it talks to.
pub trait World: Sync + Sized {
    type Peer: Peer + Send;
    /// How long one poll of the bench may sleep. The simulated clock stands still, and everything there happens at once.
    const STEP: Duration;
    /// Each test runs once with each seed.
    const SEEDS: std::ops::Range<u64>;
    /// After how many polls bytes must have come that compete with a flood.
    const FAIR_AFTER: usize = 3;
    /// A closed handle's number is free at once.
    const NUMBERS_RETURN: bool = true;

    fn new(seed: u64, buffers: Arc<dyn BufferSource>) -> Self;
    fn engine(&self) -> &Arc<dyn Engine>;
    fn listen(&self) -> i64;
    /// Where clients of a listener connect to; asked while the listener lives.
    fn place(&self, listener: i64) -> Place;
    fn connect(&self, place: &Place) -> io::Result<Self::Peer>;
    /// From here on the connection holds much less than 1 MiB on its way to the peer.
    fn narrow(&self, handle: &Handle, peer: &Self::Peer);
    /// Something to wait for: its descriptor, and what makes it ready or not, also once the descriptor is closed.
    fn object(&self) -> (i64, Box<dyn Fn(bool)>);
    /// Its owner closes the object's descriptor.
    fn close_descriptor(&self, descriptor: i64);
}

pub enum Place {
    Internet(std::net::SocketAddr),
    Simulated(i64),
    /// A named pipe.
    #[cfg_attr(not(windows), allow(dead_code, reason = "there are none here"))]
    Pipe(String),
}

/// The other end. Nothing here blocks.
pub trait Peer {
    /// Sends what is taken at once; answers how much that was.
    fn send(&mut self, bytes: &[u8]) -> usize;
    /// What was sent is with the kernel when this returns: for peers that write on a thread of their own, and of whom all but a little has been received.
    fn settle(&self) {}
    fn finish(&mut self);
    fn reset(self);
    /// What has come since the last call.
    fn received(&mut self) -> Vec<u8>;
    /// Whether our end was seen, after all bytes.
    fn ended(&mut self) -> bool;
    fn was_reset(&mut self) -> bool;
}

/// Runs a test in a world, once with each seed.
pub fn run<W: World>(test: fn(Bench<W>)) {
    for seed in W::SEEDS {
        eprintln!("seed {seed}"); // shown when the test fails
        test(Bench::new(seed, Arc::new(NoLargeBuffers)));
    }
}

/// An engine in its world, and what has come out of it.
pub struct Bench<W: World> {
    pub world: W,
    pub records: HashMap<Token, Record>,
    pub accepted: Vec<(Handle, Address)>,
    /// Failed accepts: the error number, and whether accepting has stopped.
    pub accept_failures: Vec<(i32, bool)>,
    /// Completions whose token is nobody's.
    pub stale: Vec<Token>,
    /// Bytes received in the last poll.
    pub bytes_of_poll: usize,
    listener: Option<(Handle, Place)>,
    free_slots: Vec<Token>,
    next_slot: u32,
}

/// What has come for one handle.
#[derive(Default, Debug)]
pub struct Record {
    pub data: Vec<u8>,
    pub large: usize,
    pub ended: bool,
    pub hung_up: bool,
    pub failure: Option<i32>,
    pub sent: Vec<usize>,
    /// The error number, bytes sent, bytes not sent.
    pub send_failures: Vec<(i32, usize, usize)>,
    /// Waits that have completed.
    pub signalled: usize,
    pub datagrams: Vec<Datagram>,
    /// Attempts to connect that have succeeded, and the errors of those that have not.
    pub connected: usize,
    pub refusals: Vec<i32>,
}

impl Record {
    pub fn is_quiet(&self) -> bool {
        self.data.is_empty() && !self.ended && self.failure.is_none() && self.sent.is_empty() && self.send_failures.is_empty()
    }
}

pub struct Connection<P> {
    pub handle: Handle,
    pub token: Token,
    pub peer: P,
}

impl<W: World> Bench<W> {
    pub fn new(seed: u64, buffers: Arc<dyn BufferSource>) -> Self {
        Bench {
            world: W::new(seed, buffers),
            records: HashMap::new(),
            accepted: Vec::new(),
            accept_failures: Vec::new(),
            stale: Vec::new(),
            bytes_of_poll: 0,
            listener: None,
            free_slots: Vec::new(),
            next_slot: 0,
        }
    }

    pub fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(self.world.engine())
    }

    /// A token of a free slot; the most recently freed one, with its next generation.
    pub fn token(&mut self) -> Token {
        let token = self.free_slots.pop().unwrap_or_else(|| {
            self.next_slot += 1;
            Token { slot: self.next_slot, generation: 1 }
        });
        self.records.insert(token, Record::default());
        token
    }

    /// The token is nobody's from here on.
    pub fn free(&mut self, token: Token) {
        self.records.remove(&token);
        self.free_slots.push(Token { generation: token.generation + 1, ..token });
    }

    /// A new listener that accepts.
    pub fn listen(&mut self) -> (Handle, Place) {
        let descriptor = self.world.listen();
        let place = self.world.place(descriptor);
        let handle = self.engine().adopt(descriptor, Kind::Listener).expect("adopts the listener");
        let token = self.token();
        self.engine().associate(&handle, token).expect("associates the listener");
        self.accept(&handle);
        (handle, place)
    }

    pub fn accept(&self, listener: &Handle) {
        let options = SocketOptions { no_delay: true, keep_alive: true };
        self.engine().accept(listener, AcceptWindow { minimum: 2, maximum: 5 }, &options).expect("accepts");
    }

    /// A connection that is associated, and does not receive yet.
    pub fn connect(&mut self) -> Connection<W::Peer> {
        if self.listener.is_none() {
            self.listener = Some(self.listen());
        }
        let peer = match &self.listener {
            Some((_, place)) => self.world.connect(place).expect("connects"),
            None => unreachable!(),
        };
        self.until("the client is accepted", |bench| !bench.accepted.is_empty());
        let (handle, _) = self.accepted.remove(0);
        let token = self.token();
        self.engine().associate(&handle, token).expect("associates the connection");
        Connection { handle, token, peer }
    }

    /// A connection that receives.
    pub fn connect_receiving(&mut self) -> Connection<W::Peer> {
        let connection = self.connect();
        self.engine().receive(&connection.handle);
        connection
    }

    /// A connection that blocks long before 1 MiB, until the peer reads.
    pub fn connect_narrow(&mut self) -> Connection<W::Peer> {
        let connection = self.connect();
        self.world.narrow(&connection.handle, &connection.peer);
        connection
    }

    pub fn record(&self, token: Token) -> &Record {
        &self.records[&token]
    }

    pub fn poll(&mut self) {
        self.poll_for(W::STEP);
    }

    pub fn poll_for(&mut self, timeout: Duration) {
        let mut completions = Vec::new();
        self.engine().poll(Some(timeout), &mut completions).expect("polls");
        self.bytes_of_poll = 0;
        for Completion { token, outcome } in completions {
            self.take(token, outcome);
        }
    }

    fn take(&mut self, token: Token, outcome: Outcome) {
        let Some(record) = self.records.get_mut(&token) else {
            self.stale.push(token);
            return;
        };
        match outcome {
            Outcome::Accepted { handle, peer } => self.accepted.push((handle, peer)),
            Outcome::AcceptFailed { error, pause } => self.accept_failures.push((number(&error), pause)),
            Outcome::Received(received) => {
                assert!(!record.ended && record.failure.is_none(), "bytes after the end");
                assert!(!received.is_empty(), "an end in the shape of no bytes");
                if let Received::Large { .. } = received {
                    record.large += 1;
                }
                self.bytes_of_poll += received.len();
                record.data.extend_from_slice(received.as_slice());
            }
            Outcome::Ended => {
                assert!(!record.ended && record.failure.is_none(), "a second end");
                record.ended = true;
            }
            Outcome::HungUp => {
                assert!(record.ended && !record.hung_up, "a hang-up before the end, or a second one");
                record.hung_up = true;
            }
            Outcome::ReceiveFailed(error) => {
                assert!(record.failure.is_none(), "a second failure");
                record.failure = Some(number(&error));
            }
            Outcome::Sent { bytes } => record.sent.push(bytes),
            Outcome::Signalled => record.signalled += 1,
            Outcome::ReceivedFrom(datagram) => record.datagrams.push(*datagram),
            Outcome::Connected => record.connected += 1,
            Outcome::ConnectFailed(error) => record.refusals.push(number(&error)),
            Outcome::SendFailed { error, sent, unsent } => record.send_failures.push((number(&error), sent, unsent)),
        }
    }

    /// Polls until `condition` holds.
    pub fn until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "waited in vain until {what}; {:?}", self.records);
            self.poll();
        }
    }

    /// Polls until an echo has gone round on a connection of its own: what was under way before has arrived by then.
    pub fn settle(&mut self) {
        let mut other = self.connect_receiving();
        for _ in 0..5 {
            let seen = self.record(other.token).data.len();
            assert_eq!(other.peer.send(b"?"), 1);
            self.until("the settling byte comes", |bench| bench.record(other.token).data.len() > seen);
        }
        self.engine().close(&other.handle, proactor_core::engine::Closing::Orderly);
        self.free(other.token);
        self.stale.clear();
    }
}

pub fn number(error: &io::Error) -> i32 {
    error.raw_os_error().expect("an error of the system")
}

/// Bytes that show where they belong.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

pub fn outgoing(bytes: &[u8]) -> Outgoing {
    let mut data = Outgoing::new();
    data.push_copy(bytes);
    data
}

/// Runs `action` on a thread of its own, and panics if it takes longer than any machine needs.
pub fn within_patience<T: Send + 'static>(what: &str, action: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(action()));
    receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("waited in vain until {what}"))
}

pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct SimulatedWorld {
    pub network: Arc<Simulated>,
    engine: Arc<dyn Engine>,
}

impl World for SimulatedWorld {
    type Peer = simulated::Peer;
    const STEP: Duration = Duration::ZERO;
    const SEEDS: std::ops::Range<u64> = 0..1;

    fn new(seed: u64, buffers: Arc<dyn BufferSource>) -> Self {
        let network = Arc::new(Simulated::with_buffers(seed, buffers));
        SimulatedWorld { engine: Arc::clone(&network) as Arc<dyn Engine>, network }
    }

    fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    fn listen(&self) -> i64 {
        self.network.listen()
    }

    fn place(&self, listener: i64) -> Place {
        Place::Simulated(listener)
    }

    fn connect(&self, place: &Place) -> io::Result<simulated::Peer> {
        match place {
            Place::Simulated(listener) => self.network.connect(*listener, Address::Internet(([127, 0, 0, 1], 50_000).into())),
            Place::Internet(_) | Place::Pipe(_) => unreachable!(),
        }
    }

    fn narrow(&self, _handle: &Handle, peer: &simulated::Peer) {
        peer.set_window(5_000);
    }

    fn object(&self) -> (i64, Box<dyn Fn(bool)>) {
        let (descriptor, signal) = self.network.object();
        (descriptor, Box::new(move |ready| signal.set(ready)))
    }

    /// Descriptors of objects stay, here.
    fn close_descriptor(&self, _descriptor: i64) {}
}

impl Peer for simulated::Peer {
    fn send(&mut self, bytes: &[u8]) -> usize {
        simulated::Peer::send(self, bytes);
        bytes.len()
    }

    fn finish(&mut self) {
        simulated::Peer::finish(self);
    }

    fn reset(self) {
        simulated::Peer::reset(&self);
    }

    fn received(&mut self) -> Vec<u8> {
        simulated::Peer::received(self)
    }

    fn ended(&mut self) -> bool {
        simulated::Peer::ended(self)
    }

    fn was_reset(&mut self) -> bool {
        simulated::Peer::was_reset(self)
    }
}

/// The simulated network at its worst: other seeds than 0.
pub struct DisorderedWorld(pub SimulatedWorld);

impl World for DisorderedWorld {
    type Peer = simulated::Peer;
    const STEP: Duration = Duration::ZERO;
    const SEEDS: std::ops::Range<u64> = 1..21;
    /// What is ready may be left for a later poll, again and again.
    const FAIR_AFTER: usize = 100;

    fn new(seed: u64, buffers: Arc<dyn BufferSource>) -> Self {
        DisorderedWorld(SimulatedWorld::new(seed, buffers))
    }

    fn engine(&self) -> &Arc<dyn Engine> {
        self.0.engine()
    }

    fn listen(&self) -> i64 {
        self.0.listen()
    }

    fn place(&self, listener: i64) -> Place {
        self.0.place(listener)
    }

    fn connect(&self, place: &Place) -> io::Result<simulated::Peer> {
        self.0.connect(place)
    }

    fn narrow(&self, handle: &Handle, peer: &simulated::Peer) {
        self.0.narrow(handle, peer);
    }

    fn object(&self) -> (i64, Box<dyn Fn(bool)>) {
        self.0.object()
    }

    fn close_descriptor(&self, descriptor: i64) {
        self.0.close_descriptor(descriptor);
    }
}

#[cfg(target_os = "linux")]
pub use crate::peers::SocketPeer;
#[cfg(target_os = "linux")]
pub use of_linux::EpollWorld;

#[cfg(target_os = "linux")]
mod of_linux {
    use std::io::{self, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};
    use std::sync::Arc;
    use std::time::Duration;

    use proactor_core::buffer::BufferSource;
    use proactor_core::engine::{Engine, Handle, epoll::Epoll};

    use super::{Place, SocketPeer, World};
    use crate::peers::set_option;

    /// Real sockets on the loopback interface.
    pub struct EpollWorld(Arc<dyn Engine>);

    impl World for EpollWorld {
        type Peer = SocketPeer;
        const STEP: Duration = Duration::from_millis(20);
        const SEEDS: std::ops::Range<u64> = 0..1;

        fn new(_seed: u64, buffers: Arc<dyn BufferSource>) -> Self {
            raise_descriptor_limit();
            EpollWorld(Arc::new(Epoll::open(buffers).expect("opens epoll")))
        }

        fn engine(&self) -> &Arc<dyn Engine> {
            &self.0
        }

        fn listen(&self) -> i64 {
            let descriptor = TcpListener::bind("127.0.0.1:0").expect("listens").into_raw_fd();
            // SAFETY: no pointers are passed. Again, for a longer backlog than std's: clients that do not fit in try again a second later.
            assert_eq!(unsafe { libc::listen(descriptor, 4_096) }, 0);
            descriptor.into()
        }

        fn place(&self, listener: i64) -> Place {
            // SAFETY: the listener is open; the copy closes only itself.
            let copy = unsafe { BorrowedFd::borrow_raw(listener as i32) }.try_clone_to_owned().expect("copies the descriptor");
            Place::Internet(TcpListener::from(copy).local_addr().expect("has an address"))
        }

        fn connect(&self, place: &Place) -> io::Result<SocketPeer> {
            let Place::Internet(address) = place else { unreachable!() };
            let stream = TcpStream::connect(address)?;
            SocketPeer::new(stream)
        }

        fn narrow(&self, handle: &Handle, peer: &SocketPeer) {
            set_option(handle.descriptor() as i32, libc::SO_SNDBUF, 32_768);
            // Much less, and the loopback interface with its segments of 64 KiB would wait for timers.
            set_option(peer.stream.as_raw_fd(), libc::SO_RCVBUF, 131_072);
        }

        fn object(&self) -> (i64, Box<dyn Fn(bool)>) {
            // SAFETY: no pointers are passed.
            let (owners, ours) = unsafe {
                let owners = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
                (owners, libc::dup(owners))
            };
            assert!(owners >= 0 && ours >= 0, "{}", io::Error::last_os_error());
            // SAFETY: the number is a new descriptor, which nobody else knows.
            let counter = unsafe { std::fs::File::from_raw_fd(ours) };
            let set_ready = move |ready| {
                let result = if ready { (&counter).write(&1u64.to_ne_bytes()) } else { (&counter).read(&mut [0; 8]) };
                assert_eq!(result.expect("changes the counter"), 8);
            };
            (owners.into(), Box::new(set_ready))
        }

        fn close_descriptor(&self, descriptor: i64) {
            // SAFETY: the test owns it, and uses it no more.
            drop(unsafe { std::os::fd::OwnedFd::from_raw_fd(descriptor as i32) });
        }
    }

    fn raise_descriptor_limit() {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is writable, and lives until both calls return.
        unsafe {
            libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
            limit.rlim_cur = limit.rlim_max.min(65_536);
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}
