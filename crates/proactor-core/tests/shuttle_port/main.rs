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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use proactor_core::connection::{Bytes, Connection, Event, Next};
use proactor_core::engine::simulated::{Fault, Peer, Signal, Simulated};
use proactor_core::engine::{AcceptWindow, Address, Engine, Interest, Kind, SocketOptions};
use proactor_core::error::Failure;
use proactor_core::framing::Framing;
use proactor_core::group::{Group, Settings, Upper, Wants};
use proactor_core::port::{Appointment, Interpreter, Item, ManualResetEvent, Port, SendError, Task, Waitable, Worker};
use proactor_core::scheduler::Limits;
use proactor_core::sync::{Condvar, Mutex, MutexGuard};
use shuttle::thread::{self, JoinHandle};

mod appointments;
mod plan;
mod random;
mod seeds;
mod shown;

use plan::*;
use random::*;
use seeds::*;

#[test]
fn every_byte_comes_back_in_order_and_every_connection_ends_once() {
    if let Some(seed) = number("PROACTOR_SEED") {
        println!("{:#?}", Plan::new(seed));
    }
    over_seeds("shuttle_port", 1, false, Scenario::run);
    let many = number("PROACTOR_SEED").is_none() && number("SHUTTLE_ITERATIONS").is_none_or(|seeds| seeds >= 100);
    assert!(!many || HOLDS.load(Ordering::Relaxed) > 0, "no connection was ever held: the total limit is not tried");
}

/// So many turns until it is said that nothing more happens.
const MOST_TURNS: usize = 20_000;

/// Connections that stopped receiving because of the total limit, over all seeds.
static HOLDS: AtomicU64 = AtomicU64::new(0);

// ---- the server ----

struct Layer;

impl Upper for Layer {
    type Connection = ();
    type Group = ();
    type Call = usize;
    type Operation = ();
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
    /// How many timers and waits have run.
    came: Mutex<usize>,
    has_come: Condvar,
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
            came: Mutex::new(0),
            has_come: Condvar::new(),
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
        let (appointments, signals) = self.make_appointments();
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
        let prevented = self.keep_appointments(&appointments, &signals);
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
        let mut ended = Vec::new();
        if self.plan.finale == Finale::Close {
            (rest, ended) = self.port.close();
            // For those whose handlers wait for their peers.
            self.port.abort_all(&self.group, &Failure::Os(103));
        }
        ended.extend(self.port.finish());
        loop {
            let Some(worker) = self.workers().pop() else { break };
            worker.join().unwrap();
        }
        let (more, calls) = self.port.close();
        rest.extend(more);
        ended.extend(calls);
        let unbegun = rest.iter().filter(|item| matches!(item, Item::Appointment(appointment) if appointment.is_pending())).count();
        let came = *self.came.lock();
        assert_eq!(came + prevented + ended.len() + unbegun, appointments.len(), "each timer and wait comes, or was cancelled, once");
        assert!(self.plan.finale == Finale::Close || unbegun == 0);
        self.done.store(true, Ordering::SeqCst);
        if let Some(ticker) = ticker {
            ticker.join().unwrap();
        }
        // As the layer above, which joins the monitor before it looks for the last time. After a drain nothing is left.
        let late = self.port.scheduler.take_rest();
        assert!(late.is_empty() || self.plan.finale == Finale::Close, "the monitor brought {} after the last worker had left", late.len());
        rest.extend(late);
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
        while let Some(task) = self.port.next(&mut worker, &interpreter, |_| (), |number| *number) {
            match task {
                // Not where a handler may wait for what another worker does.
                Task::StartWorker if !self.plan.needs_workers() && self.chance(8) => self.port.scheduler.start_failed(),
                Task::StartWorker => self.start_worker(),
                Task::Completion(_) | Task::FileCompletion(_) => unreachable!("nothing is associated here"),
                Task::Call(number) => *lock(&self.calls_run).entry(number).or_default() += 1,
                Task::Appointment(..) => {
                    *self.came.lock() += 1;
                    self.has_come.notify_all();
                }
                Task::Event(event, ()) => {
                    let connection = worker.current.clone().expect("an event is for the worker's connection");
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
            Event::Unreadable(_) => unreachable!("no handler is called for it"),
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
        HOLDS.fetch_add(self.group.holds.load(Ordering::Relaxed), Ordering::Relaxed);
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

fn index(connection: &Connection<Layer>) -> usize {
    match connection.peer {
        Address::Internet(address) => usize::from(address.port()) - 1000,
        Address::Unix(_) | Address::Pipe(_) => unreachable!("the clients have internet addresses"),
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
