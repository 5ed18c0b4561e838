"""The threads of one port: starts them, runs their loop, logs what the core notices, and joins them.

Knows nothing of servers or futures.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from proactor import _core, platform
from proactor.connection import Connection
from proactor.handles import Completion

log = logging.getLogger("proactor")

_every: weakref.WeakSet[Workers] = weakref.WeakSet()


class Workers:
    """Owns a port's threads. Safe from any thread."""

    def __init__(
        self,
        port: _core.Port,
        prefix: str,
        initializer: Callable[..., object] | None,
        arguments: tuple[Any, ...],
        *,
        run: Callable[[Any, Any], object],
        run_with: Callable[[Any, Any], object],
        broken: Callable[[], None],
        never_begun: Callable[[list[tuple[Any, Any]]], None],
        slow_seconds: float | None = None,
    ) -> None:
        """`run(future, function)` and `run_with(future, (function, arguments, keywords))` run submitted calls, `broken` is called when the
        initializer has raised, in the thread where it did, `never_begun` with the calls that are left at the end. What takes longer than
        `slow_seconds` is logged."""
        self.port = port
        self.prefix = prefix
        self._initializer = initializer
        self._arguments = arguments
        self._run = run
        self._run_with = run_with
        self._broken = broken
        self._never_begun = never_begun
        self.slow_seconds = slow_seconds
        # Guards _threads, _in_loop, _ending, _number, started and _closing. Reentrant: a signal handler may end the workers, whatever the
        # main thread was doing with them. The first two are replaced, never changed, so that they can be read without the lock.
        self._lock = threading.RLock()
        self._threads: frozenset[threading.Thread] = frozenset()
        self._in_loop: frozenset[threading.Thread] = frozenset()
        # Notified when a worker leaves its loop, or begins to wait for an end.
        self._fewer = threading.Condition(self._lock)
        # Those of the workers that wait in a handler for the end of a server.
        self._ending: set[threading.Thread] = set()
        # The threads that start or join workers at this moment: what a signal handler calls in one of them cannot wait for it.
        self._busy: set[int] = set()
        self._watcher: threading.Thread | None = None
        self._number = 0
        self._closing = False
        self.started = False
        # Started, and the initializer has not failed. Written under _lock; read without it, by those whom the port itself refuses
        # once it is closing or forked.
        self.usable = False
        self._initializer_failed = False
        self.forked = False
        _every.add(self)

    def ensure_started(self) -> None:
        """Starts the first worker, which leads; the others follow as they are needed.

        Raises:
            RuntimeError: the workers are closed, or no thread can be started.
        """
        with self.interruptible(), self._lock:
            if self._closing:
                raise RuntimeError("the pool is shut down: it takes no new work")
            if self.started:
                return
            self.started = self.usable = True
            try:
                self.port.accept_calls(True)  # before the first worker, whose initializer may raise
                self._start_one()
                self._watcher = threading.Thread(target=_watch, args=(self.port, weakref.ref(self)), name=f"{self.prefix}-watcher")
                self._watcher.start()
            except RuntimeError:
                self.started = self.usable = bool(self._threads)
                if not self.started:
                    self.port.accept_calls(False)
                    raise
                self._watcher = None

    def _start_one(self) -> None:
        self._number += 1
        thread = threading.Thread(target=_work, args=(self, self.port), name=f"{self.prefix}-{self._number}")
        thread.start()
        self._threads = frozenset({*self.alive(), thread})
        self._in_loop |= {thread}

    def start_spare(self) -> None:
        """What a worker does when it is the last spare that was released."""
        with self._lock:
            if self._closing:
                return
            try:
                self._start_one()
            except RuntimeError as error:
                self.port.start_failed()
                log.warning(
                    "%s: no further worker thread (%s); going on with %d, trying again in a second", self.prefix, error, len(self._threads)
                )

    def initializer_failed(self, name: str) -> None:
        """In the handler of what the initializer raised."""
        # With the standard library's logger, and beginning with its words: who takes the pool for one of its executors looks for them.
        executors = logging.getLogger("concurrent.futures")
        text = "Exception in initializer: %s has ended, and its pool takes no more work"
        _log(logging.CRITICAL, text, name, exc_info=sys.exception(), to=executors)
        self.port.accept_calls(False)
        with self._lock:
            self._initializer_failed = True
            self.usable = False
        self.port.start_failed()
        self._broken()

    def left(self) -> None:
        """The calling worker thread is about to exit."""
        with self._lock:
            self._in_loop -= {threading.current_thread()}
            self._fewer.notify_all()
            # After a drain nobody waited for, or when the initializer has failed in the only worker.
            last = not self._in_loop and (self._closing or self._initializer_failed)
        if last:
            self._never_begun(self.port.close())
            self.port.release()

    def close(self, *, drain: bool = False, wait: bool = True, timeout: float | None = None) -> tuple[str, ...]:
        """Ends the workers; with `drain` after everything queued was done.

        Idempotent, and safe inside a handler: a thread never joins itself. Safe inside a signal handler, which does not wait where it has
        interrupted a start or a join of these workers.

        Returns:
            Which handlers did not return in time.
        """
        if self.forked:
            return ()
        wait = wait and self.may_wait()
        with self.interruptible(), self._lock:
            self._closing = True
            inside = self.are_current()
        deadline = None if timeout is None else time.monotonic() + timeout
        if drain or inside:
            self.port.finish()
            join = self._wait_for_others if inside else self._join
            stuck = join(deadline) if wait else ()
            if inside or (not wait and self._in_loop):
                # Nobody waits, or the caller is a worker, whose own connection has yet to be told its end:
                # the last worker to leave closes the port.
                return stuck
        self._never_begun(self.port.close())
        stuck = self._join(deadline) if wait else ()
        with self.interruptible(), self._lock:
            over = not self._in_loop
        if over:
            self.port.release()
        return stuck

    def _join(self, deadline: float | None) -> tuple[str, ...]:
        me = threading.current_thread()
        with self.interruptible():
            _core.block()
            try:
                while threads := [thread for thread in self.alive() if thread is not me]:
                    left = seconds_until(deadline)
                    if left == 0:
                        return tuple(describe(threads))
                    threads[0].join(platform.at_a_time(left))
            finally:
                _core.unblock()
            watcher = self._watcher
            if watcher is not None and watcher is not me and self.port.is_closed():
                watcher.join()
            return ()

    def _wait_for_others(self, deadline: float | None) -> tuple[str, ...]:
        """As `_join`, in a handler: but for those that may wait for it themselves."""
        me = threading.current_thread()
        _core.block()
        try:
            with self._fewer:
                while others := self._in_loop - self._ending - {me}:
                    left = seconds_until(deadline)
                    if left == 0:
                        return tuple(describe(others))
                    self._fewer.wait(left)
        finally:
            _core.unblock()
        return ()

    @contextmanager
    def ending(self) -> Iterator[None]:
        """The caller waits for the end of a server: if it is one of the workers, a handler that ends the pool does not wait for it."""
        if not self.are_current():
            yield
            return
        me = threading.current_thread()
        with self._fewer:
            self._ending.add(me)
            self._fewer.notify_all()
        try:
            yield
        finally:
            with self._fewer:
                self._ending.discard(me)

    def may_wait(self) -> bool:
        """False in a signal handler that has interrupted a start or a join of these workers: it would wait for its own thread."""
        return threading.get_ident() not in self._busy

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Marks what holds locks, ours or those of `threading`, that a signal handler in the same thread would wait for in vain."""
        me = threading.get_ident()
        outermost = me not in self._busy
        try:
            self._busy.add(me)
            yield
        finally:
            if outermost:
                self._busy.discard(me)

    def after_fork(self) -> None:
        """In the child: there are no workers here, and whoever held the lock is not here either."""
        self.forked = True
        self._lock = threading.RLock()
        self._fewer = threading.Condition(self._lock)
        self.port.forked()

    def is_closing(self) -> bool:
        """They take no new work."""
        return self._closing

    def are_current(self) -> bool:
        """Whether the calling thread is one of them."""
        return threading.current_thread() in self._threads

    def check_process(self) -> None:
        """Raises:
        RuntimeError: this is the child of a fork.
        """
        if self.forked:
            raise RuntimeError("this belongs to the parent process and does not survive fork(): make a new pool or server in the child")

    def alive(self) -> list[threading.Thread]:
        """The worker threads that have not exited. Takes locks of `threading`'s."""
        return [thread for thread in self._threads if thread.is_alive()]

    def stacks(self) -> tuple[str, ...]:
        """What the workers in handlers are doing, with their stacks; the caller is left out."""
        me = threading.current_thread()
        return tuple(stack for thread in self._in_loop if thread is not me and (stack := stack_of(thread)) is not None)

    def running(self) -> tuple[str, ...]:
        """What the workers in handlers are doing, one line each; the caller is left out. Takes no lock."""
        me = threading.current_thread()
        return tuple(describe([thread for thread in self._in_loop if thread is not me]))


def seconds_until(deadline: float | None, *, at_least: float = 0.0) -> float | None:
    """None: there is no deadline."""
    return None if deadline is None else max(at_least, deadline - time.monotonic())


def _work(workers: Workers, port: _core.Port) -> None:
    """The loop of every worker thread."""
    thread = threading.current_thread()
    try:
        if workers._initializer is not None:
            try:
                workers._initializer(*workers._arguments)
            except BaseException:
                workers.initializer_failed(thread.name)
                return
        # Not in a variable: the traceback of an exception that a user keeps would keep it with this frame, past the end of its thread.
        calls = (_apply, _apply_nothing, workers._run, workers._run_with)
        for function, first, second in port.worker(threading.get_ident(), workers.start_spare, *calls):
            try:
                function(first, second)
            except BaseException as error:
                _failed(first, second, error)
            del function, first, second
    finally:
        workers.left()


def _apply(function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    """For what does not take two arguments: the loop calls everything with two, which the interpreter does fastest."""
    function(*arguments)


def _apply_nothing(function: Callable[[], object], _: tuple[()]) -> None:
    """As `_apply`, where there are no arguments: a Python function is then called without going through C."""
    function()


def _failed(first: Any, second: Any, error: BaseException) -> None:
    """A handler raised: that costs its connection, never the worker. SystemExit and KeyboardInterrupt are no exception to that."""
    # The traceback begins at the handler: our own frames would keep the port alive for as long as somebody keeps the exception.
    trace = sys.exc_info()[2]
    while trace is not None and trace.tb_frame.f_code in _LOOP:
        trace = trace.tb_next
    # Not by assignment, which a class of exceptions may refuse: a frozen dataclass does.
    BaseException.with_traceback(error, trace)
    values = (first, *(second if isinstance(second, tuple) else ()))
    connection = next((value for value in values if issubclass(type(value), Connection)), None)
    if connection is not None:
        try:
            _log(logging.ERROR, "the handler of %r raised; the connection closes", connection, exc_info=error)
        finally:
            connection.fail(error)
    elif isinstance(second, tuple) and second and isinstance(second[0], Completion):
        _log(logging.ERROR, "the function of %r raised; the handle stays open", second[0].operation, exc_info=error)
    else:
        _log(logging.ERROR, "a call raised", exc_info=error)


_HERE = os.path.dirname(__file__)
_LOOP = (_work.__code__, _apply.__code__, _apply_nothing.__code__)


def _log(level: int, text: str, *arguments: object, exc_info: BaseException | None = None, to: logging.Logger = log) -> None:
    """A user's logging handler may raise too, whatever it likes; that must not cost the thread.

    Ctrl-C in the main thread is none of that.
    """
    try:
        to.log(level, text, *arguments, exc_info=exc_info)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        try:
            traceback.print_exc()
        except BaseException:
            pass  # standard error is broken as well: there is nowhere left to say it


def _watch(port: _core.Port, workers: weakref.ref[Workers]) -> None:
    """Logs what the core notices, and what takes too long. A thread of its own: when every worker hangs there is nobody else to say so."""
    owner = workers()
    watchdog = Watchdog(owner.slow_seconds) if owner is not None and owner.slow_seconds is not None else None
    del owner
    failures = _Repeats()
    while (notice := port.next_notice(None if watchdog is None else watchdog.interval)) is not None:
        if watchdog is not None:
            watchdog.look(port, workers())
        kind, text, number = notice
        if kind == "pending_accepts":
            _log(logging.INFO, "%s: %d accepts pending", text, number)
        elif kind in _ACCEPT_FAILURES:
            times = failures.count(text)
            if times:
                again = f" ({times} times since this was said last)" if times > 1 else ""
                _log(logging.WARNING, "accept failed on %s; %s%s", text, _ACCEPT_FAILURES[kind], again)
        elif kind == "all_workers_stuck":
            owner = workers()
            doing = "; ".join(owner.running()) if owner else ""
            _log(
                logging.ERROR,
                "none of the %d workers has returned from its handler for hung_seconds; I/O goes on, new work is refused: %s",
                number,
                doing,
            )
        elif kind == "workers_free":
            _log(logging.WARNING, "a worker is free again; new work is taken")
        elif kind == "wait_failed":
            _log(logging.ERROR, "a repeated wait could not begin again and is over: %s", text)
        elif kind == "engine_failed":
            _log(logging.ERROR, "the engine failed to poll: %s", text)
        elif kind == "lost":
            _log(logging.WARNING, "%d notices were lost", number)


class Watchdog:
    """Logs the stack of a worker that has been in one item for too long, once an item. Belongs to the watcher's thread."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        # So that what is too slow is told after at most a quarter more.
        self.interval = min(max(seconds / 4, 0.005), 1.0)
        # Of each thread in an item: which item, since when it has been seen, whether it was told.
        self._seen: dict[int, tuple[int, float, bool]] = {}

    def look(self, port: _core.Port, workers: Workers | None) -> None:
        """One look at all workers, blocked ones included."""
        now = time.monotonic()
        before, self._seen = self._seen, {}
        for ident, item in port.in_handlers():
            seen, since, told = before.get(ident, (item, now, False))
            if seen != item:
                since, told = now, False
            if not told and now - since >= self.seconds and workers is not None:
                told = True
                self._tell(workers, ident, now - since)
            self._seen[ident] = (item, since, told)

    def _tell(self, workers: Workers, ident: int, seconds: float) -> None:
        for thread in workers.alive():
            if thread.ident == ident and (stack := stack_of(thread)) is not None:
                _log(
                    logging.WARNING, "a worker has been in its handler or call for %.3g s (limit %.3g s): %s", seconds, self.seconds, stack
                )


Stack = list[tuple[FrameType, int]]
"""The frames of a thread, the innermost first, each with its line."""


def stack_of(thread: threading.Thread) -> str | None:
    """`name:` and the stack of the handler or call that the thread is in, the innermost last as in tracebacks; None: it is in none."""
    [stack] = _stacks([thread])
    outermost = _handler_at(stack)
    if outermost is None:
        return None
    native = _native_call(stack[0][0]) if outermost == 0 else None
    if native is not None:
        lines = [f"  in {native}\n"]
    else:
        lines = traceback.StackSummary.extract(reversed(stack[: outermost + 1])).format()
    return f"{thread.name}:\n{''.join(lines)}".rstrip()


def _stacks(threads: list[threading.Thread]) -> list[Stack]:
    """Without garbage collection meanwhile: CPython 3.11 holds its list of threads locked, and whoever starts a thread waits for it; so a
    finalizer that waits for such a starter would never end (python/cpython#106883)."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        return [stack or [] for stack in _core.stacks([thread.ident or 0 for thread in threads])]
    finally:
        if enabled:
            gc.enable()


def describe(threads: Iterable[threading.Thread]) -> Iterable[str]:
    """`name: function (file:line)` for each thread that is inside a handler."""
    threads = list(threads)
    for thread, stack in zip(threads, _stacks(threads), strict=True):
        at = _handler_at(stack)
        if at is not None:
            frame, line = stack[at]
            yield f"{thread.name}: {_native_call(frame) or _place(frame, line)}"


def _place(frame: FrameType, line: int) -> str:
    return f"{frame.f_code.co_qualname} ({os.path.basename(frame.f_code.co_filename)}:{line})"


def _native_call(frame: FrameType) -> str | None:
    """`function (native)` where the frame is our own, which has called the user's function: one without a frame. None: it is the user's."""
    if os.path.dirname(frame.f_code.co_filename) != _HERE:
        return None
    call = frame.f_locals.get("call")
    function = call[0] if isinstance(call, tuple) and call else frame.f_locals.get("function")
    name = getattr(function, "__qualname__", None)
    return f"{name} (native)" if isinstance(name, str) else None


def _handler_at(stack: Stack) -> int | None:
    """Where the outermost frame of the user's is: that of the handler or of the submitted call. None: the worker is in none."""
    users = None
    for at, (frame, _line) in enumerate(stack):
        if frame.f_code in _LOOP:
            if at == 0 or stack[at - 1][0].f_code in _BETWEEN:
                return None
            return at - 1 if users is None else users
        if os.path.dirname(frame.f_code.co_filename) != _HERE:
            users = at
    return None


# What the loop itself calls.
_BETWEEN = (Workers.left.__code__, Workers.start_spare.__code__, Workers.initializer_failed.__code__)


_ACCEPT_FAILURES = {
    "accept_failed": "going on",
    "accept_paused": "clients wait in the backlog, trying again every 0.1 s (raise the limit: ulimit -n)",
}
_REPEAT_SECONDS = 10.0


class _Repeats:
    """Tells when the same thing may be said again: once in `_REPEAT_SECONDS`. For one thread."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[float, int]] = {}

    def count(self, text: str) -> int:
        """How often it has happened since it was said last, this time included; 0: do not say it again yet."""
        now = time.monotonic()
        said, meanwhile = self._said.get(text, (float("-inf"), 0))
        due = now - said >= _REPEAT_SECONDS
        self._said[text] = (now, 0) if due else (said, meanwhile + 1)
        return meanwhile + 1 if due else 0


def _at_exit() -> None:
    # As the standard library's pools: what is queued is done, then the threads are joined, before the interpreter goes.
    for workers in list(_every):
        if not workers.forked:
            with workers.interruptible(), workers._lock:
                workers._closing = True
            workers.port.finish()
            if stuck := workers._join(time.monotonic() + _SAYS_WHY_AFTER):
                _log(
                    logging.WARNING,
                    "the end of the program waits for handlers that have not returned (Ctrl-C ends it): %s",
                    "; ".join(stuck),
                )
        workers.close(drain=True)


# Seconds for which the end of the program waits without a word. CPython's own cases have calls that sleep for one.
_SAYS_WHY_AFTER = 2.0


def _forked() -> None:
    for workers in list(_every):
        workers.after_fork()


threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
platform.in_child_of_fork(_forked)
