"""The exceptions that are ours. What the operating system reports stays an `OSError`: a reset is `ConnectionResetError`."""

from __future__ import annotations

__all__ = [
    "ConnectionEnded",
    "HandlerFailed",
    "MessageTooLong",
    "MessageTruncated",
    "PoolHung",
    "PortClosed",
    "ProactorError",
    "QueueFull",
]


class ProactorError(Exception):
    """The base of them all."""


class ConnectionEnded(ProactorError, ConnectionError):
    """The connection was closed in order, so nothing more can be sent or received on it."""


class MessageTooLong(ProactorError, ValueError):
    """A message was longer than the framing's limit; the connection ends with this."""


class MessageTruncated(ProactorError, EOFError):
    """The peer ended in the middle of a length-prefixed message."""


class HandlerFailed(ProactorError):
    """A handler raised, and the connection ended. `closed(error)` is told the handler's own exception instead."""


class PoolHung(ProactorError, RuntimeError):
    """Every worker has been inside its handler or call for a second, and none has returned: I/O goes on, and new work is refused until one
    returns, instead of queued for ever."""


class PortClosed(ProactorError, RuntimeError):
    """The completion port was closed: nothing comes from it any more, and it takes nothing."""


class QueueFull(ProactorError, RuntimeError):
    """The pool's `queue_limit` is reached, and its `queue_policy` is "raise"."""
