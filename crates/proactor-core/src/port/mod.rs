//! The completion port: an engine feeds it, the scheduler decides, workers take from it. Owns the table of connections and listeners, the timers and the
//! list of unwritten sends. Knows nothing of Python: the layer above keeps its objects with ours (`Upper`).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crate::buffer::SharedBytes;
use crate::completion::{Completion, Outcome, Token};
use crate::connection::{After, Bytes, Connection, Event, FileStep, FileTurn, Life, Next, Queued, Rare, pause};
use crate::deadlines;
use crate::engine::{ABORTED, Address, Closing, Engine, Feature, Handle, Interest, TIMED_OUT};
use crate::error::Failure;
use crate::group::{Group, Traffic, Upper};
use crate::notices::{Notice, Notices};
use crate::scheduler::{Decision, LOOKS_A_TICK, Limits, Parker, Sample, Scheduler, Wakes, Work, WorkerId};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::table::Table;
use crate::timer::{Timed, TimerId, Timers};

use lingering::Lingering;

/// Accepting is tried again this long after the machine ran out of descriptors or memory.
const ACCEPT_AGAIN_AFTER: u64 = 100_000_000;
/// Connections are numbered through the whole process. Orders nothing, so the model checkers need not see it.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);
/// How long a leader rests after its engine failed to poll, so that a broken engine does not spin.
const REST_AFTER_FAILURE: Duration = Duration::from_millis(10);
/// At most so many timers come a turn, so that many that are due at once do not keep the leader from the network.
const TIMERS_A_TURN: usize = 1024;
/// A turn that finds so many has found them dense. To sleep until the very next one, and to wake up for it, would cost more than they do; so that for a while, in
/// nanoseconds, none is taken.
const DENSE: usize = 8;
const REST: u64 = 250_000;

mod appointments;
mod associations;
mod callers;
mod connections;
mod file_sends;
mod files;
mod leader;
mod lingering;
mod monitor;
mod workers;

pub use appointments::{Appointment, ManualResetEvent, Refusal, Waitable};
pub use associations::{Association, Completed};
pub use callers::{Seat, Taken, Waited, Waiting};
pub use connections::{Broadcast, SendError, Slow};
pub use file_sends::{FileSend, FileSent};
pub use files::{FileCompleted, FileNumbers, FileRequest, PortFile};

pub struct Port<U: Upper> {
    pub engine: Arc<dyn Engine>,
    pub scheduler: Scheduler<Item<U>>,
    pub notices: Notices,
    idle: Option<Duration>,
    busy_poll: u64,
    interpreter: OnceLock<Range<usize>>,
    // The leader's memory, used again each turn; only the leader locks it.
    turn: Mutex<Turn<U>>,
    // Guards which slot holds what.
    table: Mutex<Table<Entry<U>>>,
    // Guards the timers and how long the leader sleeps.
    timers: Mutex<Due<U>>,
    timers_pending: AtomicUsize,
    waits_pending: AtomicUsize,
    /// How many associated handles are open.
    handles: AtomicUsize,
    /// Completions that came from files after the end.
    late: AtomicU64,
    /// For the events that waits wait for.
    this: Weak<Self>,
    /// How much the last turn brought from the network.
    last_turn: AtomicUsize,
    // Guards the connections with sends that wait for the end of a handler.
    dirty: Mutex<Vec<Arc<Connection<U>>>>,
    has_dirty: AtomicBool,
    // Guards which handles linger, the oldest first.
    lingering: Mutex<VecDeque<Token>>,
    /// Sends are written as each handler ends.
    flush_now: AtomicBool,
    /// Short blocks have earned runners beyond the concurrency: who begins an item looks first whether the others block.
    extra_runners: AtomicBool,
    hung: AtomicBool,
    /// For how many nanoseconds no worker may come out of its handler before the port hangs.
    hung_after: AtomicU64,
    /// Workers that block in a send: they come back when others need them, so the port does not hang while there are any.
    blocked_sends: AtomicUsize,
    forked: AtomicBool,
    closed: AtomicBool,
    /// Workers exit soon.
    ending: AtomicBool,
    // Guards nothing; the monitor sleeps on it.
    monitor: Mutex<bool>,
    monitor_woken: Condvar,
}

struct Turn<U: Upper> {
    ready: Vec<Item<U>>,
    completions: Vec<Completion>,
    found: Vec<(Option<Entry<U>>, Outcome)>,
}

struct Due<U: Upper> {
    timers: Timers<Timer<U>>,
    /// The memory of a batch, used again: to ask for as much each turn would make the allocator tidy up what thousands of small timers have just let go.
    batch: Vec<deadlines::Due<Timer<U>>>,
    /// When the leader wakes by itself; an earlier deadline interrupts it.
    leader_until: u64,
    /// After dense timers, none is taken before this time.
    rest_until: u64,
    /// How long that is: a quarter at most of the shortest interval that a timer was given, so that it misses no tick for it. 0 where time stands still.
    rest: u64,
}

enum Timer<U: Upper> {
    Idle(Token),
    AcceptAgain(Token),
    /// A closing connection, and how much its peer had taken: if that is still all, it is cut off.
    Linger(Box<(Token, u64)>),
    /// A timer's tick, or a wait's time-out.
    Call(Arc<Appointment<U>>),
    /// A handle that lingers, and how much had been dropped. (In a box, as above: a hundred thousand timers are to be small.)
    Discard(Box<(Token, u64)>),
}

impl<U: Upper> Timed for Timer<U> {
    fn is_wanted_at(&self, timer: TimerId) -> bool {
        if let Timer::Call(appointment) = self { appointment.waits_for(timer) } else { true }
    }
}

/// What the ready queue holds.
pub enum Item<U: Upper> {
    Connection(Arc<Connection<U>>),
    Call(U::Call),
    Appointment(Arc<Appointment<U>>),
    Association(Arc<Association<U>>),
    File(Arc<PortFile<U>>),
}

/// What a worker is to do.
pub enum Task<U: Upper, R> {
    /// For the worker's `current` connection.
    Event(Event, R),
    Call(U::Call),
    /// Of the worker's `appointment`. A wait's function is told whether it was signalled.
    Appointment(Option<bool>, U::Call),
    /// An operation on an associated handle is complete.
    Completion(Completed<U>),
    FileCompletion(FileCompleted<U>),
    StartWorker,
}

/// One worker's side of the port; belongs to its thread.
pub struct Worker<U: Upper> {
    pub id: WorkerId,
    parker: Arc<Parker>,
    pub current: Option<Arc<Connection<U>>>,
    /// The timer or wait whose function runs.
    appointment: Option<Arc<Appointment<U>>>,
    /// Of whose operations one is being told.
    association: Option<Arc<Association<U>>>,
    file: Option<Arc<PortFile<U>>>,
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
    Wait(Arc<Appointment<U>>),
    /// The connection is over; see `lingering.rs`.
    Lingering(Arc<Lingering>),
    Association(Arc<Association<U>>),
    /// For the port's end; engines know nothing of it.
    File(Arc<PortFile<U>>),
}

impl<U: Upper> Clone for Entry<U> {
    fn clone(&self) -> Self {
        match self {
            Entry::Connection(connection) => Entry::Connection(connection.clone()),
            Entry::Listener(listener) => Entry::Listener(listener.clone()),
            Entry::Wait(wait) => Entry::Wait(wait.clone()),
            Entry::Lingering(lingering) => Entry::Lingering(lingering.clone()),
            Entry::Association(association) => Entry::Association(association.clone()),
            Entry::File(file) => Entry::File(file.clone()),
        }
    }
}

/// Lets go of the interpreter while `next` waits.
pub trait Interpreter {
    fn detached<R: Send>(&self, wait: impl FnOnce() -> R + Send) -> R;

    /// Whether sends should be written, and the interpreter taken again, before waiting: so that the memory of what was sent can be received into
    /// while it is still in cache.
    fn flush_first(&self) -> bool {
        false
    }
}

/// While it lives, a worker blocks in a send.
pub struct BlockedSend<'a>(&'a AtomicUsize);

impl Drop for BlockedSend<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<U: Upper> Port<U> {
    /// `idle`: after how long a surplus worker retires. `busy_poll`: how many nanoseconds the leader polls before it sleeps.
    pub fn new(engine: Arc<dyn Engine>, limits: Limits, idle: Option<Duration>, busy_poll: u64) -> Arc<Self> {
        let rest = if engine.supports(Feature::RealTime) { REST } else { 0 };
        Arc::new_cyclic(|this| Port {
            engine,
            scheduler: Scheduler::new(limits),
            notices: Notices::default(),
            idle,
            busy_poll,
            interpreter: OnceLock::new(),
            turn: Mutex::new(Turn { ready: Vec::new(), completions: Vec::new(), found: Vec::new() }),
            table: Mutex::new(Table::default()),
            timers: Mutex::new(Due { timers: Timers::new(), batch: Vec::new(), leader_until: u64::MAX, rest_until: 0, rest }),
            timers_pending: AtomicUsize::new(0),
            waits_pending: AtomicUsize::new(0),
            handles: AtomicUsize::new(0),
            late: AtomicU64::new(0),
            this: this.clone(),
            last_turn: AtomicUsize::new(0),
            dirty: Mutex::new(Vec::new()),
            has_dirty: AtomicBool::new(false),
            lingering: Mutex::new(VecDeque::new()),
            flush_now: AtomicBool::new(false),
            extra_runners: AtomicBool::new(false),
            hung: AtomicBool::new(false),
            hung_after: AtomicU64::new(u64::MAX),
            blocked_sends: AtomicUsize::new(0),
            forked: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            monitor: Mutex::new(false),
            monitor_woken: Condvar::new(),
        })
    }

    /// Where the interpreter has its lock, nowhere if it has none: who waits for something in there waits for the interpreter, and nobody else does.
    pub fn interpreter_lies_in(&self, memory: Range<usize>) {
        self.interpreter.get_or_init(|| memory);
    }

    // ---- posting, blocking, closing ----

    pub fn post(&self, items: Vec<Item<U>>) {
        if !items.is_empty() {
            let wakes = self.scheduler.post(items);
            self.wake_after_post(wakes);
        }
    }

    pub fn call(&self, call: U::Call) {
        let wakes = self.scheduler.post([Item::Call(call)]);
        self.wake_after_post(wakes);
    }

    /// As `call`; gives the call back once the workers are to exit.
    pub fn call_unless_closing(&self, call: U::Call) -> Result<(), U::Call> {
        match self.scheduler.post_unless_closing(Item::Call(call)) {
            Ok(wakes) => {
                self.wake_after_post(wakes);
                Ok(())
            }
            Err(Item::Call(call)) => Err(call),
            Err(_) => unreachable!("it was a call"),
        }
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

    /// A worker blocks in a send, and will give up when `scheduler.is_short()` and its peer takes nothing.
    pub fn blocked_send(&self) -> BlockedSend<'_> {
        self.blocked_sends.fetch_add(1, Ordering::Relaxed);
        BlockedSend(&self.blocked_sends)
    }

    /// Workers exit when nothing is queued any more; new calls are refused. The monitor goes on until `close`. Answers the calls of the timers and waits that
    /// have not come about, and will not.
    pub fn finish(&self) -> Vec<U::Call> {
        self.release_all(true)
    }

    /// Workers exit after what they are doing, the monitor ends, notices end. Idempotent. Answers what was never begun, and the calls of timers and waits.
    pub fn close(&self) -> (VecDeque<Item<U>>, Vec<U::Call>) {
        self.closed.store(true, Ordering::SeqCst);
        self.end_all_lingering();
        let calls = self.release_all(false);
        self.wake_monitor();
        self.notices.close();
        (self.scheduler.take_rest(), calls)
    }

    fn release_all(&self, drain: bool) -> Vec<U::Call> {
        self.ending.store(true, Ordering::Release);
        let calls = self.cancel_all();
        // Workers are still to tell what this cancels. Callers' threads are to be told of the close, and of nothing that it brings about.
        let callers = self.scheduler.limits().are_callers().then(|| self.scheduler.close(drain));
        self.close_associations();
        self.close_files();
        let parkers = callers.unwrap_or_else(|| self.scheduler.close(drain));
        self.engine.wake();
        for parker in parkers {
            parker.unpark();
        }
        calls
    }

    /// The worker's thread ends outside the protocol.
    pub fn abandon(&self, worker: &mut Worker<U>) {
        if let Some(connection) = worker.current.take() {
            let again = self.end(connection);
            self.post(again.into_iter().collect());
        }
        if let Some(appointment) = worker.appointment.take() {
            let again = self.end_appointment(appointment);
            self.post(again.into_iter().collect());
        }
        if let Some(association) = worker.association.take()
            && association.finish()
        {
            self.post(vec![Item::Association(association)]);
        }
        if let Some(file) = worker.file.take()
            && file.finish()
        {
            self.post(vec![Item::File(file)]);
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
            self.mark_dirty(connection);
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
        self.release_held(&connection.group);
    }

    /// Where there is room again, those receive on that had to stop for the others' sake.
    fn release_held(&self, group: &Group<U>) {
        if group.is_holding() {
            for held in group.take_held() {
                held.release_hold(&*self.engine);
            }
        }
    }

    #[cold]
    fn finish_rare(&self, connection: &Arc<Connection<U>>, mut rare: Rare<U>) {
        for (place, other) in std::mem::take(&mut rare.crowded_out) {
            let after = other.crowd_out(place, &*self.engine);
            self.follow(&other, after);
        }
        if rare.linger
            && let Some(limit) = connection.group.settings.send_timeout
        {
            self.add_timer(self.engine.now() + limit, Timer::Linger(Box::new((connection.token, connection.taken(&*self.engine)))));
        }
        if let Some(traffic) = rare.closed {
            match rare.handle.take() {
                Some(handle) if rare.lingers => self.begin_lingering(connection, handle),
                handle => {
                    let entry = self.table.lock().remove(connection.token);
                    drop((entry, handle));
                }
            }
            connection.group.count_closed(traffic);
        }
        if let Some(messages) = rare.gone {
            connection.group.leave(messages);
        }
    }
}
