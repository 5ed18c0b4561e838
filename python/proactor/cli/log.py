"""The command's log: the format of its lines and the thread that writes them. Knows nothing of servers.

Workers only append to a bounded queue: a terminal that is stopped or a pipe that nobody reads must not stop the
server. At the limit lines are dropped, and how many is said as soon as there is room.
"""

import contextlib
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

from proactor.cli.text import printable

LINES_LIMIT = 20_000
"""Lines that may wait for whoever reads the log."""

CLOSE_SECONDS = 2.0
"""How long a log that is not being read may hold up the end of the command."""

LEVELS = ("debug", "info", "warning", "error")

Sink = Callable[[str], None]


@contextlib.contextmanager
def logging_to_standard_error(level: str) -> Iterator["LogWriter"]:
    """Sends everything logged at `level` or above to standard error, through one `LogWriter`, until the block ends."""
    writer = LogWriter(write_to_standard_error)
    handler = _Handler(writer)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    level_before = root.level
    root.addHandler(handler)
    root.setLevel(level.upper())
    try:
        yield writer
    finally:
        root.removeHandler(handler)
        root.setLevel(level_before)
        writer.close()


class LineFormatter(logging.Formatter):
    """One record, one line: when, on which worker, what. The lines of a traceback follow with a bar before each.

    Whatever a record contains, only these bars follow a line break: an exception whose text came from a peer forges nothing.
    """

    def format(self, record: logging.LogRecord) -> str:
        second, fraction = divmod(record.created, 1)
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        thread = "main" if record.threadName == "MainThread" else printable(record.threadName or "unknown")
        level = f"{record.levelname} " if record.levelno >= logging.WARNING else ""
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        if record.stack_info:
            text += "\n" + record.stack_info
        body = "\n  | ".join(printable(line, keep="\t") for line in text.split("\n"))
        return f"{clock}.{int(fraction * 1000):03d} [{thread}] {level}{body}"


class LogWriter:
    """Writes lines in the order they were put, on a thread of its own. `put` is safe from any thread and never blocks."""

    def __init__(self, sink: Sink, *, limit: int = LINES_LIMIT) -> None:
        self._limit = limit
        self._changed = threading.Condition()  # Guards everything below.
        self._lines: list[str] = []
        self._dropped = 0
        self._sink = sink
        self._writing = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        with self._changed:
            if len(self._lines) >= self._limit:
                self._dropped += 1
                return
            self._lines.append(line)
            if len(self._lines) == 1:
                self._changed.notify_all()

    def write_through(self, sink: Sink) -> None:
        """From the next batch on, lines go to `sink`; waits (a while) for the batch that is being written."""
        with self._changed:
            self._sink = sink
            self._changed.wait_for(lambda: not self._writing, CLOSE_SECONDS)

    def flush(self, timeout: float = CLOSE_SECONDS) -> bool:
        """Waits until everything put so far is written; False if that took longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines and not self._writing, timeout)

    def close(self) -> None:
        """Writes what is left, for at most `CLOSE_SECONDS`. Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines or self._closing)
                if not self._lines:
                    return
                lines, self._lines = self._lines, []
                dropped, self._dropped = self._dropped, 0
                sink = self._sink
                self._writing = True
            if dropped:
                lines.append(f"  | {dropped} log lines dropped: whoever reads the log is too slow")
            sink("\n".join(lines) + "\n")


class _Handler(logging.Handler):
    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.put(self.format(record))
        except Exception:
            # As the standard library's handlers do: a record that cannot be formatted is reported, not raised.
            self.handleError(record)


def write_to_standard_error(text: str) -> None:
    """The whole text, past any redirection inside Python; quietly nothing if there is nobody to read it."""
    encoding = getattr(sys.__stderr__, "encoding", None) or "utf-8"
    rest = memoryview(text.encode(encoding, "backslashreplace"))
    with contextlib.suppress(OSError):
        while rest:
            rest = rest[os.write(2, rest) :]
