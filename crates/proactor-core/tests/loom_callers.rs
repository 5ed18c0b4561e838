//! Threads that take from a port with a time-out, explored by loom on the whole port (with the simulated engine, of which nothing is asked but to sleep and to be
//! woken). A time-out that is not zero comes at once, when the thread is on the stack of the parked: the worst moment there is. As in `loom_scheduler/` a lost
//! wake-up is a deadlock.

#![cfg(feature = "loom")]

use std::sync::Arc;
use std::time::Duration;

use loom::thread::{JoinHandle, spawn};
use proactor_core::engine::simulated::Simulated;
use proactor_core::group::Upper;
use proactor_core::port::{Port, Seat, Taken, Waited, Waiting};
use proactor_core::scheduler::Limits;
use proactor_core::sync::{Condvar, Mutex};

struct Layer;

impl Upper for Layer {
    type Connection = ();
    type Group = ();
    type Call = u32;
    type Operation = ();
}

struct Scene {
    port: Arc<Port<Layer>>,
    taken: Mutex<Vec<u32>>,
    changed: Condvar,
}

/// Caught: a time-out that leaves the thread on the stack of the parked (the wake-up goes to nobody).
#[test]
fn a_time_out_loses_no_wake_up() {
    explore(|| {
        let scene = Scene::new();
        let stays = scene.start(|scene, seat| while scene.get(seat, None) {});
        let leaves = scene.start(|scene, seat| {
            scene.get(seat, Some(Duration::ZERO));
            scene.port.leave_seat(seat);
        });
        scene.port.call(1);
        scene.wait_for(1);
        leaves.join().unwrap();
        scene.end([stays]);
    });
}

/// Caught: a role that is left taken.
#[test]
fn a_leader_whose_time_is_out_is_followed() {
    explore(|| {
        let scene = Scene::new();
        let leaves = scene.start(|scene, seat| {
            scene.get(seat, Some(Duration::ZERO));
            scene.get(seat, Some(Duration::ZERO));
            scene.port.release(seat);
        });
        let stays = scene.start(|scene, seat| while scene.get(seat, None) {});
        leaves.join().unwrap();
        scene.port.call(1);
        scene.port.call(2);
        scene.wait_for(2);
        scene.end([stays]);
    });
}

/// A thread that is interrupted where it waits, or between being told to take and taking, goes away with nothing.
/// Caught: a `give_up` that keeps the slot; one that wakes nobody.
#[test]
fn an_interrupted_thread_hands_on_what_was_meant_for_it() {
    explore(|| {
        let scene = Scene::new();
        let interrupted = scene.start(|scene, seat| {
            let nothing = scene.port.take_next(seat);
            assert!(nothing.is_none());
            let mut waiting = Waiting::new(None, Some(Duration::ZERO));
            let waited = scene.port.wait(seat, &mut waiting);
            assert!(matches!(waited, Waited::Slice | Waited::Take), "{waited:?}");
            scene.port.give_up(seat, &mut waiting);
            scene.port.scheduler.check();
        });
        let stays = scene.start(|scene, seat| while scene.get(seat, None) {});
        scene.port.call(1);
        scene.wait_for(1);
        interrupted.join().unwrap();
        scene.end([stays]);
    });
}

#[test]
fn a_close_wakes_everybody() {
    explore(|| {
        let scene = Scene::new();
        let threads =
            [scene.start(|scene, seat| while scene.get(seat, None) {}), scene.start(|scene, seat| while scene.get(seat, None) {})];
        scene.end(threads);
    });
}

impl Scene {
    fn new() -> Arc<Self> {
        let limits = Limits { concurrency: 1, max_workers: Limits::CALLERS, interpreter_lock: false };
        let port = Port::new(Arc::new(Simulated::open(0)), limits, None, 0);
        Arc::new(Scene { port, taken: Mutex::new(Vec::new()), changed: Condvar::new() })
    }

    fn start(self: &Arc<Self>, life: impl Fn(&Scene, &Seat) + Send + 'static) -> JoinHandle<()> {
        let scene = self.clone();
        let seat = self.port.seat();
        spawn(move || life(&scene, &seat))
    }

    /// False: the time is out, or the port is closed.
    fn get(&self, seat: &Seat, timeout: Option<Duration>) -> bool {
        let mut taken = self.port.take_next(seat);
        let mut waiting = Waiting::new(timeout, None);
        while taken.is_none() {
            match self.port.wait(seat, &mut waiting) {
                Waited::Take => taken = self.port.take(seat),
                Waited::TimedOut | Waited::Closed => return false,
                Waited::Slice => unreachable!("nobody asked for it"),
            }
        }
        let Some(Taken::Call(number)) = taken else { unreachable!("nothing is associated") };
        self.taken.lock().push(number);
        self.changed.notify_all();
        true
    }

    fn wait_for(&self, count: usize) {
        let mut taken = self.taken.lock();
        while taken.len() < count {
            taken = self.changed.wait(taken);
        }
    }

    fn end<const N: usize>(&self, threads: [JoinHandle<()>; N]) {
        let (rest, _calls) = self.port.close();
        assert!(rest.is_empty());
        for thread in threads {
            thread.join().unwrap();
        }
        self.port.scheduler.check();
        let counts = self.port.scheduler.counts();
        assert_eq!((counts.waiting, counts.running, counts.queued), (0, 0, 0));
    }
}

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.max_branches = 10_000;
    builder.check(model);
}
