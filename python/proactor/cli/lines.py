"""Reads lines from a descriptor that is not a person at a prompt: a pipe, a file, a plain terminal. Knows nothing of servers."""

import contextlib
import os
import select
import threading
from collections.abc import Callable

LINE_LIMIT = 1024 * 1024
"""A longer line is handed on in parts of this many bytes, so that endless input without line breaks stays bounded."""

READ_SIZE = 64 * 1024


class LineReader:
    """A thread that calls `line(text, ended)` for every line of `descriptor`, without its line break, then `end()` once.

    `ended` is False for a part of a line that goes on. The end of input ends the thread; it does not spin.
    """

    def __init__(self, descriptor: int, *, line: Callable[[bytes, bool], None], end: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._line = line
        self._end = end
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._run, name="input", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 1.0) -> None:
        """Stops reading; `end` is not called. What had been read but not handed on is forgotten."""
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")
        self._thread.join(timeout)

    def _run(self) -> None:
        rest = b""
        while True:
            data = self._read()
            if data is None:
                return
            if not data:
                break
            rest = self._hand_on(rest + data)
        if rest:
            self._line(rest, True)
        self._end()

    def _hand_on(self, text: bytes) -> bytes:
        *lines, rest = text.split(b"\n")
        for line in lines:
            while len(line) > LINE_LIMIT:
                self._line(line[:LINE_LIMIT], False)
                line = line[LINE_LIMIT:]
            self._line(line, True)
        while len(rest) > LINE_LIMIT:
            self._line(rest[:LINE_LIMIT], False)
            rest = rest[LINE_LIMIT:]
        return rest

    def _read(self) -> bytes | None:
        """The next bytes; none at the end of input, or when it cannot be read; None when stopped."""
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        poll.register(self._descriptor, select.POLLIN)
        while True:
            ready = poll.poll()
            if any(descriptor == self._wake_read for descriptor, _ in ready):
                return None
            try:
                return os.read(self._descriptor, READ_SIZE)
            except BlockingIOError:
                continue
            except OSError:  # A directory, a terminal that hung up.
                return b""
