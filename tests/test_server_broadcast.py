"""`Server.broadcast`: one message to everybody, and nobody is waited for."""

import random
import socket
import threading
import time

import pytest

import proactor
from peers import TIMEOUT, Recorder, dial, echo, ends_with_reset, eventually, ignore, read_exactly, reset


def connected(server, connect, count, **options):
    clients = [connect(server, **options) for _ in range(count)]
    eventually(lambda: len(server.connections) >= count, f"{count} are connected")
    return clients


def test_everybody_gets_a_broadcast(serve, connect) -> None:
    server = serve(ignore)
    clients = connected(server, connect, 300)
    assert server.broadcast(b"to all of you") == proactor.BroadcastResult(sent=300, skipped=0, closed=0)
    for client in clients:
        assert read_exactly(client, 13) == b"to all of you"


def test_a_broadcast_to_nobody_says_so(serve) -> None:
    assert serve(ignore).broadcast(b"hello?") == proactor.BroadcastResult(0, 0, 0)


@pytest.mark.parametrize("size", [1, 4096, 300_000])
def test_broadcasts_of_any_size_come_in_order(serve, connect, size) -> None:
    server = serve(ignore, send_limit=20 * size + 1000)
    clients = connected(server, connect, 5)
    messages = [random.Random(number).randbytes(size) for number in range(10)]
    for message in messages:
        assert server.broadcast(message).sent == 5
    for client in clients:
        assert read_exactly(client, 10 * size) == b"".join(messages)


def test_those_excluded_get_nothing(serve, connect) -> None:
    handler = Recorder()
    server = serve(handler)
    clients = connected(server, connect, 4)
    by_name = {connection.peername: connection for connection in server.connections}
    excluded = [by_name[client.getsockname()] for client in clients[:2]]
    assert server.broadcast(b"secret", exclude=excluded).sent == 2
    assert server.broadcast(b"end", exclude=iter(())).sent == 4
    for client in clients[:2]:
        assert read_exactly(client, 3) == b"end"
    for client in clients[2:]:
        assert read_exactly(client, 9) == b"secretend"


def test_excluding_another_servers_connection_excludes_nobody_here(serve, connect) -> None:
    one, two = serve(ignore), serve(ignore)
    first, second = connect(one), connect(two)
    eventually(lambda: one.connections and two.connections, "both are connected")
    assert one.broadcast(b"x", exclude=two.connections).sent == 1
    assert read_exactly(first, 1) == b"x"
    second.close()


def test_a_broadcast_from_a_handler_reaches_the_sender_too(serve, connect) -> None:
    def relay(connection, data):
        servers[0].broadcast(data)

    servers = [serve(relay)]
    clients = connected(servers[0], connect, 10)
    clients[3].sendall(b"from 3")
    for client in clients:
        assert read_exactly(client, 6) == b"from 3"
    servers.clear()


def test_a_broadcast_takes_any_bytes_and_refuses_text(serve, connect) -> None:
    server = serve(ignore)
    [client] = connected(server, connect, 1)
    changing = bytearray(b"x" * 10_000)
    server.broadcast(changing)
    changing[:] = b"y" * 10_000
    server.broadcast(memoryview(b"abc")[1:])
    assert read_exactly(client, 10_002) == b"x" * 10_000 + b"bc"
    with pytest.raises(TypeError, match="encode"):
        server.broadcast("text")
    with pytest.raises(ValueError, match="skip"):
        server.broadcast(b"x", slow="wait")


def slow_and_quick(serve, connect, **options):
    handler = Recorder()
    server = serve(handler, send_limit=100_000, **options)
    slow, quick = connect(server, receive_buffer=4096), connect(server)
    handler.wait_for_count("connected", 2)
    [connection] = [connection for connection in server.connections if connection.peername == slow.getsockname()]
    while connection.try_send(bytes(30_000)):
        pass
    eventually(lambda: not connection.try_send(bytes(60_000)), "the slow one's queue is full")
    return handler, server, connection, slow, quick


def test_a_slow_client_is_skipped_and_counted(serve, connect) -> None:
    handler, server, connection, _slow, quick = slow_and_quick(serve, connect)
    started = time.monotonic()
    assert server.broadcast(b"z" * 90_000) == proactor.BroadcastResult(sent=1, skipped=1, closed=0)
    assert time.monotonic() - started < 5
    assert read_exactly(quick, 90_000) == b"z" * 90_000
    assert connection.statistics().open
    assert handler.count("closed") == 0
    connection.abort()


def test_a_slow_client_is_closed_if_that_is_wanted(serve, connect) -> None:
    handler, server, connection, slow, quick = slow_and_quick(serve, connect)
    assert server.broadcast(b"z" * 90_000, slow="close") == proactor.BroadcastResult(sent=1, skipped=0, closed=1)
    assert read_exactly(quick, 90_000) == b"z" * 90_000
    [error] = handler.wait_closed()
    assert isinstance(error, TimeoutError)
    assert not connection.statistics().open
    assert ends_with_reset(slow)


def test_clients_that_do_not_read_cost_a_bounded_amount_of_memory(serve, connect) -> None:
    server = serve(ignore, send_limit=200_000)
    connected(server, connect, 10, receive_buffer=4096)
    for _ in range(300):
        server.broadcast(b"m" * 50_000)
    numbers = server.statistics()
    assert numbers.queued_bytes <= 10 * 200_000
    assert all(connection.statistics().outbox_bytes <= 200_000 for connection in server.connections)
    for connection in server.connections:
        connection.abort()


def test_broadcasts_during_churn_reach_everybody_who_stays(serve, connect) -> None:
    """Clients come and go, in order and with resets, while several threads broadcast."""
    server = serve(echo)
    staying = connected(server, connect, 5)
    stop = threading.Event()
    failures: list[BaseException] = []
    broadcasts = [0]

    def guarded(work):
        def run():
            try:
                while not stop.is_set():
                    work()
            except BaseException as error:
                failures.append(error)

        return run

    def come_and_go() -> None:
        clients = [dial(server.address) for _ in range(10)]
        for number, client in enumerate(clients):
            if number % 2:
                reset(client)
            else:
                client.sendall(b"bye")
                client.close()

    def broadcast() -> None:
        result = server.broadcast(b"tick", slow="close")
        assert result.sent >= len(staying)
        assert result.closed == 0
        broadcasts[0] += 1

    received: dict[int, int] = dict.fromkeys(range(len(staying)), 0)

    def read(number: int, client: socket.socket) -> None:
        while (data := read_exactly(client, 4)) == b"tick":
            received[number] += 1
        if data != b"":
            failures.append(AssertionError(data))

    readers = [threading.Thread(target=read, args=pair) for pair in enumerate(staying)]
    workers = [threading.Thread(target=guarded(work)) for work in [come_and_go] * 4 + [broadcast]]
    for thread in readers + workers:
        thread.start()
    eventually(lambda: (broadcasts[0] >= 500 and server.statistics().accepted > 500) or failures, "churn and broadcasts")
    stop.set()
    for thread in workers:
        thread.join(TIMEOUT)
    server.shutdown(TIMEOUT)
    for thread in readers:
        thread.join(TIMEOUT)
    assert failures == []
    assert list(received.values()) == [broadcasts[0]] * len(staying)
