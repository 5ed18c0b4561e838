//! `proactor._core.Port`, `Group` and `Listener`: the core's port with Python's objects attached.

use std::ffi::OsString;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use proactor_core::buffer::SharedBytes;
use proactor_core::connection::Event;
use proactor_core::engine::{self, AcceptWindow, Address, Engine, Kind, SocketOptions};
use proactor_core::error::Failure;
use proactor_core::framing::Framing;
use proactor_core::group::{Group as CoreGroup, Release, Settings, Traffic, Upper, Wants};
use proactor_core::notices::Notice;
use proactor_core::port::{Item, Listener as CoreListener, Port as CorePort, Slow};
use proactor_core::scheduler::Limits;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple, PyType};

use crate::buffers::{Data, Pool, Source};
use crate::connection::public_object;
use crate::errors;
use crate::simulated::Network;
use crate::worker::{Blocking, Worker, current};

/// What this layer keeps with the core's objects.
pub struct Layer;

impl Upper for Layer {
    type Connection = Py<PyAny>;
    type Group = Handlers;
    type Call = Call;
}

pub struct Call {
    pub function: Py<PyAny>,
    pub arguments: Py<PyTuple>,
}

/// A server's handlers, looked up once. Let go when the server is over: they mostly hold the server and its connections, and those hold them.
pub struct Handlers {
    /// What a connection's public object is made of.
    pub class: Py<PyType>,
    /// A weak reference to the server; None for a connection of one's own.
    pub server: Option<Py<PyAny>>,
    // Guards the functions, None once they are let go. Taken with the interpreter held, for as long as it takes to count a reference.
    functions: Mutex<Option<Functions>>,
}

pub struct Functions {
    pub received: Py<PyAny>,
    pub connected: Option<Py<PyAny>>,
    pub ended: Option<Py<PyAny>>,
    pub closed: Option<Py<PyAny>>,
    pub sent: Option<Py<PyAny>>,
}

impl Handlers {
    /// The function for an event; None if the server is over.
    pub fn find(&self, py: Python<'_>, event: &Event) -> Option<Py<PyAny>> {
        let functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        let functions = functions.as_ref()?;
        let function = match event {
            Event::Received(_) => Some(&functions.received),
            Event::Connected => functions.connected.as_ref(),
            Event::Ended => functions.ended.as_ref(),
            Event::Sent(_) => functions.sent.as_ref(),
            Event::Closed(_) => functions.closed.as_ref(),
            Event::Unreadable(_) => None,
        };
        function.map(|function| function.clone_ref(py))
    }
}

impl Release for Handlers {
    fn release(&self) {
        let functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(functions); // outside the lock: it may run Python
    }
}

/// A thread that waits in here looks for signals this often: the main thread's handlers must run.
pub const SIGNALS_EVERY: Duration = Duration::from_millis(100);

/// Seconds from Python as a duration.
///
/// # Errors
/// `ValueError` naming the parameter where it is negative, not a number, or too large.
pub fn seconds(value: f64, name: &str) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|_| PyValueError::new_err(format!("{name} must be a number of seconds, 0 or more; not {value}")))
}

fn nanoseconds(value: Option<f64>, name: &str) -> PyResult<Option<u64>> {
    let Some(value) = value else { return Ok(None) };
    let nanoseconds = u64::try_from(seconds(value, name)?.as_nanos());
    nanoseconds.map(Some).map_err(|_| PyValueError::new_err(format!("{name} is too long: {value} seconds")))
}

/// As the methods that answer them say.
type GroupNumbers = (u64, u64, u64, usize, usize, u64, u64, u64, u64);
type PortNumbers = (usize, usize, usize, usize, usize, u64, u64, u64, u64, u64, u64);

#[pyclass(module = "proactor._core", frozen)]
pub struct Port {
    core: Arc<CorePort<Layer>>,
    pool: Arc<Pool>,
    // Guards the monitor's thread, None once it was joined.
    monitor: Mutex<Option<JoinHandle<()>>>,
}

#[pyclass(module = "proactor._core", frozen)]
pub struct Group(Arc<CoreGroup<Layer>>);

#[pyclass(module = "proactor._core", frozen)]
pub struct Listener(Arc<CoreListener<Layer>>);

impl Port {
    fn check(&self) -> PyResult<()> {
        if self.core.is_forked() { Err(errors::forked()) } else { Ok(()) }
    }
}

#[pymethods]
impl Port {
    #[new]
    #[pyo3(signature = (*, concurrency, max_workers, interpreter_lock, idle_seconds, busy_poll, engine=None))]
    fn new(
        py: Python<'_>,
        concurrency: usize,
        max_workers: usize,
        interpreter_lock: bool,
        idle_seconds: Option<f64>,
        busy_poll: f64,
        engine: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        if concurrency == 0 || max_workers == 0 {
            return Err(PyValueError::new_err("concurrency and max_workers must be at least 1"));
        }
        let idle = idle_seconds.map(|value| seconds(value, "idle_seconds")).transpose()?;
        let busy_poll = nanoseconds(Some(busy_poll), "busy_poll")?.unwrap_or(0);
        let pool = Arc::new(Pool::default());
        let engine: Arc<dyn Engine> = match engine {
            Some(engine) if engine.is_instance_of::<Network>() => engine.cast::<Network>()?.get().engine(),
            other => {
                let name: Option<String> = other.map(|name| name.extract()).transpose()?;
                engine::open(name.as_deref(), Arc::new(Source(pool.clone()))).map_err(|error| errors::from_io(&error))?
            }
        };
        let core = CorePort::new(engine, Limits { concurrency, max_workers, interpreter_lock }, idle, busy_poll);
        // CPython has kept the interpreter's lock in this variable since 3.7; from 3.12 on it is the main interpreter's.
        let memory = if interpreter_lock { core.engine.variable(c"_PyRuntime") } else { Some(0..0) };
        if let Some(memory) = memory {
            core.interpreter_lies_in(memory);
        }
        let monitored = core.clone();
        let monitor = py.detach(|| std::thread::Builder::new().name("proactor-mon".into()).spawn(move || monitored.monitor()));
        let monitor = monitor.map_err(|error| errors::from_io(&error))?;
        Ok(Port { core, pool, monitor: Mutex::new(Some(monitor)) })
    }

    #[getter]
    fn engine(&self) -> &'static str {
        self.core.engine.name()
    }

    /// As in `current_worker()`.
    #[getter]
    fn address(&self) -> usize {
        Arc::as_ptr(&self.core) as usize
    }

    fn worker(&self, start_worker: Py<PyAny>, apply: Py<PyAny>) -> PyResult<Worker> {
        self.check()?;
        Ok(Worker::new(self.core.clone(), self.pool.clone(), start_worker, apply))
    }

    fn start_failed(&self) {
        self.core.scheduler.start_failed();
    }

    #[pyo3(signature = (*, connection_class, server, received, connected, ended, closed, sent, receive_limit, send_limit, total_limit, send_timeout, idle_timeout,
                        max_connections, framing, no_delay, keepalive, accepts))]
    #[expect(clippy::too_many_arguments, reason = "keywords only, from one caller: Python checks them one by one")]
    fn group(
        &self,
        connection_class: Py<PyType>,
        server: Option<Py<PyAny>>,
        received: Py<PyAny>,
        connected: Option<Py<PyAny>>,
        ended: Option<Py<PyAny>>,
        closed: Option<Py<PyAny>>,
        sent: Option<Py<PyAny>>,
        receive_limit: usize,
        send_limit: usize,
        total_limit: usize,
        send_timeout: Option<f64>,
        idle_timeout: Option<f64>,
        max_connections: Option<usize>,
        framing: Option<(String, usize, usize)>,
        no_delay: bool,
        keepalive: bool,
        accepts: (usize, usize),
    ) -> PyResult<Group> {
        self.check()?;
        let framing = match framing {
            None => None,
            Some((kind, _, limit)) if kind == "lines" => Some(Framing::Lines { limit }),
            Some((kind, bytes, limit)) if kind == "length" => Some(Framing::LengthPrefixed { bytes, limit }),
            Some((kind, ..)) => return Err(PyValueError::new_err(format!("no framing called {kind}"))),
        };
        let settings = Settings {
            wants: Wants { connected: connected.is_some(), ended: ended.is_some(), closed: closed.is_some(), sent: sent.is_some() },
            receive_limit,
            send_limit,
            total_limit,
            send_timeout: nanoseconds(send_timeout, "send_timeout")?,
            idle_timeout: nanoseconds(idle_timeout, "idle_timeout")?,
            max_connections,
            framing,
            options: SocketOptions { no_delay, keep_alive: keepalive },
            window: AcceptWindow { minimum: accepts.0, maximum: accepts.1 },
        };
        let functions = Functions { received, connected, ended, closed, sent };
        let handlers = Handlers { class: connection_class, server, functions: Mutex::new(Some(functions)) };
        Ok(Group(CoreGroup::new(handlers, settings)))
    }

    /// Takes over the descriptor of a listening socket.
    fn listen(&self, py: Python<'_>, descriptor: i64, address: String, group: &Group) -> PyResult<Listener> {
        self.check()?;
        let handle = self.core.engine.adopt(descriptor, Kind::Listener).map_err(|error| errors::from_io(&error))?;
        let listener = py.detach(|| self.core.listen(handle, address, &group.0)).map_err(|error| errors::from_io(&error))?;
        Ok(Listener(listener))
    }

    fn close_listener(&self, py: Python<'_>, listener: &Listener) {
        if !self.core.is_forked() {
            py.detach(|| self.core.close_listener(&listener.0));
        }
    }

    /// Takes over the descriptor of a connected socket.
    fn attach<'py>(&self, py: Python<'py>, descriptor: i64, peer: OsString, group: &Group) -> PyResult<Bound<'py, PyAny>> {
        self.check()?;
        let (kind, peer) = match peer.to_str().and_then(|peer| peer.parse().ok()) {
            Some(address) => (Kind::Tcp, Address::Internet(address)),
            None => (Kind::Unix, Address::Unix((!peer.is_empty()).then(|| peer.into()))),
        };
        let handle = self.core.engine.adopt(descriptor, kind).map_err(|error| errors::from_io(&error))?;
        let connection = py.detach(|| self.core.attach(handle, peer, &group.0)).map_err(|error| errors::from_io(&error))?;
        public_object(py, &self.core, &connection)
    }

    fn connections<'py>(&self, py: Python<'py>, group: &Group) -> PyResult<Bound<'py, PyTuple>> {
        self.check()?;
        let connections = py.detach(|| self.core.connections(&group.0));
        let objects: Vec<_> = connections.iter().map(|connection| public_object(py, &self.core, connection)).collect::<PyResult<_>>()?;
        PyTuple::new(py, objects)
    }

    /// `(sent, skipped, closed)`
    fn broadcast(
        &self,
        py: Python<'_>,
        group: &Group,
        data: &Bound<'_, PyAny>,
        exclude: Vec<u64>,
        close_slow: bool,
    ) -> PyResult<(usize, usize, usize)> {
        self.check()?;
        let bytes: SharedBytes = Data::new(data)?.shared();
        let slow = if close_slow { Slow::Close } else { Slow::Skip };
        let result = py.detach(|| self.core.broadcast(&group.0, &bytes, &exclude, slow));
        Ok((result.sent, result.skipped, result.closed))
    }

    /// `(accepted, refused, accept_errors, live, queued, received, sent, dropped, messages)`
    fn group_numbers(&self, py: Python<'_>, group: &Group) -> PyResult<GroupNumbers> {
        self.check()?;
        use std::sync::atomic::Ordering::Relaxed;
        let group = &group.0;
        let (traffic, queued): (Traffic, usize) = py.detach(|| (self.core.traffic(group), self.core.queued(group)));
        Ok((
            group.accepted.load(Relaxed),
            group.refused.load(Relaxed),
            group.accept_errors.load(Relaxed),
            group.live(),
            queued,
            traffic.received,
            traffic.sent,
            traffic.dropped,
            traffic.messages,
        ))
    }

    fn drain(&self, py: Python<'_>, group: &Group) -> PyResult<()> {
        self.check()?;
        py.detach(|| self.core.drain(&group.0));
        Ok(())
    }

    fn abort_all(&self, py: Python<'_>, group: &Group) -> usize {
        if self.core.is_forked() {
            return 0;
        }
        py.detach(|| self.core.abort_all(&group.0, &Failure::Os(engine::ABORTED)))
    }

    fn call(&self, function: Py<PyAny>, arguments: Py<PyTuple>) -> PyResult<()> {
        self.check()?;
        if self.core.scheduler.is_closing() {
            return Err(PyRuntimeError::new_err("the pool is shut down: it takes no new work"));
        }
        self.core.call(Call { function, arguments });
        Ok(())
    }

    /// True while every worker has been inside its handler for a second.
    fn is_hung(&self) -> PyResult<bool> {
        self.check()?;
        Ok(self.core.is_hung())
    }

    /// Waits for what a log should say: `(kind, text, number)`; None: there will be no more.
    fn next_notice(&self, py: Python<'_>) -> Option<(&'static str, String, u64)> {
        if self.core.is_forked() {
            return None;
        }
        Some(match py.detach(|| self.core.notices.get())? {
            Notice::PendingAccepts { address, window } => ("pending_accepts", address, window as u64),
            Notice::AcceptFailed { address, error, paused: false } => ("accept_failed", format!("{address}: {error}"), 0),
            Notice::AcceptFailed { address, error, paused: true } => ("accept_paused", format!("{address}: {error}"), 0),
            Notice::AllWorkersStuck { workers } => ("all_workers_stuck", String::new(), workers as u64),
            Notice::WorkersFree => ("workers_free", String::new(), 0),
            Notice::EngineFailed { error } => ("engine_failed", error, 0),
            Notice::Lost { count } => ("lost", String::new(), count),
        })
    }

    /// `(workers, waiting, running, blocked, queued, compensations, hand_overs, monitor_leads, started, retired, finished)`
    fn numbers(&self) -> PyResult<PortNumbers> {
        self.check()?;
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
            counts.started,
            counts.retired,
            counts.finished,
        ))
    }

    /// Workers exit when nothing is queued any more; new calls are refused.
    fn finish(&self, py: Python<'_>) {
        if !self.core.is_forked() {
            py.detach(|| self.core.finish());
        }
    }

    /// Workers exit after what they are doing; answers the calls that were never begun, as `(function, arguments)`. Idempotent.
    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        if self.core.is_forked() {
            return Ok(PyList::empty(py));
        }
        let rest = py.detach(|| {
            let mut rest = self.core.close();
            let monitor = self.monitor.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(monitor) = monitor {
                let _panicked = monitor.join(); // its panic has been printed; there is nothing left to stop
            }
            rest.extend(self.core.scheduler.take_rest()); // what the monitor's last turn made ready
            rest
        });
        let list = PyList::empty(py);
        for item in rest {
            if let Item::Call(Call { function, arguments }) = item {
                list.append((function, arguments))?;
            }
        }
        Ok(list)
    }

    /// Every worker has left: gives the engine's descriptors back.
    fn release(&self, py: Python<'_>) {
        if !self.core.is_forked() {
            py.detach(|| self.core.engine.release());
        }
    }

    fn is_closed(&self) -> bool {
        self.core.is_closed()
    }

    fn forked(&self) {
        self.core.forked();
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if !self.core.is_forked() {
            // Ends the monitor, which holds the core; nobody is left to take what was never begun.
            drop(self.core.close());
        }
    }
}

#[pymethods]
impl Group {
    /// Whether the calling thread is in a handler of one of the group's connections.
    fn is_current(&self) -> bool {
        current().is_some_and(|current| current.group == Arc::as_ptr(&self.0) as usize)
    }

    /// No connection will come any more: the handlers are let go with the last one.
    fn retire(&self) {
        self.0.retire();
    }

    /// Waits until at most `but` connections are left; false when the time ran out.
    #[pyo3(signature = (but=0, timeout=None))]
    fn wait_empty(&self, py: Python<'_>, but: usize, timeout: Option<f64>) -> PyResult<bool> {
        wait(py, timeout, |a_while| self.0.wait_empty(but, a_while))
    }

    /// Waits until every connection is closed, whether or not its handlers have returned; false when the time ran out.
    #[pyo3(signature = (timeout=None))]
    fn wait_closed(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        wait(py, timeout, |a_while| self.0.wait_closed(a_while))
    }
}

/// Repeats a wait that may take a while until it is over or `timeout` has passed, with the worker's slot free; signal handlers run meanwhile.
fn wait(py: Python<'_>, timeout: Option<f64>, over: impl Fn(Option<Duration>) -> bool + Sync) -> PyResult<bool> {
    let timeout = timeout.map(|value| seconds(value, "timeout")).transpose()?;
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let _blocking = py.detach(Blocking::enter);
    loop {
        let left = deadline.map_or(SIGNALS_EVERY, |deadline| deadline.saturating_duration_since(Instant::now()));
        if py.detach(|| over(Some(left.min(SIGNALS_EVERY)))) {
            return Ok(true);
        }
        py.check_signals()?;
        if left.is_zero() {
            return Ok(false);
        }
    }
}
