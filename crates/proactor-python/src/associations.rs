//! `proactor._core.Handle` and `Operation`: what `pool.associate` and its operations answer.
//!
//! Who holds whom: a pending operation is held by the core, and holds its handle. So a handle that nobody holds has nothing pending, and closes.

use std::sync::Arc;

use proactor_core::association::{Came, OperationId, Request};
use proactor_core::engine::{Address, Kind, TOO_LONG};
use proactor_core::port::{Association, Completed, Port as CorePort, Refusal};
use pyo3::PyTraverseError;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::addresses;
use crate::buffers::{Pool, Writable, gather, to_bytes};
use crate::completion::Completion;
use crate::errors;
use crate::layer::Layer;

/// What `associate` answers: a socket whose operations are submitted one by one, each with one completion. Safe from any thread; never blocks.
/// On a pool the completions are told to the function that it was associated with; a completion port's threads get them, with its key.
///
/// A stream socket can connect, receive, receive_into, send and shutdown; a listening one accept; a datagram socket receive_from, send_to, connect and
/// send (to its peer). What it cannot do is refused with ValueError, a closed handle with OSError (EBADF), one of the parent process with RuntimeError.
///
/// Operations that receive complete in the order in which they were submitted, and so do those that send, connect and shut down, cancelled ones aside.
/// There is no limit on how many are pending: what they take is the memory of their bytes, which is the caller's.
#[pyclass(module = "proactor._core", frozen, weakref)]
pub struct Handle {
    port: Arc<CorePort<Layer>>,
    core: Arc<Association<Layer>>,
    pool: Arc<Pool>,
    told: Told,
    kind: Kind,
    /// Which family of addresses it takes; None where the engine does not tell.
    local: Option<Address>,
}

/// Whom the handle's completions are for.
pub enum Told {
    /// A pool's workers, which call this.
    Function(Py<PyAny>),
    /// A completion port's threads, which get this with them.
    Key(Py<PyAny>),
}

/// What a handle's operations answer: a request under way. Safe from any thread; never blocks.
#[pyclass(module = "proactor._core", frozen, weakref)]
pub struct Operation {
    /// The handle that it was submitted on.
    #[pyo3(get)]
    handle: Py<Handle>,
    /// What was asked for: the name of the method, as in "receive".
    #[pyo3(get)]
    kind: &'static str,
    id: OperationId,
}

/// Takes a socket over: `detach` is called once its descriptor is the engine's. `kind` is one of those below.
pub fn associate(port: &Arc<CorePort<Layer>>, pool: &Arc<Pool>, socket: &Bound<'_, PyAny>, kind: &str, told: Told) -> PyResult<Handle> {
    let py = socket.py();
    let shut_down = || match told {
        Told::Function(_) => errors::shut_down(),
        Told::Key(_) => errors::port_closed(py),
    };
    if port.scheduler.is_closing() {
        return Err(shut_down());
    }
    let descriptor: i64 = socket.call_method0("fileno")?.extract()?;
    let (kind, connected) = match kind {
        "tcp" => (Kind::Tcp, true),
        "unix" => (Kind::Unix, true),
        "unconnected tcp" => (Kind::Tcp, false),
        "unconnected unix" => (Kind::Unix, false),
        "listener" => (Kind::Listener, false),
        "datagram" => (Kind::Datagram, false),
        other => return Err(PyValueError::new_err(format!("{other:?} is no kind of socket"))),
    };
    let handle = port.engine.adopt(descriptor, kind).map_err(|error| errors::from_io(&error))?;
    socket.call_method0("detach")?;
    let local = port.engine.local_address(&handle).ok();
    match py.detach(|| port.associate(handle, connected)) {
        Ok(core) => Ok(Handle { port: port.clone(), core, pool: pool.clone(), told, kind, local }),
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
    handle.get().pool.release_buried(py); // the memory of an operation is the user's again before he is told
    let (value, error) = value_and_error(py, handle.get(), came)?;
    let key = match &handle.get().told {
        Told::Function(_) => py.None(),
        Told::Key(key) => key.clone_ref(py),
    };
    let handle = Some(handle.clone().unbind());
    let (value, error) = (value.unbind(), error.unbind());
    Py::new(py, Completion { key, handle, operation: Some(operation), value, error, ticket })
}

/// What a completion says.
fn value_and_error<'py>(py: Python<'py>, handle: &Handle, came: Came) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let none = || py.None().into_bound(py);
    let failed = |number| errors::from_errno(number).into_value(py).into_bound(py).into_any();
    Ok(match came {
        Came::Received(bytes) => (to_bytes(py, bytes).into_any(), none()),
        Came::Ended => (PyBytes::new(py, b"").into_any(), none()),
        Came::Sent { bytes } | Came::Filled { bytes } => (bytes.into_pyobject(py)?.into_any(), none()),
        Came::Done => (none(), none()),
        Came::ReceivedFrom(datagram) => {
            let sender = match &datagram.sender {
                Some(address) => addresses::exact(py, address)?,
                None => none(),
            };
            let error = if datagram.truncated { failed(TOO_LONG) } else { none() };
            ((to_bytes(py, datagram.bytes), sender).into_pyobject(py)?.into_any(), error)
        }
        Came::Accepted { handle: accepted, peer } => {
            let peer = addresses::exact(py, &peer)?;
            let descriptor = handle.port.engine.surrender(accepted);
            let socket = match handle.port.engine.name() {
                "simulated" => py.import("proactor.handles")?.getattr("ConnectedSocket")?.call1((descriptor,)),
                _ => as_socket(py, descriptor),
            };
            let socket = socket.inspect_err(|_| handle.port.engine.discard(descriptor))?;
            ((socket, peer).into_pyobject(py)?.into_any(), none())
        }
        Came::Failed { number, sent } => {
            let value = match sent {
                Some(bytes) => bytes.into_pyobject(py)?.into_any(),
                None => none(),
            };
            (value, failed(number))
        }
    })
}

/// A `socket.socket` as `socket.accept` answers it: with the default time-out.
fn as_socket(py: Python<'_>, descriptor: i64) -> PyResult<Bound<'_, PyAny>> {
    let module = py.import("socket")?;
    let socket = module.call_method1("socket", (-1, -1, -1, descriptor))?;
    let timeout = module.call_method0("getdefaulttimeout")?;
    if let Err(error) = socket.call_method1("settimeout", (timeout,)) {
        socket.call_method0("detach")?; // whoever asked for it closes it
        return Err(error);
    }
    Ok(socket)
}

fn at_least_one(limit: isize, why: &str) -> PyResult<usize> {
    match usize::try_from(limit) {
        Ok(limit) if limit > 0 => Ok(limit),
        _ => Err(PyValueError::new_err(format!("limit must be at least 1 byte, not {limit}: {why}"))),
    }
}

fn closed() -> PyErr {
    PyOSError::new_err((EBADF, "the handle is closed: associate another socket"))
}

const STREAMS: &[Kind] = &[Kind::Tcp, Kind::Unix];
/// On every platform that Python runs on.
const EBADF: i32 = 9;

impl Handle {
    fn check(&self) -> PyResult<()> {
        errors::check_process(&self.port)
    }

    /// # Errors
    /// The handle belongs to the parent process; or it cannot do what is asked.
    fn check_can(&self, name: &str, kinds: &[Kind]) -> PyResult<()> {
        self.check()?;
        if kinds.contains(&self.kind) {
            return Ok(());
        }
        Err(PyValueError::new_err(match self.kind {
            Kind::Listener => format!("{name}: a listening socket can only accept; associate what an accept brings, and use that"),
            Kind::Datagram => match name {
                "receive" | "receive_into" => {
                    format!("{name}: a datagram socket has no stream of bytes; use receive_from, which tells where each ends")
                }
                "shutdown" => "shutdown: a datagram socket has no end to tell; close it".to_owned(),
                _ => format!("{name}: a datagram socket takes no connections; use receive_from, which tells the sender"),
            },
            _ if name == "accept" => "accept: the socket does not listen; call listen() before it is associated".to_owned(),
            _ => format!(
                "{name}: a stream socket has no datagrams; use {}",
                if name == "send_to" { "connect, then send" } else { "receive" }
            ),
        }))
    }

    fn submit(this: &Bound<'_, Self>, kind: &'static str, request: Request) -> PyResult<Py<Operation>> {
        let py = this.py();
        let handle = this.get();
        let id = handle.core.next_id();
        let operation = Py::new(py, Operation { handle: this.clone().unbind(), kind, id })?;
        let kept = operation.clone_ref(py);
        let submitted = match request.writes() {
            false => handle.port.submit(&handle.core, id, request, kept),
            true => py.detach(|| handle.port.submit(&handle.core, id, request, kept)),
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
    /// sending. Nothing is received while no receive is pending, so that the peer's sending slows down. One completion brings at most 64 KiB. While an
    /// attempt to connect is pending it waits for it; on a stream that is not connected it fails (ENOTCONN). (Win32's WSARecv.)
    ///
    /// Raises:
    ///     ValueError: `limit` is less than 1, or the socket is no stream.
    ///     OSError: the handle is closed (EBADF).
    ///     RuntimeError: it belongs to the parent process.
    #[pyo3(signature = (limit=65536, /))]
    fn receive(this: &Bound<'_, Self>, limit: isize) -> PyResult<Py<Operation>> {
        this.get().check_can("receive", STREAMS)?;
        let limit = at_least_one(limit, "a receive of nothing would never tell the peer's end")?;
        Self::submit(this, "receive", Request::Receive { limit })
    }

    /// As `receive`, into writable memory: it completes with how many bytes came, from the start of `buffer`, 0 when the peer has finished sending.
    ///
    /// The memory is held until then: a bytearray cannot be resized (BufferError), and what it holds should not be relied on. A receive that was cancelled
    /// writes nothing, and neither does any other after its completion.
    ///
    /// Raises:
    ///     TypeError, ValueError: `buffer` is not bytes-like; read-only, not contiguous or empty; or the socket is no stream.
    ///     OSError: the handle is closed (EBADF).
    ///     RuntimeError: it belongs to the parent process.
    #[pyo3(signature = (buffer, /))]
    fn receive_into(this: &Bound<'_, Self>, buffer: &Bound<'_, PyAny>) -> PyResult<Py<Operation>> {
        this.get().check_can("receive_into", STREAMS)?;
        let memory = Writable::new(buffer, &this.get().pool)?;
        Self::submit(this, "receive_into", Request::ReceiveInto(Box::new(memory)))
    }

    /// Submits a send of a bytes-like object, or of a sequence of them, gathered: it completes with how many bytes the kernel has taken, which is all, or
    /// with an error. On a datagram socket it sends one datagram to the socket's peer. (Win32's WSASend; sendmsg(2).)
    ///
    /// From 4 KiB on nothing is copied: the memory is sent from where it lies, and held until the send is complete. A bytearray cannot be resized
    /// meanwhile (BufferError), and should not be written to. Who is told of its completion may use it again.
    ///
    /// Raises:
    ///     TypeError, ValueError: `data` is not bytes-like, or not contiguous; or the socket listens.
    ///     OSError: the handle is closed (EBADF).
    ///     RuntimeError: it belongs to the parent process.
    #[pyo3(signature = (data, /))]
    fn send(this: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<Py<Operation>> {
        this.get().check_can("send", &[Kind::Tcp, Kind::Unix, Kind::Datagram])?;
        let outgoing = gather(data, &this.get().pool)?;
        let request = if this.get().kind == Kind::Datagram { Request::SendTo(outgoing, None) } else { Request::Send(outgoing) };
        Self::submit(this, "send", request)
    }

    /// Submits a shutdown: no more is sent after the sends before it, and the peer sees the end. It completes with None. What the peer sends still comes.
    /// (shutdown(2), SHUT_WR)
    ///
    /// Raises:
    ///     ValueError: the socket is no stream.
    ///     OSError: the handle is closed (EBADF).
    ///     RuntimeError: it belongs to the parent process.
    fn shutdown(this: &Bound<'_, Self>) -> PyResult<Py<Operation>> {
        this.get().check_can("shutdown", STREAMS)?;
        Self::submit(this, "shutdown", Request::Shutdown)
    }

    /// Submits an accept: it completes with (socket, address), as `socket.accept` answers them. Associate the socket, or close it. (Win32's AcceptEx.)
    ///
    /// As many clients are accepted as accepts are pending; the others wait in the backlog. What accept(2) says completes an accept, also where it is only about
    /// the client that has gone (ECONNABORTED) or passes (EMFILE: no descriptors): submit another. A client whose accept was cancelled at the last moment goes to
    /// the next accept, or is closed with the handle.
    ///
    /// Raises:
    ///     ValueError: the socket does not listen.
    ///     OSError: the handle is closed (EBADF).
    ///     RuntimeError: it belongs to the parent process.
    fn accept(this: &Bound<'_, Self>) -> PyResult<Py<Operation>> {
        this.get().check_can("accept", &[Kind::Listener])?;
        Self::submit(this, "accept", Request::Accept)
    }

    /// Submits an attempt to connect: it completes with None, or with the error. Receives, sends and shutdowns that are submitted meanwhile wait for it; after a
    /// failure they fail too, and the socket may try again. Cancelled or closed, the attempt ends. A datagram socket gets its peer: the only one that it receives
    /// from, and that `send` sends to. (Win32's ConnectEx; connect(2).)
    ///
    /// `address` is (host, port) with an IP address, since to look a name up may block; or the path of a Unix socket. Such a connect does not wait: where the
    /// listener's backlog is full it fails with BlockingIOError (EAGAIN), as Linux tells nobody when it is not.
    ///
    /// Raises:
    ///     TypeError, ValueError: `address` is none of the socket's family; or the socket listens.
    ///     OSError: the handle is closed (EBADF).
    ///     RuntimeError: it belongs to the parent process.
    #[pyo3(signature = (address, /))]
    fn connect(this: &Bound<'_, Self>, address: &Bound<'_, PyAny>) -> PyResult<Py<Operation>> {
        this.get().check_can("connect", &[Kind::Tcp, Kind::Unix, Kind::Datagram])?;
        let address = addresses::parse(address, this.get().local.as_ref())?;
        Self::submit(this, "connect", Request::Connect(address))
    }

    /// Submits a receive of one datagram: it completes with (bytes, address), as `socket.recvfrom` answers them; None for a sender without an address. A datagram
    /// may be empty. One that is longer than `limit`, or than 64 KiB, completes with EMSGSIZE and its beginning as the value; the rest is lost. An error that the
    /// kernel has for the socket (ECONNREFUSED: nobody listens where an earlier one was sent) completes one receive. (Win32's WSARecvFrom.)
    ///
    /// Raises:
    ///     ValueError: `limit` is less than 1, or the socket is none for datagrams.
    ///     OSError: the handle is closed (EBADF).
    ///     RuntimeError: it belongs to the parent process.
    #[pyo3(signature = (limit=65535, /))]
    fn receive_from(this: &Bound<'_, Self>, limit: isize) -> PyResult<Py<Operation>> {
        this.get().check_can("receive_from", &[Kind::Datagram])?;
        let limit = at_least_one(limit, "every datagram but an empty one would be cut off")?;
        Self::submit(this, "receive_from", Request::ReceiveFrom { limit })
    }

    /// Submits the sending of one datagram, from a bytes-like object or a sequence of them, as `send` takes them, to an address, as `connect` takes it. It
    /// completes with how many bytes it has, or with an error: EMSGSIZE where it is too long; BlockingIOError (EAGAIN) where a Unix socket's queue is full, as
    /// Linux tells nobody when it is not (`connect`, then `send` waits). (Win32's WSASendTo.)
    ///
    /// Raises:
    ///     TypeError, ValueError: `data` or `address` is not what is taken; or the socket is none for datagrams.
    ///     OSError: the handle is closed (EBADF).
    ///     RuntimeError: it belongs to the parent process.
    #[pyo3(signature = (data, address, /))]
    fn send_to(this: &Bound<'_, Self>, data: &Bound<'_, PyAny>, address: &Bound<'_, PyAny>) -> PyResult<Py<Operation>> {
        this.get().check_can("send_to", &[Kind::Datagram])?;
        let address = addresses::parse(address, this.get().local.as_ref())?;
        let outgoing = gather(data, &this.get().pool)?;
        Self::submit(this, "send_to", Request::SendTo(outgoing, Some(address)))
    }

    /// Cancels every pending operation, see `Operation.cancel`; the handle stays open. Returns how many there were.
    fn cancel(&self, py: Python<'_>) -> PyResult<usize> {
        self.check()?;
        Ok(py.detach(|| self.port.cancel_operations(&self.core)))
    }

    /// Closes the handle: pending operations complete with ECANCELED, what has come and was not asked for is dropped (a client is closed), and what the kernel
    /// has taken still reaches the peer. Idempotent. To send everything first, close when the last send is complete.
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
