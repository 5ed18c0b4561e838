//! What only the simulated engine has: faults, a clock, the accept window, and runs that repeat.

use std::thread;
use std::time::{Duration, Instant};

use proactor_core::engine::simulated::Fault;
use proactor_core::engine::{Closing, Engine, Feature, Kind, Submission};

use proactor_core::numbers::{EBADF, ECONNABORTED, ETIMEDOUT};

use crate::doubles::nothing_prepared;
use crate::worlds::{Bench, PATIENCE, SimulatedWorld, World, number, outgoing, pattern};

const EMFILE: i32 = 24;

fn bench() -> Bench<SimulatedWorld> {
    Bench::new(0, nothing_prepared())
}

#[test]
fn an_accept_that_fails_for_want_of_descriptors_pauses_and_keeps_the_client() {
    let mut bench = bench();
    let (listener, place) = bench.listen();
    bench.world.network.fail_next(Fault::Accept { pause: true }, EMFILE);
    let _clients = [bench.world.connect(&place), bench.world.connect(&place)];
    bench.poll();
    bench.poll();
    assert_eq!(bench.accept_failures, [(EMFILE, true)]);
    assert!(bench.accepted.is_empty());
    bench.accept(&listener);
    bench.poll();
    assert_eq!(bench.accepted.len(), 2);
}

#[test]
fn an_accept_that_fails_for_one_client_goes_on_with_the_next() {
    let mut bench = bench();
    let (_listener, place) = bench.listen();
    bench.world.network.fail_next(Fault::Accept { pause: false }, ECONNABORTED);
    let clients: Vec<_> = (0..3).map(|_| bench.world.connect(&place).expect("connects")).collect();
    bench.poll();
    assert_eq!(bench.accept_failures, [(ECONNABORTED, false)]);
    assert_eq!(bench.accepted.len(), 2);
    assert!(clients[0].was_reset() && !clients[1].was_reset());
}

#[test]
fn pending_accepts_are_topped_up_when_fewer_than_the_minimum_are_left() {
    let mut bench = bench();
    bench.world.network.need_pending_accepts();
    assert!(bench.engine().supports(Feature::PendingAccepts));
    let (listener, place) = bench.listen(); // with a window of 2 to 5
    let pending = |bench: &Bench<SimulatedWorld>| bench.world.network.pending_accepts(listener.descriptor());
    assert_eq!(pending(&bench), 5);
    let mut clients = Vec::new();
    for (count, left) in [(3, 2), (1, 5), (4, 5), (0, 5)] {
        clients.extend((0..count).map(|_| bench.world.connect(&place)));
        bench.poll();
        assert_eq!(pending(&bench), left);
        assert_eq!(bench.accepted.len(), clients.len());
    }
    // More clients than pending accepts: they wait for the next ones.
    clients.extend((0..12).map(|_| bench.world.connect(&place)));
    bench.poll();
    assert_eq!(bench.accepted.len(), 8 + 5);
    bench.until("all are accepted", |bench| bench.accepted.len() == clients.len());
    bench.engine().pause_accept(&listener);
    assert_eq!(pending(&bench), 0);
}

#[test]
fn operations_fail_on_request() {
    let mut bench = bench();
    let network = std::sync::Arc::clone(&bench.world.network);
    let (descriptor, peer) = network.pair();
    network.fail_next(Fault::Adopt, EMFILE);
    assert_eq!(number(&network.adopt(descriptor, Kind::Tcp).expect_err("fails")), EMFILE);
    let handle = network.adopt(descriptor, Kind::Tcp).expect("adopts");
    let token = bench.token();
    network.fail_next(Fault::Associate, EMFILE);
    assert_eq!(number(&network.associate(&handle, token).expect_err("fails")), EMFILE);
    network.associate(&handle, token).expect("associates");
    network.fail_next(Fault::ShutdownWrite, EMFILE);
    assert_eq!(number(&network.shutdown_write(&handle).expect_err("fails")), EMFILE);

    network.fail_next(Fault::Receive, ETIMEDOUT);
    network.receive(&handle);
    bench.poll();
    assert!(bench.record(token).is_quiet(), "there was nothing to receive");
    peer.send(b"hello");
    bench.poll();
    assert_eq!(bench.record(token).failure, Some(ETIMEDOUT));

    let other = bench.connect_receiving();
    network.fail_next(Fault::Send, ETIMEDOUT);
    match network.send(&other.handle, outgoing(b"hello")) {
        Submission::Failed { error, sent: 0, unsent: 5 } => assert_eq!(number(&error), ETIMEDOUT),
        other => panic!("{other:?}"),
    }
    bench.poll();
    assert_eq!(bench.record(other.token).failure, Some(ETIMEDOUT), "the connection is dead");
}

#[test]
fn a_pending_send_can_fail_half_way() {
    let mut bench = bench();
    let connection = bench.connect();
    connection.peer.set_window(10);
    assert!(matches!(bench.engine().send(&connection.handle, outgoing(&pattern(35))), Submission::Pending));
    bench.poll();
    assert_eq!(connection.peer.received().len(), 10);
    bench.poll();
    bench.world.network.fail_next(Fault::Send, ETIMEDOUT);
    assert_eq!(connection.peer.received().len(), 10);
    bench.poll();
    assert_eq!(bench.record(connection.token).send_failures, [(ETIMEDOUT, 20, 15)]);
}

#[test]
fn the_clock_moves_only_by_hand_and_ends_polls_when_their_time_has_come() {
    let bench = bench();
    let engine = bench.engine();
    let poller = thread::spawn(move || {
        let start = engine.now();
        engine.poll(Some(Duration::from_millis(5)), &mut Vec::new()).expect("polls");
        engine.now() - start
    });
    // A poll that did not look at the clock would return at once, or never.
    let deadline = Instant::now() + PATIENCE;
    while !poller.is_finished() {
        assert!(Instant::now() < deadline, "the poll never returns");
        bench.world.network.advance(Duration::from_micros(100));
        thread::yield_now();
    }
    assert!(poller.join().expect("polls") >= 5_000_000);
}

#[test]
fn cpu_times_are_as_set() {
    let bench = bench();
    let network = &bench.world.network;
    let (one, other) = (network.thread_clock(), network.thread_clock());
    network.set_cpu_time(one, Some(1_000));
    assert_eq!((network.cpu_time(one), network.cpu_time(other)), (Some(1_000), Some(0)));
    network.set_cpu_time(other, None);
    assert_eq!(network.cpu_time(other), None);
}

#[test]
fn a_seed_repeats_its_run_and_another_one_differs() {
    let run = |seed| {
        let mut bench = Bench::<SimulatedWorld>::new(seed, nothing_prepared());
        let connections: Vec<_> = (0..3).map(|_| bench.connect_receiving()).collect();
        let mut trace = String::new();
        for round in 0..50 {
            for connection in &connections {
                connection.peer.send(&pattern(round * 3));
                let _ = bench.engine().send(&connection.handle, outgoing(b"")); // draws nothing
            }
            let mut completions = Vec::new();
            bench.engine().poll(Some(Duration::ZERO), &mut completions).expect("polls");
            trace += &format!("{completions:?}\n");
        }
        trace
    };
    assert_eq!(run(0), run(0));
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn a_dropped_handle_frees_its_descriptor_and_ends_the_connection() {
    let mut bench = bench();
    let connection = bench.connect();
    let descriptor = connection.handle.descriptor();
    bench.engine().close(&connection.handle, Closing::Orderly);
    assert_eq!(number(&bench.engine().adopt(descriptor + 100, Kind::Tcp).expect_err("nobody's")), EBADF);
    drop(connection.handle);
    assert!(connection.peer.ended());
    assert_eq!(bench.world.network.pair().0, descriptor);
}
