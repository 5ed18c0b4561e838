//! Associated files over many schedules, with the threads that do their requests: several threads submit, cancel and close while completions come and the port
//! ends, in order or at once. However they race: each operation that was taken comes to one end, told, dropped or counted as late; its memory is let go once; what
//! a drain waits for is told; and nothing stays expected.
//!
//! PROACTOR_SEED as in `shuttle_port`; of SHUTTLE_ITERATIONS ten times as many seeds, because a scenario is short.

#![cfg(all(feature = "shuttle", target_os = "linux"))]

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use proactor_core::engine::simulated::Simulated;
use proactor_core::files::{self, Action, File, Files, Memory, Outcome};
use proactor_core::group::Upper;
use proactor_core::port::{FileRequest, Interpreter, Item, Port, PortFile, Task};
use proactor_core::scheduler::Limits;
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
    type Call = ();
    type Operation = u64;
}

struct Scenario {
    port: Arc<Port<Layer>>,
    file: Arc<PortFile<Layer>>,
    workers: std::sync::Mutex<Vec<JoinHandle<()>>>,
    /// How many bytes each operation that was taken is about.
    submitted: std::sync::Mutex<BTreeMap<u64, usize>>,
    told: std::sync::Mutex<BTreeMap<u64, Option<i32>>>,
    memories: Arc<Memories>,
}

/// How many there were, and how many were let go.
#[derive(Default)]
struct Memories {
    made: AtomicUsize,
    gone: AtomicUsize,
}

const CANCELED: i32 = proactor_core::engine::CANCELED;

#[test]
fn every_operation_on_a_file_comes_to_one_end() {
    over_seeds("shuttle_files", 10, true, play);
}

fn play(seed: u64) {
    let mut random = Random(seed ^ 0xf11e5);
    let limits = Limits { concurrency: 1 + random.below(2), max_workers: 3, interpreter_lock: false };
    let port = Port::<Layer>::new(Arc::new(Simulated::open(0)), limits, None, 0);
    let files = Arc::new(Files::open_named("threads", files::Limits { ring: 4, completions: None, threads: 1 + random.below(2) }).unwrap());
    // Reads, writes at any offset, and answers at once; syncs fail. Direct: nothing is looked for in memory, so all are requests.
    let zeros = std::fs::File::options().read(true).write(true).open("/dev/zero").unwrap();
    let file = File::new(OwnedFd::from(zeros), random.chance(2));
    let Ok(file) = port.associate_file(file, files.clone(), Box::new(())) else { panic!("it is open") };
    let scenario = Arc::new(Scenario {
        port,
        file,
        workers: std::sync::Mutex::default(),
        submitted: std::sync::Mutex::default(),
        told: std::sync::Mutex::default(),
        memories: Arc::default(),
    });
    scenario.start_worker();
    let at_once = random.chance(3);
    let users: Vec<_> = (0..2)
        .map(|_| {
            let (scenario, mut random) = (scenario.clone(), Random(random.next()));
            thread::spawn(move || scenario.submit_and_cancel(&mut random))
        })
        .collect();
    let mut lost = 0;
    let mut users = Some(users);
    let join = |users: &mut Option<Vec<JoinHandle<()>>>| users.take().into_iter().flatten().for_each(|user| user.join().unwrap());
    if random.chance(2) {
        join(&mut users); // else it ends while they submit
    }
    if at_once {
        let (rest, _) = scenario.port.close();
        lost += untold(rest);
    } else {
        drop(scenario.port.finish());
    }
    join(&mut users);
    loop {
        let Some(worker) = lock(&scenario.workers).pop() else { break };
        worker.join().unwrap();
    }
    files.close(); // whatever it had has completed now
    let (rest, _) = scenario.port.close();
    lost += untold(rest);
    lost += scenario.file.take_untold().len();
    scenario.check(lost, at_once);
}

fn untold(rest: impl IntoIterator<Item = Item<Layer>>) -> usize {
    rest.into_iter().map(|item| if let Item::File(file) = item { file.take_untold().len() } else { 0 }).sum()
}

impl Scenario {
    fn submit_and_cancel(&self, random: &mut Random) {
        let mut mine = Vec::new();
        for _ in 0..random.below(8) {
            match random.below(8) {
                0..=4 => mine.extend(self.submit(random)),
                5 if !mine.is_empty() => {
                    let id = mine[random.below(mine.len())];
                    assert!(self.file.cancel_operation(id) || !self.file.is_pending(id));
                }
                6 if random.chance(3) => drop(self.file.cancel_operations()),
                7 if random.chance(4) => self.port.close_file(&self.file),
                _ => thread::yield_now(),
            }
        }
        if random.chance(3) {
            self.port.close_file(&self.file);
        }
    }

    fn submit(&self, random: &mut Random) -> Option<u64> {
        let id = files::next_id();
        let action = [Action::Read, Action::Read, Action::Write, Action::Sync { data_only: true }][random.below(4)];
        let length = if matches!(action, Action::Sync { .. }) { 0 } else { random.below(3) * 512 };
        // Before it is submitted: it may be told before this thread goes on.
        lock(&self.submitted).insert(id, length);
        let request = FileRequest { action, offset: 0, memory: self.counted(length) };
        if self.port.submit_to_file(&self.file, id, request, id).is_err() {
            lock(&self.submitted).remove(&id);
            return None;
        }
        Some(id)
    }

    fn counted(&self, length: usize) -> Box<Counted> {
        self.memories.made.fetch_add(1, Ordering::SeqCst);
        Box::new(Counted { bytes: vec![0; length].into(), memories: self.memories.clone(), port: Arc::downgrade(&self.port) })
    }

    fn start_worker(self: &Arc<Self>) {
        let scenario = self.clone();
        let worker = thread::spawn(move || scenario.work()); // first: others run meanwhile
        lock(&self.workers).push(worker);
    }

    fn work(self: &Arc<Self>) {
        let mut worker = self.port.worker();
        while let Some(task) = self.port.next(&mut worker, &Free, |_| (), |()| ()) {
            match task {
                Task::StartWorker => self.start_worker(),
                Task::FileCompletion((id, Outcome { memory, transferred, error })) => {
                    assert!(!self.file.is_pending(id));
                    let length = lock(&self.submitted)[&id];
                    assert!(error.is_some() || transferred == length, "{transferred} of {length}");
                    drop(memory);
                    assert!(lock(&self.told).insert(id, error).is_none(), "told twice");
                }
                _ => unreachable!("nothing else was asked for"),
            }
        }
    }

    fn check(&self, lost: usize, at_once: bool) {
        self.port.scheduler.check();
        let (submitted, told) = (lock(&self.submitted), lock(&self.told));
        let late = self.port.came_late() as usize;
        assert_eq!(told.len() + lost + late, submitted.len(), "{} told, {lost} dropped, {late} late", told.len());
        assert!(at_once || lost + late == 0, "a drain tells everything");
        assert!(told.keys().all(|id| submitted.contains_key(id)));
        assert!(told.values().flatten().all(|number| [CANCELED, 22].contains(number)), "{told:?}"); // EINVAL: a device cannot be synced
        let numbers = self.file.numbers();
        assert_eq!((numbers.completed, numbers.open, self.file.pending()), (submitted.len() as u64, false, 0));
        let Memories { made, gone } = &*self.memories;
        assert_eq!(gone.load(Ordering::SeqCst), made.load(Ordering::SeqCst), "all memory is let go");
    }
}

/// Memory that is counted.
struct Counted {
    bytes: Box<[u8]>,
    memories: Arc<Memories>,
    port: Weak<Port<Layer>>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let late = self.port.upgrade().map_or(0, |port| port.came_late() as usize);
        let gone = self.memories.gone.fetch_add(1, Ordering::SeqCst);
        assert!(late <= gone || std::thread::panicking(), "{late} counted as late, and the memory of {gone} let go");
    }
}

// SAFETY: the box owns its bytes and does not move them.
unsafe impl Memory for Counted {
    fn start(&self) -> *mut u8 {
        self.bytes.as_ptr().cast_mut()
    }

    fn length(&self) -> usize {
        self.bytes.len()
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// No lock on the interpreter.
struct Free;

impl Interpreter for Free {
    fn detached<R: Send>(&self, wait: impl FnOnce() -> R + Send) -> R {
        wait()
    }
}
