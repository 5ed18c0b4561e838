"""The threads of one port: starts them, runs their loop, logs what the core notices, and joins them. Knows nothing of servers or futures."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

from proactor import _core
from proactor.connection import Connection

log = logging.getLogger("proactor")

_every: weakref.WeakSet[Workers] = weakref.WeakSet()


class Workers:
    """Owns a port's threads. Safe from any thread."""

    def __init__(
        self, port: _core.Port, prefix: str, initializer: Callable[..., object] | None, arguments: tuple[Any, ...], start_failed_is_fatal: Callable[[], None]
    ) -> None:
        self.port = port
        self.prefix = prefix
        self._initializer = initializer
        self._arguments = arguments
        self._broken = start_failed_is_fatal
        # Guards _threads, _in_loop, _number, _started and _closing.
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._in_loop = 0
        self._watcher: threading.Thread | None = None
        self._number = 0
        self._started = False
        self._closing = False
        _every.add(self)

    def ensure_started(self) -> None:
        """Starts the first worker, which leads; the others follow as they are needed.

        Raises:
            RuntimeError: the workers are closed, or no thread can be started.
        """
        with self._lock:
            if self._closing:
                raise RuntimeError("the pool is shut down: it takes no new work")
            if self._started:
                return
            self._started = True
            try:
                self._start_one()
                self._watcher = threading.Thread(target=_watch, args=(self.port, weakref.ref(self)), name=f"{self.prefix}-watcher")
                self._watcher.start()
            except RuntimeError:
                self._started = bool(self._threads)
                if not self._started:
                    raise
                self._watcher = None

    def _start_one(self) -> None:
        self._number += 1
        thread = threading.Thread(target=_work, args=(self, self.port), name=f"{self.prefix}-{self._number}")
        thread.start()
        self._threads = {*filter(threading.Thread.is_alive, self._threads), thread}
        self._in_loop += 1

    def start_spare(self) -> None:
        """What a worker does when it is the last spare that was released."""
        with self._lock:
            if self._closing:
                return
            try:
                self._start_one()
            except RuntimeError as error:
                self.port.start_failed()
                log.warning("%s: no further worker thread (%s); going on with %d, trying again in a second", self.prefix, error, len(self._threads))

    def left(self) -> None:
        """The calling worker thread is about to exit."""
        with self._lock:
            self._in_loop -= 1
            last = self._closing and self._in_loop == 0
        if last:
            self.port.close()  # after a drain nobody waited for

    def close(self, *, drain: bool = False, wait: bool = True, timeout: float | None = None) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
        """Ends the workers; with `drain` after everything queued was done. Idempotent, and safe inside a handler: a thread never joins itself.

        Returns:
            The calls that were never begun, and which handlers did not return in time.
        """
        with self._lock:
            self._closing = True
        deadline = None if timeout is None else time.monotonic() + timeout
        if drain:
            self.port.finish()
            if wait:
                self._join(deadline)
            elif self.alive():
                # Nobody waits: the last worker to leave closes the port.
                return [], ()
        rest = self.port.close()
        stuck: tuple[str, ...] = ()
        if wait:
            stuck = self._join(deadline)
        return rest, stuck

    def _join(self, deadline: float | None) -> tuple[str, ...]:
        me = threading.current_thread()
        _core.block()
        try:
            while threads := [thread for thread in self.alive() if thread is not me]:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return tuple(describe(threads))
                threads[0].join(left)
        finally:
            _core.unblock()
        watcher = self._watcher
        if watcher is not None and watcher is not me and self.port.is_closed():
            watcher.join()
        return ()

    def alive(self) -> list[threading.Thread]:
        """The worker threads that have not exited."""
        with self._lock:
            return [thread for thread in self._threads if thread.is_alive()]

    def running(self) -> tuple[str, ...]:
        """What the workers in handlers are doing, one line each; the caller is left out."""
        me = threading.current_thread()
        return tuple(describe([thread for thread in self.alive() if thread is not me]))


def _work(workers: Workers, port: _core.Port) -> None:
    """The loop of every worker thread."""
    thread = threading.current_thread()
    try:
        if workers._initializer is not None:
            try:
                workers._initializer(*workers._arguments)
            except BaseException:
                log.critical("%s: the initializer raised", thread.name, exc_info=True)
                port.start_failed()
                workers._broken()
                return
        # Not in a variable: the traceback of an exception that a user keeps would keep it with this frame, past the end of its thread.
        for work, arguments in port.worker(workers.start_spare):
            try:
                work(*arguments)
            except BaseException as error:
                _failed(arguments, error)
            del work, arguments
    finally:
        workers.left()


def _failed(arguments: tuple[Any, ...], error: BaseException) -> None:
    """A handler raised: that costs its connection, never the worker. SystemExit and KeyboardInterrupt are no exception to that."""
    # The traceback begins at the handler: our own frame would keep the port alive for as long as somebody keeps the exception.
    error.__traceback__ = error.__traceback__.tb_next if error.__traceback__ is not None else None
    connection = arguments[0] if arguments else None
    if isinstance(connection, Connection):
        log.error("the handler of %r raised; the connection closes", connection, exc_info=error)
        connection.fail(error)
    else:
        log.error("a call raised", exc_info=error)


def _watch(port: _core.Port, workers: weakref.ref[Workers]) -> None:
    """Logs what the core notices. A thread of its own, because when every worker hangs there is nobody else to say so."""
    while (notice := port.next_notice()) is not None:
        kind, text, number = notice
        if kind == "pending_accepts":
            log.info("%s: %d accepts pending", text, number)
        elif kind == "accept_failed":
            log.warning("accept failed on %s; going on", text)
        elif kind == "accept_paused":
            log.warning("accept failed on %s; clients wait in the backlog, trying again every 0.1 s (raise the limit: ulimit -n)", text)
        elif kind == "all_workers_stuck":
            owner = workers()
            doing = "; ".join(owner.running()) if owner else ""
            log.error("all %d workers have been in their handlers for a second; I/O goes on, new work is refused. They are in: %s", number, doing)
        elif kind == "workers_free":
            log.warning("a worker is free again; new work is taken")
        elif kind == "engine_failed":
            log.error("the engine failed to poll: %s", text)
        elif kind == "lost":
            log.warning("%d notices were lost", number)


def describe(threads: Iterable[threading.Thread]) -> Iterable[str]:
    """`name: function (file:line)` for each thread that is inside a handler."""
    frames = sys._current_frames()
    for thread in threads:
        frame = frames.get(thread.ident or 0)
        if frame is not None and frame.f_code is not _work.__code__:
            handler = _handler_frame(frame)
            code = handler.f_code
            yield f"{thread.name}: {code.co_qualname} ({os.path.basename(code.co_filename)}:{handler.f_lineno})"


def _handler_frame(frame: FrameType) -> FrameType:
    """The outermost frame of the handler: the one that the worker's loop called."""
    while frame.f_back is not None and frame.f_back.f_code is not _work.__code__:
        frame = frame.f_back
    return frame


def _at_exit() -> None:
    # As the standard library's pools: what is queued is done, then the threads are joined, before the interpreter goes.
    for workers in list(_every):
        workers.close(drain=True)


def _forked() -> None:
    for workers in list(_every):
        workers.port.forked()


threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
os.register_at_fork(after_in_child=_forked)
