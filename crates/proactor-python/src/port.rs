//! `proactor._core.Port`, `Group` and `Listener`: the core's port with Python's objects attached.

use std::ffi::OsString;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use proactor_core::buffer::SharedBytes;
use proactor_core::engine::{self, AcceptWindow, Address, Engine, Feature, Handle as EngineHandle, Kind, SocketOptions};
use proactor_core::error::Failure;
use proactor_core::framing::Framing;
use proactor_core::group::{Group as CoreGroup, Settings, Traffic, Wants};
use proactor_core::notices::Notice;
use proactor_core::port::{Item, Listener as CoreListener, Port as CorePort, Slow};
use proactor_core::scheduler::Limits;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple, PyType};

use crate::appointments::{self, Timer, Wait};
use crate::associations::{self, Handle, Told};
use crate::buffers::{Data, Pool, Source};
use crate::call::{self, Submissions};
use crate::connection::public_object;
use crate::errors;
use crate::file_handles::{self, Owned};
use crate::layer::{Call, Functions, Handlers, Layer, SIGNALS_EVERY, duration, nanoseconds, seconds};
use crate::simulated::Network;
use crate::worker::{Blocking, Loop, Progress, Worker, current_of};

/// As the methods that answer them say.
type GroupNumbers = (u64, u64, u64, usize, usize, u64, u64, u64, u64, u64);
type PortNumbers = (usize, usize, usize, usize, usize, u64, u64, u64, u64, u64, u64);
type CallNumbers = (f64, u64, u64, u64, u64);

#[pyclass(module = "proactor._core", frozen)]
pub struct Port {
    core: Arc<CorePort<Layer>>,
    pool: Arc<Pool>,
    // Guards the monitor's thread, None once it was joined.
    monitor: Mutex<Option<JoinHandle<()>>>,
    submissions: Arc<Submissions>,
    progress: Arc<Progress>,
}

#[pyclass(module = "proactor._core", frozen)]
pub struct Group(pub Arc<CoreGroup<Layer>>);

#[pyclass(module = "proactor._core", frozen)]
pub struct Listener(Arc<CoreListener<Layer>>);

impl Port {
    fn check(&self) -> PyResult<()> {
        errors::check_process(&self.core)
    }

    /// The descriptor is the core's from here on, whatever comes of it: with two owners after an error, both would close the number, and the second
    /// close would hit what another thread has opened meanwhile.
    fn adopt(&self, descriptor: i64, kind: Kind) -> PyResult<EngineHandle> {
        let adopted = self.check().and_then(|()| self.core.engine.adopt(descriptor, kind).map_err(|error| errors::from_io(&error)));
        if adopted.is_err() {
            self.core.engine.discard(descriptor);
        }
        adopted
    }
}

/// The engine of that name, or a simulated network.
pub fn open_engine(engine: Option<&Bound<'_, PyAny>>, pool: &Arc<Pool>) -> PyResult<Arc<dyn Engine>> {
    match engine {
        Some(engine) if engine.is_instance_of::<Network>() => Ok(engine.cast::<Network>()?.get().engine()),
        other => {
            let name: Option<String> = other.map(|name| name.extract().or_else(|_| Err(no_engine(name)?))).transpose()?;
            engine::open(name.as_deref(), Arc::new(Source(pool.clone())))
                .map_err(|error| errors::beginning("opening a completion port", &error))
        }
    }
}

fn no_engine(given: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let what = "the name of one, as \"epoll\", or None for the platform's best";
    Ok(PyTypeError::new_err(format!("engine must be {what}; not {}", given.repr()?)))
}

/// Starts a port's monitor.
pub fn start(py: Python<'_>, core: Arc<CorePort<Layer>>) -> PyResult<(Arc<CorePort<Layer>>, JoinHandle<()>)> {
    // CPython has kept the interpreter's lock in this variable since 3.7; from 3.12 on it is the main interpreter's.
    let memory = if core.scheduler.limits().interpreter_lock { core.engine.variable(c"_PyRuntime") } else { Some(0..0) };
    if let Some(memory) = memory {
        core.interpreter_lies_in(memory);
    }
    let monitored = core.clone();
    let monitor = py.detach(|| std::thread::Builder::new().name("proactor-mon".into()).spawn(move || monitored.monitor()));
    Ok((core, monitor.map_err(|error| errors::beginning("starting the thread that monitors a completion port", &error))?))
}

/// Joins a closed port's monitor, once. With the interpreter released.
pub fn join(monitor: &Mutex<Option<JoinHandle<()>>>) {
    let monitor = monitor.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(monitor) = monitor {
        let _panicked = monitor.join(); // its panic has been printed; there is nothing left to stop
    }
}

/// Lets go of the completions behind an item that nobody will take: they hold their handle, and it holds the port. Says how many there were; what is no
/// handle's is one.
pub fn drop_untold(item: &Item<Layer>) -> usize {
    match item {
        Item::Association(association) => association.take_untold().len(),
        Item::File(file) => file.take_untold().len(),
        _ => 1,
    }
}

/// Gives its owners the memory of what has ended with nobody to be told. May run Python.
pub fn give_back(py: Python<'_>, pool: &Pool) {
    pool.release_buried(py);
    file_handles::release(py);
}

impl Port {
    /// Every worker hangs, and the caller is none of them.
    fn refuses(&self) -> bool {
        self.core.is_hung() && current_of(&self.core).is_none()
    }
}

#[pymethods]
impl Port {
    #[new]
    #[pyo3(signature = (*, concurrency, max_workers, interpreter_lock, idle_seconds, busy_poll, engine=None, queue_limit=None, hung_seconds=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords only, from one caller: Python checks them one by one")]
    fn new(
        py: Python<'_>,
        concurrency: usize,
        max_workers: usize,
        interpreter_lock: bool,
        idle_seconds: Option<f64>,
        busy_poll: f64,
        engine: Option<&Bound<'_, PyAny>>,
        queue_limit: Option<usize>,
        hung_seconds: Option<f64>,
    ) -> PyResult<Self> {
        if concurrency == 0 || max_workers == 0 {
            return Err(PyValueError::new_err("concurrency and max_workers must be at least 1"));
        }
        let idle = idle_seconds.map(|value| seconds(value, "idle_seconds")).transpose()?;
        let busy_poll = nanoseconds(Some(busy_poll), "busy_poll")?.unwrap_or(0);
        let hung = nanoseconds(hung_seconds, "hung_seconds")?;
        let pool = Arc::new(Pool::default());
        let engine = open_engine(engine, &pool)?;
        let core = CorePort::new(engine, Limits { concurrency, max_workers, interpreter_lock }, idle, busy_poll);
        if let Some(hung) = hung {
            core.hangs_after(hung);
        }
        let (core, monitor) = start(py, core)?;
        let submissions = Submissions::new(queue_limit);
        submissions.address.store(Arc::as_ptr(&core) as usize, Ordering::Relaxed);
        Ok(Port { core, pool, monitor: Mutex::new(Some(monitor)), submissions, progress: Arc::default() })
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

    fn worker(
        &self,
        thread: u64,
        start_worker: Py<PyAny>,
        apply: Py<PyAny>,
        apply_nothing: Py<PyAny>,
        run: Py<PyAny>,
        run_with: Py<PyAny>,
    ) -> PyResult<Worker> {
        self.check()?;
        Ok(Worker::new(
            self.core.clone(),
            self.pool.clone(),
            self.submissions.clone(),
            &self.progress,
            thread,
            Loop { start_worker, apply, apply_nothing, run, run_with },
        ))
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

    /// Takes over the descriptor of a listening socket, and closes it where that fails.
    fn listen(&self, py: Python<'_>, descriptor: i64, address: String, group: &Group) -> PyResult<Listener> {
        let handle = self.adopt(descriptor, Kind::Listener)?;
        let listener = py.detach(|| self.core.listen(handle, address, &group.0)).map_err(|error| errors::from_io(&error))?;
        Ok(Listener(listener))
    }

    fn close_listener(&self, py: Python<'_>, listener: &Listener) {
        if !self.core.is_forked() {
            py.detach(|| self.core.close_listener(&listener.0));
        }
    }

    /// Takes over the descriptor of a connected socket, and closes it where that fails.
    fn attach<'py>(&self, py: Python<'py>, descriptor: i64, peer: OsString, group: &Group) -> PyResult<Bound<'py, PyAny>> {
        let pipes = self.core.engine.supports(Feature::NamedPipes);
        let (kind, peer) = match peer.to_str().map(|peer| (peer.parse(), peer.strip_prefix("pipe:"))) {
            Some((Ok(address), _)) => (Kind::Tcp, Address::Internet(address)),
            Some((_, Some(name))) if pipes => (Kind::Pipe, Address::Pipe(Some(name.to_owned()))),
            _ => (Kind::Unix, Address::Unix((!peer.is_empty()).then(|| peer.into()))),
        };
        let handle = self.adopt(descriptor, kind)?;
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

    /// `(accepted, refused, accept_errors, live, queued, received, sent, dropped, messages, crowded_out)`
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
            group.crowded_out.load(Relaxed),
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

    /// Workers are there: calls may be submitted.
    fn accept_calls(&self, accepting: bool) {
        self.submissions.accepting.store(accepting, Ordering::SeqCst);
    }

    /// Queues a call and answers its future, of the class given; None where that cannot be done at once: nobody has been started (unless `starting`),
    /// the queue is full, every worker hangs, or the port is closing.
    #[pyo3(signature = (future_class, function, arguments, keywords, starting=false))]
    fn submit<'py>(
        &self,
        future_class: &Bound<'py, PyAny>,
        function: Py<PyAny>,
        arguments: Py<PyTuple>,
        keywords: Option<Py<PyDict>>,
        starting: bool,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let submissions = &self.submissions;
        if !(starting || submissions.accepting.load(Ordering::Relaxed)) || self.refuses() || self.core.is_forked() {
            return Ok(None);
        }
        if !submissions.enter() {
            submissions.full.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        }
        let made = call::make(submissions, future_class, Some((function, arguments, keywords)));
        let (future, submitted) = made.inspect_err(|_| submissions.leave())?;
        if let Err(refused) = self.core.call_unless_closing(Call::Submitted(submitted)) {
            if let Call::Submitted(submitted) = refused {
                drop(submitted.begin_from_queue());
            }
            return Ok(None);
        }
        Ok(Some(future))
    }

    /// The future of a call that the caller itself runs, now.
    fn running_call<'py>(&self, future_class: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        call::make(&self.submissions, future_class, None).map(|(future, _)| future)
    }

    fn is_full(&self) -> bool {
        self.submissions.is_full()
    }

    /// Waits until the queue has room, a worker with its slot free. False: no worker is left that could make room, so the caller is to run the call itself.
    fn wait_for_room(&self, py: Python<'_>) -> PyResult<bool> {
        let submissions = &self.submissions;
        let is_worker = current_of(&self.core).is_some();
        let all = if is_worker { self.core.scheduler.limits().max_workers } else { usize::MAX };
        let _blocking = py.detach(Blocking::enter);
        loop {
            if is_worker && (submissions.blocked() >= all || self.core.is_hung()) {
                return Ok(false);
            }
            if py.detach(|| submissions.wait_for_room(all, SIGNALS_EVERY)) || self.core.scheduler.is_closing() {
                return Ok(true);
            }
            py.check_signals()?;
        }
    }

    /// The futures of the calls that have not begun.
    fn queued_calls<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.check()?;
        let mut calls = Vec::new();
        self.core.scheduler.look(|item| {
            if let Item::Call(Call::Submitted(call)) = item {
                calls.push(call.clone());
            }
            true
        });
        PyList::new(py, calls.iter().filter_map(|call| call.future(py)))
    }

    /// `(oldest_wait, done, failed, cancelled, full)`
    fn call_numbers(&self) -> PyResult<CallNumbers> {
        self.check()?;
        let mut oldest = None;
        self.core.scheduler.look(|item| {
            if let Item::Call(Call::Submitted(call)) = item
                && call.is_pending()
            {
                oldest = Some(call.at);
            }
            oldest.is_none()
        });
        let submissions = &self.submissions;
        Ok((
            oldest.map_or(0.0, |at| at.elapsed().as_secs_f64()),
            submissions.done.load(Ordering::Relaxed),
            submissions.failed.load(Ordering::Relaxed),
            submissions.cancelled.load(Ordering::Relaxed),
            submissions.full.load(Ordering::Relaxed),
        ))
    }

    /// `(thread identifier, how many items it has begun)` of each worker that is in one.
    fn in_handlers(&self) -> Vec<(u64, u64)> {
        self.progress.in_handlers()
    }

    /// None where that cannot be done at once: `seconds` is no float, or (unless `starting`) nobody has been started.
    #[pyo3(signature = (seconds, function, arguments, starting=false))]
    fn call_after(
        &self,
        seconds: Bound<'_, PyAny>,
        function: Py<PyAny>,
        arguments: Py<PyTuple>,
        starting: bool,
    ) -> PyResult<Option<Timer>> {
        let is_started = starting || self.submissions.accepting.load(Ordering::Relaxed);
        if is_started { appointments::call_after(&self.core, &seconds, false, function, arguments) } else { Ok(None) }
    }

    #[pyo3(signature = (seconds, function, arguments, starting=false))]
    fn call_every(
        &self,
        seconds: Bound<'_, PyAny>,
        function: Py<PyAny>,
        arguments: Py<PyTuple>,
        starting: bool,
    ) -> PyResult<Option<Timer>> {
        let is_started = starting || self.submissions.accepting.load(Ordering::Relaxed);
        if is_started { appointments::call_after(&self.core, &seconds, true, function, arguments) } else { Ok(None) }
    }

    /// `handle`: a descriptor, which stays the caller's, or an `Event`.
    fn call_when(
        &self,
        handle: &Bound<'_, PyAny>,
        writable: bool,
        timeout: Option<f64>,
        repeat: bool,
        function: Py<PyAny>,
        arguments: Py<PyTuple>,
    ) -> PyResult<Wait> {
        self.check()?;
        appointments::call_when(&self.core, handle, writable, timeout, repeat, function, arguments)
    }

    /// Takes over a socket.
    fn associate(&self, socket: &Bound<'_, PyAny>, kind: &str, function: Py<PyAny>) -> PyResult<Handle> {
        self.check()?;
        associations::associate(&self.core, &self.pool, socket, kind, Told::Function(function))
    }

    /// Gives a file a handle with a descriptor of its own.
    fn associate_file(&self, py: Python<'_>, file: Owned, function: Py<PyAny>) -> PyResult<Handle> {
        self.check()?;
        associations::associate_file(py, &self.core, &self.pool, file, Told::Function(function))
    }

    /// `(timers, waits, handles, operations)`: whose functions will be called (again); open handles, and operations that are pending on them.
    fn pending(&self) -> PyResult<(usize, usize, usize, usize)> {
        self.check()?;
        let ((timers, waits), (handles, operations)) = (self.core.pending(), self.core.associated());
        Ok((timers, waits, handles, operations))
    }

    /// True while no worker has come out of its handler for `hung_seconds`, but for one that asks: it moves.
    fn is_hung(&self) -> PyResult<bool> {
        self.check()?;
        Ok(self.refuses())
    }

    /// Waits for what a log should say: `(kind, text, number)`; kind "": nothing came within `timeout` seconds; None: there will be no more.
    #[pyo3(signature = (timeout=None))]
    fn next_notice(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<(&'static str, String, u64)>> {
        if self.core.is_forked() {
            return Ok(None);
        }
        let timeout = duration(timeout)?;
        let next = py.detach(|| self.core.notices.get(timeout));
        let Some(notice) = next else {
            return Ok((!self.core.notices.is_over()).then(|| ("", String::new(), 0)));
        };
        Ok(Some(match notice {
            Notice::PendingAccepts { address, window } => ("pending_accepts", address, window as u64),
            Notice::AcceptFailed { address, error, paused: false } => ("accept_failed", format!("{address}: {error}"), 0),
            Notice::AcceptFailed { address, error, paused: true } => ("accept_paused", format!("{address}: {error}"), 0),
            Notice::AllWorkersStuck { workers } => ("all_workers_stuck", String::new(), workers as u64),
            Notice::WorkersFree => ("workers_free", String::new(), 0),
            Notice::WaitFailed { error } => ("wait_failed", error, 0),
            Notice::EngineFailed { error } => ("engine_failed", error, 0),
            Notice::Lost { count } => ("lost", String::new(), count),
        }))
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
            counts.queued.saturating_sub(self.submissions.husks()),
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
            let calls = py.detach(|| self.core.finish());
            drop(calls); // with the interpreter held
        }
    }

    /// Workers exit after what they are doing; answers the calls that were never begun, as `(function, arguments)` or `(future, None)`. Idempotent.
    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        if self.core.is_forked() {
            return Ok(PyList::empty(py));
        }
        let (rest, calls) = py.detach(|| {
            let (mut rest, calls) = self.core.close();
            join(&self.monitor);
            rest.extend(self.core.scheduler.take_rest()); // what the monitor's last turn made ready
            (rest, calls)
        });
        drop(calls); // those of timers and waits, with the interpreter held
        let list = PyList::empty(py);
        for item in rest {
            match item {
                Item::Call(Call::Packet { .. }) => unreachable!("packets are posted to completion ports"),
                Item::Call(Call::Plain { function, arguments }) => list.append((function, arguments))?,
                Item::Call(Call::Submitted(call)) => match call.future(py) {
                    Some(future) => list.append((future, py.None()))?,
                    None => drop(call.begin_from_queue()),
                },
                Item::Appointment(appointment) => drop(self.core.cancel(&appointment)),
                item @ (Item::Association(_) | Item::File(_)) => {
                    drop_untold(&item);
                }
                Item::Connection(_) => {}
            }
        }
        give_back(py, &self.pool);
        Ok(list)
    }

    /// Every worker has left: gives the engine's descriptors back.
    fn release(&self, py: Python<'_>) {
        if !self.core.is_forked() {
            py.detach(|| self.core.engine.release());
            give_back(py, &self.pool);
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
            let (rest, _calls) = self.core.close();
            for item in &rest {
                drop_untold(item);
            }
        }
    }
}
