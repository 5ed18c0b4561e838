"""The thread pool: a `concurrent.futures.Executor` whose workers also serve connections."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar, TypeVarTuple

from proactor import _core, timers
from proactor.errors import PoolHung
from proactor.timers import Timer, Wait, Waitable
from proactor.workers import Workers

__all__ = ["PoolStatistics", "ThreadPool", "available_processors", "blocking"]

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(frozen=True)
class PoolStatistics:
    """A snapshot of a pool."""

    engine: str
    concurrency: int
    max_workers: int
    workers: int
    waiting: int
    running: int
    blocked: int
    """Inside a handler without a slot: they said so, or the monitor saw it."""
    queued: int
    compensations: int
    """How often a slot was freed because its worker was blocked."""
    hand_overs: int
    """How often a further worker was let run because the running ones were computing."""
    monitor_leads: int
    """How often the monitor did the I/O because no worker was free to."""
    started: int
    retired: int
    finished: int
    """Handler calls and posted calls."""
    timers: int
    """Timers that are pending: their functions will be called (again)."""
    waits: int
    """Waits that are pending."""


class Member(Protocol):
    """Something that lives on the pool and ends with it."""

    def _end_with_pool(self) -> None: ...


class ThreadPool(Executor):
    """Workers that run handlers and calls: at most `concurrency` at once, more while some are blocked, `max_workers` in all.

    Arguments:
        max_workers: the most threads; by default 64 for each of `concurrency`, at most 512.
        thread_name_prefix: workers are called `prefix-1`, `prefix-2`, ...; "proactor" by default.
        initializer, initargs: called at the start of each worker. If it raises, the pool is broken.
        concurrency: how many may run at once; by default the processors this process may use (affinity and cgroup quota).
        idle_seconds: a surplus worker retires after so many seconds without work.
        busy_poll: the leader polls for so many seconds before it sleeps: lower latency for a processor at 100 %.
        engine: "epoll" or "simulated"; by default what PROACTOR_ENGINE says, else the platform's best.
            `proactor.testing` gives its network here.

    Safe from any thread. Threads start with the first work.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        concurrency: int | None = None,
        idle_seconds: float | None = 10,
        busy_poll: float = 0,
        engine: str | _core.Network | None = None,
    ) -> None:
        concurrency = available_processors() if concurrency is None else concurrency
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        max_workers = max(concurrency, min(512, 64 * concurrency)) if max_workers is None else max_workers
        if max_workers < 1:
            raise ValueError(f"max_workers must be at least 1, not {max_workers}")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self.concurrency = concurrency
        self.max_workers = max_workers
        is_locked: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
        self._port = _core.Port(
            concurrency=concurrency,
            max_workers=max_workers,
            interpreter_lock=is_locked(),
            idle_seconds=idle_seconds,
            busy_poll=busy_poll,
            engine=engine,
        )
        broken = threading.Event()
        self._broken = broken
        self._workers = Workers(
            self._port,
            thread_name_prefix or "proactor",
            initializer,
            initargs,
            broken=broken.set,
            never_begun=partial(_never_begun, broken),
        )
        # Set: what has not begun is cancelled.
        self._cancelling = threading.Event()
        # Guards _members and _shut.
        self._lock = threading.Lock()
        self._members: weakref.WeakSet[Any] = weakref.WeakSet()
        self._shut = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Calls `fn(*args, **kwargs)` on a worker.

        Raises:
            RuntimeError: the pool is shut down.
            BrokenExecutor: the initializer raised.
            PoolHung: every worker has been inside its handler for a second.
        """
        self._check_usable()
        future: Future[T] = Future()
        call = _Submitted(future, self._cancelling, fn, args, kwargs).run
        # Under the lock, so that no call comes after the last worker has looked.
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._workers.ensure_started()
            self._port.call(call, ())
        return future

    def _check_usable(self) -> None:
        self._workers.check_process()
        if self._broken.is_set():
            raise _broken_executor()
        if self._port.is_hung():
            doing = "; ".join(self._workers.running())
            raise PoolHung(
                f"all {self.max_workers} workers have been in their handlers for a second or more: {doing}. "
                "Raise max_workers, or give what they wait for a time-out"
            )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Closes the servers on the pool, does what is queued (or cancels it), and ends the workers. Idempotent; safe inside a handler.

        What timers and waits wait for is cancelled; functions whose time or signal has come are queued, and count as such.
        """
        self.end(drain=not cancel_futures, wait=wait)

    def end(self, *, drain: bool, wait: bool = True, timeout: float | None = None) -> tuple[str, ...]:
        """As `shutdown`, at most for `timeout` seconds; answers which handlers did not return."""
        if self._workers.forked:
            return ()  # there is nothing of it in this process
        with self._lock:
            self._shut = True
            members = list(self._members)
        for member in members:
            member._end_with_pool()
        if not drain:
            self._cancelling.set()
        return self._workers.close(drain=drain, wait=wait, timeout=timeout)

    def statistics(self) -> PoolStatistics:
        """A snapshot."""
        return PoolStatistics(self._port.engine, self.concurrency, self.max_workers, *self._port.numbers(), *self._port.pending())

    def start(self) -> tuple[_core.Port, Workers]:
        """What a server or connection needs that comes to live on the pool.

        Raises:
            RuntimeError: the pool is shut down.
        """
        self._workers.check_process()
        with self._lock:
            if self._shut:
                raise RuntimeError("the pool is shut down: make a new one")
        self._workers.ensure_started()
        return self._port, self._workers

    def join_in(self, member: Member) -> None:
        """A server or connection lives on the pool, and ends with it.

        Raises:
            RuntimeError: the pool is shut down.
        """
        with self._lock:
            if self._shut:
                raise RuntimeError("the pool is shut down: make a new one")
            self._members.add(member)

    # ---- timers and waits ----

    def call_after(self, seconds: float, fn: Callable[[*Ts], object], /, *args: *Ts) -> Timer:
        """Calls `fn(*args)` on a worker in `seconds`: not before, and as soon after as a worker is free.

        Measured by the monotonic clock (clock_gettime(2), CLOCK_MONOTONIC): setting the wall clock changes nothing. What the function
        raises is logged. A pending timer does not keep the program alive: the end of the main thread cancels it, as `shutdown` does, and
        so does the end of the pool's last reference.

        Returns:
            The timer; after its `cancel()` has returned True the function does not start.

        Raises:
            ValueError: `seconds` is negative or not a number.
            TypeError: `fn` is not callable.
            RuntimeError: the pool is shut down, or belongs to the parent process.
            BrokenExecutor: the initializer raised.
        """
        if not self._workers.usable:
            self._start_for_calls()
        return self._port.call_after(seconds, fn, args)

    def call_every(self, seconds: float, fn: Callable[[*Ts], object], /, *args: *Ts) -> Timer:
        """Calls `fn(*args)` on a worker every `seconds`, first in `seconds`, until it is cancelled or the pool is shut down.

        The timer keeps its phase: ticks are due whole intervals after it was made, however late one is run. It never overlaps itself:
        ticks that come while one waits for a worker or runs are left out and counted (`timer.missed`). It goes on when the function
        raises, which is logged. The rest is as in `call_after`, with `ValueError` also for an interval of 0.
        """
        if not self._workers.usable:
            self._start_for_calls()
        return self._port.call_every(seconds, fn, args)

    def call_when(
        self,
        handle: Waitable,
        fn: Callable[[bool, *Ts], object],
        /,
        *args: *Ts,
        timeout: float | None = None,
        writable: bool = False,
        repeat: bool = False,
    ) -> Wait:
        """Calls `fn(signalled, *args)` on a worker: with True when `handle` is signalled, with False when `timeout` seconds have passed.

        (Win32's RegisterWaitForSingleObject, whose function is told the opposite: TimerOrWaitFired.)

        Arguments:
            handle: a socket, a pipe, an eventfd, a pidfd, anything else with a descriptor that can be polled, or the descriptor itself:
                signalled when it can be read without blocking, which includes its end and its errors. A `subprocess.Popen`: signalled
                when the process has ended; its `returncode` is set by then. A `proactor.Event`: signalled when it is set. The pool waits
                for a copy of the descriptor: yours may be closed meanwhile (poll(2) says what that means to a socket: nothing comes any
                more, so give a timeout or cancel).
            writable: wait until it can be written to instead.
            repeat: wait again each time the function has returned, with the time-out beginning anew. What is still signalled then comes
                again at once: so read what there is, or clear the event. It never overlaps itself.

        Thousands may wait at once, without threads; each takes a descriptor (an Event takes none). Ends as timers do, see `call_after`.

        Returns:
            The wait; after its `cancel()` has returned True the function does not start.

        Raises:
            ValueError: `handle` is closed, or a file, which is always ready; or `timeout` is negative or not a number.
            TypeError: `handle` cannot be waited for, or `fn` is not callable.
            OSError: there are no descriptors left, or the descriptor is not open (EBADF).
            RuntimeError: the pool is shut down, or belongs to the parent process.
            BrokenExecutor: the initializer raised.
        """
        if not self._workers.usable:
            self._start_for_calls()
        return timers.call_when(self._port, handle, fn, args, timeout=timeout, writable=writable, repeat=repeat)

    def _start_for_calls(self) -> None:
        # Not refused while all workers hang: whoever sets a timer does not want it now.
        self._workers.check_process()
        if self._broken.is_set():
            raise _broken_executor()
        self._workers.ensure_started()

    def __del__(self) -> None:
        workers: Workers | None = getattr(self, "_workers", None)
        if workers is not None and not sys.is_finalizing():
            workers.close(drain=True, wait=False)

    def __repr__(self) -> str:
        return f"<ThreadPool {self._workers.prefix!r} concurrency={self.concurrency} max_workers={self.max_workers}>"


class _Submitted:
    """A call and its future."""

    __slots__ = ("arguments", "cancelling", "fn", "future", "keywords")

    def __init__(
        self, future: Future[Any], cancelling: threading.Event, fn: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        self.future = future
        self.cancelling = cancelling
        self.fn = fn
        self.arguments = arguments
        self.keywords = keywords

    def cancel(self) -> None:
        self.future.cancel()
        self.future.set_running_or_notify_cancel()

    def run(self) -> None:
        future = self.future
        if self.cancelling.is_set():
            self.cancel()
            return
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = self.fn(*self.arguments, **self.keywords)
        except BaseException as error:
            future.set_exception(error)
            # The traceback holds this frame, and this frame would hold the exception: break the cycle.
            del self, future
        else:
            future.set_result(result)


def _never_begun(broken: threading.Event, calls: list[tuple[Any, Any]]) -> None:
    for function, _arguments in calls:
        submitted = getattr(function, "__self__", None)
        if not isinstance(submitted, _Submitted):
            continue
        if not broken.is_set():
            submitted.cancel()
        elif submitted.future.set_running_or_notify_cancel():
            submitted.future.set_exception(_broken_executor())


def _broken_executor() -> BrokenExecutor:
    return BrokenExecutor("the initializer raised in a worker thread: the pool takes no work")


@contextmanager
def blocking() -> Iterator[None]:
    """Says that the handler is about to block: its slot goes to another worker at once, instead of after the monitor has noticed.

    No effect outside a worker. May be nested.
    """
    _core.block()
    try:
        yield
    finally:
        _core.unblock()


def available_processors() -> int:
    """The processors this process may use: its affinity, and its cgroup's quota rounded up; at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, affinity if quota is None else min(affinity, quota))


def _cgroup_quota() -> int | None:
    """The cgroup's processor quota, v2 or v1, as the process sees it at the root of its mount; None without one."""
    version_2 = ("/sys/fs/cgroup/cpu.max", None)
    version_1 = ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    for quota_path, period_path in (version_2, version_1):
        try:
            with open(quota_path) as file:
                words = file.read().split()
            if period_path is not None:
                with open(period_path) as file:
                    words += file.read().split()
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):
            continue  # no such file, or "max": no quota here
        if quota > 0 and period > 0:
            return -(-quota // period)
    return None
