//! Files: requests that read, write and sync at offsets, and the engine that has the kernel do them. Knows descriptors and memory; knows nothing of
//! ports, workers or whoever waits for a request.
//!
//! ```text
//!   submit ──▶ waiting ──▶ at the mechanism ──▶ Complete::complete, once
//!                 ├── take_back: the caller does it itself, or drops it
//!                 └── cancel: completes with ECANCELED        (at the mechanism: with ECANCELED or its result, whatever comes first)
//! ```
//! * **A request owns its memory and its file** until it completes, and hands the memory over with its outcome. The file's descriptor is closed with the
//!   last request that uses it, so that its number is never another's under a live request.
//! * **Short transfers go on** until everything is transferred, or the file has ended.
//! * **Completions come on the engine's own threads**, or on the thread that cancels, submits or closes, with no lock held.
//! * **Two mechanisms on each platform.** One native thread owns what the kernel completes: a ring (`io_uring.rs`), on Windows a completion port (`overlapped.rs`). Where the kernel
//!   refuses the ring, at the start or later, `threads.rs` goes on, a few native threads; nothing is lost on the way. Both take from one queue, in the order of submission. What the
//!   owner could only wait for (on Windows: a sync, a pipe) goes to threads in any case, through a queue of its own.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::numbers::{ECANCELED, EINTR, EIO};
use crate::sync::{Condvar, Mutex, MutexGuard, thread};

#[cfg(target_os = "linux")]
mod io_uring;
#[cfg(windows)]
mod overlapped;
mod source;
#[cfg(unix)]
mod system;
#[cfg(windows)]
#[path = "system_windows.rs"]
mod system;
mod threads;

#[cfg(windows)]
pub use system::reopen;
pub use system::{Descriptor, RawDescriptor};

/// The mechanisms of this platform, the default first.
pub const NAMES: &[&str] = if cfg!(target_os = "linux") {
    &["io_uring", "threads"]
} else if cfg!(windows) {
    &["overlapped", "threads"]
} else {
    &["threads"]
};

/// An open file. Closes its descriptor when nobody has it any more.
pub struct File {
    descriptor: Descriptor,
    /// Opened with O_DIRECT: what a read leaves short of a sector is the end.
    direct: bool,
    nature: system::Nature,
}

impl File {
    pub fn new(descriptor: Descriptor, direct: bool) -> Arc<Self> {
        let nature = system::Nature::of(&descriptor, direct);
        Arc::new(File { descriptor, direct, nature })
    }

    /// The same open file with a descriptor of its own, and what may be done with it. On Windows an overlapped one, where there can be one.
    ///
    /// # Errors
    /// It is no open descriptor, or there is none left.
    pub fn duplicate(descriptor: RawDescriptor) -> io::Result<(Arc<Self>, Access)> {
        let (descriptor, access) = system::duplicate(descriptor)?;
        Ok((Self::new(descriptor, access.direct), access))
    }

    /// As `read_cached`, into the memory of a read that no mechanism has yet.
    pub fn read_cached_into(&self, memory: &mut dyn Memory, offset: u64) -> Cached {
        // SAFETY: of a read it is writable for its length, as `Memory` promises, and nobody else has it meanwhile.
        unsafe { self.read_cached(memory.start(), memory.length(), offset) }
    }

    /// The descriptor's number, on every platform.
    pub fn number(&self) -> i64 {
        self.descriptor() as i64
    }

    pub fn descriptor(&self) -> RawDescriptor {
        system::raw(&self.descriptor)
    }

    /// Waits until the device has what was written; or the kernel's error number.
    ///
    /// # Errors
    /// The device failed, or there is none behind the file.
    pub fn sync(&self, data_only: bool) -> Result<(), i32> {
        system::sync(self.descriptor(), data_only)
    }

    /// In the child of a fork: closes the child's descriptor. Those who held the file there, threads that are gone, never drop it.
    pub fn forked(self: Arc<Self>) {
        system::close(self.descriptor());
        std::mem::forget(self);
    }
}

/// What a descriptor was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub readable: bool,
    pub writable: bool,
    pub direct: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Read,
    Write,
    /// fsync(2), or fdatasync(2).
    Sync {
        data_only: bool,
    },
}

/// What a request reads into or writes from.
///
/// # Safety
/// `start` is readable (for a read: writable) for `length` bytes and does not move, until this is dropped.
pub unsafe trait Memory: Send {
    fn start(&self) -> *mut u8;
    fn length(&self) -> usize;
    fn as_any_mut(&mut self) -> &mut dyn Any;
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
}

/// For requests without memory.
pub struct NoMemory;

// SAFETY: no bytes are promised.
unsafe impl Memory for NoMemory {
    fn start(&self) -> *mut u8 {
        std::ptr::dangling_mut()
    }

    fn length(&self) -> usize {
        0
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// What a read found that may not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// All of it, or up to the end of the file.
    Whole(usize),
    /// The rest is not in memory, or an error waits for whoever reads it.
    Part(usize),
}

/// What became of a request.
pub struct Outcome {
    pub memory: Box<dyn Memory>,
    /// So many bytes were transferred; fewer than asked for at the end of the file, or before the error.
    pub transferred: usize,
    /// The kernel's error number.
    pub error: Option<i32>,
}

/// Where a completion goes. Called once a request, on a native thread or on one that submits, cancels or closes; no lock is held. Must not block.
pub trait Complete: Send + Sync {
    fn complete(&self, id: u64, outcome: Outcome);
}

pub struct Request {
    pub id: u64,
    pub file: Arc<File>,
    pub action: Action,
    pub offset: u64,
    pub memory: Box<dyn Memory>,
    pub transferred: usize,
    pub sink: Arc<dyn Complete>,
}

/// So much is asked for in one system call; the kernel does not do 2 GiB.
const LARGEST: usize = 1 << 30;
const SECTOR: usize = 512;

/// An id that no other request of the process has.
pub fn next_id() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

impl Request {
    /// What is left of it: where, and how much of that goes into the next system call.
    fn rest(&self) -> (*mut u8, usize, u64) {
        let length = (self.memory.length() - self.transferred).min(LARGEST);
        // Not a pointer into the memory where nothing is left of it, but one past its end, which is as valid.
        (self.memory.start().wrapping_add(self.transferred), length, self.offset + self.transferred as u64)
    }

    /// What a system call has answered: bytes, or a negative error number. None: there is more to do.
    fn advance(&mut self, result: i64) -> Option<Result<(), i32>> {
        match (self.action, result) {
            (_, result) if result == -i64::from(EINTR) => None,
            (_, ..0) => Some(Err(-result as i32)),
            (Action::Sync { .. }, _) => Some(Ok(())),
            (Action::Read, 0) => Some(Ok(())),
            // Neither an error nor progress: to ask again might never end.
            (Action::Write, 0) if self.memory.length() > self.transferred => Some(Err(EIO)),
            (action, count) => {
                self.transferred += count as usize;
                let ended = self.file.direct && action == Action::Read && !(count as usize).is_multiple_of(SECTOR);
                (ended || self.transferred >= self.memory.length()).then_some(Ok(()))
            }
        }
    }

    fn complete(self, result: Result<(), i32>) {
        let Request { id, file, memory, transferred, sink, .. } = self;
        // Whoever is told may have closed the file, and expects it to be: Windows deletes no file that is open.
        drop(file);
        sink.complete(id, Outcome { memory, transferred, error: result.err() });
    }
}

/// How an engine is made.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// So many requests may be with the kernel at a time.
    pub ring: u32,
    /// The length of the completion queue, for trying what happens when it overflows; None: as long as it takes for that not to happen.
    pub completions: Option<u32>,
    pub threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { ring: 128, completions: None, threads: 8 }
    }
}

/// A snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// The mechanism: one of `NAMES`.
    pub mechanism: &'static str,
    /// Why it is not the default.
    pub refusal: Option<String>,
    pub submitted: u64,
    /// Done by a thread that had nothing to do but to wait for it.
    pub taken_back: u64,
    /// The kernel was asked again, because it had no room.
    pub retries: u64,
    /// The completion queue was found to have overflowed.
    pub overflows: u64,
    /// Requests that wait for room.
    pub waiting: usize,
}

/// The engine. Safe from any thread; nothing but `close` blocks.
pub struct Files {
    shared: Arc<Shared>,
}

struct Shared {
    /// No other engine of the process has it.
    id: u64,
    limits: Limits,
    // Guards the requests that no mechanism has, and who there is to take them. Never held in a system call, nor while a request completes.
    queue: Mutex<Queue>,
    /// Threads of `threads.rs` wait for requests.
    available: Condvar,
    /// Wakes the owner: its eventfd, on Windows its port. None: there is no owner.
    wake: Option<Descriptor>,
    forked: AtomicBool,
    submitted: AtomicU64,
    taken_back: AtomicU64,
    retries: AtomicU64,
    overflows: AtomicU64,
    /// Told once, by `refusal`.
    told: AtomicBool,
    /// The ring's descriptor, for the child of a fork; `usize::MAX` while there is none.
    #[cfg_attr(windows, expect(dead_code, reason = "there is no ring"))]
    ring: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Request>,
    /// Requests that only a thread can do, although there is an owner.
    blocking: VecDeque<Request>,
    /// Requests at the kernel that are to be cancelled.
    cancelled: Vec<u64>,
    /// The owner takes what waits: the thread of the ring, on Windows of the port. Else threads do.
    owned: bool,
    /// The owner sleeps, or is about to: whoever has something for it wakes it.
    asleep: bool,
    idle: usize,
    closing: bool,
    threads: Vec<thread::JoinHandle<()>>,
    working: usize,
    refusal: Option<String>,
}

impl Queue {
    /// Without an owner threads take everything.
    fn pop_for_threads(&mut self) -> Option<Request> {
        self.blocking.pop_front().or_else(|| if self.owned { None } else { self.waiting.pop_front() })
    }

    fn count_for_threads(&self) -> usize {
        self.blocking.len() + if self.owned { 0 } else { self.waiting.len() }
    }
}

impl Files {
    /// Opens the default mechanism, or the next where the kernel refuses it.
    pub fn open(limits: Limits) -> Self {
        #[cfg(any(target_os = "linux", windows))]
        let refusal = match Self::open_owned(limits) {
            Ok(files) => return files,
            Err(error) => Some(explained(&error)),
        };
        #[cfg(not(any(target_os = "linux", windows)))]
        let refusal = None;
        Self::open_threads(limits, refusal)
    }

    /// # Errors
    /// `InvalidInput` for a name that is none of `NAMES`; what the kernel refuses.
    pub fn open_named(name: &str, limits: Limits) -> io::Result<Self> {
        match name {
            "threads" => Ok(Self::open_threads(limits, None)),
            #[cfg(any(target_os = "linux", windows))]
            name if name == NAMES[0] => Self::open_owned(limits).map_err(|error| {
                let text =
                    format!("{}, and PROACTOR_FILES={name} forbids anything else: unset it, or set it to threads", explained(&error));
                io::Error::new(error.kind(), text)
            }),
            _ => Err(unknown(name)),
        }
    }

    #[cfg(target_os = "linux")]
    fn open_owned(limits: Limits) -> io::Result<Self> {
        let shared = Shared::new(limits, Some(system::event()?));
        shared.queue.lock().owned = true;
        io_uring::start(&shared)?;
        Ok(Files { shared })
    }

    #[cfg(windows)]
    fn open_owned(limits: Limits) -> io::Result<Self> {
        let shared = Shared::new(limits, Some(overlapped::port()?));
        shared.queue.lock().owned = true;
        overlapped::start(&shared)?;
        Ok(Files { shared })
    }

    fn open_threads(limits: Limits, refusal: Option<String>) -> Self {
        let shared = Shared::new(limits, None);
        shared.queue.lock().refusal = refusal;
        Files { shared }
    }

    /// Begins a request. It completes exactly once, unless `take_back` answers it.
    pub fn submit(&self, request: Request) {
        self.shared.submitted.fetch_add(1, Ordering::Relaxed);
        let blocks = self.shared.blocks(&request);
        let mut queue = self.shared.queue.lock();
        if queue.closing {
            drop(queue);
            return request.complete(Err(ECANCELED));
        }
        if blocks {
            queue.blocking.push_back(request);
            return threads::called(&self.shared, queue);
        }
        queue.waiting.push_back(request);
        self.call_mechanism(queue);
    }

    /// As `submit`, but wakes nobody: for a request that its submitter will most likely take back in a moment. `rouse` begins it after all, and so does the next
    /// `submit`.
    pub fn submit_quietly(&self, request: Request) {
        let blocks = self.shared.blocks(&request);
        let mut queue = self.shared.queue.lock();
        if blocks || queue.closing || !queue.waiting.is_empty() {
            drop(queue);
            return self.submit(request);
        }
        self.shared.submitted.fetch_add(1, Ordering::Relaxed);
        queue.waiting.push_back(request);
    }

    /// Has somebody take what was submitted quietly.
    pub fn rouse(&self) {
        let queue = self.shared.queue.lock();
        if queue.waiting.is_empty() {
            return;
        }
        self.call_mechanism(queue);
    }

    /// Has the mechanism look into the queue.
    fn call_mechanism<'a>(&'a self, mut queue: MutexGuard<'a, Queue>) {
        if queue.owned {
            let asleep = std::mem::take(&mut queue.asleep);
            drop(queue);
            if asleep {
                self.shared.wake_owner();
            }
        } else {
            threads::called(&self.shared, queue);
        }
    }

    /// The request, if no mechanism has it yet: then it never completes by itself.
    pub fn take_back(&self, id: u64) -> Option<Request> {
        let mut queue = self.shared.queue.lock();
        // The newest is looked at first: it is the one that was submitted by whoever asks.
        let Queue { waiting, blocking, .. } = &mut *queue;
        [waiting, blocking].into_iter().find_map(|requests| {
            let index = requests.iter().rposition(|request| request.id == id)?;
            requests.remove(index)
        })
    }

    /// Does a request that was taken back, in the calling thread, and completes it.
    pub fn perform(&self, request: Request) {
        self.shared.taken_back.fetch_add(1, Ordering::Relaxed);
        threads::perform(request);
    }

    /// Asks for a request to end early. It still completes, once. Of one that the kernel works at, the kernel decides.
    pub fn cancel(&self, id: u64) {
        if let Some(request) = self.take_back(id) {
            return request.complete(Err(ECANCELED));
        }
        let mut queue = self.shared.queue.lock();
        if queue.owned {
            queue.cancelled.push(id);
            let asleep = std::mem::take(&mut queue.asleep);
            drop(queue);
            if asleep {
                self.shared.wake_owner();
            }
        }
    }

    /// Why the default mechanism is not used; answered once, for the log.
    pub fn refusal(&self) -> Option<String> {
        let refusal = self.shared.queue.lock().refusal.clone()?;
        (!self.shared.told.swap(true, Ordering::Relaxed)).then_some(refusal)
    }

    pub fn statistics(&self) -> Statistics {
        let queue = self.shared.queue.lock();
        Statistics {
            mechanism: if queue.owned { NAMES[0] } else { "threads" },
            refusal: queue.refusal.clone(),
            submitted: self.shared.submitted.load(Ordering::Relaxed),
            taken_back: self.shared.taken_back.load(Ordering::Relaxed),
            retries: self.shared.retries.load(Ordering::Relaxed),
            overflows: self.shared.overflows.load(Ordering::Relaxed),
            waiting: queue.waiting.len() + queue.blocking.len(),
        }
    }

    /// What is submitted from here on completes with ECANCELED. Blocks until everything before it has completed and the threads have ended, unless one of them calls.
    pub fn close(&self) {
        if self.is_forked() {
            return;
        }
        let threads = self.shared.finish();
        let me = thread::current().id();
        for thread in threads {
            if thread.thread().id() != me {
                // A thread that has panicked has told so on standard error.
                drop(thread.join());
            }
        }
    }

    /// In the child of a fork: closes what it shares with its parent, without touching it. No lock is taken, since a thread that is gone may hold it.
    pub fn forked(&self) {
        if self.shared.forked.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Some(wake) = &self.shared.wake {
            system::close(system::raw(wake));
        }
        #[cfg(target_os = "linux")]
        io_uring::forked(&self.shared);
        // Its descriptors are closed, so nothing may close them once more: it is never dropped.
        std::mem::forget(self.shared.clone());
    }

    pub fn is_forked(&self) -> bool {
        self.shared.forked.load(Ordering::Relaxed)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if !self.is_forked() {
            // The threads do what is left, and end by themselves.
            drop(self.shared.finish());
        }
    }
}

impl Shared {
    fn new(limits: Limits, wake: Option<Descriptor>) -> Arc<Self> {
        Arc::new(Shared {
            id: next_id(),
            limits,
            queue: Mutex::new(Queue::default()),
            available: Condvar::new(),
            wake,
            forked: AtomicBool::new(false),
            submitted: AtomicU64::new(0),
            taken_back: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            overflows: AtomicU64::new(0),
            told: AtomicBool::new(false),
            ring: AtomicUsize::new(usize::MAX),
        })
    }

    /// The owner could only wait for it, and others with it.
    fn blocks(&self, request: &Request) -> bool {
        self.wake.as_ref().is_some_and(|owner| system::blocks(request, owner, self.id))
    }

    fn wake_owner(&self) {
        if let Some(wake) = &self.wake {
            system::raise(wake);
        }
    }

    fn finish(&self) -> Vec<thread::JoinHandle<()>> {
        let mut queue = self.queue.lock();
        queue.closing = true;
        queue.asleep = false;
        let threads = std::mem::take(&mut queue.threads);
        drop(queue);
        self.available.notify_all();
        self.wake_owner();
        threads
    }
}

/// Completes a request that nobody takes any more.
pub fn end(request: Request) {
    request.complete(Err(ECANCELED));
}

/// Checks a name from outside before there is an engine.
///
/// # Errors
/// `InvalidInput` where it is none of `NAMES`.
pub fn check_name(name: &str) -> io::Result<()> {
    if NAMES.contains(&name) { Ok(()) } else { Err(unknown(name)) }
}

fn unknown(name: &str) -> io::Error {
    let elsewhere = OF_PLATFORMS.iter().find(|(mechanism, _)| *mechanism == name);
    let why = elsewhere.map(|(_, platform)| format!(", which only {platform} has")).unwrap_or_default();
    let text = format!("PROACTOR_FILES must be one of {}, or unset; not {name:?}{why}", NAMES.join(", "));
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// The mechanisms that not every platform has.
const OF_PLATFORMS: [(&str, &str); 2] = [("io_uring", "Linux"), ("overlapped", "Windows")];

#[cfg(windows)]
fn explained(error: &io::Error) -> String {
    format!("overlapped files are refused ({error})")
}

#[cfg(target_os = "linux")]
fn explained(error: &io::Error) -> String {
    let why = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "EPERM: a container's seccomp profile, or the sysctl kernel.io_uring_disabled?".to_owned(),
        Some(libc::ENOSYS) => "ENOSYS: an older kernel, or a sandbox?".to_owned(),
        _ => error.to_string(),
    };
    format!("io_uring is refused ({why})")
}
