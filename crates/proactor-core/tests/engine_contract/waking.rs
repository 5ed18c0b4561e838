//! The part of the suite that is about the poll itself: waking, fairness, large buffers, clocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use proactor_core::buffer::{BufferSource, RECEIVE_SIZE};

use crate::doubles::*;
use crate::worlds::{Bench, PATIENCE, Peer, World, pattern, within_patience};

pub fn a_wake_before_a_poll_ends_it_at_once<W: World>(bench: Bench<W>) {
    let engine = bench.engine();
    engine.wake();
    within_patience("the poll returns", move || {
        let mut completions = Vec::new();
        engine.poll(None, &mut completions).expect("polls");
        assert!(completions.is_empty());
    });
}

pub fn a_wake_ends_a_sleeping_poll<W: World>(bench: Bench<W>) {
    for _ in 0..100 {
        let engine = bench.engine();
        let sleeper = bench.engine();
        let (about_to, told) = std::sync::mpsc::channel();
        let poller = thread::spawn(move || {
            let mut completions = Vec::new();
            about_to.send(()).expect("tells");
            sleeper.poll(None, &mut completions).expect("polls");
        });
        told.recv().expect("is told");
        thread::yield_now(); // asleep by now or not: it must return in any case
        engine.wake();
        within_patience("the poll returns", move || poller.join().expect("polls"));
    }
}

pub fn no_wake_is_lost_in_a_storm<W: World>(bench: Bench<W>) {
    const WAKES: usize = 2_000;
    let engine = bench.engine();
    let posted = Arc::new(AtomicUsize::new(0));
    let wakers: Vec<_> = (0..4)
        .map(|_| {
            let (engine, posted) = (bench.engine(), Arc::clone(&posted));
            thread::spawn(move || {
                for round in 0..WAKES {
                    posted.fetch_add(1, Ordering::Relaxed);
                    engine.wake();
                    if round % 16 == 0 {
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    within_patience("all posts are seen", move || {
        let mut completions = Vec::new();
        // If the wake of the last post were lost, this would sleep for ever.
        while posted.load(Ordering::Relaxed) < 4 * WAKES {
            engine.poll(None, &mut completions).expect("polls");
        }
    });
    for waker in wakers {
        waker.join().expect("wakes");
    }
}

pub fn one_poll_receives_about_64_kib_and_a_flood_starves_nobody<W: World>(mut bench: Bench<W>) {
    let bytes = pattern(1 << 20);
    let mut floods: Vec<_> = (0..3).map(|_| bench.connect_receiving()).collect();
    let mut small = bench.connect_receiving();
    let mut most = 0;
    for round in 1..=50 {
        for flood in &mut floods {
            while flood.peer.send(&bytes) == bytes.len() && bench.world.engine().name() == "epoll" {}
        }
        assert_eq!(small.peer.send(b"!"), 1);
        small.peer.settle();
        let mut polls = 0;
        while bench.record(small.token).data.len() < round {
            bench.poll_for(Duration::ZERO);
            most = most.max(bench.bytes_of_poll);
            assert!(bench.bytes_of_poll < 2 * RECEIVE_SIZE, "{} bytes in one poll", bench.bytes_of_poll);
            polls += 1;
            // Each of the others may come first, once.
            assert!(polls <= floods.len() * W::FAIR_AFTER, "starved for {polls} polls");
        }
    }
    assert!(most >= RECEIVE_SIZE / 2, "the flood flows, with at most {most} bytes a poll");
}

pub fn large_messages_come_in_large_buffers<W: World>(_: Bench<W>) {
    for seed in W::SEEDS {
        let source = Arc::new(CountedBuffers::default());
        let mut bench = Bench::<W>::new(seed, Arc::clone(&source) as Arc<dyn BufferSource>);
        let bytes = pattern(500_000);
        let mut connection = bench.connect_receiving();
        let mut sent = 0;
        bench.until("all bytes come", |bench| {
            sent += connection.peer.send(&bytes[sent..]);
            bench.record(connection.token).data.len() == bytes.len()
        });
        assert!(bench.record(connection.token).data == bytes, "the bytes differ");
        let large = bench.record(connection.token).large;
        assert!(large > 0, "large buffers were used");

        // Small messages are copied again, at the latest from the second one on.
        connection.peer.settle();
        for round in 1..=20 {
            assert_eq!(connection.peer.send(b"small"), 5);
            bench.until("the bytes come", |bench| bench.record(connection.token).data.len() == bytes.len() + 5 * round);
        }
        assert_eq!(bench.record(connection.token).large, large);
        assert!(source.taken.load(Ordering::SeqCst) <= large + 1, "a buffer that was not filled serves the next time");
        let out = source.taken.load(Ordering::SeqCst) - source.dropped.load(Ordering::SeqCst);
        assert!(out <= 1, "the engine keeps at most one buffer, and none is lost");

        // None prepared: the engine's own memory serves.
        source.empty.store(true, Ordering::SeqCst);
        let mut sent = 0;
        let before = bench.record(connection.token).data.len();
        bench.until("all bytes come", |bench| {
            sent += connection.peer.send(&bytes[sent..]);
            bench.record(connection.token).data.len() == before + bytes.len()
        });
        assert!(bench.record(connection.token).data[before..] == bytes, "the bytes differ");
    }
}

pub fn a_thread_that_waits_uses_no_cpu_time<W: World>(bench: Bench<W>) {
    let engine = bench.engine();
    let (tell, told) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let there = bench.engine();
    let waiter = thread::spawn(move || {
        tell.send(there.thread_clock()).expect("tells");
        let _ = released.recv();
    });
    let clock = told.recv().expect("is told");
    let mut last = engine.cpu_time(clock).expect("the thread lives");
    // It takes a moment until it waits; from then on its time stands still.
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut still = 0;
    while still < 1_000 {
        assert!(std::time::Instant::now() < deadline, "its time never stood still");
        let time = engine.cpu_time(clock).expect("the thread lives");
        assert!(time >= last);
        still = if time == last { still + 1 } else { 0 };
        last = time;
    }
    drop(release);
    waiter.join().expect("ends");
}
