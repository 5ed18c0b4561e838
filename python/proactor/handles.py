"""What can be associated with a pool or a completion port, and what an associated handle shows: its statistics.

Knows the ports, sockets and file objects; knows nothing of pools or workers.
"""

from __future__ import annotations

import errno
import io
import os
import socket
import stat
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from proactor import _core, pipes, platform
from proactor._core import Completion, Handle, Operation

__all__ = ["Associable", "Completion", "ConnectedSocket", "Handle", "HandleStatistics", "Operation", "associate", "associate_with_key"]


@dataclass(frozen=True)
class HandleStatistics:
    """A snapshot of a handle; all sizes in bytes."""

    open: bool
    receives: int
    """Receives of every kind, accepts and reads that are pending."""
    sends: int
    """Sends, connects, shutdowns, writes and syncs that are pending."""
    unsent_bytes: int
    """What the pending sends are to send, and writes to write."""
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
    """Given to receives and reads."""
    sent_bytes: int
    """Taken by the kernel: sent, or written."""


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


Associable = socket.socket | ConnectedSocket | pipes.End | _core.File | IO[bytes]
"""What can be associated: a socket, a pipe's end (Windows), a `proactor.File`, or a binary file object with a descriptor."""


def associate(port: _core.Port, handle: Associable, fn: Callable[[Completion], object]) -> Handle:
    """As `ThreadPool.associate`, on a port."""
    if not callable(fn):
        raise TypeError(f"fn must be a callable that takes a completion, not {type(fn).__name__}")
    if isinstance(handle, ConnectedSocket | pipes.End | socket.socket):
        return _associate_socket(port.engine, handle, lambda kind: port.associate(handle, kind, fn))
    return _associate_file(handle, lambda owned: port.associate_file(owned, fn))


def associate_with_key(port: _core.CompletionPort, handle: Associable, key: Any) -> Handle:
    """As `CompletionPort.associate`."""
    if isinstance(handle, ConnectedSocket | pipes.End | socket.socket):
        return _associate_socket(port.engine, handle, lambda kind: port._associate(handle, kind, key))
    return _associate_file(handle, lambda owned: port._associate_file(owned, key))


# ---- files ----

_handles: weakref.WeakKeyDictionary[Any, weakref.ref[Handle]] = weakref.WeakKeyDictionary()
"""Which handle a file object has, so that it gets no second one."""
_owners: dict[int, tuple[weakref.ref[Any], weakref.ref[Handle]]] = {}
"""Which file object a descriptor was associated by, and its handle: a buffered file and its `raw` have the same."""
_sockets: dict[int, weakref.ref[Handle]] = {}
"""The handle that a socket's descriptor belongs to: a second socket object may have it."""
# Guards these, and that a file object is associated once.
_lock = threading.Lock()


def _nothing() -> None:
    return None


def _associate_file(file: Any, make: Callable[[tuple[int, Any, bool]], Handle]) -> Handle:
    descriptor = _descriptor(file)
    name = getattr(file, "name", descriptor)
    flush = getattr(file, "flush", None)
    if flush is not None and not file.closed:
        flush()  # what its buffer holds is in the file before any operation
    with _lock:
        known = _handles.get(file)
        before = None if known is None else known()
        if before is not None and not before.closed:
            raise ValueError(f"{name!r} is associated already: close its handle first, or open the file once more for another port")
        owner, other = (known() for known in _owners.get(descriptor, (_nothing, _nothing)))
        if owner is not None and other is not None and not owner.closed and owner.fileno() == descriptor and not other.closed:
            raise ValueError(
                f"{name!r} is associated already, by another object of descriptor {descriptor}: close that handle first, or open the file "
                "once more for another port"
            )
        handle = make((descriptor, name, isinstance(file, _core.File) and file._direct))
        _handles[file] = weakref.ref(handle)
        _owners[descriptor] = weakref.ref(file), weakref.ref(handle)
    return handle


def _descriptor(file: Any) -> int:
    """The descriptor of a file that has offsets; raises for everything else."""
    kind = type(file).__name__
    if isinstance(file, Handle):
        raise ValueError(
            "the handle is associated already: it belongs to one pool and its operations to one function, or to one completion port"
        )
    if isinstance(file, int):
        raise TypeError(
            f"{kind}: a bare descriptor has no owner; give the object that it belongs to, or os.fdopen(descriptor, 'rb', closefd=False)"
        )
    if isinstance(file, io.TextIOBase) or isinstance(getattr(file, "file", None), io.TextIOBase):
        raise TypeError(f"{kind}: files are read and written as bytes; open it in a binary mode, such as 'rb', or with proactor.open")
    if not isinstance(file, _core.File | io.IOBase) and not isinstance(getattr(file, "file", None), io.IOBase):
        raise TypeError(f"{kind} is no handle: give a socket.socket, a file of proactor.open, or a binary file object")
    try:
        descriptor = file.fileno()
    except io.UnsupportedOperation:
        raise TypeError(f"{kind} has no descriptor, so there is nothing for the kernel to do: give a file that is open") from None
    if isinstance(file, io.BufferedIOBase) and not isinstance(file, io.BufferedReader | io.BufferedWriter | io.BufferedRandom):
        raise TypeError(f"{kind} has other bytes than the file below it, which the kernel would read and write: associate that file itself")
    # On Windows a socket's number is none of the C library's, or that of another file.
    of_socket = isinstance(getattr(file, "raw", file), socket.SocketIO)
    mode = 0 if of_socket else os.fstat(descriptor).st_mode
    if of_socket or stat.S_ISSOCK(mode):
        raise ValueError(f"{kind} is a socket's: associate the socket itself")
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        name = getattr(file, "name", kind)
        raise ValueError(f"{name!r} is neither a file nor a disk, so it has no offsets: call_when of a ThreadPool waits for pipes")
    return int(descriptor)


def _forked() -> None:
    """In the child: closes the descriptors that handles have of their own."""
    global _lock
    _lock = threading.Lock()  # a thread that is gone may hold it
    for known in list(_handles.values()):
        handle = known()
        if handle is not None:
            handle._forked()
    _handles.clear()
    _owners.clear()
    _sockets.clear()


platform.in_child_of_fork(_forked)


# ---- sockets ----


def _associate_socket(engine: str, handle: socket.socket | ConnectedSocket | pipes.End, make: Callable[[str], Handle]) -> Handle:
    if isinstance(handle, ConnectedSocket):
        if engine != "simulated":  # its number may be that of a socket of this machine's
            raise ValueError(
                f"the socket is a simulated network's, and the engine here is {engine!r}: associate it with that network's own"
            )
        return make(_kind_of(handle))
    if engine == "simulated":
        raise ValueError(
            "the engine is the simulated network, which has sockets of its own only (proactor.testing): for this machine's sockets leave "
            "engine, and PROACTOR_ENGINE in the environment, out"
        )
    with _lock:
        kind, descriptor = _kind_of(handle), handle.fileno()
        if isinstance(handle, pipes.End):
            return make(kind)
        known = _sockets.get(descriptor, _nothing)()
        if known is not None and not known.closed:
            raise ValueError(f"descriptor {descriptor} belongs to a handle already, which took it over from another socket object")
        made = make(kind)
        _sockets[descriptor] = weakref.ref(made)
    return made


def _kind_of(handle: socket.socket | ConnectedSocket | pipes.End) -> str:
    """What the port calls it; raises for what cannot be associated."""
    if handle.fileno() < 0:
        what = "end of a pipe" if isinstance(handle, pipes.End) else "socket"
        raise ValueError(f"the {what} is closed, or a pool or port has taken it over: a handle is associated once")
    return _kind(handle) if isinstance(handle, socket.socket) else handle.kind


def _kind(handle: socket.socket) -> str:
    """What the port calls such a socket; raises for what cannot be associated."""
    if type(handle).__module__ == "ssl":
        raise ValueError(
            "the socket is an SSLSocket: its bytes would be sent past its encryption; associate the plain socket, before it is wrapped"
        )
    names = {socket.AF_INET: "tcp", socket.AF_INET6: "tcp", platform.UNIX: "unix"}
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
