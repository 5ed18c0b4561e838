//! The completion port: an engine feeds it, the scheduler decides, workers take from it. Owns the table of connections and listeners, the timers and the
//! list of unwritten sends. Knows nothing of Python: the layer above keeps its objects with ours (`Upper`).

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::buffer::SharedBytes;
use crate::completion::{Completion, Outcome, Token};
use crate::connection::{After, Bytes, Connection, Event, Life, Next, Queued, Rare, pause};
use crate::engine::{Address, Closing, Engine, Feature, Handle, Submission, TIMED_OUT};
use crate::error::Failure;
use crate::group::{Group, Traffic, Upper};
use crate::notices::{Notice, Notices};
use crate::scheduler::{Decision, Limits, Parker, Sample, Scheduler, Wakes, Work, WorkerId};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::table::Table;
use crate::timer::Timers;

/// Accepting is tried again this long after the machine ran out of descriptors or memory.
const ACCEPT_AGAIN_AFTER: u64 = 100_000_000;
/// Connections are numbered through the whole process. Orders nothing, so the model checkers need not see it.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);
/// So many suspects the monitor looks at closely on a tick; a look costs some microseconds.
const LOOKS_A_TICK: usize = 8;
/// How long a leader rests after its engine failed to poll, so that a broken engine does not spin.
const REST_AFTER_FAILURE: Duration = Duration::from_millis(10);

pub struct Port<U: Upper> {
    pub engine: Arc<dyn Engine>,
    pub scheduler: Scheduler<Item<U>>,
    pub notices: Notices,
    idle: Option<Duration>,
    busy_poll: u64,
    // The leader's memory, used again each turn; only the leader locks it.
    turn: Mutex<Turn<U>>,
    // Guards which slot holds what.
    table: Mutex<Table<Entry<U>>>,
    // Guards the timers and how long the leader sleeps.
    timers: Mutex<Due>,
    // Guards the connections with sends that wait for the end of a handler.
    dirty: Mutex<Vec<Arc<Connection<U>>>>,
    has_dirty: AtomicBool,
    /// Sends are written as each handler ends.
    flush_now: AtomicBool,
    hung: AtomicBool,
    forked: AtomicBool,
    closed: AtomicBool,
    // Guards nothing; the monitor sleeps on it.
    monitor: Mutex<bool>,
    monitor_woken: Condvar,
}

struct Turn<U: Upper> {
    ready: Vec<Item<U>>,
    completions: Vec<Completion>,
    found: Vec<(Option<Entry<U>>, Outcome)>,
}

struct Due {
    timers: Timers<Timer>,
    /// When the leader wakes by itself; an earlier deadline interrupts it.
    leader_until: u64,
}

enum Timer {
    Idle(Token),
    AcceptAgain(Token),
    /// A closing connection whose peer takes nothing.
    Linger(Token),
}

/// What the ready queue holds.
pub enum Item<U: Upper> {
    Connection(Arc<Connection<U>>),
    Call(U::Call),
}

/// What a worker is to do.
pub enum Task<U: Upper, R> {
    Event(Arc<Connection<U>>, Event, R),
    Call(U::Call),
    StartWorker,
}

/// One worker's side of the port; belongs to its thread.
pub struct Worker<U: Upper> {
    pub id: WorkerId,
    parker: Arc<Parker>,
    pub current: Option<Arc<Connection<U>>>,
}

pub struct Listener<U: Upper> {
    /// As the log shows it.
    pub address: String,
    pub group: Arc<Group<U>>,
    token: Token,
    // Guards the handle, None once it is closed.
    handle: Mutex<Option<Handle>>,
}

enum Entry<U: Upper> {
    Connection(Arc<Connection<U>>),
    Listener(Arc<Listener<U>>),
}

impl<U: Upper> Clone for Entry<U> {
    fn clone(&self) -> Self {
        match self {
            Entry::Connection(connection) => Entry::Connection(connection.clone()),
            Entry::Listener(listener) => Entry::Listener(listener.clone()),
        }
    }
}

/// Lets go of the interpreter while `next` waits.
pub trait Interpreter {
    fn detached<R: Send>(&self, wait: impl FnOnce() -> R + Send) -> R;
}

/// Why bytes were not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum SendError {
    Full,
    Ended(Option<Failure>),
}

/// What a broadcast does with a connection whose queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slow {
    Skip,
    Close,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Broadcast {
    pub sent: usize,
    pub skipped: usize,
    pub closed: usize,
}

impl<U: Upper> Port<U> {
    /// `idle`: after how long a surplus worker retires. `busy_poll`: how many nanoseconds the leader polls before it sleeps.
    pub fn new(engine: Arc<dyn Engine>, limits: Limits, idle: Option<Duration>, busy_poll: u64) -> Arc<Self> {
        Arc::new(Port {
            engine,
            scheduler: Scheduler::new(limits),
            notices: Notices::default(),
            idle,
            busy_poll,
            turn: Mutex::new(Turn { ready: Vec::new(), completions: Vec::new(), found: Vec::new() }),
            table: Mutex::new(Table::default()),
            timers: Mutex::new(Due { timers: Timers::new(), leader_until: u64::MAX }),
            dirty: Mutex::new(Vec::new()),
            has_dirty: AtomicBool::new(false),
            flush_now: AtomicBool::new(false),
            hung: AtomicBool::new(false),
            forked: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            monitor: Mutex::new(false),
            monitor_woken: Condvar::new(),
        })
    }

    // ---- workers ----

    /// The calling thread becomes a worker.
    pub fn worker(&self) -> Worker<U> {
        let (id, parker) = self.scheduler.register(self.engine.thread_clock());
        Worker { id, parker, current: None }
    }

    /// Finishes what the worker had, and waits for its next task; None: it is to exit. `with` makes something of a connection's public object.
    /// Called, and returns, with the interpreter held.
    pub fn next<R>(
        &self,
        worker: &mut Worker<U>,
        interpreter: &impl Interpreter,
        with: impl Fn(Option<&U::Connection>) -> R,
    ) -> Option<Task<U, R>> {
        let mut again = None;
        if let Some(connection) = worker.current.take() {
            again = self.end(connection);
        }
        if self.flush_now.load(Ordering::Relaxed) && self.has_dirty.load(Ordering::Relaxed) {
            interpreter.detached(|| self.flush_dirty());
        }
        let (mut work, wakes) = self.scheduler.finish_and_pop(worker.id, again);
        self.wake(wakes);
        loop {
            match work {
                Some(Work::StartWorker) => return Some(Task::StartWorker),
                Some(Work::Item(Item::Call(call))) => return Some(Task::Call(call)),
                Some(Work::Item(Item::Connection(connection))) => {
                    let (begun, after) = connection.begin(&*self.engine, &with);
                    self.follow(&connection, after);
                    if let Some((event, made)) = begun {
                        worker.current = Some(connection.clone());
                        return Some(Task::Event(connection, event, made));
                    }
                    let again = self.end(connection);
                    let wakes;
                    (work, wakes) = self.scheduler.finish_and_pop(worker.id, again);
                    self.wake(wakes);
                }
                None => {
                    let id = worker.id;
                    let parker = &worker.parker;
                    if !interpreter.detached(|| self.find_work(id, parker)) {
                        return None;
                    }
                    let wakes;
                    (work, wakes) = self.scheduler.pop(worker.id);
                    self.wake(wakes);
                }
            }
        }
    }

    /// Leads or parks until there is something to take; false: exit.
    fn find_work(&self, id: WorkerId, parker: &Parker) -> bool {
        loop {
            // Before anything else: if another worker leads, this one parks, and nobody else would come to write it.
            self.flush_dirty();
            match self.scheduler.decide(id) {
                Decision::Take => return true,
                Decision::Exit => {
                    if let Some(parker) = self.scheduler.pass_exit_on() {
                        parker.unpark();
                    }
                    return false;
                }
                Decision::Lead => {
                    let mut turn = self.lead(true);
                    self.scheduler.led(id, turn.ready.drain(..));
                }
                Decision::Park => {
                    match self.idle {
                        None => parker.park(),
                        Some(idle) => {
                            while !parker.park_for(idle) {
                                if self.scheduler.retire(id) {
                                    return false;
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// One turn of the leader: write, wait, receive, dispatch. Answers what became ready.
    fn lead(&self, may_wait: bool) -> MutexGuard<'_, Turn<U>> {
        self.flush_dirty();
        let mut turn = self.turn.lock();
        let Turn { ready, completions, found } = &mut *turn;
        let now = self.engine.now();
        self.fire_due(now, ready);
        let timeout = if may_wait && ready.is_empty() { self.until_next_timer(now) } else { Some(Duration::ZERO) };
        if let Err(error) = self.poll(timeout, completions) {
            self.notices.put(Notice::EngineFailed { error: error.to_string() });
            let rest = self.monitor.lock();
            let _rested = self.monitor_woken.wait_for(rest, REST_AFTER_FAILURE);
        }
        self.dispatch(completions, found, ready);
        turn
    }

    fn poll(&self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        if self.busy_poll > 0 && timeout != Some(Duration::ZERO) {
            let end = self.engine.now() + self.busy_poll;
            loop {
                self.engine.poll(Some(Duration::ZERO), completions)?;
                if !completions.is_empty() || self.scheduler.has_ready() {
                    return Ok(());
                }
                if self.engine.now() >= end {
                    break;
                }
            }
        }
        self.engine.poll(timeout, completions)
    }

    fn until_next_timer(&self, now: u64) -> Option<Duration> {
        let mut due = self.timers.lock();
        let next = due.timers.next_deadline();
        due.leader_until = next.unwrap_or(u64::MAX);
        next.map(|deadline| Duration::from_nanos(deadline.saturating_sub(now)))
    }

    fn add_timer(&self, deadline: u64, timer: Timer) {
        let mut due = self.timers.lock();
        due.timers.add(deadline, timer);
        if deadline < due.leader_until {
            drop(due);
            self.engine.wake();
        }
    }

    fn fire_due(&self, now: u64, ready: &mut Vec<Item<U>>) {
        loop {
            let mut due = self.timers.lock();
            let Some((_, timer)) = due.timers.pop_due(now) else { return };
            drop(due);
            match timer {
                Timer::Idle(token) => {
                    if let Some(Entry::Connection(connection)) = self.find(token) {
                        self.check_idle(&connection, now, ready);
                    }
                }
                Timer::AcceptAgain(token) => {
                    if let Some(Entry::Listener(listener)) = self.find(token) {
                        self.start_accepting(&listener);
                    }
                }
                Timer::Linger(token) => {
                    if let Some(Entry::Connection(connection)) = self.find(token) {
                        let after = connection.abort(Failure::Os(TIMED_OUT), &*self.engine);
                        self.follow_into(&connection, after, ready);
                    }
                }
            }
        }
    }

    fn check_idle(&self, connection: &Arc<Connection<U>>, now: u64, ready: &mut Vec<Item<U>>) {
        let (Some(limit), Some(idle)) = (connection.group.settings.idle_timeout, connection.idle_for(now)) else { return };
        if idle < limit {
            self.add_timer(now + limit - idle, Timer::Idle(connection.token));
        } else {
            let after = connection.close(Some(Failure::Idle), false, &*self.engine);
            self.follow_into(connection, after, ready);
        }
    }

    // ---- what came back ----

    fn dispatch(&self, completions: &mut Vec<Completion>, found: &mut Vec<(Option<Entry<U>>, Outcome)>, ready: &mut Vec<Item<U>>) {
        if completions.is_empty() {
            return;
        }
        let now = self.engine.now();
        // One look at the table a batch. A token whose generation has passed finds nothing: its completion is of a closed handle.
        {
            let table = self.table.lock();
            for completion in completions.drain(..) {
                found.push((table.get(completion.token).cloned(), completion.outcome));
            }
        }
        for (entry, outcome) in found.drain(..) {
            match entry {
                Some(Entry::Connection(connection)) => self.dispatch_connection(connection, outcome, now, ready),
                Some(Entry::Listener(listener)) => self.dispatch_listener(&listener, outcome, now, ready),
                None => drop(outcome),
            }
        }
    }

    fn dispatch_connection(&self, connection: Arc<Connection<U>>, outcome: Outcome, now: u64, ready: &mut Vec<Item<U>>) {
        let engine = &*self.engine;
        let after = match outcome {
            Outcome::Received(bytes) => connection.received(bytes, now, engine),
            Outcome::Ended => connection.peer_ended(engine),
            Outcome::ReceiveFailed(error) => connection.failed(error.into(), engine),
            Outcome::Sent { bytes } => connection.sent(bytes, now, engine),
            Outcome::SendFailed { error, sent, .. } => connection.send_failed(error.into(), sent, engine),
            Outcome::Accepted { .. } | Outcome::AcceptFailed { .. } => unreachable!("a connection accepts nothing"),
        };
        self.follow_into(&connection, after, ready);
    }

    fn dispatch_listener(&self, listener: &Arc<Listener<U>>, outcome: Outcome, now: u64, ready: &mut Vec<Item<U>>) {
        match outcome {
            Outcome::Accepted { handle, peer } => {
                if self.hung.load(Ordering::Relaxed) || !listener.group.enter() {
                    listener.group.refused.fetch_add(1, Ordering::Relaxed);
                    return; // dropping the handle closes it
                }
                listener.group.accepted.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = self.introduce(handle, peer, &listener.group, now, ready) {
                    listener.group.accept_errors.fetch_add(1, Ordering::Relaxed);
                    self.notices.put(Notice::AcceptFailed { address: listener.address.clone(), error: error.to_string(), paused: false });
                }
            }
            Outcome::AcceptFailed { error, pause } => {
                listener.group.accept_errors.fetch_add(1, Ordering::Relaxed);
                self.notices.put(Notice::AcceptFailed { address: listener.address.clone(), error: error.to_string(), paused: pause });
                if pause {
                    self.add_timer(now + ACCEPT_AGAIN_AFTER, Timer::AcceptAgain(listener.token));
                }
            }
            _ => unreachable!("a listener only accepts"),
        }
    }

    /// A new connection, counted in its group already.
    fn introduce(
        &self,
        handle: Handle,
        peer: Address,
        group: &Arc<Group<U>>,
        now: u64,
        ready: &mut Vec<Item<U>>,
    ) -> io::Result<Arc<Connection<U>>> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let connection = {
            let mut table = self.table.lock();
            let token = table.reserve();
            let connection = Connection::new(id, peer, group.clone(), handle.clone(), token, now);
            if group.settings.wants.connected {
                connection.connected(); // before anybody can find it and close it
            }
            table.fill(token, Entry::Connection(connection.clone()));
            connection
        };
        if group.settings.wants.connected {
            ready.push(Item::Connection(connection.clone()));
        }
        if let Err(error) = self.engine.associate(&handle, connection.token) {
            let after = connection.abort(Failure::from(&error), &*self.engine);
            self.follow_into(&connection, after, ready);
            return Err(error);
        }
        if connection.life() == Life::Closed {
            self.engine.close(&handle, Closing::Orderly); // closed before it was associated: nothing of it may stay
        }
        if let Some(limit) = group.settings.idle_timeout {
            self.add_timer(now + limit, Timer::Idle(connection.token));
        }
        if group.draining.load(Ordering::Relaxed) {
            let after = connection.drain(&*self.engine);
            self.follow_into(&connection, after, ready);
        } else {
            self.engine.receive(&handle);
        }
        Ok(connection)
    }

    // ---- listeners and connections ----

    /// Listens on an adopted handle.
    pub fn listen(&self, handle: Handle, address: String, group: &Arc<Group<U>>) -> io::Result<Arc<Listener<U>>> {
        let listener = {
            let mut table = self.table.lock();
            let token = table.reserve();
            let listener = Arc::new(Listener { address, group: group.clone(), token, handle: Mutex::new(Some(handle.clone())) });
            table.fill(token, Entry::Listener(listener.clone()));
            listener
        };
        let begun = self
            .engine
            .associate(&handle, listener.token)
            .and_then(|()| self.engine.accept(&handle, group.settings.window, &group.settings.options));
        if let Err(error) = begun {
            self.close_listener(&listener);
            return Err(error);
        }
        if self.engine.supports(Feature::PendingAccepts) {
            self.notices.put(Notice::PendingAccepts { address: listener.address.clone(), window: group.settings.window.maximum });
        }
        Ok(listener)
    }

    /// Stops accepting, for good. Idempotent.
    pub fn close_listener(&self, listener: &Listener<U>) {
        let handle = listener.handle.lock().take();
        if let Some(handle) = handle {
            self.engine.close(&handle, Closing::Orderly);
            let entry = self.table.lock().remove(listener.token);
            drop(entry);
        }
    }

    fn start_accepting(&self, listener: &Listener<U>) {
        let settings = &listener.group.settings;
        let Some(handle) = listener.handle.lock().clone() else { return };
        if let Err(error) = self.engine.accept(&handle, settings.window, &settings.options) {
            self.notices.put(Notice::AcceptFailed { address: listener.address.clone(), error: error.to_string(), paused: true });
            self.add_timer(self.engine.now() + ACCEPT_AGAIN_AFTER, Timer::AcceptAgain(listener.token));
        }
    }

    /// Takes over a connected socket.
    pub fn attach(&self, handle: Handle, peer: Address, group: &Arc<Group<U>>) -> io::Result<Arc<Connection<U>>> {
        let entered = group.enter();
        debug_assert!(entered);
        let mut ready = Vec::new();
        let connection = self.introduce(handle, peer, group, self.engine.now(), &mut ready);
        self.post(ready);
        connection
    }

    pub fn connections(&self, group: &Arc<Group<U>>) -> Vec<Arc<Connection<U>>> {
        let table = self.table.lock();
        table
            .iter()
            .filter_map(|entry| match entry {
                Entry::Connection(connection) if Arc::ptr_eq(&connection.group, group) => Some(connection.clone()),
                _ => None,
            })
            .collect()
    }

    /// What the group's connections have sent and received, those that are gone included.
    pub fn traffic(&self, group: &Arc<Group<U>>) -> Traffic {
        let mut traffic = group.totals();
        for connection in self.connections(group) {
            traffic.add(connection.traffic());
        }
        traffic
    }

    fn find(&self, token: Token) -> Option<Entry<U>> {
        self.table.lock().get(token).cloned()
    }

    // ---- sending ----

    /// Queues bytes. `deferred`: the caller is a worker of this port inside a handler, and they may wait until it ends.
    /// May write: call it with the interpreter released unless `deferred`. Answers true if `flush` must follow.
    pub fn queue(&self, connection: &Arc<Connection<U>>, bytes: Bytes<'_>, deferred: bool) -> Result<bool, SendError> {
        match connection.queue(bytes, deferred, &*self.engine) {
            Queued::Later { first } => {
                if first {
                    self.dirty.lock().push(connection.clone());
                    self.has_dirty.store(true, Ordering::Relaxed);
                }
                Ok(false)
            }
            Queued::Flush => Ok(true),
            Queued::Full => Err(SendError::Full),
            Queued::Ended(failure) => Err(SendError::Ended(failure)),
        }
    }

    /// Writes what the connection has queued.
    pub fn flush(&self, connection: &Arc<Connection<U>>) {
        let mut ready = Vec::new();
        self.flush_into(connection, &mut ready);
        self.post(ready);
    }

    fn flush_into(&self, connection: &Arc<Connection<U>>, ready: &mut Vec<Item<U>>) {
        while let Some((handle, outgoing)) = connection.take_outgoing() {
            let after = match self.engine.send(&handle, outgoing) {
                Submission::Done { bytes } => connection.sent(bytes, 0, &*self.engine),
                Submission::Pending => return,
                Submission::Failed { error, sent, .. } => connection.send_failed(error.into(), sent, &*self.engine),
            };
            self.finish_after(connection, after, ready);
        }
    }

    /// Writes what handlers have left to be written.
    pub fn flush_dirty(&self) {
        if !self.has_dirty.swap(false, Ordering::Relaxed) {
            return;
        }
        let mut batch = std::mem::take(&mut *self.dirty.lock());
        let mut ready = Vec::new();
        for connection in batch.drain(..) {
            self.flush_into(&connection, &mut ready);
        }
        self.post(ready);
        let mut dirty = self.dirty.lock();
        if dirty.is_empty() {
            *dirty = batch; // keeps its memory
        }
    }

    /// Sends the same bytes to all connections of the group but those excluded; waits for nobody. Call it with the interpreter released.
    pub fn broadcast(&self, group: &Arc<Group<U>>, bytes: &SharedBytes, excluded: &[u64], slow: Slow) -> Broadcast {
        let mut result = Broadcast::default();
        for connection in self.connections(group) {
            if excluded.contains(&connection.id) {
                continue;
            }
            match self.queue(&connection, Bytes::Shared(bytes.clone()), false) {
                Ok(flush) => {
                    result.sent += 1;
                    if flush {
                        self.flush(&connection);
                    }
                }
                Err(SendError::Full) if slow == Slow::Close => {
                    result.closed += 1;
                    self.abort(&connection, Failure::Os(TIMED_OUT));
                }
                Err(SendError::Full) => result.skipped += 1,
                Err(SendError::Ended(_)) => {}
            }
        }
        result
    }

    // ---- ending ----

    pub fn close_connection(&self, connection: &Arc<Connection<U>>, failure: Option<Failure>, discard: bool) {
        let after = connection.close(failure, discard, &*self.engine);
        self.follow(connection, after);
    }

    pub fn abort(&self, connection: &Arc<Connection<U>>, failure: Failure) {
        let after = connection.abort(failure, &*self.engine);
        self.follow(connection, after);
    }

    pub fn shutdown_write(&self, connection: &Arc<Connection<U>>) -> Result<(), Option<Failure>> {
        let (result, after) = connection.shutdown_write(&*self.engine);
        self.follow(connection, after);
        result
    }

    pub fn pause(&self, connection: &Connection<U>) {
        connection.pause(pause::USER, &*self.engine);
    }

    pub fn resume(&self, connection: &Connection<U>) {
        connection.resume(pause::USER, &*self.engine);
    }

    pub fn next_message(&self, connection: &Connection<U>) -> Next {
        connection.next_message(&*self.engine)
    }

    /// From now on the group's connections close as soon as their handlers are through and their queues are written.
    pub fn drain(&self, group: &Arc<Group<U>>) {
        group.draining.store(true, Ordering::SeqCst);
        for connection in self.connections(group) {
            let after = connection.drain(&*self.engine);
            self.follow(&connection, after);
        }
    }

    /// Ends the group's connections now; answers how many there were.
    pub fn abort_all(&self, group: &Arc<Group<U>>, failure: &Failure) -> usize {
        let connections = self.connections(group);
        for connection in &connections {
            self.abort(connection, failure.clone());
        }
        drop(group.take_held());
        connections.len()
    }

    // ---- posting, blocking, closing ----

    pub fn post(&self, items: Vec<Item<U>>) {
        if !items.is_empty() {
            let wakes = self.scheduler.post(items);
            self.wake(wakes);
        }
    }

    pub fn call(&self, call: U::Call) {
        let wakes = self.scheduler.post([Item::Call(call)]);
        self.wake(wakes);
    }

    /// The worker is about to block: its slot is free until `unblock`.
    pub fn block(&self, id: WorkerId) {
        let wakes = self.scheduler.block(id);
        let taken_over = wakes.worker.is_some() || wakes.leader;
        self.wake(wakes);
        if !taken_over {
            self.flush_dirty(); // nobody else may come to write it for a while
        }
    }

    pub fn unblock(&self, id: WorkerId) {
        let wakes = self.scheduler.unblock(id);
        self.wake(wakes);
    }

    pub fn is_hung(&self) -> bool {
        self.hung.load(Ordering::Relaxed)
    }

    /// Workers exit when nothing is queued any more; new calls are refused. The monitor goes on until `close`.
    pub fn finish(&self) {
        self.release_all(true);
    }

    /// Workers exit after what they are doing, the monitor ends, notices end. Idempotent. Answers what was never begun.
    pub fn close(&self) -> VecDeque<Item<U>> {
        self.closed.store(true, Ordering::Release);
        self.release_all(false);
        self.wake_monitor();
        self.notices.close();
        self.scheduler.take_rest()
    }

    fn release_all(&self, drain: bool) {
        let parkers = self.scheduler.close(drain);
        self.engine.wake();
        for parker in parkers {
            parker.unpark();
        }
    }

    /// The worker's thread ends outside the protocol.
    pub fn abandon(&self, worker: &mut Worker<U>) {
        if let Some(connection) = worker.current.take() {
            let again = self.end(connection);
            self.post(again.into_iter().collect());
        }
        let wakes = self.scheduler.abandon(worker.id);
        self.wake(wakes);
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// In the child of a fork: nothing works any more, and nothing of the parent's is touched.
    pub fn forked(&self) {
        self.forked.store(true, Ordering::SeqCst);
        self.engine.forked();
    }

    pub fn is_forked(&self) -> bool {
        self.forked.load(Ordering::Relaxed)
    }

    // ---- the monitor ----

    /// One tick; answers when the next one is due, None: sleep until woken.
    pub fn tick(&self, samples: &mut Vec<Sample>) -> Option<Duration> {
        self.scheduler.observe(samples);
        let now = self.engine.now();
        let mut looks = LOOKS_A_TICK;
        for sample in samples.iter_mut() {
            sample.cpu = self.engine.cpu_time(sample.clock).unwrap_or(sample.cpu_before);
            if looks > 0 && sample.is_suspect(now) {
                sample.activity = self.engine.activity(sample.clock);
                looks -= 1;
            }
        }
        let verdict = self.scheduler.judge(samples, now);
        // What has waited for a whole tick is written as soon as any handler ends, or by the leader, which may be asleep.
        let dirty = self.has_dirty.load(Ordering::Relaxed);
        let waited = self.flush_now.swap(verdict.eager || dirty, Ordering::Relaxed);
        if let Some(parker) = &verdict.wake {
            parker.unpark();
        }
        if verdict.wake_leader || (dirty && waited) {
            self.engine.wake();
        }
        if verdict.lead {
            let mut turn = self.lead(false);
            let wakes = self.scheduler.monitor_led(turn.ready.drain(..));
            drop(turn);
            self.wake(wakes);
        } else if self.scheduler.nobody_leads() {
            let mut ready = Vec::new();
            self.fire_due(now, &mut ready);
            self.post(ready);
        }
        let hung = verdict.hung_for.is_some();
        if hung != self.hung.swap(hung, Ordering::Relaxed) {
            let limits = self.scheduler.limits();
            self.notices.put(if hung { Notice::AllWorkersStuck { workers: limits.max_workers } } else { Notice::WorkersFree });
        }
        verdict.again
    }

    /// Runs the monitor until the port is closed; never enters Python.
    pub fn monitor(&self) {
        let mut samples = Vec::new();
        while !self.closed.load(Ordering::Acquire) {
            let again = self.tick(&mut samples);
            let mut woken = self.monitor.lock();
            match again {
                Some(tick) if !*woken => woken = self.monitor_woken.wait_for(woken, tick).0,
                Some(_) => {}
                None => {
                    while !*woken {
                        woken = self.monitor_woken.wait(woken);
                    }
                }
            }
            *woken = false;
        }
    }

    fn wake_monitor(&self) {
        *self.monitor.lock() = true;
        self.monitor_woken.notify_all();
    }

    // ---- what follows ----

    fn wake(&self, wakes: Wakes) {
        if let Some(parker) = wakes.worker {
            parker.unpark();
        }
        if wakes.leader {
            self.engine.wake();
        }
        if wakes.monitor {
            self.wake_monitor();
        }
    }

    /// The worker is done with the connection; answers it if it must come again.
    fn end(&self, connection: Arc<Connection<U>>) -> Option<Item<U>> {
        let mut after = connection.end(&*self.engine);
        let again = std::mem::take(&mut after.schedule);
        self.follow(&connection, after);
        again.then_some(Item::Connection(connection))
    }

    #[inline]
    fn follow(&self, connection: &Arc<Connection<U>>, after: After<U>) {
        if !after.is_nothing() || connection.group.is_holding() {
            self.follow_something(connection, after);
        }
    }

    fn follow_something(&self, connection: &Arc<Connection<U>>, after: After<U>) {
        let mut ready = Vec::new();
        let flush = after.flush;
        self.follow_into(connection, after, &mut ready);
        if flush {
            self.engine.wake(); // the leader writes, and it may be asleep
        }
        self.post(ready);
    }

    /// As `follow`, for the leader itself.
    fn follow_into(&self, connection: &Arc<Connection<U>>, after: After<U>, ready: &mut Vec<Item<U>>) {
        let flush = after.flush;
        self.finish_after(connection, after, ready);
        if flush {
            // The leader writes it, interpreter released, on its next turn.
            self.dirty.lock().push(connection.clone());
            self.has_dirty.store(true, Ordering::Relaxed);
        }
    }

    #[inline]
    fn finish_after(&self, connection: &Arc<Connection<U>>, after: After<U>, ready: &mut Vec<Item<U>>) {
        if !after.is_nothing() || connection.group.is_holding() {
            self.finish_something(connection, after, ready);
        }
    }

    fn finish_something(&self, connection: &Arc<Connection<U>>, mut after: After<U>, ready: &mut Vec<Item<U>>) {
        if after.schedule {
            ready.push(Item::Connection(connection.clone()));
        }
        if let Some(rare) = after.notify() {
            self.finish_rare(connection, *rare);
        }
        if connection.group.is_holding() {
            for held in connection.group.take_held() {
                held.resume(pause::TOTAL, &*self.engine);
            }
        }
    }

    #[cold]
    fn finish_rare(&self, connection: &Arc<Connection<U>>, rare: Rare<U>) {
        if rare.linger
            && let Some(limit) = connection.group.settings.send_timeout
        {
            self.add_timer(self.engine.now() + limit, Timer::Linger(connection.token));
        }
        if rare.forget {
            let entry = self.table.lock().remove(connection.token);
            drop(entry);
        }
        if let Some(traffic) = rare.gone {
            connection.group.leave(traffic);
        }
    }
}
