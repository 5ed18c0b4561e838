"""What timers, waits and events show of themselves, and how `call_when` finds something to wait for in what it is given.

Knows the port; knows nothing of pools or workers.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from proactor import _core, platform
from proactor._core import Event, Timer, Wait

if TYPE_CHECKING:
    from subprocess import Popen

__all__ = ["Event", "EventStatistics", "Timer", "TimerStatistics", "Wait", "WaitStatistics", "Waitable", "call_when"]


class HasDescriptor(Protocol):
    """A socket, a pipe's end, anything with a descriptor."""

    def fileno(self) -> int: ...


Waitable: TypeAlias = "int | HasDescriptor | Popen[Any] | Event"
_NOTHING_TO_WAIT_FOR = "cannot be waited for: give a descriptor, something with fileno(), a subprocess.Popen or a proactor.Event"


@dataclass(frozen=True)
class TimerStatistics:
    """A snapshot of a timer."""

    pending: bool
    """The function will be called (again)."""
    cancelled: bool
    interval: float | None
    """Seconds between two ticks; None for a timer that comes once."""
    missed: int
    """Ticks that came while an earlier one waited for a worker or ran: each was left out."""


@dataclass(frozen=True)
class WaitStatistics:
    """A snapshot of a wait."""

    pending: bool
    """The function will be called (again)."""
    cancelled: bool
    repeat: bool


@dataclass(frozen=True)
class EventStatistics:
    """A snapshot of an event."""

    is_set: bool
    waits: int
    """Waits that `set` would end: those of `call_when`, not threads in `wait`."""


def call_when(
    port: _core.Port,
    handle: Waitable,
    fn: Callable[..., object],
    args: tuple[Any, ...],
    *,
    timeout: float | None,
    writable: bool,
    repeat: bool,
) -> Wait:
    """As `ThreadPool.call_when`, on a port."""
    if isinstance(handle, Event):
        if writable:
            raise ValueError("an Event is set or not: writable=True is for sockets and pipes")
        return port.call_when(handle, False, timeout, repeat, fn, args)
    subprocess = sys.modules.get("subprocess")  # whoever has a Popen has imported it
    if subprocess is not None and isinstance(handle, subprocess.Popen):
        if writable or repeat:
            raise ValueError("a process ends, and does so once: writable=True and repeat=True make no sense for it")
        if not callable(fn):
            raise TypeError(f"fn must be a callable, not {type(fn).__name__}")
        with _process(handle) as target:
            return port.call_when(target, False, timeout, False, partial(_reap, handle, fn), args)
    return port.call_when(_descriptor(handle), writable, timeout, repeat, fn, args)


def _descriptor(handle: int | HasDescriptor | Popen[Any]) -> int:
    descriptor: int
    if isinstance(handle, int) and not isinstance(handle, bool):
        descriptor = handle
    else:
        fileno = getattr(handle, "fileno", None)
        if not callable(fileno):
            raise TypeError(f"{type(handle).__name__} {_NOTHING_TO_WAIT_FOR}")
        descriptor = fileno()
        if sys.platform == "win32" and not isinstance(handle, socket.socket) and not getattr(handle, "_is_waited_for_by_number", False):
            raise ValueError(
                f"{type(handle).__name__}: Windows waits for sockets and for HANDLEs, given as numbers, and not for files and pipes"
            )
    if descriptor < 0:
        raise ValueError(f"the descriptor is {descriptor}: {handle!r} is closed; call call_when before closing it")
    return descriptor


@contextmanager
def _process(process: Popen[Any]) -> Iterator[int | Event]:
    """A descriptor of the process, on Windows its HANDLE, for the length of the block; a set event if it was waited for already."""
    if sys.platform == "win32":
        # Signalled from the process's end on, for as long as the Popen is there.
        yield int(process._handle)  # type: ignore[attr-defined]
        return
    pidfd = -1
    try:
        if process.poll() is None:
            if not hasattr(os, "pidfd_open"):
                raise NotImplementedError(f"{platform.name()} has no pidfd_open: call popen.wait in a call of its own (submit)")
            try:
                pidfd = os.pidfd_open(process.pid)
            except ProcessLookupError:
                pass  # another thread has just waited for it
            # Still ours to wait for, so the number meant this process all the time.
            if process.poll() is not None and pidfd >= 0:
                os.close(pidfd)
                pidfd = -1
        if pidfd >= 0:
            yield pidfd
        else:
            ended = Event()
            ended.set()
            yield ended
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _reap(process: Popen[Any], fn: Callable[..., object], signalled: bool, *args: Any) -> None:
    """The process has ended: `returncode` is there before the function runs."""
    if signalled and process.poll() is None:
        process.wait()  # another thread is just fetching it
    fn(signalled, *args)


platform.in_child_of_fork(_core.forked)  # events belong to no pool that would tell them
