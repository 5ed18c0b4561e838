"""For tests of handlers: a network in memory, peers that do what the test says, faults on request, and a clock that only the test moves.

    with proactor.testing.Network() as network:
        server = network.serve(MyHandler, idle_timeout=60)
        peer = network.connect(server)
        peer.send(b"hello")
        assert peer.receive(5) == b"HELLO"
        network.advance(61)
        assert peer.receive_to_end() == b""

Handlers run on real workers; what they are called for, and when, comes from the network. Seed 0 is a well-behaved network; any other seed
splits and merges what is sent, shortens writes and delays completions as a real one may.
"""

from __future__ import annotations

import itertools
import time
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from proactor import _core, platform
from proactor.handlers import HandlerLike
from proactor.handles import Completion, ConnectedSocket
from proactor.listener import Listening
from proactor.pool import ThreadPool
from proactor.port import CompletionPort
from proactor.server import Server, serve

__all__ = ["Correspondent", "Network", "Peer", "PortNetwork", "WaitableObject"]

Operation: TypeAlias = Literal[
    "adopt", "associate", "accept", "accept_paused", "accept_some", "connect", "receive", "send", "shutdown_write", "watch", "wait"
]

_PATIENCE = 10.0
"""Seconds of real time after which something that was waited for is a failure."""


class Peer:
    """The other end of a connection, made by `Network.connect`. Safe from any thread; only the `receive` methods and `wait_reset` wait."""

    def __init__(self, core: _core.Peer) -> None:
        self._core = core
        self._received = bytearray()

    def send(self, data: bytes) -> None:
        """Sends; nothing happens once the connection is over.

        Raises:
            ValueError: the peer has called `finish`.
        """
        self._core.send(data)

    def finish(self) -> None:
        """Has finished sending (FIN), and still receives."""
        self._core.finish()

    def reset(self) -> None:
        """Resets the connection."""
        self._core.reset()

    def accept(self) -> None:
        """Answers an attempt to connect (of `Network.socket`), the next one if there is none."""
        self._core.accept()

    def refuse(self, errno: int) -> None:
        """As `accept`, with an error."""
        self._core.refuse(errno)

    @property
    def is_asked(self) -> bool:
        """Whether an attempt to connect waits for an answer."""
        return self._core.is_asked

    def fail(self, errno: int) -> None:
        """Lets the connection die of an error of the network's: `errno.EHOSTUNREACH`, say."""
        self._core.fail(errno)

    def set_window(self, size: int) -> None:
        """How many bytes come through before the peer takes them by receiving; without limit at first."""
        self._core.set_window(size)

    def receive(self, count: int, timeout: float = _PATIENCE) -> bytes:
        """Exactly `count` bytes, or fewer if the server's side ends before.

        Raises:
            TimeoutError: they did not come within `timeout` seconds of real time.
        """
        self._take(count, timeout)
        data = bytes(self._received[:count])
        del self._received[:count]
        return data

    def receive_to_end(self, timeout: float = _PATIENCE) -> bytes:
        """Everything until the server's side has finished sending.

        Raises:
            ConnectionResetError: it has reset the connection instead.
            TimeoutError: it did not end within `timeout` seconds of real time.
        """
        self._take(None, timeout)
        if self.was_reset:
            raise ConnectionResetError("the server's side has reset the connection")
        data = bytes(self._received)
        self._received.clear()
        return data

    def wait_reset(self, timeout: float = _PATIENCE) -> None:
        """Waits until the server's side has reset the connection.

        Raises:
            TimeoutError: it did not within `timeout` seconds of real time, or ended in order.
        """
        self._take(None, timeout)
        if not self.was_reset:
            raise TimeoutError("the server's side has ended in order, and not reset the connection")

    def _take(self, count: int | None, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            over = self.ended or self.was_reset  # before the bytes, so that none comes between the two
            self._received += self._core.received()
            if over or (count is not None and len(self._received) >= count):
                return
            left = deadline - time.monotonic()
            if left <= 0 or not self._core.wait(left):
                wanted = "the end" if count is None else f"{count} bytes"
                got = f"{len(self._received)} bytes did: {bytes(self._received[:50])!r}"
                raise TimeoutError(f"{wanted} did not come within {timeout} seconds; {got}")

    @property
    def ended(self) -> bool:
        """Whether the server's side has finished sending."""
        return self._core.ended

    @property
    def was_reset(self) -> bool:
        """Whether the server's side has reset the connection."""
        return self._core.was_reset


class Correspondent:
    """Everybody that a datagram socket writes to, and gets something from, made by `Network.datagrams`.

    Safe from any thread; never blocks.
    """

    def __init__(self, core: _core.Correspondent) -> None:
        self._core = core

    def send(self, data: bytes, sender: str | None = None) -> None:
        """Sends one datagram, from an address such as "192.0.2.1:10000"."""
        self._core.send(data, sender)

    def fail(self, errno: int) -> None:
        """Lets a receive fail, after the datagrams before it."""
        self._core.fail(errno)

    def received(self) -> list[tuple[bytes, str | None]]:
        """What has come since the last call, and for which address; None: for the socket's peer."""
        return self._core.received()

    def set_room(self, datagrams: int) -> None:
        """How many datagrams are taken before `received` is called; at first any number."""
        self._core.set_room(datagrams)


class WaitableObject:
    """Something for `ThreadPool.call_when`, made by `Network.waitable`; the test says when it is signalled.

    Safe from any thread; never blocks.
    """

    _is_waited_for_by_number = True  # on Windows too, where that of a file would be none to wait for

    def __init__(self, descriptor: int, core: _core.Signal) -> None:
        self._descriptor = descriptor
        self._core = core

    def fileno(self) -> int:
        """The descriptor, of the network it was made by."""
        return self._descriptor

    def set(self) -> None:
        """Signals it, until `clear`."""
        self._core.set(True)

    def clear(self) -> None:
        """From here on it is not signalled."""
        self._core.set(False)


class Network:
    """A network, its clock, and a pool whose workers serve it; a context manager that closes the servers and ends the pool.

    Arguments:
        seed: 0 is the well-behaved network; every other one misbehaves in its own way.
        options: those of `ThreadPool`; `concurrency` is 1 if nothing else is said.
    """

    def __init__(self, seed: int = 0, **options: Any) -> None:
        self._core = _core.Network(seed)
        self._descriptors: dict[Server, int] = {}
        self._ports = itertools.count(10_000)
        self.pool = ThreadPool(engine=self._core, **{"concurrency": 1, **options})

    def serve(self, handler: HandlerLike, **options: Any) -> Server:
        """A server on this network, with the options of `proactor.serve`. Its address is invented."""
        descriptor = self._core.listen()
        server = serve(handler, Listening(descriptor, ("192.0.2.1", next(self._ports))), pool=self.pool, **options)
        self._descriptors[server] = descriptor
        return server

    def connect(self, server: Server) -> Peer:
        """A client of the server; each has a port of its own on 192.0.2.2.

        Raises:
            ConnectionRefusedError: the server does not listen any more.
        """
        return Peer(self._core.connect(self._descriptors[server], f"192.0.2.2:{next(self._ports)}"))

    def pair(self) -> tuple[ConnectedSocket, Peer]:
        """A connected socket for `pool.associate`, and its peer."""
        descriptor, peer = self._core.pair()
        return ConnectedSocket(descriptor), Peer(peer)

    def socket(self) -> tuple[ConnectedSocket, Peer]:
        """A stream socket for `pool.associate` that is not connected, and the peer that it will have, which answers for every address."""
        descriptor, peer = self._core.socket()
        return ConnectedSocket(descriptor, "unconnected tcp"), Peer(peer)

    def listener(self) -> ConnectedSocket:
        """A listening socket for `pool.associate`; `connect_to` makes its clients."""
        return ConnectedSocket(self._core.listen(), "listener")

    def connect_to(self, handle: int) -> Peer:
        """A client of the listening socket with that number (its `fileno()` before it was associated).

        Raises:
            ConnectionRefusedError: it does not listen any more.
        """
        return Peer(self._core.connect(handle, f"192.0.2.2:{next(self._ports)}"))

    def datagrams(self) -> tuple[ConnectedSocket, Correspondent]:
        """A datagram socket for `pool.associate`, and everybody else."""
        descriptor, others = self._core.datagrams()
        return ConnectedSocket(descriptor, "datagram"), Correspondent(others)

    def waitable(self) -> WaitableObject:
        """Something for `pool.call_when`; not signalled at first."""
        return WaitableObject(*self._core.object())

    @property
    def now(self) -> float:
        """The clock, in seconds: timers, `idle_timeout` and the end of a closing connection go by it. Calls that wait go by real time."""
        return self._core.now

    def advance(self, seconds: float) -> None:
        """Moves the clock."""
        self._core.advance(seconds)

    def settle(self, timeout: float = _PATIENCE) -> None:
        """Waits until everything that has happened on the network was handled. Handlers that block are not waited for.

        Raises:
            TimeoutError: it did not come to rest within `timeout` seconds of real time.
        """
        deadline = time.monotonic() + timeout
        while self._core.wait_quiet(max(0.0, deadline - time.monotonic())):
            # One worker may sleep in the engine while another is still in its handler.
            numbers = self.pool.statistics()
            if numbers.running == 0 and numbers.queued == 0:
                return
            time.sleep(0.001)
        raise TimeoutError(f"the network did not come to rest within {timeout} seconds")

    def fail_next(self, operation: Operation, errno: int) -> None:
        """Lets the next such operation fail with the given error number. "accept" loses its client, "accept_paused" keeps it waiting."""
        self._core.fail_next(operation, platform.kernels_number(errno))

    def need_pending_accepts(self) -> None:
        """From here on accepts have to be pending, as on Windows. Call it before `serve`."""
        self._core.need_pending_accepts()

    def pending_accepts(self, server: Server) -> int:
        """How many accepts are pending."""
        return self._core.pending_accepts(self._descriptors[server])

    def close(self) -> None:
        """Closes the servers and ends the pool's workers. Idempotent."""
        for server in list(self._descriptors):
            server.close()
        self.pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


class PortNetwork:
    """A network, its clock, and a completion port on it; a context manager that closes the port.

        with proactor.testing.PortNetwork() as network:
            connected, peer = network.pair()
            handle = network.port.associate(connected, "key")
            handle.receive()
            peer.send(b"hello")
            assert [completion.value for completion in network.completions()] == [b"hello"]

    Arguments:
        seed: 0 is the well-behaved network; every other one misbehaves in its own way.
        concurrency: the port's; 1 if nothing else is said.
    """

    def __init__(self, seed: int = 0, *, concurrency: int = 1) -> None:
        self._core = _core.Network(seed)
        self.port = CompletionPort(concurrency, engine=self._core)

    def pair(self) -> tuple[ConnectedSocket, Peer]:
        """A connected socket for `port.associate`, and its peer."""
        descriptor, peer = self._core.pair()
        return ConnectedSocket(descriptor), Peer(peer)

    def completions(self) -> list[Completion]:
        """What has come about and nobody has got: looks, as `get(0)` does, until nothing comes any more."""
        found: list[Completion] = []
        misses = 0
        # A network that misbehaves may bring nothing the first few times.
        while misses < 20:
            try:
                found.append(self.port.get(0))
                misses = 0
            except TimeoutError:
                misses += 1
        return found

    @property
    def now(self) -> float:
        """The clock, in seconds. `get` does not go by it: calls that wait go by real time."""
        return self._core.now

    def advance(self, seconds: float) -> None:
        """Moves the clock."""
        self._core.advance(seconds)

    def fail_next(self, operation: Operation, errno: int) -> None:
        """As `Network.fail_next`."""
        self._core.fail_next(operation, platform.kernels_number(errno))

    def close(self) -> None:
        """Closes the port. Idempotent."""
        self.port.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()
