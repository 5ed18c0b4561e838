//! The tests that every engine passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use proactor_core::buffer::{BufferSource, LargeBuffer, Outgoing, RECEIVE_SIZE, SharedBytes};
use proactor_core::engine::{Address, Closing, Kind, Submission};

use crate::worlds::{Bench, Connection, PATIENCE, Peer, World, outgoing, pattern, within_patience};

const ECONNRESET: i32 = 104;

pub fn a_burst_of_a_thousand_connects_is_accepted_whole<W: World>(mut bench: Bench<W>) {
    let (_listener, place) = bench.listen();
    let world = &bench.world;
    thread::scope(|scope| {
        let clients = scope.spawn(|| (0..1_000).map(|_| world.connect(&place).expect("connects")).collect::<Vec<_>>());
        let mut accepted = Vec::new();
        let mut completions = Vec::new();
        let deadline = std::time::Instant::now() + PATIENCE;
        while accepted.len() < 1_000 {
            assert!(std::time::Instant::now() < deadline, "only {} of 1000 were accepted", accepted.len());
            world.engine().poll(Some(W::STEP), &mut completions).expect("polls");
            for completion in completions.drain(..) {
                match completion.outcome {
                    proactor_core::completion::Outcome::Accepted { handle, peer } => {
                        assert_eq!(handle.kind(), Kind::Tcp);
                        assert!(matches!(peer, Address::Internet(address) if address.ip().is_loopback()));
                        accepted.push(handle);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(clients.join().expect("all connect").len(), 1_000);
    });
    bench.poll();
    assert!(bench.accepted.is_empty(), "nobody else has connected");
}

pub fn a_paused_listener_keeps_its_clients_waiting<W: World>(mut bench: Bench<W>) {
    let (listener, place) = bench.listen();
    bench.engine().pause_accept(&listener);
    let _client = bench.world.connect(&place).expect("connects");
    bench.settle(); // by way of another listener
    assert!(bench.accepted.is_empty());
    bench.accept(&listener);
    bench.until("the client is accepted", |bench| bench.accepted.len() == 1);
}

pub fn a_closed_listener_refuses_clients_although_its_handle_is_held<W: World>(mut bench: Bench<W>) {
    let (listener, place) = bench.listen();
    bench.engine().close(&listener, Closing::Orderly);
    assert!(bench.world.connect(&place).is_err());
    bench.settle();
    assert!(bench.accepted.is_empty());
    drop(listener);
}

pub fn bytes_arrive_exactly_and_in_order_however_they_are_split<W: World>(mut bench: Bench<W>) {
    let bytes = pattern(600_000);
    let mut connections: Vec<_> = (0..5).map(|_| bench.connect_receiving()).collect();
    let mut sent = [0; 5];
    let mut size = 1;
    while sent.iter().any(|sent| *sent < bytes.len()) {
        for (connection, sent) in connections.iter_mut().zip(&mut sent) {
            size = size * 7 % 100_003 + 1;
            let end = bytes.len().min(*sent + size);
            *sent += connection.peer.send(&bytes[*sent..end]);
        }
        bench.poll_for(Duration::ZERO);
    }
    for connection in &mut connections {
        connection.peer.finish();
    }
    bench.until("all have ended", |bench| connections.iter().all(|connection| bench.record(connection.token).ended));
    for connection in &connections {
        assert!(bench.record(connection.token).data == bytes, "the bytes differ");
    }
}

pub fn the_peer_may_finish_first_and_still_receive<W: World>(mut bench: Bench<W>) {
    let mut connection = bench.connect_receiving();
    assert_eq!(connection.peer.send(b"question"), 8);
    connection.peer.finish();
    bench.until("the peer's end is told", |bench| bench.record(connection.token).ended);
    assert_eq!(bench.record(connection.token).data, b"question");
    send_all(&mut bench, &mut connection, b"answer");
    bench.engine().shutdown_write(&connection.handle).expect("finishes");
    assert_eq!(read_to_end(&mut bench, &mut connection), b"answer");
    assert_eq!(bench.record(connection.token).failure, None);
}

pub fn we_may_finish_first_and_still_receive<W: World>(mut bench: Bench<W>) {
    let mut connection = bench.connect_receiving();
    send_all(&mut bench, &mut connection, b"question");
    bench.engine().shutdown_write(&connection.handle).expect("finishes");
    assert_eq!(read_to_end(&mut bench, &mut connection), b"question");
    assert_eq!(connection.peer.send(b"answer"), 6);
    connection.peer.finish();
    bench.until("the peer's end is told", |bench| bench.record(connection.token).ended);
    assert_eq!(bench.record(connection.token).data, b"answer");
    assert_eq!(bench.record(connection.token).failure, None);
}

pub fn a_reset_is_a_failure_and_never_an_end<W: World>(mut bench: Bench<W>) {
    for round in 0..50 {
        let connection = bench.connect_receiving();
        if round % 2 == 0 {
            bench.poll_for(Duration::ZERO);
        }
        let Connection { handle, token, peer } = connection;
        peer.reset();
        if round % 3 == 0 {
            // A sender that is told of the reset first must not turn it into an end.
            let _ = bench.engine().send(&handle, outgoing(b"x"));
        }
        bench.until("the reset is told", |bench| bench.record(token).failure.is_some());
        assert_eq!(bench.record(token).failure, Some(ECONNRESET));
        assert!(!bench.record(token).ended);
        bench.engine().close(&handle, Closing::Orderly);
        bench.free(token);
    }
}

pub fn bytes_that_came_before_a_reset_are_received_first<W: World>(mut bench: Bench<W>) {
    let Connection { handle: _handle, token, mut peer } = bench.connect_receiving();
    assert_eq!(peer.send(b"last words"), 10);
    peer.reset();
    bench.until("the reset is told", |bench| bench.record(token).failure.is_some());
    assert_eq!(bench.record(token).data, b"last words");
    assert_eq!(bench.record(token).failure, Some(ECONNRESET));
}

pub fn a_reset_is_told_while_receiving_is_paused<W: World>(mut bench: Bench<W>) {
    let Connection { handle, token, mut peer } = bench.connect_receiving();
    bench.engine().pause_receive(&handle);
    bench.settle();
    assert_eq!(peer.send(b"unread"), 6);
    bench.settle();
    assert!(bench.record(token).is_quiet());
    peer.reset();
    bench.until("the reset is told", |bench| bench.record(token).failure.is_some());
    assert_eq!(bench.record(token).failure, Some(ECONNRESET));
    assert!(bench.record(token).data.is_empty() && !bench.record(token).ended);
    bench.settle(); // and not told again
}

pub fn a_reset_is_told_after_the_peers_end<W: World>(mut bench: Bench<W>) {
    let Connection { handle, token, mut peer } = bench.connect_receiving();
    peer.finish();
    bench.until("the end is told", |bench| bench.record(token).ended);
    peer.reset();
    bench.settle();
    if bench.record(token).failure.is_none() {
        // A TCP that has said its end need not reset any more until it hears from us.
        let _ = bench.engine().send(&handle, outgoing(b"x"));
    }
    bench.until("the reset is told", |bench| bench.record(token).failure.is_some());
    assert_eq!(bench.record(token).failure, Some(ECONNRESET));
}

pub fn a_pause_loses_nothing_and_brings_nothing<W: World>(mut bench: Bench<W>) {
    let bytes = pattern(300_000);
    let mut connection = bench.connect_receiving();
    let token = connection.token;
    let mut sent = 0;
    let mut resumed_at = usize::MAX;
    for round in 0..200 {
        let end = bytes.len().min(sent + 2_500);
        sent += connection.peer.send(&bytes[sent..end]);
        let before = bench.record(token).data.len();
        match round % 4 {
            0 => {
                bench.engine().pause_receive(&connection.handle);
                bench.poll_for(Duration::ZERO);
                resumed_at = bench.record(token).data.len();
            }
            1 => {
                bench.poll_for(Duration::ZERO);
                assert_eq!(bench.record(token).data.len(), resumed_at, "bytes in a pause");
            }
            2 => {
                bench.engine().receive(&connection.handle);
                bench.engine().receive(&connection.handle); // asking twice is asking once
            }
            _ => bench.poll_for(Duration::ZERO),
        }
        assert!(bench.record(token).data.len() >= before);
    }
    bench.engine().receive(&connection.handle);
    while sent < bytes.len() {
        sent += connection.peer.send(&bytes[sent..]);
        bench.poll_for(Duration::ZERO);
    }
    connection.peer.finish();
    bench.until("the end is told", |bench| bench.record(token).ended);
    assert!(bench.record(token).data == bytes, "the bytes differ");
}

pub fn an_end_that_came_with_the_last_bytes_is_told_after_a_pause<W: World>(mut bench: Bench<W>) {
    for length in [0, 1, 100, RECEIVE_SIZE - 1, RECEIVE_SIZE, RECEIVE_SIZE + 1] {
        let bytes = pattern(length);
        let mut connection = bench.connect_receiving();
        bench.engine().pause_receive(&connection.handle);
        let mut sent = 0;
        while sent < length {
            sent += connection.peer.send(&bytes[sent..]);
        }
        connection.peer.finish();
        bench.settle(); // the edge, or whatever tells, is consumed now
        assert!(bench.record(connection.token).is_quiet());
        bench.engine().receive(&connection.handle);
        bench.until("the end is told", |bench| bench.record(connection.token).ended);
        assert!(bench.record(connection.token).data == bytes, "the bytes differ");
    }
}

pub fn receiving_may_begin_long_after_the_bytes_have_come<W: World>(mut bench: Bench<W>) {
    let mut connection = bench.connect();
    assert_eq!(connection.peer.send(b"early"), 5);
    bench.settle();
    assert!(bench.record(connection.token).is_quiet());
    bench.engine().receive(&connection.handle);
    bench.until("the bytes come", |bench| bench.record(connection.token).data == b"early");
}

pub fn a_small_send_is_done_at_once<W: World>(mut bench: Bench<W>) {
    let mut connection = bench.connect();
    send_all(&mut bench, &mut connection, b"hello");
    assert!(matches!(bench.engine().send(&connection.handle, Outgoing::new()), Submission::Done { bytes: 0 }));
    let mut received = Vec::new();
    bench.until("the bytes come", |_| {
        received.extend(connection.peer.received());
        received == b"hello"
    });
}

pub fn a_send_of_many_pieces_keeps_their_order<W: World>(mut bench: Bench<W>) {
    let bytes = pattern(1 << 20);
    let mut connection = bench.connect_narrow();
    let mut data = Outgoing::new();
    let mut start = 0;
    let mut index = 0;
    while start < bytes.len() {
        let end = bytes.len().min(start + 1 + index * 37 % 10_000);
        if index % 2 == 0 {
            data.push_copy(&bytes[start..end]);
        } else {
            data.push_shared(Arc::new(bytes[start..end].to_vec()));
        }
        start = end;
        index += 1;
    }
    assert!(index > 150, "more pieces than one system call takes");
    assert!(matches!(bench.engine().send(&connection.handle, data), Submission::Pending));
    let mut received = Vec::new();
    bench.until("all bytes come", |_| {
        received.extend(connection.peer.received());
        received.len() >= bytes.len()
    });
    bench.until("the send completes", |bench| bench.record(connection.token).sent == [bytes.len()]);
    assert!(received == bytes, "the bytes differ");
}

pub fn a_pending_send_completes_once_with_its_whole_count<W: World>(mut bench: Bench<W>) {
    let bytes = pattern(1 << 20);
    let mut connection = bench.connect_narrow();
    for round in 1..=2 {
        let dropped = Arc::new(AtomicUsize::new(0));
        let mut data = Outgoing::new();
        data.push_shared(Canary::shared(&bytes, &dropped));
        assert!(matches!(bench.engine().send(&connection.handle, data), Submission::Pending));
        bench.settle();
        assert_eq!(dropped.load(Ordering::SeqCst), 0, "the engine owns the bytes");
        let mut received = Vec::new();
        bench.until("all bytes come", |_| {
            received.extend(connection.peer.received());
            received.len() >= bytes.len()
        });
        bench.until("the send completes", |bench| bench.record(connection.token).sent.len() == round);
        assert!(received == bytes, "the bytes differ");
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
    }
    bench.settle();
    assert_eq!(bench.record(connection.token).sent, [1 << 20, 1 << 20]);
    assert!(bench.record(connection.token).send_failures.is_empty());
}

pub fn a_pending_send_that_fails_reports_what_was_sent_and_what_was_not<W: World>(mut bench: Bench<W>) {
    let bytes = pattern(1 << 20);
    let Connection { handle, token, mut peer } = bench.connect_narrow();
    bench.engine().receive(&handle);
    let dropped = Arc::new(AtomicUsize::new(0));
    let mut data = Outgoing::new();
    data.push_shared(Canary::shared(&bytes, &dropped));
    assert!(matches!(bench.engine().send(&handle, data), Submission::Pending));
    let mut received = 0;
    bench.until("some bytes come", |_| {
        received += peer.received().len();
        received > 10_000
    });
    peer.reset();
    bench.until("both failures are told", |bench| {
        let record = bench.record(token);
        !record.send_failures.is_empty() && record.failure.is_some()
    });
    let record = bench.record(token);
    let [(error, sent, unsent)] = record.send_failures[..] else { panic!("{record:?}") };
    assert_eq!((error, record.failure), (ECONNRESET, Some(ECONNRESET)));
    assert_eq!(sent + unsent, bytes.len());
    assert!(sent >= received && unsent > 0, "{sent} sent, {received} received");
    assert!(record.sent.is_empty() && !record.ended);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

pub fn a_send_on_a_dead_connection_fails_at_once<W: World>(mut bench: Bench<W>) {
    let Connection { handle, token, peer } = bench.connect_receiving();
    peer.reset();
    bench.until("the reset is told", |bench| bench.record(token).failure.is_some());
    match bench.engine().send(&handle, outgoing(b"hello")) {
        Submission::Failed { error, sent: 0, unsent: 5 } => assert_eq!(error.raw_os_error(), Some(ECONNRESET)),
        other => panic!("{other:?}"),
    }
}

pub fn a_reset_stays_a_reset_however_often_a_sender_asks<W: World>(mut bench: Bench<W>) {
    let Connection { handle, token, peer } = bench.connect();
    peer.reset();
    for _ in 0..3 {
        match bench.engine().send(&handle, outgoing(b"hello")) {
            Submission::Failed { error, .. } => assert_eq!(error.raw_os_error(), Some(ECONNRESET)),
            other => panic!("{other:?}"),
        }
    }
    bench.engine().receive(&handle);
    bench.until("the reset is told", |bench| bench.record(token).failure.is_some());
    assert_eq!(bench.record(token).failure, Some(ECONNRESET));
}

pub fn bytes_of_a_pending_send_are_dropped_once_when_the_handle_is_closed<W: World>(mut bench: Bench<W>) {
    let bytes = pattern(1 << 20);
    for how in [Closing::Orderly, Closing::Abort] {
        let connection = bench.connect_narrow();
        let dropped = Arc::new(AtomicUsize::new(0));
        let mut data = Outgoing::new();
        data.push_shared(Canary::shared(&bytes, &dropped));
        assert!(matches!(bench.engine().send(&connection.handle, data), Submission::Pending));
        bench.poll_for(Duration::ZERO);
        bench.engine().close(&connection.handle, how);
        assert_eq!(dropped.load(Ordering::SeqCst), 1, "at the close, although the handle is held");
        bench.settle();
        assert!(bench.record(connection.token).is_quiet(), "{:?}", bench.record(connection.token));
        drop(connection);
        bench.settle();
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
    }
}

pub fn a_successor_in_the_slot_never_gets_its_predecessors_completions<W: World>(mut bench: Bench<W>) {
    let bytes = pattern(1 << 20);
    let mut reused = false;
    for round in 0..200_usize {
        // The predecessor has everything under way: bytes to receive, a send that waits, an end.
        let mut old = bench.connect_narrow();
        bench.engine().receive(&old.handle);
        let dropped = Arc::new(AtomicUsize::new(0));
        let mut data = Outgoing::new();
        data.push_shared(Canary::shared(&bytes, &dropped));
        let pending = matches!(bench.engine().send(&old.handle, data), Submission::Pending);
        assert!(pending);
        assert_eq!(old.peer.send(b"for the predecessor"), 19);
        if round % 2 == 0 {
            old.peer.finish();
        }
        if round % 3 == 0 {
            bench.poll_for(Duration::ZERO);
        }
        let descriptor = old.handle.descriptor();
        let slot = old.token.slot;
        bench.engine().close(&old.handle, Closing::Orderly);
        bench.free(old.token);
        drop(old.handle);
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
        // Gone before the successor comes, which then gets the same descriptor; or still talking.
        let old_peer = (round % 4 < 2).then_some(old.peer);

        let mut new = bench.connect_receiving();
        assert_eq!(new.token.slot, slot);
        reused |= new.handle.descriptor() == descriptor;
        drop(old_peer);
        assert_eq!(new.peer.send(b"hello"), 5);
        bench.until("the successor's bytes come", |bench| bench.record(new.token).data.len() >= 5);
        let record = bench.record(new.token);
        assert_eq!(record.data, b"hello");
        assert!(!record.ended && record.failure.is_none() && record.sent.is_empty() && record.send_failures.is_empty());
        bench.engine().close(&new.handle, Closing::Orderly);
        bench.free(new.token);
    }
    assert!(reused, "the descriptor was used again at least once");
}

pub fn closing_twice_is_harmless_and_everything_afterwards_fails<W: World>(mut bench: Bench<W>) {
    let connection = bench.connect_receiving();
    let bystander = bench.connect_receiving();
    let engine = bench.engine();
    for how in [Closing::Orderly, Closing::Abort, Closing::Orderly] {
        engine.close(&connection.handle, how);
    }
    engine.receive(&connection.handle);
    engine.pause_receive(&connection.handle);
    engine.receive(&connection.handle);
    let _ = engine.shutdown_write(&connection.handle);
    assert!(matches!(engine.send(&connection.handle, outgoing(b"x")), Submission::Failed { sent: 0, unsent: 1, .. }));
    bench.settle();
    assert!(bench.record(connection.token).is_quiet());
    assert!(bench.record(bystander.token).is_quiet());

    let (listener, _place) = bench.listen();
    engine.close(&listener, Closing::Orderly);
    engine.close(&listener, Closing::Orderly);
    engine.pause_accept(&listener);
    let options = proactor_core::engine::SocketOptions { no_delay: true, keep_alive: true };
    assert!(engine.accept(&listener, proactor_core::engine::AcceptWindow { minimum: 1, maximum: 1 }, &options).is_err());
}

pub fn an_orderly_close_lets_the_peer_have_what_was_sent<W: World>(mut bench: Bench<W>) {
    let bytes = pattern(1 << 20);
    for _ in 0..10 {
        let mut connection = bench.connect_narrow();
        assert_eq!(connection.peer.send(b"never read"), 10);
        // As much as the system takes, and more than the peer has room for.
        let mut taken = 0;
        for chunk in bytes.chunks(4_096) {
            match bench.engine().send(&connection.handle, outgoing(chunk)) {
                Submission::Done { bytes } => taken += bytes,
                Submission::Pending => break,
                Submission::Failed { error, .. } => panic!("{error}"),
            }
        }
        bench.engine().close(&connection.handle, Closing::Orderly);
        let Connection { handle, token, mut peer } = connection;
        drop(handle);
        bench.free(token);
        let mut received = Vec::new();
        bench.until("all bytes come, and the end", |_| {
            received.extend(peer.received());
            received.len() >= taken && peer.ended()
        });
        assert!(bytes.starts_with(&received), "the bytes differ");
    }
}

pub fn an_abort_resets_at_once_although_the_handle_is_held<W: World>(mut bench: Bench<W>) {
    let mut connection = bench.connect_receiving();
    bench.engine().close(&connection.handle, Closing::Abort);
    bench.until("the peer sees the reset", |_| connection.peer.was_reset());
    assert!(bench.record(connection.token).is_quiet());
}

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

/// Sends, and polls until it is complete.
fn send_all<W: World>(bench: &mut Bench<W>, connection: &mut Connection<W::Peer>, bytes: &[u8]) {
    let token = connection.token;
    let before = bench.record(token).sent.len();
    match bench.engine().send(&connection.handle, outgoing(bytes)) {
        Submission::Done { bytes: count } => assert_eq!(count, bytes.len()),
        Submission::Pending => {
            bench.until("the send completes", |bench| bench.record(token).sent.len() > before);
            assert_eq!(bench.record(token).sent.last(), Some(&bytes.len()));
        }
        Submission::Failed { error, .. } => panic!("{error}"),
    }
}

/// What the peer reads until it has seen our end.
fn read_to_end<W: World>(bench: &mut Bench<W>, connection: &mut Connection<W::Peer>) -> Vec<u8> {
    let mut bytes = connection.peer.received();
    bench.until("the peer sees our end", |_| {
        bytes.extend(connection.peer.received());
        connection.peer.ended()
    });
    bytes.extend(connection.peer.received());
    bytes
}

/// Bytes that count how often they are dropped, and are unreadable afterwards.
pub struct Canary {
    bytes: Vec<u8>,
    alive: AtomicBool,
    dropped: Arc<AtomicUsize>,
}

impl Canary {
    pub fn shared(bytes: &[u8], dropped: &Arc<AtomicUsize>) -> SharedBytes {
        Arc::new(Canary { bytes: bytes.to_vec(), alive: AtomicBool::new(true), dropped: Arc::clone(dropped) })
    }
}

impl AsRef<[u8]> for Canary {
    fn as_ref(&self) -> &[u8] {
        assert!(self.alive.load(Ordering::SeqCst));
        &self.bytes
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        assert!(self.alive.swap(false, Ordering::SeqCst));
        self.bytes.fill(0xDD);
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

/// A source without large buffers.
pub fn nothing_prepared() -> Arc<dyn BufferSource> {
    Arc::new(proactor_core::buffer::NoLargeBuffers)
}

/// Large buffers that are counted.
#[derive(Default)]
struct CountedBuffers {
    taken: AtomicUsize,
    dropped: Arc<AtomicUsize>,
    empty: AtomicBool,
}

impl BufferSource for CountedBuffers {
    fn take(&self) -> Option<Box<dyn LargeBuffer>> {
        if self.empty.load(Ordering::SeqCst) {
            return None;
        }
        self.taken.fetch_add(1, Ordering::SeqCst);
        Some(Box::new(CountedBuffer { memory: vec![0; RECEIVE_SIZE], dropped: Arc::clone(&self.dropped) }))
    }
}

struct CountedBuffer {
    memory: Vec<u8>,
    dropped: Arc<AtomicUsize>,
}

impl LargeBuffer for CountedBuffer {
    fn memory(&mut self) -> &mut [u8] {
        &mut self.memory
    }

    fn filled(&self, length: usize) -> &[u8] {
        &self.memory[..length]
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

impl Drop for CountedBuffer {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}
