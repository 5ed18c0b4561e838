"""Fault 20: more handlers that never return than the pool has threads. I/O goes on, new work is refused, and the log says why."""

import logging
import threading
import time

import pytest

import proactor
from peers import TIMEOUT, Recorder, echo, eventually, read_exactly

WORKERS = 3


class Hanging(Recorder):
    """Hangs at `hang` until it is let go; echoes everything else."""

    def __init__(self) -> None:
        super().__init__()
        self.permits = threading.Semaphore(0)

    def on_received(self, connection, data):
        if data == b"hang":
            self.wait_for_somebody()
        connection.send(data)

    def wait_for_somebody(self) -> None:
        assert self.permits.acquire(timeout=TIMEOUT)


@pytest.fixture
def hung(serve, connect, make_pool, caplog):
    """A server with all its workers hung: `(handler, server, hanging clients, a client that was connected before)`."""
    caplog.set_level(logging.WARNING, "proactor")
    handler = Hanging()
    server = serve(handler, pool=make_pool(concurrency=2, max_workers=WORKERS, hung_seconds=1))
    before = connect(server)
    before.sendall(b"hi")
    assert read_exactly(before, 2) == b"hi"
    hanging = [connect(server) for _ in range(WORKERS)]
    handler.wait_for_count("connected", WORKERS + 1)
    for client in hanging:
        client.sendall(b"hang")
    eventually(lambda: "new work is refused" in caplog.text, "the log says so")
    yield handler, server, hanging, before
    for _ in range(50):
        handler.permits.release()


def test_the_log_says_loudly_what_each_worker_is_doing(hung, caplog) -> None:
    [record] = [record for record in caplog.get_records("setup") if "new work is refused" in record.getMessage()]
    assert record.levelno == logging.ERROR
    text = record.getMessage()
    assert f"none of the {WORKERS} workers" in text
    assert text.count("Recorder.received") + text.count("Hanging.") == WORKERS, text
    assert "proactor-" in text


def test_new_work_and_new_connections_are_refused(hung, connect) -> None:
    _handler, server, _hanging, _before = hung
    with pytest.raises(proactor.errors.PoolHung, match=r"max_workers|time-out") as caught:
        server.pool.submit(int)
    assert "received" in str(caught.value), "it says in which handlers"
    refused = server.statistics().refused
    late = connect(server)
    assert late.recv(1) == b"", "accepted and closed at once, instead of waiting for ever"
    eventually(lambda: server.statistics().refused == refused + 1, "counted")


def test_io_goes_on_from_other_threads(hung, connect) -> None:
    handler, server, hanging, before = hung
    assert server.broadcast(b"news").sent == WORKERS + 1
    for client in (*hanging, before):
        assert read_exactly(client, 4) == b"news"
    large = bytes(range(256)) * 20_000
    sending = threading.Thread(target=handler.connections[0].send, args=(large,))
    sending.start()
    assert read_exactly(before, len(large)) == large, "a large one, which takes many writes"
    sending.join(TIMEOUT)
    before.sendall(b"heard")
    eventually(lambda: handler.connections[0].statistics().inbox_bytes > 0, "what comes is received, and waits")


def test_timeouts_go_on(serve, connect, make_pool) -> None:
    handler = Hanging()
    pool = make_pool(concurrency=1, max_workers=1)
    server = serve(handler, pool=pool)
    idle_server = serve(echo, pool=pool, idle_timeout=0.3)
    idle = connect(idle_server)
    eventually(lambda: len(idle_server.connections) == 1, "it is in")
    client = connect(server)
    client.sendall(b"hang")
    assert idle.recv(1) == b"", "the idle one is cut although no worker is free"
    handler.permits.release()
    assert read_exactly(client, 4) == b"hang"


def test_it_recovers_as_soon_as_one_returns(hung, connect, caplog) -> None:
    handler, server, hanging, before = hung
    before.sendall(b"queued")
    eventually(lambda: handler.connections[0].statistics().inbox_bytes > 0, "it waits for a worker")
    handler.permits.release()
    assert read_exactly(before, 6) == b"queued"
    eventually(lambda: "a worker is free again" in caplog.text, "the log says so")
    assert server.pool.submit(lambda: 5).result(TIMEOUT) == 5
    late = connect(server)
    late.sendall(b"late")
    assert read_exactly(late, 4) == b"late"
    # The other two still hang.
    assert server.pool.statistics().blocked == WORKERS - 1
    for _ in hanging:
        handler.permits.release()
    for client in hanging:
        assert read_exactly(client, 4) == b"hang"


def test_shutdown_names_those_that_hang(connect, caplog) -> None:
    handler = Hanging()
    server = proactor.serve(handler, ("127.0.0.1", 0), pool=proactor.ThreadPool(concurrency=1, max_workers=2))
    for _ in range(2):
        connect(server).sendall(b"hang")
    handler.wait_for_count("received", 2)
    started = time.monotonic()
    report = server.shutdown(0.3)
    assert time.monotonic() - started < 5
    assert not report.completed
    assert len(report.running) == 2
    for _ in range(2):
        handler.permits.release()
    server.pool.shutdown()
    assert handler.count("closed") == 2
    caplog.clear()


def test_a_pool_that_is_busy_but_moving_refuses_nobody(make_pool) -> None:
    """Long queues are no hang, nor is a handler that takes a second among others that return."""
    pool = make_pool(concurrency=2, max_workers=4, hung_seconds=1)
    futures = []
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        futures.append(pool.submit(time.sleep, 0.4))
        time.sleep(0.08)
    for future in futures:
        future.result(TIMEOUT)


def test_handlers_that_compute_for_ever_count_as_hung_too(serve, connect, make_pool, caplog) -> None:
    stop = threading.Event()

    def endless(connection, data):
        while not stop.is_set():
            pass

    pool = make_pool(concurrency=1, max_workers=1, hung_seconds=1)
    server = serve(endless, pool=pool)
    client = connect(server)
    client.sendall(b"x")
    try:
        eventually(lambda: "new work is refused" in caplog.text, "the log says so")
        with pytest.raises(proactor.errors.PoolHung, match="endless"):
            pool.submit(int)
        assert server.broadcast(b"news").sent == 1
        assert read_exactly(client, 4) == b"news"
    finally:
        stop.set()
    eventually(lambda: "a worker is free again" in caplog.text, "it recovers")
    assert pool.submit(lambda: 5).result(TIMEOUT) == 5


def test_slow_is_not_hung(make_pool) -> None:
    """By default new work waits for seconds, and for ever if asked to."""
    for options in ({}, {"hung_seconds": None}):
        pool = make_pool(max_workers=2, **options)
        slow = [pool.submit(time.sleep, 1.5) for _ in range(2)]
        eventually(lambda pool=pool: pool.statistics().blocked == 2, "both sleep")
        time.sleep(1.2)  # so long that it would be hung at the least there may be
        assert pool.submit(int).result(TIMEOUT) == 0
        for future in slow:
            future.result(TIMEOUT)


def test_a_worker_that_asks_for_more_does_not_hang(make_pool) -> None:
    pool = make_pool(max_workers=1, hung_seconds=1)

    def slow_parent() -> int:
        end = time.monotonic() + 1.3
        while time.monotonic() < end:
            pass
        return pool.submit(int, "7").result()

    assert pool.submit(slow_parent).result(TIMEOUT) == 7


def test_who_has_just_returned_is_seen_at_once(make_pool) -> None:
    for _ in range(5):
        pool = make_pool(max_workers=2, hung_seconds=1)
        for future in [pool.submit(time.sleep, 1.05) for _ in range(2)]:
            future.result(TIMEOUT)
        assert pool.submit(int).result(TIMEOUT) == 0


def test_what_hangs_in_native_code_is_named(make_pool, caplog) -> None:
    lock = threading.Lock()
    lock.acquire()
    pool = make_pool(max_workers=1, hung_seconds=1)
    hanging = pool.submit(lock.acquire)
    try:
        eventually(lambda: "new work is refused" in caplog.text, "the log says so")
        with pytest.raises(proactor.errors.PoolHung, match=r"proactor-1: lock\.acquire"):
            pool.submit(int)
    finally:
        lock.release()
    assert hanging.result(TIMEOUT)


@pytest.mark.parametrize("seconds", [0, 0.5, -1, float("nan"), "1", True])
def test_seconds_that_make_no_sense(seconds) -> None:
    with pytest.raises((ValueError, TypeError), match="hung_seconds"):
        proactor.ThreadPool(hung_seconds=seconds)
