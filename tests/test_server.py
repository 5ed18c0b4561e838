"""`serve` and `Server` from outside: addresses, handlers, order, limits. Every byte that comes back is looked at."""

import errno
import random
import socket
import sys
import threading
import time

import pytest

import proactor
from peers import TIMEOUT, Recorder, RecordingEcho, cut, dial, echo, eventually, exchange, ignore, read_exactly, read_to_end
from platforms import LINUX, resource


@pytest.mark.parametrize("longest", [1, 7, 100, 5000])
def test_an_echo_is_exact_in_any_chunking(serve, connect, longest) -> None:
    chooser = random.Random(longest)
    client = connect(serve())
    for _ in range(5):
        data = chooser.randbytes(min(longest * 60, 50_000))
        for piece in cut(chooser, data, longest):
            client.sendall(piece)
        assert read_exactly(client, len(data)) == data


def test_a_thousand_random_messages_come_back_one_by_one(serve, connect) -> None:
    chooser = random.Random(1)
    client = connect(serve())
    for _ in range(1000):
        data = chooser.randbytes(chooser.choice([1, 2, 64, 1000, 4095, 4096, 4097, 20_000]))
        client.sendall(data)
        assert read_exactly(client, len(data)) == data


@pytest.mark.parametrize("size", [64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 5 * 1024 * 1024])
def test_large_messages_come_back_whole(serve, connect, size) -> None:
    data = random.Random(size).randbytes(size)
    client = connect(serve())
    for _ in range(3):
        assert exchange(client, data) == data


def test_many_clients_at_once_each_get_their_own_bytes(serve) -> None:
    server = serve()
    failures: list[str] = []

    def talk(seed: int) -> None:
        chooser = random.Random(seed)
        with dial(server.address) as client:
            for number in range(30):
                data = chooser.randbytes(chooser.randint(1, 30_000))
                client.sendall(data)
                if read_exactly(client, len(data)) != data:
                    failures.append(f"client {seed}, message {number}")

    threads = [threading.Thread(target=talk, args=(seed,)) for seed in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert failures == []


def test_one_connections_handler_never_runs_twice_at_once_and_sees_the_bytes_in_order(serve, connect, make_pool) -> None:
    class Slow(Recorder):
        def on_received(self, connection, data):
            time.sleep(0.001)  # gives the others the chance to overtake

    handler = Slow()
    server = serve(handler, pool=make_pool(concurrency=4))
    payloads = [random.Random(seed).randbytes(20_000) for seed in range(8)]
    clients = [connect(server) for _ in payloads]
    by_port = {client.getsockname()[1]: payload for client, payload in zip(clients, payloads, strict=True)}
    chooser = random.Random(0)
    for pieces in zip(*(cut(chooser, payload, 700) for payload in payloads), strict=False):
        for client, piece in zip(clients, pieces, strict=True):
            client.sendall(piece)
    for client in clients:
        client.shutdown(socket.SHUT_WR)
    handler.wait_closed(len(clients))
    assert handler.overlaps == []
    for connection in handler.connections:
        got = handler.data(connection.id)
        assert by_port[connection.peername[1]].startswith(got)
        assert len(got) > 5_000


def test_ipv6_is_served(serve, connect) -> None:
    server = serve(address="[::1]:0")
    assert server.address[0] == "::1"
    client = connect(server)
    client.sendall(b"six")
    assert read_exactly(client, 3) == b"six"


@pytest.mark.linux("Unix sockets")
def test_a_unix_socket_is_served_and_its_file_is_removed(serve, connect, tmp_path) -> None:
    path = tmp_path / "echo.sock"
    server = serve(address=f"unix:{path}")
    assert server.address == f"unix:{path}"
    client = connect(server)
    data = random.Random(5).randbytes(1_000_000)
    assert exchange(client, data) == data
    server.shutdown(TIMEOUT)
    assert not path.exists()


def test_a_bound_socket_is_taken_over(serve, connect) -> None:
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    address = bound.getsockname()
    server = serve(address=bound)
    assert server.address == address
    assert bound.fileno() == -1, "the server owns the descriptor now"
    client = connect(server)
    client.sendall(b"bound")
    assert read_exactly(client, 5) == b"bound"


def test_no_delay_and_keepalive_are_on_by_default_and_can_be_switched_off(serve, connect) -> None:
    def options(connection):
        with socket.socket(fileno=socket.dup(connection._descriptor())) as duplicate:
            no_delay = duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            return bool(no_delay), bool(duplicate.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    for expected, arguments in [((True, True), {}), ((False, False), {"no_delay": False, "keepalive": False})]:
        handler = Recorder()
        server = serve(handler, **arguments)
        connect(server)
        handler.wait_for_count("connected", 1)
        assert options(handler.connections[0]) == expected


def test_a_second_server_on_the_same_address_is_refused_with_the_address_in_the_text(serve) -> None:
    server = serve()
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{server.address[1]}") as caught:
        proactor.serve(echo, server.address)
    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.linux("SO_REUSEPORT")
def test_reuse_port_lets_two_servers_listen_on_one_port(serve, connect) -> None:
    first = serve(reuse_port=True)
    second = serve(address=first.address, reuse_port=True)
    assert first.address == second.address
    for _ in range(20):
        client = connect(first)
        client.sendall(b"x")
        assert read_exactly(client, 1) == b"x"


class Greeting(proactor.Handler):
    def connected(self, connection):
        connection.send(b"hello ")

    def received(self, connection, data):
        connection.send(data.upper())


@pytest.mark.parametrize("handler", [Greeting, Greeting()], ids=["class", "instance"])
def test_a_handler_may_be_a_class_or_an_instance(serve, connect, handler) -> None:
    client = connect(serve(handler))
    client.sendall(b"you")
    assert read_exactly(client, 9) == b"hello YOU"


def test_a_handler_may_be_any_callable(serve, connect) -> None:
    class Callable:
        def __call__(self, connection, data):
            connection.send(data[::-1])

        def method(self, connection, data):
            connection.send(data * 2)

    client = connect(serve(Callable()))
    client.sendall(b"abc")
    assert read_exactly(client, 3) == b"cba"
    client = connect(serve(Callable().method))
    client.sendall(b"abc")
    assert read_exactly(client, 6) == b"abcabc"


@pytest.mark.parametrize("handler", [None, 42, "echo", object(), int.__name__, [echo]])
def test_what_is_no_handler_is_refused_with_the_fix_in_the_text(handler) -> None:
    with pytest.raises(TypeError, match="a handler is a function"):
        proactor.serve(handler, ("127.0.0.1", 0))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"backlog": 0}, ValueError, "backlog"),
        ({"accepts": (5, 2)}, ValueError, "accepts"),
        ({"accepts": (0, 2)}, ValueError, "accepts"),
        ({"max_connections": 0}, ValueError, "max_connections"),
        ({"idle_timeout": 0}, ValueError, "idle_timeout"),
        ({"idle_timeout": -1}, ValueError, "idle_timeout"),
        ({"idle_timeout": float("nan")}, ValueError, "idle_timeout"),
        ({"send_timeout": 0}, ValueError, "send_timeout"),
        ({"receive_limit": 0}, ValueError, "receive_limit"),
        ({"send_limit": 0}, ValueError, "send_limit"),
        ({"total_limit": 0}, ValueError, "total_limit"),
        ({"framing": "lines"}, TypeError, "framing"),
        ({"framing": proactor.Lines}, TypeError, "framing"),
    ],
)
def test_a_wrong_argument_is_named(arguments, error, text) -> None:
    with pytest.raises(error, match=text):
        proactor.serve(echo, ("127.0.0.1", 0), **arguments)


def test_the_calls_of_a_connection_come_in_order_and_closed_exactly_once(serve, connect) -> None:
    handler = RecordingEcho()
    client = connect(serve(handler))
    client.sendall(b"one")
    assert read_exactly(client, 3) == b"one"
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(client) == b""
    assert handler.wait_closed() == [None]
    assert handler.names() == ["connected", "received", "ended", "closed"]


def test_connected_comes_before_bytes_that_were_sent_at_once(serve, connect) -> None:
    handler = RecordingEcho()
    server = serve(handler)
    clients = [connect(server) for _ in range(50)]
    for client in clients:
        client.sendall(b"early")
    for client in clients:
        assert read_exactly(client, 5) == b"early"
        client.close()
    handler.wait_closed(50)
    for connection in handler.connections:
        names = handler.names(connection.id)
        assert names[:2] == ["connected", "received"]
        assert names.count("closed") == 1
        assert names[-1] == "closed"


def test_sent_tells_how_many_bytes_the_kernel_has_taken(serve, connect) -> None:
    class Counting(RecordingEcho):
        def sent(self, connection, count):
            self.note(connection, "sent", count)

    handler = Counting()
    client = connect(serve(handler))
    data = random.Random(3).randbytes(700_000)
    assert exchange(client, data) == data
    handler.wait_for(lambda handler: sum(handler.values("sent")) == len(data), "every byte was told as sent")
    assert all(count > 0 for count in handler.values("sent"))


def test_server_connections_are_the_live_ones(serve, connect) -> None:
    handler = Recorder()
    server = serve(handler)
    assert server.connections == ()
    clients = [connect(server) for _ in range(3)]
    handler.wait_for_count("connected", 3)
    assert set(server.connections) == set(handler.connections)
    assert server.connections[0] in handler.connections
    clients[0].close()
    handler.wait_closed()
    eventually(lambda: len(server.connections) == 2, "the closed connection is off the list")


def test_a_client_that_comes_and_goes_at_once_is_told_in_order_too(serve) -> None:
    handler = Recorder()
    server = serve(handler)
    for _ in range(200):
        dial(server.address).close()
    handler.wait_closed(200)
    for connection in handler.connections:
        names = [name for name in handler.names(connection.id) if name != "ended"]
        assert names == ["connected", "closed"]


def test_max_connections_closes_further_clients_at_once_and_counts_them(serve, connect) -> None:
    handler = RecordingEcho()
    server = serve(handler, max_connections=3)
    first = [connect(server) for _ in range(3)]
    handler.wait_for_count("connected", 3)
    refused = connect(server)
    assert refused.recv(1) == b"", "a polite end, no reset"
    eventually(lambda: server.statistics().refused == 1, "the refusal is counted")
    first[0].close()
    handler.wait_closed()
    eventually(lambda: server.statistics().connections == 2, "there is room again")
    again = connect(server)
    again.sendall(b"in")
    assert read_exactly(again, 2) == b"in"
    assert handler.count("connected") == 4


def test_idle_timeout_ends_a_silent_connection_with_timeout_error(serve, connect) -> None:
    handler = RecordingEcho()
    server = serve(handler, idle_timeout=0.3)
    silent = connect(server)
    busy = connect(server)
    started = time.monotonic()
    closed = threading.Event()

    def keep_busy() -> None:
        while not closed.wait(0.05):
            busy.sendall(b"x")
            assert busy.recv(1) == b"x"

    talker = threading.Thread(target=keep_busy)
    talker.start()
    try:
        assert silent.recv(1) == b""
        took = time.monotonic() - started
        [error] = handler.wait_closed()
        assert isinstance(error, TimeoutError)
        assert "idle" in str(error)
        assert 0.25 < took < 5
        assert handler.count("closed") == 1, "the busy one lives"
    finally:
        closed.set()
        talker.join(TIMEOUT)


def test_a_handler_that_works_long_is_not_idle(serve, connect) -> None:
    class Working(Recorder):
        def on_received(self, connection, data):
            time.sleep(0.8)
            connection.send(b"done")

    client = connect(serve(Working(), idle_timeout=0.2))
    client.sendall(b"work")
    assert read_exactly(client, 4) == b"done"


def test_total_limit_stops_receiving_for_all_until_there_is_room(serve, connect, make_pool) -> None:
    release = threading.Event()

    class Held(Recorder):
        def on_received(self, connection, data):
            assert release.wait(TIMEOUT)

    handler = Held()
    limit = 200_000
    server = serve(handler, total_limit=limit, receive_limit=1_000_000, pool=make_pool(max_workers=16))
    clients = [connect(server) for _ in range(8)]
    payload = random.Random(9).randbytes(300_000)
    senders = [threading.Thread(target=client.sendall, args=(payload,)) for client in clients]
    for sender in senders:
        sender.start()
    eventually(lambda: server.statistics().queued_bytes > limit * 0.8, "the limit is reached")
    # One receive for each connection may be under way when the limit is noticed.
    assert server.statistics().queued_bytes <= limit + len(clients) * (256 * 1024 + 1000)
    release.set()
    for sender in senders:
        sender.join(TIMEOUT)
        assert not sender.is_alive()
    handler.wait_for(lambda handler: len(handler.data()) == len(clients) * len(payload), "everything arrives once there is room")
    for connection in handler.connections:
        assert handler.data(connection.id) == payload
    assert server.statistics().queued_bytes == 0


def test_statistics_count_what_happened(serve, connect) -> None:
    handler = RecordingEcho()
    server = serve(handler)
    client = connect(server)
    for _ in range(10):
        client.sendall(b"12345678")
        assert read_exactly(client, 8) == b"12345678"
    # The client may have the bytes before the sender has counted them.
    eventually(lambda: server.statistics().sent_bytes == 80, "all is counted")
    numbers = server.statistics()
    assert (numbers.accepted, numbers.refused, numbers.accept_errors, numbers.connections) == (1, 0, 0, 1)
    assert (numbers.received_bytes, numbers.sent_bytes, numbers.dropped_bytes) == (80, 80, 0)
    assert numbers.messages == 10
    client.close()
    handler.wait_closed()
    eventually(lambda: server.statistics().connections == 0, "the connection is gone")
    assert server.statistics().received_bytes == 80, "what a connection has done outlives it"
    with pytest.raises(AttributeError):
        numbers.accepted = 5  # a snapshot is frozen


def test_a_second_server_shares_a_pool_and_ends_alone(serve, connect, make_pool) -> None:
    pool = make_pool()
    one, two = serve(echo, pool=pool), serve(lambda connection, data: connection.send(data.upper()), pool=pool)
    first, second = connect(one), connect(two)
    first.sendall(b"a")
    second.sendall(b"a")
    assert (read_exactly(first, 1), read_exactly(second, 1)) == (b"a", b"A")
    one.shutdown(TIMEOUT)
    assert first.recv(1) == b""
    second.sendall(b"b")
    assert read_exactly(second, 1) == b"B"
    assert pool.submit(lambda: "alive").result(TIMEOUT) == "alive"


def test_a_pool_that_is_shut_down_takes_its_servers_with_it(connect) -> None:
    handler = RecordingEcho()
    pool = proactor.ThreadPool()
    server = proactor.serve(handler, ("127.0.0.1", 0), pool=pool)
    client = connect(server)
    handler.wait_for_count("connected", 1)
    pool.shutdown()
    assert handler.count("closed") == 1
    assert client.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        dial(server.address)
    with pytest.raises(RuntimeError, match="shut down"):
        proactor.serve(ignore, ("127.0.0.1", 0), pool=pool)


def test_a_failed_start_with_a_shared_pool_does_the_pool_no_harm(make_pool) -> None:
    pool = make_pool()
    for _ in range(3):
        with pytest.raises(TypeError):
            proactor.serve(42, ("127.0.0.1", 0), pool=pool)
    assert pool.submit(lambda: 7).result(TIMEOUT) == 7


def test_a_burst_of_5000_connects_loses_none(serve) -> None:
    if LINUX:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard < 11_000:
            pytest.skip(f"needs 11,000 descriptors, the hard limit is {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 11_000), hard))
    handler = RecordingEcho()
    server = serve(handler, backlog=4096)
    clients = []
    try:
        for _ in range(5000):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(server.address)
            clients.append(client)
        for number, client in enumerate(clients):
            client.settimeout(TIMEOUT)
            # A non-blocking connect whose SYN was dropped for a full backlog is tried again by the kernel after a second.
            eventually(lambda client=client: client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0, "no error")
            payload = number.to_bytes(4, sys.byteorder)
            deadline = time.monotonic() + TIMEOUT
            while True:
                try:
                    client.sendall(payload)
                    break
                except (BlockingIOError, BrokenPipeError, OSError) as error:
                    assert time.monotonic() < deadline, error
                    time.sleep(0.01)
        for number, client in enumerate(clients):
            assert read_exactly(client, 4) == number.to_bytes(4, sys.byteorder)
        assert server.statistics().accepted == 5000
        assert handler.count("connected") == 5000
    finally:
        for client in clients:
            client.close()
        handler.wait_closed(len(clients))
        if LINUX:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
