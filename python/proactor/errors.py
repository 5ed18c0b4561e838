"""The exceptions that are ours. What the operating system reports stays an `OSError`: a reset is `ConnectionResetError`."""

from __future__ import annotations

__all__ = [
    "ConnectionEnded",
    "HandlerFailed",
    "MessageCrowdedOut",
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


class MessageCrowdedOut(ProactorError, ConnectionError):
    """Messages that had come in part took more than half of the server's `total_limit`, and this connection's had to go for others: it had
    begun later than they, or more than 30 seconds ago. The connection ends with this; its client may try again."""


class HandlerFailed(ProactorError):
    """A handler raised, and the connection ended. `closed(error)` is told the handler's own exception instead."""


class PoolHung(ProactorError, RuntimeError):
    """All workers have been inside their handlers or calls for the pool's `hung_seconds`: I/O goes on, and new work is refused until one
    returns, instead of queued for ever."""


class PortClosed(ProactorError, RuntimeError):
    """The completion port was closed: nothing comes from it any more, and it takes nothing."""


class QueueFull(ProactorError, RuntimeError):
    """The pool's `queue_limit` is reached, and its `queue_policy` is "raise"."""
