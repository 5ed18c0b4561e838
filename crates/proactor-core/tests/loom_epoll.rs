//! The two lock-free protocols of the epoll engine, explored by loom: no readiness and no notification is lost.

#![cfg(all(feature = "loom", target_os = "linux"))]

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use loom::thread::spawn;
use proactor_core::engine::epoll::{Next, Readiness, Sleep};
use proactor_core::sync::atomic::AtomicUsize;
use proactor_core::sync::{Condvar, Mutex};

/// Bytes come while receiving is paused and resumed and `poll` goes on: in the end they are received, although each edge is told only once.
/// Caught: `next` that looks before it clears; `resume` that does not list; `drained` that leaves `LISTED` set.
#[test]
fn bytes_that_come_during_a_pause_are_received_after_it() {
    explore(|| {
        let socket = Arc::new(Socket::default());
        let peer = {
            let socket = Arc::clone(&socket);
            spawn(move || {
                socket.arrive();
                socket.arrive();
            })
        };
        let user = {
            let socket = Arc::clone(&socket);
            spawn(move || {
                socket.resume();
                socket.readiness.pause();
                socket.resume();
            })
        };
        let mut listed = 0;
        socket.poll(&mut listed);
        peer.join().unwrap();
        user.join().unwrap();
        while socket.poll(&mut listed) {}
        assert_eq!(socket.kernel.lock().bytes, 0, "bytes that nobody will be told of");
    });
}

/// An edge and a `resume` at the same time put the handle on one list, not on both.
/// Caught: `edge` or `resume` that lists without looking.
#[test]
fn a_handle_is_listed_once() {
    explore(|| {
        let socket = Arc::new(Socket::default());
        socket.arrive();
        let mut listed = 0;
        while socket.poll(&mut listed) {} // the edge is consumed during a pause
        socket.arrive();
        let user = {
            let socket = Arc::clone(&socket);
            spawn(move || socket.resume())
        };
        if socket.take_edge() && socket.readiness.edge() {
            listed += 1;
        }
        user.join().unwrap();
        assert_eq!(listed + *socket.resumed.lock(), 1);
    });
}

/// Whoever posts something and notifies is heard by a poll that looks for posts after each sleep.
/// Caught: `notify` that only looks; `end` that stores, or is relaxed; `begin` that sleeps in spite of a notification.
#[test]
fn a_post_is_seen_by_a_poll_that_was_about_to_sleep() {
    explore(|| {
        let bed = Arc::new(Bed::default());
        let posters = [1, 2].map(|_| {
            let bed = Arc::clone(&bed);
            spawn(move || {
                bed.posts.fetch_add(1, Relaxed);
                if bed.sleep.notify() {
                    *bed.interrupted.lock() = true;
                    bed.interruption.notify_one();
                }
            })
        });
        while bed.posts.load(Relaxed) < 2 {
            if bed.sleep.begin() {
                let mut interrupted = bed.interrupted.lock();
                while !*interrupted {
                    interrupted = bed.interruption.wait(interrupted); // a lost notification is a deadlock, which loom reports
                }
                *interrupted = false;
            }
            bed.sleep.end();
        }
        for poster in posters {
            poster.join().unwrap();
        }
    });
}

/// A socket, the kernel's side of it included.
#[derive(Default)]
struct Socket {
    readiness: Readiness,
    kernel: Mutex<Kernel>,
    /// How often the user has put it on the list of resumed handles.
    resumed: Mutex<usize>,
}

#[derive(Default)]
struct Kernel {
    bytes: usize,
    /// Told once.
    edge: bool,
}

impl Socket {
    fn arrive(&self) {
        let mut kernel = self.kernel.lock();
        kernel.bytes += 1;
        kernel.edge = true;
    }

    fn take_edge(&self) -> bool {
        std::mem::take(&mut self.kernel.lock().edge)
    }

    fn resume(&self) {
        if self.readiness.resume() {
            *self.resumed.lock() += 1;
        }
    }

    /// As `poll` does it, with a receive that takes everything; false when there is nothing to do any more.
    fn poll(&self, listed: &mut usize) -> bool {
        if self.take_edge() && self.readiness.edge() {
            *listed += 1;
        }
        *listed += std::mem::take(&mut *self.resumed.lock());
        if *listed == 0 {
            return false;
        }
        *listed -= 1;
        match self.readiness.next() {
            Next::Receive => {
                self.kernel.lock().bytes = 0;
                self.readiness.drained();
            }
            Next::Later => *listed += 1,
            Next::Nothing => {}
        }
        true
    }
}

#[derive(Default)]
struct Bed {
    sleep: Sleep,
    posts: AtomicUsize,
    /// The eventfd.
    interrupted: Mutex<bool>,
    interruption: Condvar,
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(model);
}
