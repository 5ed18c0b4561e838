//! Who takes the completions of reads that their askers began, over many schedules: several threads begin, wait, look and push, with the native thread beside them,
//! while a device completes in any order, refuses some, and the end comes. However they race: each read that was begun completes once, nobody sleeps for ever, and the native
//! thread ends. No time passes here: what the native thread does after a while, `direct_gathers.rs` shows.
//!
//! PROACTOR_SEED as in `shuttle_port`; of SHUTTLE_ITERATIONS ten times as many seeds, because a scenario is short.

#![cfg(all(feature = "shuttle", target_os = "linux"))]

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use proactor_core::files::direct::{Begun, Direct, Kernel, Read, Reader, Refusal, TOGETHER, Told, Waited};
use proactor_core::files::{self, Action, Complete, File, Outcome, Request};
use proactor_core::sync::{Condvar, Mutex, thread};

#[path = "direct/bytes.rs"]
mod bytes;
#[path = "shuttle_port/random.rs"]
mod random;
#[path = "shuttle_port/seeds.rs"]
mod seeds;
use bytes::{Bytes, LENGTH};
use random::Random;
use seeds::lock;

/// Fewer than are asked for at a time, so that some find no room; more than go to the kernel one by one.
const ROOM: usize = 5;

#[test]
fn every_read_that_was_begun_completes_once() {
    seeds::over_seeds("shuttle_direct", 10, true, play);
}

/// What is with the device, and what lies in the completion queue.
#[derive(Default)]
struct Device {
    // Guards what the device has, what it has done, and whether it is switched off.
    state: Mutex<DeviceState>,
    changed: Condvar,
}

#[derive(Default)]
struct DeviceState {
    at_work: Vec<u64>,
    done: Vec<Told>,
    /// How many calls there were: each fifth is refused.
    calls: usize,
    off: bool,
}

struct OfDevice(Arc<Device>);
struct Completions(Arc<Device>);

impl Kernel for OfDevice {
    type Reader = Completions;
    const AWAKE: Duration = Duration::ZERO;
    const MANY: usize = 1;

    // SAFETY: it touches no memory.
    unsafe fn begin(&self, reads: &[Read]) -> Result<usize, Refusal> {
        assert!(!reads.is_empty() && reads.iter().all(|read| read.length == LENGTH));
        let mut state = self.0.state.lock();
        state.calls += 1;
        if state.calls.is_multiple_of(5) {
            return Err(Refusal::Now);
        }
        // Not always all of them.
        let count = reads.len().min(1 + state.calls % TOGETHER);
        state.at_work.extend(reads[..count].iter().map(|read| read.told_as));
        self.0.changed.notify_all();
        Ok(count)
    }
}

impl Reader for Completions {
    fn next(&mut self) -> Option<Told> {
        self.0.state.lock().done.pop()
    }

    /// Sleeps as long as the device is at work, whatever the time: who is not woken then stays asleep, and the model finds it.
    fn wait(&mut self, _timeout: Duration) -> Option<Told> {
        let mut state = self.0.state.lock();
        loop {
            if let Some(told) = state.done.pop() {
                return Some(told);
            }
            if state.at_work.is_empty() {
                drop(state);
                thread::yield_now();
                return None;
            }
            state = self.0.changed.wait(state);
        }
    }
}

impl Device {
    fn run(&self, random: &mut Random) {
        let mut state = self.state.lock();
        loop {
            if !state.at_work.is_empty() {
                let index = random.below(state.at_work.len());
                let told_as = state.at_work.swap_remove(index);
                let result = [Some(LENGTH as i64), Some(0), None][random.below(3)];
                state.done.push(Told { told_as, result });
                self.changed.notify_all();
                drop(state);
                thread::yield_now();
                state = self.state.lock();
            } else if state.off {
                return;
            } else {
                state = self.changed.wait(state);
            }
        }
    }
}

/// Whom a request is for.
#[derive(Default)]
struct Asker {
    completed: Mutex<usize>,
    ended: Condvar,
}

impl Complete for Asker {
    fn complete(&self, _id: u64, outcome: Outcome) {
        drop(outcome);
        *self.completed.lock() += 1;
        self.ended.notify_all();
    }
}

impl Asker {
    fn is_told(&self) -> bool {
        *self.completed.lock() > 0
    }

    fn sleep(&self) {
        let mut completed = self.completed.lock();
        while *completed == 0 {
            completed = self.ended.wait(completed);
        }
    }
}

fn play(seed: u64) {
    let mut random = Random(seed ^ 0xd13ec7);
    let device = Arc::new(Device::default());
    let direct = Direct::new(OfDevice(device.clone()), Completions(device.clone()), ROOM);
    let zeros = File::new(OwnedFd::from(std::fs::File::open("/dev/zero").unwrap()), true);
    let (worker, own) = (device.clone(), Random(random.next()));
    let worker = thread::spawn(move || worker.run(&mut { own }));
    let serving = direct.clone();
    let native = thread::spawn(move || serving.serve(&files::end));
    let askers: Arc<std::sync::Mutex<Vec<Arc<Asker>>>> = Arc::default();
    let users: Vec<_> = (0..2)
        .map(|_| {
            let (direct, zeros, askers, mut random) = (direct.clone(), zeros.clone(), askers.clone(), Random(random.next()));
            thread::spawn(move || use_it(&direct, &zeros, &askers, &mut random))
        })
        .collect();
    let ends_meanwhile = random.chance(3);
    if ends_meanwhile {
        direct.finish();
    }
    users.into_iter().for_each(|user| user.join().unwrap());
    direct.finish();
    native.join().unwrap();
    for asker in lock(&askers).iter() {
        assert_eq!(*asker.completed.lock(), 1, "each completes once, and before the native thread has ended");
    }
    device.state.lock().off = true;
    device.changed.notify_all();
    worker.join().unwrap();
}

/// `askers`: those whose requests were begun.
fn use_it(direct: &Direct<OfDevice>, file: &Arc<File>, askers: &std::sync::Mutex<Vec<Arc<Asker>>>, random: &mut Random) {
    let mut pending: Vec<(Begun, Arc<Asker>)> = Vec::new();
    for _ in 0..random.below(9) {
        match random.below(6) {
            0..=2 => {
                let asker = Arc::new(Asker::default());
                let memory = Box::new(Bytes([0; LENGTH]));
                let (file, sink) = (file.clone(), asker.clone());
                let request = Request { id: files::next_id(), file, action: Action::Read, offset: 0, memory, transferred: 0, sink };
                if let Ok(begun) = direct.begin(request, &files::end) {
                    lock(askers).push(asker.clone());
                    pending.push((begun, asker));
                }
            }
            3 if !pending.is_empty() => {
                let (begun, asker) = pending.swap_remove(random.below(pending.len()));
                // As a future's `result` does.
                while direct.wait(begun, Duration::from_secs(3600), &files::end) == Waited::Over {}
                asker.sleep();
            }
            4 if !pending.is_empty() => {
                let (begun, asker) = pending.swap_remove(random.below(pending.len()));
                direct.push(begun);
                if random.chance(2) {
                    asker.sleep();
                }
            }
            5 if random.chance(4) => direct.push_all(),
            _ => {
                direct.look(&files::end);
                pending.retain(|(_, asker)| !asker.is_told());
            }
        }
    }
}
