//! `proactor._core.Handle` and `Operation`: what `pool.associate` and its operations answer.
//!
//! Who holds whom: a pending operation is held by the core, and holds its handle. So a handle that nobody holds has nothing pending, and closes.

use std::sync::Arc;

use proactor_core::association::{Came, OperationId, Request};
use proactor_core::buffer::Outgoing;
use proactor_core::engine::Kind;
use proactor_core::port::{Association, Completed, Port as CorePort, Refusal};
use pyo3::PyTraverseError;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::buffers::{Export, Pool, to_bytes};
use crate::completion::Completion;
use crate::errors;
use crate::layer::Layer;

/// What `associate` answers: a connected stream socket. Its operations, when complete, call the function that it was associated with (on a pool), or are
/// got from the completion port with its key. Safe from any thread.
///
/// Operations of one kind complete in the order in which they were submitted, cancelled ones aside. There is no limit on how many are pending:
/// what they take is the memory of their bytes, which is the caller's.
#[pyclass(module = "proactor._core", frozen, weakref)]
pub struct Handle {
    port: Arc<CorePort<Layer>>,
    core: Arc<Association<Layer>>,
    pool: Arc<Pool>,
    told: Told,
}

/// Whom the handle's completions are for.
pub enum Told {
    /// A pool's workers, which call this.
    Function(Py<PyAny>),
    /// A completion port's threads, which get this with them.
    Key(Py<PyAny>),
}

/// What `Handle.receive` and `send` answer: a request under way. Safe from any thread; never blocks.
#[pyclass(module = "proactor._core", frozen, weakref)]
pub struct Operation {
    /// The handle that it was submitted on.
    #[pyo3(get)]
    handle: Py<Handle>,
    /// What was asked for: "receive" or "send".
    #[pyo3(get)]
    kind: &'static str,
    id: OperationId,
}

/// Takes a connected stream socket over: `detach` is called once its descriptor is the engine's.
pub fn associate(port: &Arc<CorePort<Layer>>, pool: &Arc<Pool>, socket: &Bound<'_, PyAny>, is_tcp: bool, told: Told) -> PyResult<Handle> {
    let py = socket.py();
    let shut_down = || match told {
        Told::Function(_) => errors::shut_down(),
        Told::Key(_) => errors::port_closed(py),
    };
    if port.scheduler.is_closing() {
        return Err(shut_down());
    }
    let descriptor: i64 = socket.call_method0("fileno")?.extract()?;
    let kind = if is_tcp { Kind::Tcp } else { Kind::Unix };
    let handle = port.engine.adopt(descriptor, kind).map_err(|error| errors::from_io(&error))?;
    socket.call_method0("detach")?;
    match py.detach(|| port.associate(handle)) {
        Ok(core) => Ok(Handle { port: port.clone(), core, pool: pool.clone(), told }),
        Err(Refusal::Closed) => Err(shut_down()),
        Err(Refusal::Engine(error)) => Err(errors::from_io(&error)),
    }
}

/// A function, and its one argument, for a completed operation. Attached.
pub fn told<'py>(py: Python<'py>, completed: Completed<Layer>) -> PyResult<(Py<PyAny>, Bound<'py, PyTuple>)> {
    let function = match &completed.0.bind(py).get().handle.bind(py).get().told {
        Told::Function(function) => function.clone_ref(py),
        Told::Key(_) => unreachable!("a completion port has no functions"),
    };
    Ok((function, PyTuple::new(py, [completion(py, completed, 0)?])?))
}

/// What became of an operation, for the thread that took it. Attached.
pub fn completion(py: Python<'_>, (operation, came): Completed<Layer>, ticket: u64) -> PyResult<Py<Completion>> {
    let handle = operation.bind(py).get().handle.bind(py);
    handle.get().pool.release_buried(py); // the bytes of a send are the user's again before he is told
    let none = || py.None().into_bound(py);
    let (value, error) = match came {
        Came::Received(bytes) => (to_bytes(py, bytes).into_any(), none()),
        Came::Ended => (PyBytes::new(py, b"").into_any(), none()),
        Came::Sent { bytes } => (bytes.into_pyobject(py)?.into_any(), none()),
        Came::Failed { number, sent } => {
            let value = match sent {
                Some(bytes) => bytes.into_pyobject(py)?.into_any(),
                None => none(),
            };
            (value, errors::from_errno(number).into_value(py).into_bound(py).into_any())
        }
    };
    let key = match &handle.get().told {
        Told::Function(_) => py.None(),
        Told::Key(key) => key.clone_ref(py),
    };
    let handle = Some(handle.clone().unbind());
    let (value, error) = (value.unbind(), error.unbind());
    Py::new(py, Completion { key, handle, operation: Some(operation), value, error, ticket })
}

fn closed() -> PyErr {
    PyOSError::new_err((EBADF, "the handle is closed: associate another socket"))
}

/// On every platform that Python runs on.
const EBADF: i32 = 9;

impl Handle {
    fn check(&self) -> PyResult<()> {
        errors::check_process(&self.port)
    }

    fn submit(this: &Bound<'_, Self>, kind: &'static str, request: Request) -> PyResult<Py<Operation>> {
        let py = this.py();
        let handle = this.get();
        let id = handle.core.next_id();
        let operation = Py::new(py, Operation { handle: this.clone().unbind(), kind, id })?;
        let kept = operation.clone_ref(py);
        let submitted = match request {
            Request::Receive { .. } => handle.port.submit(&handle.core, id, request, kept),
            Request::Send(_) => py.detach(|| handle.port.submit(&handle.core, id, request, kept)),
        };
        match submitted {
            Ok(()) => Ok(operation),
            Err((_kept, request)) => {
                drop(request);
                handle.pool.release_buried(py);
                Err(closed())
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.port.is_forked() {
            self.port.close_association(&self.core);
        }
    }
}

#[pymethods]
impl Handle {
    /// Submits a receive: it completes with at least one byte and at most `limit`, as soon as there are any, or with b"" when the peer has finished
    /// sending. Never blocks. Nothing is received while no receive is pending, so that the peer's sending slows down. One completion brings at
    /// most 64 KiB.
    ///
    /// Raises:
    ///     ValueError: `limit` is 0.
    ///     OSError: the handle is closed (EBADF).
    ///     RuntimeError: it belongs to the parent process.
    #[pyo3(signature = (limit=65536, /))]
    fn receive(this: &Bound<'_, Self>, limit: usize) -> PyResult<Py<Operation>> {
        this.get().check()?;
        if limit == 0 {
            return Err(PyValueError::new_err("limit must be at least 1 byte: a receive of nothing would never tell the peer's end"));
        }
        Self::submit(this, "receive", Request::Receive { limit })
    }

    /// Submits a send of a bytes-like object: it completes when the kernel has taken all of it, or with an error. Never blocks.
    ///
    /// From 4 KiB on nothing is copied: the memory is sent from where it lies, and held until the send is complete. A bytearray cannot be resized
    /// meanwhile (BufferError), and should not be written to. What `fn` is told of it, it may use again.
    ///
    /// Raises:
    ///     TypeError, ValueError: `data` is not bytes-like, or not contiguous.
    ///     OSError: the handle is closed (EBADF).
    ///     RuntimeError: it belongs to the parent process.
    #[pyo3(signature = (data, /))]
    fn send(this: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<Py<Operation>> {
        this.get().check()?;
        let mut outgoing = Outgoing::new();
        Export::new(data, &this.get().pool)?.push_to(&mut outgoing);
        Self::submit(this, "send", Request::Send(outgoing))
    }

    /// Cancels every pending operation, see `Operation.cancel`; the handle stays open. Returns how many there were.
    fn cancel(&self, py: Python<'_>) -> PyResult<usize> {
        self.check()?;
        Ok(py.detach(|| self.port.cancel_operations(&self.core)))
    }

    /// Closes the handle: pending operations complete with ECANCELED, what has come and was not asked for is dropped, and what the kernel has taken still
    /// reaches the peer. Idempotent. To send everything first, close when the last send is complete.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.check()?;
        py.detach(|| self.port.close_association(&self.core));
        Ok(())
    }

    /// The descriptor, which belongs to the pool; -1 once the handle is closed.
    fn fileno(&self) -> PyResult<i64> {
        self.check()?;
        if self.port.engine.name() == "simulated" {
            return Ok(-1); // the number is none of the system's
        }
        Ok(self.core.handle().map_or(-1, |handle| handle.descriptor()))
    }

    /// Whether it was closed, by `close` or with its pool.
    #[getter]
    fn closed(&self) -> PyResult<bool> {
        self.check()?;
        Ok(!self.core.numbers().open)
    }

    /// A snapshot.
    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.check()?;
        let numbers = self.core.numbers();
        let values = (
            numbers.open,
            numbers.receives,
            numbers.sends,
            numbers.unsent,
            numbers.kept,
            numbers.untold,
            numbers.completed,
            numbers.failed,
            numbers.cancelled,
            numbers.received,
            numbers.sent,
        );
        py.import("proactor.handles")?.getattr("HandleStatistics")?.call1(values)
    }

    fn __repr__(&self) -> String {
        if self.port.is_forked() {
            return "<Handle of the parent process>".to_owned();
        }
        let numbers = self.core.numbers();
        match numbers.open {
            true => format!("<Handle open, {} operations pending>", numbers.receives + numbers.sends),
            false => "<Handle closed>".to_owned(),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match &self.told {
            Told::Function(object) | Told::Key(object) => visit.call(object),
        }
    }
}

impl Operation {
    pub fn kind(&self) -> &'static str {
        self.kind
    }
}

#[pymethods]
impl Operation {
    /// Asks for an early end: True if it was pending. It still completes exactly once: one that waits, with ECANCELED; one that the kernel is at, with
    /// whatever comes first. A send that is cancelled after some of its bytes were taken says how many (`completion.value`): the peer gets
    /// those, and what is sent next follows them. (Win32's CancelIoEx.)
    fn cancel(&self, py: Python<'_>) -> PyResult<bool> {
        let handle = self.handle.bind(py).get();
        handle.check()?;
        Ok(py.detach(|| handle.port.cancel_operation(&handle.core, self.id)))
    }

    /// Whether it is not complete. Its completion may still wait for a worker.
    #[getter]
    fn pending(&self, py: Python<'_>) -> PyResult<bool> {
        let handle = self.handle.bind(py).get();
        handle.check()?;
        Ok(handle.core.is_pending(self.id))
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let handle = self.handle.bind(py).get();
        let state = match handle.port.is_forked() {
            true => "of the parent process",
            false if handle.core.is_pending(self.id) => "pending",
            false => "completed",
        };
        format!("<Operation {} {} {state}>", self.id, self.kind)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.handle)
    }
}
