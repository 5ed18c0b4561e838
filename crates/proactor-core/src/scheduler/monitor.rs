//! What the monitor decides on a tick: who is stuck, who is blocked, how many may run. Reads no clock itself: the samples are given.

use std::sync::Arc;
use std::time::Duration;

use super::{Closing, Leader, Limits, Parker, Phase, Scheduler, Start, State, Worker, WorkerId};
use crate::engine::{Activity, ThreadClock};

/// The tick, and the tick after somebody was seen blocked.
const TICK: u64 = 1_000_000;
const FAST_TICK: u64 = 100_000;
/// How long the fast tick lasts after a blocked worker was seen.
const FAST_FOR: u64 = 100_000_000;
/// A worker that waits this long for the interpreter shows that somebody computes in it: standing still proves nothing then.
const CONTENDED_AFTER: u64 = 1_000_000;
const CONTENDED_FOR: u64 = 100_000_000;
/// For so long a runner that was seen computing may be the reason why others stand still: twice CPython's switch interval.
const COMPUTING_REMEMBERED: u64 = 10_000_000;
/// Under contention, a worker must stand still for this long to count as blocked: ten times CPython's switch interval.
const STILL_UNDER_CONTENTION: u64 = 50_000_000;
/// An item that has used so much processor time computes: its worker loses little when it parks after it, and is not to be taken for one that blocks.
const COMPUTES_FROM: u64 = 500_000;
/// For so long after one was seen, no block earns an extra runner: the next item may compute too.
const NO_EXTRA_FOR: u64 = 100_000_000;
/// A worker that finishes so soon after it was seen blocked was in a short block. To park after it, and to be woken, costs more than it is worth.
const SHORT_BLOCK: u64 = 5_000_000;
/// So many suspects are looked at closely on a tick, in turn; a look costs some microseconds.
pub const LOOKS_A_TICK: usize = 8;
/// So many of the relieved are looked at in a tick, in turn: whether they have come back.
const RELIEVED_A_TICK: usize = 16;
/// How often that is done while nobody holds a slot.
const RELIEVED_TICK: u64 = 50_000_000;
/// How often the extra runners are reduced, to find out whether they are still needed.
const EXTRA_DECAY: u64 = 100_000_000;
/// Ticks without anybody in a handler before the monitor sleeps.
const IDLE_TICKS: u32 = 20;
/// Every worker in a handler and none of them moving for this long is worth telling; the port decides when it hangs.
const STILL_AFTER: u64 = 1_000_000_000;
/// Ticks in which nothing came about, with no caller's thread there to be told, before the pause grows.
const CALM_TICKS: u32 = 20;
/// It doubles from tick to tick, so often: eight milliseconds. What the kernel has room for again, of a send that is pending, waits for so long.
const DOUBLINGS: u32 = 3;
/// How long after a failed start of a worker the next attempt is made.
const START_AGAIN_AFTER: u64 = 1_000_000_000;

/// A worker in a handler, whose CPU time is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub worker: WorkerId,
    pub clock: ThreadClock,
    pub(super) sequence: u64,
    /// It has been relieved: the question is whether it has come back.
    relieved: bool,
    /// CPU time used until `since`, both in nanoseconds; `since` is 0 if it was never looked at.
    pub cpu_before: u64,
    pub since: u64,
    /// CPU time used so far, in nanoseconds; filled in by the caller.
    pub cpu: u64,
    /// What it does at this moment; filled in by the caller, with `looked`, where little CPU time was used.
    pub activity: Activity,
    pub looked: bool,
}

impl Sample {
    pub(super) fn new(id: WorkerId, worker: &Worker, cpu_before: u64, since: u64) -> Self {
        let relieved = worker.phase == Phase::Relieved;
        Sample {
            worker: id,
            clock: worker.clock,
            sequence: worker.sequence,
            relieved,
            cpu_before,
            since,
            cpu: 0,
            activity: Activity::Unknown,
            looked: false,
        }
    }

    /// Its processor time does not tell what it does: a runner that has not used all of its time since the last look may be blocked by now, and a
    /// relieved one that has used some may have come back.
    pub fn wants_look(&self, now: u64) -> bool {
        if self.relieved { self.cpu != self.cpu_before } else { self.is_suspect(now) }
    }

    fn is_suspect(&self, now: u64) -> bool {
        self.since != 0 && self.cpu.saturating_sub(self.cpu_before) * 4 < now.saturating_sub(self.since) * 3
    }
}

/// What is to be done after a tick.
#[derive(Default)]
pub struct Verdict {
    pub wake: Option<Arc<Parker>>,
    /// Interrupt the leader's poll: there is an item for it, and nobody is parked.
    pub wake_leader: bool,
    /// No worker can lead: the caller does, with a poll that does not wait, then calls `monitor_led`.
    pub lead: bool,
    /// When to tick again; None: sleep until woken.
    pub again: Option<Duration>,
    /// Handlers block often: sends are written as each handler ends, not at the end of a batch.
    pub eager: bool,
    /// No worker has come out of its handler for a second or more: for how many nanoseconds.
    pub still_for: Option<u64>,
}

/// The monitor's memory of a worker.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    sequence: u64,
    idled: u64,
    cpu: u64,
    /// CPU time that its thread had used when its item was first seen.
    cpu_at_first: u64,
    at: u64,
    still_since: Option<u64>,
    /// Since when it has been seen attaching after which decision: the next decision's wait is another one.
    attaching: Option<(u64, u64)>,
}

/// The monitor's memory of the port.
#[derive(Default)]
pub(super) struct Watch {
    fast_until: u64,
    contended_until: u64,
    extra_changed: u64,
    idle_ticks: u32,
    /// Ticks in which nothing came about, while callers' threads were all at work or away.
    calm_ticks: u32,
    progress: u64,
    progress_at: u64,
    /// The platform shows what threads do.
    tells: bool,
    /// How many items were finished up to the last tick.
    finished: u64,
    /// How often somebody had led by then.
    leads: u64,
    start_failed_at: Option<u64>,
    /// Until when extra runners are not to be had, because an item computed.
    no_extra_until: u64,
    /// Items that were finished since the last tick, soon after they were seen blocked.
    short_blocks: u64,
    /// When the last tick was.
    judged_at: u64,
    /// Which of the runners is looked at next, by its place among them.
    next_running: usize,
    /// Which of the relieved.
    next_relieved: usize,
    /// Which of the fresh.
    pub(super) next_fresh: usize,
}

impl<I> Scheduler<I> {
    /// The workers whose CPU time the next `judge` wants. Answers whether it also wants to know what suspects do: not while slots are left that
    /// blocks have earned, since those who come back from a block go on by themselves.
    pub fn observe(&self, samples: &mut Vec<Sample>) -> bool {
        samples.clear();
        let mut state = self.state.lock();
        let state = &mut *state;
        let sample = |index: usize, worker: &Worker| Sample::new(WorkerId(index), worker, worker.seen.cpu, worker.seen.at);
        let workers = &state.workers;
        let all = |phase| {
            let workers = workers.iter().enumerate();
            workers.filter_map(move |(index, worker)| {
                worker.as_ref().filter(|worker| worker.phase == phase).map(|worker| sample(index, worker))
            })
        };
        samples.extend(all(Phase::Running));
        let running = samples.len();
        if running > LOOKS_A_TICK {
            samples.rotate_left(state.watch.next_running % running);
            state.watch.next_running = (state.watch.next_running + LOOKS_A_TICK) % running;
        }
        // Blocked handlers may be many. Each has its turn.
        let next = state.watch.next_relieved;
        samples.extend(all(Phase::Relieved).skip_while(|sample| sample.worker.0 < next).take(RELIEVED_A_TICK));
        let left = RELIEVED_A_TICK - (samples.len() - running);
        samples.extend(all(Phase::Relieved).take_while(|sample| sample.worker.0 < next).take(left));
        state.watch.next_relieved = samples[running..].last().map_or(0, |sample| sample.worker.0 + 1);
        state.extra == 0 || state.running >= state.allowance
    }

    /// One tick: relieves the blocked, adapts the allowance, wakes whom it can.
    pub fn judge(&self, samples: &[Sample], now: u64) -> Verdict {
        let mut state = self.state.lock();
        let state = &mut *state;
        let limits = self.limits;
        if state.closing == Closing::Now || (state.closing == Closing::Drain && state.live == 0) {
            return Verdict { again: None, ..Verdict::default() };
        }
        state.watch.judged_at = now;
        state.note_contention(now);
        let tally = state.examine(samples, now, limits);
        let items_pass = state.counts.finished != state.watch.finished;
        state.adapt(&tally, now, limits);

        let mut verdict = Verdict { eager: state.extra > 0, ..Verdict::default() };
        state.start_again(now);
        let wakes = state.wake_for_vacancy(limits);
        verdict.wake = wakes.worker;
        verdict.wake_leader = wakes.leader;

        if state.leader.is_none()
            && verdict.wake.is_none()
            && tally.moving == 0
            && state.nobody_on_the_way(now)
            && state.somebody_is_in_a_handler()
        {
            state.lead(Leader::Monitor);
            state.counts.monitor_leads += 1;
            verdict.lead = true;
        }
        // What waits at this moment says nothing: the connection with the backlog is with its worker.
        state.look_due = items_pass && state.leader.is_none() && state.leads == state.watch.leads;
        state.watch.leads = state.leads;
        verdict.still_for = state.still_for(now, limits);

        let calm = limits.are_callers() && verdict.wake.is_none() && !items_pass && tally.moving == 0 && state.nobody_waits();
        state.watch.calm_ticks = if calm { state.watch.calm_ticks.saturating_add(1) } else { 0 };
        let in_handlers = state.running > 0 || state.woken > 0;
        state.watch.idle_ticks = if in_handlers || verdict.lead { 0 } else { state.watch.idle_ticks + 1 };
        state.monitor_asleep = false;
        if state.watch.idle_ticks < IDLE_TICKS {
            let tick = match state.watch.calm_ticks {
                0 if now < state.watch.fast_until => FAST_TICK,
                calm => TICK << calm.saturating_sub(CALM_TICKS).min(DOUBLINGS), // who comes meanwhile wakes the monitor
            };
            verdict.again = Some(Duration::from_nanos(tick));
        } else {
            state.extra = 0;
            state.allowance = limits.base();
            state.monitor_asleep = true;
            verdict.eager = false; // there is no tick after this one to say so
            // Who comes back does not say so.
            let relieved = state.workers.iter().flatten().any(|worker| worker.phase == Phase::Relieved);
            verdict.again = relieved.then_some(Duration::from_nanos(RELIEVED_TICK));
        }
        verdict
    }

    /// The monitor has led: gives the role back, with what became ready.
    pub fn monitor_led(&self, items: impl IntoIterator<Item = I>) -> super::Wakes {
        let mut state = self.state.lock();
        debug_assert!(state.leader == Some(Leader::Monitor));
        state.leader = None;
        let queued = state.ready.len();
        state.ready.extend(items);
        if state.ready.len() > queued {
            state.watch.calm_ticks = 0; // more may follow
        }
        // Not only for an item: a worker that came out of its handler meanwhile has parked, because somebody led.
        state.wake_for_vacancy(self.limits)
    }

    /// True while all workers are where the last tick saw them, in their handlers.
    pub fn is_still(&self) -> bool {
        let state = self.state.lock();
        state.all_in_handlers(self.limits) && state.progress() == state.watch.progress
    }

    /// True while nobody leads: the monitor then looks after the timers.
    pub fn nobody_leads(&self) -> bool {
        self.state.lock().leader.is_none()
    }
}

impl Sample {
    /// A relieved one runs again, or would if it had a processor or the interpreter.
    fn is_back(&self, now: u64) -> bool {
        match self.activity {
            Activity::Running | Activity::Interpreter => true,
            Activity::Waiting => false,
            Activity::Lock(_) | Activity::Unknown => self.cpu.saturating_sub(self.cpu_before) * 2 >= now.saturating_sub(self.since),
        }
    }
}

impl Seen {
    fn computes_long(&self) -> bool {
        self.cpu.saturating_sub(self.cpu_at_first) >= COMPUTES_FROM
    }
}

impl Worker {
    /// It waits so long for the interpreter that somebody must be computing in it.
    fn attaches_long(&self, now: u64) -> bool {
        self.seen.attaching.is_some_and(|(decision, since)| decision == self.decisions && now - since >= CONTENDED_AFTER)
    }
}

/// What the samples of one tick say together.
#[derive(Default)]
struct Tally {
    /// Runners that began or finished something since the last tick, or were not there then.
    moving: usize,
    /// Runners with the same item for a whole tick that use processor time.
    computing: usize,
    /// CPU and wall time of the runners that had work all through the tick.
    busy_cpu: u64,
    busy_wall: u64,
    busy: usize,
    /// Suspects that were looked at closely, and what they did.
    looked_at: usize,
    waiting: usize,
    locked: usize,
    /// Those of them, and of the relieved that came back, whose item has used much processor time.
    computing_long: usize,
}

impl Tally {
    /// Whether the suspects are short of something else than a processor; `contended`: a lock may be the interpreter's.
    fn waits(&self, contended: bool) -> bool {
        let waiting = if contended { self.waiting } else { self.waiting + self.locked };
        if self.looked_at == 0 { !contended } else { waiting * 2 >= self.looked_at }
    }
}

impl<I> State<I> {
    /// An item is finished that was seen blocked at that time.
    pub(super) fn note_return(&mut self, blocked_at: u64) {
        // By the last tick's time: the scheduler has no clock of its own.
        self.watch.short_blocks += u64::from(self.watch.judged_at.saturating_sub(blocked_at) < SHORT_BLOCK);
    }

    fn note_contention(&mut self, now: u64) {
        for worker in self.workers.iter_mut().flatten() {
            if worker.phase != Phase::Attaching {
                worker.seen.attaching = None;
            } else if worker.seen.attaching.is_none_or(|(decision, _)| decision != worker.decisions) {
                worker.seen.attaching = Some((worker.decisions, now));
            } else if worker.attaches_long(now) {
                self.watch.contended_until = now + CONTENDED_FOR;
            }
        }
    }

    /// A worker that waits for a lock may be waiting for the interpreter.
    fn is_contended(&self, now: u64, limits: Limits) -> bool {
        limits.interpreter_lock && now < self.watch.contended_until
    }

    /// Relieves who is blocked, and counts whom it had relieved and who is back.
    fn examine(&mut self, samples: &[Sample], now: u64, limits: Limits) -> Tally {
        let mut tally = Tally::default();
        // A runner that computes may be computing in the interpreter.
        let computing = samples.iter().any(|sample| !sample.relieved && sample.since != 0 && !sample.is_suspect(now));
        if computing && samples.len() > 1 {
            // It may be pushed off its processor on the next tick, and still hold the interpreter.
            self.watch.contended_until = self.watch.contended_until.max(now + COMPUTING_REMEMBERED);
        }
        let contended = self.is_contended(now, limits);
        let work_waits = !self.ready.is_empty() || self.leader.is_none();
        for sample in samples {
            let Some(worker) = self.workers[sample.worker.0].as_mut() else { continue };
            if worker.clock != sample.clock {
                continue; // another thread has the number by now
            }
            let before = worker.seen;
            if sample.relieved {
                if worker.sequence == sample.sequence && worker.phase == Phase::Relieved && before.at < now {
                    worker.seen = Seen { cpu: sample.cpu, at: now, ..before };
                    // One that starts another worker computes nothing of anybody's, and mostly waits for the interpreter to say that it is done.
                    if sample.is_back(now) && !worker.starts {
                        // It has no slot and runs all the same: whoever finishes next, it or another, ends the surplus.
                        worker.phase = Phase::Running;
                        self.running += 1;
                        tally.computing_long += usize::from(worker.seen.computes_long());
                    }
                }
                continue;
            }
            let moved_meanwhile = worker.sequence != sample.sequence || worker.phase != Phase::Running;
            let cpu_at_first = if before.at != 0 && before.sequence == worker.sequence { before.cpu_at_first } else { sample.cpu };
            worker.seen = Seen {
                sequence: worker.sequence,
                idled: worker.idled,
                cpu: sample.cpu,
                cpu_at_first,
                at: now,
                still_since: None,
                attaching: None,
            };
            // A clock that stood still since the last look (a simulated one) shows nothing.
            if before.at == 0 || before.at == now || moved_meanwhile {
                tally.moving += usize::from(worker.phase == Phase::Running);
                continue;
            }
            let wall = now.saturating_sub(before.at).max(1);
            let cpu = sample.cpu.saturating_sub(before.cpu);
            if before.idled == worker.idled {
                tally.busy += 1;
                tally.busy_cpu += cpu;
                tally.busy_wall += wall;
            }
            tally.looked_at += usize::from(sample.activity != Activity::Unknown);
            tally.waiting += usize::from(sample.activity == Activity::Waiting);
            tally.locked += usize::from(matches!(sample.activity, Activity::Lock(_)));
            let stuck = before.sequence == sample.sequence;
            let blocked = match sample.activity {
                // Seen in the act. While work waits a slot is not left to it, even if it has only just begun.
                Activity::Waiting => stuck || work_waits,
                // Runnable: it computes, or the machine gives it no processor. Or it waits for the interpreter, and another would only wait behind it.
                Activity::Running | Activity::Interpreter => false,
                // Where a look would tell, nobody is relieved unseen: it may be ready for a processor that others have.
                Activity::Unknown if !sample.looked && self.watch.tells => false,
                // Perhaps it waits for the interpreter.
                Activity::Lock(_) | Activity::Unknown => stuck && cpu * 8 < wall,
            };
            if !blocked {
                let unseen = !sample.looked && sample.is_suspect(now);
                tally.moving += usize::from(!stuck);
                tally.computing += usize::from(stuck && !unseen && sample.activity != Activity::Interpreter);
                tally.computing_long += usize::from(worker.seen.computes_long());
                continue;
            }
            let since = before.still_since.unwrap_or(before.at);
            worker.seen.still_since = Some(since);
            if sample.activity == Activity::Waiting || !contended || now - since >= STILL_UNDER_CONTENTION {
                worker.phase = Phase::Relieved;
                worker.blocked_at = now;
                self.fresh -= usize::from(worker.fresh.take().is_some());
                self.running -= 1;
                self.counts.compensations += 1;
                self.watch.fast_until = now + FAST_FOR;
            }
        }
        tally
    }

    /// Moves the allowance. A stuck runner that computes makes room for one more, below the cap; short blocks earn extra runners while work waits.
    fn adapt(&mut self, tally: &Tally, now: u64, limits: Limits) {
        let contended = self.is_contended(now, limits);
        self.watch.tells |= tally.looked_at > 0;
        let finished = self.counts.finished - self.watch.finished;
        self.watch.finished = self.counts.finished;
        let most = if limits.are_callers() { self.live.max(1) } else { limits.max_workers };
        let work_waits = !self.ready.is_empty() || self.leader.is_none(); // where nobody polls there may be some
        let short_blocks = std::mem::take(&mut self.watch.short_blocks);
        if tally.computing_long > 0 {
            self.watch.no_extra_until = now + NO_EXTRA_FOR;
        }
        if now < self.watch.no_extra_until {
            // An extra slot would not be a blocked one's for long: somebody would compute in it beside those who do.
            self.extra = 0;
        } else if work_waits && finished > 0 && short_blocks * 2 >= finished {
            // Most items block, and shortly. Those who come back are to go on with the next one, rather than park and be woken again.
            self.extra = (self.extra + short_blocks as usize).min(most);
            self.watch.extra_changed = now;
        } else if !self.ready.is_empty() && tally.busy > 0 {
            // What the handlers could use at all: one processor under an interpreter lock, else all of them.
            let tick_wall = tally.busy_wall / tally.busy as u64;
            let processors = if limits.interpreter_lock { 1 } else { limits.concurrency as u64 };
            let mostly_waiting = tally.busy_cpu * 2 < tally.busy_wall;
            let room = tally.busy_cpu * 5 < tick_wall * processors * 4;
            let waits = tally.waits(contended);
            // Nobody was looked at because slots are left: that is no sign of computing, nor one that more are needed.
            let unseen = self.watch.tells && tally.looked_at == 0;
            // Where the blocked are seen, a long block is not to earn any: its worker can be relieved. The first comes of a short one.
            let begun = !self.watch.tells || self.extra > 0;
            if begun && !unseen && mostly_waiting && room && waits {
                self.extra = (self.extra * 2).clamp(1, most);
                self.watch.extra_changed = now;
            } else if self.extra > 0 && (!(waits || unseen) || tally.busy_cpu * 5 > tally.busy_wall * 4) {
                self.extra /= 2;
                self.watch.extra_changed = now;
            }
        }
        if self.extra > 0 && now - self.watch.extra_changed > EXTRA_DECAY {
            self.extra -= (self.extra / 8).max(1);
            self.watch.extra_changed = now;
        }
        let before = self.allowance;
        self.allowance = limits.concurrency.min(limits.base() + tally.computing).max(limits.base()) + self.extra;
        if tally.computing > 0 && self.allowance > before && limits.interpreter_lock {
            self.counts.hand_overs += 1;
        }
    }

    /// A spare that a failed start left out is asked for again.
    fn start_again(&mut self, now: u64) {
        if self.start != Start::Failed {
            self.watch.start_failed_at = None;
        } else if now - *self.watch.start_failed_at.get_or_insert(now) >= START_AGAIN_AFTER {
            self.watch.start_failed_at = None;
            self.start = if self.parked.is_empty() { Start::Wanted } else { Start::Unneeded };
        }
    }

    /// No worker is about to decide, to lead or to run: all are in handlers, parked for want of a slot, or wait long for the interpreter.
    fn nobody_on_the_way(&self, now: u64) -> bool {
        self.workers.iter().flatten().all(|worker| match worker.phase {
            Phase::New | Phase::Idle | Phase::Woken | Phase::Leading => false,
            Phase::Attaching => worker.attaches_long(now),
            Phase::Parked | Phase::Running | Phase::Blocked | Phase::Relieved | Phase::Away => true,
        })
    }

    /// Of callers' threads: none waits, or is on its way. Whatever could be decided, there is nobody to decide it for.
    fn nobody_waits(&self) -> bool {
        self.workers.iter().flatten().all(|worker| matches!(worker.phase, Phase::Running | Phase::Blocked | Phase::Relieved | Phase::Away))
    }

    /// A caller's thread comes: true if the monitor takes its time, and is to be woken.
    pub(super) fn ends_calm(&mut self) -> bool {
        std::mem::take(&mut self.watch.calm_ticks) > CALM_TICKS
    }

    /// Always so for a pool with workers of which none is on its way. Callers' threads may all be away, and come back to lead themselves.
    fn somebody_is_in_a_handler(&self) -> bool {
        self.workers
            .iter()
            .flatten()
            .any(|worker| matches!(worker.phase, Phase::Attaching | Phase::Running | Phase::Blocked | Phase::Relieved))
    }

    fn progress(&self) -> u64 {
        self.workers.iter().flatten().map(|worker| worker.sequence).sum::<u64>() + self.counts.started
    }

    fn all_in_handlers(&self, limits: Limits) -> bool {
        let is_in_handler = |worker: &Worker| matches!(worker.phase, Phase::Running | Phase::Blocked | Phase::Relieved);
        self.live >= limits.max_workers && self.workers.iter().flatten().all(is_in_handler)
    }

    fn still_for(&mut self, now: u64, limits: Limits) -> Option<u64> {
        let progress = self.progress();
        if progress != self.watch.progress || !self.all_in_handlers(limits) {
            self.watch.progress = progress;
            self.watch.progress_at = now;
            return None;
        }
        let time = now - self.watch.progress_at;
        (time >= STILL_AFTER).then_some(time)
    }
}
