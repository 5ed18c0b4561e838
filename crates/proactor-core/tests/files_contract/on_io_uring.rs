//! What concerns io_uring alone.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use proactor_core::files::{Action, Complete, File, Limits, Outcome};

use crate::{PATIENCE, Told, World};

/// Holds the reaper up until it may go on, then tells.
struct Stalling {
    told: Told,
    stalled: Mutex<Sender<()>>,
    go_on: Mutex<Receiver<()>>,
}

impl Complete for Stalling {
    fn complete(&self, id: u64, outcome: Outcome) {
        // The test has gone on: so do all that follow.
        if self.stalled.lock().unwrap().send(()).is_ok() {
            let _ = self.go_on.lock().unwrap().recv(); // an error: it may
        }
        self.told.complete(id, outcome);
    }
}

/// A completion queue of 16 (fault 4), for 64 requests. What does not fit the kernel keeps (IORING_FEAT_NODROP, Linux 5.5), says so in the submission queue's flags
/// (IORING_SQ_CQ_OVERFLOW), and puts into the queue at the next `io_uring_enter`.
#[test]
fn a_completion_queue_that_overflows_loses_nothing() {
    crate::on_the_owner(overflow);
}

fn overflow(name: &str) {
    let limits = Limits { ring: 64, completions: Some(16), threads: 2 };
    let mut world = World::new(name, limits, &[]);
    let (reader, mut writer) = std::io::pipe().unwrap();
    world.file = File::new(OwnedFd::from(reader), false);
    let (told, receiver) = channel();
    let (stalled, is_stalled) = channel();
    let (let_go, go_on) = channel::<()>();
    let sink = Arc::new(Stalling { told: Told(Mutex::new(told)), stalled: Mutex::new(stalled), go_on: Mutex::new(go_on) });
    let mut expected: Vec<u64> = (0..64)
        .map(|_| {
            let mut request = world.request(Action::Read, 0, vec![0; 1]);
            request.sink = sink.clone();
            let id = request.id;
            world.files.submit(request);
            id
        })
        .collect();
    // All are with the kernel, or will be before anything is reaped: what still waited would wait for the reaper, which is to be held up.
    while world.files.statistics().waiting > 0 {
        std::thread::yield_now();
    }
    // One completes, in whose completion the reaper is held up; the others complete meanwhile.
    std::io::Write::write_all(&mut writer, &[1; 64]).unwrap();
    is_stalled.recv_timeout(PATIENCE).expect("the first completes");
    drop(is_stalled);
    while pending_bytes(&world.file) > 0 {
        std::thread::yield_now();
    }
    drop(let_go);
    let mut ids: Vec<u64> = (0..64)
        .map(|_| {
            let (id, _, transferred, error) = receiver.recv_timeout(PATIENCE).expect("a completion");
            assert_eq!((transferred, error), (1, None));
            id
        })
        .collect();
    ids.sort_unstable();
    expected.sort_unstable();
    assert_eq!(ids, expected);
    assert!(world.files.statistics().overflows > 0, "it was to overflow");
    assert_eq!(world.alive.load(Ordering::SeqCst), 0);
}

/// So many bytes lie in the pipe.
fn pending_bytes(pipe: &File) -> i32 {
    let mut count = 0;
    // SAFETY: the descriptor is open, and FIONREAD writes an int.
    assert_eq!(unsafe { libc::ioctl(pipe.descriptor(), libc::FIONREAD, &raw mut count) }, 0);
    count
}
