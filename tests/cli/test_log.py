"""The log's lines and the thread that writes them."""

import logging
import sys
import threading

from cli_process import LOG_LINE

from proactor.cli.log import LineFormatter, LogWriter


def record(message, *, error=None, level=logging.INFO, thread="worker-3"):
    made = logging.LogRecord("x", level, "file.py", 1, message, (), error)
    made.threadName = thread
    return LineFormatter().format(made)


def test_a_line_says_when_where_and_what():
    line = record("1.2.3.4:5 connected")
    assert LOG_LINE.fullmatch(line)
    assert line.endswith(" [worker-3] 1.2.3.4:5 connected")
    assert record("x", thread="MainThread").endswith(" [main] x")
    assert record("x", level=logging.ERROR).endswith("] ERROR x")


def test_line_breaks_and_codes_in_a_message_forge_nothing():
    assert record("one\n\x1b[2Jtwo\rthree\u2028four").split("] ")[1] == "one\n  | \\x1b[2Jtwo\\rthree\\u2028four"


def test_a_traceback_has_a_bar_before_each_line():
    try:
        raise ValueError("bad\nnews")
    except ValueError:
        first, *rest = record("failed", error=sys.exc_info()).split("\n")
    assert first.endswith("failed")
    assert all(line.startswith("  | ") for line in rest)
    assert rest[-2:] == ["  | ValueError: bad", "  | news"]


def test_lines_come_out_in_order():
    written = []
    writer = LogWriter(written.append)
    for number in range(1000):
        writer.put(str(number))
    writer.close()
    assert "".join(written).split() == [str(number) for number in range(1000)]


def test_what_nobody_reads_is_dropped_counted_and_said():
    written, entered, go_on = [], threading.Event(), threading.Event()

    def sink(text):
        entered.set()
        assert go_on.wait(10)
        written.append(text)

    writer = LogWriter(sink, limit=10)
    writer.put("first")
    assert entered.wait(10)
    for number in range(25):
        writer.put(str(number))  # Does not block, though nobody reads.
    assert not writer.flush(0.05)
    go_on.set()
    assert writer.flush()
    writer.close()
    lines = "".join(written).splitlines()
    assert lines == ["first", *map(str, range(10)), "  | 15 log lines dropped: whoever reads the log is too slow"]
