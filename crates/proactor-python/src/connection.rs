//! `proactor._core.Connection`: what a handler holds. `python/proactor/connection.py` adds what is not on the message path.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proactor_core::connection::{Connection as CoreConnection, Life, Next};
use proactor_core::error::Failure;
use proactor_core::port::{Port as CorePort, SendError};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyTimeoutError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::addresses;
use crate::buffers::{Data, to_bytes};
use crate::errors;
use crate::layer::{Layer, SIGNALS_EVERY, Seconds, duration};
use crate::send_file::send_file;
use crate::worker::{Blocking, current_of};

/// One peer. Made by `proactor.serve` and `proactor.connect`; `proactor.Connection` is what users see.
#[pyclass(module = "proactor._core", subclass, weakref, frozen)]
pub struct Connection {
    pub port: Arc<CorePort<Layer>>,
    pub core: Arc<CoreConnection<Layer>>,
}

type Parts = (Arc<CorePort<Layer>>, Arc<CoreConnection<Layer>>);

thread_local! {
    /// What the object being made is made of: only we make connections.
    static PARTS: RefCell<Option<Parts>> = const { RefCell::new(None) };
}

/// The connection's one public object, made when it is first wanted.
pub fn public_object<'py>(py: Python<'py>, port: &Arc<CorePort<Layer>>, core: &Arc<CoreConnection<Layer>>) -> PyResult<Bound<'py, PyAny>> {
    if let Some(object) = core.upper(|upper| upper.map(|object| object.clone_ref(py))) {
        return Ok(object.into_bound(py));
    }
    PARTS.set(Some((port.clone(), core.clone())));
    let object = core.group.upper.class.bind(py).call0()?;
    // Two threads may have made one; the first stays.
    let (kept, dropped) = core.keep_upper(object.unbind(), |kept| kept.clone_ref(py));
    drop(dropped);
    Ok(kept.into_bound(py))
}

/// As `_numbers` says.
type Numbers = (u64, u64, u64, u64, usize, usize, bool, bool);

/// A worker that blocks in a send waits at least so long for a peer that takes nothing, however much it is needed elsewhere.
pub const YIELDS_AFTER: Duration = Duration::from_secs(1);

enum Sent {
    Taken,
    Full,
}

impl Connection {
    fn queue(&self, py: Python<'_>, data: &Data<'_>) -> PyResult<Sent> {
        self.check()?;
        match self.port.queue(&self.core, data.bytes(), self.is_ours()) {
            Ok(false) => Ok(Sent::Taken),
            Ok(true) => {
                py.detach(|| self.port.flush(&self.core));
                Ok(Sent::Taken)
            }
            Err(SendError::Full) => Ok(Sent::Full),
            Err(SendError::Ended(failure)) => Err(self.ended(py, failure.as_ref())),
        }
    }

    /// Whether the calling thread is a worker of the connection's port, in a handler or call.
    pub fn is_ours(&self) -> bool {
        current_of(&self.port).is_some()
    }

    fn ended(&self, py: Python<'_>, failure: Option<&Failure>) -> PyErr {
        errors::ended(py, failure)
    }

    fn check(&self) -> PyResult<()> {
        errors::check_process(&self.port)
    }
}

#[pymethods]
impl Connection {
    #[new]
    fn new() -> PyResult<Self> {
        match PARTS.take() {
            Some((port, core)) => Ok(Connection { port, core }),
            None => Err(PyTypeError::new_err("connections are made by proactor.serve and proactor.connect, not by hand")),
        }
    }

    /// Unique in the process, never used again.
    #[getter]
    fn id(&self) -> u64 {
        self.core.id
    }

    /// The peer's address: `(host, port)`, for IPv6 `(host, port, flow, scope)`, for a Unix socket its path, "" if it has none, as `os.fsdecode`
    /// makes it of bytes that the peer chose; an abstract name begins with "@"; for a pipe `"pipe:name"`, and "pipe:" for
    /// its client. Known after the end, too.
    #[getter]
    fn peername<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        addresses::shown(py, &self.core.peer)
    }

    /// Our side's address, written as `peername` is.
    ///
    /// Raises:
    ///     OSError: the connection is closed; or it is of a simulated network.
    #[getter]
    fn sockname<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.check()?;
        // While the handle is held its descriptor stays open, and it needs no second one: there may be none left.
        let Some(handle) = self.core.handle() else {
            return Err(PyOSError::new_err("the connection is closed: its socket has no name any more"));
        };
        addresses::shown(py, &self.port.engine.local_address(&handle).map_err(|error| errors::from_io(&error))?)
    }

    /// The server it belongs to; None for a connection that `connect` made.
    #[getter]
    fn server<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.core.group.upper.server.as_ref().map(|server| server.bind(py).call0()).transpose()
    }

    /// The file descriptor, -1 once it is closed. For looking at it while the connection is known to stay.
    fn _descriptor(&self) -> i64 {
        if self.port.is_forked() || self.port.engine.name() == "simulated" {
            return -1; // the number is not ours, or none of the system's
        }
        self.core.handle().map_or(-1, |handle| handle.descriptor())
    }

    /// Sends a bytes-like object: small ones are copied, a large `bytes` is held until it is sent, so the caller may go on at once.
    ///
    /// The bytes go out as they are: `framing` is about receiving; `framing.encode(data)` makes a message of them.
    /// Inside a handler of the same pool they are written when the handler ends, when 64 KiB are queued, or when the worker blocks; elsewhere at once.
    /// Above half of `send_limit` the connection's receiving pauses; at `send_limit` (one message always fits into an empty queue) it blocks, the
    /// worker's slot free, until there is room.
    ///
    /// Raises:
    ///     TimeoutError: it blocked for `send_timeout` seconds; or for one second without the peer taking anything, in a handler, while other work
    ///         waits and all the pool's workers are in handlers. Nothing of `data` was queued.
    ///     ConnectionEnded: the connection is closed, or `shutdown_write` was called.
    ///     ConnectionResetError, BrokenPipeError, ...: an earlier write failed.
    ///     TypeError, ValueError: `data` is not bytes-like, or not contiguous.
    fn send(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let data = Data::new(data)?;
        if let Sent::Taken = self.queue(py, &data)? {
            return Ok(());
        }
        let length = data.bytes().len();
        let limit = self.core.group.settings.send_timeout.map(Duration::from_nanos);
        let began = Instant::now();
        let deadline = limit.map(|limit| began + limit);
        let blocked_send = self.is_ours().then(|| self.port.blocked_send());
        let _blocking = py.detach(Blocking::enter);
        // What the peer had taken, and since when it has taken no more.
        let mut seen_taken = (self.port.taken(&self.core), began);
        loop {
            if let Some((waiter, seen)) = self.core.room(length) {
                let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
                py.detach(|| {
                    self.port.flush(&self.core);
                    waiter.wait(seen, Some(left.map_or(SIGNALS_EVERY, |left| left.min(SIGNALS_EVERY))))
                });
                py.check_signals()?;
                if left.is_some_and(|left| left.is_zero()) {
                    return Err(PyTimeoutError::new_err(format!(
                        "send_timeout: the peer took too little for {} seconds; {length} bytes were not queued",
                        limit.unwrap_or_default().as_secs_f64()
                    )));
                }
                let taken = self.port.taken(&self.core);
                if taken != seen_taken.0 {
                    seen_taken = (taken, Instant::now());
                } else if blocked_send.is_some() && seen_taken.1.elapsed() >= YIELDS_AFTER && self.port.scheduler.is_short() {
                    return Err(PyTimeoutError::new_err(format!(
                        "the peer took nothing for {:.1} seconds, and others need the worker that waits for it: all are in handlers; \
                         {length} bytes were not queued. Raise max_workers, or use try_send",
                        seen_taken.1.elapsed().as_secs_f64()
                    )));
                }
            }
            if let Sent::Taken = self.queue(py, &data)? {
                return Ok(());
            }
        }
    }

    /// As `send`, but never blocks: False, and nothing queued, where `send` would block.
    fn try_send(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<bool> {
        let data = Data::new(data)?;
        Ok(matches!(self.queue(py, &data)?, Sent::Taken))
    }

    /// The end of `send_file`: sends so many bytes of an open file, and waits until the kernel has them.
    fn _send_file(
        &self,
        py: Python<'_>,
        descriptor: i32,
        name: Py<PyAny>,
        offset: u64,
        length: u64,
        timeout: Option<f64>,
    ) -> PyResult<u64> {
        self.check()?;
        send_file(self, py, descriptor, &name, offset, length, timeout)
    }

    /// Reads on, for a handler that wants the next message itself: waits for it with the worker's slot free.
    ///
    /// Returns:
    ///     The next message (or what one receive brought); b"" when the peer has finished sending.
    ///
    /// Raises:
    ///     TimeoutError: nothing came within `timeout` seconds.
    ///     RuntimeError: called outside the connection's own handler.
    ///     ConnectionResetError, ...: what ended the connection.
    ///     MessageTooLong, MessageTruncated: what came next is no message; the connection closes with it after the handler.
    #[pyo3(signature = (timeout=None))]
    fn receive<'py>(&self, py: Python<'py>, timeout: Option<Seconds>) -> PyResult<Bound<'py, PyBytes>> {
        self.check()?;
        let timeout = duration(timeout.map(|seconds| seconds.0))?;
        if current_of(&self.port).is_none_or(|current| current.connection != self.core.id) {
            return Err(PyRuntimeError::new_err(
                "receive reads on for the connection whose handler is running; elsewhere data come to the received handler",
            ));
        }
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut blocking = None;
        loop {
            match self.port.next_message(&self.core) {
                Next::Message(bytes) => return Ok(to_bytes(py, bytes)),
                Next::End => return Ok(PyBytes::new(py, b"")),
                Next::Failed(failure) => return Err(errors::from_failure(py, &failure)),
                Next::Wait(waiter, seen) => {
                    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
                    if left.is_some_and(|left| left.is_zero()) {
                        return Err(PyTimeoutError::new_err("nothing was received in time"));
                    }
                    py.detach(|| {
                        self.port.flush(&self.core); // the peer may be waiting for it
                        blocking.get_or_insert_with(Blocking::enter);
                        waiter.wait(seen, left)
                    });
                    py.check_signals()?;
                }
            }
        }
    }

    /// After what is queued, the peer sees the end of file; receiving goes on.
    ///
    /// Raises:
    ///     ConnectionEnded: the connection is closed.
    fn shutdown_write(&self, py: Python<'_>) -> PyResult<()> {
        self.check()?;
        py.detach(|| self.port.shutdown_write(&self.core)).map_err(|failure| self.ended(py, failure.as_ref()))
    }

    /// Stops receiving until `resume`; what was received already is still handled.
    fn pause(&self) -> PyResult<()> {
        self.check()?;
        self.port.pause(&self.core);
        Ok(())
    }

    /// Receives again, unless a limit is reached.
    fn resume(&self) -> PyResult<()> {
        self.check()?;
        self.port.resume(&self.core);
        Ok(())
    }

    /// Sends what is queued, then closes; what has come and was not handled is dropped. Idempotent, returns at once.
    ///
    /// A peer that takes nothing for `send_timeout` seconds is cut off.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.check()?;
        py.detach(|| self.port.close_connection(&self.core, None, true));
        Ok(())
    }

    /// Resets the connection now: what is queued is dropped and counted. Idempotent.
    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        self.check()?;
        py.detach(|| self.port.abort(&self.core, Failure::Os(proactor_core::engine::ABORTED)));
        Ok(())
    }

    /// The handler raised: what is queued is still sent, then it closes.
    fn _handler_failed(&self, py: Python<'_>) {
        if self.port.is_forked() {
            return;
        }
        py.detach(|| self.port.close_connection(&self.core, Some(Failure::Handler), true));
    }

    /// `(received, sent, dropped, messages, inbox, outbox, paused, open)`
    fn _numbers(&self) -> PyResult<Numbers> {
        self.check()?;
        let traffic = self.core.traffic();
        let (inbox, outbox, paused) = self.core.queues();
        let open = self.core.life() == Life::Open;
        Ok((traffic.received, traffic.sent, traffic.dropped, traffic.messages, inbox, outbox, paused, open))
    }

    fn __repr__(&self) -> String {
        let life = match (!self.port.is_forked()).then(|| self.core.life()) {
            None => "of the parent process", // its lock may be held by a thread that does not exist here
            Some(Life::Open) => "open",
            Some(Life::Closing) => "closing",
            Some(Life::Closed) => "closed",
        };
        format!("<Connection {} {} {life}>", self.core.id, self.core.peer)
    }
}
