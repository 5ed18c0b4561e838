//! The worker's iterator: `for function, first, second in worker: function(first, second)` is the loop that every worker thread runs.
//! Always two arguments, because the interpreter calls a Python function with a fixed number of arguments from Python without going through C.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proactor_core::connection::Event;
use proactor_core::error::Failure;
use proactor_core::port::{Interpreter, Port as CorePort, Task, Worker as CoreWorker};
use proactor_core::scheduler::WorkerId;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::associations::told;
use crate::buffers::{Pool, to_bytes};
use crate::call::{Submissions, Work};
use crate::connection::public_object;
use crate::errors;
use crate::layer::{Call, Layer, SIGNALS_EVERY};
use crate::operations::Became;
use crate::seats;

/// What the calling thread is, for calls that come from inside a handler.
#[derive(Clone, Copy)]
pub struct Current {
    pub port: *const CorePort<Layer>,
    submissions: *const Submissions,
    pub worker: WorkerId,
    /// Whose handler runs; 0: a posted call.
    pub connection: u64,
    /// The address of that connection's group, to be compared only.
    pub group: usize,
}

thread_local! {
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
    /// How many blocking sections the thread is inside of.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

pub fn current() -> Option<Current> {
    CURRENT.get()
}

/// The same, if it is a worker of that port.
pub fn current_of(port: &Arc<CorePort<Layer>>) -> Option<Current> {
    current().filter(|current| std::ptr::eq(current.port, Arc::as_ptr(port)))
}

/// Queues a call on the calling worker's port, even if that is closing: the caller itself will be there to take it.
pub fn call_later(function: Py<PyAny>, arguments: Py<PyTuple>) {
    if let Some(current) = current() {
        // SAFETY: as in `Blocking::enter`.
        unsafe { &*current.port }.call(Call::Plain { function, arguments });
    }
}

/// The worker's slot is free while this lives, if the calling thread is a worker in a handler, or has got something from a completion port.
pub struct Blocking;

impl Blocking {
    pub fn enter() -> Self {
        DEPTH.set(DEPTH.get() + 1);
        if DEPTH.get() == 1 {
            if let Some(current) = current() {
                // SAFETY: `port` is the port of the Worker that set it, which lives on this thread's stack of Python frames and holds an Arc to it.
                unsafe { &*current.port }.block(current.worker);
                // SAFETY: the same.
                unsafe { &*current.submissions }.block();
            }
            seats::block();
        }
        Blocking
    }
}

impl Drop for Blocking {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
        if DEPTH.get() == 0 {
            if let Some(current) = current() {
                // SAFETY: as in `enter`.
                unsafe { &*current.submissions }.unblock();
                // SAFETY: the same.
                unsafe { &*current.port }.unblock(current.worker);
            }
            seats::unblock();
        }
    }
}

/// Repeats a wait that may take a while until it is over or `timeout` has passed, with the worker's slot free; signal handlers run meanwhile.
pub fn wait(py: Python<'_>, timeout: Option<Duration>, over: impl Fn(Duration) -> bool + Sync) -> PyResult<bool> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let _blocking = py.detach(Blocking::enter);
    loop {
        let left = deadline.map_or(SIGNALS_EVERY, |deadline| deadline.saturating_duration_since(Instant::now()));
        if py.detach(|| over(left.min(SIGNALS_EVERY))) {
            return Ok(true);
        }
        py.check_signals()?;
        if left.is_zero() {
            return Ok(false);
        }
    }
}

/// Frees the calling worker's slot, until as many `unblock` calls have followed. No effect on other threads.
#[pyfunction]
pub fn block(py: Python<'_>) {
    py.detach(|| std::mem::forget(Blocking::enter()));
}

#[pyfunction]
pub fn unblock(py: Python<'_>) {
    if DEPTH.get() > 0 {
        py.detach(|| drop(Blocking));
    }
}

/// `(port address, connection id)` of the worker that the calling thread is; None elsewhere.
#[pyfunction]
pub fn current_worker() -> Option<(usize, u64)> {
    current().map(|current| (current.port as usize, current.connection))
}

/// What the loop is given to call for what is no handler of two arguments.
pub struct Loop {
    pub start_worker: Py<PyAny>,
    /// `apply(function, arguments)`
    pub apply: Py<PyAny>,
    /// The same for `()`: with a call that needs no tuple, the interpreter does not go through C.
    pub apply_nothing: Py<PyAny>,
    /// `run(future, function)`, for a submitted call without arguments.
    pub run: Py<PyAny>,
    /// `run_with(future, (function, arguments, keywords))`
    pub run_with: Py<PyAny>,
}

/// Which worker is in which item, for whoever looks for those that take long.
#[derive(Default)]
pub struct Progress {
    // Guards which threads are workers.
    workers: Mutex<Vec<(u64, Arc<AtomicU64>)>>,
}

impl Progress {
    fn enter(&self, thread: u64) -> Arc<AtomicU64> {
        let items = Arc::new(AtomicU64::new(0));
        self.lock().push((thread, items.clone()));
        items
    }

    fn leave(&self, items: &Arc<AtomicU64>) {
        self.lock().retain(|(_, other)| !Arc::ptr_eq(items, other));
    }

    pub fn in_handlers(&self) -> Vec<(u64, u64)> {
        let workers = self.lock();
        let items = workers.iter().map(|(thread, items)| (*thread, items.load(Ordering::Relaxed)));
        items.filter(|(_, items)| items % 2 == 1).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Arc<AtomicU64>)>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Belongs to the thread that made it.
#[pyclass(module = "proactor._core", unsendable)]
pub struct Worker {
    port: Arc<CorePort<Layer>>,
    pool: Arc<Pool>,
    submissions: Arc<Submissions>,
    core: CoreWorker<Layer>,
    functions: Loop,
    progress: Arc<Progress>,
    /// How many items it has begun, twice, and one less while it is in one.
    items: Arc<AtomicU64>,
    /// The last answer, to be filled again.
    answer: Reused,
    exited: bool,
}

struct Attached<'a, 'py>(Python<'py>, &'a Pool);

impl Interpreter for Attached<'_, '_> {
    fn detached<R: Send>(&self, wait: impl FnOnce() -> R + Send) -> R {
        self.1.prepare(self.0);
        self.0.detach(wait)
    }

    fn flush_first(&self) -> bool {
        self.1.is_wanted()
    }
}

impl Worker {
    pub fn new(
        port: Arc<CorePort<Layer>>,
        pool: Arc<Pool>,
        submissions: Arc<Submissions>,
        progress: &Arc<Progress>,
        thread: u64,
        functions: Loop,
    ) -> Self {
        let core = port.worker();
        let items = progress.enter(thread);
        let (port_address, submissions_address) = (Arc::as_ptr(&port), Arc::as_ptr(&submissions));
        CURRENT.set(Some(Current { port: port_address, submissions: submissions_address, worker: core.id, connection: 0, group: 0 }));
        Worker { port, pool, submissions, core, functions, progress: progress.clone(), items, answer: Reused::default(), exited: false }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        CURRENT.set(None);
        if DEPTH.replace(0) > 0 {
            self.submissions.unblock();
        }
        self.progress.leave(&self.items);
        if !self.exited && !self.port.is_forked() {
            self.port.abandon(&mut self.core); // its loop ended with an exception of our own
        }
    }
}

#[pymethods]
impl Worker {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        errors::check_process(&self.port)?;
        let Worker { port, pool, submissions, core, functions, items, answer, exited, .. } = self;
        if DEPTH.replace(0) > 0 {
            submissions.unblock(); // a handler has forgotten to
        }
        // A worker that waits holds on to nothing of what it handled.
        answer.clear(py);
        // Only this thread writes it.
        let begun = items.load(Ordering::Relaxed).next_multiple_of(2);
        items.store(begun, Ordering::Relaxed);
        let task = loop {
            match port.next(core, &Attached(py, pool), |upper| upper.map(|object| object.clone_ref(py)), |call: &Call| call.clone_ref(py)) {
                // Cancelled, or run by somebody who waited for it: what is left of it in the queue.
                Some(Task::Call(Call::Submitted(call))) => match call.begin_from_queue() {
                    Some(work) => break Next::Submitted(work),
                    None => continue,
                },
                other => break Next::Task(other),
            }
        };
        items.store(begun + 1, Ordering::Relaxed);
        let (connection, group) =
            core.current.as_ref().map_or((0, 0), |connection| (connection.id, Arc::as_ptr(&connection.group) as usize));
        CURRENT.set(Some(Current { port: Arc::as_ptr(port), submissions: Arc::as_ptr(submissions), worker: core.id, connection, group }));
        let apply = &functions.apply;
        let (event, object) = match task {
            Next::Submitted(Work { future, function, arguments, keywords }) => {
                if keywords.is_none() && arguments.bind(py).is_empty() {
                    return answer.fill(py, [functions.run.clone_ref(py), future, function]).map(Some);
                }
                let call = (function, arguments, keywords).into_pyobject(py)?.into_any().unbind();
                return answer.fill(py, [functions.run_with.clone_ref(py), future, call]).map(Some);
            }
            Next::Task(None) => {
                *exited = true;
                items.store(begun, Ordering::Relaxed);
                return Ok(None);
            }
            Next::Task(Some(Task::StartWorker)) => {
                items.store(begun, Ordering::Relaxed); // no item of anybody's
                let nothing = PyTuple::empty(py).into_any().unbind();
                return answer.fill(py, [apply.clone_ref(py), functions.start_worker.clone_ref(py), nothing]).map(Some);
            }
            Next::Task(Some(Task::Call(Call::Plain { function, arguments }))) => {
                return answer.fill(py, [apply.clone_ref(py), function, arguments.into_any()]).map(Some);
            }
            Next::Task(Some(Task::Call(Call::Submitted(_) | Call::Packet { .. }))) => {
                unreachable!("begun above; packets are for completion ports")
            }
            Next::Task(Some(Task::Appointment(told, call))) => {
                let Call::Plain { function, arguments } = call else { unreachable!("an appointment's call has no future") };
                let arguments = match told {
                    None => arguments,
                    Some(signalled) => with_first(py, signalled, arguments.bind(py))?,
                };
                let apply = if arguments.bind(py).is_empty() { &functions.apply_nothing } else { apply };
                return answer.fill(py, [apply.clone_ref(py), function, arguments.into_any()]).map(Some);
            }
            Next::Task(Some(Task::FileCompletion((operation, outcome)))) => {
                let (function, arguments) = told(py, operation, Became::File(outcome))?;
                return answer.fill(py, [apply.clone_ref(py), function, arguments.into_any().unbind()]).map(Some);
            }
            Next::Task(Some(Task::Completion((operation, came)))) => {
                let (function, arguments) = told(py, operation, Became::Socket(came))?;
                return answer.fill(py, [apply.clone_ref(py), function, arguments.into_any().unbind()]).map(Some);
            }
            Next::Task(Some(Task::Event(event, object))) => (event, object),
        };
        let connection = core.current.as_ref().expect("an event is for the worker's connection");
        let handler = connection.group.upper.find(py, &event).expect("an event comes only to a group that wants it, before it is over");
        let object = match object {
            Some(object) => object.into_bound(py),
            None => public_object(py, port, connection)?,
        };
        let second = match event {
            Event::Received(bytes) => to_bytes(py, bytes).into_any().unbind(),
            Event::Sent(count) => count.into_pyobject(py)?.into_any().unbind(),
            Event::Closed(None) => py.None(),
            Event::Closed(Some(Failure::Handler)) => object.getattr("_failure")?.unbind(),
            Event::Closed(Some(failure)) => errors::from_failure(py, &failure).into_value(py).into_any(),
            Event::Unreadable(_) => unreachable!("no handler is called for it"),
            Event::Connected | Event::Ended => {
                let arguments = PyTuple::new(py, [object])?.into_any().unbind();
                return answer.fill(py, [apply.clone_ref(py), handler, arguments]).map(Some);
            }
        };
        answer.fill(py, [handler, object.unbind(), second]).map(Some)
    }
}

enum Next {
    Submitted(Work),
    Task(Option<Task<Layer, Option<Py<PyAny>>>>),
}

/// The arguments of a wait's function: first whether it was signalled.
fn with_first(py: Python<'_>, signalled: bool, arguments: &Bound<'_, PyTuple>) -> PyResult<Py<PyTuple>> {
    let first = signalled.into_pyobject(py)?.to_owned().into_any();
    PyTuple::new(py, std::iter::once(first).chain(arguments.iter()).collect::<Vec<_>>()).map(Bound::unbind)
}

/// A tuple of three that is filled again when Python has let go of it, as `zip` and `enumerate` do: it saves an allocation a message.
#[derive(Default)]
struct Reused(Option<Py<PyTuple>>);

impl Reused {
    /// Lets go of the contents, or of the tuple if somebody kept it.
    fn clear(&mut self, py: Python<'_>) {
        let Some(tuple) = self.0.take() else { return };
        // On a free-threaded build another thread's reference is not visible in the count.
        if cfg!(Py_GIL_DISABLED) {
            return;
        }
        // SAFETY: the interpreter is held, so the count stands still, and with a count of 1 nobody else can see the tuple change.
        unsafe {
            if ffi::Py_REFCNT(tuple.as_ptr()) == 1 {
                for index in 0..3 {
                    Self::set(py, &tuple, index, py.None());
                }
                self.0 = Some(tuple);
            }
        }
    }

    fn fill<'py>(&mut self, py: Python<'py>, values: [Py<PyAny>; 3]) -> PyResult<Bound<'py, PyTuple>> {
        if let Some(tuple) = &self.0
            // SAFETY: as in `clear`; looked at again, because the garbage collector shows every tuple to whoever asks it.
            && unsafe { ffi::Py_REFCNT(tuple.as_ptr()) } == 1
        {
            for (index, value) in (0..).zip(values) {
                // SAFETY: nobody else holds it.
                unsafe { Self::set(py, tuple, index, value) };
            }
            return Ok(tuple.bind(py).clone());
        }
        let tuple = PyTuple::new(py, values)?;
        self.0 = Some(tuple.clone().unbind());
        Ok(tuple)
    }

    /// # Safety
    /// The tuple has an item of that index, and only the caller can see it.
    unsafe fn set(py: Python<'_>, tuple: &Py<PyTuple>, index: isize, value: Py<PyAny>) {
        // SAFETY: the caller's promise; the old item's reference becomes ours, and the tuple takes over the new one's.
        let old = unsafe {
            let old = ffi::PyTuple_GET_ITEM(tuple.as_ptr(), index);
            ffi::PyTuple_SET_ITEM(tuple.as_ptr(), index, value.into_ptr());
            Bound::from_owned_ptr(py, old)
        };
        drop(old);
    }
}
