//! The tests that every engine passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use proactor_core::buffer::{Outgoing, RECEIVE_SIZE};
use proactor_core::engine::{Address, Closing, Kind, Submission};
use proactor_core::numbers::ECONNRESET;

use crate::doubles::*;
use crate::worlds::{Bench, Connection, PATIENCE, Peer, Place, World, outgoing, pattern};

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
                        match peer {
                            Address::Internet(address) => assert!(handle.kind() == Kind::Tcp && address.ip().is_loopback()),
                            peer => assert_eq!((handle.kind(), peer), (Kind::Pipe, Address::Pipe(None))),
                        }
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

pub fn two_orderly_ends_in_a_pause_are_no_reset<W: World>(mut bench: Bench<W>) {
    let Connection { handle, token, mut peer } = bench.connect_receiving();
    bench.engine().pause_receive(&handle);
    bench.settle();
    assert_eq!(peer.send(b"unread"), 6);
    bench.settle();
    bench.engine().shutdown_write(&handle).expect("finishes");
    peer.finish();
    bench.until("the peer sees our end", |_| peer.ended());
    bench.settle();
    assert!(bench.record(token).is_quiet(), "{:?}", bench.record(token));
    bench.engine().receive(&handle);
    bench.until("the end is told", |bench| bench.record(token).ended);
    assert_eq!((bench.record(token).data.as_slice(), bench.record(token).failure), (&b"unread"[..], None));
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

pub fn a_pending_send_that_is_given_up_says_what_was_sent_and_the_next_one_follows<W: World>(mut bench: Bench<W>) {
    let bytes = pattern(20 << 20);
    let mut connection = bench.connect_narrow();
    let engine = bench.engine();
    assert_eq!(engine.cancel_send(&connection.handle), None, "nothing is pending");
    for _ in 0..3 {
        let Submission::Pending = engine.send(&connection.handle, outgoing(&bytes)) else { panic!("more than there is room for") };
        bench.poll_for(Duration::ZERO);
        let sent = engine.cancel_send(&connection.handle).expect("it is pending, since nobody reads");
        assert!(sent < bytes.len());
        assert_eq!(engine.cancel_send(&connection.handle), None, "it was given up");
        assert_eq!(engine.progress(&connection.handle), 0);
        let mut received = Vec::new();
        bench.until("what was sent comes", |_| {
            received.extend(connection.peer.received());
            received.len() >= sent
        });
        assert!(received == bytes[..sent], "the bytes differ");
    }
    send_all(&mut bench, &mut connection, b"next");
    let mut received = Vec::new();
    bench.until("the next send comes", |_| {
        received.extend(connection.peer.received());
        received.len() >= 4
    });
    assert_eq!(received, b"next");
    assert!(bench.record(connection.token).sent.len() <= 1, "what was given up never completes");
    engine.close(&connection.handle, Closing::Orderly);
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
    assert!(reused || !W::NUMBERS_RETURN, "the descriptor was used again at least once");
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

/// Sends, and polls until it is complete.
pub fn send_all<W: World>(bench: &mut Bench<W>, connection: &mut Connection<W::Peer>, bytes: &[u8]) {
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

/// Whether there is one or not.
pub fn every_handle_can_be_asked_for_its_address<W: World>(mut bench: Bench<W>) {
    let (listener, place) = bench.listen();
    let connection = bench.connect();
    let (descriptor, _signal) = bench.world.object();
    let watched = bench.engine().watch(descriptor).expect("watches it");
    let token = bench.token();
    bench.engine().associate(&watched, token).expect("associates it");
    let engine = bench.engine();
    assert!(engine.local_address(&watched).is_err());
    let addresses = [engine.local_address(&listener), engine.local_address(&connection.handle)];
    if let Place::Internet(address) = place {
        let [listening, connected] = addresses.map(|address| address.expect("it has one"));
        assert_eq!(listening, Address::Internet(address));
        assert!(matches!(connected, Address::Internet(ours) if ours.ip() == address.ip()));
    }
    engine.close(&listener, Closing::Orderly);
    assert!(engine.local_address(&listener).is_err(), "a closed one has none");
}
