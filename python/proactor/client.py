"""Connections that we make ourselves, and the pool of those that are given none. Knows nothing of servers."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable
from functools import partial

from proactor import pipes, platform
from proactor.arguments import seconds
from proactor.connection import Connection, LengthPrefixed, Lines
from proactor.handlers import HandlerLike, handler_methods
from proactor.limits import check_pool, limits
from proactor.listener import Address, connect_to
from proactor.pool import ThreadPool

__all__ = ["connect"]


def connect(
    address: Address,
    handler: HandlerLike,
    *,
    pool: ThreadPool | None = None,
    timeout: float | None = None,
    framing: Lines | LengthPrefixed | None = None,
    idle_timeout: float | None = None,
    send_timeout: float | None = 30.0,
    receive_limit: int = 256 * 1024,
    send_limit: int = 1024 * 1024,
    keepalive: bool = True,
    no_delay: bool = True,
) -> Connection:
    """Connects to `address`, waiting at most `timeout` seconds, and calls `handler` for what comes.

    `address` is as for `serve`, or a connected socket, which the connection takes over; after an error it is still the caller's.
    Connections without a `pool` share one, which is made for the first of them and ends after the last one's `closed`.
    The other arguments are those of `serve`.

    Raises:
        OSError: what the kernel said, with the address in its text; TimeoutError after `timeout` seconds.
        ValueError, TypeError: an argument is wrong; the text says which and how.
    """
    checked = limits(framing, idle_timeout, send_timeout, receive_limit, send_limit, keepalive, no_delay)
    timeout = seconds("timeout", timeout)
    check_pool(pool, "one that all connections without a pool share")
    methods = handler_methods(handler)
    connected = connect_to(address, timeout)
    before = connected.gettimeout()
    shared = None
    try:
        peer = _peer_text(connected, address)
        connected.setblocking(False)
        if pool is None:
            shared = _SharedPool.join()
            pool = shared.pool
            methods["closed"] = partial(_closed, shared, methods["closed"])
        port, _workers = pool.start()
        group = checked.group(port, methods)

        def attach() -> Connection:
            # It keeps what it is given or closes it: of a socket that is to stay the caller's after an error it gets a copy.
            descriptor = socket.dup(socket.socket.fileno(connected)) if connected is address else connected.detach()
            attached: Connection = port.attach(descriptor, peer, group)
            return attached

        # A shutdown of the caller's pool that came in between would abort the copy, and the caller's socket with it. The shared one lasts.
        connection = pool.join_in(attach) if shared is None else attach()
        if connected is address:
            socket.close(connected.detach())
    except BaseException:
        if connected is address:
            connected.settimeout(before)
        else:
            connected.close()
        if shared is not None:
            shared.leave()
        raise
    return connection


class _SharedPool:
    """The pool of the connections that were given none, from the first of them to the last."""

    # Guards _current and every _users.
    _lock = threading.Lock()
    _current: _SharedPool | None = None

    def __init__(self) -> None:
        self.pool = ThreadPool(thread_name_prefix="proactor-connect")
        self._users = 0

    @classmethod
    def join(cls) -> _SharedPool:
        with cls._lock:
            if cls._current is None:
                cls._current = cls()
            cls._current._users += 1
            return cls._current

    def leave(self) -> None:
        """The last one ends the pool; its worker may do so."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            if _SharedPool._current is self:
                _SharedPool._current = None
        self.pool.shutdown(wait=False)

    @classmethod
    def forked(cls) -> None:
        cls._lock, cls._current = threading.Lock(), None


platform.in_child_of_fork(_SharedPool.forked)


def _closed(shared: _SharedPool, closed: Callable[..., object] | None, connection: Connection, error: BaseException | None) -> None:
    """The user's `closed`, and then the connection needs its pool no more."""
    try:
        if closed is not None:
            closed(connection, error)
    finally:
        shared.leave()


def _peer_text(connected: socket.socket | pipes.End, address: Address) -> str:
    try:
        name = connected.getpeername()
    except OSError:
        raise ConnectionResetError(errno.ECONNRESET, f"{address} accepted the connection and reset it at once") from None
    if isinstance(name, tuple) and len(name) == 4:
        # The zone by its number: by its name ("fe80::1%eth0") the core could not read the address.
        zone = f"%{name[3]}" if name[3] else ""
        return f"[{name[0].partition('%')[0]}{zone}]:{name[1]}"
    if isinstance(name, tuple):
        return f"{name[0]}:{name[1]}"
    return os.fsdecode(name)
