//! Associated handles on the simulated engine, over many schedules: several threads submit, cancel and close while the network brings bytes, ends and resets,
//! and the pool may end in the middle of it. However they race: each operation is told exactly once, receives and sends in the order of their submission, one at
//! a time for a handle, no byte is lost, doubled or out of place, and each send tells exactly how many of its bytes have gone out, however it ended. Some receives are into memory, which nobody writes to once its operation is told; some
//! handles are connected only in the middle of it.
//!
//! PROACTOR_SEED as in `shuttle_port`; of SHUTTLE_ITERATIONS ten times as many seeds, because a scenario is short.
//!
//! Caught: a close that does not wait for a send that is being submitted (its bytes are in use when it is told), or for another close (its completions come when
//! the workers have left); a send that is not noted as pending; a receive that is left to wait although bytes are kept; a `pump` that is left out after a send
//! or a cancellation; a count of kept bytes that goes below zero; a close that takes a send whose completion is under way for one that has sent nothing.

#![cfg(feature = "shuttle")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use proactor_core::association::{Came, OperationId, Request};
use proactor_core::buffer::{Destination, Outgoing};
use proactor_core::engine::simulated::{Fault, Peer, Simulated};
use proactor_core::engine::{Address, CANCELED, Engine, Kind, NOT_CONNECTED};
use proactor_core::group::Upper;
use proactor_core::port::{Association, Interpreter, Port, Task};
use proactor_core::scheduler::Limits;
use proactor_core::sync::Mutex;
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
    type Operation = OperationId;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Finale {
    /// Everything that was submitted comes back, then the handle is closed.
    Drain,
    Close,
    /// The pool ends with operations pending.
    End,
}

struct Scenario {
    port: Arc<Port<Layer>>,
    association: Arc<Association<Layer>>,
    peer: Peer,
    interpreter: Option<Mutex<()>>,
    workers: std::sync::Mutex<Vec<JoinHandle<()>>>,
    story: std::sync::Mutex<Story>,
    telling: AtomicBool,
    busy: AtomicUsize,
}

/// std's lock: only the assertions look at it.
#[derive(Default)]
struct Story {
    /// What each operation asks for: the bytes of a send, None for a receive.
    submitted: BTreeMap<OperationId, Option<Arc<Vec<u8>>>>,
    /// What a receive into memory has got.
    memory: BTreeMap<OperationId, Arc<std::sync::Mutex<Vec<u8>>>>,
    /// Neither send nor receive.
    others: BTreeSet<OperationId>,
    told: Vec<(OperationId, Result<Vec<u8>, i32>, usize)>,
}

#[test]
fn every_operation_completes_exactly_once() {
    over_seeds("shuttle_associations", 10, true, play);
}

fn play(seed: u64) {
    let mut random = Random(seed ^ 0xa550c);
    let finale = [Finale::Drain, Finale::Close, Finale::End][random.below(3)];
    let engine = Arc::new(Simulated::open(if random.chance(3) { 0 } else { seed }));
    let locked = random.chance(2);
    let limits = Limits { concurrency: 1 + random.below(2), max_workers: 3, interpreter_lock: locked };
    let port = Port::<Layer>::new(engine.clone(), limits, None, 0);
    let connected = finale == Finale::Drain || random.chance(2);
    let (descriptor, peer) = if connected { engine.pair() } else { engine.socket() };
    peer.set_window(1 + random.below(8));
    let association = port.associate(engine.adopt(descriptor, Kind::Tcp).unwrap(), connected).unwrap();
    let faulty = finale != Finale::Drain && random.chance(4);
    if faulty {
        engine.fail_next(if random.chance(2) { Fault::Send } else { Fault::Receive }, 104); // ECONNRESET
    }
    let scenario = Arc::new(Scenario {
        port,
        association,
        peer,
        interpreter: locked.then(|| Mutex::new(())),
        workers: std::sync::Mutex::default(),
        story: std::sync::Mutex::default(),
        telling: AtomicBool::new(false),
        busy: AtomicUsize::new(0),
    });
    scenario.start_worker();
    if !connected {
        scenario.submit(Wish::Connect);
    }
    let users: Vec<_> = (0..2)
        .map(|_| {
            let (scenario, mut random) = (scenario.clone(), Random(random.next()));
            thread::spawn(move || scenario.submit_and_cancel(&mut random, finale))
        })
        .collect();
    let incoming: Vec<u8> = (0..random.below(40) as u8).collect();
    let mut arrived = Vec::new();
    if !connected {
        thread::yield_now();
        if random.chance(3) {
            scenario.peer.refuse(NOT_CONNECTED);
        } else {
            scenario.peer.accept();
        }
    }
    for piece in incoming.chunks(1 + random.below(9)) {
        scenario.peer.send(piece);
        arrived.extend(scenario.peer.received());
        thread::yield_now();
    }
    let resets = finale != Finale::Drain && random.chance(4);
    match (resets, random.chance(2) || finale == Finale::Drain) {
        (true, _) => scenario.peer.reset(),
        (_, true) => scenario.peer.finish(), // so that every receive comes back
        _ => {}
    }
    let ending = (finale == Finale::End && random.chance(2)).then(|| {
        let scenario = scenario.clone();
        thread::spawn(move || drop(scenario.port.finish())) // while they submit
    });
    for user in users {
        user.join().unwrap();
    }
    match finale {
        Finale::Drain => {
            while scenario.association.pending() > 0 || scenario.association.numbers().untold > 0 {
                arrived.extend(scenario.peer.received());
                thread::yield_now();
            }
            scenario.port.close_association(&scenario.association);
        }
        Finale::Close => scenario.port.close_association(&scenario.association),
        Finale::End => {}
    }
    drop(scenario.port.finish());
    if let Some(ending) = ending {
        ending.join().unwrap();
    }
    loop {
        let Some(worker) = lock(&scenario.workers).pop() else { break };
        worker.join().unwrap();
    }
    let (rest, _) = scenario.port.close();
    assert!(rest.is_empty(), "a drain tells everything");
    arrived.extend(scenario.peer.received());
    scenario.check(&incoming, &arrived, faulty || resets || !connected);
}

impl Scenario {
    fn submit_and_cancel(&self, random: &mut Random, finale: Finale) {
        let mut mine = Vec::new();
        for _ in 0..random.below(8) {
            match random.below(8) {
                0..=1 => mine.extend(self.submit(Wish::Receive(1 + random.below(20)))),
                2 => mine.extend(self.submit(Wish::ReceiveInto(1 + random.below(20)))),
                3..=4 => mine.extend(self.submit(Wish::Send(vec![0x40 + random.below(64) as u8; random.below(12)]))),
                5 if random.chance(6) && finale != Finale::Drain => mine.extend(self.submit(Wish::Shutdown)),
                5 if random.chance(3) => mine.extend(self.submit(Wish::Connect)),
                5 => mine.extend(self.submit(Wish::Send(vec![0x40 + random.below(64) as u8; random.below(12)]))),
                6 if !mine.is_empty() => {
                    self.port.cancel_operation(&self.association, mine[random.below(mine.len())]);
                }
                7 if random.chance(3) => drop(self.port.cancel_operations(&self.association)),
                7 if random.chance(3) && finale != Finale::Drain => self.port.close_association(&self.association),
                _ => thread::yield_now(),
            }
        }
        if finale != Finale::Drain && random.chance(3) {
            self.port.close_association(&self.association);
        }
    }

    /// One submission at a time, so that the order is known.
    fn submit(&self, wish: Wish) -> Option<OperationId> {
        while self.busy.swap(1, Ordering::SeqCst) == 1 {
            thread::yield_now();
        }
        let id = self.association.next_id();
        let mut story = lock(&self.story);
        let request = match wish {
            Wish::Receive(limit) => {
                story.submitted.insert(id, None);
                Request::Receive { limit }
            }
            Wish::ReceiveInto(size) => {
                story.submitted.insert(id, None);
                let memory = Arc::new(std::sync::Mutex::new(Vec::new()));
                story.memory.insert(id, memory.clone());
                Request::ReceiveInto(Box::new(Memory { size, written: memory }))
            }
            Wish::Send(bytes) => {
                let bytes = Arc::new(bytes);
                story.submitted.insert(id, Some(bytes.clone()));
                let mut outgoing = Outgoing::new();
                outgoing.push_shared(Arc::new(Held(bytes)));
                Request::Send(outgoing)
            }
            Wish::Connect | Wish::Shutdown => {
                story.submitted.insert(id, None);
                story.others.insert(id);
                match wish {
                    Wish::Connect => Request::Connect(Address::Unix(None)),
                    _ => Request::Shutdown,
                }
            }
        };
        drop(story);
        let submitted = self.port.submit(&self.association, id, request, id);
        self.busy.store(0, Ordering::SeqCst);
        if let Err((back, _)) = submitted {
            assert_eq!(back, id);
            lock(&self.story).submitted.remove(&id);
            return None;
        }
        Some(id)
    }

    fn start_worker(self: &Arc<Self>) {
        let scenario = self.clone();
        let worker = thread::spawn(move || scenario.work());
        lock(&self.workers).push(worker);
    }

    fn work(self: &Arc<Self>) {
        let attached =
            Attached { lock: self.interpreter.as_ref(), held: std::cell::RefCell::new(self.interpreter.as_ref().map(Mutex::lock)) };
        let mut worker = self.port.worker();
        while let Some(task) = self.port.next(&mut worker, &attached, |_| (), |()| ()) {
            match task {
                Task::StartWorker => self.start_worker(),
                Task::Completion((id, came)) => {
                    assert!(!self.telling.swap(true, Ordering::SeqCst), "two completions of one handle at once");
                    thread::yield_now();
                    let told = match came {
                        Came::Received(bytes) => (id, Ok(bytes.as_slice().to_vec()), 0),
                        Came::Ended => (id, Ok(Vec::new()), 0),
                        Came::Sent { bytes } => (id, Ok(Vec::new()), bytes),
                        Came::Failed { number, sent } => (id, Err(number), sent.unwrap_or(0)),
                        Came::Filled { bytes } => {
                            let memory = lock(&self.story).memory[&id].clone();
                            let written = lock(&memory).clone();
                            assert_eq!(written.len(), bytes);
                            (id, Ok(written), 0)
                        }
                        Came::Done => (id, Ok(Vec::new()), 0),
                        other => unreachable!("not asked for: {other:?}"),
                    };
                    let mut story = lock(&self.story);
                    if let Some(memory) = story.memory.get(&id) {
                        assert_eq!(Arc::strong_count(memory), 1, "its memory is let go before it is told");
                        let got = told.1.as_ref().map_or(0, Vec::len);
                        assert_eq!(lock(memory).len(), got, "written although it was cancelled");
                    }
                    if let Some(Some(data)) = story.submitted.get(&id) {
                        assert_eq!(Arc::strong_count(data), 1, "its bytes are let go before it is told");
                    }
                    story.told.push(told);
                    drop(story);
                    self.telling.store(false, Ordering::SeqCst);
                }
                _ => unreachable!("nothing else was asked for"),
            }
        }
    }

    fn check(&self, incoming: &[u8], arrived: &[u8], dies: bool) {
        self.port.scheduler.check();
        assert_eq!(self.port.associated(), (0, 0));
        let story = lock(&self.story);
        let ids: BTreeSet<_> = story.told.iter().map(|(id, ..)| *id).collect();
        assert_eq!(ids.len(), story.told.len(), "told twice: {:?}", story.told);
        assert!(ids.iter().eq(story.submitted.keys()), "submitted {:?}, told {:?}", story.submitted, story.told);
        let numbers = self.association.numbers();
        assert_eq!((numbers.completed, numbers.untold, numbers.open), (story.told.len() as u64, 0, false));
        // Successes in the order of submission, each kind for itself.
        let (mut received, mut left) = (Vec::new(), Vec::new());
        let mut last = [0, 0];
        for (id, outcome, sent) in &story.told {
            let data = &story.submitted[id];
            if let Some(data) = data {
                assert!(*sent == data.len() || (outcome.is_err() && *sent < data.len()));
                left.extend(&data[..*sent]);
            }
            match outcome {
                Ok(_) if story.others.contains(id) => {}
                Ok(bytes) => {
                    let kind = &mut last[usize::from(data.is_some())];
                    assert!(*kind < *id, "out of order: {:?}", story.told);
                    *kind = *id;
                    received.extend(bytes);
                }
                // A connection can connect no more (EISCONN), and after a shutdown nothing can be sent (EPIPE).
                Err(number) => {
                    let told_off =
                        (*number == 106 && story.others.contains(id)) || (*number == 32 && data.is_some() && !story.others.is_empty());
                    assert!(dies || *number == CANCELED || told_off, "{number}");
                }
            }
        }
        assert!(incoming.starts_with(&received), "received {received:?} of {incoming:?}");
        // Also of those that were cancelled or cut off by a close.
        assert_eq!(arrived, left, "what is told as sent has arrived, and no more; each send's bytes follow those of the one before");
    }
}

/// What a user asks for.
enum Wish {
    Receive(usize),
    ReceiveInto(usize),
    Send(Vec<u8>),
    Connect,
    Shutdown,
}

/// What is received into: keeps what is written.
struct Memory {
    size: usize,
    written: Arc<std::sync::Mutex<Vec<u8>>>,
}

impl Destination for Memory {
    fn size(&self) -> usize {
        self.size
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(written.len(), offset);
        written.extend_from_slice(bytes);
        assert!(written.len() <= self.size);
    }
}

/// The bytes of a send.
struct Held(Arc<Vec<u8>>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The interpreter, where it is locked.
struct Attached<'a> {
    lock: Option<&'a Mutex<()>>,
    held: std::cell::RefCell<Option<proactor_core::sync::MutexGuard<'a, ()>>>,
}

impl Interpreter for Attached<'_> {
    fn detached<R: Send>(&self, wait: impl FnOnce() -> R + Send) -> R {
        drop(self.held.borrow_mut().take());
        let result = wait();
        *self.held.borrow_mut() = self.lock.map(Mutex::lock);
        result
    }
}
