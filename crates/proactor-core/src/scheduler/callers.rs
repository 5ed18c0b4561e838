//! Threads that are their callers' (`Limits::CALLERS`): they come to wait, give up when their time is out, and stay away for as long as they like.
//!
//! ```text
//!   Away ──finish_and_pop──▶ Idle ──decide──▶ ...as a worker... ──▶ Running ──finish_and_pop──▶ Running or Idle
//!    ▲                        │                  │ Parked, Woken      │
//!    ├──decide_or_give_up─────┘                  │                    │
//!    ├──give_up──────────────────────────────────┘                    │
//!    └──release (from Blocked and Relieved as well)───────────────────┘
//! ```
//! Whoever goes away hands on what was meant for it: a wake-up, the role, its slot.

use super::*;

impl<I> Scheduler<I> {
    /// The item is over, and its thread does not come for another one now.
    pub fn release(&self, me: WorkerId) -> Wakes {
        let mut state = self.state.lock();
        let state = &mut *state;
        match state.worker(me).phase {
            Phase::Running => state.running -= 1,
            Phase::Blocked | Phase::Relieved => {}
            _ => return Wakes::default(), // it has none
        }
        let worker = state.worker(me);
        worker.phase = Phase::Away;
        worker.sequence += 1;
        state.finished(me);
        state.wake_for_vacancy(self.limits)
    }

    /// A parked thread's time is out: it is on the stack no longer, and decides a last time. False: it has been woken, and its permit is there or on its way:
    /// it takes that first.
    pub fn stop_parking(&self, me: WorkerId) -> bool {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.worker(me).phase != Phase::Parked {
            return false;
        }
        state.parked.retain(|id| *id != me);
        state.worker(me).phase = Phase::Idle;
        state.deciding += 1;
        true
    }

    /// As `decide`, for a thread that will not wait any more: where it would lead or park it goes away instead.
    pub fn decide_or_give_up(&self, me: WorkerId) -> Result<Decision, Wakes> {
        let mut state = self.state.lock();
        let state = &mut *state;
        match state.decide(me, self.limits) {
            Decision::Lead => state.leader = None,
            Decision::Park => state.parked.retain(|id| *id != me),
            decision => return Ok(decision),
        }
        state.worker(me).phase = Phase::Away;
        Err(state.wake_for_vacancy(self.limits))
    }

    /// The thread waits no longer, whatever there is: from `Idle`, while it is parked, or instead of a `pop`. True: it had been woken, and its permit is to be taken.
    pub fn give_up(&self, me: WorkerId) -> (bool, Wakes) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let phase = std::mem::replace(&mut state.worker(me).phase, Phase::Away);
        match phase {
            Phase::Idle => state.deciding -= 1,
            Phase::Parked => state.parked.retain(|id| *id != me),
            Phase::Woken => state.woken -= 1,
            Phase::Attaching => {
                state.attaching -= 1;
                state.running -= 1;
            }
            Phase::Away => {}
            other => unreachable!("a thread in {other:?} does not wait"),
        }
        (phase == Phase::Woken, state.wake_for_vacancy(self.limits))
    }
}
