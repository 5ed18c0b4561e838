//! What epoll's engine tells of threads.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use proactor_core::engine::{Activity, Engine, ThreadClock};

use crate::epoll::open;
use crate::worlds::PATIENCE;

/// A thread that reads from a socket until it is dropped.
struct Reader {
    clock: ThreadClock,
    thread: Option<thread::JoinHandle<()>>,
    end: Option<UnixStream>,
}

impl Reader {
    fn start(engine: &Arc<impl Engine + 'static>) -> Self {
        let (mut ours, theirs) = UnixStream::pair().expect("makes a pair");
        let (tell, told) = mpsc::channel();
        let engine = engine.clone();
        let thread = thread::spawn(move || {
            tell.send(engine.thread_clock()).expect("somebody listens");
            assert_eq!(ours.read(&mut [0]).expect("reads"), 0);
        });
        Reader { clock: told.recv().expect("it begins"), thread: Some(thread), end: Some(theirs) }
    }

    fn end(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("ends");
        }
    }
}

/// Threads come to rest, and end, a moment after they say so.
fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::yield_now();
    }
}

fn open_looks() -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").expect("lists").flatten();
    entries.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|path| path.ends_with("syscall"))).count()
}

/// One test, since it counts the descriptors of the process.
#[test]
fn a_glance_tells_what_a_look_tells_and_keeps_a_descriptor_until_it_is_over() {
    let engine = open();
    let mut waiting = Reader::start(&engine);
    until("it reads", || engine.activity(waiting.clock) == Activity::Waiting);
    assert_eq!(open_looks(), 0, "a look keeps none");
    for _ in 0..3 {
        assert_eq!(engine.glance(waiting.clock), Activity::Waiting);
    }
    assert_eq!(open_looks(), 1);

    let stop = Arc::new(AtomicBool::new(false));
    let (tell, told) = mpsc::channel();
    let computing = thread::spawn({
        let (engine, stop) = (engine.clone(), stop.clone());
        move || {
            tell.send(engine.thread_clock()).expect("somebody listens");
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        }
    });
    let clock = told.recv().expect("it begins");
    until("it computes", || engine.glance(clock) == Activity::Running);
    assert_eq!(engine.activity(clock), Activity::Running);
    stop.store(true, Ordering::Relaxed);
    computing.join().expect("ends");
    until("the kernel forgets it", || engine.glance(clock) == Activity::Unknown);
    assert_eq!(open_looks(), 1, "only the one that still reads");

    let many: Vec<Reader> = (0..140).map(|_| Reader::start(&engine)).collect();
    for reader in &many {
        until("it reads", || engine.glance(reader.clock) == Activity::Waiting);
    }
    assert!((1..=128).contains(&open_looks()), "no more than so many: {}", open_looks());
    engine.end_glances();
    assert_eq!(open_looks(), 0);
    assert_eq!(engine.glance(waiting.clock), Activity::Waiting);
    waiting.end();
    for mut reader in many {
        reader.end();
    }
    drop(engine);
    assert_eq!(open_looks(), 0);
}
