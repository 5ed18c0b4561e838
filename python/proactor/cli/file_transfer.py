"""What `proactor read` and `proactor copy` have in common: their options, how an error becomes one line, and the report.

Owns the words of both. Knows nothing of how files are read.
"""

import argparse
import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import proactor
from proactor.cli.exit_codes import CommandError, ExitCode
from proactor.cli.options import Options, whole_number
from proactor.cli.sizes import show_size, size
from proactor.cli.text import counted

DEPTH, BLOCK = 4, 256 * 1024

LARGEST_DEPTH, LARGEST_BLOCK = 1024, 1 << 30


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What a transfer did: bytes, seconds, and how they were asked for."""

    path: str
    target: str | None
    bytes: int
    seconds: float
    method: str
    """"requests", "in turn" where there are no offsets, or one of those with which the kernel copies by itself: "kernel", "reflink"."""
    requests: int
    cached: int
    mean_depth: float
    engine: str | None

    def as_text(self, verb: str) -> str:
        """Two lines, the last one ended."""
        rate = f", {show_size(self.bytes / self.seconds)}/s" if self.seconds > 0 else ""
        amount = counted(self.bytes, "byte") + (f" ({show_size(self.bytes)})" if self.bytes >= 1024 else "")
        return f"{verb} {amount} in {self.seconds:.3f} s{rate}\n{self._how()}\n"

    def as_json(self) -> str:
        """One line."""
        values = dataclasses.asdict(self) | {"bytes_per_second": self.bytes / self.seconds if self.seconds > 0 else None}
        return json.dumps(values) + "\n"

    def _how(self) -> str:
        if self.method in _METHODS:
            return _METHODS[self.method]
        cached = f" ({self.cached} answered from memory)" if self.cached else ""
        engine = self.engine or "none was needed"
        return f"{counted(self.requests, 'request')}{cached}, {self.mean_depth:.1f} outstanding on average; engine: {engine}"


def add_transfer_options(options: Options) -> None:
    """How many requests, how large, and what is told about them."""
    options.add("--depth", whole_number(1, LARGEST_DEPTH), DEPTH, metavar="N", meaning="requests outstanding at a time")
    options.add(
        "--block", size(1, LARGEST_BLOCK), BLOCK, shown="256K", metavar="SIZE", meaning="bytes of a request; K, M and G are powers of 1024"
    )
    options.add_switch(
        "--stats",
        meaning="tell at the end how many requests it took, how many were outstanding, the rate and the engine; on standard error where "
        "the bytes go to standard output",
    )
    options.add_switch("--json", meaning="tell the same as a line of JSON")


def check_report_options(options: argparse.Namespace) -> None:
    """Options that would have no effect are mistakes; from the environment they may be there for another command."""
    if {"stats", "json"} <= options.given:
        options.options.error("argument --stats: --json tells the same; leave one of them out")


@contextlib.contextmanager
def telling_errors(what: str, done: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Errors inside become a `CommandError` that begins with `what`, as in "cannot read x", and says how far it came, as `done` answers."""
    try:
        yield
    except OSError as error:
        raise failure(what, error, done()) from error
    except MemoryError as error:
        raise no_memory(what, error, done()) from error
    except ValueError as error:  # PROACTOR_FILES, say, or an offset into a pipe: what the command line names is checked before.
        raise CommandError(f"{what}: {error}", ExitCode.USAGE) from error


def failure(what: str, error: OSError, done: str = "") -> CommandError:
    """One line: what could not be done, why, how far it came, and what to do."""
    hint = _hint(error) if error.filename != "-" else "standard input is /dev/stdin, standard output /dev/stdout"
    return CommandError(f"{what}: {reason(error)}{done and f', after {done}'}{hint and f'; {hint}'}", ExitCode.FAILED)


def _hint(error: OSError) -> str:
    name = os.fsdecode(error.filename or "")
    if error.errno in _UNFIT and os.path.realpath(name).startswith(("/proc/", "/sys/")):
        return "it is one of the kernel's own, which cannot be used so"  # no device has failed
    if error.errno == errno.EISDIR and name and not os.path.isdir(name):
        return "there is no such directory: make it, or name a file"  # it ends with a slash
    return _HINTS.get(error.errno or 0, "")


def no_memory(what: str, error: MemoryError, done: str = "") -> CommandError:
    """One line, as `failure`."""
    why = f"{str(error) or 'there is no memory for it'}{done and f', after {done}'}"
    return CommandError(f"{what}: {why}; choose a smaller --block or --depth", ExitCode.FAILED)


def so_far(done: int) -> str:
    """For `failure`: nothing, if it did not get anywhere."""
    return counted(done, "byte") if done else ""


def reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def sum_of_requests(*files: proactor.FileStatistics) -> dict[str, Any]:
    """Those fields of a `Report` that the files' own statistics tell."""
    requests = sum(file.requests for file in files)
    return {
        "requests": requests,
        "cached": sum(file.cached for file in files),
        "mean_depth": sum(file.mean_depth * file.requests for file in files) / max(requests, 1),
        "engine": next((file.engine for file in files if file.engine is not None), None),
    }


# What the kernel says of its own files, depending on how they were asked for it.
_UNFIT = frozenset({errno.EIO, errno.EINVAL, errno.ESPIPE})

_METHODS = {
    "in turn": "no requests: one block after the other",
    "kernel": "the kernel copied by itself",
    "reflink": "the files share their blocks now",
}

_HINTS = {
    errno.ENOENT: "check the name",
    errno.ENOTDIR: "check the name",
    errno.EISDIR: "name a file in it",
    errno.EACCES: "its owner may permit it (chmod), or run this as somebody who may",
    errno.EPERM: "its owner may permit it (chmod), or run this as somebody who may",
    errno.ENOSPC: "make room, or name a place that has some",
    errno.EDQUOT: "make room, or name a place that has some",
    errno.EFBIG: "raise the limit (ulimit -f), or name a file system that takes larger files",
    errno.EROFS: "name a place that can be written to",
    errno.EMFILE: "raise the limit (ulimit -n)",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENXIO: "a socket is connected to (proactor connect), and a device may not be there",
    errno.ELOOP: "a symbolic link leads back to itself",
    errno.EBADF: "it is closed, or open for reading only: redirect it somewhere",
    errno.EIO: "the device fails: see what the kernel says (dmesg)",
}
