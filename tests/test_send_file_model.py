"""Any mixture of sends, files and broadcasts, from one thread or several: what arrives is what the model says."""

import random
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import proactor
from peers import TIMEOUT, Recorder, dial, eventually, read_exactly

CONTENT = random.Random(3).randbytes(400_000)

SIZES = st.one_of(st.integers(0, 200), st.integers(0, 400_000))
SENDS = st.tuples(st.just("send"), SIZES)
BROADCASTS = st.tuples(st.just("broadcast"), st.integers(0, 100_000))
FILES = st.tuples(st.just("file"), SIZES, st.one_of(st.none(), SIZES))
STEPS = st.lists(st.one_of(SENDS, BROADCASTS, FILES, FILES), max_size=12)


class World:
    def __init__(self, path: Path) -> None:
        path.write_bytes(CONTENT)
        self.path = path
        self.handler = Recorder()
        # Nothing is ever full: what waits behind a file is within the limit.
        self.server = proactor.serve(self.handler, ("127.0.0.1", 0), send_limit=100_000_000, total_limit=200_000_000)

    def connect(self):
        before = self.handler.count("connected")
        client = dial(self.server.address, receive_buffer=4096)
        self.handler.wait_for_count("connected", before + 1)
        return client, self.handler.connections[-1]


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "file")
    yield world
    world.server.shutdown(TIMEOUT)


def unit(step) -> bytes:
    kind, size = step[:2]
    if kind == "file":
        end = None if step[2] is None else size + step[2]
        return CONTENT[size:end]
    return CONTENT[:size]


def do(world: World, connection: proactor.Connection, step) -> None:
    if step[0] == "send":
        connection.send(unit(step))
    elif step[0] == "broadcast":
        assert world.server.broadcast(unit(step)).sent == 1
    else:
        assert connection.send_file(world.path, step[1], step[2]) == len(unit(step))


@given(STEPS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_one_thread_after_the_other(world: World, steps) -> None:
    client, connection = world.connect()
    expected = b"".join(map(unit, steps))
    failures: list[BaseException] = []

    def send() -> None:
        try:
            for step in steps:
                do(world, connection, step)
            connection.close()
        except BaseException as error:
            failures.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    with client:
        assert read_exactly(client, len(expected)) == expected
        sender.join(TIMEOUT)
        assert not failures, failures
        assert client.recv(1) == b""
    eventually(lambda: connection.statistics().sent_bytes == len(expected), "all is counted")
    eventually(lambda: not world.server.connections, "it has ended")


@given(st.lists(st.lists(st.tuples(st.booleans(), st.integers(1, 60_000)), max_size=6), min_size=2, max_size=4))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_several_at_once_keep_their_own_order_and_tear_nothing(world: World, plans) -> None:
    """A unit says in its first four bytes whose it is, which one, and how long."""
    client, connection = world.connect()
    failures: list[BaseException] = []

    def send(number: int, plan) -> None:
        try:
            for index, (as_file, size) in enumerate(plan):
                data = bytes([number, index]) + size.to_bytes(4, "big") + CONTENT[number : number + size]
                if as_file:
                    path = world.path.with_name(f"{number}-{index}")
                    path.write_bytes(data)
                    assert connection.send_file(path) == len(data)
                else:
                    connection.send(data)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=send, args=(number, plan)) for number, plan in enumerate(plans)]
    for thread in threads:
        thread.start()
    seen: dict[int, int] = {}
    with client:
        for _ in range(sum(map(len, plans))):
            head = read_exactly(client, 6)
            number, index, size = head[0], head[1], int.from_bytes(head[2:], "big")
            assert plans[number][index][1] == size
            assert index == seen.get(number, 0), "out of order"
            seen[number] = index + 1
            assert read_exactly(client, size) == CONTENT[number : number + size], "torn"
        for thread in threads:
            thread.join(TIMEOUT)
        assert not failures, failures
        connection.close()
        assert client.recv(1) == b""
    eventually(lambda: not world.server.connections, "it has ended")
