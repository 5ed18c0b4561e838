//! What only epoll has: real descriptors, real threads, real time.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proactor_core::completion::{Outcome, Token};
use proactor_core::engine::epoll::Epoll;
use proactor_core::engine::{AcceptWindow, Address, Closing, Engine, Handle, Kind, SocketOptions, Submission};

use crate::doubles::nothing_prepared;
use crate::worlds::{Bench, EpollWorld, PATIENCE, Peer, World, outgoing, pattern, within_patience};

const OPTIONS: SocketOptions = SocketOptions { no_delay: true, keep_alive: true };
const WINDOW: AcceptWindow = AcceptWindow { minimum: 2, maximum: 5 };

pub fn bench() -> Bench<EpollWorld> {
    Bench::new(0, nothing_prepared())
}

pub fn open() -> Arc<Epoll> {
    Arc::new(Epoll::open(nothing_prepared()).expect("opens epoll"))
}

pub fn token(slot: u32, generation: u32) -> Token {
    Token { slot, generation }
}

/// A connected pair of Unix sockets: the handle of one, associated, and the other.
pub fn pair(engine: &Epoll, token: Token) -> (Handle, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("makes a pair");
    let handle = engine.adopt(ours.into_raw_fd().into(), Kind::Unix).expect("adopts");
    engine.associate(&handle, token).expect("associates");
    (handle, theirs)
}

// Races.

#[test]
fn a_poll_never_returns_early_without_a_reason() {
    let engine = open();
    for microseconds in [1, 50, 200, 999, 1_000, 3_500] {
        let timeout = Duration::from_micros(microseconds);
        let start = engine.now();
        engine.poll(Some(timeout), &mut Vec::new()).expect("polls");
        assert!(engine.now() - start >= timeout.as_nanos() as u64, "too early for {timeout:?}");
    }
}

#[test]
fn a_poll_with_an_endless_timeout_can_be_asked_for() {
    let engine = open();
    let sleeper = Arc::clone(&engine);
    let poller = thread::spawn(move || sleeper.poll(Some(Duration::MAX), &mut Vec::new()));
    engine.wake();
    within_patience("the poll returns", move || poller.join().expect("polls").expect("polls"));
}

#[test]
fn nothing_spins_on_a_hung_up_connection_that_is_paused_or_over() {
    let mut bench = bench();
    let finished = bench.connect_receiving();
    let paused = bench.connect_receiving();
    let reset = bench.connect();
    bench.engine().pause_receive(&paused.handle);
    let (mut finished_peer, mut paused_peer) = (finished.peer, paused.peer);
    assert_eq!(paused_peer.send(b"unread"), 6);
    finished_peer.finish();
    paused_peer.finish();
    reset.peer.reset();
    bench.until("the rest is told", |bench| bench.record(finished.token).ended && bench.record(reset.token).failure.is_some());
    bench.engine().shutdown_write(&paused.handle).expect("finishes");
    bench.settle();
    let start = Instant::now();
    for _ in 0..3 {
        bench.poll_for(Duration::from_millis(30));
    }
    assert!(start.elapsed() >= Duration::from_millis(90), "polls come back empty-handed before their time");
    assert!(bench.record(paused.token).is_quiet());
}

#[test]
fn the_cpu_clock_of_a_thread_tells_its_work_and_its_end() {
    let engine = open();
    let there = Arc::clone(&engine);
    let (clock, used) = thread::spawn(move || {
        let clock = there.thread_clock();
        let start = there.cpu_time(clock).expect("lives");
        while there.cpu_time(clock).expect("lives") < start + 2_000_000 {}
        (clock, there.cpu_time(clock))
    })
    .join()
    .expect("works");
    assert!(used >= Some(2_000_000));
    // The kernel forgets the thread a moment after it was joined.
    let deadline = Instant::now() + PATIENCE;
    while engine.cpu_time(clock).is_some() {
        assert!(Instant::now() < deadline, "the thread has ended");
        thread::yield_now();
    }
}

// Sockets.

#[test]
fn accepted_sockets_tell_who_they_are_and_have_their_options() {
    let Ok(listener6) = TcpListener::bind("[::1]:0") else {
        eprintln!("no IPv6 here");
        return;
    };
    for listener in [TcpListener::bind("127.0.0.1:0").expect("listens"), listener6] {
        let client = TcpStream::connect(listener.local_addr().expect("has an address")).expect("connects");
        let (handle, peer) = accept_one(listener.into_raw_fd());
        assert_eq!(peer, Address::Internet(client.local_addr().expect("has an address")));
        assert_eq!(handle.kind(), Kind::Tcp);
        let descriptor = handle.descriptor() as i32;
        assert_ne!(get_option(descriptor, libc::IPPROTO_TCP, libc::TCP_NODELAY), 0);
        assert_ne!(get_option(descriptor, libc::SOL_SOCKET, libc::SO_KEEPALIVE), 0);
        // SAFETY: no pointers are passed.
        unsafe {
            assert_ne!(libc::fcntl(descriptor, libc::F_GETFL) & libc::O_NONBLOCK, 0);
            assert_ne!(libc::fcntl(descriptor, libc::F_GETFD) & libc::FD_CLOEXEC, 0);
        }
    }
}

#[test]
fn unix_clients_are_told_by_their_path_if_they_have_one() {
    let directory = std::env::temp_dir().join(format!("proactor-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("makes a directory");
    let place = directory.join("listener");
    let name = UnixAddress::from_abstract_name(format!("proactor-{}", std::process::id())).expect("is a name");
    let path = directory.join("client");
    let address = UnixAddress::from_pathname(&path).expect("is a path");
    let abstract_text = format!("unix:@proactor-{}", std::process::id());
    for (client, expected) in
        [(None, "unix:(unnamed)".into()), (Some(&address), format!("unix:{}", path.display())), (Some(&name), abstract_text)]
    {
        let listener = UnixListener::bind(&place).expect("listens");
        let _client = connect_unix(client, &place);
        let (handle, peer) = accept_one(listener.into_raw_fd());
        assert_eq!(peer.to_string(), expected);
        assert_eq!(handle.kind(), Kind::Unix);
        std::fs::remove_file(&place).expect("removes the listener");
    }
    std::fs::remove_dir_all(&directory).expect("removes the directory");
}

#[test]
fn a_unix_peer_that_leaves_bytes_unread_has_reset_and_one_that_does_not_has_ended() {
    for unread in [false, true] {
        let engine = open();
        let (handle, peer) = pair(&engine, token(0, 1));
        engine.receive(&handle);
        if unread {
            assert!(matches!(engine.send(&handle, outgoing(b"unread")), Submission::Done { bytes: 6 }));
        }
        drop(peer);
        match (unread, &poll_some(&engine)[..]) {
            (false, [Outcome::Ended, Outcome::HungUp]) => {}
            (true, [Outcome::ReceiveFailed(error)]) => assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET)),
            (_, other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_unix_peer_that_closes_after_its_end_has_hung_up_once() {
    let engine = open();
    let (handle, peer) = pair(&engine, token(0, 1));
    engine.receive(&handle);
    peer.shutdown(std::net::Shutdown::Write).expect("the peer finishes");
    assert!(matches!(poll_one(&engine), Outcome::Ended));
    assert!(matches!(engine.send(&handle, outgoing(b"x")), Submission::Done { bytes: 1 }), "it still receives");
    (&peer).read_exact(&mut [0]).expect("it has come");
    drop(peer);
    assert!(matches!(poll_one(&engine), Outcome::HungUp));
    engine.shutdown_write(&handle).ok();
    let mut completions = Vec::new();
    engine.poll(Some(Duration::from_millis(20)), &mut completions).expect("polls");
    assert!(completions.is_empty(), "{completions:?}");
}

#[test]
fn a_hang_up_waits_for_the_bytes_and_the_end_that_came_before_it() {
    let engine = open();
    let (handle, mut peer) = pair(&engine, token(0, 1));
    peer.write_all(b"last words").expect("the peer sends");
    drop(peer);
    let mut completions = Vec::new();
    engine.poll(Some(Duration::from_millis(20)), &mut completions).expect("polls");
    assert!(completions.is_empty(), "receiving was not asked for: {completions:?}");
    engine.receive(&handle);
    let mut outcomes = Vec::new();
    while outcomes.len() < 3 {
        outcomes.extend(poll_some(&engine));
    }
    assert!(matches!(&outcomes[..], [Outcome::Received(_), Outcome::Ended, Outcome::HungUp]), "{outcomes:?}");
}

#[test]
fn a_unix_peer_that_ends_after_us_has_not_hung_up() {
    let engine = open();
    let (handle, peer) = pair(&engine, token(0, 1));
    engine.receive(&handle);
    engine.shutdown_write(&handle).expect("we finish");
    peer.shutdown(std::net::Shutdown::Write).expect("the peer finishes");
    assert!(matches!(poll_one(&engine), Outcome::Ended));
}

#[test]
fn a_reset_whose_error_somebody_took_away_is_still_no_end() {
    let mut bench = bench();
    let connection = bench.connect_receiving();
    bench.settle();
    connection.peer.reset();
    // As a send of another thread does that has not told us yet: the socket tells its error only once.
    assert_eq!(get_option(connection.handle.descriptor() as i32, libc::SOL_SOCKET, libc::SO_ERROR), libc::ECONNRESET);
    bench.until("the reset is told", |bench| bench.record(connection.token).failure.is_some());
    assert_eq!(bench.record(connection.token).failure, Some(libc::ECONNRESET));
}

#[test]
fn what_is_no_stream_socket_is_refused_and_stays_the_callers() {
    let engine = open();
    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let file = File::open("/dev/null").expect("opens");
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let connected = TcpStream::connect(listener.local_addr().expect("has an address")).expect("connects");
    for (descriptor, kind) in [
        (datagrams.as_raw_fd(), Kind::Tcp),
        (datagrams.as_raw_fd(), Kind::Listener),
        (file.as_raw_fd(), Kind::Tcp),
        (connected.as_raw_fd(), Kind::Listener),
        (-1, Kind::Tcp),
    ] {
        assert!(engine.adopt(descriptor.into(), kind).is_err(), "{descriptor} as {kind:?}");
    }
    assert!(engine.adopt(i64::MAX, Kind::Tcp).is_err());
    assert!(datagrams.local_addr().is_ok() && connected.peer_addr().is_ok() && file.metadata().is_ok());
    let handle = engine.adopt(connected.into_raw_fd().into(), Kind::Tcp).expect("adopts");
    engine.associate(&handle, token(0, 1)).expect("associates");
    assert!(engine.associate(&handle, token(1, 1)).is_err(), "once only");
}

#[test]
fn closing_a_listener_leaves_the_other_processes_of_a_pre_forking_server_listening() {
    let engine = open();
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let address = listener.local_addr().expect("has an address");
    let of_another_process = listener.try_clone().expect("copies");
    let handle = engine.adopt(listener.into_raw_fd().into(), Kind::Listener).expect("adopts");
    engine.associate(&handle, token(0, 1)).expect("associates");
    engine.accept(&handle, WINDOW, &OPTIONS).expect("accepts");
    engine.close(&handle, Closing::Orderly);
    let _client = TcpStream::connect(address).expect("the other one listens");
    of_another_process.set_nonblocking(false).expect("is set");
    within_patience("the other one accepts", move || of_another_process.accept().expect("accepts"));
    drop(handle);
    // Another test may just have forked a child, which has a copy until it executes its program.
    let start = Instant::now();
    while TcpStream::connect(address).is_ok() {
        assert!(start.elapsed() < PATIENCE, "nobody listens any more");
        thread::yield_now();
    }
}

#[test]
fn a_listener_that_somebody_shut_down_is_reported_once_and_pauses() {
    let engine = open();
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let copy = listener.try_clone().expect("copies");
    let handle = engine.adopt(listener.into_raw_fd().into(), Kind::Listener).expect("adopts");
    engine.associate(&handle, token(0, 1)).expect("associates");
    engine.accept(&handle, WINDOW, &OPTIONS).expect("accepts");
    // SAFETY: no pointers are passed.
    assert_eq!(unsafe { libc::shutdown(copy.as_raw_fd(), libc::SHUT_RDWR) }, 0);
    match poll_one(&engine) {
        Outcome::AcceptFailed { error, pause: true } => assert_eq!(error.raw_os_error(), Some(libc::EINVAL)),
        other => panic!("{other:?}"),
    }
    let start = Instant::now();
    let mut completions = Vec::new();
    engine.poll(Some(Duration::from_millis(30)), &mut completions).expect("polls");
    assert!(completions.is_empty() && start.elapsed() >= Duration::from_millis(30), "it spins");
}

// What needs a process of its own.

#[test]
fn running_out_of_descriptors_pauses_accepting_and_loses_nobody() {
    if !alone("epoll::running_out_of_descriptors_pauses_accepting_and_loses_nobody") {
        return;
    }
    let mut bench = bench();
    let (listener, place) = bench.listen();
    let clients: Vec<_> = (0..3).map(|_| bench.world.connect(&place).expect("connects")).collect();
    // Fill the holes: the next descriptors are those behind all that are open.
    let highest =
        || std::fs::read_dir("/proc/self/fd").expect("lists").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).max();
    let highest: i32 = highest().expect("some are open");
    while File::open("/dev/null").expect("opens").into_raw_fd() < highest {}
    let last = File::open("/dev/null").expect("opens").into_raw_fd();
    let previous = limit_descriptors(last as u64 + 2); // room for one more
    bench.until("it runs out", |bench| !bench.accept_failures.is_empty());
    assert_eq!(bench.accept_failures, [(libc::EMFILE, true)]);
    assert_eq!(bench.accepted.len(), 1, "what fits is accepted");
    let start = Instant::now();
    bench.poll_for(Duration::from_millis(30));
    assert!(start.elapsed() >= Duration::from_millis(30), "it spins");
    assert_eq!(bench.accept_failures.len(), 1);
    limit_descriptors(previous);
    bench.accept(&listener);
    bench.until("all are accepted", |bench| bench.accepted.len() == clients.len());
}

#[test]
fn no_descriptor_is_left_behind() {
    if !alone("epoll::no_descriptor_is_left_behind") {
        return;
    }
    let open_descriptors = || std::fs::read_dir("/proc/self/fd").expect("lists").count();
    let before = open_descriptors();
    for round in 0..50 {
        let mut bench = bench();
        let (listener, _) = bench.listen();
        let one = bench.connect_receiving();
        let mut other = bench.connect_narrow();
        let _ = bench.engine().send(&other.handle, outgoing(&pattern(1 << 20)));
        assert_eq!(other.peer.send(b"unread"), 6);
        bench.poll();
        if round % 2 == 0 {
            bench.engine().close(&one.handle, Closing::Abort);
            bench.engine().close(&other.handle, Closing::Orderly);
            bench.engine().close(&listener, Closing::Orderly);
        }
    }
    assert_eq!(open_descriptors(), before);
}

#[test]
fn the_child_of_a_fork_closes_everything_and_touches_nothing_of_the_parents() {
    if !alone("epoll::the_child_of_a_fork_closes_everything_and_touches_nothing_of_the_parents") {
        return;
    }
    let mut bench = bench();
    let mut connection = bench.connect_receiving();
    let (listener, _) = bench.listen();
    let before = std::fs::read_dir("/proc/self/fd").expect("lists").count();
    let sockets_of_the_engine = 3 + 1; // the connection and two listeners (one is the bench's own); the interrupter
    // A thread that holds the engine's locks at the moment of the fork: the child must not wait for it.
    let stop = Arc::new(AtomicBool::new(false));
    let poller = {
        let (engine, stop) = (bench.engine(), Arc::clone(&stop));
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                engine.poll(None, &mut Vec::new()).expect("polls");
            }
        })
    };
    thread::yield_now();

    // SAFETY: the child calls nothing that could wait for a lock of a thread that is gone: std's file functions take none, and malloc is safe after a fork.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let engine = bench.engine();
        engine.forked();
        engine.forked(); // as the second port of a process would
        let after = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let all_closed = after == before - sockets_of_the_engine - 1; // and epoll itself
        // Strangers get the numbers now; what is dropped must leave them alone.
        let strangers: Vec<_> = (0..10).filter_map(|_| File::open("/dev/null").ok()).collect();
        let disowned = connection.handle.descriptor() == -1 && listener.descriptor() == -1;
        drop((connection.handle, listener));
        let untouched = strangers.len() == 10 && strangers.iter().all(|file| file.metadata().is_ok());
        // A new engine of the child's own works.
        let works = Epoll::open(nothing_prepared()).is_ok_and(|engine| {
            let (handle, mut peer) = pair(&engine, token(0, 1));
            engine.receive(&handle);
            peer.write_all(b"hello").is_ok() && matches!(poll_one(&engine), Outcome::Received(received) if received.as_slice() == b"hello")
        });
        let code = i32::from(!all_closed) | i32::from(!disowned) << 1 | i32::from(!untouched) << 2 | i32::from(!works) << 3;
        // SAFETY: ends the child at once, without the parent's exit handlers.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: `status` is writable.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFEXITED(status), "the child was killed: {status:#x}");
    assert_eq!(libc::WEXITSTATUS(status), 0, "bits: all closed, disowned, untouched, works");

    // The parent's connection, epoll set and listener are as before.
    let engine = bench.engine();
    drop(bench);
    drop(listener);
    engine.pause_receive(&connection.handle);
    engine.receive(&connection.handle);
    assert!(matches!(engine.send(&connection.handle, outgoing(b"still here")), Submission::Done { bytes: 10 }));
    let mut received = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while received != b"still here" {
        assert!(Instant::now() < deadline, "the peer hears nothing");
        received.extend(connection.peer.received());
    }
    assert!(!connection.peer.ended() && !connection.peer.was_reset());
    stop.store(true, Ordering::Relaxed);
    engine.wake();
    within_patience("the poller ends", move || poller.join().expect("polls"));
}

/// True in a process that runs only this test; otherwise runs it in one.
fn alone(test: &str) -> bool {
    if std::env::var_os("PROACTOR_TEST_ALONE").is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().expect("has a path"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("PROACTOR_TEST_ALONE", "1")
        .output()
        .expect("runs itself");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

fn limit_descriptors(count: u64) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable, and lives until both calls return.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        let previous = limit.rlim_cur;
        limit.rlim_cur = count;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
        previous
    }
}

/// The first client that a listener accepts.
fn accept_one(listener: i32) -> (Handle, Address) {
    let engine = open();
    let listener = engine.adopt(listener.into(), Kind::Listener).expect("adopts");
    engine.associate(&listener, token(0, 1)).expect("associates");
    engine.accept(&listener, WINDOW, &OPTIONS).expect("accepts");
    match poll_one(&engine) {
        Outcome::Accepted { handle, peer } => (handle, peer),
        other => panic!("{other:?}"),
    }
}

fn poll_one(engine: &Epoll) -> Outcome {
    let mut outcomes = poll_some(engine);
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0)
}

/// What the first poll brings that brings anything.
fn poll_some(engine: &Epoll) -> Vec<Outcome> {
    let mut completions = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while completions.is_empty() {
        assert!(Instant::now() < deadline, "nothing comes");
        engine.poll(Some(Duration::from_millis(20)), &mut completions).expect("polls");
    }
    completions.into_iter().map(|completion| completion.outcome).collect()
}

/// A Unix client, bound to an address of its own if it is given one.
fn connect_unix(own: Option<&UnixAddress>, place: &std::path::Path) -> OwnedFd {
    let Some(own) = own else { return UnixStream::connect(place).expect("connects").into() };
    // std binds only listeners: so bind one, and turn it round.
    // SAFETY: no pointers are passed; the descriptor is new and ours.
    let socket = unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)) };
    let (address, length) = raw_address(own);
    // SAFETY: `address` is readable for `length` bytes.
    assert_eq!(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) }, 0, "{}", io::Error::last_os_error());
    let (address, length) = raw_address(&UnixAddress::from_pathname(place).expect("is a path"));
    // SAFETY: as above.
    assert_eq!(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) }, 0, "{}", io::Error::last_os_error());
    socket
}

fn raw_address(address: &UnixAddress) -> (libc::sockaddr_un, libc::socklen_t) {
    // SAFETY: all zeros is a valid sockaddr_un.
    let mut raw: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    raw.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes: Vec<u8> = match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) => [path.as_os_str().as_encoded_bytes(), &[0]].concat(),
        (_, Some(name)) => [&[0], name].concat(),
        _ => Vec::new(),
    };
    for (target, byte) in raw.sun_path.iter_mut().zip(&bytes) {
        *target = *byte as libc::c_char;
    }
    (raw, (std::mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len()) as libc::socklen_t)
}

fn get_option(descriptor: i32, level: i32, name: i32) -> i32 {
    let mut value = 0;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` is writable for `length` bytes.
    let result = unsafe { libc::getsockopt(descriptor, level, name, (&raw mut value).cast(), &mut length) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    value
}
