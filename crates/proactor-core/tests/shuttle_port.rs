//! The whole port on the simulated engine, over many schedules: connections, workers, monitor, drains, all chosen by the seed.
//!
//! SHUTTLE_ITERATIONS says how many seeds are tried (500 where it is not set), beginning with 1 or with PROACTOR_FIRST_SEED. A seed decides the
//! schedule of the threads, the engine's whims and the scenario, so a failure names its seed, and this runs it again, alone:
//!
//!     PROACTOR_SEED=1234 cargo test -p proactor-core --features shuttle --test shuttle_port
//!
//! In half of the scenarios nothing ticks: there a lost wake-up is a deadlock, which shuttle reports. In the others handlers also stand still without
//! saying so, peers do not read, and the clock moves; what never happens there ends at the limit of steps.

#![cfg(feature = "shuttle")]

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use proactor_core::connection::{Bytes, Connection, Event, Next};
use proactor_core::engine::simulated::{Fault, Peer, Simulated};
use proactor_core::engine::{AcceptWindow, Address, Engine, Kind, SocketOptions};
use proactor_core::error::Failure;
use proactor_core::framing::Framing;
use proactor_core::group::{Group, Settings, Upper, Wants};
use proactor_core::port::{Interpreter, Item, Port, SendError, Task, Worker};
use proactor_core::scheduler::Limits;
use proactor_core::sync::{Condvar, Mutex, MutexGuard};
use shuttle::scheduler::RandomScheduler;
use shuttle::thread::{self, JoinHandle};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

#[test]
fn every_byte_comes_back_in_order_and_every_connection_ends_once() {
    over_seeds(Scenario::run);
}

// ---- the scenario ----

/// What a seed decides.
#[derive(Clone, Debug)]
struct Plan {
    limits: Limits,
    /// The monitor ticks, and the clock moves.
    ticks: bool,
    busy_poll: u64,
    settings: Settings,
    clients: Vec<Script>,
    /// Calls posted besides.
    calls: usize,
    faulty: bool,
    finale: Finale,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finale {
    /// Everybody has its answers; then the group drains, then the workers.
    Drain,
    /// The group drains in the middle of everything.
    DrainEarly,
    AbortAll,
    /// The port closes over whatever is going on.
    Close,
}

/// What a plan allows its scripts.
#[derive(Clone, Copy)]
struct Traits {
    ticks: bool,
    stands_still: bool,
    well_behaved: bool,
    small: bool,
    lines: bool,
}

#[derive(Clone)]
struct Script {
    accepted: bool,
    chunks: Vec<Vec<u8>>,
    ending: Ending,
    /// How many bytes come through before the client takes them.
    window: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Stays,
    Finishes,
    Resets,
    /// The handler of the last message raises.
    HandlerRaises,
}

/// What a handler does with a message, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    Echo,
    /// Says that it blocks, and does for a moment.
    Block,
    /// Stands still, without a word, until the scenario lets it go on.
    StandStill,
    /// Reads on by itself, once.
    ReceiveOn,
    /// Says that it blocks, and waits until the client has its answer.
    AwaitAnswer,
    /// Stands still, without a word, until the client has the answers to all messages before this one.
    AwaitAnswersBefore,
    Raise,
}

const ECHO: u8 = b'e';
const BLOCK: u8 = b'b';
const STAND_STILL: u8 = b's';
const RECEIVE_ON: u8 = b'r';
const AWAIT_ANSWER: u8 = b'a';
const AWAIT_ANSWERS_BEFORE: u8 = b'w';
const RAISE: u8 = b'x';

impl Plan {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let ticks = random.chance(2);
        let concurrency = 1 + random.below(2);
        let limits = Limits { concurrency, max_workers: 1 + random.below(4), interpreter_lock: random.chance(2) };
        let framing = random.chance(3).then_some(Framing::Lines { limit: 64 });
        let faulty = random.chance(8);
        let finale = match random.below(8) {
            0 => Finale::DrainEarly,
            1 => Finale::AbortAll,
            2 => Finale::Close,
            _ => Finale::Drain,
        };
        // One connection's full inbox then stops the others, so nobody may stand still for the others' sake.
        let tight = ticks && random.chance(3);
        let small = ticks && random.chance(2);
        let settings = Settings {
            wants: Wants { connected: random.chance(2), ended: random.chance(2), closed: true, sent: random.chance(2) },
            receive_limit: if random.chance(2) { 100 } else { 1 << 20 },
            send_limit: if small { 40 } else { 1 << 20 },
            total_limit: if tight { 400 } else { 1 << 20 },
            send_timeout: None,
            idle_timeout: None,
            max_connections: None,
            framing,
            options: SocketOptions { no_delay: true, keep_alive: false },
            window: AcceptWindow { minimum: 1, maximum: 2 },
        };
        let clients = 1 + random.below(3);
        let mut still = 0;
        let clients = (0..clients)
            .map(|_| {
                let stands_still = ticks && !tight;
                let traits = Traits { ticks, stands_still, well_behaved: Plan::is_well_behaved(seed), small, lines: framing.is_some() };
                Script::new(&mut random, traits, &limits, &mut still)
            })
            .collect();
        let mut plan = Plan {
            limits,
            ticks,
            busy_poll: if ticks && random.chance(3) { 1_500_000 } else { 0 },
            settings,
            clients,
            calls: random.below(3),
            faulty,
            finale,
        };
        plan.faulty &= !plan.awaits_answers();
        plan
    }
}

impl Plan {
    /// The engine's seed 0: what is sent is taken at once.
    fn is_well_behaved(seed: u64) -> bool {
        seed.is_multiple_of(4)
    }

    /// A connection that fails is never answered.
    fn awaits_answers(&self) -> bool {
        self.clients.iter().any(|script| script.data().iter().any(|byte| [AWAIT_ANSWER, AWAIT_ANSWERS_BEFORE].contains(byte)))
    }

    /// A handler may need another worker.
    fn needs_workers(&self) -> bool {
        self.clients.iter().any(|script| script.data().iter().any(|byte| [STAND_STILL, AWAIT_ANSWER].contains(byte)))
    }
}

impl Script {
    fn new(random: &mut Random, traits: Traits, limits: &Limits, still: &mut usize) -> Self {
        let Traits { ticks, stands_still, well_behaved, small, lines } = traits;
        let ending = match random.below(6) {
            0 => Ending::Stays,
            1 => Ending::Resets,
            2 => Ending::HandlerRaises,
            _ => Ending::Finishes,
        };
        let messages = 1 + random.below(4);
        let mut chunks: Vec<Vec<u8>> = Vec::new();
        for number in 0..messages {
            let last = number + 1 == messages;
            let first = match random.below(8) {
                _ if last && ending == Ending::HandlerRaises => RAISE,
                0 => BLOCK,
                // Somebody must be left to serve the others.
                1 if stands_still && *still + 1 < limits.max_workers => {
                    *still += 1;
                    STAND_STILL
                }
                // Reading on needs something to come, or the end; and somebody to bring it. (In a drain, the end.)
                2 if stands_still && ending == Ending::Finishes && (*still + 1 < limits.max_workers || limits.max_workers == 1) => {
                    *still += 1;
                    RECEIVE_ON
                }
                // Where nothing ticks somebody must be left to write what the network did not take at once.
                3 if ending != Ending::Resets && (ticks || well_behaved || *still + 1 < limits.max_workers) => {
                    *still += 1;
                    AWAIT_ANSWER
                }
                4 if ending != Ending::Resets && ticks => AWAIT_ANSWERS_BEFORE,
                _ => ECHO,
            };
            let mut message = vec![first];
            message.extend((0..random.below(20)).map(|_| b'0' + random.below(10) as u8));
            if lines {
                message.push(b'\n');
            }
            // A chunk may hold several messages.
            match chunks.last_mut() {
                Some(chunk) if random.chance(3) => chunk.append(&mut message),
                _ => chunks.push(message),
            }
        }
        Script { accepted: random.chance(2), chunks, ending, window: if small && random.chance(2) { 8 } else { usize::MAX } }
    }

    fn data(&self) -> Vec<u8> {
        self.chunks.concat()
    }
}

// ---- the server ----

struct Layer;

impl Upper for Layer {
    type Connection = ();
    type Group = ();
    type Call = usize;
}

struct Scenario {
    plan: Plan,
    port: Arc<Port<Layer>>,
    engine: Arc<Simulated>,
    group: Arc<Group<Layer>>,
    /// The interpreter, where it is locked.
    interpreter: Mutex<()>,
    workers: std::sync::Mutex<Vec<JoinHandle<()>>>,
    random: std::sync::Mutex<Random>,
    logs: Vec<Log>,
    calls_run: std::sync::Mutex<BTreeMap<usize, usize>>,
    going: Mutex<bool>,
    let_go: Condvar,
    done: AtomicBool,
}

/// What happened on one connection. std's locks: only the assertions look at it.
#[derive(Default)]
struct Log {
    in_handler: AtomicBool,
    state: std::sync::Mutex<Story>,
    /// How many bytes the client has; more than there are, when it will get no more.
    answers: Mutex<usize>,
    answered: Condvar,
}

impl Log {
    fn wait_for_answers(&self) {
        let wanted = lock(&self.state).queued.len();
        let mut answers = self.answers.lock();
        while *answers < wanted {
            answers = self.answered.wait(answers);
        }
    }

    fn answered(&self, bytes: usize) {
        *self.answers.lock() = bytes;
        self.answered.notify_all();
    }
}

#[derive(Default)]
struct Story {
    connected: usize,
    /// As the handler saw it.
    received: Vec<u8>,
    /// Taken by `queue`.
    queued: Vec<u8>,
    told_sent: usize,
    ended: usize,
    closed: Vec<Option<Failure>>,
    after_the_end: usize,
}

impl Scenario {
    fn run(seed: u64) {
        let plan = Plan::new(seed);
        let engine = Arc::new(Simulated::open(if Plan::is_well_behaved(seed) { 0 } else { seed }));
        let port = Port::new(engine.clone(), plan.limits, None, plan.busy_poll);
        let scenario = Arc::new(Scenario {
            port,
            engine,
            group: Group::new((), plan.settings.clone()),
            interpreter: Mutex::new(()),
            workers: std::sync::Mutex::default(),
            random: std::sync::Mutex::new(Random(seed ^ 0x5eed)),
            logs: plan.clients.iter().map(|_| Log::default()).collect(),
            calls_run: std::sync::Mutex::default(),
            going: Mutex::new(false),
            let_go: Condvar::new(),
            done: AtomicBool::new(false),
            plan,
        });
        scenario.play();
    }

    fn play(self: &Arc<Self>) {
        self.start_worker();
        let ticker = self.plan.ticks.then(|| {
            let scenario = self.clone();
            thread::spawn(move || scenario.tick())
        });
        let mut clients = self.connect();
        for number in 0..self.plan.calls {
            self.port.call(number);
        }
        if self.plan.faulty {
            let fault = if self.chance(2) { Fault::Send } else { Fault::Receive };
            self.engine.fail_next(fault, 104); // ECONNRESET
        }
        let steps = self.below(200);
        for step in 0.. {
            let mut busy = false;
            for client in &mut clients {
                busy |= client.step(self);
            }
            if !clients.iter().any(|client| client.may_wait_for_others(self)) {
                self.let_go();
            }
            if !busy || (self.plan.finale != Finale::Drain && step >= steps) {
                break;
            }
            assert!(step < MOST_TURNS, "nothing more happens: {self:#?} {clients:#?}");
            thread::yield_now();
        }
        for (client, log) in clients.iter().zip(&self.logs) {
            client.peer.set_window(usize::MAX);
            log.answered(usize::MAX);
        }
        match self.plan.finale {
            Finale::Drain | Finale::DrainEarly => {
                self.let_go();
                self.port.drain(&self.group);
                // A client that is still in the backlog is accepted, or not, but never forgotten: `drain` ends it as it comes.
                assert!(self.group.wait_empty(0, None));
            }
            Finale::AbortAll => {
                self.port.abort_all(&self.group, &Failure::Os(103)); // ECONNABORTED
                self.let_go();
                self.port.drain(&self.group);
                assert!(self.group.wait_empty(0, None));
            }
            Finale::Close => self.let_go(),
        }
        let mut rest = VecDeque::new();
        if self.plan.finale == Finale::Close {
            rest = self.port.close();
            // For those whose handlers wait for their peers.
            self.port.abort_all(&self.group, &Failure::Os(103));
        }
        self.port.finish();
        loop {
            let Some(worker) = self.workers().pop() else { break };
            worker.join().unwrap();
        }
        rest.extend(self.port.close());
        self.done.store(true, Ordering::SeqCst);
        if let Some(ticker) = ticker {
            ticker.join().unwrap();
        }
        for client in &mut clients {
            client.take();
        }
        self.check(&clients, &rest);
    }

    fn start_worker(self: &Arc<Self>) {
        let scenario = self.clone();
        let worker = thread::spawn(move || scenario.work());
        self.workers().push(worker);
    }

    fn tick(&self) {
        let mut samples = Vec::new();
        for turn in 0.. {
            if self.done.load(Ordering::SeqCst) {
                return;
            }
            assert!(turn < MOST_TURNS, "nothing more happens: {self:#?}");
            self.engine.advance(Duration::from_millis(1));
            self.port.tick(&mut samples);
            thread::yield_now();
        }
    }

    /// The loop of every worker thread.
    fn work(self: &Arc<Self>) {
        let held = self.plan.limits.interpreter_lock.then(|| self.interpreter.lock());
        let interpreter = Attached { lock: &self.interpreter, held: RefCell::new(held) };
        let mut worker = self.port.worker();
        while let Some(task) = self.port.next(&mut worker, &interpreter, |_| ()) {
            match task {
                // Not where a handler may wait for what another worker does.
                Task::StartWorker if !self.plan.needs_workers() && self.chance(8) => self.port.scheduler.start_failed(),
                Task::StartWorker => self.start_worker(),
                Task::Call(number) => *lock(&self.calls_run).entry(number).or_default() += 1,
                Task::Event(connection, event, ()) => {
                    let log = &self.logs[index(&connection)];
                    assert!(!log.in_handler.swap(true, Ordering::SeqCst), "two handlers of one connection at once");
                    self.handle(&worker, &interpreter, &connection, event, log);
                    log.in_handler.store(false, Ordering::SeqCst);
                }
            }
        }
    }

    fn handle(&self, worker: &Worker<Layer>, interpreter: &Attached<'_>, connection: &Arc<Connection<Layer>>, event: Event, log: &Log) {
        {
            let mut story = lock(&log.state);
            story.after_the_end += usize::from(!story.closed.is_empty());
        }
        thread::yield_now();
        match event {
            Event::Connected => {
                let mut story = lock(&log.state);
                assert!(story.received.is_empty() && story.connected == 0, "connected comes first, and once");
                story.connected += 1;
            }
            Event::Received(bytes) => self.received(worker, interpreter, connection, bytes.as_slice(), log),
            Event::Ended => {
                lock(&log.state).ended += 1;
                self.port.close_connection(connection, None, false);
            }
            Event::Sent(count) => lock(&log.state).told_sent += count,
            Event::Closed(failure) => lock(&log.state).closed.push(failure),
        }
    }

    fn received(&self, worker: &Worker<Layer>, interpreter: &Attached<'_>, connection: &Arc<Connection<Layer>>, bytes: &[u8], log: &Log) {
        let mut message = bytes.to_vec();
        if self.plan.settings.framing.is_some() {
            message.push(b'\n');
        }
        lock(&log.state).received.extend(&message);
        // Without framing a message may be cut anywhere: then another byte decides, which is as good.
        let behaviour = behaviour_of(&message);
        match behaviour {
            Behaviour::Block => {
                self.port.block(worker.id);
                interpreter.detached(thread::yield_now);
                self.port.unblock(worker.id);
            }
            Behaviour::StandStill => interpreter.detached(|| self.wait_until_going()),
            Behaviour::AwaitAnswersBefore => interpreter.detached(|| log.wait_for_answers()),
            Behaviour::Echo | Behaviour::ReceiveOn | Behaviour::AwaitAnswer | Behaviour::Raise => {}
        }
        self.send(worker, interpreter, connection, &message, log);
        if behaviour == Behaviour::AwaitAnswer {
            interpreter.detached(|| {
                self.port.block(worker.id);
                log.wait_for_answers();
                self.port.unblock(worker.id);
            });
        }
        if behaviour == Behaviour::ReceiveOn {
            self.receive_on(worker, interpreter, connection, log);
        }
        if behaviour == Behaviour::Raise {
            self.port.close_connection(connection, Some(Failure::Handler), true);
        }
    }

    /// As `Connection.send` of the layer above.
    fn send(&self, worker: &Worker<Layer>, interpreter: &Attached<'_>, connection: &Arc<Connection<Layer>>, message: &[u8], log: &Log) {
        loop {
            match self.port.queue(connection, Bytes::Copy(message), true) {
                Ok(flush) => {
                    lock(&log.state).queued.extend(message);
                    if flush {
                        interpreter.detached(|| self.port.flush(connection));
                    }
                    return;
                }
                Err(SendError::Ended(_)) => return,
                Err(SendError::Full) => interpreter.detached(|| {
                    self.port.block(worker.id);
                    if let Some((waiter, seen)) = connection.room(message.len()) {
                        self.port.flush(connection);
                        waiter.wait(seen, None);
                    }
                    self.port.unblock(worker.id);
                }),
            }
        }
    }

    /// As `Connection.receive` of the layer above, for one message.
    fn receive_on(&self, worker: &Worker<Layer>, interpreter: &Attached<'_>, connection: &Arc<Connection<Layer>>, log: &Log) {
        loop {
            match self.port.next_message(connection) {
                Next::Message(bytes) => {
                    let mut message = bytes.as_slice().to_vec();
                    if self.plan.settings.framing.is_some() {
                        message.push(b'\n');
                    }
                    lock(&log.state).received.extend(&message);
                    return self.send(worker, interpreter, connection, &message, log);
                }
                Next::End | Next::Failed(_) => return,
                Next::Wait(waiter, seen) => interpreter.detached(|| {
                    self.port.flush(connection);
                    self.port.block(worker.id);
                    waiter.wait(seen, None);
                    self.port.unblock(worker.id);
                }),
            }
        }
    }

    fn wait_until_going(&self) {
        let mut going = self.going.lock();
        while !*going {
            going = self.let_go.wait(going);
        }
    }

    fn let_go(&self) {
        *self.going.lock() = true;
        self.let_go.notify_all();
    }

    // -- the clients --

    fn connect(&self) -> Vec<Client> {
        let descriptor = self.engine.listen();
        let handle = self.engine.adopt(descriptor, Kind::Listener).unwrap();
        self.port.listen(handle, "listener".into(), &self.group).unwrap();
        let connect = |(number, script): (usize, &Script)| {
            let address = address(number);
            let peer = if script.accepted {
                self.engine.connect(descriptor, address).unwrap()
            } else {
                let (descriptor, peer) = self.engine.pair();
                let handle = self.engine.adopt(descriptor, Kind::Tcp).unwrap();
                self.port.attach(handle, address, &self.group).unwrap();
                peer
            };
            peer.set_window(script.window);
            Client { number, script: script.clone(), peer, sent: 0, ended: false, arrived: Vec::new() }
        };
        self.plan.clients.iter().enumerate().map(connect).collect()
    }

    // -- the end --

    fn check(&self, clients: &[Client], rest: &VecDeque<Item<Layer>>) {
        self.port.scheduler.check();
        let counts = self.port.scheduler.counts();
        assert_eq!((counts.workers, counts.waiting, counts.running, counts.blocked, counts.queued), (0, 0, 0, 0, 0));
        let left = rest.iter().filter(|item| matches!(item, Item::Call(_))).count();
        assert_eq!(lock(&self.calls_run).values().sum::<usize>() + left, self.plan.calls, "each call runs once or is left");
        assert!(lock(&self.calls_run).values().all(|times| *times == 1));
        for client in clients {
            let story = lock(&self.logs[client.number].state);
            let data = client.script.data();
            assert!(data.starts_with(&story.received), "received out of order: {story:?}");
            assert!(story.received.starts_with(&story.queued), "{story:?}");
            assert!(story.queued.starts_with(&client.arrived), "the client got {:?}: {story:?}", client.arrived);
            assert!(story.connected <= 1 && story.ended <= 1 && story.closed.len() <= 1 && story.after_the_end == 0, "{story:?}");
            if self.plan.finale != Finale::Close {
                self.check_end(client, &story);
            }
        }
        if self.plan.finale == Finale::Close {
            return;
        }
        let totals = self.port.traffic(&self.group);
        let sum = |of: fn(&Story) -> usize| self.logs.iter().map(|log| of(&lock(&log.state)) as u64).sum::<u64>();
        assert_eq!(totals.sent + totals.dropped, sum(|story| story.queued.len()), "{totals:?}");
        assert!(totals.received >= sum(|story| story.received.len()));
        assert_eq!((self.group.live(), self.group.queued.load(proactor_core::sync::atomic::Ordering::SeqCst)), (0, 0));
        assert!(self.port.connections(&self.group).is_empty());
    }

    fn check_end(&self, client: &Client, story: &Story) {
        let accepted = story.connected > 0 || !story.received.is_empty() || !story.closed.is_empty() || !client.script.accepted;
        if !accepted {
            return; // it was still in the backlog
        }
        assert_eq!(story.closed.len(), 1, "closed is told once: {story:?}");
        assert_eq!(story.connected, usize::from(self.plan.settings.wants.connected));
        let orderly = matches!(story.closed[0], None | Some(Failure::Handler));
        if orderly {
            assert_eq!(story.queued, client.arrived, "everything queued is written before an orderly end");
            if self.plan.settings.wants.sent {
                assert_eq!(story.told_sent, client.arrived.len());
            }
        }
        if self.plan.finale != Finale::Drain || self.plan.faulty {
            return;
        }
        match client.script.ending {
            Ending::Stays | Ending::Finishes => {
                assert_eq!(story.closed, [None]);
                assert_eq!(client.arrived, client.script.data(), "every byte comes back");
            }
            Ending::Resets => assert!(!orderly, "{story:?}"),
            Ending::HandlerRaises => assert_eq!(story.closed, [Some(Failure::Handler)]),
        }
    }

    fn workers(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        lock(&self.workers)
    }

    fn chance(&self, of: usize) -> bool {
        lock(&self.random).chance(of)
    }

    fn below(&self, limit: usize) -> usize {
        lock(&self.random).below(limit)
    }
}

fn behaviour_of(message: &[u8]) -> Behaviour {
    // The last letter counts, so that a message of several that came together still ends as it must.
    match message.iter().rfind(|byte| byte.is_ascii_lowercase()) {
        Some(&BLOCK) => Behaviour::Block,
        Some(&STAND_STILL) => Behaviour::StandStill,
        Some(&AWAIT_ANSWER) => Behaviour::AwaitAnswer,
        Some(&AWAIT_ANSWERS_BEFORE) => Behaviour::AwaitAnswersBefore,
        Some(&RECEIVE_ON) => Behaviour::ReceiveOn,
        Some(&RAISE) => Behaviour::Raise,
        _ => Behaviour::Echo,
    }
}

/// One peer, moved along by the main thread.
struct Client {
    number: usize,
    script: Script,
    peer: Peer,
    /// Chunks.
    sent: usize,
    ended: bool,
    arrived: Vec<u8>,
}

impl std::fmt::Debug for Script {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let chunks: Vec<_> = self.chunks.iter().map(|chunk| String::from_utf8_lossy(chunk)).collect();
        let Script { accepted, ending, window, .. } = self;
        write!(formatter, "{chunks:?}, {ending:?}, accepted: {accepted}, window: {window}")
    }
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let connections: Vec<_> = self.port.connections(&self.group).iter().map(|one| (index(one), one.life(), one.queues())).collect();
        formatter
            .debug_struct("Scenario")
            .field("counts", &self.port.scheduler.counts())
            .field("group", &(self.group.live(), &self.group.queued))
            .field("connections", &connections)
            .field("logs", &self.logs)
            .finish()
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "in handler: {}, {:?}", self.in_handler.load(Ordering::SeqCst), lock(&self.state))
    }
}

impl std::fmt::Debug for Story {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (received, queued) = (String::from_utf8_lossy(&self.received), String::from_utf8_lossy(&self.queued));
        let Story { connected, told_sent, ended, closed, after_the_end, .. } = self;
        write!(
            formatter,
            "received {received:?}, queued {queued:?}, told sent {told_sent}, connected {connected}, ended {ended}, closed {closed:?}, after {after_the_end}"
        )
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Client {} sent {} chunks, got {:?}", self.number, self.sent, String::from_utf8_lossy(&self.arrived))
    }
}

impl Client {
    /// True while there is something left to do, or to wait for.
    fn step(&mut self, scenario: &Scenario) -> bool {
        if self.take() {
            scenario.logs[self.number].answered(self.arrived.len());
        }
        if self.sent < self.script.chunks.len() {
            if scenario.chance(2) {
                self.peer.send(&self.script.chunks[self.sent]);
                self.sent += 1;
            }
            return true;
        }
        if !self.ended {
            match self.script.ending {
                Ending::Finishes => self.peer.finish(),
                Ending::Resets => self.peer.reset(),
                Ending::Stays | Ending::HandlerRaises => {}
            }
            self.ended = true;
            return true;
        }
        let over = !lock(&scenario.logs[self.number].state).closed.is_empty();
        !over && (self.script.ending != Ending::Stays || self.arrived.len() < self.script.data().len())
    }

    /// Whether somebody else's handler may still need its own time before those that stand still go on.
    fn may_wait_for_others(&self, scenario: &Scenario) -> bool {
        let stands_still = self.script.data().contains(&STAND_STILL);
        let over = !lock(&scenario.logs[self.number].state).closed.is_empty();
        !stands_still && !over && (self.script.ending != Ending::Stays || self.arrived.len() < self.script.data().len())
    }

    fn take(&mut self) -> bool {
        let bytes = self.peer.received();
        self.arrived.extend(&bytes);
        !bytes.is_empty()
    }
}

/// Connections are told apart by their peers' addresses.
fn address(number: usize) -> Address {
    Address::Internet(SocketAddr::from((Ipv4Addr::LOCALHOST, 1000 + number as u16)))
}

fn index(connection: &Connection<Layer>) -> usize {
    match connection.peer {
        Address::Internet(address) => usize::from(address.port()) - 1000,
        Address::Unix(_) => unreachable!("the clients have internet addresses"),
    }
}

/// The interpreter, held by one worker at a time where it has a lock.
struct Attached<'a> {
    lock: &'a Mutex<()>,
    held: RefCell<Option<MutexGuard<'a, ()>>>,
}

impl Interpreter for Attached<'_> {
    fn detached<R: Send>(&self, wait: impl FnOnce() -> R + Send) -> R {
        let held = self.held.take();
        let locked = held.is_some();
        drop(held);
        let result = wait();
        if locked {
            *self.held.borrow_mut() = Some(self.lock.lock());
        }
        result
    }
}

// ---- seeds ----

/// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }

    /// True once in `of` times.
    fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One execution a seed, so that a seed is all that a replay needs.
fn over_seeds(scenario: fn(u64)) {
    if let Some(seed) = number("PROACTOR_SEED") {
        println!("{:#?}", Plan::new(seed));
        return execute(scenario, seed);
    }
    let first = number("PROACTOR_FIRST_SEED").unwrap_or(1);
    for seed in first..first + number("SHUTTLE_ITERATIONS").unwrap_or(500) {
        execute(scenario, seed);
    }
}

fn execute(scenario: fn(u64), seed: u64) {
    let _named = Named(seed);
    let mut config = Config::new();
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(MOST_STEPS);
    Runner::new(RandomScheduler::new_from_seed(seed, 1), config).run(move || scenario(seed));
}

/// A scenario takes some thousands.
const MOST_STEPS: usize = 1_000_000;
const MOST_TURNS: usize = 20_000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{variable} must be a number, not {value}")))
}

struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("seed {seed} failed. Again: PROACTOR_SEED={seed} cargo test -p proactor-core --features shuttle --test shuttle_port");
        }
    }
}
