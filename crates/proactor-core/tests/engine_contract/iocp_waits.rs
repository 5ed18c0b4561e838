//! Waits on Windows: for sockets, which the suite runs again with, and for what the kernel signals.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::windows::io::{AsRawHandle, AsRawSocket, FromRawHandle, FromRawSocket, IntoRawSocket, OwnedHandle, OwnedSocket};
use std::process::{Command, Stdio};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use proactor_core::buffer::BufferSource;
use proactor_core::completion::Token;
use proactor_core::engine::{Closing, Engine, Handle, Interest};
use windows_sys::Win32::System::Threading::{CreateEventW, SetEvent};

use crate::doubles::nothing_prepared;
use crate::iocp::IocpWorld;
use crate::peers::SocketPeer;
use crate::tests;
use crate::worlds::{Bench, Place, World};

/// The objects are sockets: ready means that a byte is there.
struct SocketWorld(IocpWorld);

impl World for SocketWorld {
    type Peer = SocketPeer;
    const STEP: Duration = IocpWorld::STEP;
    const SEEDS: std::ops::Range<u64> = 0..1;
    const NUMBERS_RETURN: bool = false;

    fn new(seed: u64, buffers: Arc<dyn BufferSource>) -> Self {
        SocketWorld(IocpWorld::new(seed, buffers))
    }

    fn engine(&self) -> &Arc<dyn Engine> {
        self.0.engine()
    }

    fn listen(&self) -> i64 {
        self.0.listen()
    }

    fn place(&self, listener: i64) -> Place {
        self.0.place(listener)
    }

    fn connect(&self, place: &Place) -> std::io::Result<SocketPeer> {
        self.0.connect(place)
    }

    fn narrow(&self, handle: &Handle, peer: &SocketPeer) {
        self.0.narrow(handle, peer);
    }

    fn object(&self) -> (i64, Box<dyn Fn(bool)>) {
        let (ours, theirs) = pair();
        let owners = ours.try_clone().expect("copies the socket").into_raw_socket();
        let set_ready = move |ready| {
            if ready { (&theirs).write_all(b"!") } else { (&ours).read_exact(&mut [0]) }.expect("changes it");
        };
        (owners as i64, Box::new(set_ready))
    }

    fn close_descriptor(&self, descriptor: i64) {
        // SAFETY: the test owns it, and uses it no more.
        drop(unsafe { OwnedSocket::from_raw_socket(descriptor as u64) });
    }
}

macro_rules! for_sockets {
    ($($name:ident)*) => { $(#[test] fn $name() { crate::worlds::run::<SocketWorld>(tests::$name); })* };
}

mod for_sockets {
    use super::*;

    for_sockets! {
        a_wait_completes_once_and_again_only_when_asked
        a_wait_for_what_is_ready_already_completes
        a_wait_outlives_its_owners_descriptor
        a_closed_wait_brings_nothing_although_its_object_becomes_ready
        each_of_five_hundred_waits_for_one_object_completes_once
    }
}

fn bench() -> Bench<IocpWorld> {
    Bench::new(0, nothing_prepared())
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let ours = TcpStream::connect(listener.local_addr().expect("is bound")).expect("connects");
    (ours, listener.accept().expect("accepts").0)
}

fn watch(bench: &mut Bench<IocpWorld>, descriptor: i64) -> (Handle, Token) {
    let handle = bench.engine().watch(descriptor).expect("copies the handle");
    let token = bench.token();
    bench.engine().associate(&handle, token).expect("associates the copy");
    (handle, token)
}

fn event(stays: bool) -> OwnedHandle {
    // SAFETY: no pointers are passed but null ones; the handle is new, so it is nobody else's.
    unsafe { OwnedHandle::from_raw_handle(CreateEventW(ptr::null(), stays.into(), 0, ptr::null())) }
}

fn set(event: &OwnedHandle) {
    // SAFETY: the event is open.
    assert_ne!(unsafe { SetEvent(event.as_raw_handle()) }, 0);
}

#[test]
fn a_wait_for_a_process_completes_when_it_ends() {
    let mut bench = bench();
    // It ends when it has read its input.
    let mut child = Command::new("cmd").args(["/c", "set /p line="]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts");
    let (handle, token) = watch(&mut bench, child.as_raw_handle() as i64);
    bench.engine().wait(&handle, Interest::Readable).expect("waits");
    bench.settle();
    assert_eq!(bench.record(token).signalled, 0);
    drop(child.stdin.take());
    bench.until("the process ends", |bench| bench.record(token).signalled == 1);
    child.wait().expect("has ended");
}

#[test]
fn an_event_that_resets_itself_wakes_one_wait_at_a_time() {
    let mut bench = bench();
    let event = event(false);
    let waits: Vec<_> = (0..3).map(|_| watch(&mut bench, event.as_raw_handle() as i64)).collect();
    for (handle, _) in &waits {
        bench.engine().wait(handle, Interest::Readable).expect("waits");
    }
    let all = |bench: &Bench<IocpWorld>| waits.iter().map(|(_, token)| bench.record(*token).signalled).sum::<usize>();
    for round in 1..=3 {
        set(&event);
        bench.until("one completes", |bench| all(bench) == round);
        bench.settle();
        assert_eq!(all(&bench), round);
    }
}

#[test]
fn a_wait_that_was_closed_takes_nothing_from_those_that_stay() {
    let mut bench = bench();
    let event = event(false);
    for _ in 0..50 {
        let (closed, _) = watch(&mut bench, event.as_raw_handle() as i64);
        let (stays, token) = watch(&mut bench, event.as_raw_handle() as i64);
        bench.engine().wait(&closed, Interest::Readable).expect("waits");
        bench.engine().close(&closed, Closing::Orderly);
        assert_eq!(closed.references(), 1, "nothing of it is left");
        bench.engine().wait(&stays, Interest::Readable).expect("waits");
        set(&event);
        bench.until("the other completes", |bench| bench.record(token).signalled == 1);
    }
}

#[test]
fn the_engines_end_gives_waits_back() {
    let mut bench = bench();
    let event = event(true);
    let (ours, _theirs) = pair();
    let waits = [watch(&mut bench, event.as_raw_handle() as i64), watch(&mut bench, ours.as_raw_socket() as i64)];
    for (handle, _) in &waits {
        bench.engine().wait(handle, Interest::Readable).expect("waits");
    }
    bench.engine().release();
    for (handle, _) in &waits {
        assert_eq!(handle.references(), 1, "{handle:?}");
        assert!(bench.engine().wait(handle, Interest::Readable).is_err(), "there is no port any more");
    }
    set(&event);
}

#[test]
fn a_file_and_a_pipe_are_refused_with_what_to_do_instead() {
    let mut bench = bench();
    let file = std::fs::File::open(std::env::current_exe().expect("has a name")).expect("opens");
    let (reads, _writes) = std::io::pipe().expect("makes a pipe");
    for descriptor in [file.as_raw_handle(), reads.as_raw_handle()] {
        let (handle, _) = watch(&mut bench, descriptor as i64);
        let error = bench.engine().wait(&handle, Interest::Readable).expect_err("is refused");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("read it in a call of its own"), "{error}");
    }
    let event = event(true);
    let (handle, _) = watch(&mut bench, event.as_raw_handle() as i64);
    let error = bench.engine().wait(&handle, Interest::Writable).expect_err("is refused");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn writing_is_waited_for_apart_from_reading_and_a_wait_may_change_over() {
    let mut bench = bench();
    let (ours, mut theirs) = pair();
    let (reads, read_token) = watch(&mut bench, ours.as_raw_socket() as i64);
    let (writes, write_token) = watch(&mut bench, ours.as_raw_socket() as i64);
    bench.engine().wait(&reads, Interest::Readable).expect("waits");
    bench.engine().wait(&writes, Interest::Writable).expect("waits");
    bench.until("it can be written to", |bench| bench.record(write_token).signalled == 1);
    assert_eq!(bench.record(read_token).signalled, 0);
    bench.engine().wait(&reads, Interest::Writable).expect("waits for something else");
    bench.until("that one too", |bench| bench.record(read_token).signalled == 1);
    bench.engine().wait(&reads, Interest::Readable).expect("waits again");
    theirs.write_all(b"!").expect("sends");
    bench.until("a byte is there", |bench| bench.record(read_token).signalled == 2);
    bench.settle();
    assert_eq!((bench.record(read_token).signalled, bench.record(write_token).signalled), (2, 1));
}

#[test]
fn an_end_or_a_reset_ends_a_wait_for_something_to_read() {
    for reset in [false, true] {
        let mut bench = bench();
        let (ours, theirs) = pair();
        let (handle, token) = watch(&mut bench, ours.as_raw_socket() as i64);
        bench.engine().wait(&handle, Interest::Readable).expect("waits");
        if reset {
            crate::worlds::Peer::reset(SocketPeer::new(theirs).expect("sets it up"));
        } else {
            drop(theirs);
        }
        bench.until("it is told", |bench| bench.record(token).signalled == 1);
        assert!(bench.engine().is_ready(&handle, Interest::Readable));
    }
}
