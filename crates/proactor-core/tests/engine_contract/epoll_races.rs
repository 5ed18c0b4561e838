//! Races of the epoll engine, run for real: many rounds of two threads and a poll.

use std::io::{Read, Write};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use proactor_core::buffer::Outgoing;
use proactor_core::completion::Outcome;
use proactor_core::engine::epoll::Epoll;
use proactor_core::engine::{Closing, Engine, Handle, Kind, Submission};

use crate::doubles::*;
use crate::epoll::{open, pair, token};
use crate::worlds::*;

#[test]
fn ten_thousand_closes_race_with_sends_receives_and_polls() {
    let engine = open();
    let stop = Arc::new(AtomicBool::new(false));
    let leader = {
        let (engine, stop) = (Arc::clone(&engine), Arc::clone(&stop));
        thread::spawn(move || {
            let mut completions = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                engine.poll(Some(Duration::from_millis(10)), &mut completions).expect("polls");
                for completion in completions.drain(..) {
                    if let Outcome::Received(received) = completion.outcome {
                        // Every byte names its round: a byte of another round came through a descriptor that was used again.
                        let round = completion.token.generation as u8;
                        assert!(received.as_slice().iter().all(|byte| *byte == round), "bytes of another connection");
                    }
                }
            }
        })
    };
    // Two threads that act on whatever handle they are given, until they are given the next.
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::sync_channel::<(Handle, u8)>(0)).unzip();
    let canaries = Arc::new(AtomicUsize::new(0));
    let made = Arc::new(AtomicUsize::new(0));
    let mut receivers = receivers.into_iter();
    let (sending, resuming) = (receivers.next().expect("two"), receivers.next().expect("two"));
    let sender = {
        let (engine, canaries, made) = (Arc::clone(&engine), Arc::clone(&canaries), Arc::clone(&made));
        thread::spawn(move || {
            for (handle, round) in sending {
                for size in [100, 400_000] {
                    let mut data = Outgoing::new();
                    data.push_shared(Canary::shared(&vec![round; size], &canaries));
                    made.fetch_add(1, Ordering::Relaxed);
                    if !matches!(engine.send(&handle, data), Submission::Done { .. }) {
                        break; // pending, or closed
                    }
                }
            }
        })
    };
    let resumer = {
        let engine = Arc::clone(&engine);
        thread::spawn(move || {
            for (handle, _) in resuming {
                for _ in 0..3 {
                    engine.receive(&handle);
                    engine.pause_receive(&handle);
                }
                engine.receive(&handle);
            }
        })
    };
    for round in 0..10_000_u32 {
        let (handle, mut peer) = pair(&engine, token(3, round));
        engine.receive(&handle);
        peer.write_all(&[round as u8; 500]).expect("sends");
        for sender in &senders {
            sender.send((handle.clone(), round as u8)).expect("hands over");
        }
        if round % 3 == 0 {
            // The peer takes some, so that the poll goes on with a send.
            peer.set_nonblocking(true).expect("is set");
            let mut memory = [0; 65_536];
            while let Ok(count @ 1..) = peer.read(&mut memory) {
                assert!(memory[..count].iter().all(|byte| *byte == round as u8), "bytes of another connection");
            }
        }
        engine.close(&handle, if round % 2 == 0 { Closing::Orderly } else { Closing::Abort });
    }
    drop(senders);
    within_patience("the threads end", move || {
        sender.join().expect("sends");
        resumer.join().expect("resumes");
        stop.store(true, Ordering::Relaxed);
        leader.join().expect("polls");
    });
    assert_eq!(canaries.load(Ordering::SeqCst), made.load(Ordering::SeqCst), "every buffer is dropped once");
}

/// Whoever gives up a send and hears that it is over tells its owner so, who then uses the memory again.
#[test]
fn nobody_hears_that_a_send_is_over_before_its_memory_is_let_go() {
    for kind in [Kind::Unix, Kind::Datagram] {
        let engine = open();
        let (ours, theirs): (OwnedFd, OwnedFd) = match kind {
            Kind::Unix => UnixStream::pair().map(|(ours, theirs)| (ours.into(), theirs.into())).expect("makes a pair"),
            _ => UnixDatagram::pair().map(|(ours, theirs)| (ours.into(), theirs.into())).expect("makes a pair"),
        };
        let handle = engine.adopt(ours.into_raw_fd().into(), kind).expect("adopts");
        engine.associate(&handle, token(0, 1)).expect("associates");
        let let_go = Arc::new(AtomicUsize::new(0));
        let send = || {
            let mut data = Outgoing::new();
            data.push_shared(Arc::new(Asking {
                bytes: vec![7; 50_000],
                engine: engine.clone(),
                handle: handle.clone(),
                let_go: let_go.clone(),
            }));
            if kind == Kind::Unix { engine.send(&handle, data) } else { engine.send_to(&handle, data, None) }
        };
        while !matches!(send(), Submission::Pending) {}
        let_go.store(0, Ordering::SeqCst);
        drop(theirs); // the send fails, with its memory still there
        let mut completions = Vec::new();
        while completions.is_empty() {
            engine.poll(Some(PATIENCE), &mut completions).expect("polls");
        }
        assert!(matches!(completions[0].outcome, Outcome::SendFailed { .. }), "{:?}", completions[0].outcome);
        assert_eq!(let_go.load(Ordering::SeqCst), 1, "it was let go, and nobody heard of it before");
    }
}

/// Bytes that, as they are dropped, have somebody give up their send, who is not to be answered yet.
struct Asking {
    bytes: Vec<u8>,
    engine: Arc<Epoll>,
    handle: Handle,
    /// How many were dropped so.
    let_go: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Asking {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let (tell, told) = mpsc::channel();
        let (engine, handle) = (self.engine.clone(), self.handle.clone());
        thread::spawn(move || tell.send(engine.cancel_send(&handle)));
        let unanswered = told.recv_timeout(Duration::from_millis(100)).is_err();
        self.let_go.fetch_add(usize::from(unanswered), Ordering::SeqCst);
    }
}

#[test]
fn no_edge_is_lost_between_a_blocked_send_and_the_poll() {
    const BLOCKED: usize = 1_000;
    let engine = open();
    let (handle, mut peer) = pair(&engine, token(0, 1));
    let bytes = pattern(300_000); // more than the socket holds, if the peer is not as fast
    let reader = thread::spawn(move || {
        let mut total = 0;
        let mut memory = vec![0; 100_000];
        loop {
            match peer.read(&mut memory).expect("reads") {
                0 => return total,
                count => total += count,
            }
        }
    });
    let (tell, told) = mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let leader = {
        let (engine, stop) = (Arc::clone(&engine), Arc::clone(&stop));
        thread::spawn(move || {
            let mut completions = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                engine.poll(None, &mut completions).expect("polls"); // sleeps for ever if an edge is lost
                for completion in completions.drain(..) {
                    match completion.outcome {
                        Outcome::Sent { bytes } => tell.send(bytes).expect("tells"),
                        other => panic!("{other:?}"),
                    }
                }
            }
        })
    };
    let (mut sends, mut pending) = (0, 0);
    let deadline = Instant::now() + PATIENCE;
    while pending < BLOCKED {
        assert!(Instant::now() < deadline, "only {pending} of {sends} sends were pending");
        sends += 1;
        match engine.send(&handle, outgoing(&bytes)) {
            Submission::Done { bytes: count } => assert_eq!(count, bytes.len()),
            Submission::Pending => {
                pending += 1;
                assert_eq!(told.recv_timeout(PATIENCE).expect("the send completes"), bytes.len());
            }
            Submission::Failed { error, .. } => panic!("{error}"),
        }
    }
    engine.shutdown_write(&handle).expect("finishes");
    assert_eq!(within_patience("the peer reads all", move || reader.join().expect("reads")), sends * bytes.len());
    stop.store(true, Ordering::Relaxed);
    engine.wake();
    within_patience("the leader ends", move || leader.join().expect("polls"));
}

#[test]
fn no_edge_is_lost_when_receiving_is_paused_and_resumed_from_another_thread() {
    const TOTAL: usize = 20_000_000;
    let engine = open();
    let (handle, mut peer) = pair(&engine, token(0, 1));
    let writer = thread::spawn(move || {
        let bytes = pattern(7_919);
        let mut left = TOTAL;
        while left > 0 {
            let count = left.min(bytes.len());
            peer.write_all(&bytes[..count]).expect("sends");
            left -= count;
        }
    });
    let ended = Arc::new(AtomicBool::new(false));
    let toggler = {
        let (engine, handle, ended) = (Arc::clone(&engine), handle.clone(), Arc::clone(&ended));
        thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                engine.pause_receive(&handle);
                thread::yield_now();
                engine.receive(&handle);
                thread::yield_now();
            }
        })
    };
    let total = within_patience("all bytes and the end come", move || {
        let mut total = 0;
        let mut completions = Vec::new();
        loop {
            engine.poll(None, &mut completions).expect("polls");
            for completion in completions.drain(..) {
                match completion.outcome {
                    Outcome::Received(received) => total += received.len(),
                    Outcome::Ended => return total,
                    other => panic!("{other:?}"),
                }
            }
        }
    });
    ended.store(true, Ordering::Relaxed);
    assert_eq!(total, TOTAL);
    writer.join().expect("writes");
    toggler.join().expect("toggles");
}

// Time.
