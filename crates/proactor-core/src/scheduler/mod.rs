//! Who may run now. Owns the ready queue, the workers' phases, the leader's role and the running slots. Knows nothing of Python, of the kernel or
//! of what an item is; `README.md` beside this file has the protocol, the races and the proof sketch.
//!
//! ```text
//!            decide                    pop                    finish_and_pop
//!   Idle ─────┬──▶ Attaching ────────────▶ Running ──────────────────────────▶ Running (next item) or Idle
//!    ▲        ├──▶ Leading ──led──▶ Idle    │  ▲
//!    │        └──▶ Parked ──wake──▶ Woken   │  │ unblock
//!    │                               │      ├──┴─▶ Blocked    (the worker says so: slot free)
//!    └───────────── decide ◀─────────┘      └──◀▶ Relieved   (the monitor saw it: slot free until the item is finished, or it is seen to run again)
//! ```
//! Only `Attaching` and `Running` hold a slot. Threads that are their callers' may also be `Away`: `callers.rs`.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::engine::ThreadClock;
use crate::sync::Mutex;

mod callers;
mod ending;
mod fresh;
mod looking;
mod monitor;
mod parker;

pub use monitor::{LOOKS_A_TICK, Sample, Verdict};
pub use parker::Parker;

/// What the scheduler may do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many workers may run at once; blocked ones do not count.
    pub concurrency: usize,
    /// How many threads there may be at most, or `Limits::CALLERS`.
    pub max_workers: usize,
    /// The interpreter runs one thread at a time: a second runner is released only when the first is stuck.
    pub interpreter_lock: bool,
}

/// Names a worker on its port, until it retires or exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerId(usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its thread has begun and has not come yet.
    New,
    /// Has no item, and will decide at once what to do: it needs no waking.
    Idle,
    Parked,
    /// Has been given a permit and has not decided yet.
    Woken,
    Leading,
    /// Holds a slot and waits for the interpreter.
    Attaching,
    Running,
    Blocked,
    Relieved,
    /// A caller's thread that neither waits nor has an item.
    Away,
}

/// What a worker without an item does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// There is work and a slot for it: attach to the interpreter, then `pop`.
    Take,
    /// Flush, poll, receive and dispatch; then `led`.
    Lead,
    /// As `Lead`, but the poll does not wait: there is work, only nobody has looked for more of it in a long time.
    Look,
    Park,
    Exit,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Work<I> {
    Item(I),
    /// The last spare worker was released: start another one, then `started` or `start_failed`.
    StartWorker,
}

impl<I> Work<I> {
    fn is_start(&self) -> bool {
        matches!(self, Work::StartWorker)
    }
}

/// Whom to wake once the lock is released.
#[must_use]
#[derive(Default)]
pub struct Wakes {
    pub worker: Option<Arc<Parker>>,
    /// Interrupt the leader's poll: there is an item for it, and nobody is parked.
    pub leader: bool,
    pub monitor: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leader {
    Worker(WorkerId),
    /// The last resort: no worker is free to lead.
    Monitor,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Unneeded,
    Wanted,
    UnderWay,
    /// The last attempt failed; the monitor asks again after a while.
    Failed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    /// Workers exit when the queue is empty.
    Drain,
    /// Workers exit after what they are doing.
    Now,
}

/// Numbers for `statistics()`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub workers: usize,
    pub waiting: usize,
    pub running: usize,
    pub blocked: usize,
    pub queued: usize,
    pub allowance: usize,
    pub compensations: u64,
    pub hand_overs: u64,
    pub monitor_leads: u64,
    pub started: u64,
    pub retired: u64,
    pub finished: u64,
}

pub struct Scheduler<I> {
    limits: Limits,
    // Guards everything that is decided together: queue, phases, leader, slots.
    state: Mutex<State<I>>,
}

struct State<I> {
    ready: VecDeque<I>,
    workers: Vec<Option<Worker>>,
    /// The newest last: it is woken first, its stack is still in cache.
    parked: Vec<WorkerId>,
    leader: Option<Leader>,
    /// How often the role was taken.
    leads: u64,
    /// Items were finished and nobody has led for a whole tick: the next worker that finishes one leads before it takes another.
    look_due: bool,
    /// Workers in `Attaching` or `Running`.
    running: usize,
    woken: usize,
    /// Workers in `Idle`.
    deciding: usize,
    attaching: usize,
    /// Items under way that nobody has seen blocked: see `fresh.rs`.
    fresh: usize,
    /// How many may run at this moment; the monitor moves it between its base and more.
    allowance: usize,
    /// The part of the allowance that short blocks have earned.
    extra: usize,
    live: usize,
    start: Start,
    closing: Closing,
    /// Items that are under way; see `ending.rs`.
    expected: usize,
    monitor_asleep: bool,
    counts: Counts,
    watch: monitor::Watch,
}

struct Worker {
    phase: Phase,
    /// Moves whenever an item is begun or finished: the progress marker.
    sequence: u64,
    /// When its item was seen blocked, the last time, by the monitor or by whoever took another item; 0: never.
    blocked_at: u64,
    /// What it runs is the start of another worker.
    starts: bool,
    /// Its item is fresh, and was looked at so.
    fresh: Option<fresh::Glance>,
    /// Moves with every decision.
    decisions: u64,
    /// Moves whenever the worker had nothing to do: it was not short of processor time then.
    idled: u64,
    /// Its last decision was to look for more although it had enough to do.
    looked: bool,
    parker: Arc<Parker>,
    clock: ThreadClock,
    seen: monitor::Seen,
}

impl<I> Scheduler<I> {
    pub fn new(limits: Limits) -> Self {
        assert!(limits.concurrency > 0 && limits.max_workers > 0, "concurrency and max_workers must be at least 1");
        Scheduler {
            limits,
            state: Mutex::new(State {
                ready: VecDeque::new(),
                workers: Vec::new(),
                parked: Vec::new(),
                leader: None,
                leads: 0,
                look_due: false,
                running: 0,
                woken: 0,
                deciding: 0,
                attaching: 0,
                fresh: 0,
                allowance: limits.base(),
                extra: 0,
                live: 0,
                start: Start::Unneeded,
                closing: Closing::No,
                expected: 0,
                monitor_asleep: false,
                counts: Counts::default(),
                watch: monitor::Watch::default(),
            }),
        }
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// A worker thread begins. Its first call is `decide`.
    pub fn register(&self, clock: ThreadClock) -> (WorkerId, Arc<Parker>) {
        let mut state = self.state.lock();
        let parker = Arc::new(Parker::new());
        let worker = Worker {
            phase: if self.limits.are_callers() { Phase::Away } else { Phase::New },
            sequence: 0,
            blocked_at: 0,
            starts: false,
            fresh: None,
            decisions: 0,
            idled: 0,
            looked: false,
            parker: parker.clone(),
            clock,
            seen: monitor::Seen::default(),
        };
        let free = state.workers.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            state.workers.push(None);
            state.workers.len() - 1
        });
        state.workers[index] = Some(worker);
        state.live += 1;
        state.counts.started += 1;
        state.start = Start::Unneeded;
        if state.live == 1 && self.limits.max_workers > 1 && !self.limits.are_callers() {
            state.start = Start::Wanted; // the first worker leads; somebody must be there to take over
        }
        (WorkerId(index), parker)
    }

    /// A thread could not be started; it is asked for again a second later, while there is work.
    pub fn start_failed(&self) {
        self.state.lock().start = Start::Failed;
    }

    /// The worker has finished its item, which goes to the end of the queue again if it is given, and takes the next one if it may run on.
    /// Called with the interpreter held.
    pub fn finish_and_pop(&self, me: WorkerId, again: Option<I>) -> (Option<Work<I>>, Wakes) {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.ready.extend(again);
        let worker = state.worker(me);
        worker.sequence += 1;
        let phase = std::mem::replace(&mut worker.phase, Phase::Idle);
        match phase {
            Phase::Running => {
                state.finished(me);
                // Above the allowance are those that came back from a block, or whom the monitor no longer wants.
                if state.running <= state.allowance
                    && !state.look_due
                    && state.closing != Closing::Now
                    && let Some(work) = state.take(self.limits)
                {
                    state.worker(me).phase = Phase::Running;
                    state.begun(me, &work);
                    let wakes = state.wake_if_useful(self.limits);
                    return (Some(work), wakes);
                }
                state.running -= 1;
            }
            // Without a slot already. (Blocked: the handler never said that its block was over.)
            Phase::Relieved | Phase::Blocked => state.finished(me),
            Phase::New | Phase::Away => {} // its very first call, or it had nothing
            other => unreachable!("a worker in {other:?} has no item to finish"),
        }
        state.deciding += 1;
        (None, Wakes { monitor: state.ends_calm(), ..Wakes::default() })
    }

    /// What a worker without an item does next. Needs no interpreter.
    pub fn decide(&self, me: WorkerId) -> Decision {
        self.state.lock().decide(me, self.limits)
    }

    /// The interpreter is held: takes the work that `decide` promised; None if somebody else was faster.
    pub fn pop(&self, me: WorkerId) -> (Option<Work<I>>, Wakes) {
        let mut state = self.state.lock();
        let state = &mut *state;
        debug_assert_eq!(state.worker(me).phase, Phase::Attaching);
        state.attaching -= 1;
        state.worker(me).phase = Phase::Running;
        state.want_spare(self.limits);
        // To get the interpreter takes a while. Somebody may have come back from a block meanwhile, and runs in what was free.
        let room = state.running <= self.limits.concurrency + state.extra;
        if room
            && state.closing != Closing::Now
            && let Some(work) = state.take(self.limits)
        {
            state.worker(me).sequence += 1;
            state.begun(me, &work);
            let mut wakes = state.wake_if_useful(self.limits);
            wakes.monitor = std::mem::take(&mut state.monitor_asleep);
            return (Some(work), wakes);
        }
        state.running -= 1;
        state.deciding += 1;
        state.worker(me).phase = Phase::Idle;
        (None, Wakes::default())
    }

    /// The leader gives its role back, with what became ready.
    pub fn led(&self, me: WorkerId, items: impl IntoIterator<Item = I>) {
        let mut state = self.state.lock();
        debug_assert!(state.leader == Some(Leader::Worker(me)));
        state.leader = None;
        state.deciding += 1;
        state.worker(me).phase = Phase::Idle;
        state.ready.extend(items);
    }

    /// A parked worker's wait timed out; true if it is to exit: it is the oldest, and not the last spare.
    pub fn retire(&self, me: WorkerId) -> bool {
        let mut state = self.state.lock();
        if state.worker(me).phase != Phase::Parked || state.parked.first() != Some(&me) || state.parked.len() < 2 {
            return false;
        }
        state.parked.remove(0);
        state.leave(me);
        state.counts.retired += 1;
        true
    }

    /// Puts work into the queue from any thread, and wakes whoever should take it.
    pub fn post(&self, items: impl IntoIterator<Item = I>) -> Wakes {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.ready.extend(items);
        state.wake_if_useful(self.limits)
    }

    /// As `post`, in the step that sees that workers will be there to take it: once they are to exit, the item comes back.
    pub fn post_unless_closing(&self, item: I) -> Result<Wakes, I> {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.closing != Closing::No {
            return Err(item);
        }
        state.ready.push_back(item);
        Ok(state.wake_if_useful(self.limits))
    }

    /// The worker is about to block in a call that says so: its slot is free at once.
    pub fn block(&self, me: WorkerId) -> Wakes {
        let mut state = self.state.lock();
        let state = &mut *state;
        let worker = state.worker(me);
        if worker.phase == Phase::Relieved {
            worker.phase = Phase::Blocked; // the slot is free already, and nobody need look whether it is back: it will say so
        }
        if worker.phase != Phase::Running {
            return Wakes::default();
        }
        worker.phase = Phase::Blocked;
        state.no_longer_fresh(me);
        state.running -= 1;
        state.counts.compensations += 1;
        state.wake_for_vacancy(self.limits)
    }

    /// The call has returned. The worker runs on at once, if need be above the allowance; the next `finish_and_pop` evens that out.
    pub fn unblock(&self, me: WorkerId) -> Wakes {
        let mut state = self.state.lock();
        let state = &mut *state;
        let worker = state.worker(me);
        if worker.phase != Phase::Blocked {
            return Wakes::default();
        }
        worker.phase = Phase::Running;
        worker.sequence += 1;
        worker.seen = monitor::Seen::default(); // its slot was free: the block is not to earn an extra runner as well
        state.running += 1;
        Wakes { monitor: std::mem::take(&mut state.monitor_asleep), ..Wakes::default() }
    }

    /// The worker's thread ends outside the protocol, whatever it was doing. Not to be called after `Exit` or a `retire` that said yes.
    pub fn abandon(&self, me: WorkerId) -> Wakes {
        let mut state = self.state.lock();
        let state = &mut *state;
        match state.worker(me).phase {
            Phase::New | Phase::Away | Phase::Blocked | Phase::Relieved => {}
            Phase::Idle => state.deciding -= 1,
            Phase::Parked => state.parked.retain(|id| *id != me),
            Phase::Woken => state.woken -= 1,
            Phase::Leading => state.leader = None,
            Phase::Attaching => {
                state.attaching -= 1;
                state.running -= 1;
            }
            Phase::Running => {
                state.no_longer_fresh(me);
                state.running -= 1;
            }
        }
        state.leave(me);
        state.wake_for_vacancy(self.limits)
    }
}

impl Limits {
    /// For `max_workers`: the threads are their callers'. None is started, retired or missed, and there may be any number.
    pub const CALLERS: usize = usize::MAX;

    pub fn are_callers(self) -> bool {
        self.max_workers == Self::CALLERS
    }

    /// Another worker may be started.
    fn may_start(self, live: usize) -> bool {
        live < self.max_workers && !self.are_callers()
    }

    /// Runners while nobody is stuck.
    fn base(self) -> usize {
        if self.interpreter_lock { 1 } else { self.concurrency }
    }
}

impl<I> State<I> {
    fn worker(&mut self, id: WorkerId) -> &mut Worker {
        self.workers[id.0].as_mut().expect("a worker id is used until its worker exits")
    }

    fn leave(&mut self, id: WorkerId) {
        self.workers[id.0] = None;
        self.live -= 1;
    }

    fn decide(&mut self, me: WorkerId, limits: Limits) -> Decision {
        let worker = self.worker(me);
        worker.decisions += 1;
        let idled = u64::from(!std::mem::take(&mut worker.looked));
        worker.idled += idled;
        match worker.phase {
            Phase::Woken => self.woken -= 1,
            Phase::Idle => self.deciding -= 1,
            // A new one, or one whose wait ran out: it is still on the stack of the parked, or was never anywhere.
            _ => {}
        }
        // A monitor that leads may be about to bring the last items: it wakes somebody when it has.
        let drained = self.closing == Closing::Drain && self.ready.is_empty() && self.expected == 0 && self.leader != Some(Leader::Monitor);
        if self.closing == Closing::Now || drained {
            self.exit(me, limits);
            return Decision::Exit;
        }
        if self.running < self.allowance {
            if self.look_due && !self.ready.is_empty() {
                self.lead(Leader::Worker(me));
                let worker = self.worker(me);
                worker.phase = Phase::Leading;
                worker.idled -= idled;
                worker.looked = true;
                return Decision::Look;
            }
            if (!self.ready.is_empty() && self.may_begin(limits)) || self.start == Start::Wanted {
                self.running += 1;
                self.attaching += 1;
                self.worker(me).phase = Phase::Attaching;
                return Decision::Take;
            }
            // In a drain there is nothing to poll for: who waits for what is expected sleeps where `pass_exit_on` finds it.
            if self.leader.is_none() && self.closing == Closing::No {
                self.lead(Leader::Worker(me));
                self.worker(me).phase = Phase::Leading;
                return Decision::Lead;
            }
        }
        self.parked.push(me);
        self.worker(me).phase = Phase::Parked;
        Decision::Park
    }

    /// For good; a caller's thread keeps its number until it ends.
    fn exit(&mut self, me: WorkerId, limits: Limits) {
        if limits.are_callers() {
            self.worker(me).phase = Phase::Away;
        } else {
            self.leave(me);
        }
    }

    fn lead(&mut self, leader: Leader) {
        debug_assert!(self.leader.is_none());
        self.leader = Some(leader);
        self.leads += 1;
        self.look_due = false;
    }

    /// Counts an item as finished; starting a worker is none.
    fn finished(&mut self, me: WorkerId) {
        self.no_longer_fresh(me);
        let worker = self.worker(me);
        let blocked_at = std::mem::take(&mut worker.blocked_at);
        if !std::mem::take(&mut worker.starts) {
            self.counts.finished += 1;
        }
        if blocked_at != 0 {
            self.note_return(blocked_at);
        }
    }

    /// Takes what is to be begun now, if anything.
    fn take(&mut self, limits: Limits) -> Option<Work<I>> {
        if self.start == Start::Wanted {
            self.start = Start::Unneeded;
            if self.closing == Closing::No && limits.may_start(self.live) {
                self.start = Start::UnderWay;
                return Some(Work::StartWorker);
            }
        }
        if self.may_begin(limits) { self.ready.pop_front().map(Work::Item) } else { None }
    }

    /// Wakes the newest parked worker if there is an item it may run.
    fn wake_if_useful(&mut self, limits: Limits) -> Wakes {
        if self.another_may_begin(limits) { self.wake_newest(limits) } else { Wakes::default() }
    }

    /// Wakes the newest parked worker if there is an item it may run, or nobody leads.
    fn wake_for_vacancy(&mut self, limits: Limits) -> Wakes {
        if self.leader.is_none() || self.another_may_begin(limits) { self.wake_newest(limits) } else { Wakes::default() }
    }

    /// Wakes the newest parked worker if a slot is free. Where nobody is parked, the leader is to come for the item.
    fn wake_newest(&mut self, limits: Limits) -> Wakes {
        // With an interpreter lock one thread at a time is on its way to it: each wakes the next once it got there.
        let queue_at_interpreter = limits.interpreter_lock && self.woken + self.attaching > 0;
        // Whoever is about to decide sees for itself what there is to do.
        if self.running + self.woken + self.deciding >= self.allowance || queue_at_interpreter {
            return Wakes::default();
        }
        let Some(id) = self.parked.pop() else {
            let leader = !self.ready.is_empty() && matches!(self.leader, Some(Leader::Worker(_)));
            return Wakes { leader, ..Wakes::default() };
        };
        self.woken += 1;
        if self.parked.is_empty() && limits.may_start(self.live) && self.start == Start::Unneeded {
            self.start = Start::Wanted;
        }
        let worker = self.worker(id);
        worker.phase = Phase::Woken;
        Wakes { worker: Some(worker.parker.clone()), ..Wakes::default() }
    }

    /// A worker got its slot. If nobody would be left to take over from it, it starts another worker first.
    fn want_spare(&mut self, limits: Limits) {
        if !self.parked.is_empty() || !limits.may_start(self.live) || self.start != Start::Unneeded {
            return;
        }
        // Whoever is about to decide parks, or comes by here itself.
        let another =
            self.workers.iter().flatten().any(|worker| matches!(worker.phase, Phase::New | Phase::Idle | Phase::Woken | Phase::Attaching));
        if !another {
            self.start = Start::Wanted;
        }
    }
}
