//! `proactor._core.CompletionPort`: the core's port with its callers' threads. `proactor.CompletionPort` is what users see.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use proactor_core::port::{Item, Port as CorePort, Taken, Waited, Waiting};
use proactor_core::scheduler::Limits;
use pyo3::exceptions::{PyRuntimeError, PyTimeoutError, PyValueError};
use pyo3::prelude::*;

use crate::associations::{self, Handle, Told};
use crate::buffers::Pool;
use crate::completion::Completion;
use crate::errors;
use crate::file_handles::Owned;
use crate::layer::{Call, Layer, SIGNALS_EVERY, timeout_of};
use crate::operations::Became;
use crate::port::{drop_untold, give_back, join, open_engine, start};
use crate::seats::{self, Place};
use crate::worker::{Blocking, current};

type Numbers = (usize, usize, usize, usize, usize, u64, u64, u64, u64, u64, u64);

#[pyclass(module = "proactor._core", frozen, subclass, weakref)]
pub struct CompletionPort {
    core: Arc<CorePort<Layer>>,
    pool: Arc<Pool>,
    // Guards the monitor's thread, None once it was joined.
    monitor: Mutex<Option<JoinHandle<()>>>,
    /// Twice the number of threads that are in `get`, and one more once it is closed: whoever leaves last gives the engine back.
    inside: AtomicUsize,
    // Guards nothing of its own: whoever leaves last takes it before telling, so that whoever has looked at `inside` under it hears of it.
    leaving: Mutex<()>,
    /// The last thread has left `get` of the closed port.
    left: Condvar,
    posted: AtomicU64,
    dropped: AtomicU64,
}

const ONE: usize = 2;
const CLOSED: usize = 1;

/// What a `get` comes to.
enum Got {
    Completion(Py<Completion>),
    TimedOut,
    Closed,
}

/// The thread waits no longer, however it goes on.
struct Waits(Rc<Place>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.waits.set(false);
    }
}

impl CompletionPort {
    fn check(&self) -> PyResult<()> {
        errors::check_process(&self.core)
    }

    fn next(&self, py: Python<'_>, timeout: Option<Duration>) -> PyResult<Got> {
        self.check()?;
        let got = if self.inside.fetch_add(ONE, Ordering::SeqCst) & CLOSED == 0 {
            self.next_inside(py, timeout)
        } else {
            seats::release(None);
            Ok(Got::Closed)
        };
        if self.inside.fetch_sub(ONE, Ordering::SeqCst) == ONE + CLOSED && !self.core.is_forked() {
            drop(self.leaving.lock().unwrap_or_else(PoisonError::into_inner)); // who has looked before waits by now
            self.left.notify_all();
            self.sweep(py);
        }
        got
    }

    fn next_inside(&self, py: Python<'_>, timeout: Option<Duration>) -> PyResult<Got> {
        let place = seats::place_at(py, &self.core)?;
        if place.waits.replace(true) {
            return Err(PyRuntimeError::new_err(
                "this thread waits in get of the same port already: a signal handler has interrupted it there. Let the handler post instead",
            ));
        }
        let waits = Waits(place.clone());
        seats::finish_before(&self.core);
        let mut taken = self.core.take_next(&place.seat);
        if taken.is_none() {
            // In a pool's handler it is the pool's slot that is free meanwhile.
            let _blocking = current().is_some().then(Blocking::enter);
            let mut waiting = Waiting::new(timeout, place.is_main.then_some(SIGNALS_EVERY));
            let seat = &place.seat;
            if self.core.may_take_at_once(seat, &mut waiting) {
                taken = self.core.take(seat);
            }
            while taken.is_none() {
                self.pool.prepare(py);
                let waited = py.detach(|| self.core.wait(seat, &mut waiting));
                match waited {
                    Waited::TimedOut => return Ok(Got::TimedOut),
                    Waited::Closed => return Ok(Got::Closed),
                    Waited::Take | Waited::Slice => {}
                }
                // Before anything is taken: what a signal handler raises must not cost a completion.
                if place.is_main {
                    let raised = py.check_signals();
                    // It may have forked, and this be the child: the port is the parent's, and who holds its locks is not here.
                    let forked = self.check();
                    if let Err(error) = raised {
                        if forked.is_ok() {
                            py.detach(|| self.core.give_up(seat, &mut waiting));
                        }
                        return Err(error);
                    }
                    forked?;
                    seats::finish_before(&self.core); // it may have got something of another port
                }
                if waited == Waited::Take {
                    taken = self.core.take(seat);
                }
            }
        }
        drop(waits);
        let ticket = seats::hold(place);
        let completion = match taken.expect("the loop ends with it") {
            Taken::Call(Call::Packet { key, value }) => {
                Py::new(py, Completion { key, handle: None, operation: None, value, error: py.None(), ticket })
            }
            Taken::Call(_) => unreachable!("only packets are posted here"),
            Taken::Completion((operation, came)) => associations::completion(py, operation, Became::Socket(came), ticket),
            Taken::FileCompletion((operation, outcome)) => associations::completion(py, operation, Became::File(outcome), ticket),
        };
        completion.map(Got::Completion)
    }

    /// Lets go of what nobody will take, and counts it: whose memory it was has it back before he sees that.
    fn drop_items(&self, py: Python<'_>, rest: VecDeque<Item<Layer>>) {
        let count = rest.iter().map(drop_untold).sum::<usize>();
        drop(rest);
        give_back(py, &self.pool);
        self.dropped.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Nobody is in `get` any more, and nobody will be.
    fn sweep(&self, py: Python<'_>) {
        self.drop_items(py, self.core.scheduler.take_rest());
        py.detach(|| self.core.engine.release());
        give_back(py, &self.pool);
    }
}

#[pymethods]
impl CompletionPort {
    #[new]
    #[pyo3(signature = (*, concurrency, interpreter_lock, engine=None))]
    fn new(py: Python<'_>, concurrency: usize, interpreter_lock: bool, engine: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        if concurrency == 0 {
            return Err(PyValueError::new_err("concurrency must be at least 1"));
        }
        let pool = Arc::new(Pool::default());
        let engine = open_engine(engine, &pool)?;
        let limits = Limits { concurrency, max_workers: Limits::CALLERS, interpreter_lock };
        let (core, monitor) = start(py, CorePort::new(engine, limits, None, 0))?;
        Ok(CompletionPort {
            core,
            pool,
            monitor: Mutex::new(Some(monitor)),
            inside: AtomicUsize::new(0),
            leaving: Mutex::new(()),
            left: Condvar::new(),
            posted: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        })
    }

    /// The engine's name.
    #[getter]
    fn engine(&self) -> &'static str {
        self.core.engine.name()
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self) -> bool {
        self.inside.load(Ordering::SeqCst) & CLOSED != 0
    }

    /// Waits for a completion: of an operation, or posted. Each goes to exactly one thread; those of one handle to any threads, at the same time.
    /// (Win32's GetQueuedCompletionStatus.)
    ///
    /// What the thread got before is over with this, on whatever port it was: until then it counts as running, see `Completion.release`. Of the threads
    /// that wait the one that came last is released first; but one that polled takes the first of what it found. In the main thread signal handlers run
    /// while it waits; what they raise comes out of here, and no completion is lost.
    ///
    /// Raises:
    ///     TimeoutError: none came within `timeout` seconds; 0 looks without waiting.
    ///     proactor.errors.PortClosed: the port is closed.
    ///     TypeError, ValueError: `timeout` is no number of seconds.
    ///     RuntimeError: the port belongs to the parent process; or a signal handler called it that has interrupted a `get` of the same port.
    #[pyo3(signature = (timeout=None))]
    fn get(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Py<Completion>> {
        match self.next(py, timeout_of(py, timeout)?)? {
            Got::Completion(completion) => Ok(completion),
            Got::TimedOut => Err(PyTimeoutError::new_err("no completion came in time")),
            Got::Closed => Err(errors::port_closed(py)),
        }
    }

    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<Completion>>> {
        match self.next(py, None)? {
            Got::Completion(completion) => Ok(Some(completion)),
            Got::TimedOut | Got::Closed => Ok(None),
        }
    }

    /// Queues a completion of one's own, behind all others. Never blocks. (Win32's PostQueuedCompletionStatus.)
    ///
    /// There is no limit on how many are queued, as there is none on Windows; one that waits costs 24 bytes and what `key` and `value` are. Who posts faster than
    /// the threads take looks at `statistics().queued`, or waits for their answers.
    ///
    /// Raises:
    ///     proactor.errors.PortClosed: the port is closed.
    ///     RuntimeError: it belongs to the parent process.
    #[pyo3(signature = (key=None, value=None))]
    fn post(&self, py: Python<'_>, key: Option<Py<PyAny>>, value: Option<Py<PyAny>>) -> PyResult<()> {
        self.check()?;
        let packet = Call::Packet { key: key.unwrap_or_else(|| py.None()), value: value.unwrap_or_else(|| py.None()) };
        // Counted before: whoever gets it may look.
        self.posted.fetch_add(1, Ordering::Relaxed);
        if self.core.call_unless_closing(packet).is_err() {
            self.posted.fetch_sub(1, Ordering::Relaxed);
            return Err(errors::port_closed(py));
        }
        Ok(())
    }

    /// Takes over a socket.
    fn _associate(&self, socket: &Bound<'_, PyAny>, kind: &str, key: Py<PyAny>) -> PyResult<Handle> {
        self.check()?;
        associations::associate(&self.core, &self.pool, socket, kind, Told::Key(key))
    }

    /// Gives a file a handle.
    fn _associate_file(&self, py: Python<'_>, file: Owned, key: Py<PyAny>) -> PyResult<Handle> {
        self.check()?;
        associations::associate_file(py, &self.core, &self.pool, file, Told::Key(key))
    }

    /// `(threads, waiting, running, blocked, queued, compensations, hand_overs, monitor_leads, posted, completed, dropped)`
    fn _numbers(&self, py: Python<'_>) -> PyResult<Numbers> {
        self.check()?;
        let dropped = self.dropped.load(Ordering::Relaxed) + self.core.came_late();
        give_back(py, &self.pool); // of those too that came late
        let counts = self.core.scheduler.counts();
        Ok((
            counts.workers,
            counts.waiting,
            counts.running,
            counts.blocked,
            counts.queued,
            counts.compensations,
            counts.hand_overs,
            counts.monitor_leads,
            self.posted.load(Ordering::Relaxed),
            counts.finished,
            dropped,
        ))
    }

    /// `(handles, operations)`: open handles, and operations that are pending on them.
    fn _pending(&self) -> PyResult<(usize, usize)> {
        self.check()?;
        Ok(self.core.associated())
    }

    /// Closes the port: every `get` raises PortClosed, those that wait included, and iterations end. The handles are closed, which cancels what is pending
    /// on them. What nobody has got is dropped, as Win32 does, and counted: `statistics().dropped`. What threads have got is theirs.
    ///
    /// Idempotent; safe from any thread, and from a signal handler. To let the threads do everything first, post one packet for each that tells it
    /// to stop, and join them.
    fn close(&self, py: Python<'_>) {
        if self.core.is_forked() {
            return;
        }
        let before = self.inside.fetch_or(CLOSED, Ordering::SeqCst);
        if before & CLOSED != 0 {
            return;
        }
        let (rest, calls) = py.detach(|| {
            let closed = self.core.close();
            join(&self.monitor);
            closed
        });
        drop(calls);
        self.drop_items(py, rest);
        self.drop_items(py, self.core.scheduler.take_rest()); // what the monitor's last turn made ready
        if before == 0 {
            self.sweep(py);
        }
    }

    /// How many threads are in `get`.
    fn _inside(&self) -> usize {
        self.inside.load(Ordering::SeqCst) / ONE
    }

    /// Waits, at most so many seconds, until nobody is in `get` of the closed port any more.
    fn _wait_until_left(&self, py: Python<'_>, seconds: f64) {
        let patience = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        py.detach(|| {
            let guard = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
            let somebody = |(): &mut ()| self.inside.load(Ordering::SeqCst) >= ONE;
            drop(self.left.wait_timeout_while(guard, patience, somebody));
        });
    }

    /// In the child of a fork: closes what was inherited.
    fn _forked(&self) {
        self.core.forked();
    }
}

impl Drop for CompletionPort {
    fn drop(&mut self) {
        if !self.core.is_forked() {
            // Ends the monitor, which holds the core; nobody is in `get`, and nobody will come.
            let (rest, _calls) = self.core.close();
            Python::try_attach(|py| self.drop_items(py, rest));
        }
    }
}
