"""`proactor read`: a file's bytes, in order, to standard output or another file. Owns where they go, and when that may be touched."""

import argparse
import errno
import os
import select
import stat
import time
from collections.abc import Iterator
from typing import Any

import proactor
from proactor.cli.exit_codes import CommandError, ExitCode
from proactor.cli.file_transfer import (
    Report,
    add_transfer_options,
    check_report_options,
    failure,
    so_far,
    sum_of_requests,
    telling_errors,
)
from proactor.cli.interruption import Interruption, ending_at_once
from proactor.cli.options import Help, Options, text
from proactor.cli.output import OutputLost, reader_has_gone, write_result
from proactor.cli.progress import ProgressBar, can_show_progress
from proactor.cli.sizes import size
from proactor.cli.standard_streams import refuse_closed
from proactor.cli.terminal import is_terminal
from proactor.cli.text import counted
from proactor.platform import BINARY

STANDARD_OUTPUT = "-"


def add_parser(commands: Any, epilog: str) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "read",
        help="read a file with several requests outstanding",
        description="Writes a file's bytes, unchanged and in order, to standard output or to a file. Several requests are outstanding at a "
        "time, and whichever completes first is followed by the next. With --output FILE and a terminal, a bar shows how far it is. "
        "A reader of the output that has had enough ends it quietly.",
        epilog=epilog,
        formatter_class=Help,
    )
    parser.add_argument("path", metavar="PATH", help="the file; a pipe or a device may be named too, and /dev/stdin")
    options = Options(parser)
    options.add("--offset", size(), 0, metavar="SIZE", meaning="where to begin, in bytes from the file's beginning")
    options.add("--length", size(), None, shown="to the end", metavar="SIZE", meaning="how many bytes at most")
    options.add(
        "--output",
        text,
        None,
        shown="standard output, but no binary data to a terminal",
        metavar="FILE",
        meaning="where to write; - is standard output, whatever the data",
    )
    add_transfer_options(options)
    parser.set_defaults(run=run, options=options)


def run(options: argparse.Namespace) -> int:
    """Reads, writes, reports; the exit status is 0 if every byte arrived."""
    check_report_options(options)
    refuse_closed(options.path, f"cannot read {options.path}")
    output = Output(options.output)
    started = time.monotonic()
    with ending_at_once(lambda: output.interrupted(options.path)) as interruption:
        with telling_errors(f"cannot read {options.path}"):
            file = proactor.open(options.path, "rb", depth=options.depth, block_size=options.block)
        with file:
            output.copy_from(file, options, interruption)
            statistics = file.statistics()
    report = Report(
        options.path,
        output.path,
        output.written,
        time.monotonic() - started,
        "requests" if statistics.requests or not output.written else "in turn",
        **sum_of_requests(statistics),
    )
    if options.json or options.stats:
        output.report(report.as_json() if options.json else report.as_text("read"))
    return ExitCode.OK


class Output:
    """Where the bytes go: standard output, or a file that is not touched before there is something to write to it."""

    def __init__(self, name: str | None) -> None:
        self.path = name if name not in (None, STANDARD_OUTPUT) else None
        self.written = 0
        self._may_be_binary = name is not None
        self._shown = self.path or "standard output"
        self._bar: ProgressBar | None = None

    def copy_from(self, file: proactor.File, options: argparse.Namespace, interruption: Interruption) -> None:
        """Writes the part of `file` that the options name.

        Raises:
            CommandError: it could not be read or written to its end.
            BrokenPipeError: whoever read the output has gone.
        """
        blocks = self._reading(file, options)
        block = next(blocks, b"")
        if not self._may_be_binary and b"\0" in block and is_terminal(1):
            raise CommandError(
                f"{options.path} is binary, and might upset the terminal: write it to a file with --output FILE, or add --output -",
                ExitCode.FAILED,
            )
        descriptor = self._open(options.path)
        try:
            if can_show_progress(descriptor):
                self._bar = ProgressBar(options.path, expected(options))
            while block:
                self._write(descriptor, block, interruption)
                block = next(blocks, b"")
        finally:
            self.end_bar()
            self._close(descriptor)

    def end_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def interrupted(self, source: str) -> str:
        """How far it came, for the process's last line. Safe from any thread."""
        if self._bar is not None:
            self._bar.abandon()
        return f"interrupted: {counted(self.written, 'byte')} of {source} had been written"

    def report(self, text: str) -> None:
        """On standard output, unless the bytes went there."""
        if self.path is not None:
            return write_result(text)
        try:
            os.write(2, text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise OutputLost(f"cannot write to standard error: {error.strerror}") from None

    def _reading(self, file: proactor.File, options: argparse.Namespace) -> Iterator[bytes]:
        with telling_errors(f"cannot read {options.path}", lambda: so_far(self.written)):
            yield from file.blocks(offset=options.offset, length=options.length)

    def _open(self, source: str) -> int:
        if self.path is None:
            self._refuse_source(source, 1)
            return 1
        refuse_closed(self.path, f"cannot write to {self.path}")
        with telling_errors(f"cannot write to {self.path}"):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOCTTY", 0) | BINARY, 0o666)
            try:
                # Truncated only now that it is known not to be the source, under whatever name.
                self._refuse_source(source, descriptor)
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    os.ftruncate(descriptor, 0)
            except BaseException:
                os.close(descriptor)
                raise
        return descriptor

    def _refuse_source(self, source: str, descriptor: int) -> None:
        """Writing into what is being read would destroy it, or never end."""
        try:
            target = os.fstat(descriptor)
            same = stat.S_ISREG(target.st_mode) and os.path.samestat(os.stat(source), target)
        except OSError:  # It was removed since it was opened, and so is another. Or there is no standard output, which writing tells.
            return
        if same:
            meanwhile = "it is the file that is read, and would be overwritten meanwhile"
            raise CommandError(f"cannot write to {self._shown}: {meanwhile}; name another", ExitCode.FAILED)

    def _write(self, descriptor: int, block: bytes, interruption: Interruption) -> None:
        rest = memoryview(block)
        while rest:
            try:
                count = os.write(descriptor, rest)
            except BlockingIOError:  # Somebody made the descriptor non-blocking.
                select.select([], [descriptor], [])
                continue
            except OSError as error:
                if reader_has_gone(error, descriptor):
                    raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from None
                self.end_bar()
                error.filename = self.path
                raise failure(f"cannot write to {self._shown}", error, so_far(self.written)) from error
            self.written += count
            rest = rest[count:]
            interruption.settle()
        if self._bar is not None:
            self._bar.update(self.written)

    def _close(self, descriptor: int) -> None:
        if descriptor == 1:
            return
        try:
            os.close(descriptor)
        except OSError as error:  # A file system over a network writes only now.
            raise failure(f"cannot write to {self._shown}", error) from error


def expected(options: argparse.Namespace) -> int | None:
    """How many bytes there are to read, as far as that can be known before."""
    length: int | None = options.length
    try:
        status = os.stat(options.path)
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:  # Files of /proc are empty by their size.
        return length
    rest = max(status.st_size - int(options.offset), 0)
    return rest if length is None else min(rest, length)
