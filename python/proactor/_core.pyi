"""The native module: completion port, connections and workers. What is public of it is documented in `proactor`; the rest is for `proactor` itself.

Every call is safe from any thread unless it says otherwise. In the child of a fork, calls raise `RuntimeError`: a port does not survive it.
"""

from collections.abc import Callable
from socket import socket
from threading import Condition
from types import FrameType
from typing import Any, Self, TypeVar, final

from typing_extensions import disjoint_base

from proactor.files import FileRequest
from proactor.handles import ConnectedSocket, HandleStatistics
from proactor.pipes import End
from proactor.timers import EventStatistics, TimerStatistics, WaitStatistics

__all__ = [
    "ENGINES",
    "FILE_ENGINES",
    "Call",
    "Completion",
    "CompletionPort",
    "Connection",
    "Correspondent",
    "Event",
    "File",
    "Group",
    "Handle",
    "HeldFile",
    "Listener",
    "Network",
    "Operation",
    "Peer",
    "Port",
    "Signal",
    "Timer",
    "Transfer",
    "Wait",
    "Worker",
    "__version__",
    "block",
    "current_worker",
    "files_finish",
    "files_forked",
    "forked",
    "next_told",
    "own_methods",
    "stacks",
    "teller_missing",
    "teller_wanted",
    "unblock",
]

__version__: str
ENGINES: list[str]
"""The engines of this platform, the default first."""
FILE_ENGINES: list[str]
"""What PROACTOR_FILES may say, the default first."""

@disjoint_base
class Call:
    """The state of a submitted call, native: `proactor.futures` makes a `concurrent.futures.Future` of it. Made by `Port.submit`.

    Until `_inflate` has been called it begins and ends under a native lock alone. From then on it ends under the condition that was kept."""

    def __new__(cls) -> Self: ...
    def done(self) -> bool:
        """Whether it has ended, or was cancelled."""

    def cancelled(self) -> bool:
        """Whether it was cancelled."""

    def running(self) -> bool:
        """Whether it has begun and not ended."""

    @property
    def _state(self) -> str: ...
    @property
    def _result(self) -> Any: ...
    @property
    def _exception(self) -> Any: ...
    def _answer(self) -> Any:
        """The result; raises the call's exception, CancelledError, or TimeoutError if it has not ended."""

    def _failure(self) -> BaseException | None:
        """The exception, None if there is none; raises CancelledError, or TimeoutError if it has not ended."""

    def _sleep(self, timeout: float | None) -> None:
        """Waits until it has ended, or `timeout` seconds have passed. Signal handlers run meanwhile."""

    def _inflated(self) -> tuple[Condition, list[Any]] | None:
        """The condition and the waiters that were kept."""

    def _inflate(self, condition: Condition, waiters: list[Any]) -> tuple[Condition, list[Any]]:
        """Keeps these, unless somebody was faster; answers what is kept."""

    def _begin(self, address: int) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any] | None] | None:
        """For a worker of the port at that address that would wait for it: what to call, if it is still queued there; from then on it is running."""

    def _finish(self, result: Any) -> bool:
        """It has returned. False: somebody has to be told, `_settle` and the callbacks follow."""

    def _fail(self, error: BaseException) -> bool:
        """It has raised; else as `_finish`."""

    def _settle(self) -> bool | None:
        """Under the condition, after `_finish` or `_fail` said False: ends it. Whether it failed; None: it had ended before."""

    def _publish_later(self, publish: Callable[[Any], object]) -> None:
        """On a worker: has one with its stack empty call `publish(self)`."""

    def _force(self, outcome: Any, failed: bool) -> bool:
        """Under the condition: ends it from outside. False: it had ended before."""

    def _cancel(self) -> bool:
        """Cancels it if it has not begun; under the condition."""

    def _add_callback(self, function: Callable[[Any], object]) -> bool:
        """False: it has ended, and the caller calls the function itself."""

    def _take_callbacks(self) -> list[Callable[[Any], object]]: ...

@final
class Completion:
    """What became of one operation, or a packet that was posted. Immutable; safe from any thread."""

    @property
    def key(self) -> Any:
        """What the handle was associated with, or what was posted; on a pool None."""

    @property
    def handle(self) -> Handle | None:
        """The handle of the operation; None for a packet."""

    @property
    def operation(self) -> Operation | None:
        """The operation that is complete; None for a packet."""

    @property
    def value(self) -> Any:
        """By kind of operation; None where nothing else is said, and, but for sends, writes and datagrams that were too long, if it failed. Of a packet:
        what was posted.

        receive: the bytes, b"" when the peer has finished sending. receive_into: how many bytes, 0 at that end.
        receive_from: (bytes, address); also of a datagram that was too long (EMSGSIZE), whose beginning it is.
        send, send_to: how many bytes the kernel has taken: all of them, or where it failed those until then; also where it was cancelled or its
            handle closed: the peer gets exactly those.
        accept: (socket, address). connect, shutdown: None.
        read: the bytes, fewer at the end of the file. read_into: how many bytes. write: how many bytes, also if it failed after some. sync: None.
        """

    @property
    def error(self) -> OSError | None:
        """An OSError, None if it succeeded; `errno.ECANCELED` where it was cancelled or its handle closed."""

    def release(self) -> None:
        """The thread that got it is done with it, before its next `get`: it no longer counts as running, and another one may. For a thread that goes on
        to something else. No effect on a pool, or the second time.

        Raises:
            RuntimeError: another thread got it.
        """

@disjoint_base
class CompletionPort:
    """A completion port whose threads are their callers'; `proactor.CompletionPort` is what users see."""

    def __new__(cls, *, concurrency: int, interpreter_lock: bool, engine: str | Network | None = None) -> Self: ...
    @property
    def engine(self) -> str:
        """The engine's name."""

    @property
    def closed(self) -> bool:
        """Whether it was closed."""

    def get(self, timeout: float | None = None) -> Completion:
        """Waits for a completion: of an operation, or posted. Each goes to exactly one thread; those of one handle to any threads, at the same time.
        (Win32's GetQueuedCompletionStatus.)

        What the thread got before is over with this, on whatever port it was: until then it counts as running, see `Completion.release`. Of the threads
        that wait the one that came last is released first; but one that polled takes the first of what it found. In the main thread signal handlers run
        while it waits; what they raise comes out of here, and no completion is lost.

        Raises:
            TimeoutError: none came within `timeout` seconds; 0 looks without waiting.
            proactor.errors.PortClosed: the port is closed.
            TypeError, ValueError: `timeout` is no number of seconds.
            RuntimeError: the port belongs to the parent process; or a signal handler called it that has interrupted a `get` of the same port.
        """

    def __iter__(self) -> Self:
        """Implement iter(self)."""

    def __next__(self) -> Completion:
        """Implement next(self)."""

    def post(self, key: Any = None, value: Any = None) -> None:
        """Queues a completion of one's own, behind all others. Never blocks. (Win32's PostQueuedCompletionStatus.)

        There is no limit on how many are queued, as there is none on Windows; one that waits costs 24 bytes and what `key` and `value` are. Who posts faster than
        the threads take looks at `statistics().queued`, or waits for their answers.

        Raises:
            proactor.errors.PortClosed: the port is closed.
            RuntimeError: it belongs to the parent process.
        """

    def close(self) -> None:
        """Closes the port: every `get` raises PortClosed, those that wait included, and iterations end. The handles are closed, which cancels what is pending
        on them. What nobody has got is dropped, as Win32 does, and counted: `statistics().dropped`. What threads have got is theirs.

        Idempotent; safe from any thread, and from a signal handler. To let the threads do everything first, post one packet for each that tells it
        to stop, and join them.
        """

    def _associate(self, socket: socket | ConnectedSocket | End, kind: str, key: Any) -> Handle: ...
    def _associate_file(self, file: tuple[int, Any, bool], key: Any) -> Handle: ...
    def _numbers(self) -> tuple[int, int, int, int, int, int, int, int, int, int, int]: ...
    def _pending(self) -> tuple[int, int]: ...
    def _inside(self) -> int: ...
    def _wait_until_left(self, seconds: float) -> None: ...
    def _forked(self) -> None: ...

@disjoint_base
class Connection:
    """One peer. Made by `proactor.serve` and `proactor.connect`; `proactor.Connection` is what users see."""

    def __new__(cls) -> Self: ...
    @property
    def id(self) -> int:
        """Unique in the process, never used again."""

    @property
    def peername(self) -> Any:
        """The peer's address: `(host, port)`, for IPv6 `(host, port, flow, scope)`, for a Unix socket its path, "" if it has none, as `os.fsdecode`
        makes it of bytes that the peer chose; an abstract name begins with "@"; for a pipe `"pipe:name"`, and "pipe:" for
        its client. Known after the end, too."""

    @property
    def sockname(self) -> Any:
        """Our side's address, written as `peername` is.

        Raises:
            OSError: the connection is closed; or it is of a simulated network.
        """

    @property
    def server(self) -> Any:
        """The server it belongs to; None for a connection that `connect` made."""

    def send(self, data: Any) -> None:
        """Sends a bytes-like object: small ones are copied, a large `bytes` is held until it is sent, so the caller may go on at once.

        The bytes go out as they are: `framing` is about receiving; `framing.encode(data)` makes a message of them.
        Inside a handler of the same pool they are written when the handler ends, when 64 KiB are queued, or when the worker blocks; elsewhere at once.
        Above half of `send_limit` the connection's receiving pauses; at `send_limit` (one message always fits into an empty queue) it blocks, the
        worker's slot free, until there is room.

        Raises:
            TimeoutError: it blocked for `send_timeout` seconds; or for one second without the peer taking anything, in a handler, while other work
                waits and all the pool's workers are in handlers. Nothing of `data` was queued.
            ConnectionEnded: the connection is closed, or `shutdown_write` was called.
            ConnectionResetError, BrokenPipeError, ...: an earlier write failed.
            TypeError, ValueError: `data` is not bytes-like, or not contiguous.
        """

    def try_send(self, data: Any) -> bool:
        """As `send`, but never blocks: False, and nothing queued, where `send` would block."""

    def _send_file(self, descriptor: int, name: Any, offset: int, length: int, timeout: float | None) -> int:
        """The end of `send_file`: sends so many bytes of an open file, and waits until the kernel has them."""

    def receive(self, timeout: float | None = None) -> bytes:
        """Reads on, for a handler that wants the next message itself: waits for it with the worker's slot free.

        Returns:
            The next message (or what one receive brought); b"" when the peer has finished sending.

        Raises:
            TimeoutError: nothing came within `timeout` seconds.
            RuntimeError: called outside the connection's own handler.
            ConnectionResetError, ...: what ended the connection.
            MessageTooLong, MessageTruncated: what came next is no message; the connection closes with it after the handler.
        """

    def shutdown_write(self) -> None:
        """After what is queued, the peer sees the end of file; receiving goes on.

        Raises:
            ConnectionEnded: the connection is closed.
        """

    def pause(self) -> None:
        """Stops receiving until `resume`; what was received already is still handled."""

    def resume(self) -> None:
        """Receives again, unless a limit is reached."""

    def close(self) -> None:
        """Sends what is queued, then closes; what has come and was not handled is dropped. Idempotent, returns at once.

        A peer that takes nothing for `send_timeout` seconds is cut off.
        """

    def abort(self) -> None:
        """Resets the connection now: what is queued is dropped and counted. Idempotent."""

    def _descriptor(self) -> int: ...
    def _handler_failed(self) -> None: ...
    def _numbers(self) -> tuple[int, int, int, int, int, int, bool, bool]: ...

@final
class Timer:
    """What `ThreadPool.call_after` and `call_every` answer. Safe from any thread; never blocks."""

    def cancel(self) -> bool:
        """Exact: after True the function does not start (again), and the timer has let go of it and its arguments. False: a timer that comes once has begun or is
        over. May be called again, and from the function itself.

        Raises:
            RuntimeError: the timer belongs to the parent process.
        """

    @property
    def pending(self) -> bool:
        """Whether the function will be called (again)."""

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled before it was over, by `cancel` or by the end of its pool."""

    @property
    def interval(self) -> float | None:
        """Seconds between two ticks; None for a timer that comes once."""

    @property
    def missed(self) -> int:
        """Ticks that came while an earlier one waited for a worker or ran: each was left out."""

    def statistics(self) -> TimerStatistics:
        """A snapshot."""

@final
class Wait:
    """What `ThreadPool.call_when` answers. Safe from any thread; never blocks."""

    def cancel(self) -> bool:
        """Exact: after True the function does not start (again), and the wait has let go of it, its arguments and its descriptor. False: a wait that comes once
        has begun or is over. May be called again, and from the function itself.

        Raises:
            RuntimeError: the wait belongs to the parent process.
        """

    @property
    def pending(self) -> bool:
        """Whether the function will be called (again)."""

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled before it was over, by `cancel` or by the end of its pool."""

    @property
    def repeat(self) -> bool:
        """Whether it waits again each time the function has returned."""

    def statistics(self) -> WaitStatistics:
        """A snapshot."""

@final
class Event:
    """Something to wait for that takes no descriptor and no thread: as `threading.Event`, and for `ThreadPool.call_when`. It belongs to no pool.

    Safe from any thread; only `wait` blocks. (Win32's manual-reset event.)
    """

    def __new__(cls) -> Event: ...
    def set(self) -> None:
        """Everybody who waits goes on, and whoever waits from here on does not wait. Idempotent.

        Raises:
            RuntimeError: the event belongs to the parent process.
        """

    def clear(self) -> None:
        """Whoever waits from here on waits for the next `set`.

        Raises:
            RuntimeError: the event belongs to the parent process.
        """

    def is_set(self) -> bool:
        """Whether it is set.

        Raises:
            RuntimeError: the event belongs to the parent process.
        """

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks until it is set; in a worker with the worker's slot free. Signal handlers run in between.

        Returns:
            False when `timeout` seconds have passed before.

        Raises:
            ValueError: `timeout` is negative or not a number.
            RuntimeError: the event belongs to the parent process.
        """

    def statistics(self) -> EventStatistics:
        """A snapshot."""

@final
class Handle:
    """What `associate` answers: a socket or file whose operations are submitted one by one, each with one completion. Safe from any thread; never blocks.
    On a pool the completions are told to the function that it was associated with; a completion port's threads get them, with its key.

    A stream socket can connect, receive, receive_into, send and shutdown; a listening one accept; a datagram socket receive_from, send_to, connect and
    send (to its peer); a file read, read_into, write and sync. What it cannot do is refused with ValueError, a closed handle with OSError (EBADF), one of
    the parent process with RuntimeError.

    Operations that receive complete in the order in which they were submitted, and so do those that send, connect and shut down, cancelled ones aside;
    those of a file in any order. There is no limit on how many are pending: what they take is the memory of their bytes, which is the caller's.
    """

    def receive(self, limit: int = 65536, /) -> Operation:
        """Submits a receive: it completes with at least one byte and at most `limit`, as soon as there are any, or with b"" when the peer has finished
        sending. Nothing is received while no receive is pending, so that the peer's sending slows down. One completion brings at most 64 KiB. While an
        attempt to connect is pending it waits for it; on a stream that is not connected it fails (ENOTCONN). (Win32's WSARecv.)

        Raises:
            TypeError, ValueError: `limit` is no whole number, less than 1, or beyond what a number of bytes can be; or the socket is no stream.
            OSError: the handle is closed (EBADF).
            RuntimeError: it belongs to the parent process.
        """

    def receive_into(self, buffer: Any, /) -> Operation:
        """As `receive`, into writable memory: it completes with how many bytes came, from the start of `buffer`, 0 when the peer has finished sending.

        The memory is held until then: a bytearray cannot be resized (BufferError), and what it holds should not be relied on. A receive that was cancelled
        writes nothing, and neither does any other after its completion.

        Raises:
            TypeError, ValueError: `buffer` is not bytes-like; read-only, not contiguous or empty; or the socket is no stream.
            OSError: the handle is closed (EBADF).
            RuntimeError: it belongs to the parent process.
        """

    def send(self, data: Any, /) -> Operation:
        """Submits a send of a bytes-like object, or of a sequence of them, gathered: it completes with how many bytes the kernel has taken, which is all, or
        with an error. On a datagram socket it sends one datagram to the socket's peer. (Win32's WSASend; sendmsg(2).)

        What has 4 KiB or more (each by itself, of those that are gathered) is not copied: the memory is sent from where it lies, and held until the send is
        complete. A bytearray cannot be resized meanwhile (BufferError), and should not be written to. Who is told of its completion may use it again. What is
        shorter is copied before this returns, which costs less.

        Raises:
            TypeError, ValueError: `data` is not bytes-like, or not contiguous; or the socket listens.
            OSError: the handle is closed (EBADF).
            RuntimeError: it belongs to the parent process.
        """

    def shutdown(self) -> Operation:
        """Submits a shutdown: no more is sent after the sends before it, and the peer sees the end. It completes with None. What the peer sends still comes.
        (shutdown(2), SHUT_WR)

        Raises:
            ValueError: the socket is no stream.
            OSError: the handle is closed (EBADF).
            RuntimeError: it belongs to the parent process.
        """

    def accept(self) -> Operation:
        """Submits an accept: it completes with (socket, address), as `socket.accept` answers them. Associate the socket, or close it. (Win32's AcceptEx.)

        As many clients are accepted as accepts are pending; the others wait in the backlog. What accept(2) says completes an accept, also where it is only about
        the client that has gone (ECONNABORTED): submit another; or passes (EMFILE: no descriptors): submit another after a moment, or when something has closed, since
        at once it would fail as well. A client whose accept was cancelled at the last moment goes to the next accept, or is closed with the handle.

        Raises:
            ValueError: the socket does not listen.
            OSError: the handle is closed (EBADF).
            RuntimeError: it belongs to the parent process.
        """

    def connect(self, address: Any, /) -> Operation:
        """Submits an attempt to connect: it completes with None, or with the error. Receives, sends and shutdowns that are submitted meanwhile wait for it; after a
        failure they fail too, and the socket may try again. Cancelled or closed, the attempt ends. A datagram socket gets its peer: the only one that it receives
        from, and that `send` sends to. (Win32's ConnectEx; connect(2).)

        `address` is (host, port) with an IP address, since to look a name up may block; or the path of a Unix socket. Such a connect does not wait: where the
        listener's backlog is full it fails with BlockingIOError (EAGAIN), as Linux tells nobody when it is not.

        Raises:
            TypeError, ValueError: `address` is none of the socket's family; or the socket listens.
            OSError: the handle is closed (EBADF).
            RuntimeError: it belongs to the parent process.
        """

    def receive_from(self, limit: int = 65535, /) -> Operation:
        """Submits a receive of one datagram: it completes with (bytes, address), as `socket.recvfrom` answers them; None for a sender without an address. A datagram
        may be empty. One that is longer than `limit`, or than 64 KiB, completes with EMSGSIZE and its beginning as the value; the rest is lost. An error that the
        kernel has for the socket (ECONNREFUSED: nobody listens where an earlier one was sent) completes one receive. (Win32's WSARecvFrom.)

        Raises:
            TypeError, ValueError: `limit` is no whole number, less than 1, or beyond what a number of bytes can be; or the socket is none for datagrams.
            OSError: the handle is closed (EBADF).
            RuntimeError: it belongs to the parent process.
        """

    def send_to(self, data: Any, address: Any, /) -> Operation:
        """Submits the sending of one datagram, from a bytes-like object or a sequence of them, as `send` takes them, to an address, as `connect` takes it. It
        completes with how many bytes it has, or with an error: EMSGSIZE where it is too long; BlockingIOError (EAGAIN) where a Unix socket's queue is full, as
        Linux tells nobody when it is not (`connect`, then `send` waits). (Win32's WSASendTo.)

        Raises:
            TypeError, ValueError: `data` or `address` is not what is taken; or the socket is none for datagrams.
            OSError: the handle is closed (EBADF).
            RuntimeError: it belongs to the parent process.
        """

    def read(self, size: int, offset: int) -> Operation:
        """Submits a read of a file: it completes with `size` bytes from `offset` on, fewer at the end of the file, b"" beyond it. What is in memory is read before
        this returns, which takes as long as to copy it, and its completion queued. Operations on a file complete in any order. (Win32's ReadFile with an OVERLAPPED;
        pread(2).)

        Raises:
            ValueError: a number is negative, or reaches beyond 2**63 - 1; or the handle is a socket's.
            TypeError: one is no whole number.
            MemoryError: there is none for `size` bytes.
            io.UnsupportedOperation: the file is not open for reading.
            OSError: the handle is closed (EBADF).
            RuntimeError: it belongs to the parent process.
        """

    def read_into(self, buffer: Any, offset: int) -> Operation:
        """As `read`, into writable memory, as much as it holds: it completes with how many bytes came, fewer at the end of the file. The memory is held until then,
        as in `receive_into`; but also a read that is cancelled may have written to it before it completes. Nothing is written after the completion.

        Raises:
            TypeError: `buffer` is no writable bytes-like object.
            ValueError, io.UnsupportedOperation, OSError, RuntimeError: as `read`.
        """

    def write(self, data: Any, offset: int) -> Operation:
        """Submits a write of a bytes-like object to a file: it completes with how many bytes were written at `offset`, which are all, or with an error, and then with
        how many were before. Nothing is copied: the memory is held until then, and should not be written to. In the mode "ab" everything goes to the end,
        whatever the offset. Writes that overlap have no order. (Win32's WriteFile with an OVERLAPPED; pwrite(2).)

        Raises:
            TypeError: `data` is no bytes-like object.
            ValueError: as `read`; a file that bypasses the page cache is written at multiples of 512 bytes.
            io.UnsupportedOperation: the file is not open for writing.
            OSError, RuntimeError: as `read`.
        """

    def sync(self, data_only: bool = False) -> Operation:
        """Submits a sync of a file: it completes with None when the device has what was written by operations that were complete before; what is pending may be left
        out. `data_only`: without what is only of interest to `stat`. (Win32's FlushFileBuffers; fsync(2), fdatasync(2).)

        Raises:
            ValueError: the handle is a socket's.
            TypeError: `data_only` is neither True nor False.
            OSError: the handle is closed (EBADF).
            RuntimeError: it belongs to the parent process.
        """

    def cancel(self) -> int:
        """Cancels every pending operation, see `Operation.cancel`; the handle stays open. Returns how many there were."""

    def close(self) -> None:
        """Closes the handle: pending operations complete with ECANCELED, what has come and was not asked for is dropped (a client is closed), and what the kernel
        has taken still reaches the peer: a send's `completion.value` says how much, and one that was wholly taken has succeeded. Idempotent. To send everything first,
        close when the last send is complete. Of a file it closes the handle's own descriptor; what the kernel is at completes when it is done, with what became of
        it, and its memory is held until then."""

    @property
    def closed(self) -> bool:
        """Whether it was closed, by `close` or with its pool."""

    def fileno(self) -> int:
        """The descriptor, which belongs to the pool; -1 once the handle is closed. A file's is the handle's own, and not that of the object that was associated."""

    def statistics(self) -> HandleStatistics:
        """A snapshot."""

    def _forked(self) -> None:
        """In the child of a fork: closes the child's descriptor of a file."""

@final
class Operation:
    """What a handle's operations answer: a request under way. Safe from any thread; never blocks."""

    def cancel(self) -> bool:
        """Asks for an early end: True if it was pending. It still completes exactly once: one that waits, with ECANCELED; one that the kernel is at, with
        whatever comes first, which for a file is mostly its result. A send that is cancelled after some of its bytes were taken says how many
        (`completion.value`): the peer gets those, and what is sent next follows them. (Win32's CancelIoEx.)"""

    @property
    def handle(self) -> Handle:
        """The handle that it was submitted on."""

    @property
    def kind(self) -> str:
        """What was asked for: the name of the method, as in "receive"."""

    @property
    def offset(self) -> int | None:
        """Where in the file it reads or writes, in bytes; None for a sync, and on a socket. (Win32's OVERLAPPED.Offset.)"""

    @property
    def pending(self) -> bool:
        """Whether it is not complete. Its completion may still wait for a worker."""

@final
class Port:
    """A completion port: one engine, one scheduler, and the monitor's thread."""

    def __new__(
        cls,
        *,
        concurrency: int,
        max_workers: int,
        interpreter_lock: bool,
        idle_seconds: float | None,
        busy_poll: float,
        engine: str | Network | None = None,
        queue_limit: int | None = None,
        hung_seconds: float | None = None,
    ) -> Port: ...
    @property
    def engine(self) -> str:
        """The engine's name."""

    @property
    def address(self) -> int:
        """Names the port in `current_worker()`."""

    def worker(
        self,
        thread: int,
        start_worker: Callable[[], object],
        apply: Callable[[Callable[..., object], tuple[Any, ...]], object],
        apply_nothing: Callable[[Callable[[], object], tuple[()]], object],
        run: Callable[[Any, Any], object],
        run_with: Callable[[Any, Any], object],
    ) -> Worker:
        """The calling thread, of that identifier, becomes a worker. `start_worker` is what it is given to call when the last spare worker was released,
        `apply` what it is given as the function for everything that does not take two arguments: `apply(function, arguments)`, and `apply_nothing` the same
        for timers and waits without arguments. Submitted calls come as
        `run(future, function)` or `run_with(future, (function, arguments, keywords))`."""

    def start_failed(self) -> None:
        """The thread that `start_worker` was to start did not start; it is asked for again after a second."""

    def group(
        self,
        *,
        connection_class: type[Connection],
        server: Callable[[], object] | None,
        received: Callable[..., object],
        connected: Callable[..., object] | None,
        ended: Callable[..., object] | None,
        closed: Callable[..., object] | None,
        sent: Callable[..., object] | None,
        receive_limit: int,
        send_limit: int,
        total_limit: int,
        send_timeout: float | None,
        idle_timeout: float | None,
        max_connections: int | None,
        framing: tuple[str, int, int] | None,
        no_delay: bool,
        keepalive: bool,
        accepts: tuple[int, int],
    ) -> Group: ...
    def listen(self, descriptor: int, address: str, group: Group) -> Listener:
        """Takes over the descriptor of a listening socket, and closes it where that fails."""

    def close_listener(self, listener: Listener) -> None:
        """Stops accepting, for good. Idempotent."""

    def attach(self, descriptor: int, peer: str, group: Group) -> Any:
        """Takes over the descriptor of a connected socket and answers its connection, of the group's class. Where that fails it closes the descriptor, and
        no handler is called; a copy of it is still connected."""

    def connections(self, group: Group) -> tuple[Any, ...]: ...
    def broadcast(self, group: Group, data: Any, exclude: list[int], close_slow: bool) -> tuple[int, int, int]:
        """Answers (queued for, skipped, closed)."""

    def group_numbers(self, group: Group) -> tuple[int, int, int, int, int, int, int, int, int, int]: ...
    def drain(self, group: Group) -> None:
        """From now on the group's connections close as soon as their handlers are through and their queues are sent."""

    def abort_all(self, group: Group) -> int: ...
    def accept_calls(self, accepting: bool) -> None:
        """Whether `submit` may queue calls: workers have been started, and are not broken."""

    def submit(
        self,
        future_class: type[Call],
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        keywords: dict[str, Any] | None,
        starting: bool = False,
    ) -> Any:
        """Queues a call and answers its future. None: not now, because nobody has been started (unless `starting`), the queue is full, every worker
        hangs, or the port is closing."""

    def running_call(self, future_class: type[Call]) -> Any:
        """The future of a call that the caller itself runs, now."""

    def is_full(self) -> bool:
        """Whether `queue_limit` calls are queued."""

    def wait_for_room(self) -> bool:
        """Waits until the queue has room, a worker with its slot free. False: no worker is left that could make room, so the caller runs its call."""

    def queued_calls(self) -> list[Any]:
        """The futures of the calls that have not begun."""

    def call_numbers(self) -> tuple[float, int, int, int, int]:
        """`(seconds the oldest has waited, done, failed, cancelled, how often the queue was full)`"""

    def in_handlers(self) -> list[tuple[int, int]]:
        """`(thread identifier, a number that another item changes)` of each worker that is in an item."""

    def call_after(
        self, seconds: object, function: Callable[..., object], arguments: tuple[Any, ...], starting: bool = False
    ) -> Timer | None:
        """Has a worker call `function(*arguments)` in `seconds`. None where that cannot be done at once: `seconds` is no float, or, unless `starting`,
        no worker has been started.

        Raises:
            RuntimeError: the port is closed or finishing.
        """

    def call_every(
        self, seconds: object, function: Callable[..., object], arguments: tuple[Any, ...], starting: bool = False
    ) -> Timer | None: ...
    def call_when(
        self,
        handle: int | Event,
        writable: bool,
        timeout: float | None,
        repeat: bool,
        function: Callable[..., object],
        arguments: tuple[Any, ...],
    ) -> Wait:
        """Has a worker call `function(signalled, *arguments)`. A descriptor stays the caller's.

        Raises:
            RuntimeError: the port is closed or finishing.
            ValueError, OSError: the descriptor cannot be waited for.
        """

    def associate(self, socket: socket | ConnectedSocket | End, kind: str, function: Callable[[Completion], object]) -> Handle:
        """Takes over a socket: calls its `fileno` and `detach`. `kind` is "tcp" or "unix", with "unconnected " before it, "listener", "datagram" or "pipe"."""

    def associate_file(self, file: tuple[int, Any, bool], function: Callable[[Completion], object]) -> Handle:
        """Gives a file a handle with a descriptor of its own: `(descriptor, name in errors, whether its owner bypasses the cache)`."""

    def pending(self) -> tuple[int, int, int, int]:
        """`(timers, waits, handles, operations)`: whose functions will be called (again); open handles, and operations that are pending on them."""

    def is_hung(self) -> bool:
        """True while no worker has come out of its handler for `hung_seconds`, but for one that asks: it moves."""

    def next_notice(self, timeout: float | None = None) -> tuple[str, str, int] | None:
        """Waits for something that a log should say: `(kind, text, number)`, the kind "" if nothing came in time; None: there will be no more."""

    def numbers(self) -> tuple[int, int, int, int, int, int, int, int, int, int, int]: ...
    def finish(self) -> None:
        """Workers exit when nothing is queued any more."""

    def close(self) -> list[tuple[Any, Any]]:
        """Workers exit after what they are doing, the monitor ends; answers the calls that were never begun, as `(function, arguments)` or `(future, None)`. Idempotent."""

    def release(self) -> None:
        """Every worker has left: gives the engine's descriptors back."""

    def is_closed(self) -> bool: ...
    def forked(self) -> None:
        """To be called in the child of a fork: closes what was inherited."""

@final
class Group:
    """The connections of one server."""

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Waits until every connection is closed, whether or not its handlers have returned; False when the time ran out."""

    def wait_empty(self, but: int = 0, timeout: float | None = None) -> bool:
        """Waits until at most `but` connections are left; False when the time ran out. Signal handlers run meanwhile."""

    def is_current(self) -> bool:
        """Whether the calling thread is in a handler of one of the group's connections."""

    def retire(self) -> None:
        """No connection will come any more: the handlers are let go with the last one."""

@final
class Listener:
    """Accepts for a group."""

@final
class Worker:
    """`for function, first, second in worker: function(first, second)` is a worker's life. Belongs to the thread that made it."""

    def __iter__(self) -> Worker:
        """Implement iter(self)."""

    def __next__(self) -> tuple[Callable[..., object], Any, Any]:
        """Implement next(self)."""

@final
class Network:
    """The simulated engine's network: in memory, seeded, with a clock that only `advance` moves. Seed 0 is the well-behaved one; every other seed
    splits, merges, shortens and reorders as a real network may."""

    def __new__(cls, seed: int = 0) -> Network: ...
    @property
    def now(self) -> float:
        """Its clock, in seconds."""

    def advance(self, seconds: float) -> None:
        """Moves the clock."""

    def listen(self) -> int:
        """A listening socket's descriptor, for `Port.listen`."""

    def pair(self) -> tuple[int, Peer]:
        """A connected socket's descriptor, for `Port.attach`, and its peer."""

    def socket(self) -> tuple[int, Peer]:
        """The descriptor of a stream socket that is not connected, and the peer that it will have, which answers whatever address is asked for."""

    def datagrams(self) -> tuple[int, Correspondent]:
        """The descriptor of a datagram socket, and everybody else."""

    def object(self) -> tuple[int, Signal]:
        """A descriptor to wait for, for `Port.call_when`, and what makes it ready."""

    def connect(self, listener: int, address: str) -> Peer:
        """A client connects; `address` is its own. Raises ConnectionRefusedError where nobody listens."""

    def fail_next(self, what: str, errno: int) -> None:
        """Lets the next "adopt", "associate", "accept", "accept_paused", "accept_some", "connect", "receive", "send", "shutdown_write", "watch" or
        "wait" fail."""

    def need_pending_accepts(self) -> None:
        """Accepts have to be pending from here on, as on Windows."""

    def pending_accepts(self, listener: int) -> int: ...
    def wait_quiet(self, timeout: float) -> bool:
        """Waits, in real time, until a worker sleeps in the engine and nothing is left to do."""

@final
class Signal:
    """Makes a simulated object ready."""

    def set(self, ready: bool) -> None:
        """Waits for the object complete from here on, or no longer."""

@final
class Correspondent:
    """Everybody that a simulated datagram socket writes to, and gets something from."""

    def send(self, data: bytes, sender: str | None = None) -> None:
        """Sends one datagram, from an address such as 192.0.2.1:10000."""

    def fail(self, errno: int) -> None:
        """Lets a receive fail, after the datagrams before it."""

    def received(self) -> list[tuple[bytes, str | None]]:
        """What has come since the last call, and for which address; None: for the socket's peer."""

    def set_room(self, datagrams: int) -> None:
        """How many datagrams are taken before `received` is called."""

@final
class Peer:
    """The other end of a simulated connection."""

    def accept(self) -> None:
        """Answers an attempt to connect, the next one if there is none."""

    def refuse(self, errno: int) -> None:
        """As `accept`, with an error."""

    @property
    def is_asked(self) -> bool:
        """Whether an attempt to connect waits for an answer."""

    def send(self, data: bytes) -> None: ...
    def finish(self) -> None: ...
    def reset(self) -> None: ...
    def fail(self, errno: int) -> None: ...
    def received(self) -> bytes:
        """What has come since the last call."""

    def set_window(self, size: int) -> None:
        """How many bytes come through before the peer takes them with `received`."""

    @property
    def ended(self) -> bool:
        """Whether our side has finished sending."""

    @property
    def was_reset(self) -> bool: ...
    def wait(self, timeout: float) -> bool:
        """Waits, in real time, until something has come or our side has ended."""

def block() -> None:
    """Frees the calling worker's slot until as many calls of `unblock` have followed. No effect on other threads."""

def unblock() -> None:
    """Ends what `block` began."""

def stacks(threads: list[int]) -> list[list[tuple[FrameType, int]] | None]:
    """The frames of these threads, the innermost first, each with the line it is at; None for a thread that runs no Python. With an interpreter lock no
    thread runs meanwhile: CPython 3.11 crashes where frames are left while somebody goes from one to the next, as Python code does that gives way between two."""

_Class = TypeVar("_Class")

def own_methods(cls: type[_Class], /) -> type[_Class]:
    """Makes the native methods that `class` inherits from its base, and does not override, its own; answers the class. For a decorator.

    The interpreter calls a native method without a detour only where the object is of exactly the class that has it, which is never true of a subclass's: that
    was 170 of the instructions of a 64-byte echo."""

def forked() -> None:
    """Called in the child of a fork: objects of the parent's that belong to no port refuse from here on."""

def current_worker() -> tuple[int, int] | None:
    """`(port.address, connection id or 0)` for a worker, None for other threads."""

@disjoint_base
class File:
    """An open file, native: `proactor.File` is what users see."""

    def __new__(cls, *arguments: Any) -> Self: ...
    def read_at(self, offset: int, size: int) -> FileRequest:
        """Starts reading `size` bytes at `offset`, both in bytes: the future's result is `bytes`, fewer at the end of the file. What is in memory is read before this
        returns, which takes as long as to copy it, and the future is done.

        Raises:
            ValueError: the file is closed; a number is negative, or reaches beyond 2**63 - 1.
            TypeError: one is no whole number.
            MemoryError: there is none for `size` bytes.
            io.UnsupportedOperation: it is a pipe or a character device, or not open for reading.
        """

    def readinto_at(self, offset: int, buffer: Any) -> FileRequest:
        """Starts reading into a writable buffer at `offset`, as much as it holds: the future's result is how many bytes, fewer at the end of the file. The buffer is
        lent until the future is done.

        Raises:
            TypeError: it is no writable bytes-like object.
            ValueError, io.UnsupportedOperation: as `read_at`.
        """

    def write_at(self, offset: int, data: Any) -> FileRequest:
        """Starts writing a bytes-like object at `offset`: the future's result is how many bytes, which are all. Nothing is copied: the buffer is lent until the future is
        done. In the mode "ab" everything goes to the end, whatever the offset.

        Raises:
            TypeError: it is no bytes-like object.
            ValueError, io.UnsupportedOperation: as `read_at`. With `direct=True`: offset and length must be multiples of 512.
        """

    def sync(self, data_only: bool = False) -> None:
        """Waits until what was submitted is complete, then until the device has it: fsync(2). `data_only`: fdatasync(2), without what is only of interest to `stat`.
        Blocks; in a worker with the worker's slot free.

        Raises:
            OSError: the device failed.
            ValueError: the file is closed.
        """

    def close(self) -> None:
        """The end: waits for what is under way, then closes the descriptor. Idempotent. Blocks; in a worker with the worker's slot free."""

    @property
    def closed(self) -> bool:
        """Whether it was closed."""

    @property
    def _direct(self) -> bool:
        """Whether it bypasses the cache."""

    @property
    def name(self) -> Any:
        """What it was opened as."""

    def fileno(self) -> int:
        """The descriptor, which stays the file's.

        Raises:
            ValueError: the file is closed.
        """

    def _forked(self) -> None: ...
    def _give_up(self, future: Transfer) -> None:
        """Nobody wants the request any more: it is cancelled if the kernel lets it, and in any case nobody waits for it, not even `close`."""

    def _hold(self) -> HeldFile:
        """Keeps the descriptor open as long as it lives: its number is the file's so long, whatever is closed meanwhile."""

    def _numbers(self) -> tuple[str | None, int, int, int, int, float, int, int, int, int]: ...

@final
class HeldFile:
    """What `File._hold` answers."""

    def fileno(self) -> int: ...

@disjoint_base
class Transfer:
    """The state of a file's request, native: `proactor.files` makes a `concurrent.futures.Future` of it.

    Until `_inflate` has been called it ends natively, under its own lock. From then on a Python thread ends it, under the condition that was kept."""

    def __new__(cls) -> Self: ...
    def done(self) -> bool:
        """Whether it is complete, or was cancelled."""

    def cancelled(self) -> bool:
        """Whether it was cancelled."""

    def running(self) -> bool:
        """Whether it has neither ended nor was cancelled."""

    def _perform_here(self) -> bool:
        """Does it in this thread, if nobody has begun it and few are under way."""

    def result(self, timeout: float | None = None) -> Any:
        """What the request has brought. Blocks until it is complete; in a worker with the worker's slot free. Signal handlers run in between.

        Raises:
            OSError: it failed; the text says what was done at which offset, and `filename` is the file's.
            CancelledError: it was cancelled.
            TimeoutError: it is not complete after `timeout` seconds.
        """

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error of the request, None if there is none; else as `result`."""

    @property
    def _state(self) -> str: ...
    @property
    def _result(self) -> Any: ...
    @property
    def _exception(self) -> Any: ...
    def _inflated(self) -> tuple[Condition, list[Any]] | None: ...
    def _inflate(self, condition: Condition, waiters: list[Any]) -> tuple[Condition, list[Any]]: ...
    def _settle(self) -> bool | None: ...
    def _cancel(self, under_condition: bool) -> bool | None:
        """Cancels it if the kernel does not have it. None: it is inflated, and `_cancel(True)` is to be called under the condition."""

    def _add_callback(self, function: Callable[[Any], object]) -> bool: ...
    def _take_callbacks(self) -> list[Callable[[Any], object]]: ...

def teller_wanted() -> bool:
    """Whether a thread has to be started that calls `next_told` until that says None: from then on one is said to be there."""

def teller_missing() -> None:
    """The thread could not be started."""

def next_told() -> FileRequest | None:
    """Waits for the next future that is complete and has somebody to tell; None: nothing more is to be told."""

def files_forked() -> None:
    """In the child of a fork, before anything else."""

def files_finish() -> None:
    """At the end of the interpreter: waits for what is under way, and ends the native threads. Whoever reads on starts them again."""
