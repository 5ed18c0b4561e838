//! Files among sends, of several threads at one connection, over many schedules: whole units in each thread's order, and everybody is told what became of his.
//!
//! SHUTTLE_ITERATIONS says how many seeds are tried (500 where it is not set). A seed decides the schedule, the engine's whims and the scenario; a failure names
//! it, and `PROACTOR_SEED=1234 cargo test -p proactor-core --features shuttle --test shuttle_file_sends` runs it again, alone. Nothing ticks: a wake-up that is
//! lost is a deadlock, which shuttle reports.

#![cfg(feature = "shuttle")]

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proactor_core::connection::{Bytes, Connection};
use proactor_core::engine::simulated::{Fault, Simulated};
use proactor_core::engine::{AcceptWindow, Address, Engine, Kind, SocketOptions};
use proactor_core::error::Failure;
use proactor_core::group::{Group, Settings, Upper, Wants};
use proactor_core::port::{FileSent, Interpreter, Port, Task};
use proactor_core::scheduler::Limits;
use proactor_core::source::Source;
use proactor_core::sync::atomic::{AtomicUsize, Ordering};
use shuttle::scheduler::RandomScheduler;
use shuttle::thread;
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

#[path = "shuttle_port/random.rs"]
mod random;

use random::{Random, number};

#[test]
fn files_and_sends_keep_their_order_and_nobody_waits_in_vain() {
    let seeds = match number("PROACTOR_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("SHUTTLE_ITERATIONS").unwrap_or(500),
    };
    for seed in seeds {
        let _named = Named(seed);
        let mut config = Config::new();
        config.failure_persistence = FailurePersistence::None;
        config.max_steps = MaxSteps::FailAfter(1_000_000);
        Runner::new(RandomScheduler::new_from_seed(seed, 1), config).run(move || run(seed));
    }
}

struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {seed} failed; PROACTOR_SEED={seed} runs it again", seed = self.0);
        }
    }
}

struct Layer;

impl Upper for Layer {
    type Connection = ();
    type Group = ();
    type Call = ();
    type Operation = ();
}

struct Detached;

impl Interpreter for Detached {
    fn detached<R: Send>(&self, wait: impl FnOnce() -> R + Send) -> R {
        wait()
    }
}

/// What one thread sends: so many bytes that all are `unit`.
#[derive(Clone, Copy, Debug)]
struct Unit {
    unit: u8,
    length: usize,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Send,
    File,
    /// A file that ends so many bytes early.
    Shrinks(usize),
    /// Given up after so many looks at it.
    GivenUp(usize),
}

/// What became of it.
#[derive(Clone, Copy, Debug)]
enum Became {
    Queued,
    Sent,
    /// After so many bytes.
    Stopped(u64),
    Refused,
}

struct Content {
    unit: u8,
    length: usize,
}

impl Source for Content {
    fn descriptor(&self) -> Option<i64> {
        None
    }

    fn read_at(&self, memory: &mut [u8], offset: u64) -> io::Result<usize> {
        let count = memory.len().min(self.length.saturating_sub(offset as usize));
        memory[..count].fill(self.unit);
        Ok(count)
    }
}

fn plan(random: &mut Random) -> Vec<Vec<Unit>> {
    let mut last = 0;
    let gives_up = random.chance(3);
    (0..2 + random.below(2))
        .map(|_| {
            (0..1 + random.below(3))
                .map(|_| {
                    last += 1;
                    let length = 1 + random.below(30);
                    let how = match random.below(8) {
                        0..3 => How::Send,
                        3 if gives_up => How::Shrinks(1 + random.below(length)),
                        4 if gives_up => How::GivenUp(random.below(4)),
                        _ => How::File,
                    };
                    Unit { unit: last, length, how }
                })
                .collect()
        })
        .collect()
}

fn send(port: &Port<Layer>, connection: &Arc<Connection<Layer>>, unit: Unit) -> Became {
    if unit.how == How::Send {
        return match port.queue(connection, Bytes::Copy(&vec![unit.unit; unit.length]), false) {
            Ok(flush) => {
                if flush {
                    port.flush(connection);
                }
                Became::Queued
            }
            Err(_) => Became::Refused,
        };
    }
    let there = if let How::Shrinks(missing) = unit.how { unit.length - missing } else { unit.length };
    let source = Arc::new(Content { unit: unit.unit, length: there });
    let Ok(mut sending) = port.begin_file(connection, source, 0, unit.length as u64) else { return Became::Refused };
    let mut looks = 0;
    let became = loop {
        let patience = match unit.how {
            How::GivenUp(most) if looks == most => break None,
            How::GivenUp(_) => Duration::ZERO,
            _ => Duration::from_secs(3600),
        };
        looks += 1;
        match port.send_on(&mut sending, patience) {
            FileSent::Whole => break Some(Became::Sent),
            FileSent::Partly => thread::yield_now(),
            FileSent::Short => {
                assert_eq!(sending.sent(), there as u64);
                break None;
            }
            FileSent::Ended(_) => break None,
            FileSent::Unreadable(error) => panic!("{error}"),
        }
    };
    port.end_file(&sending, None);
    became.unwrap_or(Became::Stopped(sending.sent()))
}

fn run(seed: u64) {
    let mut random = Random(seed);
    let plans = plan(&mut random);
    let engine = Arc::new(Simulated::open(if random.chance(4) { 0 } else { seed }));
    let limits = Limits { concurrency: 1 + random.below(2), max_workers: 2, interpreter_lock: false };
    let port = Port::<Layer>::new(engine.clone(), limits, None, 0);
    let settings = Settings {
        wants: Wants { connected: false, ended: true, closed: true, sent: random.chance(2) },
        receive_limit: 1 << 20,
        send_limit: 1 << 20,
        total_limit: 1 << 20,
        send_timeout: None,
        idle_timeout: None,
        max_connections: None,
        framing: None,
        options: SocketOptions { no_delay: true, keep_alive: false },
        window: AcceptWindow { minimum: 1, maximum: 2 },
    };
    let group = Group::new((), settings);
    let (descriptor, peer) = engine.pair();
    peer.set_window(1 + random.below(40));
    let handle = engine.adopt(descriptor, Kind::Tcp).expect("adopts");
    let address = Address::Internet(SocketAddr::from((Ipv4Addr::LOCALHOST, 9)));
    let connection = port.attach(handle, address, &group).expect("attaches");
    if random.chance(3) {
        engine.fail_next(Fault::SendFile, 38);
    }
    let faulty = random.chance(6);
    if faulty {
        engine.fail_next(Fault::Send, 104);
    }
    let worker = {
        let port = port.clone();
        thread::spawn(move || work(&port))
    };
    let sending = Arc::new(AtomicUsize::new(plans.len()));
    let senders: Vec<_> = plans
        .iter()
        .cloned()
        .map(|units| {
            let (port, connection) = (port.clone(), connection.clone());
            let sending = sending.clone();
            thread::spawn(move || {
                let told = units.into_iter().map(|unit| (unit, send(&port, &connection, unit))).collect::<Vec<_>>();
                sending.fetch_sub(1, Ordering::SeqCst);
                told
            })
        })
        .collect();
    let cut_off = random.chance(6);
    let mut arrived = Vec::new();
    let cut_after = random.below(40);
    for turn in 0..20_000 {
        arrived.extend(peer.received());
        if cut_off && turn == cut_after {
            port.abort(&connection, Failure::Os(103));
        }
        if sending.load(Ordering::SeqCst) == 0 {
            break;
        }
        thread::yield_now();
    }
    let told: Vec<Vec<(Unit, Became)>> = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
    peer.set_window(usize::MAX);
    arrived.extend(peer.received());
    port.drain(&group); // what is queued is still sent
    assert!(group.wait_empty(0, None));
    arrived.extend(peer.received());
    let calls = port.finish();
    assert!(calls.is_empty());
    worker.join().unwrap();
    port.close();
    check(&arrived, &told, faulty || cut_off, group.totals().sent);
    assert_eq!(group.queued.load(Ordering::SeqCst), 0, "something is still counted");
}

fn work(port: &Arc<Port<Layer>>) {
    let mut worker = port.worker();
    let mut others = Vec::new();
    while let Some(task) = port.next(&mut worker, &Detached, |_| (), |()| ()) {
        if let Task::StartWorker = task {
            let port = port.clone();
            others.push(thread::spawn(move || work(&port)));
        }
    }
    for other in others {
        other.join().unwrap();
    }
}

fn check(arrived: &[u8], told: &[Vec<(Unit, Became)>], may_end: bool, counted: u64) {
    // Runs of one unit's bytes.
    let mut runs: Vec<(u8, u64)> = Vec::new();
    for byte in arrived {
        match runs.last_mut() {
            Some((unit, count)) if unit == byte => *count += 1,
            _ => runs.push((*byte, 1)),
        }
    }
    let places: BTreeMap<u8, (usize, u64)> = runs.iter().enumerate().map(|(place, (unit, count))| (*unit, (place, *count))).collect();
    assert_eq!(places.len(), runs.len(), "a unit was torn: {runs:?}");
    assert_eq!(counted, arrived.len() as u64, "{told:?} {runs:?}");
    let torn =
        told.iter().flatten().any(|(unit, became)| matches!(became, Became::Stopped(sent) if (1..unit.length as u64).contains(sent)));
    for units in told {
        let mut before = None;
        for (unit, became) in units {
            let place = places.get(&unit.unit);
            let (came, whole) = (place.map_or(0, |(_, count)| *count), unit.length as u64);
            match became {
                Became::Sent => assert_eq!(came, whole, "{unit:?}"),
                // A block that was just complete, and not yet told, when the connection was aborted is missing.
                Became::Stopped(sent) => assert!(came == *sent || (may_end && came > *sent), "{unit:?} {became:?}: {came}"),
                Became::Refused => assert!(came == 0 && (may_end || torn), "{unit:?}"),
                Became::Queued => assert!(came == whole || may_end || torn, "{unit:?}: {came}"),
            }
            if came > 0 {
                let place = place.map(|(place, _)| *place);
                assert!(before < place, "out of order: {units:?} {runs:?}");
                before = place;
            }
            // What is cut off is the last thing that came.
            assert!(came == 0 || came == whole || runs.last() == Some(&(unit.unit, came)), "{unit:?} {runs:?}");
        }
    }
}
