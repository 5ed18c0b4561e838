"""What can be associated with a pool or a completion port, and what an associated handle shows: its statistics.

Knows the ports; knows nothing of pools or workers.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proactor import _core
from proactor._core import Completion, Handle, Operation

__all__ = ["Completion", "ConnectedSocket", "Handle", "HandleStatistics", "Operation", "associate", "associate_with_key"]


@dataclass(frozen=True)
class HandleStatistics:
    """A snapshot of a handle; all sizes in bytes."""

    open: bool
    receives: int
    """Receives of every kind and accepts that are pending."""
    sends: int
    """Sends, connects and shutdowns that are pending."""
    unsent_bytes: int
    """What the pending sends are to send."""
    kept_bytes: int
    """Received, and not asked for yet."""
    untold: int
    """Completions that wait for their call."""
    completed: int
    """Operations that are complete, with or without an error."""
    failed: int
    """Of those: with an error."""
    cancelled: int
    """Of those: with ECANCELED."""
    received_bytes: int
    """Given to receives."""
    sent_bytes: int
    """Taken by the kernel."""


class ConnectedSocket:
    """A socket that is none of this machine's: of a simulated network, in tests. Connected, if `kind` does not say something else."""

    def __init__(self, descriptor: int, kind: str = "tcp") -> None:
        self._descriptor = descriptor
        self.kind = kind

    def fileno(self) -> int:
        """The network's number; -1 once a pool or port has taken it over."""
        return self._descriptor

    def detach(self) -> int:
        """Gives the number away."""
        descriptor, self._descriptor = self._descriptor, -1
        return descriptor


def associate(port: _core.Port, handle: socket.socket | ConnectedSocket, fn: Callable[[Completion], object]) -> Handle:
    """As `ThreadPool.associate`, on a port."""
    if not callable(fn):
        raise TypeError(f"fn must be a callable that takes a completion, not {type(fn).__name__}")
    return port.associate(handle, _kind_of(handle), fn)


def associate_with_key(port: _core.CompletionPort, handle: socket.socket | ConnectedSocket, key: Any) -> Handle:
    """As `CompletionPort.associate`."""
    return port._associate(handle, _kind_of(handle), key)


def _kind_of(handle: socket.socket | ConnectedSocket) -> str:
    """What the port calls it; raises for what cannot be associated."""
    if isinstance(handle, ConnectedSocket | socket.socket):
        if handle.fileno() < 0:
            raise ValueError("the socket is closed, or a pool or port has taken it over: a handle is associated once")
        return handle.kind if isinstance(handle, ConnectedSocket) else _kind(handle)
    if isinstance(handle, Handle):
        raise ValueError(
            "the handle is associated already: it belongs to one pool and its operations to one function, or to one completion port"
        )
    if callable(getattr(handle, "fileno", None)) or isinstance(handle, int):
        raise NotImplementedError(
            f"{type(handle).__name__}: only sockets can be associated so far. "
            "Files have proactor.open, and no CompletionPort yet; call_when of a ThreadPool waits for a pipe"
        )
    raise TypeError(f"{type(handle).__name__} is no handle: give a socket.socket")


def _kind(handle: socket.socket) -> str:
    """What the port calls such a socket; raises for what cannot be associated."""
    if type(handle).__module__ == "ssl":
        raise ValueError(
            "the socket is an SSLSocket: its bytes would be sent past its encryption; associate the plain socket, before it is wrapped"
        )
    names = {socket.AF_INET: "tcp", socket.AF_INET6: "tcp", getattr(socket, "AF_UNIX", None): "unix"}
    if handle.family not in names:
        raise ValueError(f"{handle!r} is neither an IPv4, IPv6 nor Unix socket")
    if handle.type == socket.SOCK_DGRAM:
        return "datagram"
    if handle.type != socket.SOCK_STREAM:
        raise ValueError(f"{handle!r} is neither a stream nor a datagram socket")
    if handle.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "listener"
    try:
        handle.getpeername()
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        return "unconnected " + names[handle.family]
    return names[handle.family]
