//! `proactor._core.Call`: the state of a submitted call, under the `concurrent.futures.Future` that `python/proactor/futures.py` makes of it.
//!
//! ```text
//!   Pending ──begin──▶ Running ──finish, fail──▶ Finished          (not inflated: here, under one small lock)
//!      │                  └────── stored ──settle──▶ Finished       (inflated: in Python, under the future's condition)
//!      └──cancel──▶ Cancelled
//! ```
//! A future is *inflated* once somebody has asked for its condition: to wait for it, as `concurrent.futures.wait` does, or to hold it. From then on
//! it ends under that condition. Both steps happen under the lock below, so it ended before, and whoever waits sees that, or it ends under the condition.
//! Knows nothing of how calls are scheduled.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyTimeoutError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use pyo3::{PyTraverseError, PyVisit, intern};

use crate::layer::SIGNALS_EVERY;

pyo3::import_exception!(concurrent.futures, CancelledError);

/// What is submitted to one port: how many wait, how many there may be, and what became of them.
pub struct Submissions {
    limit: Option<usize>,
    /// Names the port in `current_worker()`.
    pub address: AtomicUsize,
    /// Threads have been started, and the initializer has not raised.
    pub accepting: AtomicBool,
    /// Calls that have not begun.
    pending: AtomicUsize,
    /// Items of the port's queue whose call was begun elsewhere, or cancelled.
    husks: AtomicUsize,
    pub done: AtomicU64,
    pub failed: AtomicU64,
    pub cancelled: AtomicU64,
    /// How often the queue was full.
    pub full: AtomicU64,
    /// Threads that wait for room.
    waiting: AtomicUsize,
    /// The port's workers that have said that they block.
    blocked: AtomicUsize,
    // Guards nothing; who waits for room sleeps on it.
    room: Mutex<()>,
    room_made: Condvar,
}

impl Submissions {
    pub fn new(limit: Option<usize>) -> Arc<Self> {
        Arc::new(Submissions {
            limit,
            address: AtomicUsize::new(0),
            accepting: AtomicBool::new(false),
            pending: AtomicUsize::new(0),
            husks: AtomicUsize::new(0),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            full: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            blocked: AtomicUsize::new(0),
            room: Mutex::new(()),
            room_made: Condvar::new(),
        })
    }

    pub fn husks(&self) -> usize {
        self.husks.load(Ordering::Relaxed)
    }

    pub fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.pending.load(Ordering::SeqCst) >= limit)
    }

    /// One more call waits; false if there is no room.
    pub fn enter(&self) -> bool {
        match self.limit {
            None => {
                self.pending.fetch_add(1, Ordering::Relaxed);
                true
            }
            Some(limit) => {
                let more = |pending| (pending < limit).then_some(pending + 1);
                self.pending.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
            }
        }
    }

    /// A call waits no more.
    pub fn leave(&self) {
        self.pending.fetch_sub(1, Ordering::SeqCst);
        self.tell_waiting();
    }

    /// One of the port's workers blocks.
    pub fn block(&self) {
        self.blocked.fetch_add(1, Ordering::SeqCst);
        self.tell_waiting();
    }

    pub fn unblock(&self) {
        self.blocked.fetch_sub(1, Ordering::SeqCst);
    }

    /// So many workers block: if those are all, nobody is left to make room.
    pub fn blocked(&self) -> usize {
        self.blocked.load(Ordering::SeqCst)
    }

    // Sequentially consistent, as in `wait_for_room`: either this sees who waits, or who waits sees what has changed.
    fn tell_waiting(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            drop(self.room.lock().unwrap_or_else(PoisonError::into_inner));
            self.room_made.notify_all();
        }
    }

    /// Waits at most `timeout`, with the interpreter released, until there is room, or so many workers block; says whether there is room.
    pub fn wait_for_room(&self, or_blocked: usize, timeout: Duration) -> bool {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let guard = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = |(): &mut ()| self.is_full() && self.blocked() < or_blocked;
        let (guard, _) = self.room_made.wait_timeout_while(guard, timeout, goes_on).unwrap_or_else(PoisonError::into_inner);
        drop(guard);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        !self.is_full()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Pending,
    Running,
    Cancelled,
    Finished,
}

impl Phase {
    fn is_end(self) -> bool {
        matches!(self, Phase::Finished | Phase::Cancelled)
    }
}

/// A submitted call: shared by its future and, until it is taken, the port's queue.
pub struct Submitted {
    submissions: Arc<Submissions>,
    pub at: Instant,
    // Guards everything about the call. Taken with the interpreter held, for as long as it takes to move some references: nothing in Python is made,
    // released or called under it, nor is the interpreter let go of.
    state: Mutex<State>,
    /// Notified when it has ended, if `State::sleepers` says that somebody sleeps on it.
    ended: Condvar,
}

struct State {
    phase: Phase,
    /// Threads in `_sleep`. They take the lock without the interpreter, and want nothing of it while they hold it.
    sleepers: usize,
    /// Until it begins.
    work: Option<Work>,
    /// The result or the exception.
    outcome: Option<Py<PyAny>>,
    failed: bool,
    /// Once the future is inflated: its condition, and those who wait for several futures.
    waited: Option<(Py<PyAny>, Py<PyList>)>,
    callbacks: Vec<Py<PyAny>>,
}

/// What is to be called: the function, its arguments and its keywords.
pub type What = (Py<PyAny>, Py<PyTuple>, Option<Py<PyDict>>);

/// What is to be called, and whose it is. The future keeps itself alive with it until it begins.
pub struct Work {
    pub future: Py<PyAny>,
    pub function: Py<PyAny>,
    pub arguments: Py<PyTuple>,
    pub keywords: Option<Py<PyDict>>,
}

impl Submitted {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a worker that has taken it from the queue is to do; None: it was cancelled, or somebody was faster.
    pub fn begin_from_queue(&self) -> Option<Work> {
        let work = self.begin();
        if work.is_none() {
            self.submissions.husks.fetch_sub(1, Ordering::Relaxed);
        }
        work
    }

    fn begin(&self) -> Option<Work> {
        let mut state = self.lock();
        let work = state.work.take()?;
        state.phase = Phase::Running;
        drop(state);
        self.submissions.leave();
        Some(work)
    }

    pub fn is_pending(&self) -> bool {
        self.lock().work.is_some()
    }

    /// The future, while the call has not begun.
    pub fn future(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.lock().work.as_ref().map(|work| work.future.clone_ref(py))
    }

    /// Waits at most `timeout` until it has ended; says whether it has. Call it with the interpreter released.
    fn wait_ended(&self, timeout: Duration) -> bool {
        let mut state = self.lock();
        state.sleepers += 1;
        let goes_on = |state: &mut State| !state.phase.is_end();
        let (mut state, _) = self.ended.wait_timeout_while(state, timeout, goes_on).unwrap_or_else(PoisonError::into_inner);
        state.sleepers -= 1;
        state.phase.is_end()
    }

    /// It has ended: lets go of the lock, and wakes whoever sleeps.
    fn wake(&self, state: MutexGuard<'_, State>) {
        let sleepers = state.sleepers;
        drop(state);
        if sleepers > 0 {
            self.ended.notify_all();
        }
    }

    fn count(&self, failed: bool) {
        let counter = if failed { &self.submissions.failed } else { &self.submissions.done };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends a running call; true if nobody has to be told.
    fn end(&self, outcome: Py<PyAny>, failed: bool) -> bool {
        let mut state = self.lock();
        if state.phase != Phase::Running {
            drop(state); // somebody has used `set_result` on it meanwhile
            drop(outcome);
            return true;
        }
        debug_assert!(state.outcome.is_none(), "whoever began it ends it once");
        state.outcome = Some(outcome);
        state.failed = failed;
        if state.waited.is_some() {
            return false;
        }
        state.phase = Phase::Finished;
        let told = state.callbacks.is_empty();
        self.wake(state);
        self.count(failed);
        told
    }
}

thread_local! {
    /// What the future being made is of: only a port makes them.
    static FRESH: RefCell<Option<Arc<Submitted>>> = const { RefCell::new(None) };
}

/// Makes the future of a call, and the call; it has been counted by `Submissions::enter`. `pending`: else it is running already.
pub fn make<'py>(
    submissions: &Arc<Submissions>,
    class: &Bound<'py, PyAny>,
    work: Option<What>,
) -> PyResult<(Bound<'py, PyAny>, Arc<Submitted>)> {
    let phase = if work.is_some() { Phase::Pending } else { Phase::Running };
    let state = State { phase, sleepers: 0, work: None, outcome: None, failed: false, waited: None, callbacks: Vec::new() };
    let submitted =
        Arc::new(Submitted { submissions: submissions.clone(), at: Instant::now(), state: Mutex::new(state), ended: Condvar::new() });
    FRESH.set(Some(submitted.clone()));
    let future = class.call0()?;
    if let Some((function, arguments, keywords)) = work {
        let work = Work { future: future.clone().unbind(), function, arguments, keywords };
        submitted.lock().work = Some(work);
    }
    Ok((future, submitted))
}

#[pyclass(module = "proactor._core", subclass, frozen)]
pub struct Call(Arc<Submitted>);

#[pymethods]
impl Call {
    #[new]
    fn new() -> PyResult<Self> {
        match FRESH.take() {
            Some(submitted) => Ok(Call(submitted)),
            None => Err(PyTypeError::new_err("the futures of a pool are made by its submit, not by hand")),
        }
    }

    fn done(&self) -> bool {
        self.0.lock().phase.is_end()
    }

    fn cancelled(&self) -> bool {
        self.0.lock().phase == Phase::Cancelled
    }

    fn running(&self) -> bool {
        self.0.lock().phase == Phase::Running
    }

    /// The result; raises the call's exception, CancelledError, or TimeoutError if it has not ended.
    fn _answer(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let state = self.0.lock();
        let outcome = state.outcome.as_ref().map(|outcome| outcome.clone_ref(py));
        let (phase, failed) = (state.phase, state.failed);
        drop(state);
        match (phase, outcome) {
            (Phase::Finished, Some(outcome)) if !failed => Ok(outcome),
            (Phase::Finished, Some(outcome)) => Err(PyErr::from_value(outcome.into_bound(py))),
            (Phase::Cancelled, _) => Err(CancelledError::new_err(())),
            _ => Err(PyTimeoutError::new_err(())),
        }
    }

    /// The exception; None where there is none. Raises as `_answer` where it has not ended, or was cancelled.
    fn _failure(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let state = self.0.lock();
        let outcome = if state.failed { state.outcome.as_ref().map(|outcome| outcome.clone_ref(py)) } else { None };
        let phase = state.phase;
        drop(state);
        match phase {
            Phase::Finished => Ok(outcome),
            Phase::Cancelled => Err(CancelledError::new_err(())),
            Phase::Pending | Phase::Running => Err(PyTimeoutError::new_err(())),
        }
    }

    /// As the standard library's futures call it.
    #[getter]
    fn _state<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        // Out of the lock first: making the names may let go of the interpreter, and who takes it then may want the lock.
        let phase = self.0.lock().phase;
        let name = match phase {
            Phase::Pending => intern!(py, "PENDING"),
            Phase::Running => intern!(py, "RUNNING"),
            // Whoever waits is told in the act of cancelling.
            Phase::Cancelled => intern!(py, "CANCELLED_AND_NOTIFIED"),
            Phase::Finished => intern!(py, "FINISHED"),
        };
        name.clone().into_any()
    }

    #[getter]
    fn _result(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let state = self.0.lock();
        let ended = state.phase == Phase::Finished && !state.failed;
        if ended { state.outcome.as_ref().map(|outcome| outcome.clone_ref(py)) } else { None }
    }

    #[getter]
    fn _exception(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let state = self.0.lock();
        let ended = state.phase == Phase::Finished && state.failed;
        if ended { state.outcome.as_ref().map(|outcome| outcome.clone_ref(py)) } else { None }
    }

    /// Waits until it has ended, or `timeout` seconds have passed. Signal handlers run meanwhile.
    fn _sleep(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        // Negative: no time at all. Beyond what a clock can tell: no limit.
        let duration = timeout.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)));
        let deadline = duration.and_then(|duration| Instant::now().checked_add(duration.ok()?));
        // Only the main thread runs signal handlers, and that is no worker.
        let slice = if crate::worker::current().is_some() { Duration::MAX } else { SIGNALS_EVERY };
        loop {
            let left = deadline.map_or(slice, |deadline| deadline.saturating_duration_since(Instant::now()).min(slice));
            if py.detach(|| self.0.wait_ended(left)) || left.is_zero() {
                return Ok(());
            }
            py.check_signals()?;
        }
    }

    // ---- inflating ----

    /// The condition and the waiters; None while nobody has asked for them.
    fn _inflated(&self, py: Python<'_>) -> Option<(Py<PyAny>, Py<PyList>)> {
        self.0.lock().waited.as_ref().map(|(condition, waiters)| (condition.clone_ref(py), waiters.clone_ref(py)))
    }

    /// Keeps these, unless somebody was faster; answers what is kept.
    fn _inflate(&self, py: Python<'_>, condition: Py<PyAny>, waiters: Py<PyList>) -> (Py<PyAny>, Py<PyList>) {
        let offered = (condition, waiters);
        let mut state = self.0.lock();
        if let Some((condition, waiters)) = &state.waited {
            let kept = (condition.clone_ref(py), waiters.clone_ref(py));
            drop(state);
            drop(offered);
            return kept;
        }
        let kept = (offered.0.clone_ref(py), offered.1.clone_ref(py));
        state.waited = Some(offered);
        kept
    }

    // ---- running ----

    /// For a worker of the port at `address` that would wait for it: what to call, if it is still queued there. From then on it is running.
    fn _begin(&self, address: usize) -> Option<What> {
        if self.0.submissions.address.load(Ordering::Relaxed) != address {
            return None;
        }
        let Work { future, function, arguments, keywords } = self.0.begin()?;
        self.0.submissions.husks.fetch_add(1, Ordering::Relaxed);
        drop(future);
        Some((function, arguments, keywords))
    }

    /// It has returned; true if nobody has to be told: else `_settle` and the callbacks follow.
    fn _finish(&self, result: Py<PyAny>) -> bool {
        self.0.end(result, false)
    }

    /// It has raised; else as `_finish`.
    fn _fail(&self, error: Py<PyAny>) -> bool {
        self.0.end(error, true)
    }

    /// On a worker: has one with its stack empty call `publish(future)`, after `_finish` or `_fail` said False.
    fn _publish_later(this: PyRef<'_, Self>, publish: Py<PyAny>) -> PyResult<()> {
        let py = this.py();
        let arguments = PyTuple::new(py, [this])?.unbind();
        crate::worker::call_later(publish, arguments);
        Ok(())
    }

    /// Under the condition, after `_finish` or `_fail` said False: ends it now. Whether it failed; None: it has ended before.
    fn _settle(&self) -> Option<bool> {
        let mut state = self.0.lock();
        if state.phase != Phase::Running || state.outcome.is_none() {
            return None;
        }
        state.phase = Phase::Finished;
        let failed = state.failed;
        self.0.wake(state);
        self.0.count(failed);
        Some(failed)
    }

    /// Ends it from outside, whatever it was doing; call it under the condition. False: it has ended before.
    fn _force(&self, outcome: Py<PyAny>, failed: bool) -> bool {
        let work = self.0.begin();
        if work.is_some() {
            self.0.submissions.husks.fetch_add(1, Ordering::Relaxed);
        }
        drop(work);
        let mut state = self.0.lock();
        if state.phase != Phase::Running {
            drop(state);
            drop(outcome);
            return false;
        }
        state.phase = Phase::Finished;
        state.failed = failed;
        let old = state.outcome.replace(outcome);
        self.0.wake(state);
        drop(old);
        self.0.count(failed);
        true
    }

    /// Cancels it if it has not begun. With a condition, call it under that.
    fn _cancel(&self) -> bool {
        let mut state = self.0.lock();
        let Some(work) = state.work.take() else { return false };
        state.phase = Phase::Cancelled;
        self.0.wake(state);
        let submissions = &self.0.submissions;
        submissions.husks.fetch_add(1, Ordering::Relaxed);
        submissions.cancelled.fetch_add(1, Ordering::Relaxed);
        submissions.leave();
        drop(work);
        true
    }

    /// False if it has ended: then the caller calls `function` itself.
    fn _add_callback(&self, function: Py<PyAny>) -> bool {
        let mut state = self.0.lock();
        if state.phase.is_end() {
            drop(state);
            drop(function);
            return false;
        }
        state.callbacks.push(function);
        true
    }

    fn _take_callbacks(&self) -> Vec<Py<PyAny>> {
        std::mem::take(&mut self.0.lock().callbacks)
    }

    // ---- the garbage collector ----

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Locked: somebody is moving references just now, and what is not visited counts as reachable.
        let state = match self.0.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        if let Some(work) = &state.work {
            // As long as the queue has the call, this reference is the queue's.
            if Arc::strong_count(&self.0) == 1 {
                visit.call(&work.future)?;
            }
            visit.call(&work.function)?;
            visit.call(&work.arguments)?;
            visit.call(&work.keywords)?;
        }
        visit.call(&state.outcome)?;
        if let Some((condition, waiters)) = &state.waited {
            visit.call(condition)?;
            visit.call(waiters)?;
        }
        for callback in &state.callbacks {
            visit.call(callback)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let mut state = self.0.lock();
        let held = (state.work.take(), state.outcome.take(), state.waited.take(), std::mem::take(&mut state.callbacks));
        drop(state);
        drop(held);
    }
}
