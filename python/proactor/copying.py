"""`copy`: one file's bytes into another, by the kernel where it can, else with requests side by side.

Knows files; knows nothing of pools.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import stat
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from proactor import _core, files
from proactor.arguments import path as path_of
from proactor.arguments import whole_number

__all__ = ["CopyReport", "copy"]

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

# Seconds between two calls of `progress`.
_PROGRESS_EVERY = 0.1
# The kernel copies so many bytes at a time: some ten calls a second on a slow disk.
_CHUNK = 16 << 20
# Errors that say that the kernel cannot copy between these two, and not that copying failed.
_CANNOT = frozenset({errno.EINVAL, errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ETXTBSY})
_FICLONE = 0x40049409


@dataclass(frozen=True)
class CopyReport:
    """What was copied."""

    copied: int
    """Bytes that the target has of the source, holes included."""
    holes: int
    """Of those: bytes in holes, which take no space in the target either."""
    seconds: float
    method: str
    """"reflink" (the target shares the source's blocks), "kernel" (copy_file_range), or "requests" (reads and writes side by side)."""
    source: files.FileStatistics
    """Of the reading side; where the kernel has copied by itself, only the requests that found the source readable, and at its end."""
    target: files.FileStatistics


def copy(
    source: Path,
    target: Path,
    *,
    depth: int = 4,
    block_size: int = files.BLOCK_SIZE,
    progress: Callable[[int, int | None], object] | None = None,
) -> CopyReport:
    """Copies a file's bytes into `target`. One that is not there is made; one that is there is emptied once the source has proved
    readable. Blocks; in a worker with the worker's slot free.

    Between regular files holes stay holes, and the kernel copies by itself where it can. Else `depth` reads and writes are
    outstanding, `block_size` bytes each; memory: at most 3 x `depth` blocks.
    Pipes and devices can be copied from and to. A new target has the source's permissions, less the umask.

    Args:
        progress: called as `progress(copied, total)` on the calling thread, about every tenth of a second and at the end, with
        bytes; `total` is None where the source
            has no size. What it raises ends the copying.

    Raises:
        OSError: with the file's name; what went wrong with reading or writing also says how much was copied before. The source is
        never changed.
        shutil.SameFileError: both are the same file.
        MemoryError: there is none for the blocks. What was copied before stays.
        ValueError, TypeError: a number is out of range; `progress` cannot be called.
    """
    whole_number("depth", depth, unit="requests", maximum=65536)
    whole_number("block_size", block_size, unit="bytes")
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be a function of two numbers, as in progress=lambda copied, total: ..., not {progress!r}")
    source, target = path_of("source", source), path_of("target", target)
    began = time.monotonic()
    with files.open(source, "rb", depth=depth, block_size=block_size) as reader:
        status = os.fstat(reader.fileno())
        refuse_same(source, target, status)
        with _target(target, status, depth, block_size) as writer:
            copying = _Copying(reader, writer, progress)
            method = copying.run()
            reading, writing = reader.statistics(), writer.statistics()
    return CopyReport(copying.copied, copying.holes, time.monotonic() - began, method, reading, writing)


def refuse_same(source: Path, target: Path, status: os.stat_result) -> None:
    try:
        other = os.stat(target)
    except OSError:
        return  # it is not there yet, or opening it says why not
    if os.path.samestat(status, other) and stat.S_ISREG(other.st_mode):
        raise shutil.SameFileError(f"{os.fspath(source)!r} and {os.fspath(target)!r} are the same file: copy to another name")


def _target(target: Path, status: os.stat_result, depth: int, block_size: int) -> files.File:
    """Opened, or made with the source's permissions; not emptied yet.

    A file that was made here must not be cut: ext4 writes what was cut to nothing out to the disk when it is closed, in case that it
    replaces something. That took longer than the copying.
    """
    mode = status.st_mode & 0o777 if stat.S_ISREG(status.st_mode) else 0o666
    return files.open_as(target, os.O_WRONLY | os.O_CREAT, mode, depth=depth, block_size=block_size)


class _Copying:
    def __init__(self, reader: files.File, writer: files.File, progress: Callable[[int, int | None], object] | None) -> None:
        self.reader = reader
        self.writer = writer
        self.progress = progress
        self.copied = 0
        self.holes = 0
        self.total = None if reader._sequential else reader.size
        self._told_at = time.monotonic()
        self._blocks: Iterator[bytes] | None = None

    def run(self) -> str:
        regular = not self.writer._sequential and not self.reader._sequential
        method = "requests"
        try:
            self._begin()
            if regular and self.total:
                method = self._by_kernel()
            # What the kernel has not copied; and whatever the file has grown by meanwhile, or, as those in /proc, had without a size.
            if self.writer._sequential:
                self._in_turn()
            elif method == "requests" or self._has_grown():
                self._side_by_side()
            self._cut()
        except OSError as error:
            raise self._told(error) from error.__cause__
        if self.progress is not None:
            self.progress(self.copied, self.total)
        return method

    def _begin(self) -> None:
        """Empties the target, once the source has proved readable."""
        if self.reader._sequential:
            blocks = self.reader.blocks()
            self._blocks = itertools.chain([next(blocks, b"")], blocks)
        else:
            self.reader.read_at(0, 1).result()
        descriptor = self.writer.fileno()
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_size > 0:
            os.ftruncate(descriptor, 0)

    def _has_grown(self) -> bool:
        """Whether there is more than the kernel has copied. One byte is asked for: there need not be memory for blocks."""
        return bool(self.reader.read_at(self.copied, 1).result())

    def _told(self, error: OSError) -> OSError:
        said = f"{error.strerror}; {self.copied} bytes were copied before"
        return OSError(error.errno, said, error.filename if error.filename is not None else self.writer.name)

    def advance(self, count: int) -> None:
        self.copied += count
        if self.progress is not None:
            now = time.monotonic()
            if now - self._told_at >= _PROGRESS_EVERY:
                self._told_at = now
                self.progress(self.copied, self.total)

    # ---- the kernel copies ----

    def _by_kernel(self) -> str:
        if sys.platform == "win32":
            return "requests"
        source, target = self.reader.fileno(), self.writer.fileno()
        if self._clone(source, target):
            self.advance(self.total or 0)
            return "reflink"
        for begin, end in self._data(source):
            self._skip_to(begin)
            while self.copied < end:
                try:
                    count = self._range(source, target, min(_CHUNK, end - self.copied))
                except OSError as error:
                    if error.errno in _CANNOT:
                        return "requests"
                    raise files.named(error, f"copying at {self.copied}", self.writer.name) from None
                if count == 0:
                    return "kernel" if self.copied else "requests"  # it has shrunk, or the file system only claims to be able to
                self.advance(count)
        self._skip_to(self.total or 0)
        return "kernel"

    def _clone(self, source: int, target: int) -> bool:
        import fcntl

        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError:
            return False  # whatever it is, copying will say
        return True

    def _range(self, source: int, target: int, count: int) -> int:
        _core.block()
        try:
            return os.copy_file_range(source, target, count, self.copied, self.copied)
        finally:
            _core.unblock()

    def _data(self, source: int) -> Iterator[tuple[int, int]]:
        """Where there is data, from the beginning to the end as they were at first."""
        total, position = self.total or 0, 0
        while position < total:
            try:
                begin = os.lseek(source, position, os.SEEK_DATA)
                end = min(os.lseek(source, begin, os.SEEK_HOLE), total)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return  # nothing but a hole follows
                begin, end = position, total
            if begin >= total:
                return
            yield begin, end
            position = end

    def _skip_to(self, position: int) -> None:
        hole = position - self.copied
        if hole > 0:
            self.holes += hole
            self.advance(hole)

    def _cut(self) -> None:
        """Holes at the end are made by the length alone."""
        if not self.writer._sequential and self.holes and self.writer.size < self.copied:
            os.ftruncate(self.writer.fileno(), self.copied)

    # ---- requests ----

    def _rest(self) -> Iterator[bytes]:
        return self._blocks if self._blocks is not None else self.reader.blocks(offset=self.copied)

    def _side_by_side(self) -> None:
        window: deque[tuple[int, Any]] = deque()
        position = self.copied
        try:
            for block in self._rest():
                window.append((len(block), self.writer.write_at(position, block)))
                position += len(block)
                if len(window) >= self.writer._depth:
                    self._written(window)
            while window:
                self._written(window)
        finally:
            for _, request in window:
                request.exception()

    def _written(self, window: deque[tuple[int, Any]]) -> None:
        size, request = window[0]
        request.result()
        window.popleft()
        self.advance(size)

    def _in_turn(self) -> None:
        """To a pipe or a character device."""
        descriptor = self.writer.fileno()
        for block in self._rest():
            rest = memoryview(block)
            while rest:
                _core.block()
                try:
                    count = os.write(descriptor, rest)
                except OSError as error:
                    raise files.named(error, f"writing {len(rest)} bytes", self.writer.name) from None
                finally:
                    _core.unblock()
                rest = rest[count:]
                self.advance(count)
