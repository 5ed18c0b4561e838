"""Reads a descriptor that a thread waits for and another may wake it from. Knows nothing of lines or servers."""

import contextlib
import os
import select
import sys
import threading
import time

READ_SIZE = 64 * 1024


class _Polled:
    """Waits for the descriptor and for a pipe of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._wake_read, self._wake_write = os.pipe()

    def wake(self) -> None:
        """Makes a `read` that waits, or the next one, answer None. Safe from any thread."""
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    def read(self, timeout: float | None = None) -> bytes | None:
        """The next bytes; none at the end of input, or when it cannot be read; None after `wake`, or when `timeout` seconds have passed."""
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        poll.register(self._descriptor, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in poll.poll(None if timeout is None else timeout * 1000)]
            if self._wake_read in ready:
                os.read(self._wake_read, 1)
                return None
            if not ready:
                return None
            try:
                return os.read(self._descriptor, READ_SIZE)
            except BlockingIOError:
                continue
            except OSError:  # A directory, a terminal that hung up.
                return b""


class _Pumped:
    """A thread of its own reads: Windows waits for sockets only. It is at most one read ahead, and is left alone in one at the end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._changed = threading.Condition()  # Guards what follows.
        self._data: bytes | None = None
        self._woken = False
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def read(self, timeout: float | None = None) -> bytes | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._pump, name="input", daemon=True)
                self._thread.start()
            while not self._woken and self._data is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)
            if self._woken:
                self._woken = False
                return None
            data = self._data
            if data:  # The end of input stays.
                self._data = None
                self._changed.notify_all()
            return data

    def _pump(self) -> None:
        while True:
            try:
                data = os.read(self._descriptor, READ_SIZE)
            except OSError:  # A pipe whose writer has ended, or Ctrl-C at a console.
                data = b""
            with self._changed:
                while self._data is not None:
                    self._changed.wait()
                self._data = data
                self._changed.notify_all()
            if not data:
                return


Input = _Pumped if sys.platform == "win32" else _Polled
