//! One suite for every mechanism of `proactor_core::files`: what that module promises. No test sleeps and hopes.

#![cfg(all(any(target_os = "linux", windows), not(any(feature = "loom", feature = "shuttle"))))]

use std::any::Any;
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proactor_core::files::{Action, Cached, Complete, File, Files, Limits, Memory, NAMES, NoMemory, Outcome, Request, next_id};
use proactor_core::numbers::ECANCELED;

#[cfg(target_os = "linux")]
mod on_io_uring;
#[cfg(target_os = "linux")]
mod on_linux;
#[cfg(unix)]
mod on_unix;
#[cfg(unix)]
use on_unix as platform;
#[cfg(windows)]
mod on_windows;
#[cfg(windows)]
use on_windows as platform;

const PATIENCE: Duration = Duration::from_secs(20);
const SMALL: Limits = Limits { ring: 4, completions: None, threads: 2 };

/// Memory that is counted, so that what is lost or freed twice shows.
struct Counted {
    bytes: Box<[u8]>,
    alive: Arc<AtomicUsize>,
}

impl Counted {
    fn new(bytes: Vec<u8>, alive: &Arc<AtomicUsize>) -> Box<Self> {
        alive.fetch_add(1, Ordering::SeqCst);
        Box::new(Counted { bytes: bytes.into(), alive: alive.clone() })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

// SAFETY: the box owns its bytes and does not move them.
unsafe impl Memory for Counted {
    fn start(&self) -> *mut u8 {
        self.bytes.as_ptr().cast_mut()
    }

    fn length(&self) -> usize {
        self.bytes.len()
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// Id, bytes, how many were transferred, the error's number.
type Completion = (u64, Vec<u8>, usize, Option<i32>);

struct Told(Mutex<Sender<Completion>>);

impl Complete for Told {
    fn complete(&self, id: u64, outcome: Outcome) {
        let Outcome { memory, transferred, error } = outcome;
        let bytes = memory.into_any().downcast::<Counted>().map(|counted| counted.bytes.to_vec()).unwrap_or_default();
        self.0.lock().unwrap().send((id, bytes, transferred, error)).expect("the test waits for every completion");
    }
}

struct World {
    files: Files,
    file: Arc<File>,
    told: Receiver<Completion>,
    sink: Arc<Told>,
    alive: Arc<AtomicUsize>,
    path: std::path::PathBuf,
}

impl World {
    fn new(name: &str, limits: Limits, content: &[u8]) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("proactor-files-{}-{number}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let (sender, told) = channel();
        let files = Files::open_named(name, limits).expect("this kernel has it");
        let file = platform::opened(&file);
        World { files, file, told, sink: Arc::new(Told(Mutex::new(sender))), alive: Arc::default(), path }
    }

    fn request(&self, action: Action, offset: u64, bytes: Vec<u8>) -> Request {
        let memory: Box<dyn Memory> = Counted::new(bytes, &self.alive);
        Request { id: next_id(), file: self.file.clone(), action, offset, memory, transferred: 0, sink: self.sink.clone() }
    }

    fn submit(&self, action: Action, offset: u64, bytes: Vec<u8>) -> u64 {
        let request = self.request(action, offset, bytes);
        let id = request.id;
        self.files.submit(request);
        id
    }

    fn next(&self) -> Completion {
        self.told.recv_timeout(PATIENCE).expect("a completion")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.files.close();
        assert!(self.told.try_recv().is_err() || std::thread::panicking(), "a completion that nobody expected");
        drop(std::fs::remove_file(&self.path));
    }
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 7) as u8).collect()
}

fn what_is_written_is_read_and_short_at_the_end(name: &str) {
    let world = World::new(name, SMALL, &[]);
    world.submit(Action::Write, 3, content(10_000));
    assert_eq!(world.next().2, 10_000);
    world.submit(Action::Sync { data_only: false }, 0, Vec::new());
    assert_eq!(world.next().3, None);
    world.submit(Action::Read, 5000, vec![0; 10_000]);
    let (_, bytes, transferred, error) = world.next();
    assert_eq!((transferred, error), (5003, None));
    assert_eq!(bytes[..transferred], content(10_000)[4997..]);
    world.submit(Action::Read, 1 << 40, vec![0; 10]);
    assert_eq!(world.next().2, 0);
}

fn many_more_than_fit_complete_once_each(name: &str) {
    let world = World::new(name, SMALL, &content(100_000));
    let expected = content(100_000);
    let mut offsets = HashMap::new();
    for number in 0..5000 {
        let offset = number * 17;
        offsets.insert(world.submit(Action::Read, offset as u64, vec![0; 100]), offset);
    }
    for _ in 0..5000 {
        let (id, bytes, transferred, error) = world.next();
        let offset = offsets.remove(&id).expect("an id completes once");
        assert_eq!((transferred, error), (100, None));
        assert_eq!(bytes, expected[offset..offset + 100]);
    }
    assert_eq!(world.alive.load(Ordering::SeqCst), 0);
}

fn threads_submit_at_the_same_time(name: &str) {
    let world = World::new(name, Limits::default(), &content(10_000));
    let requests: Vec<Vec<Request>> =
        (0..4).map(|_| (0..500).map(|number| world.request(Action::Read, number, vec![0; 64])).collect()).collect();
    std::thread::scope(|scope| {
        for requests in requests {
            let files = &world.files;
            scope.spawn(move || requests.into_iter().for_each(|request| files.submit(request)));
        }
    });
    for _ in 0..2000 {
        assert_eq!(world.next().3, None);
    }
}

fn a_request_is_taken_back_or_completes_but_not_both(name: &str) {
    let world = World::new(name, SMALL, &content(10_000));
    let mut taken = 0;
    for round in 0..5000u64 {
        let id = world.submit(Action::Read, round, vec![0; 64]);
        if let Some(request) = world.files.take_back(id) {
            assert_eq!(request.id, id);
            taken += 1;
            if round % 2 == 0 {
                world.files.perform(request);
                assert_eq!(world.next().0, id);
            }
        } else {
            assert_eq!(world.next().0, id);
        }
    }
    assert_eq!(world.alive.load(Ordering::SeqCst), 0);
    assert!(taken <= 5000);
}

fn a_cancelled_request_completes_once(name: &str) {
    let world = World::new(name, SMALL, &content(10_000));
    for round in 0..3000u64 {
        let ids: Vec<u64> = (0..3).map(|_| world.submit(Action::Read, round, vec![0; 64])).collect();
        ids.iter().for_each(|id| world.files.cancel(*id));
        for _ in 0..3 {
            let (id, _, transferred, error) = world.next();
            assert!(ids.contains(&id));
            assert!(error == Some(ECANCELED) || (error.is_none() && transferred == 64), "{error:?}");
        }
    }
    assert_eq!(world.alive.load(Ordering::SeqCst), 0);
}

fn closing_waits_for_all_and_refuses_what_comes_after(name: &str) {
    let world = World::new(name, SMALL, &content(1000));
    for number in 0..1000 {
        world.submit(Action::Read, number, vec![0; 8]);
    }
    world.files.close();
    assert_eq!(world.told.try_iter().count(), 1000);
    world.submit(Action::Read, 0, vec![0; 8]);
    assert_eq!(world.next().3, Some(ECANCELED));
    world.files.close();
}

fn a_quiet_request_begins_when_it_is_roused_or_another_comes(name: &str) {
    let world = World::new(name, SMALL, &content(1000));
    for other in [false, true] {
        let request = world.request(Action::Read, 0, vec![0; 8]);
        let id = request.id;
        world.files.submit_quietly(request);
        if other {
            let second = world.submit(Action::Read, 1, vec![0; 8]);
            let mut ids = [world.next().0, world.next().0];
            ids.sort_unstable();
            assert_eq!(ids, [id, second]);
        } else {
            world.files.rouse();
            assert_eq!(world.next().0, id);
        }
    }
}

fn an_error_is_told_with_its_number(name: &str) {
    let world = World::new(name, SMALL, &content(100));
    let mut request = world.request(Action::Read, 0, vec![0; 8]);
    request.file = platform::opened(&OpenOptions::new().write(true).open(&world.path).unwrap());
    world.files.submit(request);
    assert_eq!(world.next().3, Some(platform::NOT_READABLE));
    let mut request = world.request(Action::Read, 0, Vec::new());
    request.memory = Box::new(NoMemory);
    world.files.submit(request);
    assert_eq!(world.next().2, 0);
}

fn a_file_larger_than_four_gigabytes_has_each_byte_where_it_lies(name: &str) {
    const HIGH: u64 = (5 << 30) + 12_345;
    let world = World::new(name, SMALL, &[]);
    platform::make_sparse(&OpenOptions::new().write(true).open(&world.path).unwrap());
    for (offset, number) in [(HIGH, 1), (HIGH - (1 << 32), 2), (HIGH + (1 << 33), 3)] {
        world.submit(Action::Write, offset, vec![number; 3000]);
        assert_eq!(world.next().2, 3000);
    }
    for (offset, number) in [(HIGH, 1), (HIGH - (1 << 32), 2), (HIGH + (1 << 33), 3), (HIGH - 3000, 0)] {
        world.submit(Action::Read, offset, vec![9; 3000]);
        let (_, bytes, transferred, error) = world.next();
        assert_eq!((transferred, error), (3000, None));
        assert_eq!(bytes, vec![number; 3000]);
    }
    world.submit(Action::Read, HIGH + (1 << 33) + 2990, vec![0; 100]);
    assert_eq!(world.next().2, 10, "the end is where it is");
}

fn an_engine_that_comes_later_goes_on_with_the_same_file(name: &str) {
    let mut world = World::new(name, SMALL, &content(1000));
    for _ in 0..2 {
        world.submit(Action::Read, 7, vec![0; 70]);
        let (_, bytes, transferred, error) = world.next();
        assert_eq!((transferred, error), (70, None));
        assert_eq!(bytes, content(1000)[7..77]);
        world.files.close();
        world.files = Files::open_named(name, SMALL).expect("as before");
    }
}

fn two_engines_share_a_file(name: &str) {
    let world = World::new(name, SMALL, &content(1000));
    let other = Files::open_named(name, SMALL).expect("as before");
    for offset in 0..500 {
        world.submit(Action::Read, offset, vec![0; 8]);
        other.submit(world.request(Action::Read, offset, vec![0; 8]));
    }
    for _ in 0..1000 {
        assert_eq!(world.next().3, None);
    }
    other.close();
}

#[test]
fn what_is_in_memory_is_read_at_once() {
    let world = World::new("threads", SMALL, &content(1000));
    let mut memory = vec![0; 2000];
    // SAFETY: `memory` is as long as is said.
    let cached = unsafe { world.file.read_cached(memory.as_mut_ptr(), memory.len(), 0) };
    if cached == Cached::Whole(1000) {
        assert_eq!(memory[..1000], content(1000));
    } else {
        assert_eq!(cached, Cached::Part(0), "a file system that cannot tell");
    }
}

#[test]
fn names_are_checked() {
    assert!(Files::open_named("uring", SMALL).is_err_and(|error| error.to_string().contains(&NAMES.join(", "))));
    let expected = if platform::refusal().is_some() { "threads" } else { NAMES[0] };
    assert_eq!(Files::open(SMALL).statistics().mechanism, expected);
    let (foreign, platform) = platform::ELSEWHERE;
    let error = Files::open_named(foreign, SMALL).err().expect("it is of another platform").to_string();
    assert!(error.contains(foreign) && error.contains(&NAMES.join(", ")) && error.contains(platform), "{error}");
}

/// With the platform's own mechanism, unless the kernel refuses it.
fn on_the_owner(test: fn(&str)) {
    match platform::refusal() {
        Some(error) => eprintln!("skipped: the kernel refuses {} ({error})", NAMES[0]),
        None => test(NAMES[0]),
    }
}

macro_rules! suite {
    ($($name:ident)*) => {
        mod on_the_owner { $(#[test] fn $name() { crate::on_the_owner(crate::$name); })* }
        mod on_threads { $(#[test] fn $name() { crate::$name("threads"); })* }
    };
}

suite! {
    what_is_written_is_read_and_short_at_the_end
    many_more_than_fit_complete_once_each
    threads_submit_at_the_same_time
    a_request_is_taken_back_or_completes_but_not_both
    a_cancelled_request_completes_once
    closing_waits_for_all_and_refuses_what_comes_after
    a_quiet_request_begins_when_it_is_roused_or_another_comes
    an_error_is_told_with_its_number
    a_file_larger_than_four_gigabytes_has_each_byte_where_it_lies
    an_engine_that_comes_later_goes_on_with_the_same_file
    two_engines_share_a_file
}
