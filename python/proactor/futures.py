"""Futures whose state is native, that of a submitted call among them, and how a worker runs the call.

Real `concurrent.futures.Future`s, whose state is native (`_core.Call`, `_core.Transfer`) and whose condition is made when somebody waits.
Knows nothing of pools and files.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any

from proactor import _core
from proactor.arguments import seconds_left

__all__ = ["NativeFuture", "SubmittedCall"]

# The standard library's: whoever silences or collects its messages means these too.
log = logging.getLogger("concurrent.futures")


class NativeFuture(Future):  # type: ignore[type-arg]
    """What `concurrent.futures` asks of its futures, over a state that is native: a class of `_core` comes before this one."""

    # Of the native class.
    _add_callback: Callable[[Callable[[Any], object]], bool]
    _inflate: Callable[[threading.Condition, list[Any]], tuple[threading.Condition, list[Any]]]
    _inflated: Callable[[], tuple[threading.Condition, list[Any]] | None]
    _take_callbacks: Callable[[], list[Callable[[Any], object]]]

    # The state is native: the standard library's would make a condition and two lists here.
    __init__ = object.__init__

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """As in the standard library: called once the call has ended or was cancelled, at once if it has already."""
        if not self._add_callback(fn):
            self._invoke(fn)

    def __repr__(self) -> str:
        state = self._state
        outcome = ""
        if state == "FINISHED":
            error = self._exception
            outcome = f" returned {type(self._result).__name__}" if error is None else f" raised {type(error).__name__}"
        return f"<{type(self).__name__} at {id(self):#x} state={_NAMES.get(state, state.lower())}{outcome}>"

    # ---- what `concurrent.futures` asks of its futures ----

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        return self._waited()[0]

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        return self._waited()[1]

    def _waited(self) -> tuple[threading.Condition, list[Any]]:
        return self._inflated() or self._inflate(threading.Condition(), [])

    def _get_snapshot(self) -> tuple[bool, bool, Any, BaseException | None]:
        """`(done, cancelled, result, exception)`, as asyncio asks for it from Python 3.14 on."""
        done = self.done()
        return done, self.cancelled(), self._result, self._exception

    def _invoke_callbacks(self) -> None:
        for callback in self._take_callbacks():
            self._invoke(callback)

    def _invoke(self, callback: Callable[[Any], object]) -> None:
        try:
            callback(self)
        except Exception:
            log.exception("exception calling callback for %r", self)


class SubmittedCall(_core.Call, NativeFuture):  # type: ignore[override]
    """What `submit` answers. As in the standard library, and safe from any thread.

    `result` and `exception` inside a call of the same pool never wait for a call that is still queued: they run it in place, unless their
    `timeout` is 0. Once begun it is not interrupted at the timeout; its result counts, even if it is late. Waiting for a call that runs
    elsewhere frees the worker's slot, as `proactor.blocking()` does.
    """

    def result(self, timeout: float | None = None) -> Any:
        """As in the standard library.

        Raises:
            CancelledError: it was cancelled.
            TimeoutError: it has not ended after `timeout` seconds.
        """
        try:
            if not self.done():
                self._wait(timeout)
            return self._answer()
        finally:
            self = None  # type: ignore[assignment]  # the exception's traceback holds this frame: no cycle

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As in the standard library; raises as `result` does where there is neither a result nor an exception."""
        try:
            if not self.done():
                self._wait(timeout)
            return self._failure()
        finally:
            self = None  # type: ignore[assignment]

    def cancel(self) -> bool:
        """Cancels the call if it has not begun. After True it never begins, and nothing holds its function and arguments any more."""
        if self.running() or self.done():
            return self.cancelled()
        condition, waiters = self._waited()
        with condition:
            if not self._cancel():
                return self.cancelled()
            for waiter in waiters:
                waiter.add_cancelled(self)
            condition.notify_all()
        self._invoke_callbacks()
        return True

    def set_running_or_notify_cancel(self) -> bool:
        """For executors, and the pool is its own: raises RuntimeError unless the call was cancelled, then answers False."""
        if self.cancelled():
            return False
        raise RuntimeError("a submitted call is begun by its pool only")

    def set_result(self, result: Any) -> None:
        """As in the standard library: ends it with a result from outside; the call is not begun, or its own result is ignored."""
        self._end_from_outside(result, failed=False)

    def set_exception(self, exception: BaseException | None) -> None:
        """As `set_result`."""
        self._end_from_outside(exception, failed=True)

    # ---- waiting and ending ----

    def _wait(self, timeout: float | None) -> None:
        try:
            if timeout is not None:
                timeout = seconds_left("timeout", timeout)
            worker = _core.current_worker()
            if worker is None:
                self._sleep(timeout)
                return
            if (timeout is None or timeout > 0) and self._run_here(worker[0]):
                return
            _core.block()
            try:
                self._sleep(timeout)
            finally:
                _core.unblock()
        finally:
            self = None  # type: ignore[assignment]

    def _run_here(self, port: int) -> bool:
        """On a worker of that port: runs the call if it is still queued there. False: it is not."""
        try:
            try:
                _need_frames(_FRAMES)
            except RecursionError as error:
                # It fails before it begins: once begun it could fail so deep that nobody could be told. Telling takes frames too, so a
                # worker does that from an empty stack.
                if self._begin(port) is None:
                    return False
                if not self._fail(error):
                    self._publish_later(publish)
                return True
            call = self._begin(port)
            if call is None:
                return False
            run_with(self, call)
            return True
        finally:
            # The traceback of what the call raised holds this frame: no cycle.
            self = call = None  # type: ignore[assignment]

    def _end_from_outside(self, outcome: Any, *, failed: bool) -> None:
        condition, waiters = self._waited()
        with condition:
            if not self._force(outcome, failed):
                raise InvalidStateError(f"{self._state}: {self!r}")
            _tell(self, waiters, failed=failed)
            condition.notify_all()
        self._invoke_callbacks()


def run(future: SubmittedCall, function: Callable[[], Any]) -> None:
    """A worker runs a call without arguments. The result is in no variable: nobody but the future holds it once it is told."""
    try:
        told = future._finish(function())
    except BaseException as error:
        told = future._fail(error)
    if not told:
        publish(future)
    del future, function  # the traceback of what the call raised holds this frame: no cycle


def run_with(future: SubmittedCall, call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any] | None]) -> None:
    """A worker runs a call with arguments."""
    try:
        function, arguments, keywords = call
        told = future._finish(function(*arguments) if keywords is None else function(*arguments, **keywords))
    except BaseException as error:
        told = future._fail(error)
    if not told:
        publish(future)
    del future, call, function, arguments, keywords


def publish(future: Any) -> None:
    """It has ended: tells those who wait, and calls the callbacks."""
    waited = future._inflated()
    if waited is not None:
        condition, waiters = waited
        with condition:
            failed = future._settle()
            if failed is not None:
                _tell(future, waiters, failed=failed)
                condition.notify_all()
    future._invoke_callbacks()


def _need_frames(count: int) -> None:
    """Raises RecursionError unless so many more calls fit into the stack."""
    if count > 0:
        _need_frames(count - 1)


def _tell(future: Any, waiters: list[Any], *, failed: bool) -> None:
    """Under the future's condition."""
    for waiter in waiters:
        if failed:
            waiter.add_exception(future)
        else:
            waiter.add_result(future)


# Enough to tell everybody, log included, that a call has ended.
_FRAMES = 60

_NAMES = {"CANCELLED_AND_NOTIFIED": "cancelled"}
