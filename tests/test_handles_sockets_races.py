"""Races of the socket operations: cancel against completion, close against accept and connect; and what must not be left."""

import collections
import errno
import gc
import random
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Self

import pytest

import proactor
from peers import TIMEOUT, Told, eventually
from platforms import LINUX, RACE_ROUNDS, WINE, descriptor_count, resident_bytes

MakePool = Callable[..., proactor.ThreadPool]

CANARY = b"\xcc" * 64


class Rounds:
    """Two threads that do one thing each at the same moment, again and again."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2)
        self._other: Callable[[], object] | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while True:
            self._barrier.wait(TIMEOUT)
            if self._other is None:
                return
            self._other()
            self._barrier.wait(TIMEOUT)

    def race(self, one: Callable[[], object], other: Callable[[], object]) -> None:
        self._other = other
        self._barrier.wait(TIMEOUT)
        one()
        self._barrier.wait(TIMEOUT)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._other = None
        if self._thread.is_alive() and not self._barrier.broken:
            self._barrier.wait(TIMEOUT)
        self._thread.join(TIMEOUT)


def rounds() -> Iterator[int]:
    yield from range(1, RACE_ROUNDS + 1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_receive_into_memory_that_is_cancelled_at_the_last_moment_writes_nothing_afterwards(make_pool: MakePool) -> None:
    """Fault 31. Either it completes with the bytes, or it is cancelled and the next receive gets them: never both, never neither."""
    ours, theirs = socket.socketpair()
    told = Told()
    handle = make_pool(concurrency=2).associate(ours, told)
    memory = bytearray(CANARY + bytes(8) + CANARY)
    with theirs, Rounds() as two:
        for number in rounds():
            data = number.to_bytes(8, "little")
            memory[64:72] = bytes(8)
            operation = handle.receive_into(memoryview(memory)[64:72])
            two.race(operation.cancel, lambda data=data: theirs.sendall(data))  # type: ignore[misc]
            completion = told.next()
            assert completion.operation is operation
            if completion.error is None:
                assert completion.value == 8
                assert memory[64:72] == data
            else:
                assert completion.error.errno == errno.ECANCELED
                handle.receive()
                assert told.value() == data
                assert memory[64:72] == bytes(8)
            assert memory.startswith(CANARY)
            assert memory.endswith(CANARY)
            memory.append(0)  # nobody holds it
            memory.pop()
    assert told.queue.empty()
    assert handle.statistics().kept_bytes == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_client_of_an_accept_that_is_cancelled_at_the_last_moment_is_not_lost(make_pool: MakePool) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    address = listener.getsockname()
    told = Told()
    handle = make_pool(concurrency=2).associate(listener, told)
    before = descriptor_count()
    with Rounds() as two:
        for _ in rounds():
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # no TIME_WAIT: there are many
            operation = handle.accept()
            two.race(operation.cancel, lambda client=client: client.connect(address))  # type: ignore[misc]
            completion = told.next()
            assert completion.operation is operation
            if completion.error is not None:
                assert completion.error.errno == errno.ECANCELED
                handle.accept()
                completion = told.next()
            accepted, peer = completion.value
            assert peer == client.getsockname()
            accepted.close()
            client.close()
    assert told.queue.empty()
    assert eventually(lambda: descriptor_count() == before, "no descriptor is left")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_connects_that_are_cancelled_or_closed_complete_once_and_leave_nothing(make_pool: MakePool) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    address = listener.getsockname()
    listener.setblocking(False)
    told = Told()
    pool = make_pool(concurrency=2)
    gc.collect()
    before = descriptor_count()
    with Rounds() as two:
        for number in rounds():
            random.seed(number)
            ours = socket.socket()
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            handle = pool.associate(ours, told)
            operations = [handle.connect(address), handle.receive(), handle.send(b"x")]
            end = random.choice([handle.cancel, handle.close, operations[0].cancel])
            two.race(end, handle.statistics)
            handle.close()
            told_of = [told.next() for _ in operations]
            assert {completion.operation for completion in told_of} == set(operations)
            for completion in told_of:
                assert completion.error is None or completion.error.errno in (errno.ECANCELED, errno.ENOTCONN)
            take_all(listener)
            del handle, operations, end, told_of, completion
    listener.close()
    assert told.queue.empty()
    assert eventually(lambda: descriptor_count() == before - 1, "no descriptor is left")
    assert pool.statistics().handles == 0


def take_all(listener: socket.socket) -> None:
    """Accepts and closes whoever is there."""
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return
        except OSError as error:
            if not WINE or error.errno != errno.WSAENOTCONN:  # there it is no client any more after its reset
                raise


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("end", ["close", "cancel"])
def test_a_send_that_ends_at_the_last_moment_says_exactly_how_much_has_gone_out(make_pool: MakePool, end: str) -> None:
    """With a peer that reads slowly at first, and takes the rest while the handle is closed or the send cancelled."""
    told = Told()
    pool = make_pool(concurrency=2)
    data = bytes(400_000)  # more than the socket holds
    taken: collections.Counter[str] = collections.Counter()
    with Rounds() as two:
        for number in rounds():
            random.seed(number)
            ours, theirs = socket.socketpair()
            if not LINUX:  # a pair of TCP's, which holds more
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            with theirs:
                handle = pool.associate(ours, told)
                operation = handle.send(data)
                arrived = 0
                while arrived < random.randrange(len(data)):
                    arrived += len(theirs.recv(65536))
                read = 0

                def drain(theirs: socket.socket = theirs, before: int = arrived) -> None:
                    nonlocal read
                    while before + read < len(data) and (piece := theirs.recv(100_000)):
                        read += len(piece)

                if end == "close":
                    two.race(handle.close, drain)
                else:
                    two.race(lambda operation=operation, handle=handle: (operation.cancel(), handle.shutdown()), drain)  # type: ignore[misc]
                completion = told.next()
                assert completion.operation is operation
                # On Windows a copy of the next 64 KiB counts as sent, which a close may drop.
                dropped = 0 if LINUX or end == "cancel" else 65536
                assert 0 <= completion.value - (arrived + read) <= dropped
                assert (completion.error is None) == (completion.value == len(data))
                assert completion.error is None or completion.error.errno == errno.ECANCELED
                assert handle.statistics().sent_bytes == completion.value
                taken["all" if completion.error is None else "a part"] += 1
                if end == "cancel":
                    told.next()  # the shutdown
                    handle.close()
    assert taken["all"], taken
    assert taken["a part"], taken


def test_clients_that_nobody_took_are_closed_with_the_listener_or_the_pool() -> None:
    """Completions hold them until somebody is told, and whoever is told owns them; what is never told is closed."""
    before = descriptor_count()
    for number in range(50):
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        taken = []

        def told(completion: proactor.Completion, taken: list[socket.socket] = taken) -> None:
            if completion.error is None:
                taken.append(completion.value[0])

        pool = proactor.ThreadPool()
        handle = pool.associate(listener, told)
        for _ in range(3):
            handle.accept()
        clients = [socket.create_connection(address, TIMEOUT) for _ in range(5)]
        if number % 2:
            handle.close()
        else:
            handle.cancel()
        pool.shutdown()
        for one in (*clients, *taken):
            one.close()
        del handle, pool
    gc.collect()
    assert eventually(lambda: descriptor_count() == before, "no descriptor is left")


def test_many_operations_of_each_kind_leave_no_memory(make_pool: MakePool) -> None:
    pool = make_pool()
    told = Told()
    a, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    for one in (a, b):
        one.bind(("127.0.0.1", 0))
    to = b.getsockname()
    ours, theirs = socket.socketpair()
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    sender, receiver, stream, accepting = (pool.associate(one, told) for one in (a, b, ours, listener))
    memory = bytearray(1000)

    def resident() -> int:
        gc.collect()
        return resident_bytes()

    def some(count: int) -> None:
        for number in range(count):
            receiver.receive_from()
            sender.send_to(b"x" * 1000, to)
            stream.receive_into(memory)
            theirs.send(b"y" * 1000)
            receiver.receive_from().cancel()
            for _ in range(4):
                told.next()
            if number % 20 == 0:
                client = pool.associate(socket.socket(), told)
                accepting.accept()
                client.connect(address)
                for completion in (told.next(), told.next()):
                    if completion.operation.kind == "accept":
                        completion.value[0].close()
                client.close()

    with theirs:
        some(2_000)
        before, opened = resident(), descriptor_count()
        some(8_000)
        assert resident() - before < 4 << 20, "100 bytes an operation"
        assert eventually(lambda: descriptor_count() == opened, "no descriptor is left")
