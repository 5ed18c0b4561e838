//! What can be asked of the scheduler, for statistics and for tests. Changes nothing.

use super::*;

impl<I> Scheduler<I> {
    pub fn counts(&self) -> Counts {
        let state = self.state.lock();
        let blocked = state.workers.iter().flatten().filter(|worker| matches!(worker.phase, Phase::Blocked | Phase::Relieved)).count();
        let away = state.workers.iter().flatten().filter(|worker| worker.phase == Phase::Away).count();
        Counts {
            workers: state.live,
            waiting: state.live - state.running - blocked - away,
            running: state.running,
            blocked,
            queued: state.ready.len(),
            allowance: state.allowance,
            ..state.counts
        }
    }

    pub fn is_closing(&self) -> bool {
        self.state.lock().closing != Closing::No
    }

    /// There is an item that may be begun.
    pub fn has_ready(&self) -> bool {
        let state = self.state.lock();
        !state.ready.is_empty() && state.may_begin(self.limits)
    }

    /// Shows what is ready, the oldest first, under the lock, until `go_on` says no.
    pub fn look(&self, mut go_on: impl FnMut(&I) -> bool) {
        let state = self.state.lock();
        let _stopped_at = state.ready.iter().find(|item| !go_on(item));
    }

    /// Work waits, a slot is free for it, and no worker is there to take it: all that there may be are in handlers. Whoever blocks in one and can
    /// give up is asked to.
    pub fn is_short(&self) -> bool {
        let state = self.state.lock();
        let all = state.live >= self.limits.max_workers || state.start == Start::Failed;
        let in_handler = |worker: &Worker| matches!(worker.phase, Phase::Attaching | Phase::Running | Phase::Blocked | Phase::Relieved);
        all && !state.ready.is_empty()
            && state.may_begin(self.limits)
            && state.running < state.allowance
            && state.workers.iter().flatten().all(in_handler)
    }

    /// For tests and models.
    pub fn phase(&self, me: WorkerId) -> Phase {
        self.state.lock().worker(me).phase
    }

    /// For tests: the next worker that finishes an item looks for more before it takes another.
    pub fn is_look_due(&self) -> bool {
        self.state.lock().look_due
    }

    /// For tests and models: panics where the numbers and the phases disagree. The README calls these the books.
    pub fn check(&self) {
        let state = self.state.lock();
        let count = |phase| state.workers.iter().flatten().filter(|worker| worker.phase == phase).count();
        let leading = count(Phase::Leading);
        assert_eq!(state.running, count(Phase::Attaching) + count(Phase::Running), "slots");
        assert_eq!(state.attaching, count(Phase::Attaching), "attaching");
        assert_eq!(state.fresh, state.workers.iter().flatten().filter(|worker| worker.fresh.is_some()).count(), "fresh");
        assert!(state.fresh <= self.limits.concurrency, "more items begun than may run at once");
        assert_eq!(state.woken, count(Phase::Woken), "woken");
        assert_eq!(state.deciding, count(Phase::Idle), "deciding");
        assert_eq!(state.parked.len(), count(Phase::Parked), "parked");
        assert_eq!(state.live, state.workers.iter().flatten().count(), "live");
        assert_eq!(leading, usize::from(matches!(state.leader, Some(Leader::Worker(_)))), "leader");
        assert!(!state.monitor_asleep || count(Phase::Running) == 0, "somebody runs while the monitor sleeps");
    }
}
