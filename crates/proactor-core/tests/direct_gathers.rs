//! Reads that go to the kernel together: which, when, and that none stays behind.

#![cfg(all(target_os = "linux", not(any(feature = "loom", feature = "shuttle"))))]

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use proactor_core::files::direct::{Begun, Direct, Kernel, Read, Reader, Refusal, TOGETHER, Told, Waited};
use proactor_core::files::{self, Action, Complete, File, Outcome, Request};

#[path = "direct/bytes.rs"]
mod bytes;
use bytes::{Bytes, LENGTH};

const PATIENCE: Duration = Duration::from_secs(20);
const MANY: usize = 6;
const ROOM: usize = 16;

/// What the kernel has, and whether it answers.
#[derive(Default)]
struct Device {
    // Guards what it has been told to do, and has.
    state: Mutex<DeviceState>,
    changed: Condvar,
}

#[derive(Default)]
struct DeviceState {
    given: Vec<u64>,
    answers: bool,
    refuses: bool,
    /// Calls do not return.
    holds: bool,
    /// A call is held.
    is_held: bool,
    /// The reader sleeps.
    sleeps: bool,
}

impl Device {
    fn change(&self, change: impl FnOnce(&mut DeviceState)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    fn wait_until(&self, is_so: impl Fn(&DeviceState) -> bool) {
        let state = self.state.lock().unwrap();
        let waited = self.changed.wait_timeout_while(state, PATIENCE, |state| !is_so(state)).unwrap().1;
        assert!(!waited.timed_out());
    }
}

impl DeviceState {
    fn next(&mut self) -> Option<Told> {
        let told_as = if self.answers { self.given.pop() } else { None }?;
        Some(Told { told_as, result: Some(LENGTH as i64) })
    }
}

/// Tells of how many reads each call was.
struct Calls(Arc<Device>, Sender<usize>);

impl Kernel for Calls {
    type Reader = Answers;
    const AWAKE: Duration = Duration::ZERO;
    const MANY: usize = MANY;

    // SAFETY: it touches no memory.
    unsafe fn begin(&self, reads: &[Read]) -> Result<usize, Refusal> {
        self.0.change(|state| state.is_held = state.holds);
        self.0.wait_until(|state| !state.holds);
        let mut state = self.0.state.lock().unwrap();
        if state.refuses {
            return Err(Refusal::Now);
        }
        state.given.extend(reads.iter().map(|read| read.told_as));
        self.1.send(reads.len()).unwrap();
        Ok(reads.len())
    }
}

struct Answers(Arc<Device>);

impl Reader for Answers {
    fn next(&mut self) -> Option<Told> {
        self.0.state.lock().unwrap().next()
    }

    /// Sleeps until there is something, whatever the time: who relies on being woken by chance is found.
    fn wait(&mut self, _timeout: Duration) -> Option<Told> {
        self.0.change(|state| state.sleeps = true);
        let state = self.0.state.lock().unwrap();
        let goes_on = |state: &mut DeviceState| !state.answers || state.given.is_empty();
        let (mut state, _) = self.0.changed.wait_timeout_while(state, PATIENCE, goes_on).unwrap();
        state.sleeps = false;
        state.next()
    }
}

struct Ends(Sender<Outcome>);

impl Complete for Ends {
    fn complete(&self, _id: u64, outcome: Outcome) {
        self.0.send(outcome).unwrap();
    }
}

struct Rig {
    device: Arc<Device>,
    direct: Arc<Direct<Calls>>,
    calls: Receiver<usize>,
    file: Arc<File>,
    sink: Arc<Ends>,
    ends: Receiver<Outcome>,
}

impl Rig {
    fn new() -> Self {
        let device = Arc::new(Device::default());
        let ((called, calls), (ended, ends)) = (channel(), channel());
        let direct = Direct::new(Calls(device.clone(), called), Answers(device.clone()), ROOM);
        let file = File::new(OwnedFd::from(fs::File::open("/dev/zero").unwrap()), true);
        Rig { device, direct, calls, file, sink: Arc::new(Ends(ended)), ends }
    }

    /// So many that the kernel has enough to do.
    fn busy() -> Self {
        let rig = Self::new();
        for _ in 0..MANY {
            rig.begin();
        }
        assert_eq!(rig.calls(), [1; MANY], "few go at once, one by one");
        rig
    }

    fn begin(&self) -> Begun {
        let (file, sink, memory) = (self.file.clone(), self.sink.clone(), Box::new(Bytes([0; LENGTH])));
        let request = Request { id: files::next_id(), file, action: Action::Read, offset: 0, memory, transferred: 0, sink };
        self.direct.begin(request, &files::end).unwrap_or_else(|_| panic!("there is room"))
    }

    /// Since the last look.
    fn calls(&self) -> Vec<usize> {
        self.calls.try_iter().collect()
    }

    /// All that was begun completes.
    fn end(self, count: usize) {
        let native = self.native();
        self.end_with(native, count);
    }

    fn end_with(self, native: Native, count: usize) {
        self.device.change(|state| state.answers = true);
        self.direct.finish();
        native.ended.recv_timeout(PATIENCE).expect("the native thread ends");
        assert_eq!(self.ends.try_iter().count(), count);
    }

    fn native(&self) -> Native {
        let direct = self.direct.clone();
        let ((here, thread), (end, ended)) = (channel(), channel());
        thread::spawn(move || {
            // SAFETY: it asks for the calling thread's number.
            here.send(unsafe { libc::gettid() }).unwrap();
            direct.serve(&files::end);
            end.send(()).unwrap();
        });
        Native { thread: thread.recv().unwrap(), ended }
    }
}

/// The native thread.
struct Native {
    thread: i32,
    ended: Receiver<()>,
}

impl Native {
    /// It wakes twice a millisecond while something may be put by. Nobody can be told that it does not any more, so it is looked at.
    fn wait_asleep(&self) {
        let look = || {
            let status = fs::read_to_string(format!("/proc/self/task/{}/status", self.thread)).unwrap();
            let value = |name: &str| status.lines().find_map(|line| Some(line.strip_prefix(name)?.to_owned())).unwrap();
            (value("voluntary_ctxt_switches:"), value("State:\t").starts_with('S'))
        };
        let until = Instant::now() + PATIENCE;
        let mut before = look();
        loop {
            thread::sleep(Duration::from_millis(10));
            let now = look();
            if now.1 && now == before {
                return;
            }
            before = now;
            assert!(Instant::now() < until, "it wakes again and again with nothing to do");
        }
    }
}

#[test]
fn while_many_are_under_way_they_go_together() {
    let rig = Rig::busy();
    for _ in 1..TOGETHER {
        rig.begin();
    }
    assert_eq!(rig.calls(), []);
    rig.begin();
    assert_eq!(rig.calls(), [TOGETHER]);
    rig.end(MANY + TOGETHER);
}

#[test]
fn whoever_waits_or_looks_gives_what_was_put_by() {
    let rig = Rig::busy();
    rig.begin();
    rig.direct.look(&files::end);
    assert_eq!(rig.calls(), [1]);
    rig.begin();
    let last = rig.begin();
    let waited = rig.direct.wait(last, Duration::ZERO, &files::end);
    assert_eq!((rig.calls(), waited), (vec![2], Waited::Over), "whoever gives it leads for it");
    rig.end(MANY + 3);
}

#[test]
fn the_end_gives_what_was_put_by() {
    let rig = Rig::busy();
    rig.begin();
    rig.direct.finish();
    assert_eq!(rig.calls(), []);
    rig.end(MANY + 1);
}

#[test]
fn nobody_has_to_look_for_it_to_be_given() {
    let rig = Rig::busy();
    let native = rig.native();
    let delay = || {
        native.wait_asleep();
        let begun = Instant::now();
        rig.begin();
        assert_eq!(rig.calls.recv_timeout(PATIENCE), Ok(1), "the native thread gives it");
        begun.elapsed()
    };
    // The machine may be busy, but not each time.
    let least = (0..5).map(|_| delay()).min().unwrap();
    assert!(least < Duration::from_millis(20), "{least:?}");
    rig.end_with(native, MANY + 5);
}

#[test]
fn a_read_that_goes_at_once_takes_along_what_was_put_by() {
    let rig = Rig::busy();
    rig.begin();
    rig.device.change(|state| state.answers = true);
    rig.direct.look(&files::end);
    assert_eq!(rig.calls(), [], "the look brought something");
    rig.begin();
    assert_eq!(rig.calls(), [2]);
    rig.end(MANY + 2);
}

#[test]
fn who_looks_while_another_leads_gives_what_was_put_by() {
    let rig = Rig::busy();
    let first = rig.begin();
    let direct = rig.direct.clone();
    let leader = thread::spawn(move || direct.wait(first, PATIENCE, &files::end));
    rig.device.wait_until(|state| state.sleeps);
    assert_eq!(rig.calls(), [1]);
    rig.begin();
    rig.direct.look(&files::end);
    assert_eq!(rig.calls(), [1]);
    rig.device.change(|state| state.answers = true);
    assert_eq!(leader.join().unwrap(), Waited::Left);
    rig.end(MANY + 2);
}

#[test]
fn nothing_is_put_by_while_the_native_thread_sleeps_for_long() {
    let rig = Rig::busy();
    let native = rig.native();
    let put_by = rig.begin();
    rig.direct.push(put_by);
    assert_eq!(rig.calls.recv_timeout(PATIENCE), Ok(1), "before it sleeps");
    rig.device.wait_until(|state| state.sleeps);
    rig.begin();
    assert_eq!(rig.calls(), [1]);
    rig.device.change(|state| state.answers = true);
    (0..MANY + 2).for_each(|_| drop(rig.ends.recv_timeout(PATIENCE).unwrap()));
    native.wait_asleep();
    rig.device.change(|state| state.answers = false);
    for _ in 0..ROOM {
        rig.begin();
    }
    // A tick may come between.
    assert!(rig.calls().iter().any(|count| *count > 1), "afterwards they go together again");
    rig.end_with(native, ROOM);
}

#[test]
fn nobody_leads_for_what_may_yet_be_refused() {
    let rig = Rig::busy();
    let put_by = rig.begin();
    rig.device.change(|state| state.holds = true);
    let direct = rig.direct.clone();
    let giver = thread::spawn(move || direct.look(&files::end));
    rig.device.wait_until(|state| state.is_held);
    assert_eq!(rig.direct.wait(put_by, PATIENCE, &files::end), Waited::Left, "whoever asks sleeps until it is told");
    rig.device.change(|state| (state.refuses, state.holds) = (true, false));
    giver.join().unwrap();
    assert!(rig.ends.try_recv().expect("it went elsewhere").error.is_some());
    rig.end(MANY);
}

#[test]
fn what_was_put_by_and_is_refused_goes_elsewhere() {
    let rig = Rig::busy();
    rig.begin();
    rig.device.change(|state| state.refuses = true);
    rig.direct.look(&files::end);
    let outcome = rig.ends.try_recv().expect("`end` completes it");
    assert!(outcome.error.is_some());
    rig.end(MANY);
}
