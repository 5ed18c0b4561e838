"""Addresses: what users write, as sockets. Binds and listens; knows nothing of connections."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from typing import Any, TypeAlias

from proactor import pipes, platform
from proactor.pipes import PipeName

__all__ = ["Address", "Listening", "bind", "connect_to", "parse"]

Address: TypeAlias = "str | tuple[str, int] | tuple[str, int, int, int] | socket.socket | Listening"

Target: TypeAlias = "tuple[str, int] | tuple[str, int, int, int] | str | PipeName"

_HOW = 'write ("127.0.0.1", 60001), "127.0.0.1:60001", "[::1]:60001", ":60001" for every address, "unix:/path", or "pipe:name" on Windows'


class Listening:
    """A listener that is no socket of this machine's: of a simulated network, in tests.

    Has the few methods of a socket that a server uses.
    """

    family = socket.AF_INET

    def __init__(self, descriptor: int, name: tuple[str, int]) -> None:
        self._descriptor = descriptor
        self._name = name

    def getsockname(self) -> tuple[str, int]:
        return self._name

    def detach(self) -> int:
        return self._descriptor

    def close(self) -> None:
        """Its network owns it."""


def parse(address: object, how: str = _HOW) -> Target:
    """`(host, port)`, for IPv6 with flow and scope where they were given, the path of a Unix socket, or the name of a
    pipe. `how`: how the user may write one.

    Raises:
        ValueError: it is no address; the text says how to write one.
        TypeError: it is not even a string or a tuple.
    """
    if isinstance(address, str):
        if address.startswith("unix:"):
            path = address.removeprefix("unix:")
            if not path:
                raise ValueError(f"{address!r} has no path: {how}")
            if "\0" in path[1:]:
                raise ValueError(f"{address!r} has a NUL byte in its path; only an abstract name begins with one")
            if len(os.fsencode(path)) > 107:
                raise ValueError(f"the path of a Unix socket may have 107 bytes; {path!r} has {len(os.fsencode(path))}")
            return path
        if address.startswith(pipes.PREFIX):
            return PipeName.parse(address, how)
        host, separator, port = address.rpartition(":")
        if not separator or not port.isascii() or not port.isdigit():
            raise ValueError(f"{address!r} is no address: {how}")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{address!r}: put an IPv6 address into brackets, as in [::1]:60001")
        return host, _port(int(port), address)
    if isinstance(address, tuple):
        return _parse_tuple(address, how)
    raise TypeError(f"an address is a string, a tuple or a bound socket, not {type(address).__name__}: {how}")


def _parse_tuple(address: tuple[Any, ...], how: str) -> Target:
    if len(address) not in (2, 4) or not isinstance(address[0], str) or not all(type(number) is int for number in address[1:]):
        raise ValueError(f"{address!r} is no address: {how}")
    host, port = address[0], _port(address[1], address)
    if len(address) == 2:
        return host, port
    flow, scope = address[2:]
    if not (0 <= flow < 2**20 and 0 <= scope < 2**32):
        raise ValueError(f"{address!r}: after host and port come IPv6's flow, below 2**20, and the scope, below 2**32; mostly both are 0")
    return host, port, flow, scope


def _port(port: int, address: object) -> int:
    if not 0 <= port <= 65535:
        raise ValueError(f"{address!r}: a port is a number from 0 (any free one) to 65535")
    return port


def bind(address: Address, *, backlog: int, reuse_port: bool) -> socket.socket | Listening | pipes.End:
    """A listening socket at `address`. A bound socket is taken as it is, and is made to listen.

    Raises:
        OSError: what the kernel said, with the address in its text.
    """
    if isinstance(address, Listening):
        return address
    if isinstance(address, socket.socket):
        if address.type != socket.SOCK_STREAM:
            raise ValueError("a server needs a stream socket (SOCK_STREAM)")
        address.listen(backlog)
        return address
    target = parse(address)
    if isinstance(target, str):
        return _bind_unix(target, backlog)
    if isinstance(target, PipeName):
        try:
            return pipes.listen(target)
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on {_show_target(target)}: {error.strerror}") from None
    host, port, *_ = target
    family, resolved = _resolve(target)
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        platform.listen_exclusively(listening, reuse_port=reuse_port)
        listening.bind(resolved)
        listening.listen(backlog)
    except OSError as error:
        listening.close()
        raise OSError(error.errno, f"cannot listen on {_show(host, port)}: {error.strerror}") from None
    return listening


def _bind_unix(path: str, backlog: int) -> socket.socket:
    try:
        listening = socket.socket(platform.unix_sockets(), socket.SOCK_STREAM)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on unix:{show_path(path)}: {error.strerror}") from None
    try:
        try:
            listening.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_abandoned(path):
                raise
            os.unlink(path)  # a server that died left it behind
            listening.bind(path)
        listening.listen(backlog)
    except OSError as error:
        listening.close()
        raise OSError(error.errno, f"cannot listen on unix:{show_path(path)}: {error.strerror}") from None
    return listening


def _is_abandoned(path: str) -> bool:
    """Whether the file is that of a socket which nobody has any more."""
    try:
        if path.startswith("\0") or not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
        with socket.socket(platform.unix_sockets(), socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # a living server's backlog may be full, which is told as BlockingIOError
            probe.connect(path)
    except ConnectionRefusedError:
        return not _is_bound(path)
    except OSError:
        return False
    return False


def _is_bound(path: str) -> bool:
    """Whether some socket of that name is about to listen: it refuses clients as that of a dead server does.

    From Linux' /proc/net/unix, which has names as they were bound: a relative one is found only if it was written alike.
    """
    names = {os.fsencode(path), os.fsencode(os.path.abspath(path))}
    try:
        with open("/proc/net/unix", "rb") as file:
            # "Num RefCount Protocol Flags Type St Inode Path"; St 01: not connected. (An accepted one has its listener's name too.)
            sockets = [line.rstrip(b"\n").split(maxsplit=7) for line in file]
    except OSError:
        return False
    return any(len(fields) == 8 and fields[5] == b"01" and fields[7] in names for fields in sockets)


def connect_to(address: Address, timeout: float | None) -> socket.socket | pipes.End:
    """A socket, or a pipe's end, connected to `address`; a connected socket as it is, which stays the caller's until it is taken over.

    Raises:
        OSError: what the kernel said, with the address in its text; TimeoutError after `timeout` seconds.
        ValueError: a socket that is not connected, or no stream.
    """
    if isinstance(address, Listening):
        raise TypeError(f"connect takes an address or a connected socket, not {address!r}")
    if isinstance(address, socket.socket):
        _check_connected(address)
        return address
    target = parse(address)
    try:
        if isinstance(target, str):
            return _connected(platform.unix_sockets(), target, timeout)
        if isinstance(target, PipeName):
            return pipes.connect(target, timeout)
        if len(target) == 2:
            return socket.create_connection(target, timeout)
        family, resolved = _resolve(target)
        return _connected(family, resolved, timeout)
    except TimeoutError:
        raise TimeoutError(errno.ETIMEDOUT, f"{_show_target(target)} did not answer within {timeout} seconds") from None
    except socket.gaierror as error:
        raise OSError(error.errno, f"no address is known for {_show_target(target)}: {error.strerror}") from None
    except OSError as error:
        raise OSError(error.errno, f"cannot connect to {_show_target(target)}: {error.strerror}") from None


def _connected(family: int, target: Any, timeout: float | None) -> socket.socket:
    connected = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == platform.UNIX:
            _connect_unix(connected, target, timeout)
        else:
            connected.settimeout(timeout)
            connected.connect(target)
    except BaseException:
        connected.close()
        raise
    return connected


def _connect_unix(connecting: socket.socket, path: str, timeout: float | None) -> None:
    """Where the backlog is full, Linux has a non-blocking connect fail at once, and tells nobody when there is room: unix(7), EAGAIN.

    So it blocks, for as long as it may send: socket(7), SO_SNDTIMEO, a `struct timeval`.
    """
    if timeout is not None:
        microseconds = max(1, round(timeout * 1e6))
        connecting.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", *divmod(microseconds, 1_000_000)))
    try:
        connecting.connect(path)
    except BlockingIOError:
        raise TimeoutError from None
    if timeout is not None:
        connecting.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, bytes(struct.calcsize("ll")))
    connecting.settimeout(timeout)


def _check_connected(given: socket.socket) -> None:
    if given.type != socket.SOCK_STREAM:
        raise ValueError("connect needs a stream socket (SOCK_STREAM)")
    try:
        given.getpeername()
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        pending = given.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if pending:
            raise OSError(pending, f"the socket's connection is over already: {os.strerror(pending)}") from None
        raise ValueError("the socket is not connected: connect it first, or give connect the address instead") from None


def _resolve(target: tuple[str, int] | tuple[str, int, int, int]) -> tuple[int, Any]:
    """The family, and the address as the kernel takes it."""
    host, port, *flow_and_scope = target
    resolved: Any
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise OSError(errno.EADDRNOTAVAIL, f"no address is known for {host!r}: {error}") from None
    # Without a host every IPv4 address is meant: that is what an unspecific address has always been. Flow and scope are IPv6's.
    first = socket.AF_INET6 if flow_and_scope else socket.AF_INET
    found.sort(key=lambda entry: entry[0] != first if flow_and_scope or not host else 0)
    family, _, _, _, resolved = found[0]
    if flow_and_scope and family == socket.AF_INET6:
        flow, scope = flow_and_scope
        resolved = (*resolved[:2], flow, scope or resolved[3])
    return family, resolved


def _show(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def show_path(path: str) -> str:
    """The path of a Unix socket for a log or an error: an abstract name with "@", as ss(8) writes it; what is not text escaped."""
    return path.replace("\0", "@").encode("utf-8", "backslashreplace").decode()


def _show_target(target: Target) -> str:
    if isinstance(target, PipeName):
        return f"{pipes.PREFIX}{show_path(target.name)}"
    return f"unix:{show_path(target)}" if isinstance(target, str) else _show(*target[:2])
