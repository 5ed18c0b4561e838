"""`proactor copy`: one file's bytes to another. Owns what is said about it; how the bytes go is `proactor.copy`'s business."""

import argparse
import os
import stat
import time
from typing import Any

import proactor
from proactor.cli.exit_codes import CommandError, ExitCode
from proactor.cli.file_transfer import (
    Report,
    add_transfer_options,
    check_report_options,
    failure,
    no_memory,
    so_far,
    sum_of_requests,
)
from proactor.cli.interruption import ending_at_once
from proactor.cli.options import Help, Options
from proactor.cli.output import write_result
from proactor.cli.progress import ProgressBar, can_show_progress
from proactor.cli.standard_streams import refuse_closed
from proactor.cli.text import counted


def add_parser(commands: Any, epilog: str) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "copy",
        help="copy a file with several requests outstanding",
        description="Copies a file's bytes to another, which is made or overwritten. Holes stay holes where the file system has them. "
        "At a terminal a bar shows how far it is.",
        epilog=epilog,
        formatter_class=Help,
    )
    parser.add_argument("source", metavar="SOURCE", help="the file; a pipe or a device may be named too, and /dev/stdin")
    parser.add_argument("target", metavar="TARGET", help="the file to write; /dev/stdout is standard output")
    options = Options(parser)
    add_transfer_options(options)
    options.add_switch("--quiet", meaning="no bar")
    parser.set_defaults(run=run, options=options)


def run(options: argparse.Namespace) -> int:
    """Copies, and reports; the exit status is 0 if every byte arrived."""
    check_report_options(options)
    check_paths(options.source, options.target)
    progress = Progress(options.source, shown=not options.quiet and can_show_progress(None))
    started = time.monotonic()
    try:
        with ending_at_once(lambda: progress.interrupted(options.target)) as interruption:

            def update(copied: int, total: int | None) -> None:
                progress.update(copied, total)
                interruption.settle()

            done = proactor.copy(options.source, options.target, depth=options.depth, block_size=options.block, progress=update)
    except OSError as error:
        progress.end()
        raise failure(what_failed(options, error), error) from error  # It tells itself how much was copied.
    except MemoryError as error:
        progress.end()
        raise no_memory(f"cannot copy {options.source}", error, so_far(progress.copied)) from error
    except ValueError as error:
        raise CommandError(f"cannot copy {options.source}: {error}", ExitCode.USAGE) from error
    progress.end()
    report = Report(
        options.source, options.target, done.copied, time.monotonic() - started, done.method, **sum_of_requests(done.source, done.target)
    )
    if options.json or options.stats:
        write_result(report.as_json() if options.json else report.as_text("copied"))
    return ExitCode.OK


def check_paths(source: str, target: str) -> None:
    """What is better said in the words of a command line. A file that changes from now on gets the library's words."""
    refuse_closed(source, f"cannot read {source}")
    refuse_closed(target, f"cannot write to {target}")
    try:
        status = os.stat(target)
        same = os.path.samestat(status, os.stat(source))
    except OSError:  # The copy finds out.
        return
    if stat.S_ISDIR(status.st_mode):
        name = os.path.join(target, os.path.basename(source))
        raise CommandError(f"cannot write to {target}: it is a directory; name the file in it: {name}", ExitCode.FAILED)
    if same:
        raise CommandError(f"{source} and {target} are the same file; name another to copy to", ExitCode.FAILED)


class Progress:
    """How far the copy is, as `proactor.copy` tells it, and the bar that shows it."""

    def __init__(self, source: str, *, shown: bool) -> None:
        self.copied = 0
        self._total: int | None = None
        self._bar = ProgressBar(source, None) if shown else None

    def update(self, copied: int, total: int | None) -> None:
        self.copied, self._total = copied, total
        if self._bar is not None:
            self._bar.update(copied, total)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def interrupted(self, target: str) -> str:
        """How far it came, for the process's last line. Safe from any thread."""
        if self._bar is not None:
            self._bar.abandon()
        return f"interrupted: {self.amount()} had been copied; {target} is not complete"

    def amount(self) -> str:
        return counted(self.copied, "byte") if self._total is None else f"{self.copied} of {counted(self._total, 'byte')}"


def what_failed(options: argparse.Namespace, error: OSError) -> str:
    """The error's file tells whether it was read or written."""
    if error.filename == options.source:
        return f"cannot read {options.source}"
    if error.filename == options.target:
        return f"cannot write to {options.target}"
    return f"cannot copy {options.source} to {options.target}"
