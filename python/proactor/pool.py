"""The thread pool: a `concurrent.futures.Executor` whose workers also serve connections."""

from __future__ import annotations

import contextvars
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from concurrent.futures.thread import BrokenThreadPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, TypeVarTuple

from proactor import _core, handles, mapping, platform, timers
from proactor import arguments as check
from proactor.arguments import flag, whole_number
from proactor.errors import PoolHung, QueueFull
from proactor.futures import SubmittedCall, publish, run, run_with
from proactor.handles import Associable, Completion, Handle
from proactor.timers import Timer, Wait, Waitable
from proactor.workers import Workers, seconds_until

__all__ = ["PoolShutdownReport", "PoolStatistics", "ThreadPool", "blocking"]

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_MOST_THREADS = 2**31 - 1
# How long a worker that shuts its own pool down waits for the servers on it: they may need this very worker.
_DRAIN_SECONDS = 10.0


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
    oldest_wait: float
    """Seconds that the oldest submitted call has been queued; 0 if none is."""
    calls_done: int
    """Submitted calls that returned."""
    calls_failed: int
    """Submitted calls that raised."""
    calls_cancelled: int
    queue_full: int
    """How often `submit` found `queue_limit` calls queued."""
    timers: int
    """Timers that are pending: their functions will be called (again)."""
    waits: int
    """Waits that are pending."""
    handles: int
    """Associated handles that are open."""
    operations: int
    """Operations that are pending on them."""


@dataclass(frozen=True)
class PoolShutdownReport:
    """What a shutdown left."""

    completed: bool
    """Everything returned, and nothing was cancelled by the shutdown."""
    finished: int
    """Submitted calls that returned or raised, in all."""
    cancelled: int
    """Submitted calls that were cancelled, by the shutdown or before, in all."""
    running: tuple[str, ...]
    """What did not return in time: the worker's name and its stack, as a traceback shows it. Without waiting: what ran at that moment."""


class Member(Protocol):
    """Something that lives on the pool and ends with it."""

    def _begin_to_end(self) -> None: ...

    def _end_with_pool(self, _timeout: float | None, /) -> None: ...

    def _end_broken(self, error: BrokenExecutor) -> None: ...


M = TypeVar("M", bound=Member)


class ThreadPool(Executor):
    """Workers that run handlers and calls: at most `concurrency` at once, more while some are blocked, `max_workers` in all.

    Arguments:
        max_workers: the most threads; by default 64 for each of `concurrency`, at most 512.
        thread_name_prefix: workers are called `prefix-1`, `prefix-2`, ...; "proactor" by default.
        initializer, initargs: called at the start of each worker. If it raises, the pool is broken.
        concurrency: how many may run at once; by default the processors this process may use (affinity and cgroup quota).
        idle_seconds: a surplus worker retires after so many seconds without work.
        busy_poll: the leader polls for so many seconds before it sleeps: lower latency for a processor at 100 %.
        queue_limit: how many submitted calls may be queued; by default any number.
        queue_policy: what `submit` does at the limit. "block" waits for room, a worker with its slot free; where all `max_workers` workers
            have said that they block, or every worker hangs, a worker runs its call itself. "raise" raises `proactor.errors.QueueFull`.
            "run" runs the call in the caller.
        copy_context: calls run in a copy of the context (`contextvars`) of their `submit`; by default in the worker's own.
        slow_handler_seconds: a handler or call that takes longer is logged, once, with its stack; by default none is.
        hung_seconds: when all `max_workers` have been inside their handlers or calls for so long, at least 1, and none has returned, the
            pool hangs: I/O goes on, new work is refused (`proactor.errors.PoolHung`) and new connections are closed until one returns;
            the log says who is where. None: it never does, and new work waits for as long as it takes.
        engine: "epoll" (on Windows "iocp") or "simulated"; by default what PROACTOR_ENGINE says, else the platform's best.
            `proactor.testing` gives its network here.

    Safe from any thread. Threads start with the first work.

    Raises:
        ValueError, TypeError: an argument is wrong; the text says which and how.
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
        queue_limit: int | None = None,
        queue_policy: Literal["block", "raise", "run"] = "block",
        copy_context: bool = False,
        slow_handler_seconds: float | None = None,
        hung_seconds: float | None = 30,
        engine: str | _core.Network | None = None,
    ) -> None:
        if concurrency is None:
            concurrency = platform.available_processors()
        else:
            concurrency = whole_number("concurrency", concurrency, maximum=_MOST_THREADS, none="as many as there are processors")
        if max_workers is None:
            max_workers = max(concurrency, min(512, 64 * concurrency))
        else:
            if type(max_workers) is int and max_workers < 1:  # in the standard library's words, which its users' tests look for
                raise ValueError(f"max_workers must be greater than 0, or None for 64 for each of concurrency; not {max_workers}")
            max_workers = whole_number("max_workers", max_workers, maximum=_MOST_THREADS, none="64 for each of concurrency")
        if not isinstance(thread_name_prefix, str):
            raise TypeError(f'thread_name_prefix must be a string, "" for the usual one; not {thread_name_prefix!r}')
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, or None for none; not {initializer!r}")
        if not isinstance(initargs, tuple | list):
            raise TypeError(f"initargs must be a tuple of the initializer's arguments, as in (argument,); not {initargs!r}")
        initargs = tuple(initargs)
        idle_seconds = check.seconds("idle_seconds", idle_seconds, zero=True)
        busy_poll = check.duration("busy_poll", busy_poll, zero=True)
        if queue_limit is not None:
            queue_limit = whole_number("queue_limit", queue_limit, none="no limit")
        if queue_policy not in ("block", "raise", "run"):
            raise ValueError(f'queue_policy must be "block", "raise" or "run", not {queue_policy!r}')
        copy_context = flag("copy_context", copy_context)
        slow_handler_seconds = check.seconds("slow_handler_seconds", slow_handler_seconds, none="no watchdog")
        hung_seconds = check.seconds("hung_seconds", hung_seconds, none="a pool that never hangs")
        if hung_seconds is not None and hung_seconds < 1:
            raise ValueError(f"hung_seconds must be at least 1, or None for a pool that never hangs; not {hung_seconds!r}")
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
            queue_limit=queue_limit,
            hung_seconds=hung_seconds,
        )
        self._queue_policy = queue_policy
        self._copy_context = copy_context
        self._hung_seconds = hung_seconds
        broken = threading.Event()
        self._has_broken = broken
        self._workers = Workers(
            self._port,
            thread_name_prefix or "proactor",
            initializer,
            initargs,
            run=run,
            run_with=run_with,
            broken=partial(_broke, broken, weakref.ref(self)),
            never_begun=partial(_never_begun, broken),
            slow_seconds=slow_handler_seconds,
        )
        # Guards _members and _shut, and that no member joins once the initializer has failed. Reentrant: a signal handler may shut down,
        # whatever the main thread was doing.
        self._lock = threading.RLock()
        self._members: weakref.WeakSet[Any] = weakref.WeakSet()
        self._shut = False

    # ---- calls ----

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Calls `fn(*args, **kwargs)` on a worker.

        At `queue_limit` it does what `queue_policy` says.

        Raises:
            RuntimeError: the pool is shut down.
            BrokenExecutor: the initializer raised.
            PoolHung: every worker has been inside its handler or call for `hung_seconds`, and none has returned. Never in one of them.
            QueueFull: the queue is full, and the policy is "raise".
        """
        if self._copy_context:
            copied: Future[T] = self._submit(fn, args, kwargs)
            return copied
        future: Future[T] | None = self._port.submit(SubmittedCall, fn, args, kwargs or None)
        return future if future is not None else self._submit_in_time(fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Like the built-in `map`, with the calls made on workers; the results come in order.

        Arguments:
            timeout: seconds from this call, for all results.
            chunksize: so many items are one call of a worker: for functions that take microseconds.
            buffersize: at most so many results are ahead of the iterator, and the iterables are read as it advances; by default they are
                read at once, here.

        What has not begun is cancelled when a call has raised, and when the iterator is dropped or closed; as with the standard library's,
        not if it was never asked for anything.

        Raises:
            TimeoutError: from the iterator.
            ValueError, TypeError: chunksize or buffersize is not an integer of at least 1, or timeout no number of seconds.
        """
        timeout = check.seconds_left("timeout", timeout)
        chunksize = whole_number("chunksize", chunksize)
        if buffersize is not None:
            buffersize = whole_number("buffersize", buffersize, none="no limit")
        return mapping.map_on(self._submit, fn, iterables, timeout=timeout, chunksize=chunksize, buffersize=buffersize)

    def _submit(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Future[Any]:
        """As `submit`, without its cost for packing arguments that are packed."""
        if self._copy_context:
            args = (fn, *args)
            fn = contextvars.copy_context().run
        future: Future[Any] | None = self._port.submit(SubmittedCall, fn, args, kwargs or None)
        return self._submit_in_time(fn, args, kwargs) if future is None else future

    def _submit_in_time(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Future[Any]:
        """`submit` where something is in the way: it starts the workers, raises, or does what the policy says."""
        while True:
            self._check_usable()
            if self._port.is_full():
                if self._queue_policy == "raise":
                    raise QueueFull(
                        "queue_limit calls are queued: try again later, raise the limit, or let queue_policy be 'block' or 'run'"
                    )
                if self._queue_policy == "run" or not self._port.wait_for_room():
                    here: SubmittedCall = self._port.running_call(SubmittedCall)
                    run_with(here, (fn, args, kwargs))
                    return here
            future: Future[Any] | None = self._port.submit(SubmittedCall, fn, args, kwargs or None, starting=True)
            if future is None:
                continue
            # After the call is queued: if the initializer raises, its future says so.
            try:
                self._workers.ensure_started()
            except RuntimeError:
                future.cancel()
                raise
            return future

    def _check_usable(self) -> None:
        self._workers.check_process()
        if self._has_broken.is_set():
            raise _broken_executor()
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
        if self._workers.is_closing():  # by no shutdown of ours
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        if self._port.is_hung():
            doing = "; ".join(self._workers.running())
            raise PoolHung(
                f"none of the {self.max_workers} workers has returned from its handler for {self._hung_seconds:g} s or more: {doing}. "
                "Give what they wait for a time-out, or raise max_workers or hung_seconds"
            )

    # ---- the end ----

    def shutdown(  # type: ignore[override]  # whoever takes it for a ThreadPoolExecutor ignores the report
        self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None
    ) -> PoolShutdownReport:
        """Shuts down the servers on the pool, does what is queued (or cancels it), and ends the workers. Idempotent; safe inside a handler.

        The servers' `shutdown` says what it lets finish and what it reports; connections that `connect` made on the pool are aborted. What
        timers and waits wait for is cancelled; functions whose time or signal has come are queued, and count as such.

        In a handler or call of the pool's own it gives the servers at most 10 seconds, since they may need this worker too; and it does not
        wait where the pool is being shut down already, by somebody who waits for this handler.

        Arguments:
            wait: for the servers and the workers to end; else what a server cannot send at once is dropped, and the report is of this
                moment. A signal handler that has interrupted a start or shutdown of the same pool cannot wait for it.
            cancel_futures: what has not begun is cancelled, but for the one that an idle worker is on its way to.
            timeout: seconds to wait at most. What has not begun by then is cancelled, and what has not returned is in the report.

        Raises:
            ValueError, TypeError: an argument is wrong; then nothing has been done.
        """
        wait = flag("wait", wait)
        cancel_futures = flag("cancel_futures", cancel_futures)
        timeout = check.seconds("timeout", timeout, zero=True)
        if self._workers.forked:
            return PoolShutdownReport(True, 0, 0, ())  # there is nothing of it in this process
        with self._lock:
            first, self._shut = not self._shut, True
        wait = wait and self._workers.may_wait() and (first or not self._workers.are_current())
        before = self._port.call_numbers()[3]
        running: tuple[str, ...] = ()
        if cancel_futures:
            self._cancel_queued()
        stuck = self._end(drain=True, wait=wait, timeout=timeout, members=wait or first)
        if stuck or not wait:
            running = self._workers.stacks()
        _, done, failed, cancelled, _ = self._port.call_numbers()
        completed = not running and cancelled == before
        return PoolShutdownReport(completed, done + failed, cancelled, running)

    def _cancel_queued(self) -> None:
        self._port.finish()  # so that no call comes after these
        calls = self._port.queued_calls()
        # Where nothing runs a worker is about to take the first: it has as good as begun, as the standard library's would have.
        idle = self._workers.alive() and not self._port.in_handlers()
        for call in calls[1:] if idle else calls:
            call.cancel()

    def _end(self, *, drain: bool, wait: bool = True, timeout: float | None = None, members: bool = True) -> tuple[str, ...]:
        """As `shutdown`, at most for `timeout` seconds; answers which handlers did not return. `members`: they end too."""
        if self._workers.forked:
            return ()  # there is nothing of it in this process
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            self._shut = True
            ending = list(self._members) if members else []
        for member in ending:
            member._begin_to_end()
        for_members = deadline if wait else 0.0
        if self._workers.are_current():
            for_members = min(time.monotonic() + _DRAIN_SECONDS, float("inf") if for_members is None else for_members)
        for member in ending:
            member._end_with_pool(seconds_until(for_members))
        return self._workers.close(drain=drain, wait=wait, timeout=seconds_until(deadline))

    def statistics(self) -> PoolStatistics:
        """A snapshot."""
        numbers = (*self._port.numbers(), *self._port.call_numbers(), *self._port.pending())
        return PoolStatistics(self._port.engine, self.concurrency, self.max_workers, *numbers)

    def _start(self) -> tuple[_core.Port, Workers]:
        """What a server or connection needs that comes to live on the pool.

        Raises:
            RuntimeError: the pool is shut down.
            BrokenExecutor: the initializer raised.
        """
        self._workers.check_process()
        self._check_takes_members()
        self._workers.ensure_started()
        return self._port, self._workers

    def _join_in(self, make: Callable[[], M]) -> M:
        """What `make` answers, a server or connection, lives on the pool, and ends with it.

        A shutdown comes before `make` is called or after it has returned: it runs under the pool's lock, so it must be short and call
        nothing of the user's.

        Raises:
            RuntimeError: the pool is shut down; then nothing was made.
            BrokenExecutor: the initializer raised; then nothing was made.
        """
        with self._lock:
            self._check_takes_members()
            member = make()
            self._members.add(member)
            return member

    def _check_takes_members(self) -> None:
        with self._lock:
            if self._shut:
                raise RuntimeError("the pool is shut down: make a new one")
            if self._has_broken.is_set():
                raise _broken_executor()

    # ---- timers and waits ----

    def call_after(self, seconds: float, fn: Callable[[*Ts], object], /, *args: *Ts) -> Timer:
        """Calls `fn(*args)` on a worker in `seconds`: not before, and as soon after as a worker is free; among dense timers, which are
        taken together, a quarter of a millisecond later at most.

        Measured by the monotonic clock (clock_gettime(2), CLOCK_MONOTONIC): setting the wall clock changes nothing. What the function
        raises is logged. A pending timer does not keep the program alive: the end of the main thread cancels it, as `shutdown` does, and
        so does the end of the pool's last reference.

        Returns:
            The timer; after its `cancel()` has returned True the function does not start.

        Raises:
            ValueError: `seconds` is negative, infinite or not a number.
            TypeError: `seconds` is no number, or `fn` is not callable.
            RuntimeError: the pool is shut down, or belongs to the parent process.
            BrokenExecutor: the initializer raised.
        """
        timer = self._port.call_after(seconds, fn, args)
        return timer if timer is not None else self._call_in_time(self._port.call_after, seconds, fn, args, zero=True)

    def call_every(self, seconds: float, fn: Callable[[*Ts], object], /, *args: *Ts) -> Timer:
        """Calls `fn(*args)` on a worker every `seconds`, first in `seconds`, until it is cancelled or the pool is shut down.

        The timer keeps its phase: ticks are due whole intervals after it was made, however late one is run. It never overlaps itself:
        ticks that come while one waits for a worker or runs are left out and counted (`timer.missed`). It goes on when the function
        raises, which is logged. The rest is as in `call_after`, with `ValueError` also for an interval of 0.
        """
        timer = self._port.call_every(seconds, fn, args)
        return timer if timer is not None else self._call_in_time(self._port.call_every, seconds, fn, args, zero=False)

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
        timeout = check.seconds("timeout", timeout, zero=True)
        writable, repeat = flag("writable", writable), flag("repeat", repeat)
        if not self._workers.usable:
            self._start_for_calls()
        return timers.call_when(self._port, handle, fn, args, timeout=timeout, writable=writable, repeat=repeat)

    # ---- operations ----

    def associate(self, handle: Associable, fn: Callable[[Completion], object], /) -> Handle:
        """Answers a handle, whose operations call `fn(completion)` when complete: of a stream socket (TCP or Unix), connected, to be
        connected, or listening; of a datagram socket (UDP or Unix); on Windows of an end of a named pipe (`proactor.pipes`); or of a file.
        `Handle` says what each can do.

        (Win32's CreateThreadpoolIo.) The socket object is detached, as by `socket.detach`: the descriptor belongs to the pool from here on,
        which makes it non-blocking and closes it with the handle. So no number is used again under an operation that is under way.

        A file is one of `proactor.open`, or a binary file object with a descriptor. It stays yours, to use and to close: the handle has a
        descriptor of its own for the same open file, which is closed with the handle. One handle at a time for each file object.

        `fn` runs on a worker and may block. For one handle it is called for one completion at a time, in the order in which they came;
        for different handles at the same time. What it raises is logged, and the handle stays open: what was submitted is still to be told.

        Every operation completes exactly once. `shutdown` closes the handles, which completes what is pending with ECANCELED, and calls
        `fn` for that, too; a file's operation that the kernel is at it waits for. What has not been told when its `timeout` has passed is
        dropped. The interpreter's exit and the end of the pool's last reference do the same. A handle that nobody holds, without a pending
        operation, closes by itself.

        Raises:
            ValueError: the socket is closed, associated, encrypted, of another kind, or of another network than the engine's; the file
                is closed, associated, or a pipe or a device without offsets.
            TypeError: `handle` is none at all, a text file, one that is compressed, or a bare descriptor; or `fn` is not callable.
            OSError: the kernel refuses.
            RuntimeError: the pool is shut down, or belongs to the parent process.
            BrokenExecutor: the initializer raised.

        A socket then stays the caller's; but where the pool is being shut down at this moment, or the kernel has no memory, it is closed.
        """
        if not self._workers.usable:
            self._start_for_calls()
        return handles.associate(self._port, handle, fn)

    def _call_in_time(
        self, call: Callable[..., Timer | None], seconds: float, fn: Callable[..., object], args: tuple[Any, ...], *, zero: bool
    ) -> Timer:
        """`call_after` and `call_every` where something is in the way: `seconds` is no float, or the workers have not been started."""
        if type(seconds) is not float:  # of a float the port itself says what is wrong with it
            seconds = check.duration("seconds", seconds, zero=zero)
        if not self._workers.usable:
            self._start_for_calls()
        timer = call(seconds, fn, args, starting=True)
        assert timer is not None, "it was a float"
        return timer

    def _start_for_calls(self) -> None:
        # Not refused while all workers hang: whoever sets a timer does not want it now.
        self._workers.check_process()
        if self._has_broken.is_set():
            raise _broken_executor()
        self._workers.ensure_started()

    # Its last reference may go when the interpreter has emptied this module: then no name of it is there.
    def __del__(self, _is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        workers: Workers | None = getattr(self, "_workers", None)
        if workers is not None and not _is_finalizing():
            workers.close(drain=True, wait=False)

    def __repr__(self) -> str:
        workers: Workers | None = getattr(self, "_workers", None)
        if workers is None:
            return "<ThreadPool that could not be made>"  # in the traceback of what __init__ raised
        return f"<ThreadPool {workers.prefix!r} concurrency={self.concurrency} max_workers={self.max_workers}>"


def _broke(broken: threading.Event, pool: weakref.ref[ThreadPool]) -> None:
    """The initializer raised: no work comes any more, and what lives on the pool cannot go on either."""
    broken.set()
    owner = pool()
    if owner is None:
        return
    with owner._lock:  # who has seen a whole pool under it is a member by now
        members = list(owner._members)
    for member in members:
        member._begin_to_end()
    for member in members:
        member._end_broken(_broken_executor())


def _never_begun(broken: threading.Event, calls: list[tuple[Any, Any]]) -> None:
    for call, arguments in calls:
        if call is publish:
            publish(*arguments)  # of a call that has ended: whoever waits for it is still to be told
        if not isinstance(call, SubmittedCall):
            continue
        if not broken.is_set():
            call.cancel()
        else:
            call.set_exception(_broken_executor())


def _broken_executor() -> BrokenExecutor:
    return BrokenThreadPool("the initializer raised in a worker thread: the pool takes no work")


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
