//! `proactor._core.Handle`: what `pool.associate` answers. Of files only what users call stands here; see `file_handles.rs`.
//!
//! Who holds whom: a pending operation is held by the core, and holds its handle. So a handle that nobody holds has nothing pending, and closes.

use std::sync::Arc;

use proactor_core::association::{Came, Numbers, OperationId, Request};
use proactor_core::engine::{Address, Kind, TOO_LONG};
use proactor_core::port::{Association, FileNumbers, Port as CorePort, Refusal};
use pyo3::PyTraverseError;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::addresses;
use crate::buffers::{Pool, Writable, gather, to_bytes};
use crate::completion::Completion;
use crate::errors;
use crate::file_handles::{self, OpenFile, Owned, Place};
use crate::layer::{DataOnly, Layer};
use crate::limits::{Limit, at_least_one};
use crate::operations::{Became, Operation};

/// What `associate` answers: a socket or file whose operations are submitted one by one, each with one completion. Safe from any thread; never blocks.
/// On a pool the completions are told to the function that it was associated with; a completion port's threads get them, with its key.
///
/// A stream socket can connect, receive, receive_into, send and shutdown; a listening one accept; a datagram socket receive_from, send_to, connect and
/// send (to its peer); a file read, read_into, write and sync. What it cannot do is refused with ValueError, a closed handle with OSError (EBADF), one of
/// the parent process with RuntimeError.
///
/// Operations that receive complete in the order in which they were submitted, and so do those that send, connect and shut down, cancelled ones aside;
/// those of a file in any order. There is no limit on how many are pending: what they take is the memory of their bytes, which is the caller's.
#[pyclass(module = "proactor._core", frozen, weakref)]
pub struct Handle {
    pub port: Arc<CorePort<Layer>>,
    pool: Arc<Pool>,
    told: Told,
    target: Target,
}

enum Target {
    Socket(Socket),
    File(OpenFile),
}

struct Socket {
    core: Arc<Association<Layer>>,
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

/// Takes a socket over: `detach` is called once its descriptor is the engine's. `kind` is one of those below.
pub fn associate(port: &Arc<CorePort<Layer>>, pool: &Arc<Pool>, socket: &Bound<'_, PyAny>, kind: &str, told: Told) -> PyResult<Handle> {
    let py = socket.py();
    if port.scheduler.is_closing() {
        return Err(refused(py, &told));
    }
    let descriptor: i64 = socket.call_method0("fileno")?.extract()?;
    let (kind, connected) = match kind {
        "tcp" => (Kind::Tcp, true),
        "unix" => (Kind::Unix, true),
        "pipe" => (Kind::Pipe, true),
        "unconnected tcp" => (Kind::Tcp, false),
        "unconnected unix" => (Kind::Unix, false),
        "listener" => (Kind::Listener, false),
        "datagram" => (Kind::Datagram, false),
        other => return Err(PyValueError::new_err(format!("{other:?} is no kind of socket"))),
    };
    let handle = match if kind == Kind::Pipe { socket.getattr("engine")?.extract()? } else { 0 } {
        0 => port.engine.adopt(descriptor, kind),
        engine if engine == port.engine.identity() => port.engine.adopt_again(descriptor, kind),
        _ => return Err(PyValueError::new_err("the end of the pipe stays with the port that has accepted it: associate it there")),
    }
    .map_err(|error| errors::from_io(&error))?;
    socket.call_method0("detach")?;
    let local = port.engine.local_address(&handle).ok();
    match py.detach(|| port.associate(handle, connected)) {
        Ok(core) => {
            let target = Target::Socket(Socket { core, kind, local });
            Ok(Handle { port: port.clone(), pool: pool.clone(), told, target })
        }
        Err(Refusal::Closed) => Err(refused(py, &told)),
        Err(Refusal::Engine(error)) => Err(errors::from_io(&error)),
    }
}

/// Gives a file a handle: it stays its owner's.
pub fn associate_file(py: Python<'_>, port: &Arc<CorePort<Layer>>, pool: &Arc<Pool>, file: Owned, told: Told) -> PyResult<Handle> {
    let file = file_handles::associate(port, file, &told, py)?;
    Ok(Handle { port: port.clone(), pool: pool.clone(), told, target: Target::File(file) })
}

/// The pool or port takes no more handles.
pub fn refused(py: Python<'_>, told: &Told) -> PyErr {
    match told {
        Told::Function(_) => errors::shut_down(),
        Told::Key(_) => errors::port_closed(py),
    }
}

/// A function, and its one argument, for a completed operation. Attached.
pub fn told<'py>(py: Python<'py>, operation: Py<Operation>, became: Became) -> PyResult<(Py<PyAny>, Bound<'py, PyTuple>)> {
    let function = match &operation.bind(py).get().handle.bind(py).get().told {
        Told::Function(function) => function.clone_ref(py),
        Told::Key(_) => unreachable!("a completion port has no functions"),
    };
    Ok((function, PyTuple::new(py, [completion(py, operation, became, 0)?])?))
}

/// What became of an operation, for the thread that took it. Attached.
pub fn completion(py: Python<'_>, operation: Py<Operation>, became: Became, ticket: u64) -> PyResult<Py<Completion>> {
    let handle = operation.bind(py).get().handle.bind(py);
    handle.get().pool.release_buried(py); // the memory of an operation is the user's again before he is told
    let (value, error) = match (became, &handle.get().target) {
        (Became::File(outcome), Target::File(file)) => file.value_and_error(py, operation.bind(py).get(), outcome)?,
        (Became::Socket(came), _) => value_and_error(py, handle.get(), came)?,
        (Became::File(_), Target::Socket(_)) => unreachable!("a socket has no file's requests"),
    };
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
    let address = |address: Option<&Address>| address.map_or_else(|| Ok(none()), |address| addresses::exact(py, address));
    let failed = |number| errors::from_errno(number).into_value(py).into_bound(py).into_any();
    Ok(match came {
        Came::Received(bytes) => (to_bytes(py, bytes).into_any(), none()),
        Came::Ended => (PyBytes::new(py, b"").into_any(), none()),
        Came::Sent { bytes } | Came::Filled { bytes } => (bytes.into_pyobject(py)?.into_any(), none()),
        Came::Done => (none(), none()),
        Came::ReceivedFrom(datagram) => {
            let sender = address(datagram.sender.as_ref())?;
            let error = if datagram.truncated { failed(TOO_LONG) } else { none() };
            ((to_bytes(py, datagram.bytes), sender).into_pyobject(py)?.into_any(), error)
        }
        Came::Accepted { handle: accepted, peer } => {
            let peer = addresses::exact(py, &peer)?;
            let (engine, kind) = (&handle.port.engine, accepted.kind());
            let descriptor = engine.surrender(accepted);
            let made = || match (engine.name(), kind) {
                (_, Kind::Pipe) => pipes_end(py, (descriptor, address(handle.local())?, engine.identity())),
                ("simulated", _) => py.import("proactor.handles")?.getattr("ConnectedSocket")?.call1((descriptor,)),
                _ => as_socket(py, descriptor),
            };
            let socket = made().inspect_err(|_| engine.discard(descriptor))?;
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

pub fn closed() -> PyErr {
    PyOSError::new_err((EBADF, "the handle is closed: associate another socket, or the file once more"))
}

fn pipes_end<'py>(py: Python<'py>, arguments: (i64, Bound<'py, PyAny>, u64)) -> PyResult<Bound<'py, PyAny>> {
    py.import("proactor.pipes")?.getattr("accepted")?.call1(arguments)
}

const STREAMS: &[Kind] = &[Kind::Tcp, Kind::Unix, Kind::Pipe];
/// On every platform that Python runs on.
const EBADF: i32 = 9;

impl Handle {
    pub fn check(&self) -> PyResult<()> {
        errors::check_process(&self.port)
    }

    fn local(&self) -> Option<&Address> {
        if let Target::Socket(socket) = &self.target { socket.local.as_ref() } else { None }
    }

    /// # Errors
    /// The handle belongs to the parent process; or it cannot do what is asked.
    fn check_can(&self, name: &str, kinds: &[Kind]) -> PyResult<&Socket> {
        self.check()?;
        let socket = match &self.target {
            Target::Socket(socket) => socket,
            Target::File(_) => {
                return Err(PyValueError::new_err(format!("{name}: a file is no socket; use read, read_into, write or sync")));
            }
        };
        if kinds.contains(&socket.kind) {
            return Ok(socket);
        }
        Err(PyValueError::new_err(match socket.kind {
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

    /// As `check_can`, for what files can do.
    fn check_file(&self, name: &str) -> PyResult<&OpenFile> {
        self.check()?;
        match &self.target {
            Target::File(file) => Ok(file),
            Target::Socket(Socket { kind, .. }) => Err(PyValueError::new_err(match kind {
                Kind::Listener => format!("{name}: a listening socket has no offsets; use accept"),
                Kind::Datagram => format!("{name}: a socket has no offsets; use receive_from and send_to"),
                _ => format!("{name}: a socket has no offsets; use receive, receive_into and send"),
            })),
        }
    }

    fn is_open(&self) -> bool {
        match &self.target {
            Target::Socket(socket) => socket.core.numbers().open,
            Target::File(file) => file.core.descriptor() >= 0,
        }
    }

    pub fn is_pending(&self, id: OperationId) -> bool {
        match &self.target {
            Target::Socket(socket) => socket.core.is_pending(id),
            Target::File(file) => file.core.is_pending(id),
        }
    }

    /// Asks one operation for an early end. With the interpreter released.
    pub fn cancel_one(&self, id: OperationId) -> bool {
        match &self.target {
            Target::Socket(socket) => self.port.cancel_operation(&socket.core, id),
            Target::File(file) => file.core.cancel_operation(id),
        }
    }

    fn close_target(&self) {
        match &self.target {
            Target::Socket(socket) => self.port.close_association(&socket.core),
            Target::File(file) => self.port.close_file(&file.core),
        }
    }

    fn submit(this: &Bound<'_, Self>, socket: &Socket, kind: &'static str, request: Request) -> PyResult<Py<Operation>> {
        let py = this.py();
        let handle = this.get();
        let id = socket.core.next_id();
        let operation = Py::new(py, Operation::new(this, kind, id, Place::default()))?;
        let kept = operation.clone_ref(py);
        let submitted = match request.writes() {
            false => handle.port.submit(&socket.core, id, request, kept),
            true => py.detach(|| handle.port.submit(&socket.core, id, request, kept)),
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
            self.close_target();
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
    ///     TypeError, ValueError: `limit` is no whole number, less than 1, or beyond what a number of bytes can be; or the socket is no stream.
    ///     OSError: the handle is closed (EBADF).
    ///     RuntimeError: it belongs to the parent process.
    #[pyo3(signature = (limit=Limit(65536), /), text_signature = "($self, limit=65536, /)")]
    fn receive(this: &Bound<'_, Self>, limit: Limit) -> PyResult<Py<Operation>> {
        let socket = this.get().check_can("receive", STREAMS)?;
        let limit = at_least_one(limit, "a receive of nothing would never tell the peer's end")?;
        Self::submit(this, socket, "receive", Request::Receive { limit })
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
        let socket = this.get().check_can("receive_into", STREAMS)?;
        let memory = Writable::new(buffer, &this.get().pool)?;
        Self::submit(this, socket, "receive_into", Request::ReceiveInto(Box::new(memory)))
    }

    /// Submits a send of a bytes-like object, or of a sequence of them, gathered: it completes with how many bytes the kernel has taken, which is all, or
    /// with an error. On a datagram socket it sends one datagram to the socket's peer. (Win32's WSASend; sendmsg(2).)
    ///
    /// What has 4 KiB or more (each by itself, of those that are gathered) is not copied: the memory is sent from where it lies, and held until the send is
    /// complete. A bytearray cannot be resized meanwhile (BufferError), and should not be written to. Who is told of its completion may use it again. What is
    /// shorter is copied before this returns, which costs less.
    ///
    /// Raises:
    ///     TypeError, ValueError: `data` is not bytes-like, or not contiguous; or the socket listens.
    ///     OSError: the handle is closed (EBADF).
    ///     RuntimeError: it belongs to the parent process.
    #[pyo3(signature = (data, /))]
    fn send(this: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<Py<Operation>> {
        let socket = this.get().check_can("send", &[Kind::Tcp, Kind::Unix, Kind::Pipe, Kind::Datagram])?;
        let outgoing = gather(data, &this.get().pool)?;
        let request = if socket.kind == Kind::Datagram { Request::SendTo(outgoing, None) } else { Request::Send(outgoing) };
        Self::submit(this, socket, "send", request)
    }

    /// Submits a shutdown: no more is sent after the sends before it, and the peer sees the end. It completes with None. What the peer sends still comes.
    /// (shutdown(2), SHUT_WR)
    ///
    /// Raises:
    ///     ValueError: the socket is no stream.
    ///     OSError: the handle is closed (EBADF).
    ///     RuntimeError: it belongs to the parent process.
    fn shutdown(this: &Bound<'_, Self>) -> PyResult<Py<Operation>> {
        let socket = this.get().check_can("shutdown", STREAMS)?;
        Self::submit(this, socket, "shutdown", Request::Shutdown)
    }

    /// Submits an accept: it completes with (socket, address), as `socket.accept` answers them. Associate the socket, or close it. (Win32's AcceptEx.)
    ///
    /// As many clients are accepted as accepts are pending; the others wait in the backlog. What accept(2) says completes an accept, also where it is only about
    /// the client that has gone (ECONNABORTED): submit another; or passes (EMFILE: no descriptors): submit another after a moment, or when something has closed, since
    /// at once it would fail as well. A client whose accept was cancelled at the last moment goes to the next accept, or is closed with the handle.
    ///
    /// Raises:
    ///     ValueError: the socket does not listen.
    ///     OSError: the handle is closed (EBADF).
    ///     RuntimeError: it belongs to the parent process.
    fn accept(this: &Bound<'_, Self>) -> PyResult<Py<Operation>> {
        let socket = this.get().check_can("accept", &[Kind::Listener])?;
        Self::submit(this, socket, "accept", Request::Accept)
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
        let socket = this.get().check_can("connect", &[Kind::Tcp, Kind::Unix, Kind::Datagram])?;
        let address = addresses::parse(address, socket.local.as_ref())?;
        Self::submit(this, socket, "connect", Request::Connect(address))
    }

    /// Submits a receive of one datagram: it completes with (bytes, address), as `socket.recvfrom` answers them; None for a sender without an address. A datagram
    /// may be empty. One that is longer than `limit`, or than 64 KiB, completes with EMSGSIZE and its beginning as the value; the rest is lost. An error that the
    /// kernel has for the socket (ECONNREFUSED: nobody listens where an earlier one was sent) completes one receive. (Win32's WSARecvFrom.)
    ///
    /// Raises:
    ///     TypeError, ValueError: `limit` is no whole number, less than 1, or beyond what a number of bytes can be; or the socket is none for datagrams.
    ///     OSError: the handle is closed (EBADF).
    ///     RuntimeError: it belongs to the parent process.
    #[pyo3(signature = (limit=Limit(65535), /), text_signature = "($self, limit=65535, /)")]
    fn receive_from(this: &Bound<'_, Self>, limit: Limit) -> PyResult<Py<Operation>> {
        let socket = this.get().check_can("receive_from", &[Kind::Datagram])?;
        let limit = at_least_one(limit, "every datagram but an empty one would be cut off")?;
        Self::submit(this, socket, "receive_from", Request::ReceiveFrom { limit })
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
        let socket = this.get().check_can("send_to", &[Kind::Datagram])?;
        let address = addresses::parse(address, socket.local.as_ref())?;
        let outgoing = gather(data, &this.get().pool)?;
        Self::submit(this, socket, "send_to", Request::SendTo(outgoing, Some(address)))
    }

    /// Submits a read of a file: it completes with `size` bytes from `offset` on, fewer at the end of the file, b"" beyond it. What is in memory is read before
    /// this returns, which takes as long as to copy it, and its completion queued. Operations on a file complete in any order. (Win32's ReadFile with an OVERLAPPED;
    /// pread(2).)
    ///
    /// Raises:
    ///     ValueError: a number is negative, or reaches beyond 2**63 - 1; or the handle is a socket's.
    ///     TypeError: one is no whole number.
    ///     MemoryError: there is none for `size` bytes.
    ///     io.UnsupportedOperation: the file is not open for reading.
    ///     OSError: the handle is closed (EBADF).
    ///     RuntimeError: it belongs to the parent process.
    #[pyo3(signature = (size, offset))]
    fn read(this: &Bound<'_, Self>, size: &Bound<'_, PyAny>, offset: &Bound<'_, PyAny>) -> PyResult<Py<Operation>> {
        this.get().check_file("read")?.read(this, size, offset)
    }

    /// As `read`, into writable memory, as much as it holds: it completes with how many bytes came, fewer at the end of the file. The memory is held until then,
    /// as in `receive_into`; but also a read that is cancelled may have written to it before it completes. Nothing is written after the completion.
    ///
    /// Raises:
    ///     TypeError: `buffer` is no writable bytes-like object.
    ///     ValueError, io.UnsupportedOperation, OSError, RuntimeError: as `read`.
    #[pyo3(signature = (buffer, offset))]
    fn read_into(this: &Bound<'_, Self>, buffer: &Bound<'_, PyAny>, offset: &Bound<'_, PyAny>) -> PyResult<Py<Operation>> {
        this.get().check_file("read_into")?.read_into(this, buffer, offset)
    }

    /// Submits a write of a bytes-like object to a file: it completes with how many bytes were written at `offset`, which are all, or with an error, and then with
    /// how many were before. Nothing is copied: the memory is held until then, and should not be written to. In the mode "ab" everything goes to the end,
    /// whatever the offset. Writes that overlap have no order. (Win32's WriteFile with an OVERLAPPED; pwrite(2).)
    ///
    /// Raises:
    ///     TypeError: `data` is no bytes-like object.
    ///     ValueError: as `read`; a file that bypasses the page cache is written at multiples of 512 bytes.
    ///     io.UnsupportedOperation: the file is not open for writing.
    ///     OSError, RuntimeError: as `read`.
    #[pyo3(signature = (data, offset))]
    fn write(this: &Bound<'_, Self>, data: &Bound<'_, PyAny>, offset: &Bound<'_, PyAny>) -> PyResult<Py<Operation>> {
        this.get().check_file("write")?.write(this, data, offset)
    }

    /// Submits a sync of a file: it completes with None when the device has what was written by operations that were complete before; what is pending may be left
    /// out. `data_only`: without what is only of interest to `stat`. (Win32's FlushFileBuffers; fsync(2), fdatasync(2).)
    ///
    /// Raises:
    ///     ValueError: the handle is a socket's.
    ///     TypeError: `data_only` is neither True nor False.
    ///     OSError: the handle is closed (EBADF).
    ///     RuntimeError: it belongs to the parent process.
    #[pyo3(signature = (data_only=DataOnly(false)), text_signature = "($self, data_only=False)")]
    fn sync(this: &Bound<'_, Self>, data_only: DataOnly) -> PyResult<Py<Operation>> {
        this.get().check_file("sync")?.sync(this, data_only.0)
    }

    /// Cancels every pending operation, see `Operation.cancel`; the handle stays open. Returns how many there were.
    fn cancel(&self, py: Python<'_>) -> PyResult<usize> {
        self.check()?;
        Ok(py.detach(|| match &self.target {
            Target::Socket(socket) => self.port.cancel_operations(&socket.core),
            Target::File(file) => file.core.cancel_operations(),
        }))
    }

    /// Closes the handle: pending operations complete with ECANCELED, what has come and was not asked for is dropped (a client is closed), and what the kernel
    /// has taken still reaches the peer: a send's `completion.value` says how much, and one that was wholly taken has succeeded. Idempotent. To send everything first,
    /// close when the last send is complete. Of a file it closes the handle's own descriptor; what the kernel is at completes when it is done, with what became of
    /// it, and its memory is held until then.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.check()?;
        py.detach(|| self.close_target());
        file_handles::release(py);
        Ok(())
    }

    /// The descriptor, which belongs to the pool; -1 once the handle is closed. A file's is the handle's own, and not that of the object that was associated.
    fn fileno(&self) -> PyResult<i64> {
        self.check()?;
        let socket = match &self.target {
            Target::File(file) => return Ok(file.core.descriptor()),
            Target::Socket(socket) => socket,
        };
        if self.port.engine.name() == "simulated" {
            return Ok(-1); // the number is none of the system's
        }
        Ok(socket.core.handle().map_or(-1, |handle| handle.descriptor()))
    }

    /// Whether it was closed, by `close` or with its pool.
    #[getter]
    fn closed(&self) -> PyResult<bool> {
        self.check()?;
        Ok(!self.is_open())
    }

    /// A snapshot.
    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.check()?;
        let values = match &self.target {
            Target::Socket(socket) => {
                let Numbers { open, receives, sends, unsent, kept, untold, completed, failed, cancelled, received, sent } =
                    socket.core.numbers();
                (open, receives, sends, unsent, kept, untold, completed, failed, cancelled, received, sent)
            }
            Target::File(file) => {
                let FileNumbers { open, reads, writes, unwritten, untold, completed, failed, cancelled, read, written } =
                    file.core.numbers();
                (open, reads, writes, unwritten, 0, untold, completed, failed, cancelled, read, written)
            }
        };
        py.import("proactor.handles")?.getattr("HandleStatistics")?.call1(values)
    }

    /// In the child of a fork: closes the child's descriptor of a file.
    fn _forked(&self) {
        if let Target::File(file) = &self.target {
            file.core.forked();
        }
    }

    fn __repr__(&self) -> String {
        if self.port.is_forked() {
            return "<Handle of the parent process>".to_owned();
        }
        let (pending, of) = match &self.target {
            Target::Socket(socket) => (socket.core.pending(), ""),
            Target::File(file) => (file.core.pending(), " of a file"),
        };
        match self.is_open() {
            true => format!("<Handle{of} open, {pending} operations pending>"),
            false => format!("<Handle{of} closed>"),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Target::File(file) = &self.target {
            file.traverse(&visit)?;
        }
        match &self.told {
            Told::Function(object) | Told::Key(object) => visit.call(object),
        }
    }
}
