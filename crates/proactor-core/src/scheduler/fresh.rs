//! Which items may still be computing: an item is *fresh* from its beginning until somebody sees it blocked, or it ends. No item begins while as many are
//! fresh as workers may run at once; so short blocks may earn as many extra runners as they like, and still no more begin to compute at once than the
//! concurrency. Slots alone could not promise that: an extra one is there because its items block, and the next may compute in it.
//!
//! Without extra runners there are fewer slots than that, and nobody is looked at for it.

use super::monitor::Sample;
use super::*;
use crate::engine::Activity;

/// Where the platform does not tell what a thread does, its clock is read twice, with so much time between.
const GLANCE: u64 = 20_000;
/// So many are looked at at a time, in turn.
const GLANCES: usize = 4;

/// What the last look at a fresh item saw: CPU time, and when; `at` is 0 if there was none.
#[derive(Clone, Copy, Default)]
pub(super) struct Glance {
    cpu: u64,
    at: u64,
}

impl<I> Scheduler<I> {
    /// Those to be looked at before a worker takes its next item: `me` with what it is about to finish, or whoever else. None where an item may begin, or there is none.
    pub fn fresh(&self, me: Option<WorkerId>) -> Vec<Sample> {
        let mut state = self.state.lock();
        let own = me.filter(|me| state.worker(*me).fresh.is_some());
        if state.ready.is_empty() || state.fresh - usize::from(own.is_some()) < self.limits.concurrency {
            return Vec::new();
        }
        let sample = |index: usize, worker: &Worker| {
            let glance = worker.fresh.filter(|_| own != Some(WorkerId(index)))?;
            Some(Sample::new(WorkerId(index), worker, glance.cpu, glance.at))
        };
        let all = |from: usize, to: usize| {
            let workers = state.workers[from..to].iter().enumerate();
            workers.filter_map(move |(index, worker)| sample(from + index, worker.as_ref()?))
        };
        let (next, end) = (state.watch.next_fresh.min(state.workers.len()), state.workers.len());
        let samples: Vec<Sample> = all(next, end).chain(all(0, next)).take(GLANCES).collect();
        state.watch.next_fresh = samples.last().map_or(0, |sample| sample.worker.0 + 1);
        samples
    }

    /// What was seen of them. Who asked takes its next item now, and wakes whoever may take another.
    pub fn looked_at(&self, samples: &[Sample], now: u64) {
        let mut state = self.state.lock();
        for sample in samples {
            let Some(worker) = state.workers[sample.worker.0].as_mut() else { continue };
            if worker.clock != sample.clock || worker.sequence != sample.sequence || worker.fresh.is_none() {
                continue; // it is about something else by now
            }
            let blocked = match sample.activity {
                Activity::Waiting => true,
                Activity::Running | Activity::Interpreter => false,
                Activity::Lock(_) | Activity::Unknown => {
                    let wall = now.saturating_sub(sample.since);
                    if sample.since == 0 || wall >= GLANCE {
                        worker.fresh = Some(Glance { cpu: sample.cpu, at: now });
                    }
                    sample.since != 0 && wall >= GLANCE && sample.cpu.saturating_sub(sample.cpu_before) * 8 < wall
                }
            };
            if blocked {
                worker.blocked_at = now;
                state.no_longer_fresh(sample.worker);
            }
        }
    }

    /// After a look by somebody who takes nothing himself.
    pub fn wake_next(&self) -> Wakes {
        self.state.lock().wake_if_useful(self.limits)
    }
}

impl<I> State<I> {
    /// The worker begins what it has taken.
    pub(super) fn begun(&mut self, me: WorkerId, work: &Work<I>) {
        let worker = self.worker(me);
        worker.starts = work.is_start();
        if !worker.starts {
            worker.fresh = Some(Glance::default());
            self.fresh += 1;
        }
    }

    /// Whatever it has is not fresh any more.
    pub(super) fn no_longer_fresh(&mut self, worker: WorkerId) {
        if self.worker(worker).fresh.take().is_some() {
            self.fresh -= 1;
        }
    }

    /// One more item may be begun.
    pub(super) fn may_begin(&self, limits: Limits) -> bool {
        self.fresh < limits.concurrency
    }

    /// There is an item that may be begun, beside those that workers on their way may take.
    pub(super) fn another_may_begin(&self, limits: Limits) -> bool {
        !self.ready.is_empty() && self.fresh + self.attaching + self.woken + self.deciding < limits.concurrency
    }
}
