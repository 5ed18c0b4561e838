"""What signals do to `proactor serve`: the first asks for the shutdown, a second ends the process. Knows nothing of servers."""

import contextlib
import os
import queue
import signal
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from proactor.cli.exit_codes import SIGNAL_BASE

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequests:
    """Why the command should stop, in the order the reasons came: from signals, the console, or anyone. Safe from any thread.

    A `SimpleQueue` carries them because its `put` may interrupt its `get` in the same thread, which is what a signal does.
    """

    def __init__(self) -> None:
        self._reasons: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stopping = False
        self._at_once: Callable[[], None] = lambda: None

    def put(self, reason: str) -> None:
        self._reasons.put(reason)

    def wait(self) -> str:
        """Blocks until somebody asks. From then on a signal ends the process."""
        reason = self._reasons.get()
        self._stopping = True
        return reason

    def before_ending_at_once(self, action: Callable[[], None]) -> None:
        """`action` runs in the signal handler that ends the process: it gives the terminal back."""
        self._at_once = action

    @contextlib.contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Main thread only. SIGINT and SIGTERM even where the shell ignored them for a background job; SIGHUP unless under nohup."""
        handled: list[signal.Signals] = list(STOP_SIGNALS)
        if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
            handled.append(signal.SIGHUP)
        before: dict[signal.Signals, Any] = {number: signal.signal(number, self._handle) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _handle(self, number: int, _frame: types.FrameType | None) -> None:
        if number == signal.SIGHUP:  # The terminal went away, which its end of input may have said already.
            self._reasons.put(signal.Signals(number).name)
        elif self._stopping:
            self._at_once()
            end_process(SIGNAL_BASE + number, f"proactor: {signal.Signals(number).name} during the shutdown: ended at once\n")
        else:
            self._stopping = True
            self._reasons.put(signal.Signals(number).name)


def end_process(status: int, message: str = "") -> None:
    """Ends the process without waiting for any thread."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stdout is not None:
            sys.stdout.flush()
    if message:
        with contextlib.suppress(OSError):
            os.write(2, message.encode())
    os._exit(status)
