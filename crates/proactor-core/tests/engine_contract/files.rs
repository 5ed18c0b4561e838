//! Files that are sent: the part of the suite that is about `send_file`.

use std::fs;
use std::io::{self, Read, Seek, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proactor_core::engine::{Closing, Engine, FileSubmission, Handle, Submission};
use proactor_core::files::{File, RawDescriptor};
use proactor_core::numbers::{ECONNRESET, EPIPE};
use proactor_core::source::Source;

use crate::worlds::{Bench, Connection, Peer, World, outgoing, pattern};

/// A file of these bytes, and its owner's descriptor. It has no name any more.
pub fn file_of(bytes: &[u8]) -> (Arc<File>, fs::File) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("proactor-contract-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    let mut owners = fs::File::options().read(true).write(true).create_new(true).open(&path).expect("makes a file");
    // As the library has it: with a position of its own, or none.
    let (file, _) = File::duplicate(descriptor(&owners)).expect("opens it once more");
    fs::remove_file(&path).expect("takes its name away");
    owners.write_all(bytes).expect("writes it");
    owners.rewind().expect("rewinds it");
    (file, owners)
}

#[cfg(unix)]
fn descriptor(file: &fs::File) -> RawDescriptor {
    std::os::fd::AsRawFd::as_raw_fd(file)
}

#[cfg(windows)]
fn descriptor(file: &fs::File) -> RawDescriptor {
    std::os::windows::io::AsRawHandle::as_raw_handle(file)
}

/// Sends a piece of a file whole, while the peer reads; answers how much was sent, and what has come.
fn send_whole<W: World>(
    bench: &mut Bench<W>,
    connection: &mut Connection<W::Peer>,
    source: &dyn Source,
    offset: u64,
    length: u64,
) -> (u64, Vec<u8>) {
    let (mut sent, mut received) = (0, Vec::new());
    let mut told = bench.record(connection.token).sent.len();
    loop {
        match bench.engine().send_file(&connection.handle, source, offset + sent, length - sent) {
            FileSubmission::Done { bytes } => {
                sent += bytes;
                break;
            }
            FileSubmission::Pending { bytes } => {
                sent += bytes;
                told += 1;
                bench.until("there is room again", |bench| {
                    received.extend(connection.peer.received());
                    bench.record(connection.token).sent.len() == told
                });
                sent += *bench.record(connection.token).sent.last().expect("it was told") as u64;
            }
            other => panic!("{other:?}"),
        }
    }
    bench.until("all of it comes", |_| {
        received.extend(connection.peer.received());
        received.len() as u64 >= sent
    });
    assert!(bench.record(connection.token).send_failures.is_empty());
    (sent, received)
}

pub fn a_piece_of_a_file_is_sent_and_what_follows_comes_after_it<W: World>(mut bench: Bench<W>) {
    let bytes = pattern(3_000_000);
    let (file, mut owners) = file_of(&bytes);
    let mut connection = bench.connect_narrow();
    let (sent, received) = send_whole(&mut bench, &mut connection, &*file, 12_345, 2_000_001);
    assert_eq!(sent, 2_000_001);
    assert!(received == bytes[12_345..2_012_346], "the bytes differ");
    assert_eq!(owners.stream_position().expect("has a position"), 0, "its owner's position was moved");
    let mut first = [0; 10];
    owners.read_exact(&mut first).expect("the owner's descriptor is open");
    assert_eq!(first, bytes[..10]);
    crate::suite::send_all(&mut bench, &mut connection, b"next");
    let mut received = Vec::new();
    bench.until("the next send comes", |_| {
        received.extend(connection.peer.received());
        received.len() >= 4
    });
    assert_eq!(received, b"next");
}

pub fn a_file_that_ends_before_the_piece_is_sent_up_to_its_end<W: World>(mut bench: Bench<W>) {
    let bytes = pattern(100_000);
    let (file, _owners) = file_of(&bytes);
    let mut connection = bench.connect();
    let (sent, received) = send_whole(&mut bench, &mut connection, &*file, 90_000, 50_000);
    assert_eq!(sent, 10_000);
    assert!(received == bytes[90_000..], "the bytes differ");
    assert!(matches!(bench.engine().send_file(&connection.handle, &*file, 100_000, 1), FileSubmission::Done { bytes: 0 }));
}

pub fn a_piece_may_lie_beyond_the_first_4_gib<W: World>(mut bench: Bench<W>) {
    const OFFSET: u64 = (5 << 30) + 7;
    let bytes = pattern(10_000);
    let (file, mut owners) = file_of(b"begins");
    owners.seek(io::SeekFrom::Start(OFFSET)).expect("leaves a hole");
    owners.write_all(&bytes).expect("writes");
    let mut connection = bench.connect();
    let (sent, received) = send_whole(&mut bench, &mut connection, &*file, OFFSET, 20_000);
    assert_eq!(sent, 10_000);
    assert!(received == bytes, "the bytes differ");
}

pub fn a_file_that_finds_no_room_completes_once_there_is_some<W: World>(mut bench: Bench<W>) {
    let (file, _owners) = file_of(&pattern(8 << 20));
    let mut connection = bench.connect_narrow();
    let mut sent = 0;
    // It may find room once more while the network takes what it has.
    loop {
        match bench.engine().send_file(&connection.handle, &*file, sent, (8 << 20) - sent) {
            FileSubmission::Pending { bytes } => sent += bytes,
            other => panic!("more than there is room for: {other:?}"),
        }
        let told = bench.record(connection.token).sent.len();
        bench.settle();
        if bench.record(connection.token).sent.len() == told {
            break;
        }
    }
    let told = bench.record(connection.token).sent.len();
    let mut received = 0;
    bench.until("there is room", |bench| {
        received += connection.peer.received().len();
        bench.record(connection.token).sent.len() > told
    });
    assert_eq!(bench.record(connection.token).sent.len(), told + 1);
    bench.settle();
    assert_eq!(bench.record(connection.token).sent.len(), told + 1, "it completes once");
    assert_eq!(bench.engine().cancel_send(&connection.handle), None, "nothing is pending");
}

/// Sends a file until there is no room for it.
fn fill(engine: &dyn Engine, handle: &Handle, file: &File) {
    match engine.send_file(handle, file, 0, 8 << 20) {
        FileSubmission::Pending { bytes } => assert!(bytes < 8 << 20),
        other => panic!("more than there is room for: {other:?}"),
    }
}

pub fn a_reset_ends_the_sending_of_a_file<W: World>(mut bench: Bench<W>) {
    let (file, _owners) = file_of(&pattern(8 << 20));
    for told_first in [true, false] {
        let Connection { handle, token, peer } = bench.connect_narrow();
        fill(&*bench.engine(), &handle, &file);
        peer.reset();
        if told_first {
            bench.until("the sender is told", |bench| {
                let record = bench.record(token);
                !record.sent.is_empty() || !record.send_failures.is_empty()
            });
        }
        // However often it is asked: a reset, or the pipe that it broke.
        let mut failure = None;
        bench.until("sending fails", |bench| {
            if bench.record(token).sent.is_empty() && bench.record(token).send_failures.is_empty() {
                return false; // still pending
            }
            failure = match bench.engine().send_file(&handle, &*file, 0, 1000) {
                FileSubmission::Failed { error, .. } => error.raw_os_error(),
                FileSubmission::Pending { .. } => {
                    bench.engine().cancel_send(&handle);
                    None
                }
                FileSubmission::Done { .. } => None,
            };
            failure.is_some()
        });
        assert!(failure == Some(ECONNRESET) || failure == Some(EPIPE), "{failure:?}");
        bench.engine().close(&handle, Closing::Abort);
        bench.free(token);
    }
}

pub fn a_closed_handle_sends_no_file_and_tells_of_none<W: World>(mut bench: Bench<W>) {
    let (file, _owners) = file_of(&pattern(8 << 20));
    let Connection { handle, token, mut peer } = bench.connect_narrow();
    fill(&*bench.engine(), &handle, &file);
    bench.engine().close(&handle, Closing::Orderly);
    bench.free(token);
    peer.received();
    bench.settle();
    match bench.engine().send_file(&handle, &*file, 0, 1000) {
        FileSubmission::Failed { error, sent: 0 } => assert_eq!(error.raw_os_error(), Some(EPIPE)),
        other => panic!("{other:?}"),
    }
}

/// What has no descriptor.
struct Unreachable;

impl Source for Unreachable {
    fn descriptor(&self) -> Option<i64> {
        None
    }

    fn read_at(&self, _memory: &mut [u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Other.into())
    }
}

pub fn a_file_that_the_kernel_cannot_send_is_refused_and_the_connection_goes_on<W: World>(mut bench: Bench<W>) {
    let mut connection = bench.connect();
    match bench.engine().send_file(&connection.handle, &Unreachable, 0, 10) {
        FileSubmission::Failed { error, sent: 0 } => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
        other => panic!("{other:?}"),
    }
    assert!(!matches!(bench.engine().send(&connection.handle, outgoing(b"on")), Submission::Failed { .. }));
    let mut received = Vec::new();
    bench.until("the next send comes", |_| {
        received.extend(connection.peer.received());
        received.len() >= 2
    });
    assert_eq!(received, b"on");
}
