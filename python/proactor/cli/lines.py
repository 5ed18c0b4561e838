"""Reads lines from a descriptor that is not a person at a prompt: a pipe, a file, a plain terminal. Knows nothing of servers."""

import threading
from collections.abc import Callable

from proactor.cli.input import Input

LINE_LIMIT = 1024 * 1024
"""A longer line is handed on in parts of this many bytes, so that endless input without line breaks stays bounded."""


class LineReader:
    """A thread that calls `line(text, ended)` for every line of `descriptor`, without its line break, then `end()` once.

    `ended` is False for a part of a line that goes on. The end of input ends the thread; it does not spin.
    """

    def __init__(self, descriptor: int, *, line: Callable[[bytes, bool], None], end: Callable[[], None]) -> None:
        self._input = Input(descriptor)
        self._line = line
        self._end = end
        self._thread = threading.Thread(target=self._run, name="input", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 1.0) -> None:
        """Stops reading; `end` is not called. What had been read but not handed on is forgotten."""
        self._input.wake()
        self._thread.join(timeout)

    def _run(self) -> None:
        rest = b""
        while True:
            data = self._input.read()
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
