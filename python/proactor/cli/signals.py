"""What signals do to `serve` and `dispatch`: the first asks for the orderly end, a second ends the process. Knows nothing of servers."""

import contextlib
import os
import signal
import socket
import sys
import time
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from proactor.cli.console_close import hearing_console_close
from proactor.cli.exit_codes import SIGNAL_BASE

STOP_SIGNALS: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)
if sys.platform == "win32":
    STOP_SIGNALS += (signal.SIGBREAK,)

HANG_UP: signal.Signals | None = getattr(signal, "SIGHUP", None)

SAME_SIGNAL_SECONDS = 0.1
"""What comes so soon after the first signal, and is of its kind, is the same one: timeout(1) signals the process, then its group."""


class Wakeup:
    """Where the main thread waits: it wakes up for `wake` and for any signal, whose Python handler then runs.

    It waits on a socket that `signal.set_wakeup_fd` writes to, and so hears a signal that landed on another thread, or that came just
    before the wait began. A lock or a queue would miss both.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)

    def wake(self) -> None:
        """Makes the main thread look again at what it waits for. Safe from any thread, and in a signal handler."""
        with contextlib.suppress(OSError):  # It is full, so whoever reads it wakes up anyway; or closed, and nobody waits.
            self._writer.send(b"\0")

    def wait_until(self, done: Callable[[], bool], timeout: float | None = None) -> bool:
        """Blocks until `done()`, asked after each wake-up; False if that took longer than `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not done():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            self._reader.settimeout(left)
            with contextlib.suppress(TimeoutError):
                self._reader.recv(64)
        return True

    @contextlib.contextmanager
    def hearing_signals(self) -> Iterator[None]:
        """Main thread only."""
        before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            self._reader.close()
            self._writer.close()


class StopRequests:
    """Why the command should stop, in the order the reasons came: from signals, the console, or anyone."""

    def __init__(self) -> None:
        self.wakeup = Wakeup()
        self._reasons: deque[str] = deque()
        self._stopping = False
        self._first_signal: tuple[int, float] | None = None  # Which, and when by the monotonic clock.
        self._at_once: Callable[[], None] = lambda: None

    def put(self, reason: str) -> None:
        """Asks for the shutdown. Safe from any thread, and in a signal handler."""
        self._reasons.append(reason)
        self.wakeup.wake()

    @property
    def requested(self) -> bool:
        """Whether somebody has asked."""
        return bool(self._reasons)

    def wait(self) -> str:
        """Blocks until somebody asks. From then on a signal ends the process."""
        self.wakeup.wait_until(lambda: bool(self._reasons))
        self._stopping = True
        return self._reasons.popleft()

    def before_ending_at_once(self, action: Callable[[], None]) -> None:
        """`action` runs in the signal handler that ends the process: it gives the terminal back."""
        self._at_once = action

    @contextlib.contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Main thread only. SIGINT and SIGTERM even where the shell ignored them for a background job; SIGHUP unless under nohup."""
        handled: list[signal.Signals] = list(STOP_SIGNALS)
        if HANG_UP is not None and signal.getsignal(HANG_UP) == signal.SIG_DFL:
            handled.append(HANG_UP)
        with self.wakeup.hearing_signals(), hearing_console_close(self.put):
            before: dict[signal.Signals, Any] = {number: signal.signal(number, self._handle) for number in handled}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _handle(self, number: int, _frame: types.FrameType | None) -> None:
        if number == HANG_UP:  # The terminal went away, which its end of input may have said already.
            self.put(signal.Signals(number).name)
        elif self._is_same(number):
            pass
        elif self._stopping:
            self._at_once()
            end_process(SIGNAL_BASE + number, f"proactor: {signal.Signals(number).name} during the shutdown: ended at once\n")
        else:
            self._stopping = True
            self._first_signal = number, time.monotonic()
            self.put(signal.Signals(number).name)

    def _is_same(self, number: int) -> bool:
        first, at = self._first_signal or (0, 0.0)
        return number == first and time.monotonic() - at < SAME_SIGNAL_SECONDS


def end_process(status: int, message: str = "") -> None:
    """Ends the process without waiting for any thread."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stdout is not None:
            sys.stdout.flush()
    if message:
        with contextlib.suppress(OSError):
            os.write(2, message.encode())
    os._exit(status)
