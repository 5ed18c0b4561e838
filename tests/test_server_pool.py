"""A server and the pool it lives on: what becomes of the server when the pool is shut down, also by a handler, or when it breaks."""

import threading
import time
from concurrent.futures import BrokenExecutor

import pytest

import proactor
from peers import TIMEOUT, Recorder, dial, echo, eventually, read_exactly, read_to_end


class EndsThePool(Recorder):
    """Answers what the client's first byte says, then shuts the pool down or not."""

    def __init__(self, pool: proactor.ThreadPool, size: int, **arguments) -> None:
        super().__init__()
        self.pool, self.size, self.arguments = pool, size, arguments

    def on_received(self, connection, data):
        connection.send(data[:1] * self.size)
        if data[:1] == b"q":
            self.pool.shutdown(**self.arguments)


@pytest.mark.parametrize("where", ["handler", "call", "outside"])
@pytest.mark.parametrize("size", [10, 5_000_000])
def test_what_was_sent_before_the_pool_is_shut_down_arrives(connect, where, size) -> None:
    pool = proactor.ThreadPool()
    handler = EndsThePool(pool, size)
    server = proactor.serve(handler, ("127.0.0.1", 0), pool=pool, send_limit=size)
    clients = [connect(server), connect(server)]
    clients[0].sendall(b"x")
    read_exactly(clients[0], 1)
    if where == "handler":
        clients[1].sendall(b"q")
    else:
        clients[1].sendall(b"y")
        read_exactly(clients[1], 1)
    ending = threading.Thread(target=pool.shutdown)
    if where == "outside":
        ending.start()
    elif where == "call":
        pool.submit(pool.shutdown)
    rest = size if where == "handler" else size - 1
    received: list[int] = []
    readers = [threading.Thread(target=lambda client=client: received.append(len(read_to_end(client)))) for client in clients]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(TIMEOUT)
    assert sorted(received) == [size - 1, rest], "all of it, and an end in order"
    if where == "outside":
        ending.join(TIMEOUT)
    pool.shutdown(timeout=TIMEOUT)
    assert server.shutdown() == proactor.ShutdownReport(completed=True, served=2, sent=2 * size, dropped=0, running=())
    handler.wait_for_count("closed", 2)


@pytest.mark.parametrize("arguments", [{"wait": False}, {"timeout": 0.2}])
def test_what_a_server_cannot_send_before_its_pool_ends_is_counted(connect, arguments) -> None:
    pool = proactor.ThreadPool()
    size = 20_000_000
    handler = EndsThePool(pool, size, **arguments)
    server = proactor.serve(handler, ("127.0.0.1", 0), pool=pool, send_limit=size)
    client = connect(server, receive_buffer=4096)
    client.sendall(b"q")
    handler.wait_closed()
    report = server.shutdown()
    assert not report.completed
    assert report.sent + report.dropped == size
    assert report.dropped > 0
    pool.shutdown()


def test_small_answers_arrive_though_nobody_waits_for_the_end_of_the_pool(connect) -> None:
    pool = proactor.ThreadPool()
    server = proactor.serve(EndsThePool(pool, 10, wait=False), ("127.0.0.1", 0), pool=pool)
    client = connect(server)
    client.sendall(b"q")
    assert read_to_end(client) == b"q" * 10
    pool.shutdown()
    assert server.shutdown().dropped == 0


def test_a_pool_that_is_shut_down_closes_all_its_listeners_before_it_waits_for_one(connect) -> None:
    entered, release = threading.Event(), threading.Event()

    def waits(connection, data):
        entered.set()
        release.wait(TIMEOUT)

    pool = proactor.ThreadPool(max_workers=4)
    servers = [proactor.serve(waits, ("127.0.0.1", 0), pool=pool) for _ in range(2)]
    for server in servers:
        entered.clear()
        connect(server).sendall(b"x")
        assert entered.wait(TIMEOUT)
    ending = threading.Thread(target=pool.shutdown)
    ending.start()
    for server in servers:
        eventually(lambda server=server: refuses(server.address), "it does not listen any more")
    release.set()
    ending.join(TIMEOUT)
    assert not ending.is_alive()
    assert all(server.shutdown().completed for server in servers)


def test_two_handlers_may_shut_their_pool_down_at_once(connect) -> None:
    both = threading.Barrier(2)
    pool = proactor.ThreadPool(max_workers=4)

    def end(connection, data):
        both.wait(TIMEOUT)
        connection.send(b"bye")
        pool.shutdown()

    servers = [proactor.serve(end, ("127.0.0.1", 0), pool=pool) for _ in range(2)]
    clients = [connect(server) for server in servers]
    begun = time.monotonic()
    for client in clients:
        client.sendall(b"x")
    for client in clients:
        assert read_to_end(client) == b"bye"
    for server in servers:
        assert server.shutdown(TIMEOUT).completed
    assert pool.shutdown(timeout=TIMEOUT).running == ()
    assert time.monotonic() - begun < 5, "neither waits for the other until it has had enough"


@pytest.mark.parametrize("first", ["server", "pool"])
def test_one_handler_may_shut_the_server_down_and_another_its_pool(connect, first) -> None:
    """Neither gives a time, so neither may wait for the other; whichever is inside when the other begins."""
    pool = proactor.ThreadPool(max_workers=4)
    told, ended = threading.Barrier(2), threading.Semaphore(0)

    def end(connection, data):
        kind = data.decode()
        told.wait(TIMEOUT)
        if kind != first:
            eventually(lambda: refuses(server.address), "the other has begun")
        (server.shutdown if kind == "server" else pool.shutdown)()
        ended.release()

    server = proactor.serve(end, ("127.0.0.1", 0), pool=pool)
    for kind in (b"server", b"pool"):
        connect(server).sendall(kind)
    assert all(ended.acquire(timeout=TIMEOUT) for _ in range(2))
    assert server.shutdown(TIMEOUT).running == ()
    assert pool.shutdown(timeout=TIMEOUT).running == ()


def test_two_calls_may_shut_their_pool_down_at_once() -> None:
    both = threading.Barrier(2)
    pool = proactor.ThreadPool(max_workers=4)

    def end() -> bool:
        both.wait(TIMEOUT)
        return bool(pool.shutdown().running)

    calls = [pool.submit(end) for _ in range(2)]
    assert [type(call.result(TIMEOUT)) for call in calls] == [bool, bool]


def refuses(address) -> bool:
    try:
        dial(address).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    return False


def no_database() -> None:
    raise OSError("no database")


class SecondFails:
    """An initializer that the first worker gets past, and the others do not, as soon as they are told."""

    def __init__(self, fail: threading.Event) -> None:
        self.fail = fail
        self.numbers = iter(range(1000))

    def __call__(self) -> None:
        if next(self.numbers) > 0:
            self.fail.wait(TIMEOUT)
            no_database()


def test_a_server_whose_workers_cannot_start_ends_and_says_why(caplog) -> None:
    begin = threading.Event()

    def initialize() -> None:
        begin.wait(TIMEOUT)
        no_database()

    pool = proactor.ThreadPool(initializer=initialize)
    server = proactor.serve(echo, ("127.0.0.1", 0), pool=pool)
    begin.set()
    with pytest.raises(BrokenExecutor, match="the initializer raised"):
        server.serve_forever()
    assert refuses(server.address)
    with pytest.raises(BrokenExecutor, match="the initializer raised"):
        server.serve_forever()
    assert server.shutdown() == proactor.ShutdownReport(completed=True, served=0, sent=0, dropped=0, running=())
    with pytest.raises(BrokenExecutor, match="the initializer raised"):
        proactor.serve(echo, ("127.0.0.1", 0), pool=pool)
    pool.shutdown()
    assert "no database" in caplog.text
    assert f"{server!r} shuts down: the initializer raised" in caplog.text
    caplog.clear()


def test_a_server_whose_pool_breaks_later_sends_what_is_queued_and_ends(connect, caplog) -> None:
    entered, release = threading.Event(), threading.Event()

    def handler(connection, data):
        connection.send(b"before ")
        entered.set()
        release.wait(TIMEOUT)
        connection.send(b"after")

    fail = threading.Event()
    pool = proactor.ThreadPool(initializer=SecondFails(fail), concurrency=2)
    server = proactor.serve(handler, ("127.0.0.1", 0), pool=pool)
    client = connect(server)
    client.sendall(b"x")
    assert entered.wait(TIMEOUT)
    fail.set()
    eventually(lambda: refuses(server.address), "it does not listen any more")
    release.set()
    assert read_to_end(client) == b"before after"
    with pytest.raises(BrokenExecutor):
        server.serve_forever()
    assert server.shutdown().dropped == 0
    pool.shutdown()
    caplog.clear()


def test_a_connection_whose_pool_breaks_is_told(serve, caplog) -> None:
    fail = threading.Event()
    pool = proactor.ThreadPool(initializer=SecondFails(fail), concurrency=2)
    handler = Recorder()
    proactor.connect(serve().address, handler, pool=pool)
    handler.wait_for_count("connected", 1)
    fail.set()
    [error] = handler.wait_closed()
    assert isinstance(error, BrokenExecutor)
    with pytest.raises(BrokenExecutor, match="the initializer raised"):
        proactor.connect(serve().address, handler, pool=pool)
    pool.shutdown()
    caplog.clear()


@pytest.mark.linux("Unix sockets")
def test_a_server_on_a_broken_pool_leaves_no_file_behind(tmp_path, caplog) -> None:
    pool = proactor.ThreadPool(initializer=no_database)
    assert isinstance(pool.submit(int).exception(TIMEOUT), BrokenExecutor)
    with pytest.raises(BrokenExecutor):
        proactor.serve(echo, f"unix:{tmp_path}/socket", pool=pool)
    assert list(tmp_path.iterdir()) == []
    pool.shutdown()
    caplog.clear()
