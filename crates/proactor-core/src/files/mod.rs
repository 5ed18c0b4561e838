//! Files: requests that read, write and sync at offsets, and the engine that has the kernel do them. Knows descriptors and memory; knows nothing of
//! ports, workers or whoever waits for a request.
//!
//! ```text
//!   begin ───▶ (put by) ──▶ at the kernel ──────▶ Complete::complete, once        (an Err: not begun, to be submitted)
//!   submit ──▶ waiting ──▶ at the mechanism ──▶ Complete::complete, once
//!                 ├── take_back: the caller does it itself, or drops it
//!                 └── cancel: completes with ECANCELED        (at the mechanism: with ECANCELED or its result, whatever comes first)
//! ```
//! * **A request owns its memory and its file** until it completes, and hands the memory over with its outcome. The file's descriptor is closed with the
//!   last request that uses it, so that its number is never another's under a live request.
//! * **Short transfers go on** until everything is transferred, or the file has ended.
//! * **Completions come on the engine's own threads**, or on a thread that begins, waits, looks, cancels, submits or closes, with no lock held.
//! * **Two mechanisms on each platform.** One native thread owns what the kernel completes: a ring (`io_uring.rs`), on Windows a completion port (`overlapped.rs`). Where the kernel
//!   refuses the ring, at the start or later, `threads.rs` goes on, a few native threads; nothing is lost on the way. Both take from one queue, in the order of submission. What the
//!   owner could only wait for (on Windows: a sync, a pipe) goes to threads in any case, through a queue of its own.
//! * **Beside them**: short reads past the page cache, where the kernel takes them from any thread, are begun by whoever asks (`direct.rs`), and cannot be cancelled.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::numbers::ECANCELED;
use crate::sync::{Condvar, Mutex, MutexGuard, thread};

#[cfg(target_os = "linux")]
mod aio;
#[cfg(not(target_os = "linux"))]
#[path = "aio_none.rs"]
mod aio;
pub mod direct;
mod file;
#[cfg(target_os = "linux")]
mod io_uring;
#[cfg(windows)]
mod overlapped;
mod promptness;
mod request;
mod source;
#[cfg(unix)]
mod system;
#[cfg(windows)]
#[path = "system_windows.rs"]
mod system;
mod threads;

use direct::Direct;
pub use direct::{Begun, Waited};
pub use file::{Access, Cached, File};
pub use request::{Action, Complete, Memory, NoMemory, Outcome, Request, next_id};
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
    /// Left to whoever asked to give to the kernel, at once or with the next few; of those the kernel may have refused some.
    pub begun: u64,
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
    begun: AtomicU64,
    taken_back: AtomicU64,
    retries: AtomicU64,
    overflows: AtomicU64,
    /// Told once, by `refusal`.
    told: AtomicBool,
    /// Since the first read that might be begun at once. None: the kernel has no such thing, or refuses it.
    direct: OnceLock<Option<Arc<Direct<aio::Aio>>>>,
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
    /// PROACTOR_FILES wants threads only.
    threads_only: bool,
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
            "threads" => {
                let files = Self::open_threads(limits, None);
                files.shared.queue.lock().threads_only = true;
                Ok(files)
            }
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
        self.shared.queue(request, Closing::Refuse);
    }

    /// Begins a read past the page cache in the calling thread, if that takes no waiting, or puts it by for a moment while many are under way. Then somebody has to
    /// `wait` for it, `look` after it or `push` it; else it is told when others are.
    ///
    /// # Errors
    /// The request, to be submitted.
    pub fn begin(&self, request: Request) -> Result<Begun, Request> {
        if request.action != Action::Read || !request.file.may_be_prompt() {
            return Err(request);
        }
        let Some(direct) = self.direct() else { return Err(request) };
        let begun = direct.begin(request, &self.shared.elsewhere())?;
        self.shared.submitted.fetch_add(1, Ordering::Relaxed);
        self.shared.begun.fetch_add(1, Ordering::Relaxed);
        Ok(begun)
    }

    /// Completes what was begun and has arrived; where that is nothing, gives the kernel what was put by. Does not wait.
    pub fn look(&self) {
        if let Some(Some(direct)) = self.shared.direct.get() {
            direct.look(&self.shared.elsewhere());
        }
    }

    /// Waits for what was begun, after giving the kernel what was put by, and completes what arrives meanwhile.
    pub fn wait(&self, begun: Begun, timeout: Duration) -> Waited {
        match self.shared.direct.get() {
            Some(Some(direct)) => direct.wait(begun, timeout, &self.shared.elsewhere()),
            _ => Waited::Left,
        }
    }

    /// It completes from here on without anybody who waits for it.
    pub fn push(&self, begun: Begun) {
        if let Some(Some(direct)) = self.shared.direct.get() {
            direct.push(begun);
        }
    }

    /// The same for all that was begun.
    pub fn push_all(&self) {
        if let Some(Some(direct)) = self.shared.direct.get() {
            direct.push_all();
        }
    }

    fn direct(&self) -> Option<&Arc<Direct<aio::Aio>>> {
        match self.shared.direct.get() {
            Some(direct) => direct.as_ref(),
            None => self.shared.open_direct(),
        }
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
        self.shared.call_mechanism(queue);
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
            begun: self.shared.begun.load(Ordering::Relaxed),
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

/// What becomes of a request that comes while all ends.
enum Closing {
    Refuse,
    Perform,
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
            direct: OnceLock::new(),
            begun: AtomicU64::new(0),
            ring: AtomicUsize::new(usize::MAX),
        })
    }

    /// The owner could only wait for it, and others with it.
    fn blocks(&self, request: &Request) -> bool {
        self.wake.as_ref().is_some_and(|owner| system::blocks(request, owner, self.id))
    }

    /// The queue of whoever does what was submitted.
    fn queue(self: &Arc<Self>, request: Request, closing: Closing) {
        let blocks = self.blocks(&request);
        let mut queue = self.queue.lock();
        if queue.closing {
            drop(queue);
            return match closing {
                Closing::Refuse => request.complete(Err(ECANCELED)),
                Closing::Perform => threads::perform(request),
            };
        }
        if blocks {
            queue.blocking.push_back(request);
            return threads::called(self, queue);
        }
        queue.waiting.push_back(request);
        self.call_mechanism(queue);
    }

    /// Has the mechanism look into the queue.
    fn call_mechanism<'a>(self: &'a Arc<Self>, mut queue: MutexGuard<'a, Queue>) {
        if queue.owned {
            let asleep = std::mem::take(&mut queue.asleep);
            drop(queue);
            if asleep {
                self.wake_owner();
            }
        } else {
            threads::called(self, queue);
        }
    }

    /// Where a read goes on that was begun and would have had to wait. It began before a close, which waits for it.
    fn elsewhere(self: &Arc<Self>) -> impl Fn(Request) {
        |request| self.queue(request, Closing::Perform)
    }

    /// Once, and not while it ends: then nobody would end it.
    fn open_direct(self: &Arc<Self>) -> Option<&Arc<Direct<aio::Aio>>> {
        let mut queue = self.queue.lock();
        if queue.closing {
            return None;
        }
        let open = || {
            let (kernel, reader) = if queue.threads_only { None } else { aio::open(self.limits.ring as usize).ok() }?;
            let direct = Direct::new(kernel, reader, self.limits.ring as usize);
            let (own, shared) = (direct.clone(), self.clone());
            let thread = thread::Builder::new().name("proactor-direct".to_owned());
            queue.threads.push(thread.spawn(move || own.serve(&shared.elsewhere())).ok()?);
            Some(direct)
        };
        self.direct.get_or_init(open).as_ref()
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
        if let Some(Some(direct)) = self.direct.get() {
            direct.finish();
        }
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
