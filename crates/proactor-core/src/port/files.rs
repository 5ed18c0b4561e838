//! The port's associated files: what is pending on each, and the one completion that each operation gets. Knows the files' requests; knows nothing of
//! who asks for them.
//!
//! ```text
//!   submit ──▶ pending, at the files' engine ──complete──▶ mailbox ──▶ ready queue ──▶ one worker at a time (on a port of callers: any thread, each by itself)
//!                 └── in memory already: at once ───────────▲
//! ```
//! * **An operation completes when its request does**: the request owns the memory, so nobody is told before the kernel has let go of it. Cancelling and closing ask
//!   the engine, and the kernel decides; they never complete anything by themselves.
//! * **Completions come from the engine's native threads**, which queue them and wake a worker. No Python there: what they cannot queue, because the port is over, is
//!   counted and let go of.
//! * **What is pending is expected by the scheduler**, so a drain waits for it.
//! * A file closes its descriptor with the last request that uses it.
//!
//! Locks: a file's own, and under it the scheduler's.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::AtomicI64;

use super::*;
use crate::engine::CANCELED;
use crate::files::{Action, Cached, Complete, File, Files, Memory, Outcome, Request};
use crate::mailbox::Mailbox;

/// What a worker is to tell of an operation on a file.
pub type FileCompleted<U> = (<U as Upper>::Operation, Outcome);

/// An associated file. Safe from any thread.
pub struct PortFile<U: Upper> {
    token: Token,
    port: Weak<Port<U>>,
    this: Weak<Self>,
    /// For the child of a fork.
    file: Weak<File>,
    /// -1 once it is closed.
    descriptor: AtomicI64,
    // Guards the file, what is pending and what was not told.
    state: Mutex<State<U>>,
}

struct State<U: Upper> {
    /// None once it is closed.
    open: Option<Open>,
    pending: HashMap<u64, Pending<U::Operation>>,
    mailbox: Mailbox<FileCompleted<U>>,
    /// Every completion goes to the ready queue by itself.
    each: bool,
    numbers: FileNumbers,
}

struct Open {
    file: Arc<File>,
    engine: Arc<Files>,
    /// The layer above wants it kept for as long as the file is open.
    _kept: Box<dyn Any + Send>,
}

struct Pending<O> {
    operation: O,
    action: Action,
    length: usize,
}

/// A snapshot. Sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileNumbers {
    pub open: bool,
    pub reads: usize,
    /// Writes and syncs that are pending.
    pub writes: usize,
    /// Of the writes that are pending.
    pub unwritten: usize,
    /// Completions that nobody has been told yet.
    pub untold: usize,
    pub completed: u64,
    /// Of those: with an error, and with `CANCELED`.
    pub failed: u64,
    pub cancelled: u64,
    pub read: u64,
    pub written: u64,
}

/// What is asked of a file.
pub struct FileRequest {
    pub action: Action,
    pub offset: u64,
    pub memory: Box<dyn Memory>,
}

impl<U: Upper> Port<U> {
    /// Binds an open file to this port. `kept` is dropped when it closes.
    ///
    /// # Errors
    /// The workers are about to exit.
    pub fn associate_file(&self, file: Arc<File>, engine: Arc<Files>, kept: Box<dyn Any + Send>) -> Result<Arc<PortFile<U>>, Refusal> {
        let mut table = self.table.lock();
        if self.ending.load(Ordering::Acquire) {
            drop(table);
            return Err(Refusal::Closed);
        }
        let token = table.reserve();
        let state = State {
            open: Some(Open { file: file.clone(), engine, _kept: kept }),
            pending: HashMap::new(),
            mailbox: Mailbox::default(),
            each: self.scheduler.limits().are_callers(),
            numbers: FileNumbers::default(),
        };
        let file = Arc::new_cyclic(|this| PortFile {
            token,
            port: self.this.clone(),
            this: this.clone(),
            file: Arc::downgrade(&file),
            descriptor: AtomicI64::new(file.number()),
            state: Mutex::new(state),
        });
        table.fill(token, Entry::File(file.clone()));
        drop(table);
        self.handles.fetch_add(1, Ordering::Relaxed);
        Ok(file)
    }

    /// Submits an operation. A read of what is in memory is complete at once; it takes as long as copying the bytes. `id` is of `files::next_id`.
    ///
    /// # Errors
    /// The file is closed: the operation and its memory come back.
    pub fn submit_to_file(
        &self,
        file: &Arc<PortFile<U>>,
        id: u64,
        request: FileRequest,
        operation: U::Operation,
    ) -> Result<(), (U::Operation, Box<dyn Memory>)> {
        let FileRequest { action, offset, mut memory } = request;
        let opened = file.state.lock().open.as_ref().map(|open| (open.file.clone(), open.engine.clone()));
        let Some((opened, engine)) = opened else { return Err((operation, memory)) };
        let mut transferred = 0;
        if action == Action::Read {
            match opened.read_cached_into(&mut *memory, offset) {
                Cached::Whole(count) => {
                    let mut state = file.state.lock();
                    if state.open.is_none() {
                        return Err((operation, memory));
                    }
                    let scheduled = state.complete(operation, action, Outcome { memory, transferred: count, error: None });
                    let wakes = if scheduled { self.scheduler.post([Item::File(file.clone())]) } else { Wakes::default() };
                    drop(state);
                    self.wake_after_post(wakes);
                    return Ok(());
                }
                Cached::Part(count) => transferred = count,
            }
        }
        let mut state = file.state.lock();
        if state.open.is_none() {
            return Err((operation, memory));
        }
        state.pending.insert(id, Pending { operation, action, length: memory.length() });
        self.scheduler.expect();
        drop(state);
        engine.submit(Request { id, file: opened, action, offset, memory, transferred, sink: file.clone() });
        Ok(())
    }

    /// Closes the file, and asks for an early end of what is pending. Idempotent. May close the descriptor, which may block: call it with the interpreter released.
    pub fn close_file(&self, file: &Arc<PortFile<U>>) {
        let (open, pending) = {
            let mut state = file.state.lock();
            let Some(open) = state.open.take() else { return };
            file.descriptor.store(-1, Ordering::Relaxed);
            (open, state.pending.keys().copied().collect::<Vec<_>>())
        };
        let entry = self.table.lock().remove(file.token);
        drop(entry);
        self.handles.fetch_sub(1, Ordering::Relaxed);
        cancel(&open.engine, pending);
        drop(open);
    }

    pub(super) fn close_files(&self) {
        for file in self.files() {
            self.close_file(&file);
        }
    }

    pub(super) fn files(&self) -> Vec<Arc<PortFile<U>>> {
        let table = self.table.lock();
        table.iter().filter_map(|entry| if let Entry::File(one) = entry { Some(one.clone()) } else { None }).collect()
    }

    /// How many completions came from files after the port was closed, for nobody. Their memory is let go.
    pub fn came_late(&self) -> u64 {
        self.late.load(Ordering::Acquire)
    }
}

impl<U: Upper> PortFile<U> {
    /// Whether the operation was pending, and is asked to end early; a close has asked already. Call it with the interpreter released, as the next.
    pub fn cancel_operation(&self, id: u64) -> bool {
        let (pending, engine) = {
            let state = self.state.lock();
            (state.pending.contains_key(&id), state.open.as_ref().map(|open| open.engine.clone()))
        };
        if let Some(engine) = engine
            && pending
        {
            engine.cancel(id);
        }
        pending
    }

    /// As `cancel_operation`, for all that are pending; how many there were.
    pub fn cancel_operations(&self) -> usize {
        let (pending, engine) = {
            let state = self.state.lock();
            (state.pending.keys().copied().collect::<Vec<_>>(), state.open.as_ref().map(|open| open.engine.clone()))
        };
        let count = pending.len();
        if let Some(engine) = engine {
            cancel(&engine, pending);
        }
        count
    }

    // ---- who is told ----

    /// The next completion of a file that came out of the ready queue.
    pub fn begin(&self) -> Option<FileCompleted<U>> {
        self.state.lock().mailbox.take()
    }

    /// It has been told; true if the file must go to the ready queue again.
    pub fn finish(&self) -> bool {
        self.state.lock().mailbox.finish()
    }

    /// Nobody will come any more: what was never told.
    pub fn take_untold(&self) -> Vec<FileCompleted<U>> {
        self.state.lock().mailbox.split_off(|_| false)
    }

    // ---- looking ----

    pub fn is_pending(&self, id: u64) -> bool {
        self.state.lock().pending.contains_key(&id)
    }

    /// How many operations are pending.
    pub fn pending(&self) -> usize {
        self.state.lock().pending.len()
    }

    /// -1 once it is closed.
    pub fn descriptor(&self) -> i64 {
        self.descriptor.load(Ordering::Relaxed)
    }

    pub fn numbers(&self) -> FileNumbers {
        let state = self.state.lock();
        let mut numbers = FileNumbers { open: state.open.is_some(), untold: state.mailbox.len(), ..state.numbers };
        for pending in state.pending.values() {
            match pending.action {
                Action::Read => numbers.reads += 1,
                Action::Write => {
                    numbers.writes += 1;
                    numbers.unwritten += pending.length;
                }
                Action::Sync { .. } => numbers.writes += 1,
            }
        }
        numbers
    }

    /// In the child of a fork: closes the child's descriptor. No lock is taken, since a thread that is gone may hold it.
    pub fn forked(&self) {
        if self.descriptor.swap(-1, Ordering::Relaxed) >= 0
            && let Some(file) = self.file.upgrade()
        {
            file.forked();
        }
    }
}

/// The newest first: what no mechanism has begun is not begun meanwhile.
fn cancel(engine: &Files, mut pending: Vec<u64>) {
    pending.sort_unstable_by(|one, other| other.cmp(one));
    for id in pending {
        engine.cancel(id);
    }
}

impl<U: Upper> Complete for PortFile<U> {
    fn complete(&self, id: u64, outcome: Outcome) {
        let (Some(port), Some(this)) = (self.port.upgrade(), self.this.upgrade()) else { return };
        let mut state = self.state.lock();
        let Pending { operation, action, .. } = state.pending.remove(&id).expect("a request completes once");
        let wakes = if state.complete(operation, action, outcome) {
            port.scheduler.post_expected(Item::File(this)).ok()
        } else {
            port.scheduler.unexpect().then(Wakes::default) // whoever has the file, or finds it in the queue, comes for this too
        };
        if let Some(wakes) = wakes {
            drop(state);
            port.wake_after_post(wakes);
        } else {
            let lost = state.mailbox.split_off(|_| false);
            drop(state);
            let count = lost.len() as u64;
            drop(lost); // first: whoever sees it counted may do with the memory what he likes
            port.late.fetch_add(count, Ordering::Release);
        }
    }
}

impl<U: Upper> State<U> {
    /// The one place where operations complete. True: the file must go to the ready queue.
    fn complete(&mut self, operation: U::Operation, action: Action, outcome: Outcome) -> bool {
        let numbers = &mut self.numbers;
        numbers.completed += 1;
        match action {
            Action::Read => numbers.read += outcome.transferred as u64,
            Action::Write => numbers.written += outcome.transferred as u64,
            Action::Sync { .. } => {}
        }
        if let Some(number) = outcome.error {
            numbers.failed += 1;
            numbers.cancelled += u64::from(number == CANCELED);
        }
        self.mailbox.push((operation, outcome)) || self.each
    }
}
