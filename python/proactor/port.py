"""The completion port itself: the pool's port, with the caller's threads.

Knows what can be associated; knows nothing of workers, servers or futures.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from proactor import _core, handles, platform
from proactor.arguments import whole_number
from proactor.handles import Associable, Handle

__all__ = ["CompletionPort", "PortStatistics"]

_MOST_THREADS = 2**31 - 1


@dataclass(frozen=True)
class PortStatistics:
    """A snapshot of a completion port."""

    engine: str
    concurrency: int
    threads: int
    """Threads that have called `get` and have not ended."""
    waiting: int
    """Those that are in `get`."""
    running: int
    """Those that have got a completion and are not done with it: at most `concurrency`, but for those that come back from a block."""
    blocked: int
    """Those that are not done with theirs, and do not count as running: they said that they block, or the monitor saw it."""
    queued: int
    """Completions that wait for a thread."""
    compensations: int
    """How often a thread's place among those that run was freed because the thread was blocked."""
    hand_overs: int
    """How often another thread was let run because the running ones were computing."""
    monitor_leads: int
    """How often the monitor did the I/O because no thread was free to."""
    posted: int
    completed: int
    """Completions that their threads are done with."""
    dropped: int
    """Completions that nobody had got when the port was closed. Memory that was lent for them is its owner's again."""
    handles: int
    """Associated handles that are open."""
    operations: int
    """Operations that are pending on them."""


@_core.own_methods
class CompletionPort(_core.CompletionPort):
    """A queue of completions and a limit on how many threads work on them at once. (Win32's CreateIoCompletionPort.)

        port = proactor.CompletionPort()
        handle = port.associate(connected_socket, key="a client")
        handle.receive()
        for completion in port:         # in any number of threads
            print(completion.key, completion.operation, completion.value or completion.error)

    Sockets are associated, operations on them submitted, packets posted; any threads `get` what has come about, or iterate, which ends
    when the port is closed. Each completion reaches exactly one thread, all in the order in which they came about, those of one handle to
    different threads at the same time.

    Arguments:
        concurrency: how many threads may be at work at once; by default the processors this process may use (affinity and cgroup quota).
            A thread is at work from the moment it gets a completion until its next `get` on any port, `completion.release()` or its end.
            While one blocks (`with proactor.blocking()`, or the monitor sees it) another is released. Where the interpreter has a lock, a
            second one is released only when the first is stuck, as on a pool.
        engine: "epoll" (on Windows "iocp") or "simulated"; by default what PROACTOR_ENGINE says, else the platform's best.
            `proactor.testing` gives its network here.

    The threads that are in `get` do the I/O: while none is, what was submitted may stand still until the next `get`. (While threads are at
    work and none waits, the monitor sees to it.) A context manager, which closes the port. The end of the main thread closes it, too, and
    so does the end of its last reference; but a port that its own queue refers to (`port.post(port)`, or the key of a handle with a pending
    operation leads to it) has one until it is closed: the garbage collector does not look into the queue. Safe from any thread.

    Raises:
        ValueError, TypeError: an argument is wrong; the text says which and how.
    """

    def __new__(cls, concurrency: int | None = None, *, engine: str | _core.Network | None = None) -> Self:
        if concurrency is None:
            concurrency = platform.available_processors()
        else:
            concurrency = whole_number("concurrency", concurrency, maximum=_MOST_THREADS, none="as many as there are processors")
        is_locked: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
        port = super().__new__(cls, concurrency=concurrency, interpreter_lock=is_locked(), engine=engine)
        port._concurrency = concurrency
        _every.add(port)
        return port

    _concurrency: int

    def __init__(self, concurrency: int | None = None, *, engine: str | _core.Network | None = None) -> None:
        pass  # what there is to do, __new__ has done

    @property
    def concurrency(self) -> int:
        """How many threads may be at work at once."""
        return self._concurrency

    def associate(self, handle: Associable, key: Any = None) -> Handle:
        """Answers a handle of a socket or file; completions of its operations come with `key`.

        Stream sockets (TCP or Unix), connected, not connected yet or listening, and datagram sockets; what each can do says `Handle`.
        On Windows also the ends of named pipes, which `proactor.pipes.connect` and `listen` make. A socket object or a pipe's end is
        detached, as by `socket.detach`: the descriptor belongs to the port from here on, which makes it non-blocking and closes it with
        the handle.

        A file is one of `proactor.open`, or a binary file object with a descriptor. It stays yours, to use and to close, with and without
        the port: the handle has a descriptor of its own for the same open file, which is closed with the handle. What its buffer holds is
        flushed here; what is buffered later does not know of the operations. One handle at a time for each file object.

        A handle belongs to one port only. One that nobody holds, without a pending operation, closes by itself.

        Raises:
            ValueError: the socket is closed, associated, encrypted, or of another network than the engine's; the file is closed,
                associated, or a pipe or a device without offsets.
            TypeError: `handle` is none at all, a text file, one that is compressed, or a bare descriptor.
            OSError: the kernel refuses.
            proactor.errors.PortClosed: the port is closed.
            RuntimeError: it belongs to the parent process.

        A socket then stays the caller's; but where the port is being closed at this moment, or the kernel has no memory, it is closed.
        """
        return handles.associate_with_key(self, handle, key)

    def statistics(self) -> PortStatistics:
        """A snapshot."""
        return PortStatistics(self.engine, self._concurrency, *self._numbers(), *self._pending())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<CompletionPort concurrency={self._concurrency}{' closed' if self.closed else ''}>"


_every: weakref.WeakSet[CompletionPort] = weakref.WeakSet()
_PATIENCE = 1.0  # seconds; a thread that has been woken only needs the interpreter


def _at_exit() -> None:
    # Whoever waits would keep the interpreter from ending; or, in a daemon thread, wake up in an interpreter that is gone.
    ports = list(_every)
    with contextlib.ExitStack() as stack:  # What a signal handler raises in one of these calls is raised after the others.
        stack.callback(_wait_until_left, ports)
        for port in ports:
            stack.callback(port.close)


def _wait_until_left(ports: list[CompletionPort]) -> None:
    deadline = time.monotonic() + _PATIENCE
    for port in ports:
        port._wait_until_left(max(0.0, deadline - time.monotonic()))


def _forked() -> None:
    for port in list(_every):
        port._forked()


threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
platform.in_child_of_fork(_forked)
