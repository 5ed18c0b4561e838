//! The monitor: a native thread that ticks while somebody is in a handler. Never enters Python.

use super::*;
use crate::engine::Activity;

/// From this length on a tick may be late by one of the system's, 15.6 ms on Windows. All that anybody waits for has shorter ones (`scheduler/monitor.rs`).
const COARSE_TICK: Duration = Duration::from_millis(20);
/// So long waits stay fine after the last tick that needed them: to change that often has a price.
const FINE_FOR: Duration = Duration::from_secs(1);

impl<U: Upper> Port<U> {
    /// One tick; answers when the next one is due, None: sleep until woken.
    pub fn tick(&self, samples: &mut Vec<Sample>) -> Option<Duration> {
        let look = self.scheduler.observe(samples);
        let now = self.engine.now();
        let mut looks = if look { LOOKS_A_TICK } else { 0 };
        for sample in samples.iter_mut() {
            sample.cpu = self.engine.cpu_time(sample.clock).unwrap_or(sample.cpu_before);
            if looks > 0 && sample.wants_look(now) {
                sample.activity = self.known(self.engine.activity(sample.clock));
                sample.looked = true;
                looks -= 1;
            }
        }
        let verdict = self.scheduler.judge(samples, now);
        if self.extra_runners.swap(verdict.eager, Ordering::Relaxed) && !verdict.eager {
            self.engine.end_glances();
        }
        // What has waited for a whole tick is written as soon as any handler ends, or by the leader, which may be asleep.
        let dirty = self.has_dirty.load(Ordering::Relaxed);
        let waited = self.flush_now.swap(verdict.eager || dirty, Ordering::Relaxed);
        if let Some(parker) = &verdict.wake {
            parker.unpark();
        }
        if verdict.wake_leader {
            self.engine.wake();
        }
        // Who looked last may have seen what has blocked since, and nobody else comes to look.
        self.wake_after_look();
        if dirty && waited && !verdict.lead {
            if self.scheduler.nobody_leads() { self.flush_dirty() } else { self.engine.wake() }
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
        let hung = verdict.still_for.is_some_and(|time| time >= self.hung_after.load(Ordering::Relaxed))
            && self.blocked_sends.load(Ordering::Relaxed) == 0;
        if hung != self.hung.swap(hung, Ordering::Relaxed) {
            let limits = self.scheduler.limits();
            self.notices.put(if hung { Notice::AllWorkersStuck { workers: limits.max_workers } } else { Notice::WorkersFree });
        }
        verdict.again
    }

    /// Before a worker takes its next item, while there are runners beyond the concurrency: whether the others block. True if somebody was looked at.
    pub(super) fn look_at_fresh(&self, me: Option<WorkerId>) -> bool {
        if !self.extra_runners.load(Ordering::Relaxed) {
            return false;
        }
        let mut samples = self.scheduler.fresh(me);
        for sample in &mut samples {
            sample.activity = self.known(self.engine.glance(sample.clock));
            if matches!(sample.activity, Activity::Lock(_) | Activity::Unknown) {
                sample.cpu = self.engine.cpu_time(sample.clock).unwrap_or(sample.cpu_before);
            }
        }
        if !samples.is_empty() {
            self.scheduler.looked_at(&samples, self.engine.now());
        }
        !samples.is_empty()
    }

    /// As `wake`, after something was posted.
    pub(super) fn wake_after_post(&self, wakes: Wakes) {
        let nobody = wakes.worker.is_none() && !wakes.leader;
        self.wake(wakes);
        if nobody {
            self.wake_after_look();
        }
    }

    /// For somebody who takes nothing himself: wakes whoever may begin an item, now that the others were looked at.
    fn wake_after_look(&self) {
        if self.look_at_fresh(None) {
            let wakes = self.scheduler.wake_next();
            self.wake(wakes);
        }
    }

    /// What the engine saw, in the port's terms.
    fn known(&self, activity: Activity) -> Activity {
        match (activity, self.interpreter.get()) {
            (Activity::Lock(address), Some(memory)) if memory.contains(&address) => Activity::Interpreter,
            (Activity::Lock(_), Some(_)) => Activity::Waiting,
            (activity, _) => activity,
        }
    }

    /// Runs the monitor until the port is closed; never enters Python.
    pub fn monitor(&self) {
        let (mut samples, mut fine) = (Vec::new(), false);
        while !self.closed.load(Ordering::Acquire) {
            let again = self.tick(&mut samples);
            if !fine && again.is_some_and(|tick| tick < COARSE_TICK) {
                fine = true;
                self.engine.wait_finely(true);
            }
            let mut woken = self.monitor.lock();
            match again {
                Some(tick) if !*woken => woken = self.monitor_woken.wait_for(woken, tick).0,
                Some(_) => {}
                None => {
                    if fine && !*woken {
                        woken = self.monitor_woken.wait_for(woken, FINE_FOR).0;
                        if !*woken {
                            fine = false;
                            self.engine.wait_finely(false);
                        }
                    }
                    while !*woken {
                        woken = self.monitor_woken.wait(woken);
                    }
                }
            }
            *woken = false;
        }
        self.engine.wait_finely(false);
    }

    /// From now on the port hangs when no worker has come out of its handler for so many nanoseconds, a second at the least. By default it never does.
    pub fn hangs_after(&self, nanoseconds: u64) {
        self.hung_after.store(nanoseconds, Ordering::Relaxed);
    }

    /// No worker has come out of its handler for that long, nor since the monitor has seen that.
    pub fn is_hung(&self) -> bool {
        self.hung.load(Ordering::Relaxed) && self.blocked_sends.load(Ordering::Relaxed) == 0 && self.scheduler.is_still()
    }

    pub(super) fn wake_monitor(&self) {
        *self.monitor.lock() = true;
        self.monitor_woken.notify_all();
    }
}
