//! Very many completions through a port with its callers' threads, on the simulated engine, in real threads: each comes exactly once, none is lost or doubled.
//!
//! PROACTOR_COMPLETIONS says how many: 200,000 where it is not set, and ten million in `make test`, which take some 20 seconds.

#![cfg(not(any(feature = "loom", feature = "shuttle")))]

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use proactor_core::association::{Came, Request};
use proactor_core::buffer::Outgoing;
use proactor_core::engine::simulated::Simulated;
use proactor_core::engine::{Engine, Kind};
use proactor_core::group::Upper;
use proactor_core::port::{Port, Taken, Waited, Waiting};
use proactor_core::scheduler::Limits;

struct Layer;

impl Upper for Layer {
    type Connection = ();
    type Group = ();
    type Call = usize;
    type Operation = usize;
}

const THREADS: usize = 4;
const HANDLES: usize = 4;
/// So many operations are pending at a time on each handle.
const PENDING: usize = 64;

struct Story {
    port: Arc<Port<Layer>>,
    /// How often each completion has come.
    came: Vec<AtomicU8>,
    count: AtomicUsize,
    wanted: usize,
}

/// Tells that all have come, or that its thread has failed.
struct Over(mpsc::Sender<()>);

impl Drop for Over {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.send(()).ok();
        }
    }
}

#[test]
fn each_of_very_many_completions_comes_exactly_once() {
    let wanted = std::env::var("PROACTOR_COMPLETIONS").map_or(200_000, |value| value.parse().expect("PROACTOR_COMPLETIONS is a number"));
    let engine = Arc::new(Simulated::open(7)); // splits, merges, delays
    let limits = Limits { concurrency: 2, max_workers: Limits::CALLERS, interpreter_lock: false };
    let port = Port::<Layer>::new(engine.clone(), limits, None, 0);
    let came = (0..wanted).map(|_| AtomicU8::new(0)).collect();
    let story = Arc::new(Story { port: port.clone(), came, count: AtomicUsize::new(0), wanted });
    let (tell, told) = mpsc::channel();
    let monitor = {
        let port = port.clone();
        std::thread::spawn(move || port.monitor())
    };
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let (story, over) = (story.clone(), Over(tell.clone()));
            std::thread::spawn(move || story.take_all(number, &over))
        })
        .collect();
    // Every second one is posted; the others are operations, as many receives as sends.
    let operations = wanted / 2;
    let submitters: Vec<_> = (0..HANDLES)
        .map(|number| {
            let (descriptor, peer) = engine.pair();
            let handle = engine.adopt(descriptor, Kind::Tcp).unwrap();
            let association = port.associate(handle, true).unwrap();
            let port = port.clone();
            std::thread::spawn(move || {
                for operation in (number..operations).step_by(HANDLES) {
                    let receives = (operation / HANDLES).is_multiple_of(2);
                    let request = if receives {
                        Request::Receive { limit: 1 }
                    } else {
                        let mut outgoing = Outgoing::new();
                        outgoing.push_copy(b"x");
                        Request::Send(outgoing)
                    };
                    let id = association.next_id();
                    port.submit(&association, id, request, operation).map_err(|_| "closed").unwrap();
                    if receives {
                        peer.send(b"y");
                    }
                    while association.pending() > PENDING {
                        drop(peer.received());
                        std::thread::yield_now();
                    }
                }
                drop(peer.received());
                (association, peer)
            })
        })
        .collect();
    for number in operations..wanted {
        port.call(number);
        if number % 1024 == 0 {
            while port.scheduler.counts().queued > 100_000 {
                std::thread::yield_now();
            }
        }
    }
    let kept: Vec<_> = submitters.into_iter().map(|submitter| submitter.join().unwrap()).collect();
    told.recv().expect("one of them still holds the other end");
    assert_eq!(story.count.load(Ordering::SeqCst), wanted, "a thread has failed");
    let (rest, _) = port.close();
    assert!(rest.is_empty());
    for thread in threads {
        thread.join().unwrap();
    }
    monitor.join().unwrap();
    drop(kept);
    let wrong: Vec<_> = story.came.iter().enumerate().filter(|(_, times)| times.load(Ordering::SeqCst) != 1).take(10).collect();
    assert!(wrong.is_empty(), "lost or doubled: {wrong:?}");
    assert_eq!(story.count.load(Ordering::SeqCst), wanted);
    port.scheduler.check();
}

impl Story {
    /// Half of the threads come with time-outs, and stay away for a moment when theirs is out.
    fn take_all(&self, number: usize, over: &Over) {
        let seat = self.port.seat();
        let timeout = (number % 2 == 1).then_some(Duration::from_micros(50));
        loop {
            let mut taken = self.port.take_next(&seat);
            let mut waiting = Waiting::new(timeout, None);
            while taken.is_none() {
                match self.port.wait(&seat, &mut waiting) {
                    Waited::Take => taken = self.port.take(&seat),
                    Waited::TimedOut => break,
                    Waited::Closed => return self.port.leave_seat(&seat),
                    Waited::Slice => unreachable!("nobody asked for it"),
                }
            }
            let which = match taken {
                None => continue,
                Some(Taken::Call(which)) => which,
                Some(Taken::Completion((which, came))) => {
                    assert!(matches!(came, Came::Received(_) | Came::Sent { bytes: 1 }), "{came:?}");
                    which
                }
                Some(Taken::FileCompletion(_)) => unreachable!("there are no files"),
            };
            self.came[which].fetch_add(1, Ordering::SeqCst);
            if self.count.fetch_add(1, Ordering::SeqCst) + 1 == self.wanted {
                over.0.send(()).expect("the test waits for it");
            }
        }
    }
}
