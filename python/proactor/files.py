"""Files whose requests are under way while the program goes on: `open`, `File`.

Knows the native requests and their futures; knows nothing of pools.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import io
import os
import stat
import sys
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from proactor import _core, platform
from proactor.arguments import flag, whole_number
from proactor.arguments import path as path_of
from proactor.futures import NativeFuture, log, publish

__all__ = ["File", "FileRequest", "FileStatistics", "open"]

BLOCK_SIZE = 256 * 1024
_LARGEST_BLOCK = 1 << 30
# No file reaches further.
_END = 2**63 - 1
# Seconds after which a block that is next is late: a disk that is at work has long brought it.
_LATE = 0.01

_MODES = {
    "rb": os.O_RDONLY,
    "r+b": os.O_RDWR,
    "wb": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "w+b": os.O_RDWR | os.O_CREAT | os.O_TRUNC,
    "xb": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    "x+b": os.O_RDWR | os.O_CREAT | os.O_EXCL,
    "ab": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
}


@dataclass(frozen=True)
class FileStatistics:
    """A snapshot of a file; sizes in bytes."""

    engine: str | None
    """What does the requests that are not answered from memory: "io_uring", on Windows "overlapped", or "threads"; None while no file
    of the process was in need of it and PROACTOR_FILES has forced none. Short reads past the page cache (`direct`) are, on Linux, given
    to the kernel by the thread that asks, whichever of these it is, unless PROACTOR_FILES says "threads"."""
    requests: int
    """Submitted so far."""
    cached: int
    """Of those: answered from memory at once, by the thread that asked."""
    outstanding: int
    """Of those: not complete yet, and not given up by a `blocks` that ended before."""
    most_outstanding: int
    mean_depth: float
    """How many were outstanding when one was submitted, itself included, in the mean."""
    failed: int
    cancelled: int
    read_bytes: int
    written_bytes: int


class FileRequest(_core.Transfer, NativeFuture):  # type: ignore[override]
    """What `read_at`, `readinto_at` and `write_at` answer: a `concurrent.futures.Future` that completes without the interpreter.

    Safe from any thread. Functions that `add_done_callback` was given are called by one thread of the library's, one after the other. They
    may wait for other requests with `result` and `exception`; `concurrent.futures.wait` would wait for that very thread.
    """

    def cancel(self) -> bool:
        """Cancels the request if the kernel does not have it yet. After True it never begins, and its buffer is its owner's again."""
        if self.done():
            return self.cancelled()
        cancelled = self._cancel(False)
        if cancelled is None:
            condition, waiters = self._waited()
            with condition:
                cancelled = self._cancel(True)
                if cancelled:
                    for waiter in waiters:
                        waiter.add_cancelled(self)
                    condition.notify_all()
        if cancelled:
            self._invoke_callbacks()
        return cancelled or self.cancelled()

    def add_done_callback(self, fn: Any) -> None:
        """As in the standard library: called once the request is complete or was cancelled, at once if it is already."""
        super().add_done_callback(fn)
        _start_teller()

    def set_running_or_notify_cancel(self) -> bool:
        """For executors, and the kernel is none: raises RuntimeError unless the request was cancelled, then answers False."""
        if self.cancelled():
            return False
        raise RuntimeError("a file's request is begun by its file only")

    def set_result(self, result: Any) -> None:  # noqa: ARG002
        """Raises RuntimeError: the kernel says what a request has brought."""
        raise RuntimeError("a file's request is completed by the kernel only")

    def set_exception(self, exception: BaseException | None) -> None:  # noqa: ARG002
        """As `set_result`."""
        raise RuntimeError("a file's request is completed by the kernel only")

    def _waited(self) -> tuple[threading.Condition, list[Any]]:
        waited = self._inflated()
        if waited is None:
            waited = self._inflate(threading.Condition(), [])
            _start_teller()
        return waited


@_core.own_methods
class File(_core.File):
    """An open file. `proactor.open` makes it; a context manager, which closes it. Safe from any thread.

    Requests are independent of each other: those that overlap, one of them a write, have no order unless one waits for the other.
    """

    _depth: int
    _block_size: int
    _sequential: bool

    def blocks(self, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The file's bytes in order, in blocks of `block_size`, the last one shorter, from `offset` on: `length` bytes, or up to the end.

        `depth` requests are outstanding meanwhile, also while the caller is at a block. Where one is late, others that complete before it
        are followed by more, and wait for their turn. Memory: at most 2 x `depth` blocks and the one that the caller still has, however
        large the file; `depth` + 2 where they complete in turn. Pipes and character devices are read one block after the other, as much
        as there is at a time. Of a file that changes meanwhile the blocks are what was there when each was read; it ends with the first
        that is not whole.

        Raises:
            OSError: from the iterator: a read failed.
            MemoryError: from the iterator: there is none for another block.
            TypeError: a number is no whole number.
            ValueError: the file is closed; a number is negative. With a pipe or a character device: `offset` is not 0.
        """
        whole_number("offset", offset, unit="bytes", minimum=0)
        if length is not None:
            whole_number("length", length, unit="bytes", minimum=0, none="up to the end of the file")
        if self._sequential:
            if offset:
                raise ValueError(
                    f"{self.name!r} is a pipe or a character device, which is read from where it is: leave offset 0, not {offset}"
                )
            return self._in_turn(self._hold(), length)
        self.fileno()  # closed: say so now
        return self._side_by_side(offset, length)

    def _in_turn(self, held: _core.HeldFile, length: int | None) -> Iterator[bytes]:
        while length is None or length > 0:
            wanted = self._block_size if length is None else min(self._block_size, length)
            _core.block()
            try:
                block = os.read(held.fileno(), wanted)
            except OSError as error:
                raise named(error, "reading", self.name) from None
            finally:
                _core.unblock()
            if not block:
                return
            if length is not None:
                length -= len(block)
            yield block

    def _side_by_side(self, position: int, length: int | None) -> Iterator[bytes]:
        window: deque[tuple[int, FileRequest]] = deque()
        end = _END if length is None else min(position + length, _END)
        # Beyond what is known of the file one request at a time looks whether there is more.
        known = self.size

        def fill(limit: int) -> None:
            nonlocal position
            while len(window) < limit and position < end and (not window or position < known):
                wanted = min(self._block_size, end - position)
                window.append((wanted, self.read_at(position, wanted)))
                position += wanted

        try:
            while True:
                fill(self._depth)
                if not window:
                    return
                wanted, request = window[0]
                self._await_first(window, fill)
                block = request.result()
                window.popleft()
                del request
                if len(block) == wanted:
                    fill(self._depth)  # so many are outstanding while the caller is at his block, too
                if block:
                    yield block
                if len(block) < wanted:
                    return
                del block
        finally:
            # Nobody waits for them: they own their memory, and a disk that hangs must not keep whoever interrupts the reading.
            for _, request in window:
                self._give_up(request)

    def _await_first(self, window: deque[tuple[int, FileRequest]], fill: Callable[[int], None]) -> None:
        """Waits for the first request; while it is late, each other one that completes is followed by another, as far as memory goes.

        That they come in turn is what is usual, so it costs nothing before the first one is late: a Python thread tells of the others.
        """
        first, most = window[0][1], 2 * self._depth - 1
        if self._depth == 1 or _telling.here:  # whoever tells of requests can only wait for one
            return
        if not first._perform_here():
            with contextlib.suppress(TimeoutError):
                first.exception(_LATE)
        while not first.done() and len(window) < most:
            pending = [request for _, request in window if not request.done()]
            before = len(window)
            fill(min(most, before + self._depth - len(pending)))
            if len(window) > before:
                continue  # those may be complete already
            if len(pending) == 1:
                return  # the file has no more
            _core.block()
            try:
                concurrent.futures.wait(pending, platform.at_a_time(None), return_when=concurrent.futures.FIRST_COMPLETED)
            finally:
                _core.unblock()

    def read(self, *, offset: int = 0, length: int | None = None) -> bytes:
        """All of it, or `length` bytes from `offset` on, fewer at the end of the file. Blocks; in a worker with the worker's slot free.

        Raises:
            OSError, MemoryError, TypeError, ValueError: as `blocks`.
        """
        return b"".join(self.blocks(offset=offset, length=length))

    @property
    def size(self) -> int:
        """Bytes, as of now.

        Raises:
            io.UnsupportedOperation: a pipe or a character device has no size.
            ValueError: the file is closed.
        """
        held = self._hold()
        descriptor = held.fileno()
        if self._sequential:
            raise io.UnsupportedOperation(f"{self.name!r} is a pipe or a character device, which has no size")
        status = os.fstat(descriptor)
        return os.lseek(descriptor, 0, os.SEEK_END) if stat.S_ISBLK(status.st_mode) else status.st_size

    def statistics(self) -> FileStatistics:
        """A snapshot; also after `close`."""
        return FileStatistics(*self._numbers())

    def __enter__(self) -> Self:
        self.fileno()  # closed: raises ValueError, as Python's own files do
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        # An attribute that is missing: making it failed.
        if not self.closed and hasattr(self, "_depth"):
            warnings.warn(
                f"unclosed file {self!r}: use it in a with statement, or call close()", ResourceWarning, stacklevel=2, source=self
            )

    def __repr__(self) -> str:
        return f"<File {self.name!r}{' closed' if self.closed else ''}>"


def open(  # noqa: A001
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    mode: str = "rb",
    *,
    depth: int = 4,
    block_size: int = BLOCK_SIZE,
    direct: bool = False,
) -> File:
    """Opens a file whose reads and writes are requests: each answers a future without waiting for a device, and many may be under way.

    Args:
        mode: "rb", "r+b", "wb", "w+b", "xb", "x+b" or "ab", as the built-in `open` has them.
        depth: so many requests `blocks` and `read` keep outstanding; 1 to 65536.
        block_size: bytes a block of `blocks`; 1 to 1 GiB.
        direct: bypass the page cache (O_DIRECT; on Windows FILE_FLAG_NO_BUFFERING). Reads may begin and end anywhere: what surrounds
        them is read too, and they are copied. Writes must
            begin and end at multiples of 512 bytes, or of what the device asks for.

    Raises:
        OSError: it cannot be opened; `direct` where the file system has no such thing. Where the kernel refuses io_uring, threads
        read and write
            instead, unless the environment's PROACTOR_FILES says "io_uring": then this raises.
        ValueError: an unknown mode, a number out of range, or another PROACTOR_FILES than "io_uring" (on Windows "overlapped") and
        "threads".
        TypeError: an argument of another type.
    """
    whole_number("depth", depth, unit="requests", maximum=65536)
    whole_number("block_size", block_size, unit="bytes", maximum=_LARGEST_BLOCK)
    path = path_of("path", path)
    flags = _flags(mode)
    # On Windows the core opens the file once more, and so past the cache.
    if flag("direct", direct) and not platform.DIRECT and sys.platform != "win32":
        raise OSError(errno.EINVAL, f"{platform.name()} has no O_DIRECT: leave direct=True out", path)
    return open_as(path, flags, 0o666, depth=depth, block_size=block_size, direct=direct)


def open_as(path: Any, flags: int, permissions: int, *, depth: int, block_size: int, direct: bool = False) -> File:
    """`open` with the flags and permissions of open(2), and numbers that were checked."""
    name = os.fspath(path)
    if direct:
        flags |= platform.DIRECT
    _core.block()
    try:
        descriptor = os.open(name, flags | platform.BINARY, permissions)
    except OSError as error:
        if direct and error.errno == errno.EINVAL:
            raise OSError(errno.EINVAL, "the file system does not support direct=True (O_DIRECT): leave it out", name) from None
        if sys.platform == "win32" and os.path.isdir(name):  # EACCES, which nobody would take for this
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name) from None
        raise
    finally:
        _core.unblock()
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        positional = (stat.S_ISREG(kind) or stat.S_ISBLK(kind)) and _has_offsets(descriptor)
        access = flags & platform.ACCESS_MODE
    except BaseException:
        os.close(descriptor)
        raise
    rights = (access != os.O_WRONLY, access != os.O_RDONLY, positional, direct and positional, bool(flags & os.O_APPEND))
    file = File(descriptor, name, FileRequest, rights)
    file._depth, file._block_size, file._sequential = depth, block_size, not positional
    _open_files.add(file)
    return file


def _has_offsets(descriptor: int) -> bool:
    """Some of the kernel's own files say that they are regular, and are streams."""
    try:
        os.lseek(descriptor, 0, os.SEEK_CUR)
    except OSError as error:
        if error.errno == errno.ESPIPE:
            return False
        raise
    return True


def _flags(mode: str) -> int:
    if not isinstance(mode, str):
        raise TypeError(f"mode must be a string such as 'rb', not {mode!r}")
    usual = mode.replace("b+", "+b")
    if usual in _MODES:
        return _MODES[usual]
    hint = f": did you mean {usual}b? Files are read and written as bytes" if f"{usual}b" in _MODES else ""
    raise ValueError(f"mode must be one of {', '.join(_MODES)}; not {mode!r}{hint}")


def named(error: OSError, doing: str, name: Any) -> OSError:
    """The same error with what was done, and to which file."""
    return OSError(error.errno, f"{doing}: {error.strerror}", name)


def _start_teller() -> None:
    """Somebody waits for a request in the standard library's ways, and has to be told by a Python thread."""
    if _core.teller_wanted():
        try:
            threading.Thread(target=_tell, name="proactor-files").start()
        except BaseException:
            _core.teller_missing()
            raise


class _Telling(threading.local):
    here = False


_telling = _Telling()
"""Whether the thread is the one that tells of requests."""


def _tell() -> None:
    _telling.here = True
    while (request := _core.next_told()) is not None:
        try:
            publish(request)
        except BaseException:
            log.exception("exception telling that %r is complete", request)
        del request


_open_files: weakref.WeakSet[File] = weakref.WeakSet()


def _forked() -> None:
    """In the child: closes what it shares with its parent."""
    _core.files_forked()
    for file in list(_open_files):
        file._forked()
    _open_files.clear()


platform.in_child_of_fork(_forked)
threading._register_atexit(_core.files_finish)  # type: ignore[attr-defined]
