"""One peer, and what a handler may be. The message path is in `_core`; this adds what is asked for rarely."""

from __future__ import annotations

import builtins
import errno
import os
import stat
import sys
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from proactor import _core
from proactor.arguments import seconds, whole_number
from proactor.errors import MessageTooLong

__all__ = ["Connection", "ConnectionStatistics", "Handler", "LengthPrefixed", "Lines"]


@dataclass(frozen=True)
class ConnectionStatistics:
    """A snapshot; all sizes in bytes."""

    received_bytes: int
    sent_bytes: int
    """Taken by the kernel."""
    dropped_bytes: int
    """Accepted by `send`, never taken by the kernel because the connection ended first."""
    messages: int
    """Calls of the `received` handler, and answers of `receive`."""
    inbox_bytes: int
    """Received and waiting for the handler, with some overhead a message."""
    outbox_bytes: int
    """Waiting to be sent."""
    receiving_paused: bool
    open: bool


@_core.own_methods
class Connection(_core.Connection):
    """One peer. Every method is safe from any thread, except `receive`, which is for the connection's own handler.

    `context` is for the user: any value, None at first. As a context manager it closes at the end.
    """

    __slots__ = ("_failure", "context")

    context: Any
    _failure: BaseException | None

    def __init__(self) -> None:
        self.context = None
        self._failure = None

    def send_file(self, file: Any, offset: int = 0, length: int | None = None, *, timeout: float | None = None) -> int:
        """Sends bytes of a file, after everything sent before and before anything sent after, without bringing them into Python.

        `file`: a path, an open file, or anything else with `fileno()`, as `proactor.open` answers it. Its position is neither used nor
        moved, and what a Python file object has not flushed is not seen. The bytes are `length` from `offset` on, or up to the end of the
        file as it is when this is called, where `length` is None or reaches beyond it; beyond the end there are none.

        Blocks until the kernel has them all, the worker's slot free; memory is bounded, however large the file. The kernel sends it by
        itself (sendfile(2)) where it can; else it is read and sent. Safe from any thread: what other threads send meanwhile waits behind
        it, within `send_limit`. The file may be closed at once afterwards, and meanwhile too.

        Where it fails before the first byte was sent, the connection is as it was. After that the peer could not tell the rest from what
        would follow, so the connection is reset, and `closed` told why. The error names the file; its `sent_bytes` says how many bytes
        the kernel had taken.

        Returns:
            How many bytes were sent.

        Raises:
            TimeoutError: it took longer than `timeout` seconds; or the peer took nothing for `send_timeout` seconds, or for one second
                while other work needs the worker, as for `send`.
            OSError: the file cannot be opened or read, or has become shorter meanwhile.
            ConnectionEnded: the connection is closed, or `shutdown_write` was called.
            ConnectionResetError, BrokenPipeError, ...: the connection ended before all was sent.
            IsADirectoryError: it is a directory.
            ValueError: it is a pipe, a socket or a device, which have no offsets; or not open for reading; or a number is negative.
            TypeError: it is no file.
        """
        whole_number("offset", offset, unit="bytes", minimum=0)
        if length is not None:
            whole_number("length", length, unit="bytes", minimum=0, none="up to the end of the file")
        timeout = seconds("timeout", timeout)
        descriptor, name = _open(file)
        try:
            size = _size(descriptor, name)
            there = max(size - offset, 0)
            return self._send_file(descriptor, name, offset, there if length is None else min(length, there), timeout)
        finally:
            os.close(descriptor)

    def statistics(self) -> ConnectionStatistics:
        """What has gone over the connection, and what waits."""
        return ConnectionStatistics(*self._numbers())

    def fail(self, error: BaseException) -> None:
        """Ends the connection because of `error`, which `closed` is told. What is queued is still sent.

        This is what happens to a connection whose handler raises.

        Raises:
            TypeError: `error` is no exception.
        """
        if not isinstance(error, BaseException):
            raise TypeError(f"fail takes an exception, as in connection.fail(ValueError(...)), not {error!r}")
        self._failure = error
        self._handler_failed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _begin_to_end(self) -> None:
        pass

    def _end_with_pool(self, _timeout: float | None) -> None:
        self.abort()

    def _end_broken(self, error: BrokenExecutor) -> None:
        self.fail(error)


class Handler:
    """What a server calls. Override what matters; each method runs on a worker and may block.

    For one connection they are called one at a time, in this order: `connected`, `received` as often as there is
    something, `ended`, `closed`.
    """

    def connected(self, connection: Connection) -> None:
        """A client has connected."""

    def received(self, connection: Connection, data: bytes) -> None:
        """Some bytes have come; with `framing`, one whole message, without its line end or its length."""

    def ended(self, connection: Connection) -> None:
        """The peer will send no more, but may still receive. By default what is queued is sent, and the connection closes.

        Kept open over a Unix socket, it closes when the peer does; over TCP that shows only when something is sent.
        """
        connection.close()

    def sent(self, connection: Connection, count: int) -> None:
        """The kernel has taken `count` bytes since the last call."""

    def closed(self, connection: Connection, error: BaseException | None) -> None:
        """The connection is over; called exactly once. `error` is None after an orderly end."""


@dataclass(frozen=True)
class Lines:
    r"""Framing: one message a line, given without its end (``\n`` or ``\r\n``). A last line without an end counts.

    It is about receiving only: `send` sends the bytes as they are. `connection.send(framing.encode(line))` sends a line with its end.

    `limit`: the longest line in bytes. A longer one ends the connection with `MessageTooLong`, after the lines before it were handled.
    """

    limit: int = 65536

    def __post_init__(self) -> None:
        _check_limit("Lines", self.limit)

    def encode(self, data: Any) -> bytes:
        r"""The line as it is sent: with ``\n`` after it. A ``\r`` at its own end would be taken for a part of that.

        Raises:
            ValueError: there is a ``\n`` in it already, so it would arrive as two; `MessageTooLong` where it is longer than `limit`.
            TypeError: it is not bytes-like.
        """
        length = _length(data, self.limit)
        line = b"".join((data, b"\n"))
        if line.find(b"\n") != length:
            raise ValueError("a line end in the middle of a line: it would arrive as two; split it, and encode each")
        return line

    def _native(self) -> tuple[str, int, int]:
        return "lines", 0, self.limit


@dataclass(frozen=True)
class LengthPrefixed:
    """Framing: each message comes after its length, an unsigned big-endian number of `bytes` bytes (1, 2, 4 or 8), and is given without it.

    It is about receiving only: `send` sends the bytes as they are. `connection.send(framing.encode(message))` sends a message with
    its length.

    `limit`: the longest message in bytes. A longer one ends the connection with `MessageTooLong`, before any memory is spent on it,
    and after the messages before it were handled.
    """

    bytes: int = 4
    limit: int = 16 * 1024 * 1024

    def __post_init__(self) -> None:
        if type(self.bytes) is not int or self.bytes not in (1, 2, 4, 8):
            raise ValueError(f"LengthPrefixed(bytes=...) takes 1, 2, 4 or 8, not {self.bytes!r}")
        _check_limit("LengthPrefixed", self.limit)

    def encode(self, data: Any) -> builtins.bytes:
        """The message as it is sent: with its length before it.

        Raises:
            MessageTooLong: it is longer than `limit`, or than a length of `bytes` bytes can say.
            TypeError: it is not bytes-like.
        """
        length = _length(data, min(self.limit, 256**self.bytes - 1))
        return b"".join((length.to_bytes(self.bytes, "big"), data))

    def _native(self) -> tuple[str, int, int]:
        return "length", self.bytes, self.limit


def _open(file: Any) -> tuple[int, Any]:
    """A descriptor of our own for the file that is to be sent, and what errors call it."""
    if isinstance(file, str | builtins.bytes | os.PathLike):
        # A pipe without a writer would keep us waiting before we could say that it is none to send.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
        _core.block()
        try:
            return os.open(file, flags), file
        except PermissionError:
            if sys.platform == "win32" and os.path.isdir(file):  # which nobody would take for this
                raise _is_a_directory(file) from None
            raise
        finally:
            _core.unblock()
    fileno = getattr(file, "fileno", None)
    if fileno is None:
        raise TypeError(f"send_file takes a path or an open file, as in connection.send_file('page.html'), not {file!r}")
    return os.dup(fileno()), getattr(file, "name", None) or repr(file)


def _is_a_directory(name: Any) -> OSError:
    return IsADirectoryError(errno.EISDIR, "a directory has no bytes to send; send its files one by one", name)


def _size(descriptor: int, name: Any) -> int:
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise _is_a_directory(name)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(
            f"{name!r} is a pipe, a socket or a device: it has no offsets and no end that is known; read it, and send what comes, as in"
            " for block in proactor.open(path).blocks(): connection.send(block)"
        )
    return status.st_size


def _check_limit(framing: str, limit: int) -> None:
    whole_number(f"{framing}(limit=...)", limit, unit="bytes")


def _length(data: Any, limit: int) -> int:
    try:
        length = memoryview(data).nbytes
    except TypeError:
        hint = ": encode the text first, as in framing.encode(text.encode())" if isinstance(data, str) else ""
        raise TypeError(f"a message is bytes, not {type(data).__name__}{hint}") from None
    if length > limit:
        raise MessageTooLong(
            f"a message of {length} bytes, where the framing's limit is {limit}: split it, or raise the limit on both sides"
        )
    return length
