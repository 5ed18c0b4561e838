//! Reads past the page cache that their asker begins himself.

use std::any::Any;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proactor_core::files::{Action, Begun, Complete, File, Files, Limits, Memory, Outcome, Request, Waited, next_id};

use crate::{PATIENCE, SMALL, World, platform};

const LENGTH: usize = 4096;
const BLOCKS: usize = 64;

/// A block's worth, where a device can write it.
#[repr(align(4096))]
struct Block([u8; LENGTH]);

struct Page {
    block: Box<Block>,
    alive: Arc<AtomicUsize>,
}

impl Drop for Page {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

// SAFETY: the box owns its bytes and does not move them.
unsafe impl Memory for Page {
    fn start(&self) -> *mut u8 {
        self.block.0.as_ptr().cast_mut()
    }

    fn length(&self) -> usize {
        LENGTH
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// The number of the block that the bytes are of.
struct Numbers(Mutex<Sender<usize>>);

impl Complete for Numbers {
    fn complete(&self, _id: u64, outcome: Outcome) {
        assert_eq!((outcome.transferred, outcome.error), (LENGTH, None));
        let page = outcome.memory.into_any().downcast::<Page>().expect("it was one");
        let number = usize::from(page.block.0[0]);
        assert!(page.block.0.iter().all(|byte| usize::from(*byte) == number));
        drop(page);
        self.0.lock().unwrap().send(number).expect("the test waits for every completion");
    }
}

struct Direct {
    world: World,
    numbers: std::sync::mpsc::Receiver<usize>,
    sink: Arc<Numbers>,
}

impl Direct {
    /// None, where the file system has no such thing.
    fn new(files: impl FnOnce(Limits) -> Files) -> Option<Self> {
        let bytes: Vec<u8> = (0..BLOCKS * LENGTH).map(|index| (index / LENGTH) as u8).collect();
        let mut world = World::new("threads", SMALL, &bytes);
        match OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&world.path) {
            Ok(file) => world.file = platform::opened(&file),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
                eprintln!("skipped: the file system of {} does not bypass the page cache", world.path.display());
                return None;
            }
        }
        world.files = files(Limits { ring: 16, ..SMALL });
        let (sender, numbers) = channel();
        Some(Direct { world, numbers, sink: Arc::new(Numbers(Mutex::new(sender))) })
    }

    fn request(&self, file: &Arc<File>, number: usize) -> Request {
        self.world.alive.fetch_add(1, Ordering::SeqCst);
        let memory = Box::new(Page { block: Box::new(Block([0xff; LENGTH])), alive: self.world.alive.clone() });
        let (file, sink) = (file.clone(), self.sink.clone());
        Request { id: next_id(), file, action: Action::Read, offset: (number * LENGTH) as u64, memory, transferred: 0, sink }
    }

    /// Begins one as soon as there is room.
    fn begin(&self, number: usize) -> Begun {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.world.files.begin(self.request(&self.world.file, number)) {
                Ok(begun) => return begun,
                Err(request) => drop(request),
            }
            assert!(Instant::now() < until, "there is no room, or the kernel refuses io_submit");
            self.world.files.look();
        }
    }

    fn wait(&self, begun: Begun) {
        while self.world.files.wait(begun, Duration::from_millis(100)) == Waited::Over {}
    }

    fn told(&self, count: usize) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..count).map(|_| self.numbers.recv_timeout(PATIENCE).expect("a completion")).collect();
        numbers.sort_unstable();
        numbers
    }
}

#[test]
fn what_was_begun_completes_with_whoever_waits() {
    let Some(direct) = Direct::new(Files::open) else { return };
    let begun: Vec<Begun> = (0..8).map(|number| direct.begin(number)).collect();
    for begun in begun.into_iter().rev() {
        direct.wait(begun);
        direct.wait(begun); // as one that has come
    }
    assert_eq!(direct.told(8), (0..8).collect::<Vec<_>>());
    assert_eq!((direct.world.files.statistics().begun, direct.world.alive.load(Ordering::SeqCst)), (8, 0));
}

#[test]
fn many_under_way_leave_some_to_the_mechanism() {
    let Some(direct) = Direct::new(Files::open) else { return };
    let mut refused = 0;
    for number in 0..BLOCKS {
        if let Err(request) = direct.world.files.begin(direct.request(&direct.world.file, number)) {
            refused += 1;
            direct.world.files.submit(request);
        }
    }
    direct.world.files.push_all();
    assert_eq!(direct.told(BLOCKS), (0..BLOCKS).collect::<Vec<_>>());
    assert!(refused > 0, "a queue without an end");
    assert_eq!(direct.world.files.statistics().submitted, BLOCKS as u64);
}

#[test]
fn what_was_pushed_completes_with_nobody() {
    let Some(direct) = Direct::new(Files::open) else { return };
    let begun: Vec<Begun> = (0..4).map(|number| direct.begin(number)).collect();
    for begun in begun {
        direct.world.files.push(begun);
    }
    assert_eq!(direct.told(4), [0, 1, 2, 3]);
}

#[test]
fn threads_that_wait_at_the_same_time_each_see_theirs() {
    let Some(direct) = Direct::new(Files::open) else { return };
    let mut all = Vec::new();
    for _ in 0..200 {
        std::thread::scope(|scope| {
            for number in 0..4 {
                let begun = direct.begin(number);
                let files = &direct.world.files;
                scope.spawn(move || while files.wait(begun, Duration::from_millis(100)) == Waited::Over {});
            }
        });
        all.extend(direct.told(4));
    }
    assert!(all.chunks(4).all(|numbers| numbers == [0, 1, 2, 3]));
}

#[test]
fn a_close_completes_what_was_begun_and_begins_no_more() {
    let Some(direct) = Direct::new(Files::open) else { return };
    for number in 0..8 {
        direct.begin(number);
    }
    direct.world.files.close();
    assert_eq!(direct.told(8), (0..8).collect::<Vec<_>>());
    assert_eq!(direct.world.alive.load(Ordering::SeqCst), 0);
    assert!(direct.world.files.begin(direct.request(&direct.world.file, 0)).is_err());
}

#[test]
fn what_nobody_waits_for_completes_after_the_engine_is_gone() {
    let Some(mut direct) = Direct::new(Files::open) else { return };
    for number in 0..8 {
        direct.begin(number);
    }
    direct.world.files = Files::open(SMALL);
    assert_eq!(direct.told(8), (0..8).collect::<Vec<_>>());
}

#[test]
fn only_a_read_past_the_page_cache_is_begun_and_none_where_threads_are_wanted() {
    let Some(direct) = Direct::new(Files::open) else { return };
    let cached = OpenOptions::new().read(true).open(&direct.world.path).unwrap();
    assert!(direct.world.files.begin(direct.request(&platform::opened(&cached), 0)).is_err());
    let mut write = direct.request(&direct.world.file, 0);
    write.action = Action::Write;
    assert!(direct.world.files.begin(write).is_err());
    let Some(threads) = Direct::new(|limits| Files::open_named("threads", limits).unwrap()) else { return };
    assert!(threads.world.files.begin(threads.request(&threads.world.file, 0)).is_err());
    assert_eq!(threads.world.files.statistics().begun, 0);
}

/// One of the kernel's own stands in for a file system that cannot say whether it would wait.
#[test]
fn a_file_that_cannot_be_read_so_is_the_callers_again() {
    let Some(direct) = Direct::new(Files::open) else { return };
    let kernels = File::new(std::fs::File::open("/proc/self/stat").unwrap().into(), true);
    assert!(direct.world.files.begin(direct.request(&kernels, 0)).is_err());
    assert_eq!(direct.world.alive.load(Ordering::SeqCst), 0);
}

/// How much was transferred.
struct Amounts(Mutex<Sender<usize>>);

impl Complete for Amounts {
    fn complete(&self, _id: u64, outcome: Outcome) {
        let amount = outcome.transferred;
        drop(outcome);
        self.0.lock().unwrap().send(amount).expect("the test waits for it");
    }
}

#[test]
fn what_goes_to_the_kernel_together_completes_each_for_itself() {
    let Some(direct) = Direct::new(|limits| Files::open(Limits { ring: BLOCKS as u32, ..limits })) else { return };
    for place in BLOCKS / 2..BLOCKS / 2 + 8 {
        let mut begun: Vec<Begun> = (0..place).map(|number| direct.begin(number)).collect();
        // The first are refused, more than a few in a row, because what was written has to go to the disk before: later ones are tried again.
        // Among those that go together one that the kernel refuses.
        let kernels = File::new(std::fs::File::open("/proc/self/stat").unwrap().into(), true);
        let (sender, amounts) = channel();
        let request = Request { sink: Arc::new(Amounts(Mutex::new(sender))), ..direct.request(&kernels, 0) };
        if let Err(request) = direct.world.files.begin(request) {
            direct.world.files.submit(request);
        }
        begun.extend((place..BLOCKS - 1).map(|number| direct.begin(number)));
        begun.into_iter().for_each(|begun| direct.wait(begun));
        assert_eq!(direct.told(BLOCKS - 1), (0..BLOCKS - 1).collect::<Vec<_>>());
        assert!(amounts.recv_timeout(PATIENCE).expect("the mechanism reads it") > 0);
    }
    assert_eq!(direct.world.alive.load(Ordering::SeqCst), 0);
}
