//! What only the Windows engine promises: memory that the kernel holds lives until its packet came, whoever closes when, and comes back at the engine's end.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use proactor_core::buffer::Outgoing;
use proactor_core::engine::{Closing, Kind, Submission};

use crate::doubles::{Canary, nothing_prepared};
use crate::iocp::{IocpWorld, unconnected};
use crate::worlds::{Bench, Connection, Peer, outgoing, pattern};

fn bench() -> Bench<IocpWorld> {
    Bench::new(0, nothing_prepared())
}

#[test]
fn a_close_that_races_with_completions_frees_everything_once() {
    let mut bench = bench();
    let bytes = pattern(300_000);
    for round in 0..300 {
        let Connection { handle, token, mut peer } = bench.connect_narrow();
        bench.engine().receive(&handle);
        let dropped = Arc::new(AtomicUsize::new(0));
        let mut data = Outgoing::new();
        data.push_shared(Canary::shared(&bytes, &dropped));
        let pending = matches!(bench.engine().send(&handle, data), Submission::Pending);
        assert!(pending, "more than there is room for");
        let how = if round % 2 == 0 { Closing::Orderly } else { Closing::Abort };
        let (engine, closes) = (bench.engine(), handle.clone());
        let closer = thread::spawn(move || {
            if round % 3 == 0 {
                engine.cancel_send(&closes);
            }
            for _ in 0..round % 50 {
                thread::yield_now();
            }
            engine.close(&closes, how);
        });
        // The kernel completes what it can meanwhile.
        while !closer.is_finished() {
            peer.received();
            bench.poll_for(Duration::ZERO);
        }
        closer.join().expect("closes");
        bench.poll_for(Duration::ZERO); // its completions may have come before the close
        assert_eq!(dropped.load(Ordering::SeqCst), 1, "in round {round}");
        bench.free(token);
        bench.until("the kernel has given all operations back", |_| handle.references() == 1);
        assert!(bench.stale.is_empty(), "a completion after the close, in round {round}");
    }
}

#[test]
fn the_engines_end_gives_back_what_the_kernel_held() {
    let mut bench = bench();
    let (listener, _place) = bench.listen();
    let idle = bench.connect_receiving();
    let blocked = bench.connect_narrow();
    let Submission::Pending = bench.engine().send(&blocked.handle, outgoing(&pattern(1 << 20))) else {
        panic!("more than there is room for")
    };
    assert!(listener.references() > 1 && idle.handle.references() > 1 && blocked.handle.references() > 1);
    let engine = bench.engine();
    engine.release();
    for handle in [&listener, &idle.handle, &blocked.handle] {
        assert_eq!(handle.references(), 1, "{handle:?}");
    }
    // And nothing begins any more, while closing still works.
    engine.receive(&idle.handle);
    engine.wake();
    engine.close(&idle.handle, Closing::Orderly);
    engine.poll(None, &mut Vec::new()).expect("returns at once");
}

#[test]
fn what_cannot_be_adopted_is_refused_with_what_it_is_and_stays_its_owners() {
    let bench = bench();
    let engine = bench.engine();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
    let number = std::os::windows::io::AsRawSocket::as_raw_socket(&socket) as i64;
    for kind in [Kind::Tcp, Kind::Listener] {
        let error = engine.adopt(number, kind).expect_err("is refused");
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::InvalidInput, "the socket is no stream socket"));
    }
    let error = engine.adopt(number, Kind::Unix).expect_err("is refused");
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Unsupported, "Unix sockets are not supported on Windows yet"));
    let stream = unconnected();
    let error = engine.adopt(stream, Kind::Datagram).expect_err("is refused");
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::InvalidInput, "the socket is no datagram socket"));
    engine.discard(stream);
    assert!(socket.local_addr().is_ok(), "it was not closed");
    for number in [-1, 0, 0x7FFF_FFF0] {
        assert!(engine.watch(number).is_err(), "{number} is no handle");
    }
}
