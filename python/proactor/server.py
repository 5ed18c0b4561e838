"""The server: a listener, its connections, and their end. Knows nothing of the command line."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from proactor import _core, platform
from proactor.arguments import flag, seconds, whole_number
from proactor.connection import Connection, LengthPrefixed, Lines
from proactor.handlers import HandlerLike, handler_methods
from proactor.limits import Limits, check_pool, limits
from proactor.listener import Address, bind, show_path
from proactor.pool import ThreadPool
from proactor.workers import seconds_until

__all__ = ["BroadcastResult", "Server", "ServerStatistics", "ShutdownReport", "serve"]

log = logging.getLogger("proactor")

_DRAIN_SECONDS = 10.0
# How long the interpreter's end waits for a thread that has just been started to get to its `serve_forever`.
_GRACE_SECONDS = 0.1


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
    crowded_out: int
    """Connections that ended with `MessageCrowdedOut`."""


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

    It serves until `shutdown` or `close`, or until the program ends: the end of the main thread ends it too, unless an ordinary
    (non-daemon) thread is in `serve_forever`.

    Arguments:
        handler: a plain function `(connection, data)`, or a `Handler` subclass or instance. It may block. Of a
            subclass one instance is made, for all clients: what belongs to one client goes to `connection.context`.
        address: `("127.0.0.1", 60001)`, `"host:port"`, `"[::1]:60001"`, `"unix:/path"`, `"pipe:name"` (Windows), or a bound socket,
            which the server takes over. Port 0: any free one.
        pool: the workers; by default the server has a pool of its own.
        framing: `Lines(...)` or `LengthPrefixed(...)`: one whole message for each call, without its line end or its length. By default what
            one receive brought. It is about receiving only: to send a message so, `connection.send(framing.encode(message))`.
        backlog: how many clients the kernel lets wait; it caps this at `net.core.somaxconn`.
        accepts: (minimum, maximum) accepts kept pending, where the kernel needs them (IOCP); elsewhere accepting goes on until
            nobody waits.
        max_connections: further clients are accepted and closed at once, and counted as refused.
        idle_timeout: seconds; a connection on which nothing moved for so long ends with TimeoutError.
        send_timeout: how many seconds `send` waits above `send_limit`, and how long a closing connection waits for a peer
            that takes nothing.
        receive_limit: bytes of a connection that wait for its handler; at the limit receiving pauses, below half of it it goes on.
        send_limit: bytes of a connection that wait to be sent; above half of it its receiving pauses, at the limit `send` blocks.
        total_limit: bytes that wait in all queues of the server. With framing, messages that have come in part take at most half of it:
            beyond that the newest of them ends its connection, or the oldest once it began more than 30 seconds ago
            (`proactor.errors.MessageCrowdedOut`). One alone may be as long as its framing lets it.
        keepalive, no_delay: SO_KEEPALIVE and TCP_NODELAY.
        reuse_port: SO_REUSEPORT, for several processes on one port.

    Raises:
        OSError: the address cannot be listened on; the text names it.
        ValueError, TypeError: an argument is wrong; the text says which and how.
    """
    checked = limits(
        framing, idle_timeout, send_timeout, receive_limit, send_limit, keepalive, no_delay, total_limit, max_connections, accepts
    )
    backlog = whole_number("backlog", backlog, maximum=2**31 - 1)
    reuse_port = flag("reuse_port", reuse_port)
    check_pool(pool, "a pool of the server's own")
    return Server(handler_methods(handler), address, pool=pool, limits=checked, backlog=backlog, reuse_port=reuse_port)


class Server:
    """A listener and its connections. Made by `serve`. Safe from any thread; as a context manager it shuts down at the end.

    `address` is the bound address: `(host, port)`, for IPv6 with flow and scope, `"unix:/path"` or `"pipe:name"`.
    """

    def __init__(
        self, methods: dict[str, Any], address: Address, *, pool: ThreadPool | None, limits: Limits, backlog: int, reuse_port: bool
    ) -> None:
        self._closed = _core.Event()  # not threading's, with locks that a signal handler may have interrupted
        self._ended = True  # until it listens: nothing to warn of
        # The file of our Unix socket, and which file that was.
        self._unix_file: tuple[str, tuple[int, int]] | None = None
        self._owns_pool = pool is None
        # Guards _report, _waiting, _serving, _exiting and who shuts down. Reentrant: a signal handler may shut down, whatever the main
        # thread was doing. Taken within `interruptible`: one that has interrupted who holds it waits for nobody else's shutdown.
        self._lock = threading.RLock()
        # Where each thread in `serve_forever` is told that the server is closed.
        self._waiting: list[socket.socket] = []
        # The threads in `serve_forever`.
        self._serving: list[threading.Thread] = []
        # The interpreter has ended it, with nobody in `serve_forever`.
        self._exiting = False
        # The thread that shuts it down.
        self._ended_by: int | None = None
        self._report: ShutdownReport | None = None
        # Why it has ended, where nobody asked it to.
        self._failure: BrokenExecutor | None = None
        listening = bind(address, backlog=backlog, reuse_port=reuse_port)
        try:
            name: Any = listening.getsockname()
            self.address: Any = f"unix:{os.fsdecode(name)}" if listening.family == platform.UNIX else name
            if isinstance(address, str) and address.startswith("unix:") and not address.startswith("unix:\0"):
                path = os.path.abspath(address.removeprefix("unix:"))
                self._unix_file = path, _identity(path)
            shown = show_path(self.address) if isinstance(self.address, str) else f"{name[0]}:{name[1]}"
            self.pool = ThreadPool() if pool is None else pool
            self._port, self._workers = self.pool._start()
            self._group = limits.group(self._port, methods, weakref.ref(self))

            def listen() -> Server:
                self._listener = self._port.listen(listening.detach(), shown, self._group)
                self._ended = False
                return self

            self.pool._join_in(listen)
        except BaseException:
            listening.close()
            self._remove_unix_file()
            if self._owns_pool and hasattr(self, "pool"):
                self.pool.shutdown()
            raise
        _open_servers.add(self)

    @property
    def connections(self) -> tuple[Connection, ...]:
        """The live connections."""
        connections: tuple[Connection, ...] = self._port.connections(self._group)
        return connections

    def broadcast(self, data: Any, *, exclude: Iterable[Connection] = (), slow: Literal["skip", "close"] = "skip") -> BroadcastResult:
        """Sends the same bytes to every connection but `exclude`, and waits for none of them.

        `exclude`: connections, of this server or others. `slow`: a connection whose queue is full is skipped, or closed with TimeoutError.
        """
        if slow not in ("skip", "close"):
            raise ValueError(f'slow must be "skip" or "close", not {slow!r}')
        return BroadcastResult(*self._port.broadcast(self._group, data, _ids(exclude), slow == "close"))

    def shutdown(self, timeout: float | None = None) -> ShutdownReport:
        """No new clients; what has come is handled, what is queued is sent, then everything is closed. Idempotent.

        After `timeout` seconds what is left is dropped, and the report says what. Inside a handler it does not wait for that handler, whose
        own connection closes as with its `close`: what was sent before still goes out. Handlers of two servers that shut down each other's
        wait for each other: give such calls a timeout.

        Raises:
            RuntimeError: this is the child of a fork, which has nothing of the server's to end.
        """
        timeout = seconds("timeout", timeout, zero=True)
        self._workers.check_process()
        with self._workers.ending():
            return self._shut_down(timeout)

    def _shut_down(self, timeout: float | None) -> ShutdownReport:
        if not self._is_first_to_end():
            # Neither a handler that it waits for, nor a signal handler that interrupted it or has what it needs, can wait for the end.
            if not self._group.is_current() and self._ended_by != threading.get_ident() and self._workers.may_wait():
                self._closed.wait(timeout)
            return self._report or self._make_report(completed=False, running=self._workers.running())
        try:
            deadline = None if timeout is None else time.monotonic() + timeout
            self._stop_listening()
            self._port.drain(self._group)
            if self._group.is_current():
                self._close_own_connection()
                completed = self._group.wait_empty(1, timeout) and self._group.wait_closed(seconds_until(deadline))
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
        with self._workers.interruptible(), self._lock:
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
        gone = self._group.wait_empty(but, seconds_until(deadline, at_least=0.1))
        if not gone and not running:
            running = self._workers.running()
        if self._owns_pool:
            running = self.pool._end(drain=drain, timeout=seconds_until(deadline, at_least=0.1)) or running
        report = self._make_report(completed=completed and gone and not running, running=running)
        self._ended = True
        with self._workers.interruptible(), self._lock:
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

        In the main thread signal handlers run meanwhile, and Ctrl-C raises KeyboardInterrupt. In an ordinary (non-daemon) thread it
        keeps the program alive after its main thread has ended, as with socketserver; Ctrl-C then shuts the server down.

        Raises:
            BrokenExecutor: the server has shut down because the initializer of its pool raised.
            RuntimeError: this is the child of a fork.
        """
        self._workers.check_process()
        thread = threading.current_thread()
        with self._workers.interruptible(), self._lock:
            if self._exiting:
                return
            self._serving.append(thread)
        _open_servers.tell_of_serving()
        try:
            if thread is threading.main_thread():
                self._wait_in_main_thread()
            else:
                self._closed.wait()
        finally:
            with self._workers.interruptible(), self._lock:
                self._serving.remove(thread)
        if self._failure is not None:
            raise self._failure

    def _wait_in_main_thread(self) -> None:
        """Until it is closed."""
        # A signal may land on any thread; the wake-up descriptor is written whichever it was.
        reader, writer = socket.socketpair()
        with reader, writer:
            writer.setblocking(False)
            with self._workers.interruptible(), self._lock:
                self._waiting.append(writer)
            before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            try:
                while not self._closed.is_set():
                    numbers = reader.recv(64).replace(b"\0", b"")  # a signal handler that raises, raises here
                    if before >= 0 and numbers:
                        platform.tell_wakeup_descriptor(before, numbers)
            finally:
                signal.set_wakeup_fd(before)
                with self._workers.interruptible(), self._lock:
                    self._waiting.remove(writer)

    def statistics(self) -> ServerStatistics:
        """A snapshot."""
        return ServerStatistics(self._port.engine, *self._port.group_numbers(self._group))

    def _begin_to_end(self) -> None:
        self._stop_listening()
        self._port.drain(self._group)

    def _end_with_pool(self, timeout: float | None) -> None:
        self.shutdown(timeout)

    def _end_broken(self, error: BrokenExecutor) -> None:
        self._failure = error
        log.error("%r shuts down: %s", self, error)
        self._shut_down_and_say()

    def _is_served(self) -> bool:
        """Whether a thread that the interpreter's end waits for is in `serve_forever`."""
        with self._workers.interruptible(), self._lock:
            return not self._closed.is_set() and any(thread.is_alive() and not thread.daemon for thread in self._serving)

    def _serve_to_the_end(self) -> None:
        """At the interpreter's end, in the main thread: goes on while it is served."""
        try:
            self._wait_in_main_thread()
        except KeyboardInterrupt:
            log.info("Ctrl-C: %r shuts down", self)
            self._shut_down_and_say()

    def _end_with_interpreter(self) -> bool:
        """Accepts nobody any more; False: somebody has begun to serve it meanwhile."""
        with self._workers.interruptible(), self._lock:
            if self._is_served():
                return False
            self._exiting = True
        if not self._ended:
            self._stop_listening()
        return True

    def _make_report(self, *, completed: bool, running: tuple[str, ...]) -> ShutdownReport:
        numbers = self.statistics()
        return ShutdownReport(completed, numbers.accepted, numbers.sent_bytes, numbers.dropped_bytes, running)

    def _stop_listening(self) -> None:
        self._port.close_listener(self._listener)
        self._group.retire()
        self._remove_unix_file()

    def _remove_unix_file(self) -> None:
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
        if not self._workers.forked:  # else it is the parent's
            self._shut_down_and_say()

    def _shut_down_and_say(self) -> None:
        """For where nobody gets the report."""
        report = self.shutdown(timeout=_DRAIN_SECONDS)
        if report.running:
            log.warning(
                "%r: %g seconds were not enough to shut down; handlers that have not returned: %s",
                self,
                _DRAIN_SECONDS,
                "; ".join(report.running),
            )

    # Its last reference may go when the interpreter's end has emptied this module: then no name of it is there, nor anything to close.
    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if not self._ended and not self._workers.forked:
            _warn(f"{self!r} was never shut down", ResourceWarning, source=self, stacklevel=1)
            if not self._exiting:
                self.close()

    def __repr__(self) -> str:
        return f"<Server {self.address!r}>"


class _OpenServers:
    """The servers that the interpreter's end must look after. Safe from any thread."""

    def __init__(self) -> None:
        # Guards _servers; notified when a thread enters `serve_forever`.
        self._changed = threading.Condition()
        self._servers: weakref.WeakSet[Server] = weakref.WeakSet()

    def add(self, server: Server) -> None:
        with self._changed:
            self._servers.add(server)

    def tell_of_serving(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def wait_to_be_served(self, timeout: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._servers or any(server._is_served() for server in self._servers), timeout)

    def all(self) -> list[Server]:
        with self._changed:
            return [server for server in self._servers if not server._ended]


_open_servers = _OpenServers()


def _at_exit() -> None:
    """Before the pools end: while an ordinary thread is in `serve_forever` the program goes on; what nobody serves ends here."""
    if _open_servers.all():
        _open_servers.wait_to_be_served(_GRACE_SECONDS)
    while True:
        for server in _open_servers.all():
            if server._is_served():
                server._serve_to_the_end()
        if not [server for server in _open_servers.all() if not server._end_with_interpreter()]:
            return


def _forked() -> None:
    global _open_servers
    _open_servers = _OpenServers()  # the parent's are no concern of the child's, and its lock may be held


# Called in reverse order: the workers, whose module registered before this one, are still there.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
platform.in_child_of_fork(_forked)


def _ids(exclude: Iterable[Connection]) -> list[int]:
    try:
        connections = list(exclude)
        if all(isinstance(connection, Connection) for connection in connections):
            return [connection.id for connection in connections]
    except TypeError:  # nothing to iterate over
        pass
    hint = "put the one connection into a list" if isinstance(exclude, Connection) else "give the connections themselves"
    raise TypeError(f"exclude takes connections, as in exclude=[connection], not {exclude!r}: {hint}")


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
