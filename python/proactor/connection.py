"""One peer, and what a handler may be. The message path is in `_core`; this adds what is asked for rarely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from proactor import _core

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

    `context` is for the user: any value, None at first.
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
        """
        self._failure = error
        self._handler_failed()

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
        """Some bytes have come; with `framing`, one whole message."""

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

    `limit`: the longest line in bytes. A longer one ends the connection with `MessageTooLong`.
    """

    limit: int = 65536

    def __post_init__(self) -> None:
        _check_limit(self.limit)

    def _native(self) -> tuple[str, int, int]:
        return "lines", 0, self.limit


@dataclass(frozen=True)
class LengthPrefixed:
    """Framing: each message comes after its length, an unsigned big-endian number of `bytes` bytes (1, 2, 4 or 8), and is given without it.

    `limit`: the longest message in bytes. A longer one ends the connection with `MessageTooLong`, before any memory is spent on it.
    """

    bytes: int = 4
    limit: int = 16 * 1024 * 1024

    def __post_init__(self) -> None:
        if self.bytes not in (1, 2, 4, 8):
            raise ValueError(f"LengthPrefixed(bytes=...) takes 1, 2, 4 or 8, not {self.bytes!r}")
        _check_limit(self.limit)

    def _native(self) -> tuple[str, int, int]:
        return "length", self.bytes, self.limit


def _check_limit(limit: int) -> None:
    if limit < 1:
        raise ValueError(f"limit must be at least 1 byte, not {limit!r}")
