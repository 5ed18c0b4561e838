//! `proactor._core.Transfer`: the state of a file's request, under the `concurrent.futures.Future` that `python/proactor/files.py` makes of it.
//!
//! ```text
//!   Pending ──complete──▶ Finished                    (not inflated: natively, without the interpreter)
//!      │        └──────── Stored ──settle──▶ Finished (inflated: a Python thread tells, under the future's condition)
//!      └──cancel──▶ Cancelled                         (only while the kernel does not have it)
//! ```
//! Inflated is what `call.rs` calls so. The Python object of the outcome is made by the first attached thread that looks.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use proactor_core::files::{Begun, Complete, Files, Outcome, Waited};
use pyo3::exceptions::{PyTimeoutError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyList;
use pyo3::{PyTraverseError, PyVisit, intern};

use crate::call::CancelledError;
use crate::file_engine::world;
use crate::file_memory::{Held, release_buried};
use crate::files::Open;
use crate::layer::Left;
use crate::{errors, telling, worker};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Pending,
    Stored,
    Cancelled,
    Finished,
}

impl Phase {
    fn is_end(self) -> bool {
        matches!(self, Phase::Finished | Phase::Cancelled)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Read,
    ReadInto,
    Write,
}

/// One request: shared by its future and the engine.
pub struct Shared {
    pub id: u64,
    pub open: Arc<Open>,
    pub kind: Kind,
    /// As the caller gave them.
    pub offset: u64,
    pub size: usize,
    /// Nobody was woken for it.
    pub quiet: AtomicBool,
    /// Set by its submitter, before anybody else can see it: it is with the kernel already, and whoever waits for it takes it from there.
    begun: OnceLock<Begun>,
    // Guards everything that changes. Held for as long as it takes to move some references and to count: nothing in Python is made, released or
    // called under it. Taken before the file's counters.
    state: Mutex<State>,
    /// Notified when it has ended, if somebody sleeps on it.
    ended: Condvar,
}

struct State {
    phase: Phase,
    sleepers: usize,
    /// What the engine has answered, until somebody has made a Python object of it.
    outcome: Option<Outcome>,
    answer: Option<Answer>,
    waited: Option<(Py<PyAny>, Py<PyList>)>,
    callbacks: Vec<Py<PyAny>>,
    /// The future itself, while a Python thread has to tell of its end.
    own: Option<Py<PyAny>>,
    /// Nobody waits for it any more, and it is counted no more.
    given_up: bool,
}

struct Answer {
    object: Py<PyAny>,
    failed: bool,
}

impl Shared {
    pub fn new(id: u64, open: &Arc<Open>, kind: Kind, offset: u64, size: usize) -> Arc<Self> {
        let state = State {
            phase: Phase::Pending,
            sleepers: 0,
            outcome: None,
            answer: None,
            waited: None,
            callbacks: Vec::new(),
            own: None,
            given_up: false,
        };
        Arc::new(Shared {
            id,
            open: open.clone(),
            kind,
            offset,
            size,
            quiet: AtomicBool::new(false),
            begun: OnceLock::new(),
            state: Mutex::new(state),
            ended: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It was complete before anybody could see it.
    pub fn finish_at_once(&self, object: Py<PyAny>) {
        let mut state = self.lock();
        state.phase = Phase::Finished;
        state.answer = Some(Answer { object, failed: false });
    }

    pub fn was_begun(&self, begun: Begun) {
        self.begun.set(begun).expect("a request is begun once");
    }

    /// Somebody looks at it: whatever was put off begins now.
    fn rouse(&self) {
        if self.quiet.swap(false, Ordering::Relaxed) {
            self.open.waited_at_once.store(0, Ordering::Relaxed);
            if let Some(files) = self.open.world.engine_if_any() {
                files.rouse();
            }
        }
    }

    /// Takes what the kernel has done, if that is for whoever looks to do.
    fn look(&self) {
        self.with_begun(|files, _| files.look());
    }

    /// Somebody has to be told of its end without looking.
    fn push(&self) {
        self.rouse();
        self.with_begun(|files, begun| files.push(begun));
    }

    fn with_begun<T>(&self, act: impl FnOnce(&Files, Begun) -> T) -> Option<T> {
        let begun = *self.begun.get()?;
        if self.lock().phase != Phase::Pending {
            return None;
        }
        let files = self.open.world.engine_if_any()?;
        Some(act(&files, begun))
    }

    /// `or_stored`: until it only needs to be told of.
    fn wait_ended(&self, timeout: Duration, or_stored: bool) -> bool {
        let waited = self.with_begun(|files, begun| files.wait(begun, timeout));
        let timeout = if waited == Some(Waited::Over) { Duration::ZERO } else { timeout };
        let mut state = self.lock();
        state.sleepers += 1;
        let is_over = |state: &State| state.phase.is_end() || or_stored && state.phase == Phase::Stored;
        let goes_on = |state: &mut State| !is_over(state);
        let (mut state, _) = self.ended.wait_timeout_while(state, timeout, goes_on).unwrap_or_else(PoisonError::into_inner);
        state.sleepers -= 1;
        is_over(&state)
    }

    fn wake(&self, state: MutexGuard<'_, State>) {
        let sleepers = state.sleepers;
        drop(state);
        if sleepers > 0 {
            self.ended.notify_all();
        }
    }

    fn object_of(&self, py: Python<'_>, name: &Py<PyAny>, outcome: Outcome) -> PyResult<Py<PyAny>> {
        let Outcome { memory, transferred, error } = outcome;
        let memory = memory.into_any().downcast::<Held>().map_err(|_| PyTypeError::new_err("memory that is none of this layer's"))?;
        let made = match error {
            Some(number) => {
                drop(memory);
                let did = if self.kind == Kind::Write { "writing" } else { "reading" };
                Err(errors::of_file(py, number, &errors::transfer(did, self.size, self.offset, transferred), name))
            }
            None => match memory.into_bytes(py, transferred)? {
                Some(bytes) if self.kind == Kind::Read => Ok(bytes.into_any()),
                _ => Ok(transferred.into_pyobject(py)?.into_any().unbind()),
            },
        };
        release_buried(py); // the caller may use his buffer as soon as he sees the result
        made
    }
}

impl Complete for Shared {
    fn complete(&self, _id: u64, mut outcome: Outcome) {
        let transferred = outcome.transferred;
        if let Some(held) = crate::files::held(&mut outcome) {
            outcome.transferred = held.settle(transferred);
        }
        let (transferred, failed) = (outcome.transferred, outcome.error.is_some());
        let mut state = self.lock();
        debug_assert!(state.phase == Phase::Pending, "a request completes once");
        state.outcome = Some(outcome);
        let own = state.own.take();
        state.phase = if state.waited.is_some() { Phase::Stored } else { Phase::Finished };
        // Counted before anybody can see the end: who has the result finds it in the file's counters.
        if state.given_up {
            self.open.world.given_up.fetch_sub(1, Ordering::SeqCst);
        } else {
            self.open.ended(self.kind, transferred, failed);
        }
        self.wake(state);
        if let Some(own) = own {
            self.open.world.teller.tell(own);
        }
    }
}

thread_local! {
    /// What the future being made is of.
    static FRESH: RefCell<Option<(Arc<Shared>, Py<PyAny>)>> = const { RefCell::new(None) };
}

/// Makes the future of a request.
pub fn make<'py>(class: &Bound<'py, PyAny>, shared: &Arc<Shared>, name: &Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
    FRESH.set(Some((shared.clone(), name.clone_ref(class.py()))));
    class.call0()
}

#[pyclass(module = "proactor._core", subclass, frozen)]
pub struct Transfer {
    shared: Arc<Shared>,
    /// The file's, for errors.
    name: Py<PyAny>,
}

/// Up to so many requests under way, whoever waits for one that nobody has begun does it himself.
const FEW: usize = 8;

impl Transfer {
    /// The answer; None if it has not ended, or was cancelled.
    fn answer(&self, py: Python<'_>) -> PyResult<Option<(Py<PyAny>, bool)>> {
        loop {
            let mut state = self.shared.lock();
            if state.phase != Phase::Finished {
                return Ok(None);
            }
            if let Some(answer) = &state.answer {
                return Ok(Some((answer.object.clone_ref(py), answer.failed)));
            }
            let Some(outcome) = state.outcome.take() else {
                // Somebody makes the object just now.
                drop(state);
                py.detach(|| {
                    let mut state = self.shared.lock();
                    state.sleepers += 1;
                    let goes_on = |state: &mut State| state.answer.is_none();
                    let waited = self.shared.ended.wait_timeout_while(state, Duration::from_millis(10), goes_on);
                    waited.unwrap_or_else(PoisonError::into_inner).0.sleepers -= 1;
                });
                continue;
            };
            drop(state);
            let (object, failed) = match self.shared.object_of(py, &self.name, outcome) {
                Ok(object) => (object, false),
                Err(error) => (error.into_value(py).into_any(), true),
            };
            let kept = object.clone_ref(py);
            let mut state = self.shared.lock();
            state.answer = Some(Answer { object: kept, failed });
            self.shared.wake(state);
            return Ok(Some((object, failed)));
        }
    }

    /// False: somebody has begun it, or many are under way.
    fn perform_here(&self, py: Python<'_>) -> bool {
        if self.shared.open.is_below(FEW)
            && let Some(files) = self.shared.open.world.engine_if_any()
            && let Some(request) = files.take_back(self.shared.id)
        {
            self.shared.quiet.store(false, Ordering::Relaxed);
            py.detach(|| {
                let _blocking = worker::Blocking::enter();
                files.perform(request);
            });
            return true;
        }
        false
    }

    fn wait(this: &Bound<'_, Self>, Left(timeout): Left) -> PyResult<()> {
        let (py, own) = (this.py(), this.get());
        own.check()?;
        own.shared.look();
        if own.shared.lock().phase.is_end() {
            own.shared.open.waited_at_once.store(0, Ordering::Relaxed);
            return Ok(());
        }
        if timeout.is_none() && own.shared.open.is_alone() {
            own.shared.open.waited_at_once.fetch_add(1, Ordering::Relaxed);
        } else {
            own.shared.open.waited_at_once.store(0, Ordering::Relaxed);
        }
        // Nobody has begun it: to do it here saves waking, and waiting for, another thread. A time limit could not be kept then. Where many are under way, it
        // would only miss going to the device together with the others.
        if timeout.is_none() && own.perform_here(py) {
            if own.shared.lock().phase.is_end() {
                return Ok(());
            }
        } else {
            own.shared.rouse();
        }
        let timeout = timeout.filter(|duration| Instant::now().checked_add(*duration).is_some());
        let tells = telling::tells();
        // A signal's handler may have forked, and come back here in the child: what was begun is the parent's to take.
        worker::wait(py, timeout, |a_while| own.is_of_parent() || own.shared.wait_ended(a_while, tells))?;
        own.check()?;
        if tells && own.shared.lock().phase == Phase::Stored {
            // A callback waits in the only thread that would tell of this.
            py.import(intern!(py, "proactor.futures"))?.call_method1(intern!(py, "publish"), (this,))?;
        }
        Ok(())
    }

    fn check(&self) -> PyResult<()> {
        if self.is_of_parent() { Err(errors::file_forked()) } else { Ok(()) }
    }

    /// This process is the child of the one that the file was opened in.
    fn is_of_parent(&self) -> bool {
        !std::ptr::eq(self.shared.open.world, world())
    }

    /// Someone has to be told of the end: from here on the future keeps itself alive, and a Python thread is expected to be there.
    fn expect(this: &Bound<'_, Self>, state: &mut State) -> bool {
        if state.phase != Phase::Pending || state.own.is_some() {
            return false;
        }
        state.own = Some(this.clone().into_any().unbind());
        true
    }
}

#[pymethods]
impl Transfer {
    #[new]
    fn new() -> PyResult<Self> {
        match FRESH.take() {
            Some((shared, name)) => Ok(Transfer { shared, name }),
            None => Err(PyTypeError::new_err("a file's futures are made by its read_at, readinto_at and write_at, not by hand")),
        }
    }

    /// Whether it is complete, or was cancelled.
    fn done(&self, py: Python<'_>) -> PyResult<bool> {
        self.check()?;
        self.shared.rouse();
        self.shared.look();
        let ended = self.shared.lock().phase.is_end();
        if ended {
            self.answer(py)?; // so that a lent buffer is its owner's again
        }
        Ok(ended)
    }

    /// Whether it was cancelled.
    fn cancelled(&self) -> PyResult<bool> {
        self.check()?;
        Ok(self.shared.lock().phase == Phase::Cancelled)
    }

    /// Whether it has neither ended nor was cancelled.
    fn running(&self) -> PyResult<bool> {
        self.check()?;
        self.shared.rouse();
        self.shared.look();
        Ok(!self.shared.lock().phase.is_end())
    }

    /// Does it in this thread, if nobody has begun it and few are under way.
    fn _perform_here(&self, py: Python<'_>) -> PyResult<bool> {
        self.check()?;
        Ok(self.perform_here(py))
    }

    /// What the request has brought. Blocks until it is complete; in a worker with the worker's slot free. Signal handlers run in between.
    ///
    /// Raises:
    ///     OSError: it failed; the text says what was done at which offset, and `filename` is the file's.
    ///     CancelledError: it was cancelled.
    ///     TimeoutError: it is not complete after `timeout` seconds.
    #[pyo3(signature = (timeout=Left(None)), text_signature = "($self, timeout=None)")]
    fn result(this: &Bound<'_, Self>, timeout: Left) -> PyResult<Py<PyAny>> {
        Self::wait(this, timeout)?;
        let (py, own) = (this.py(), this.get());
        match own.answer(py)? {
            Some((object, false)) => Ok(object),
            Some((error, true)) => Err(PyErr::from_value(error.into_bound(py))),
            None => Err(own.no_answer()),
        }
    }

    /// The error of the request, None if there is none; else as `result`.
    #[pyo3(signature = (timeout=Left(None)), text_signature = "($self, timeout=None)")]
    fn exception(this: &Bound<'_, Self>, timeout: Left) -> PyResult<Option<Py<PyAny>>> {
        Self::wait(this, timeout)?;
        let own = this.get();
        match own.answer(this.py())? {
            Some((object, failed)) => Ok(failed.then_some(object)),
            None => Err(own.no_answer()),
        }
    }

    /// As the standard library's futures call it.
    #[getter]
    fn _state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.check()?;
        self.shared.rouse();
        self.shared.look();
        let phase = self.shared.lock().phase;
        let name = match phase {
            Phase::Pending | Phase::Stored => intern!(py, "RUNNING"),
            Phase::Cancelled => intern!(py, "CANCELLED_AND_NOTIFIED"),
            Phase::Finished => intern!(py, "FINISHED"),
        };
        Ok(name.clone().into_any())
    }

    #[getter]
    fn _result(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.check()?;
        Ok(self.answer(py)?.and_then(|(object, failed)| (!failed).then_some(object)))
    }

    #[getter]
    fn _exception(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.check()?;
        Ok(self.answer(py)?.and_then(|(object, failed)| failed.then_some(object)))
    }

    // ---- inflating, as in `call.rs` ----

    fn _inflated(&self, py: Python<'_>) -> PyResult<Option<(Py<PyAny>, Py<PyList>)>> {
        self.check()?;
        Ok(self.shared.lock().waited.as_ref().map(|(condition, waiters)| (condition.clone_ref(py), waiters.clone_ref(py))))
    }

    fn _inflate(this: &Bound<'_, Self>, condition: Py<PyAny>, waiters: Py<PyList>) -> PyResult<(Py<PyAny>, Py<PyList>)> {
        let (py, own) = (this.py(), this.get());
        own.check()?;
        own.shared.push();
        let offered = (condition, waiters);
        let mut state = own.shared.lock();
        if let Some((condition, waiters)) = &state.waited {
            let kept = (condition.clone_ref(py), waiters.clone_ref(py));
            drop(state);
            drop(offered);
            return Ok(kept);
        }
        let kept = (offered.0.clone_ref(py), offered.1.clone_ref(py));
        state.waited = Some(offered);
        if Self::expect(this, &mut state) {
            own.shared.open.world.teller.expect();
        }
        Ok(kept)
    }

    /// Under the condition, once it is complete: ends it. Whether it failed; None: it had ended before, or is not complete.
    fn _settle(&self) -> Option<bool> {
        let mut state = self.shared.lock();
        if state.phase != Phase::Stored {
            return None;
        }
        state.phase = Phase::Finished;
        let failed = state.outcome.as_ref().is_some_and(|outcome| outcome.error.is_some());
        self.shared.wake(state);
        Some(failed)
    }

    /// Cancels it if the kernel does not have it. None: it is inflated, and `_cancel(True)` is to be called under the condition.
    fn _cancel(&self, py: Python<'_>, under_condition: bool) -> PyResult<Option<bool>> {
        self.check()?;
        if !under_condition && self.shared.lock().waited.is_some() {
            return Ok(None);
        }
        let request = self.shared.open.world.engine_if_any().and_then(|files| files.take_back(self.shared.id));
        let Some(request) = request else { return Ok(Some(false)) };
        let mut state = self.shared.lock();
        if state.waited.is_some() && !under_condition {
            // It was inflated in between. Whoever did that may be waiting already: the request goes its way, as one that came too late.
            drop(state);
            py.detach(|| self.shared.open.world.resubmit(request));
            return Ok(None);
        }
        state.phase = Phase::Cancelled;
        let own = state.own.take();
        if state.given_up {
            self.shared.open.world.given_up.fetch_sub(1, Ordering::SeqCst);
        } else {
            self.shared.open.cancelled();
        }
        self.shared.wake(state);
        if own.is_some() {
            self.shared.open.world.teller.unexpect();
        }
        drop(own);
        drop(request);
        release_buried(py);
        Ok(Some(true))
    }

    /// False if it has ended: then the caller calls `function` itself.
    fn _add_callback(this: &Bound<'_, Self>, function: Py<PyAny>) -> PyResult<bool> {
        let own = this.get();
        own.check()?;
        own.shared.push();
        let mut state = own.shared.lock();
        if state.phase.is_end() {
            drop(state);
            drop(function);
            return Ok(false);
        }
        state.callbacks.push(function);
        if Self::expect(this, &mut state) {
            own.shared.open.world.teller.expect();
        }
        Ok(true)
    }

    fn _take_callbacks(&self) -> Vec<Py<PyAny>> {
        std::mem::take(&mut self.shared.lock().callbacks)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.name)?;
        let state = match self.shared.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        if let Some(answer) = &state.answer {
            visit.call(&answer.object)?;
        }
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
        let mut state = self.shared.lock();
        let held = (state.answer.take(), state.waited.take(), std::mem::take(&mut state.callbacks));
        drop(state);
        drop(held);
    }
}

impl Transfer {
    /// Nobody wants it any more, or will look at it. Answers its id.
    pub fn give_up(&self) -> u64 {
        let mut state = self.shared.lock();
        let is_first = state.phase == Phase::Pending && !state.given_up;
        state.given_up |= is_first;
        // Counted before it can complete, which takes the lock.
        if is_first {
            self.shared.open.given_up();
        }
        drop(state);
        // Not roused: what was put off is better cancelled.
        self.shared.with_begun(|files, begun| files.push(begun));
        self.shared.id
    }

    fn no_answer(&self) -> PyErr {
        if self.shared.lock().phase == Phase::Cancelled { CancelledError::new_err(()) } else { PyTimeoutError::new_err(()) }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if self.check().is_ok() {
            self.shared.push();
        }
    }
}
