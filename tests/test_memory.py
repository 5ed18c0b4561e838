"""What messages and connections leave behind in memory: nothing."""

import gc
import logging
import sys
import threading

import proactor
from peers import Recorder, dial, echo, eventually, exchange, read_exactly, reset
from platforms import LINUX, resident_bytes


def blocks() -> int:
    """What Python's allocator holds, once nothing moves any more (without the interpreter's lock that takes a second look)."""
    gc.collect()
    gc.collect()
    return sys.getallocatedblocks()


def growth(work, rounds: int) -> tuple[int, int]:
    """Blocks and bytes that `rounds` of `work` leave, after a first one that fills caches."""
    work()
    work()
    blocks_before, bytes_before = blocks(), resident_bytes()
    for _ in range(rounds):
        work()
    return blocks() - blocks_before, resident_bytes() - bytes_before


def test_messages_leave_nothing(serve, connect) -> None:
    client = connect(serve(echo))

    def work() -> None:
        for size in (1, 64, 4000, 5000, 40_000, 70_000):
            for _ in range(50):
                assert exchange_quickly(client, b"x" * size)

    left, grown = growth(work, 15)
    assert left < 300, "blocks for 4,500 messages"
    assert grown < 4_000_000


def exchange_quickly(client, data) -> bool:
    client.sendall(data)
    return read_exactly(client, len(data)) == data


def test_connections_leave_nothing(serve) -> None:
    class Handler(proactor.Handler):
        def connected(self, connection):
            connection.context = {"some": "thing", "connection": connection}

        def received(self, connection, data):
            connection.send(data)

    server = serve(Handler)

    def work() -> None:
        for number in range(100):
            client = dial(server.address)
            client.sendall(b"hello")
            assert read_exactly(client, 5) == b"hello"
            reset(client) if number % 2 else client.close()
        eventually(lambda: server.connections == (), "they are gone")

    left, grown = growth(work, 15)
    assert left < 300, "blocks for 1,500 connections"
    assert grown < 4_000_000


def test_connections_that_fail_leave_nothing(serve, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("proactor"), "disabled", True)  # pytest keeps what is logged

    def failing(connection, data):
        connection.context = connection
        raise ValueError(data)

    server = serve(failing)

    def work() -> None:
        for _ in range(50):
            with dial(server.address) as client:
                client.sendall(b"x")
                assert client.recv(1) == b""
        eventually(lambda: server.connections == (), "they are gone")

    left, grown = growth(work, 15)
    assert left < 300, "blocks for 750 failures"
    assert grown < 4_000_000


def test_calls_leave_nothing(make_pool) -> None:
    pool = make_pool()

    def work() -> None:
        for future in [pool.submit(divmod, 7, 2) for _ in range(500)]:
            assert future.result(10) == (3, 1)
        for future in [pool.submit(divmod, 7, 0) for _ in range(50)]:
            assert isinstance(future.exception(10), ZeroDivisionError)

    left, grown = growth(work, 15)
    assert left < 300, "blocks for 8,250 calls"
    assert grown < 4_000_000


def test_broadcasts_leave_nothing(serve, connect) -> None:
    handler = Recorder()
    server = serve(handler)
    clients = [connect(server) for _ in range(10)]
    handler.wait_for_count("connected", 10)

    def work() -> None:
        for size in (10, 5000, 100_000):
            message = bytes(size)
            assert server.broadcast(message).sent == 10
            for client in clients:
                assert read_exactly(client, size) == message

    left, grown = growth(work, 30)
    assert left < 300, "blocks for 90 broadcasts"
    assert grown < 4_000_000


def test_whole_servers_leave_nothing() -> None:
    def work() -> None:
        for _ in range(5):
            with proactor.serve(echo, ("127.0.0.1", 0)) as server, dial(server.address) as client:
                assert exchange(client, b"x" * 1000) == b"x" * 1000

    left, grown = growth(work, 15)
    assert left < (500 if LINUX else 750), "blocks for 75 servers"
    assert grown < 8_000_000
    assert threading.active_count() < 10
