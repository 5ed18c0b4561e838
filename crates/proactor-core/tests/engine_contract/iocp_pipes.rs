//! Named pipes on the Windows engine: the part of the suite that applies, and what is theirs alone. Neither side of a pipe can end its sending alone, and a client cannot reset.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, IntoRawHandle, OwnedHandle};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use proactor_core::buffer::{BufferSource, NoLargeBuffers};
use proactor_core::engine::{Address, Closing, Engine, Handle, Kind, Submission, iocp::Iocp, iocp::pipe};
use proactor_core::numbers::{ECONNRESET, EPIPE};
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_BROKEN_PIPE, ERROR_FILE_NOT_FOUND, ERROR_IO_PENDING, ERROR_PIPE_BUSY, ERROR_PIPE_NOT_CONNECTED,
    GENERIC_READ, GENERIC_WRITE, GetLastError, HANDLE, INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::Networking::WinSock::WSAEOPNOTSUPP;
use windows_sys::Win32::Storage::FileSystem::{CreateFileW, FILE_FLAG_OVERLAPPED, OPEN_EXISTING, ReadFile, WriteFile};
use windows_sys::Win32::System::IO::{CancelIoEx, GetOverlappedResult, OVERLAPPED};
use windows_sys::Win32::System::Pipes::{PeekNamedPipe, WaitNamedPipeW};
use windows_sys::Win32::System::Threading::CreateEventW;

use crate::iocp::IocpWorld;
use crate::worlds::{Bench, Connection, PATIENCE, Peer, Place, World, outgoing, pattern};

pub struct PipeWorld(Arc<dyn Engine>);

impl World for PipeWorld {
    type Peer = PipePeer;
    const STEP: Duration = Duration::from_millis(20);
    const SEEDS: std::ops::Range<u64> = 0..1;
    const NUMBERS_RETURN: bool = false;

    fn new(_seed: u64, buffers: Arc<dyn BufferSource>) -> Self {
        PipeWorld(Arc::new(Iocp::open(buffers).expect("opens a completion port")))
    }

    fn engine(&self) -> &Arc<dyn Engine> {
        &self.0
    }

    fn listen(&self) -> i64 {
        pipe::create(&new_name(), true).expect("makes a pipe").into_raw_handle() as i64
    }

    fn place(&self, listener: i64) -> Place {
        let copy = self.0.adopt(listener, Kind::Listener).expect("it is one");
        let address = self.0.local_address(&copy).expect("has a name");
        // It is not dropped: the number is the caller's.
        std::mem::forget(copy);
        Place::Pipe(name_of(&address))
    }

    fn connect(&self, place: &Place) -> io::Result<PipePeer> {
        let Place::Pipe(name) = place else { unreachable!() };
        open(name, PATIENCE).map(PipePeer::new)
    }

    /// What waits in a pipe is little in any case.
    fn narrow(&self, _handle: &Handle, _peer: &PipePeer) {}

    fn object(&self) -> (i64, Box<dyn Fn(bool)>) {
        IocpWorld::new(0, Arc::new(NoLargeBuffers)).object()
    }

    fn close_descriptor(&self, descriptor: i64) {
        // SAFETY: the test owns it, and uses it no more.
        drop(unsafe { OwnedHandle::from_raw_handle(descriptor as _) });
    }
}

fn new_name() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("proactor-contract-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn name_of(address: &Address) -> String {
    match address {
        Address::Pipe(Some(name)) => name.clone(),
        other => panic!("{other:?}"),
    }
}

/// The client's end; waits for an instance.
fn open(name: &str, patience: Duration) -> io::Result<OwnedHandle> {
    let path: Vec<u16> = format!(r"\\.\pipe\{name}").encode_utf16().chain([0]).collect();
    let deadline = Instant::now() + patience;
    loop {
        // SAFETY: the name ends with a NUL, and lives until the call returns.
        let handle = unsafe {
            let access = GENERIC_READ | GENERIC_WRITE;
            CreateFileW(path.as_ptr(), access, 0, ptr::null(), OPEN_EXISTING, FILE_FLAG_OVERLAPPED, ptr::null_mut())
        };
        if handle != INVALID_HANDLE_VALUE {
            // SAFETY: it is new, so it is nobody else's.
            return Ok(unsafe { OwnedHandle::from_raw_handle(handle) });
        }
        let error = io::Error::last_os_error();
        if number(&error) != ERROR_PIPE_BUSY || Instant::now() > deadline {
            return Err(error);
        }
        // SAFETY: as above. Whatever it answers, the open tells.
        unsafe { WaitNamedPipeW(path.as_ptr(), 1) };
    }
}

fn number(error: &io::Error) -> u32 {
    error.raw_os_error().expect("the system's") as u32
}

/// A client. A thread writes for it, since a pipe's write is whole or waits.
pub struct PipePeer {
    /// None once it has finished, as far as there is such a thing: it is closed when all is written.
    handle: Option<Arc<OwnedHandle>>,
    queue: Option<mpsc::Sender<Vec<u8>>>,
    queued: Arc<AtomicUsize>,
    writer: Option<JoinHandle<()>>,
    /// Why nothing comes any more.
    over: Option<u32>,
}

impl PipePeer {
    fn new(handle: OwnedHandle) -> Self {
        let handle = Arc::new(handle);
        let queued = Arc::new(AtomicUsize::new(0));
        let (queue, bytes) = mpsc::channel::<Vec<u8>>();
        let (own, count) = (handle.clone(), queued.clone());
        let writer = thread::spawn(move || {
            for bytes in bytes {
                if transfer(&own, |handle, overlapped| {
                    // SAFETY: both live until `transfer` returns.
                    unsafe { WriteFile(handle, bytes.as_ptr(), bytes.len() as u32, ptr::null_mut(), overlapped) }
                })
                .is_err()
                {
                    return;
                }
                count.fetch_sub(bytes.len(), Ordering::SeqCst);
            }
        });
        PipePeer { handle: Some(handle), queue: Some(queue), queued, writer: Some(writer), over: None }
    }
}

/// Begins and waits.
fn transfer(handle: &OwnedHandle, begin: impl FnOnce(HANDLE, *mut OVERLAPPED) -> i32) -> Result<usize, u32> {
    // SAFETY: no pointers are passed but null ones; the handle is new.
    let event = unsafe { OwnedHandle::from_raw_handle(CreateEventW(ptr::null(), 1, 0, ptr::null())) };
    let mut overlapped = OVERLAPPED { hEvent: event.as_raw_handle(), ..OVERLAPPED::default() };
    let overlapped = &raw mut overlapped;
    if begin(handle.as_raw_handle(), overlapped) == 0 {
        // SAFETY: no pointers are passed.
        let number = unsafe { GetLastError() };
        if number != ERROR_IO_PENDING {
            return Err(number);
        }
    }
    let mut count = 0;
    // SAFETY: both are writable; it waits until the operation is over.
    if unsafe { GetOverlappedResult(handle.as_raw_handle(), overlapped, &mut count, 1) } == 0 {
        // SAFETY: no pointers are passed.
        return Err(unsafe { GetLastError() });
    }
    Ok(count as usize)
}

impl Peer for PipePeer {
    fn send(&mut self, bytes: &[u8]) -> usize {
        if self.queued.load(Ordering::SeqCst) > 256 * 1024 {
            return 0;
        }
        self.queued.fetch_add(bytes.len(), Ordering::SeqCst);
        let _ = self.queue.as_ref().expect("it writes").send(bytes.to_vec());
        bytes.len()
    }

    fn settle(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.queued.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < deadline, "the writer writes");
            thread::yield_now();
        }
    }

    fn finish(&mut self) {
        (self.queue, self.handle) = (None, None);
    }

    /// As far as there is such a thing: it is closed.
    fn reset(self) {}

    fn received(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let (None, Some(own)) = (self.over, &self.handle) {
            let mut available = 0;
            let handle = own.as_raw_handle();
            // SAFETY: `available` is writable; nothing else is asked for.
            if unsafe { PeekNamedPipe(handle, ptr::null_mut(), 0, ptr::null_mut(), &mut available, ptr::null_mut()) } == 0 {
                // SAFETY: no pointers are passed.
                self.over = Some(unsafe { GetLastError() });
                break;
            }
            if available == 0 {
                break;
            }
            let mut memory = vec![0; available as usize];
            // SAFETY: both live until `transfer` returns.
            let result = transfer(own, |handle, overlapped| unsafe {
                ReadFile(handle, memory.as_mut_ptr(), memory.len() as u32, ptr::null_mut(), overlapped)
            });
            match result {
                Ok(count) => all.extend_from_slice(&memory[..count]),
                Err(number) => self.over = Some(number),
            }
        }
        all
    }

    fn ended(&mut self) -> bool {
        assert_eq!(self.received(), b"");
        self.over == Some(ERROR_BROKEN_PIPE)
    }

    fn was_reset(&mut self) -> bool {
        self.received();
        self.over == Some(ERROR_PIPE_NOT_CONNECTED)
    }
}

impl Drop for PipePeer {
    fn drop(&mut self) {
        self.queue = None;
        let writer = self.writer.take().expect("it is joined once");
        // What it is to write still may be on its way, if somebody reads it; what nobody reads is given up.
        let deadline = Instant::now() + Duration::from_secs(1);
        while !writer.is_finished() {
            if Instant::now() > deadline
                && let Some(handle) = &self.handle
            {
                // SAFETY: no operation is named, which means all.
                unsafe { CancelIoEx(handle.as_raw_handle(), ptr::null()) };
            }
            thread::yield_now();
        }
        writer.join().expect("it writes");
    }
}

macro_rules! pipes {
    ($($name:ident)*) => {
        $(#[test] fn $name() { crate::worlds::run::<PipeWorld>(crate::tests::$name); })*
    };
}

pipes! {
    bytes_arrive_exactly_and_in_order_however_they_are_split
    a_pause_loses_nothing_and_brings_nothing
    receiving_may_begin_long_after_the_bytes_have_come
    a_small_send_is_done_at_once
    a_send_of_many_pieces_keeps_their_order
    a_pending_send_completes_once_with_its_whole_count
    bytes_of_a_pending_send_are_dropped_once_when_the_handle_is_closed
    a_pending_send_that_is_given_up_says_what_was_sent_and_the_next_one_follows
    closing_twice_is_harmless_and_everything_afterwards_fails
    an_orderly_close_lets_the_peer_have_what_was_sent
    an_abort_resets_at_once_although_the_handle_is_held
    one_poll_receives_about_64_kib_and_a_flood_starves_nobody
    large_messages_come_in_large_buffers
    every_handle_can_be_asked_for_its_address
    a_file_that_the_kernel_cannot_send_is_refused_and_the_connection_goes_on
}

fn run(test: fn(Bench<PipeWorld>)) {
    crate::worlds::run::<PipeWorld>(test);
}

/// Its bytes first; sending then fails, and says nothing of what is to be read.
#[test]
fn what_a_client_wrote_before_it_closed_is_received_and_then_the_end() {
    run(|mut bench| {
        let Connection { handle, token, mut peer } = bench.connect();
        assert_eq!(peer.send(&pattern(10_000)), 10_000);
        drop(peer);
        bench.until("sending fails", |bench| match bench.engine().send(&handle, outgoing(b"?")) {
            Submission::Failed { error, .. } => {
                assert!(matches!(error.raw_os_error(), Some(EPIPE | ECONNRESET)), "{error:?}");
                true
            }
            _ => false,
        });
        bench.engine().receive(&handle);
        bench.until("the end comes", |bench| bench.record(token).ended);
        assert!(bench.record(token).data == pattern(10_000));
        assert_eq!(bench.record(token).failure, None);
    });
}

#[test]
fn a_pipe_has_no_half_close_and_says_so() {
    run(|mut bench| {
        let mut connection = bench.connect_receiving();
        let error = bench.engine().shutdown_write(&connection.handle).expect_err("there is none");
        assert_eq!(error.raw_os_error(), Some(WSAEOPNOTSUPP));
        assert_eq!(connection.peer.send(b"on"), 2);
        bench.until("it goes on", |bench| bench.record(connection.token).data == b"on");
    });
}

/// The client's end is a stream as well.
#[test]
fn both_ends_may_be_the_engines() {
    run(|mut bench| {
        let (_listener, place) = bench.listen();
        let Place::Pipe(name) = &place else { unreachable!() };
        let end = open(name, PATIENCE).expect("connects").into_raw_handle() as i64;
        let client = bench.engine().adopt(end, Kind::Pipe).expect("adopts the client's end");
        let token = bench.token();
        bench.engine().associate(&client, token).expect("associates it");
        bench.until("it is accepted", |bench| !bench.accepted.is_empty());
        let (server, peer) = bench.accepted.remove(0);
        assert_eq!(peer, Address::Pipe(None));
        let servers = bench.token();
        bench.engine().associate(&server, servers).expect("associates it");
        for handle in [&client, &server] {
            assert_eq!(bench.engine().local_address(handle).expect("has one"), Address::Pipe(Some(name.clone())));
            bench.engine().receive(handle);
            assert!(!matches!(bench.engine().send(handle, outgoing(b"hello")), Submission::Failed { .. }));
        }
        bench.until("both have it", |bench| bench.record(token).data == b"hello" && bench.record(servers).data == b"hello");
        bench.engine().close(&client, Closing::Abort);
        bench.until("the end comes", |bench| bench.record(servers).ended);
    });
}

#[test]
fn both_ends_may_send_much_at_the_same_time() {
    run(|mut bench| {
        let (_listener, place) = bench.listen();
        let Place::Pipe(name) = &place else { unreachable!() };
        let end = open(name, PATIENCE).expect("connects").into_raw_handle() as i64;
        let client = bench.engine().adopt(end, Kind::Pipe).expect("adopts the client's end");
        bench.until("it is accepted", |bench| !bench.accepted.is_empty());
        let (server, _) = bench.accepted.remove(0);
        let ends = [client, server].map(|handle| {
            let token = bench.token();
            bench.engine().associate(&handle, token).expect("associates it");
            bench.engine().receive(&handle);
            (handle, token)
        });
        let bytes = pattern(100_000);
        let mut sent = [0, 0];
        for (handle, _) in &ends {
            assert!(!matches!(bench.engine().send(handle, outgoing(&bytes)), Submission::Failed { .. }));
        }
        bench.until("both have all", |bench| {
            for (index, (handle, token)) in ends.iter().enumerate() {
                let told = bench.record(*token).sent.len();
                // Whatever is done at once has no completion: one at a time, and a small one, so that some are and some are not.
                if sent[index] < 60
                    && matches!(bench.engine().send(handle, outgoing(&bytes[..50_000])), Submission::Done { .. } | Submission::Pending)
                {
                    sent[index] += 1;
                }
                assert!(told <= 61);
            }
            let whole = 100_000 + 60 * 50_000;
            ends.iter().all(|(_, token)| bench.record(*token).data.len() == whole)
        });
    });
}

#[test]
fn a_pipe_that_somebody_has_is_not_made_again_and_one_that_nobody_has_is_not_found() {
    run(|mut bench| {
        let name = new_name();
        assert_eq!(number(&open(&name, Duration::ZERO).expect_err("nobody has made it")), ERROR_FILE_NOT_FOUND);
        let descriptor = pipe::create(&name, true).expect("makes it").into_raw_handle() as i64;
        // Wine 8 does not know that there may be a first one only.
        if let Err(error) = pipe::create(&name, true) {
            assert_eq!(number(&error), ERROR_ACCESS_DENIED);
        }
        let listener = bench.engine().adopt(descriptor, Kind::Listener).expect("adopts it");
        let token = bench.token();
        bench.engine().associate(&listener, token).expect("associates it");
        bench.accept(&listener);
        bench.engine().close(&listener, Closing::Orderly);
        bench.settle();
        assert_eq!(number(&open(&name, Duration::ZERO).expect_err("it is closed")), ERROR_FILE_NOT_FOUND);
        drop(pipe::create(&name, true).expect("the name is free"));
    });
}

/// There is no backlog but the instances.
#[test]
fn clients_that_come_during_a_pause_are_accepted_after_it() {
    run(|mut bench| {
        let (listener, place) = bench.listen();
        bench.poll();
        bench.engine().pause_accept(&listener);
        let mut peers: Vec<_> = (0..2).map(|_| bench.world.connect(&place).expect("connects")).collect();
        bench.settle();
        assert!(bench.accepted.is_empty());
        bench.accept(&listener);
        bench.until("both are accepted", |bench| bench.accepted.len() == 2);
        for _ in 0..20 {
            peers.push(bench.world.connect(&place).expect("connects"));
            let count = peers.len();
            bench.until("it is accepted", |bench| bench.accepted.len() == count);
        }
    });
}
