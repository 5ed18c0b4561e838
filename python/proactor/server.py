"""The server: a listener, its connections, and their end. Knows nothing of the command line."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from proactor import _core
from proactor.connection import Connection, Handler, LengthPrefixed, Lines
from proactor.listener import Address, bind, connect_to, show_path
from proactor.pool import ThreadPool, blocking

__all__ = ["BroadcastResult", "Server", "ServerStatistics", "ShutdownReport", "connect", "serve"]

HandlerLike: TypeAlias = "Handler | type[Handler] | Callable[[Connection, bytes], object]"

_DRAIN_SECONDS = 10.0


@dataclass(frozen=True)
class BroadcastResult:
    """How many connections a broadcast was queued for, and what became of those whose queue was full."""

    sent: int
    skipped: int
    closed: int


@dataclass(frozen=True)
class ShutdownReport:
    """What a shutdown left."""

    completed: bool
    """Every connection ended in order and every handler returned."""
    served: int
    """Connections accepted, in all."""
    sent: int
    """Bytes taken by the kernel, in all."""
    dropped: int
    """Bytes accepted by `send` that the kernel never took, in all."""
    running: tuple[str, ...]
    """The handlers that did not return: worker, function, place."""


@dataclass(frozen=True)
class ServerStatistics:
    """A snapshot; all sizes in bytes."""

    engine: str
    accepted: int
    refused: int
    """Accepted and closed at once: `max_connections` was reached, or every worker hung."""
    accept_errors: int
    connections: int
    queued_bytes: int
    """Waiting in the inboxes and outboxes of all connections."""
    received_bytes: int
    sent_bytes: int
    dropped_bytes: int
    messages: int


@dataclass(frozen=True)
class _Limits:
    """What `serve` and `connect` have in common, checked."""

    framing: Lines | LengthPrefixed | None
    idle_timeout: float | None
    send_timeout: float | None
    receive_limit: int
    send_limit: int
    total_limit: int
    keepalive: bool
    no_delay: bool
    max_connections: int | None = None
    accepts: tuple[int, int] = (2, 5)

    def __post_init__(self) -> None:
        for name in ("receive_limit", "send_limit", "total_limit"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1 byte, not {getattr(self, name)!r}")
        if self.max_connections is not None and self.max_connections < 1:
            raise ValueError(f"max_connections must be at least 1, not {self.max_connections!r}; None is no limit")
        for name in ("idle_timeout", "send_timeout"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be more than 0 seconds, not {value!r}; None is no limit")
        minimum, maximum = self.accepts
        if not 1 <= minimum <= maximum:
            raise ValueError(f"accepts must be (minimum, maximum) with 1 <= minimum <= maximum, not {self.accepts!r}")
        if self.framing is not None and not isinstance(self.framing, Lines | LengthPrefixed):
            raise TypeError(f"framing must be None, proactor.Lines(...) or proactor.LengthPrefixed(...), not {self.framing!r}")

    def group(self, port: _core.Port, handler: HandlerLike, server: Server | None = None) -> _core.Group:
        framing = None if self.framing is None else self.framing._native()
        return port.group(
            connection_class=Connection,
            server=None if server is None else weakref.ref(server),
            receive_limit=self.receive_limit,
            send_limit=self.send_limit,
            total_limit=self.total_limit,
            send_timeout=self.send_timeout,
            idle_timeout=self.idle_timeout,
            max_connections=self.max_connections,
            framing=framing,
            no_delay=self.no_delay,
            keepalive=self.keepalive,
            accepts=self.accepts,
            **_handlers(handler),
        )


def _handlers(handler: HandlerLike) -> dict[str, Any]:
    """The bound methods of a handler; None for those it does not override, so that they cost nothing."""
    names = ("connected", "ended", "sent", "closed")
    if isinstance(handler, type) and issubclass(handler, Handler):
        handler = handler()
    if isinstance(handler, Handler):
        kind = type(handler)
        found = {
            name: getattr(handler, name) if name in vars(handler) or getattr(kind, name) is not getattr(Handler, name) else None
            for name in names
        }
        return {"received": handler.received, **found}
    if not callable(handler):
        raise TypeError(f"a handler is a function (connection, data), or a subclass or an instance of proactor.Handler; not {handler!r}")
    return {"received": handler, **dict.fromkeys(names)}


def serve(
    handler: HandlerLike,
    address: Address,
    *,
    pool: ThreadPool | None = None,
    framing: Lines | LengthPrefixed | None = None,
    backlog: int = 4096,
    accepts: tuple[int, int] = (2, 5),
    max_connections: int | None = None,
    idle_timeout: float | None = None,
    send_timeout: float | None = 30.0,
    receive_limit: int = 256 * 1024,
    send_limit: int = 1024 * 1024,
    total_limit: int = 1024 * 1024 * 1024,
    keepalive: bool = True,
    no_delay: bool = True,
    reuse_port: bool = False,
) -> Server:
    """Listens on `address` and calls `handler` on the pool's workers. Returns at once.

    Arguments:
        handler: a function `(connection, data)`, or a `Handler` subclass or instance. It may block.
        address: `("127.0.0.1", 60001)`, `"host:port"`, `"[::1]:60001"`, `"unix:/path"`, or a bound socket,
            which the server takes over. Port 0: any free one.
        pool: the workers; by default the server has a pool of its own.
        framing: `Lines(...)` or `LengthPrefixed(...)`: one whole message for each call. By default what one receive brought.
        backlog: how many clients the kernel lets wait; it caps this at `net.core.somaxconn`.
        accepts: (minimum, maximum) accepts kept pending, where the kernel needs them (IOCP); elsewhere accepting goes on until
            nobody waits.
        max_connections: further clients are accepted and closed at once, and counted as refused.
        idle_timeout: a connection on which nothing moved for so many seconds ends with TimeoutError.
        send_timeout: how many seconds `send` waits above `send_limit`, and how long a closing connection waits for a peer
            that takes nothing.
        receive_limit: bytes of a connection that wait for its handler; at the limit receiving pauses, below half of it it goes on.
        send_limit: bytes of a connection that wait to be sent; above half of it its receiving pauses, at the limit `send` blocks.
        total_limit: bytes that wait in all queues of the server.
        keepalive, no_delay: SO_KEEPALIVE and TCP_NODELAY.
        reuse_port: SO_REUSEPORT, for several processes on one port.

    Raises:
        OSError: the address cannot be listened on; the text names it.
        ValueError, TypeError: an argument is wrong; the text says which and how.
    """
    limits = _Limits(
        framing, idle_timeout, send_timeout, receive_limit, send_limit, total_limit, keepalive, no_delay, max_connections, accepts
    )
    if backlog < 1:
        raise ValueError(f"backlog must be at least 1, not {backlog!r}")
    return Server(handler, address, pool=pool, limits=limits, backlog=backlog, reuse_port=reuse_port)


class Server:
    """A listener and its connections. Made by `serve`. Safe from any thread; as a context manager it shuts down at the end.

    `address` is the bound address: `(host, port)`, for IPv6 with flow and scope, for a Unix socket `"unix:/path"`.
    """

    def __init__(
        self, handler: HandlerLike, address: Address, *, pool: ThreadPool | None, limits: _Limits, backlog: int, reuse_port: bool
    ) -> None:
        self._closed = threading.Event()
        self._ended = True  # until it listens: nothing to warn of
        listening = bind(address, backlog=backlog, reuse_port=reuse_port)
        # The file of our Unix socket, and which file that was.
        self._unix_file: tuple[str, tuple[int, int]] | None = None
        self._owns_pool = pool is None
        try:
            name: Any = listening.getsockname()
            self.address: Any = f"unix:{_as_text(name)}" if listening.family == getattr(socket, "AF_UNIX", None) else name
            if isinstance(address, str) and address.startswith("unix:") and not address.startswith("unix:\0"):
                path = os.path.abspath(address.removeprefix("unix:"))
                self._unix_file = path, _identity(path)
            shown = show_path(self.address) if isinstance(self.address, str) else f"{name[0]}:{name[1]}"
            self.pool = ThreadPool() if pool is None else pool
            self._port, self._workers = self.pool.start()
            self._group = limits.group(self._port, handler, self)
            self._listener = self._port.listen(listening.fileno(), shown, self._group)
            listening.detach()
        except BaseException:
            listening.close()
            if self._owns_pool and hasattr(self, "pool"):
                self.pool.shutdown()
            raise
        # Guards _report, _waiting and who shuts down. Reentrant: a signal handler may shut down, whatever the main thread was doing.
        self._lock = threading.RLock()
        # Where each thread in `serve_forever` is told that the server is closed.
        self._waiting: list[socket.socket] = []
        # The thread that shuts it down.
        self._ended_by: int | None = None
        self._report: ShutdownReport | None = None
        self._ended = False
        try:
            self.pool.join_in(self)
        except RuntimeError:
            self.close()  # the pool was shut down meanwhile
            raise

    @property
    def connections(self) -> tuple[Connection, ...]:
        """The live connections."""
        connections: tuple[Connection, ...] = self._port.connections(self._group)
        return connections

    def broadcast(self, data: Any, *, exclude: Iterable[Connection] = (), slow: Literal["skip", "close"] = "skip") -> BroadcastResult:
        """Sends the same bytes to every connection but `exclude`, and waits for none of them.

        `slow`: a connection whose queue is full is skipped, or closed with TimeoutError.
        """
        if slow not in ("skip", "close"):
            raise ValueError(f'slow must be "skip" or "close", not {slow!r}')
        return BroadcastResult(*self._port.broadcast(self._group, data, [connection.id for connection in exclude], slow == "close"))

    def shutdown(self, timeout: float | None = None) -> ShutdownReport:
        """No new clients; what has come is handled, what is queued is sent, then everything is closed. Idempotent.

        After `timeout` seconds what is left is dropped, and the report says what. Inside a handler it does not wait for that handler, whose
        own connection closes as with its `close`: what was sent before still goes out.
        """
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout must be 0 seconds or more, or None for no limit; not {timeout!r}")
        if self._workers.forked:
            return ShutdownReport(True, 0, 0, 0, ())  # there is nothing of it in this process
        if not self._is_first_to_end():
            # Neither a handler that it waits for, nor a signal handler that interrupted it, can wait for the end.
            if not self._group.is_current() and self._ended_by != threading.get_ident():
                self._wait_closed(timeout)
            return self._report or self._make_report(completed=False, running=self._workers.running())
        try:
            deadline = None if timeout is None else time.monotonic() + timeout
            self._stop_listening()
            self._port.drain(self._group)
            if self._group.is_current():
                self._close_own_connection()
                completed = self._group.wait_empty(1, timeout) and self._group.wait_closed(_left(deadline, at_least=0))
            else:
                completed = self._group.wait_empty(0, timeout)
            return self._end(deadline, completed=completed, drain=True)
        except BaseException:
            self._ended_by = None  # a signal handler raised, Ctrl-C say: the next call goes on with it
            raise

    def close(self) -> None:
        """Ends everything now: connections are reset, what is queued is dropped and counted. Idempotent."""
        if self._workers.forked:
            return
        first = self._is_first_to_end()
        self._stop_listening()
        self._port.abort_all(self._group)
        if first:
            try:
                self._end(time.monotonic() + _DRAIN_SECONDS, completed=True, drain=False)
            except BaseException:
                self._ended_by = None
                raise

    def _close_own_connection(self) -> None:
        """Of the handler that the calling thread is in: it could send nothing more after the end of the server's workers."""
        worker = _core.current_worker()
        for connection in self.connections:
            if worker is not None and connection.id == worker[1]:
                connection.close()

    def _is_first_to_end(self) -> bool:
        with self._lock:
            if self._ended_by is not None:
                return False
            self._ended_by = threading.get_ident()
            return True

    def _end(self, deadline: float | None, *, completed: bool, drain: bool) -> ShutdownReport:
        """The last part of both ways to end."""
        running: tuple[str, ...] = ()
        but = 1 if self._group.is_current() else 0
        if not completed:
            running = self._workers.running()
        self._port.abort_all(self._group)
        gone = self._group.wait_empty(but, _left(deadline, at_least=0.1))
        if not gone and not running:
            running = self._workers.running()
        if self._owns_pool:
            running = self.pool.end(drain=drain, timeout=_left(deadline, at_least=0.1)) or running
        report = self._make_report(completed=completed and gone and not running, running=running)
        self._ended = True
        with self._lock:
            self._report = report
            self._closed.set()
            for writer in self._waiting:
                try:
                    writer.send(b"\0")
                except OSError:
                    pass  # full, so whoever waits on it wakes up anyway; or closed by a second Ctrl-C in the middle of serve_forever's end
        return report

    def serve_forever(self) -> None:
        """Waits until `shutdown` or `close` is called elsewhere.

        In the main thread signal handlers run meanwhile, and Ctrl-C raises KeyboardInterrupt.
        """
        self._workers.check_process()
        if threading.current_thread() is not threading.main_thread():
            self._closed.wait()
            return
        # A signal may land on any thread; the wake-up descriptor is written whichever it was.
        reader, writer = socket.socketpair()
        with reader, writer:
            writer.setblocking(False)
            with self._lock:
                self._waiting.append(writer)
            before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            try:
                while not self._closed.is_set():
                    numbers = reader.recv(64).replace(b"\0", b"")  # a signal handler that raises, raises here
                    if before >= 0 and numbers:
                        os.write(before, numbers)
            finally:
                signal.set_wakeup_fd(before)
                with self._lock:
                    self._waiting.remove(writer)

    def statistics(self) -> ServerStatistics:
        """A snapshot."""
        return ServerStatistics(self._port.engine, *self._port.group_numbers(self._group))

    def _end_with_pool(self) -> None:
        self.close()

    def _make_report(self, *, completed: bool, running: tuple[str, ...]) -> ShutdownReport:
        numbers = self.statistics()
        return ShutdownReport(completed, numbers.accepted, numbers.sent_bytes, numbers.dropped_bytes, running)

    def _wait_closed(self, timeout: float | None) -> None:
        with blocking():
            self._closed.wait(timeout)

    def _stop_listening(self) -> None:
        self._port.close_listener(self._listener)
        self._group.retire()
        if self._unix_file is not None:
            (path, identity), self._unix_file = self._unix_file, None
            try:
                if _identity(path) == identity:  # not a successor's
                    os.unlink(path)
            except FileNotFoundError:
                pass  # somebody else has removed it: it is gone, which is what was wanted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.shutdown(timeout=_DRAIN_SECONDS)

    def __del__(self) -> None:
        if not self._ended and not self._workers.forked:
            warnings.warn(f"{self!r} was never shut down", ResourceWarning, source=self, stacklevel=1)
            self.close()

    def __repr__(self) -> str:
        return f"<Server {self.address!r}>"


def connect(
    address: Address,
    handler: HandlerLike,
    *,
    pool: ThreadPool | None = None,
    timeout: float | None = None,
    framing: Lines | LengthPrefixed | None = None,
    idle_timeout: float | None = None,
    send_timeout: float | None = 30.0,
    receive_limit: int = 256 * 1024,
    send_limit: int = 1024 * 1024,
    keepalive: bool = True,
    no_delay: bool = True,
) -> Connection:
    """Connects to `address`, waiting at most `timeout` seconds, and calls `handler` for what comes.

    Without a `pool` the connection has one of its own, which ends after `closed`. The other arguments are those of `serve`.

    Raises:
        OSError: what the kernel said, with the address in its text; TimeoutError after `timeout` seconds.
    """
    limits = _Limits(framing, idle_timeout, send_timeout, receive_limit, send_limit, 2 * (receive_limit + send_limit), keepalive, no_delay)
    _handlers(handler)  # a wrong one is told before anybody is called
    connected = connect_to(address, timeout)
    own_pool = None
    try:
        connected.setblocking(False)
        if pool is None:
            pool = own_pool = ThreadPool(thread_name_prefix="proactor-connect")
            handler = _OwnPool(handler, own_pool)
        port, _workers = pool.start()
        group = limits.group(port, handler)
        connection: Connection = port.attach(connected.fileno(), _peer_text(connected, address), group)
        connected.detach()
        if own_pool is None:
            try:
                pool.join_in(connection)
            except RuntimeError:
                connection.abort()  # the pool was shut down meanwhile
                raise
    except BaseException:
        connected.close()
        if own_pool is not None:
            own_pool.shutdown()
        raise
    return connection


class _OwnPool(Handler):
    """The user's handler, and the end of the pool after `closed`."""

    def __init__(self, handler: HandlerLike, pool: ThreadPool) -> None:
        self._pool = pool
        self._inner = _handlers(handler)
        for name in ("received", "connected", "ended", "sent"):
            if self._inner[name] is not None:
                setattr(self, name, self._inner[name])

    def closed(self, connection: Connection, error: BaseException | None) -> None:
        try:
            closed = self._inner["closed"]
            if closed is not None:
                closed(connection, error)
        finally:
            self._pool.shutdown(wait=False)


def _peer_text(connected: socket.socket, address: Address) -> str:
    try:
        name = connected.getpeername()
    except OSError:
        raise ConnectionResetError(errno.ECONNRESET, f"{address} accepted the connection and reset it at once") from None
    if isinstance(name, tuple) and len(name) == 4:
        # The zone by its number: by its name ("fe80::1%eth0") the core could not read the address.
        zone = f"%{name[3]}" if name[3] else ""
        return f"[{name[0].partition('%')[0]}{zone}]:{name[1]}"
    if isinstance(name, tuple):
        return f"{name[0]}:{name[1]}"
    return _as_text(name)


def _as_text(path: str | bytes) -> str:
    return os.fsdecode(path)


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _left(deadline: float | None, *, at_least: float) -> float | None:
    return None if deadline is None else max(at_least, deadline - time.monotonic())
