//! The scheduler's protocols, explored by loom: every interleaving of at most three threads with at most LOOM_MAX_PREEMPTIONS preemptions (3 where it is not set).
//!
//! The workers run the loop of `Port::next` without connections; a poll of the engine is a wait on a condition variable. Loom reports a lost wake-up as a
//! deadlock, so the models never wait for time, and close only after what they are about has happened. Each names the changes to the code that it was
//! seen to catch.

#![cfg(feature = "loom")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use loom::thread::{JoinHandle, spawn};
use proactor_core::engine::ThreadClock;
use proactor_core::scheduler::{Decision, Limits, Parker, Sample, Scheduler, Wakes, Work, WorkerId};
use proactor_core::sync::{Condvar, Mutex};

mod relief;

const TICK: u64 = 1_000_000;

/// No interpreter lock: the allowance is the concurrency.
fn limits(concurrency: usize, max_workers: usize) -> Limits {
    Limits { concurrency, max_workers, interpreter_lock: false }
}

fn with_interpreter_lock(concurrency: usize, max_workers: usize) -> Limits {
    Limits { concurrency, max_workers, interpreter_lock: true }
}

// ---- park and wake ----

/// Caught: `unpark` that gives no permit to a worker that does not wait yet; `post` that wakes nobody; `decide` that parks without entering `parked`.
#[test]
fn a_posted_item_is_always_taken() {
    explore(|| {
        let pool = Pool::new(limits(1, 2));
        let workers = [pool.start(), pool.start()];
        pool.post(1);
        pool.wait_for(&[1]);
        pool.end(workers);
    });
}

/// Caught: `post` that does not interrupt the leader; a role that `led` does not give back.
#[test]
fn an_item_posted_to_a_sleeping_leader_is_taken() {
    explore(|| {
        let pool = Pool::new(limits(1, 1));
        let workers = [pool.start()];
        pool.post(1);
        pool.wait_for(&[1]);
        pool.post(2);
        pool.wait_for(&[1, 2]);
        pool.end(workers);
    });
}

/// Two items at once, two workers, one of them leading: the second item is not left behind when the woken worker takes the first.
/// Caught: interrupting the leader only from `post`, and only if no worker is on its way (`woken + attaching == 0`).
#[test]
fn the_leader_comes_for_an_item_when_nobody_is_parked() {
    explore(|| {
        let pool = Pool::new(limits(2, 2));
        let workers = [pool.start_with(wait_for_two), pool.start_with(wait_for_two)];
        pool.post(1);
        pool.post(2);
        pool.wait_for(&[1, 2]);
        pool.end(workers);
    });

    fn wait_for_two(pool: &Pool, _me: WorkerId, item: u32) {
        if item == 1 {
            pool.wait_until_handled(2);
        }
    }
}

// ---- the leader's role ----

/// What comes while a worker is in its handler is polled for by the other. The pool's engine panics where two poll at once.
/// Caught: `block` that wakes for an item only, not for the vacant role; `led` that leaves the role taken; `decide` that lets everybody lead.
#[test]
fn the_role_is_taken_over_while_a_worker_is_in_its_handler() {
    explore(|| {
        let pool = Pool::new(with_interpreter_lock(1, 2));
        let workers = [pool.start_with(block_until_two), pool.start_with(block_until_two)];
        pool.engine.arrive(1);
        pool.engine.arrive(2);
        pool.wait_for(&[1, 2]);
        pool.end(workers);
    });
}

/// A worker that comes back while the monitor leads finds the role taken and parks; it must not be forgotten there.
/// Caught: `monitor_led` that wakes for an item only.
#[test]
fn the_monitor_hands_the_role_back_to_a_worker_that_parked_meanwhile() {
    explore(|| {
        let pool = Pool::new(limits(1, 1));
        let workers = [pool.start_with(begin_one_and_wait)];
        pool.post(1);
        pool.wait_until(|story| story.begun);
        let mut monitor = Monitor::new(&pool);
        monitor.tick();
        pool.tell(|story| story.going = true);
        // Relieves the worker, or finds it elsewhere. Then leads, if the worker is not on its way.
        monitor.tick();
        pool.engine.arrive(2);
        pool.wait_for(&[1, 2]);
        pool.end(workers);
    });
}

// ---- block and unblock ----

/// The first item's handler blocks until the second one, which needs its slot, was handled; then it comes back while others run.
/// Caught: `block` that keeps the slot, or that wakes nobody; `unblock` that takes no slot.
#[test]
fn a_blocked_worker_frees_its_slot_and_the_surplus_is_evened_out() {
    explore(|| {
        let pool = Pool::new(with_interpreter_lock(1, 2));
        let workers = [pool.start_with(block_until_two), pool.start_with(block_until_two)];
        pool.post(1);
        pool.post(2);
        pool.post(3);
        pool.wait_for(&[1, 2, 3]);
        pool.end(workers);
    });
}

/// A block that is over as soon as it has begun, while the monitor looks.
/// Caught: `block` that frees the slot of a worker that was relieved, or keeps its own; `unblock` that takes no slot.
#[test]
fn short_blocks_leave_the_books_in_order() {
    explore(|| {
        let pool = Pool::new(limits(1, 2));
        let handler = |pool: &Pool, me, item| {
            if item == 1 {
                pool.block(me);
                pool.unblock(me);
            }
        };
        let workers = [pool.start_with(handler), pool.start_with(handler)];
        pool.post(1);
        pool.post(2);
        let mut monitor = Monitor::new(&pool);
        monitor.tick();
        monitor.tick();
        pool.scheduler.check();
        pool.wait_for(&[1, 2]);
        pool.end(workers);
    });
}

// ---- starting, retiring, ending ----

/// One worker, which starts the other before its first item; the item needs the other one.
/// Caught: neither `register` nor `pop` asking for a spare; `take` that gives an item before the start.
#[test]
fn a_spare_is_started_before_it_is_needed() {
    explore(|| {
        let pool = Pool::new(with_interpreter_lock(1, 2));
        let workers = [pool.start_starting(block_until_two)];
        pool.post(1);
        pool.post(2);
        pool.wait_for(&[1, 2]);
        pool.end(workers);
    });
}

/// The main thread is in a handler, and both workers park and run out of patience at once: the time-out meets the wake-up.
/// Caught: `retire` without its look at the phase and at `parked`; `retire` of the last spare.
#[test]
fn a_worker_that_retires_takes_no_wake_up_with_it() {
    explore(|| {
        let pool = Pool::new(limits(1, 3));
        let (me, _parker) = pool.register();
        pool.post(1);
        assert_eq!(pool.scheduler.decide(me), Decision::Take);
        assert_eq!(pool.scheduler.pop(me).0, Some(Work::StartWorker));
        assert_eq!(pool.scheduler.finish_and_pop(me, None).0, Some(Work::Item(1)));
        let workers = [pool.start_impatient(), pool.start_impatient()];
        pool.post(2);
        pool.block(me);
        pool.wait_for(&[2]);
        pool.unblock(me);
        let (work, wakes) = pool.scheduler.finish_and_pop(me, None);
        assert_eq!(work, None);
        pool.wake(wakes);
        pool.scheduler.abandon(me).worker.inspect(|parker| parker.unpark());
        pool.end(workers);
    });
}

/// What is queued is done, by workers that are anywhere in their loops when `close` comes, and all exit.
/// Caught: `close` that forgets the parked; exits that are not passed on; exits while something is queued.
#[test]
fn a_drain_loses_nothing_and_everybody_exits() {
    explore(|| {
        let pool = Pool::new(limits(1, 2));
        let workers = [pool.start(), pool.start()];
        pool.post(1);
        pool.post(2);
        pool.close(true);
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(pool.handled(), [1, 2]);
        assert_eq!(pool.scheduler.counts().workers, 0);
    });
}

/// Caught: `decide` that leads or parks after a close; `take_rest` that forgets; a worker that takes no permit given before it parks.
#[test]
fn a_close_leaves_what_was_never_begun_and_everybody_exits() {
    explore(|| {
        let pool = Pool::new(limits(2, 2));
        let workers = [pool.start(), pool.start()];
        pool.post(1);
        pool.post(2);
        pool.close(false);
        for worker in workers {
            worker.join().unwrap();
        }
        let mut seen = pool.handled();
        seen.extend(pool.scheduler.take_rest());
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
        assert_eq!(pool.scheduler.counts().workers, 0);
    });
}

// ---- what the models are made of ----

type Handler = fn(&Pool, WorkerId, u32);

struct Pool {
    scheduler: Scheduler<u32>,
    engine: Engine,
    /// std's, which loom does not see: what only the assertions want is no step of a model.
    story: std::sync::Mutex<Story>,
    /// How much of the story was told to those who wait.
    chapters: Mutex<usize>,
    told: Condvar,
}

#[derive(Default)]
struct Story {
    /// The first item's handler is under way; it may go on.
    begun: bool,
    going: bool,
    handled: Vec<u32>,
    /// Handlers that run and do not block.
    running: usize,
}

impl Pool {
    fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Pool {
            scheduler: Scheduler::new(limits),
            engine: Engine { state: Mutex::new(Arrivals::default()), changed: Condvar::new(), polled: AtomicBool::new(false) },
            story: std::sync::Mutex::default(),
            chapters: Mutex::new(0),
            told: Condvar::new(),
        })
    }

    // -- the threads --

    fn start(self: &Arc<Self>) -> JoinHandle<()> {
        self.start_with(|_pool, _me, _item| {})
    }

    fn start_with(self: &Arc<Self>, handler: Handler) -> JoinHandle<()> {
        self.spawn(handler, false, false)
    }

    /// A worker that starts others when it is told to; elsewhere the model starts them.
    fn start_starting(self: &Arc<Self>, handler: Handler) -> JoinHandle<()> {
        self.spawn(handler, true, false)
    }

    /// A worker whose `idle_seconds` are over as soon as it parks.
    fn start_impatient(self: &Arc<Self>) -> JoinHandle<()> {
        self.spawn(|_pool, _me, _item| {}, false, true)
    }

    fn spawn(self: &Arc<Self>, handler: Handler, starts: bool, impatient: bool) -> JoinHandle<()> {
        let pool = self.clone();
        spawn(move || {
            let mut started = None;
            let (me, parker) = pool.register();
            while let Some(work) = pool.next(me, &parker, impatient) {
                match work {
                    Work::Item(item) => pool.handle(handler, me, item),
                    Work::StartWorker if starts => started = Some(pool.start_with(handler)),
                    Work::StartWorker => pool.scheduler.start_failed(),
                }
            }
            if let Some(started) = started {
                started.join().unwrap();
            }
        })
    }

    fn register(&self) -> (WorkerId, Arc<Parker>) {
        self.scheduler.register(ThreadClock(0))
    }

    /// As `Port::next`.
    fn next(&self, me: WorkerId, parker: &Parker, impatient: bool) -> Option<Work<u32>> {
        let (mut work, wakes) = self.scheduler.finish_and_pop(me, None);
        self.wake(wakes);
        while work.is_none() {
            loop {
                match self.scheduler.decide(me) {
                    Decision::Take => break,
                    Decision::Exit => {
                        if let Some(parker) = self.scheduler.pass_exit_on() {
                            parker.unpark();
                        }
                        return None;
                    }
                    decision @ (Decision::Lead | Decision::Look) => {
                        let items = self.engine.poll(decision == Decision::Lead);
                        self.scheduler.led(me, items);
                    }
                    Decision::Park => {
                        if impatient && self.scheduler.retire(me) {
                            return None;
                        }
                        parker.park();
                    }
                }
            }
            let wakes;
            (work, wakes) = self.scheduler.pop(me);
            self.wake(wakes);
        }
        work
    }

    fn handle(&self, handler: Handler, me: WorkerId, item: u32) {
        {
            let mut story = self.story();
            story.running += 1;
            // Side by side above the cap runs at most the one that came back from its block.
            assert!(story.running <= self.scheduler.limits().concurrency + 1);
        }
        handler(self, me, item);
        self.tell(|story| {
            story.handled.push(item);
            story.running -= 1;
        });
    }

    // -- the port --

    fn post(&self, item: u32) {
        let wakes = self.scheduler.post([item]);
        self.wake(wakes);
    }

    fn block(&self, me: WorkerId) {
        let wakes = self.scheduler.block(me);
        self.wake(wakes);
    }

    fn unblock(&self, me: WorkerId) {
        let wakes = self.scheduler.unblock(me);
        self.wake(wakes);
    }

    fn wake(&self, wakes: Wakes) {
        if let Some(parker) = wakes.worker {
            parker.unpark();
        }
        if wakes.leader {
            self.engine.wake();
        }
    }

    fn close(&self, drain: bool) {
        let parkers = self.scheduler.close(drain);
        self.engine.wake();
        for parker in parkers {
            parker.unpark();
        }
    }

    /// Everybody exits, and the books are in order.
    fn end<const N: usize>(&self, workers: [JoinHandle<()>; N]) {
        self.scheduler.check();
        self.close(true);
        for worker in workers {
            worker.join().unwrap();
        }
        self.scheduler.check();
        let counts = self.scheduler.counts();
        assert_eq!((counts.workers, counts.running, counts.blocked, counts.queued), (0, 0, 0, 0));
    }

    // -- the story --

    fn story(&self) -> std::sync::MutexGuard<'_, Story> {
        self.story.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, what: impl FnOnce(&mut Story)) {
        let mut chapters = self.chapters.lock();
        what(&mut self.story());
        *chapters += 1;
        drop(chapters);
        self.told.notify_all();
    }

    fn wait_until(&self, condition: impl Fn(&Story) -> bool) {
        let mut chapters = self.chapters.lock();
        while !condition(&self.story()) {
            chapters = self.told.wait(chapters);
        }
    }

    fn wait_until_handled(&self, item: u32) {
        self.wait_until(|story| story.handled.contains(&item));
    }

    /// Waits until exactly these items were handled, in any order.
    fn wait_for(&self, items: &[u32]) {
        self.wait_until(|story| story.handled.len() >= items.len());
        let mut handled = self.handled();
        handled.sort_unstable();
        assert_eq!(handled, items);
    }

    fn handled(&self) -> Vec<u32> {
        self.story().handled.clone()
    }
}

/// The handler of the first item blocks, and says so, until the second one was handled.
fn block_until_two(pool: &Pool, me: WorkerId, item: u32) {
    if item == 1 {
        pool.story().running -= 1;
        pool.block(me);
        pool.wait_until_handled(2);
        pool.unblock(me);
        pool.story().running += 1;
    }
}

/// The handler of the first item stands still until it may go on.
fn begin_one_and_wait(pool: &Pool, _me: WorkerId, item: u32) {
    if item == 1 {
        pool.tell(|story| story.begun = true);
        pool.wait_until(|story| story.going);
    }
}

/// Where items come from: polled by the leader, interrupted by `wake`.
struct Engine {
    state: Mutex<Arrivals>,
    changed: Condvar,
    polled: AtomicBool,
}

#[derive(Default)]
struct Arrivals {
    items: VecDeque<u32>,
    woken: bool,
}

impl Engine {
    fn arrive(&self, item: u32) {
        self.state.lock().items.push_back(item);
        self.changed.notify_all();
    }

    fn wake(&self) {
        self.state.lock().woken = true;
        self.changed.notify_all();
    }

    /// One item a poll, so that the rest needs another one.
    fn poll(&self, may_wait: bool) -> Option<u32> {
        assert!(!self.polled.swap(true, Ordering::SeqCst), "two lead at once");
        let mut state = self.state.lock();
        while may_wait && state.items.is_empty() && !state.woken {
            state = self.changed.wait(state);
        }
        if may_wait {
            state.woken = false;
        }
        let item = state.items.pop_front();
        drop(state);
        self.polled.store(false, Ordering::SeqCst);
        item
    }
}

/// As `Port::tick`, in the main thread.
struct Monitor<'a> {
    pool: &'a Pool,
    now: u64,
    /// What each worker's thread has used.
    cpu: u64,
    samples: Vec<Sample>,
}

impl<'a> Monitor<'a> {
    fn new(pool: &'a Pool) -> Self {
        Monitor { pool, now: TICK, cpu: 0, samples: Vec::new() }
    }

    fn tick(&mut self) {
        self.now += TICK;
        let scheduler = &self.pool.scheduler;
        scheduler.observe(&mut self.samples);
        for sample in &mut self.samples {
            sample.cpu = self.cpu;
        }
        let verdict = scheduler.judge(&self.samples, self.now);
        if let Some(parker) = verdict.wake {
            parker.unpark();
        }
        if verdict.wake_leader {
            self.pool.engine.wake();
        }
        if verdict.lead {
            let items = self.pool.engine.poll(false);
            let wakes = scheduler.monitor_led(items);
            self.pool.wake(wakes);
        }
    }
}

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(model);
}

/// One preemption less, for the largest model: it would take as long as all the others.
fn explore_less(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    let preemptions = builder.preemption_bound.get_or_insert(3);
    *preemptions = preemptions.saturating_sub(1);
    builder.check(model);
}
