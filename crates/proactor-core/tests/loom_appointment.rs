//! Timers and waits, explored by loom: time, signal and cancellation race for one transition, and what was cancelled never starts.

#![cfg(feature = "loom")]

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread::spawn;
use proactor_core::appointment::{Appointment, Armed, Arming, Cause, Next};
use proactor_core::sync::Mutex;
use proactor_core::timer::{Timed, TimerId, Timers};

/// A worker takes a timer that has come; somebody cancels it meanwhile.
/// Caught: `cancel` that leaves `Queued` alone, or answers true while it runs; `begin` that does not look at the phase; a call that stays behind, or leaves twice.
#[test]
fn a_timer_runs_or_was_cancelled_and_never_both() {
    explore(|| {
        let timer = Arc::new(Kept::new(Appointment::timer((), 0, 0, ())));
        let worker = {
            let timer = timer.clone();
            spawn(move || {
                timer.work(); // whoever has taken it from among the timers queues it as it is
            })
        };
        let prevented = timer.cancel();
        worker.join().unwrap();
        assert_eq!(timer.runs(), usize::from(!prevented));
        assert_eq!(timer.calls.load(Ordering::SeqCst), 1, "the call leaves once");
        assert!(!timer.appointment.is_pending());
        assert_eq!(timer.appointment.is_cancelled(), prevented);
    });
}

/// The leader finds it signalled, the monitor its time run out, and somebody cancels it.
/// Caught: `occur` in any phase but `Armed` (it is queued twice); what is armed left behind, or taken back twice.
#[test]
fn a_wait_is_signalled_or_timed_out_or_cancelled() {
    explore(|| {
        let wait = Arc::new(Kept::new(Appointment::wait((), false, ())));
        let causes = [Cause::Time, Cause::Signal].map(|cause| {
            let wait = wait.clone();
            spawn(move || {
                let queued = wait.occur(cause);
                if queued {
                    wait.work();
                }
                queued
            })
        });
        let prevented = wait.cancel();
        let queued = causes.map(|thread| usize::from(thread.join().unwrap())).iter().sum::<usize>();
        assert!(queued <= 1);
        assert_eq!(wait.runs(), usize::from(!prevented));
        assert!(queued == 1 || prevented);
        assert_eq!((wait.calls.load(Ordering::SeqCst), wait.armed.load(Ordering::SeqCst)), (1, 0));
    });
}

/// A timer is armed again after each tick; somebody cancels it, while it is armed, queued or runs.
/// Caught: `cancel` that answers true without stopping a running one; `finish` that forgets that it was stopped.
#[test]
fn a_periodic_timer_does_not_start_again_after_it_was_cancelled() {
    explore(|| {
        let timer = Arc::new(Kept::new(Appointment::timer((), 0, 10, ())));
        let worker = {
            let timer = timer.clone();
            spawn(move || {
                for _ in 0..2 {
                    if timer.occur(Cause::Time) {
                        timer.work();
                    }
                }
            })
        };
        assert!(timer.cancel(), "whatever it does, it does not start again");
        worker.join().unwrap();
        assert!(timer.appointment.is_cancelled() && !timer.appointment.is_pending());
        assert_eq!(timer.armed.load(Ordering::SeqCst), 0);
    });
}

/// The leader takes the timer of a repeated wait and is held up; meanwhile the wait is signalled, told, and armed again, for a time that is not out.
/// Caught: `occur` that does not look whose timer it was: the second wait is over as soon as it has begun.
#[test]
fn a_time_that_is_out_is_that_of_its_own_arming() {
    explore(|| {
        let port = Arc::new(Mutex::new(Timers::new()));
        let arm = |port: &Mutex<Timers<Entry>>, wait: &Arc<Appointment<(), ()>>, deadline| {
            let mut timers = port.lock();
            let timer = timers.add(deadline, Entry(wait.clone()));
            wait.added(timer);
            Arming::<()>::Armed(Armed { timer: Some(timer), place: None })
        };
        let wait = Arc::new(Appointment::wait((), true, ()));
        assert_eq!(wait.begin_waiting(|| arm(&port, &wait, 10)), Next::Nothing);
        let leader = {
            let (wait, port) = (wait.clone(), port.clone());
            spawn(move || {
                let mut due = Vec::new();
                port.lock().take_due(10, 1, &mut due);
                let due = due.pop().filter(|due| due.value.is_wanted_at(due.id));
                due.and_then(|due| wait.occur(Cause::Time, Some(due.id))).is_some()
            })
        };
        let signalled = wait.occur(Cause::Signal, None);
        if let Some(armed) = signalled {
            assert!(armed.timer.is_some(), "it has a time-out");
            port.lock().cancelled();
            assert_eq!(wait.begin(|()| ()), Some((Cause::Signal, ())));
            assert_eq!(wait.finish(|| 0, |_| arm(&port, &wait, 20)), Next::Nothing);
        }
        assert!(leader.join().unwrap() != signalled.is_some(), "its first time was out or it was signalled, and its second is not out");
        assert_eq!(port.lock().next_deadline(&mut Vec::new()), signalled.map(|_| 20), "what is armed is found, and nothing else");
        port.lock().take_those(|_| true);
    });
}

/// A timer is added while the leader looks for the earliest, and drops what nobody wants.
/// Caught: `added` after the lock of the timers is let go: the leader takes it for a stale one, and it never comes.
#[test]
fn a_timer_that_is_being_added_is_not_taken_for_a_cancelled_one() {
    explore(|| {
        let port = Arc::new(Mutex::new(Timers::new()));
        let timer = Arc::new(Appointment::timer((), 10, 0, ()));
        let adding = {
            let (timer, port) = (timer.clone(), port.clone());
            spawn(move || {
                let mut timers = port.lock();
                timer.added(timers.add(10, Entry(timer.clone())));
            })
        };
        let early = port.lock().next_deadline(&mut Vec::new());
        assert!(early.is_none_or(|deadline| deadline == 10));
        adding.join().unwrap();
        assert_eq!(port.lock().next_deadline(&mut Vec::new()), Some(10));
        port.lock().take_those(|_| true);
    });
}

/// The pool ends while a wait is being begun.
/// Caught: `begin_waiting` that arms what was cancelled before.
#[test]
fn a_wait_that_begins_while_its_pool_ends_is_cancelled() {
    explore(|| {
        let wait = Arc::new(Appointment::wait((), false, ()));
        let armed = Arc::new(AtomicUsize::new(0));
        let ending = {
            let (wait, armed) = (wait.clone(), armed.clone());
            spawn(move || {
                let cancelled = wait.cancel_armed().expect("nothing has come about");
                if cancelled.armed.is_some() {
                    armed.fetch_sub(1, Ordering::SeqCst);
                }
                assert_eq!(cancelled.call, Some(()));
            })
        };
        let next = wait.begin_waiting(|| {
            armed.fetch_add(1, Ordering::SeqCst);
            Arming::<()>::Armed(Armed::default())
        });
        ending.join().unwrap();
        assert!(matches!(next, Next::Nothing | Next::Over(None, None)));
        assert_eq!(armed.load(Ordering::SeqCst), 0);
        assert!(wait.is_cancelled());
    });
}

/// Among the timers.
struct Entry(Arc<Appointment<(), ()>>);

impl Timed for Entry {
    fn is_wanted_at(&self, timer: TimerId) -> bool {
        self.0.waits_for(timer)
    }
}

/// An appointment, and what its port would do.
struct Kept {
    appointment: Appointment<(), ()>,
    running: AtomicUsize,
    runs: AtomicUsize,
    /// How often the call has left.
    calls: AtomicUsize,
    /// How many armings were not taken back.
    armed: AtomicUsize,
    /// `cancel` has answered that it does not start.
    prevented: AtomicBool,
}

impl Kept {
    fn new(appointment: Appointment<(), ()>) -> Self {
        // A timer is armed from its beginning.
        let armed = appointment.begin_waiting(|| Arming::<()>::Armed(Armed::default()));
        assert!(matches!(armed, Next::Nothing | Next::Over(None, None)));
        let zero = || AtomicUsize::new(0);
        Kept { appointment, running: zero(), runs: zero(), calls: zero(), armed: AtomicUsize::new(1), prevented: AtomicBool::new(false) }
    }

    fn occur(&self, cause: Cause) -> bool {
        let armed = self.appointment.occur(cause, None);
        if armed.is_some() {
            self.armed.fetch_sub(1, Ordering::SeqCst);
        }
        armed.is_some()
    }

    /// A worker takes it from the ready queue.
    fn work(&self) {
        let prevented = self.prevented.load(Ordering::SeqCst);
        let Some((_, ())) = self.appointment.begin(|()| ()) else { return };
        assert!(!prevented, "it starts after it was cancelled");
        assert_eq!(self.running.fetch_add(1, Ordering::SeqCst), 0, "it overlaps itself");
        self.runs.fetch_add(1, Ordering::SeqCst);
        if !self.appointment.repeats() {
            self.calls.fetch_add(1, Ordering::SeqCst);
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
        if self.appointment.is_once() {
            return;
        }
        let next = self.appointment.finish(
            || 0,
            |_| {
                self.armed.fetch_add(1, Ordering::SeqCst);
                Arming::<()>::Armed(Armed::default())
            },
        );
        assert!(matches!(next, Next::Nothing | Next::Over(None, None)));
    }

    fn cancel(&self) -> bool {
        let cancelled = self.appointment.cancel();
        if cancelled.call.is_some() {
            self.calls.fetch_add(1, Ordering::SeqCst);
        }
        if cancelled.armed.is_some() {
            self.armed.fetch_sub(1, Ordering::SeqCst);
        }
        if cancelled.prevented {
            self.prevented.store(true, Ordering::SeqCst);
        }
        cancelled.prevented
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(model);
}
