//! Attempts to connect on Windows, where another socket takes the place of one whose attempt is over: what comes along, what becomes of the former one, who wins a race.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::windows::io::{AsRawSocket, BorrowedSocket, FromRawSocket, IntoRawSocket};
use std::thread;
use std::time::{Duration, Instant};

use proactor_core::completion::Token;
use proactor_core::engine::{Address, Closing, Handle, Kind, Submission};
use proactor_core::numbers::{EISCONN, ENOTCONN};

use crate::doubles::nothing_prepared;
use crate::iocp::{IocpWorld, unconnected};
use crate::sockets::{Remote, Sockets};
use crate::worlds::{Bench, PATIENCE, outgoing};

fn bench() -> Bench<IocpWorld> {
    Bench::new(0, nothing_prepared())
}

fn adopt(bench: &mut Bench<IocpWorld>, descriptor: i64) -> (Handle, Token) {
    let handle = bench.engine().adopt(descriptor, Kind::Tcp).expect("adopts the socket");
    let token = bench.token();
    bench.engine().associate(&handle, token).expect("associates the socket");
    (handle, token)
}

fn listener() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let address = Address::Internet(listener.local_addr().expect("is bound"));
    (listener, address)
}

/// A copy of the handle's socket as it is now.
fn copy(handle: &Handle) -> TcpStream {
    // SAFETY: it is open, since its handle is; the copy closes only itself.
    unsafe { BorrowedSocket::borrow_raw(handle.descriptor() as u64) }.try_clone_to_owned().expect("copies the socket").into()
}

/// An unconnected socket that its owner has bound, and to what.
fn bound() -> (i64, SocketAddr) {
    // A listener's address is free at once when it is closed.
    let address = TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("is bound");
    // SAFETY: it is new, so it is nobody else's.
    let socket = unsafe { TcpStream::from_raw_socket(unconnected() as u64) };
    let SocketAddr::V4(v4) = address else { unreachable!() };
    let mut raw = windows_sys::Win32::Networking::WinSock::SOCKADDR_IN {
        sin_family: windows_sys::Win32::Networking::WinSock::AF_INET,
        sin_port: v4.port().to_be(),
        ..Default::default()
    };
    raw.sin_addr.S_un.S_addr = u32::from_ne_bytes(v4.ip().octets());
    // SAFETY: the address is readable for its size.
    let result = unsafe {
        windows_sys::Win32::Networking::WinSock::bind(socket.as_raw_socket() as usize, (&raw const raw).cast(), size_of_val(&raw) as i32)
    };
    assert_eq!(result, 0, "binds");
    (socket.into_raw_socket() as i64, address)
}

#[test]
fn options_and_the_owners_address_come_along_after_a_cancelled_attempt() {
    let mut bench = bench();
    let (descriptor, address) = bound();
    let (handle, token) = adopt(&mut bench, descriptor);
    copy(&handle).set_nodelay(true).expect("sets an option");
    let (unused, mut silent) = bench.world.remote();
    bench.engine().discard(unused);
    silent.be_silent();
    assert!(matches!(bench.engine().connect(&handle, &silent.address()), Submission::Pending));
    assert_eq!(copy(&handle).local_addr().expect("is bound"), address);
    assert!(bench.engine().cancel_connect(&handle));
    bench.until("the kernel has given the attempt back", |_| handle.references() == 1);
    let (listener, place) = listener();
    assert!(matches!(bench.engine().connect(&handle, &place), Submission::Pending));
    bench.until("it is connected", |bench| bench.record(token).connected == 1);
    assert_eq!(listener.accept().expect("accepts").1, address);
    assert!(copy(&handle).nodelay().expect("has the option"));
    assert_eq!(bench.engine().local_address(&handle).expect("has one"), Address::Internet(address));
}

/// Whoever cancels first, or comes too late: no completion is lost and none is told twice, and the stream can connect afterwards.
#[test]
fn a_cancellation_races_with_the_connection() {
    let mut bench = bench();
    let (listener, place) = listener();
    let accepts = thread::spawn(move || {
        // Each is closed at once; the last client says that it is over.
        loop {
            let (mut client, _) = listener.accept().expect("accepts");
            let mut byte = [0];
            client.set_read_timeout(Some(PATIENCE)).expect("sets it up");
            if matches!(std::io::Read::read(&mut client, &mut byte), Ok(1)) {
                return;
            }
        }
    });
    let (mut cancelled, mut connected) = (0, 0);
    for round in 0..100 {
        let (handle, token) = adopt(&mut bench, unconnected());
        assert!(matches!(bench.engine().connect(&handle, &place), Submission::Pending));
        let (engine, cancels) = (bench.engine(), handle.clone());
        let canceller = thread::spawn(move || {
            for _ in 0..round % 20 {
                thread::yield_now();
            }
            engine.cancel_connect(&cancels)
        });
        while !canceller.is_finished() {
            bench.poll_for(Duration::ZERO);
        }
        if canceller.join().expect("cancels") {
            cancelled += 1;
            bench.until("the kernel has given the attempt back", |_| handle.references() == 1);
            assert_eq!((bench.record(token).connected, bench.record(token).refusals.len()), (0, 0), "in round {round}");
            assert!(matches!(bench.engine().connect(&handle, &place), Submission::Pending));
        } else {
            connected += 1;
        }
        bench.until("it is connected", |bench| bench.record(token).connected == 1);
        match bench.engine().connect(&handle, &place) {
            Submission::Failed { error, .. } => assert_eq!(error.raw_os_error(), Some(EISCONN)),
            other => panic!("{other:?}"),
        }
        bench.engine().close(&handle, Closing::Orderly);
        bench.free(token);
        assert!(bench.stale.is_empty());
    }
    eprintln!("{cancelled} cancelled, {connected} connected"); // shown when the test fails
    let (handle, token) = adopt(&mut bench, unconnected());
    assert!(matches!(bench.engine().connect(&handle, &place), Submission::Pending));
    bench.until("it is connected", |bench| bench.record(token).connected == 1);
    assert!(matches!(bench.engine().send(&handle, outgoing(b"!")), Submission::Done { .. }));
    let deadline = Instant::now() + PATIENCE;
    while !accepts.is_finished() {
        assert!(Instant::now() < deadline, "a connection was left open");
        bench.poll();
    }
    accepts.join().expect("accepts");
}

#[test]
fn a_stream_whose_attempt_has_failed_sends_nothing_and_receives_once_it_is_connected() {
    let mut bench = bench();
    let (handle, token) = adopt(&mut bench, unconnected());
    let (unused, mut remote) = bench.world.remote();
    bench.engine().discard(unused);
    let gone = remote.address();
    remote.refuse();
    assert!(matches!(bench.engine().connect(&handle, &gone), Submission::Pending));
    bench.until("it is refused", |bench| bench.record(token).refusals.len() == 1);
    match bench.engine().send(&handle, outgoing(b"nobody")) {
        Submission::Failed { error, sent: 0, unsent: 6 } => assert_eq!(error.raw_os_error(), Some(ENOTCONN)),
        other => panic!("{other:?}"),
    }
    bench.engine().receive(&handle);
    let (listener, place) = listener();
    assert!(matches!(bench.engine().connect(&handle, &place), Submission::Pending));
    let (mut peer, _) = listener.accept().expect("accepts");
    std::io::Write::write_all(&mut peer, b"hello").expect("sends");
    bench.until("it is received", |bench| bench.record(token).data == b"hello");
    assert_eq!((bench.record(token).connected, bench.record(token).failure), (1, None));
}

#[test]
fn the_engines_end_gives_attempts_and_questions_back() {
    let mut bench = bench();
    let (descriptor, mut silent) = bench.world.remote();
    silent.be_silent();
    let (connects, _) = adopt(&mut bench, descriptor);
    assert!(matches!(bench.engine().connect(&connects, &silent.address()), Submission::Pending));
    let (descriptor, _others) = bench.world.datagrams();
    let datagrams = bench.engine().adopt(descriptor, Kind::Datagram).expect("adopts the socket");
    let token = bench.token();
    bench.engine().associate(&datagrams, token).expect("associates the socket");
    bench.engine().receive(&datagrams);
    let mut paused = bench.connect_receiving();
    bench.engine().pause_receive(&paused.handle);
    assert_eq!(crate::worlds::Peer::send(&mut paused.peer, b"unread"), 6);
    bench.settle();
    for handle in [&connects, &datagrams, &paused.handle] {
        assert!(handle.references() > 1, "{handle:?}");
    }
    bench.engine().release();
    for handle in [&connects, &datagrams, &paused.handle] {
        assert_eq!(handle.references(), 1, "{handle:?}");
        bench.engine().close(handle, Closing::Orderly);
    }
}
