//! A port with its callers' threads on the simulated engine, over many schedules: threads come with and without time-outs, are interrupted, release what they
//! have, end and are followed by others, while others post and a peer talks. However they race: what was posted and what was submitted comes exactly once, and
//! nothing is left while a thread waits.
//!
//! PROACTOR_SEED as in `shuttle_port`; of SHUTTLE_ITERATIONS ten times as many seeds, because a scenario is short. In half of them nothing ticks: there a lost
//! wake-up is a deadlock.
//!
//! Caught: a `release` that wakes nobody; `stop_parking` that leaves the thread on the stack; a role that is left taken; a `give_up` that keeps the slot; a `wait` that
//! leaves the permit of a thread whose time was out. (Not caught: a `decide_or_give_up` that wakes nobody; `tests/scheduler/callers.rs` sees that.)

#![cfg(feature = "shuttle")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proactor_core::association::{Came, Request};
use proactor_core::buffer::Outgoing;
use proactor_core::engine::simulated::Simulated;
use proactor_core::engine::{Engine, Kind};
use proactor_core::group::Upper;
use proactor_core::port::{Association, Port, Seat, Taken, Waited, Waiting};
use proactor_core::scheduler::Limits;
use proactor_core::sync::{Condvar, Mutex};
use shuttle::thread::{self, JoinHandle};

#[path = "shuttle_port/random.rs"]
mod random;
#[path = "shuttle_port/seeds.rs"]
mod seeds;
use random::Random;
use seeds::{lock, over_seeds};

struct Layer;

impl Upper for Layer {
    type Connection = ();
    type Group = ();
    type Call = usize;
    type Operation = usize;
}

/// Completions are numbered, whatever they are of.
struct Scenario {
    port: Arc<Port<Layer>>,
    association: Arc<Association<Layer>>,
    came: std::sync::Mutex<BTreeMap<usize, usize>>,
    threads: std::sync::Mutex<Vec<JoinHandle<()>>>,
    done: AtomicBool,
    count: Mutex<usize>,
    changed: Condvar,
}

#[test]
fn whatever_is_posted_or_submitted_comes_exactly_once() {
    over_seeds("shuttle_callers", 10, true, play);
}

fn play(seed: u64) {
    let mut random = Random(seed ^ 0xca11e5);
    let engine = Arc::new(Simulated::open(if random.chance(3) { 0 } else { seed }));
    let limits = Limits { concurrency: 1 + random.below(2), max_workers: Limits::CALLERS, interpreter_lock: random.chance(2) };
    let port = Port::<Layer>::new(engine.clone(), limits, None, 0);
    let (descriptor, peer) = engine.pair();
    let association = port.associate(engine.adopt(descriptor, Kind::Tcp).unwrap(), true).unwrap();
    let scenario = Arc::new(Scenario {
        port,
        association,
        came: std::sync::Mutex::default(),
        threads: std::sync::Mutex::default(),
        done: AtomicBool::new(false),
        count: Mutex::new(0),
        changed: Condvar::new(),
    });
    let ticks = random.chance(2);
    let ticker = ticks.then(|| {
        let (scenario, engine) = (scenario.clone(), engine.clone());
        thread::spawn(move || {
            let mut samples = Vec::new();
            while !scenario.done.load(Ordering::SeqCst) {
                engine.advance(Duration::from_millis(1));
                scenario.port.tick(&mut samples);
                thread::yield_now();
            }
        })
    });
    for number in 0..2 + random.below(2) {
        scenario.start(Random(random.next()), number == 0);
    }
    // Packets have even numbers, operations odd ones.
    let (packets, operations) = (random.below(6), random.below(6));
    let poster = {
        let scenario = scenario.clone();
        thread::spawn(move || (0..packets).for_each(|number| scenario.port.call(2 * number)))
    };
    for number in 0..operations {
        let request = if number % 2 == 0 {
            Request::Receive { limit: 1 }
        } else {
            let mut outgoing = Outgoing::new();
            outgoing.push_copy(b"x");
            Request::Send(outgoing)
        };
        let id = scenario.association.next_id();
        scenario.port.submit(&scenario.association, id, request, 2 * number + 1).map_err(|_| "closed").unwrap();
        if random.chance(2) {
            thread::yield_now();
        }
    }
    peer.send(&vec![b'y'; operations]);
    poster.join().unwrap();
    let all = packets + operations;
    {
        let mut count = scenario.count.lock();
        while *count < all {
            count = scenario.changed.wait(count);
        }
    }
    scenario.port.scheduler.check();
    let (rest, _) = scenario.port.close();
    assert!(rest.is_empty(), "everything has come");
    loop {
        let Some(thread) = lock(&scenario.threads).pop() else { break };
        thread.join().unwrap();
    }
    scenario.done.store(true, Ordering::SeqCst);
    if let Some(ticker) = ticker {
        ticker.join().unwrap();
    }
    assert!(scenario.port.scheduler.take_rest().is_empty());
    scenario.port.scheduler.check();
    let counts = scenario.port.scheduler.counts();
    assert_eq!((counts.workers, counts.running, counts.finished), (0, 0, all as u64));
    let came = lock(&scenario.came);
    assert_eq!(came.len(), all);
    assert!(came.values().all(|times| *times == 1), "{came:?}");
}

impl Scenario {
    /// A thread that comes and goes; the one that stays takes what the others leave.
    fn start(self: &Arc<Self>, mut random: Random, stays: bool) {
        let scenario = self.clone();
        let thread = thread::spawn(move || {
            let seat = scenario.port.seat();
            for _ in 0..random.below(6) {
                let timeout = random.chance(2).then_some(Duration::ZERO);
                let slice = random.chance(3).then_some(Duration::ZERO);
                scenario.get(&seat, timeout, slice, &mut random);
                match random.below(4) {
                    0 => scenario.port.release(&seat),
                    1 => {
                        // As `with proactor.blocking()`; of no effect where it has nothing.
                        scenario.port.block_seat(&seat);
                        thread::yield_now();
                        scenario.port.unblock_seat(&seat);
                    }
                    _ => {}
                }
            }
            if stays {
                while scenario.get(&seat, None, None, &mut random) {}
            } else if random.chance(2) && !scenario.port.is_closed() {
                scenario.start(Random(random.next()), false);
            }
            scenario.port.leave_seat(&seat);
        });
        lock(&self.threads).push(thread);
    }

    fn get(&self, seat: &Seat, timeout: Option<Duration>, slice: Option<Duration>, random: &mut Random) -> bool {
        let mut taken = self.port.take_next(seat);
        let mut waiting = Waiting::new(timeout, slice);
        while taken.is_none() {
            match self.port.wait(seat, &mut waiting) {
                Waited::TimedOut | Waited::Closed => return false,
                Waited::Take | Waited::Slice if slice.is_some() && random.chance(4) => {
                    self.port.give_up(seat, &mut waiting);
                    return true;
                }
                Waited::Take => taken = self.port.take(seat),
                Waited::Slice => thread::yield_now(),
            }
        }
        let number = match taken {
            Some(Taken::Call(number)) => number,
            Some(Taken::Completion((number, came))) => {
                assert!(matches!(came, Came::Received(_) | Came::Sent { bytes: 1 }), "{came:?}");
                number
            }
            Some(Taken::FileCompletion(_)) => unreachable!("there are no files"),
            None => unreachable!("the loop ends with it"),
        };
        thread::yield_now();
        *lock(&self.came).entry(number).or_default() += 1;
        *self.count.lock() += 1;
        self.changed.notify_all();
        true
    }
}
