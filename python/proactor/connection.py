"""One peer, and what a handler may be. The message path is in `_core`; this adds what is asked for rarely."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from proactor import _core
from proactor.arguments import whole_number
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

    def _end_with_pool(self) -> None:
        self.abort()


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
