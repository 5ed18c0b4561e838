"""How a server ends: in order, at once, from anywhere, twice, and what the report says."""

import gc
import logging
import random
import socket
import threading
import time
import warnings
import weakref
from functools import partial

import pytest

import proactor
from peers import TIMEOUT, Recorder, RecordingEcho, dial, echo, ends_with_reset, eventually, ignore, read_exactly, read_to_end
from platforms import descriptor_count, threads_of_process
from proactor.errors import ConnectionEnded


def test_shutdown_closes_idle_connections_and_refuses_new_ones(connect) -> None:
    handler = RecordingEcho()
    server = proactor.serve(handler, ("127.0.0.1", 0))
    clients = [connect(server) for _ in range(20)]
    for client in clients:
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"
    report = server.shutdown(TIMEOUT)
    assert report == proactor.ShutdownReport(completed=True, served=20, sent=100, dropped=0, running=())
    assert handler.values("closed") == [None] * 20, "told before shutdown returns"
    for client in clients:
        assert client.recv(1) == b"", "an orderly end, no reset"
    with pytest.raises(ConnectionRefusedError):
        dial(server.address)


def test_shutdown_handles_what_has_come_and_sends_what_is_queued(connect) -> None:
    data = random.Random(1).randbytes(5_000_000)
    entered = threading.Event()

    class Answering(proactor.Handler):
        def received(self, connection, request):
            entered.set()
            time.sleep(0.2)
            connection.send(data)

    server = proactor.serve(Answering, ("127.0.0.1", 0))
    client = connect(server, receive_buffer=65536)
    client.sendall(b"x")
    assert entered.wait(TIMEOUT)
    reports = []
    ending = threading.Thread(target=lambda: reports.append(server.shutdown(TIMEOUT)))
    ending.start()
    assert read_to_end(client) == data
    ending.join(TIMEOUT)
    assert reports[0].completed
    assert reports[0].dropped == 0
    assert reports[0].sent == len(data)


def test_shutdown_drops_what_is_left_after_its_timeout_and_says_how_much(connect) -> None:
    class Sending(Recorder):
        def on_received(self, connection, data):
            connection.send(bytes(30_000_000))

    handler = Sending()
    server = proactor.serve(handler, ("127.0.0.1", 0))
    client = connect(server, receive_buffer=4096)
    client.sendall(b"x")
    handler.wait_for_count("received", 1)
    eventually(lambda: server.statistics().queued_bytes > 0, "it is queued")
    started = time.monotonic()
    report = server.shutdown(0.3)
    assert 0.25 < time.monotonic() - started < 5
    assert not report.completed
    assert report.running == ()
    assert report.dropped > 0
    assert report.dropped + report.sent == 30_000_000
    assert handler.count("closed") == 1
    assert ends_with_reset(client)


def test_handlers_that_do_not_return_are_named_in_the_report(connect) -> None:
    release, entered = threading.Event(), threading.Barrier(3)

    def never_returning(connection, data):
        entered.wait(TIMEOUT)
        release.wait()

    server = proactor.serve(never_returning, ("127.0.0.1", 0))
    for _ in range(2):
        connect(server).sendall(b"x")
    entered.wait(TIMEOUT)
    try:
        report = server.shutdown(0.3)
        assert not report.completed
        assert len(report.running) == 2
        for line in report.running:
            assert "never_returning" in line
            assert "test_server_shutdown.py" in line
            assert "proactor-" in line
    finally:
        release.set()


def test_close_ends_everything_at_once_with_resets(connect) -> None:
    handler = RecordingEcho()
    server = proactor.serve(handler, ("127.0.0.1", 0))
    clients = [connect(server) for _ in range(5)]
    handler.wait_for_count("connected", 5)
    started = time.monotonic()
    server.close()
    assert time.monotonic() - started < 5
    assert [type(error) for error in handler.values("closed")] == [ConnectionAbortedError] * 5
    for client in clients:
        assert ends_with_reset(client)
    server.close()
    assert server.shutdown().served == 5


def test_the_end_of_a_with_block_shuts_down(connect) -> None:
    handler = RecordingEcho()
    with proactor.serve(handler, ("127.0.0.1", 0)) as server:
        client = connect(server)
        client.sendall(b"x")
        assert read_exactly(client, 1) == b"x"
    assert client.recv(1) == b""
    assert handler.values("closed") == [None]


def test_shutdown_may_be_called_again_and_answers_the_same(connect) -> None:
    server = proactor.serve(echo, ("127.0.0.1", 0))
    client = connect(server)
    client.sendall(b"x")
    assert read_exactly(client, 1) == b"x"
    first = server.shutdown(TIMEOUT)
    assert server.shutdown(TIMEOUT) == first
    assert server.shutdown() == first
    server.close()
    assert server.statistics().connections == 0
    assert server.connections == ()
    assert server.broadcast(b"anybody?") == proactor.BroadcastResult(0, 0, 0)


def test_shutdown_and_close_from_many_threads_at_once(connect) -> None:
    for _ in range(10):
        handler = RecordingEcho()
        server = proactor.serve(handler, ("127.0.0.1", 0))
        clients = [connect(server) for _ in range(5)]
        handler.wait_for_count("connected", 5)
        barrier = threading.Barrier(6)
        reports, failures = [], []

        def end(method, barrier=barrier, reports=reports, failures=failures):
            barrier.wait(TIMEOUT)
            try:
                reports.append(method())
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=end, args=(method,)) for method in (server.shutdown, server.close, server.shutdown) * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()
        assert failures == []
        assert handler.count("closed") == 5
        for client in clients:
            client.close()


def test_close_cuts_a_shutdown_short_that_waits(connect) -> None:
    class Sending(Recorder):
        def on_received(self, connection, data):
            connection.send(bytes(30_000_000))

    handler = Sending()
    server = proactor.serve(handler, ("127.0.0.1", 0))
    connect(server, receive_buffer=4096).sendall(b"x")
    handler.wait_for_count("received", 1)
    ending = threading.Thread(target=server.shutdown)
    ending.start()
    eventually(lambda: refused(server.address), "it shuts down")
    server.close()
    ending.join(TIMEOUT)
    assert not ending.is_alive()
    # Those that only asked whether it still listens were connections too.
    assert handler.count("closed") == handler.count("connected")


def refused(address) -> bool:
    try:
        dial(address).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False  # it was in the backlog when the listener closed: the next one is refused
    return False


@pytest.mark.parametrize("method", ["shutdown", "close"])
@pytest.mark.parametrize("where", ["received", "connected", "ended", "closed"])
def test_a_handler_may_end_its_own_server(connect, method, where) -> None:
    class Ending(Recorder):
        def on_connected(self, connection):
            self.end("connected")

        def on_received(self, connection, data):
            self.end("received")

        def on_ended(self, connection):
            self.end("ended")
            connection.close()

        def on_closed(self, connection):
            self.end("closed")

        def end(self, here):
            if here == where:
                getattr(server, method)()
                returned.set()

    returned = threading.Event()
    handler = Ending()
    server = proactor.serve(handler, ("127.0.0.1", 0))
    try:
        connect(server)  # one that is idle
        client = connect(server)
        client.sendall(b"x")
        client.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the idle one has ended it already, perhaps before its own connect was through
    assert returned.wait(TIMEOUT)
    assert server.shutdown(TIMEOUT).running == ()
    handler.wait_for(lambda handler: handler.count("closed") == len(handler.connections), "everybody is told")
    assert handler.overlaps == []


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("size", [4, 8_000_000])
def test_what_a_handler_sends_before_it_ends_its_server_arrives_and_is_counted(connect, make_pool, shared, size) -> None:
    reports = []

    class Last(Recorder):
        def on_received(self, connection, data):
            connection.send(bytes(size))
            reports.append(server.shutdown(TIMEOUT))
            with pytest.raises(ConnectionEnded):
                connection.send(b"too late")

    handler = Last()
    server = proactor.serve(handler, ("127.0.0.1", 0), send_limit=size, pool=make_pool() if shared else None)
    client = connect(server)
    client.sendall(b"quit")
    assert len(read_to_end(client)) == size
    assert handler.wait_closed() == [None]
    assert server.shutdown(TIMEOUT) == reports[0]
    assert reports[0] == proactor.ShutdownReport(completed=True, served=1, sent=size, dropped=0, running=())


def test_the_report_of_a_handler_that_ends_its_server_tells_what_its_client_did_not_take(connect) -> None:
    reports = []

    class Last(Recorder):
        def on_received(self, connection, data):
            connection.send(bytes(20_000_000))
            reports.append(server.shutdown(0.3))

    handler = Last()
    server = proactor.serve(handler, ("127.0.0.1", 0))
    client = connect(server)
    client.sendall(b"quit")
    [error] = handler.wait_closed()
    assert isinstance(error, ConnectionAbortedError)
    [report] = reports
    assert not report.completed
    assert report.sent + report.dropped == 20_000_000
    assert report.dropped > 0


def test_a_call_on_the_servers_pool_may_end_it(connect) -> None:
    handler = RecordingEcho()
    server = proactor.serve(handler, ("127.0.0.1", 0))
    client = connect(server)
    handler.wait_for_count("connected", 1)
    report = server.pool.submit(server.shutdown, TIMEOUT).result(TIMEOUT)
    assert report.served == 1
    assert client.recv(1) == b""
    assert handler.count("closed") == 1


def test_a_handler_that_ends_another_server_waits_for_that_ones_connections(connect, serve, make_pool) -> None:
    """It is not its own connection that keeps the other server busy."""
    pool = make_pool(max_workers=8)
    entered, release, reports = threading.Event(), threading.Event(), []

    class Busy(Recorder):
        def on_received(self, connection, data):
            entered.set()
            assert release.wait(TIMEOUT)
            connection.send(b"finished")

    busy = Busy()
    other = serve(busy, pool=pool)
    worker = connect(other)
    worker.sendall(b"work")
    assert entered.wait(TIMEOUT)

    def ending(connection, data):
        reports.append(other.shutdown(TIMEOUT))
        connection.send(b"ended")

    client = connect(serve(ending, pool=pool))
    client.sendall(b"x")
    eventually(lambda: refused(other.address), "it shuts down")
    release.set()
    assert read_exactly(worker, 9) == b"finished"
    assert read_exactly(client, 5) == b"ended"
    assert reports[0].completed
    assert set(busy.values("closed")) == {None}


def test_shutdown_while_clients_keep_connecting(connect) -> None:
    for _ in range(5):
        handler = RecordingEcho()
        server = proactor.serve(handler, ("127.0.0.1", 0))
        stop = threading.Event()

        def keep_connecting(server=server, stop=stop) -> None:
            while not stop.is_set():
                try:
                    with dial(server.address) as client:
                        client.sendall(b"x")
                        client.recv(1)
                except OSError:
                    pass  # the listener is gone, or the client was in the backlog when it went

        threads = [threading.Thread(target=keep_connecting) for _ in range(4)]
        for thread in threads:
            thread.start()
        handler.wait_for_count("closed", 20)
        report = server.shutdown(TIMEOUT)
        stop.set()
        for thread in threads:
            thread.join(TIMEOUT)
        assert report.completed
        assert report.dropped == 0
        assert handler.count("connected") == handler.count("closed") == report.served


def test_a_timeout_of_zero_waits_for_nobody(connect) -> None:
    handler = Recorder()
    server = proactor.serve(handler, ("127.0.0.1", 0))
    client = connect(server)
    handler.wait_for_count("connected", 1)
    started = time.monotonic()
    server.shutdown(0)
    assert time.monotonic() - started < 2
    assert handler.count("closed") == 1
    client.close()


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_timeout_that_is_no_time_is_refused_and_nothing_is_shut_down(serve, connect, timeout) -> None:
    server = serve(echo)
    with pytest.raises(ValueError, match="timeout"):
        server.shutdown(timeout)
    client = connect(server)
    client.sendall(b"alive")
    assert read_exactly(client, 5) == b"alive"


def test_serve_forever_returns_when_the_server_is_shut_down_elsewhere() -> None:
    for end in ("shutdown", "close"):
        server = proactor.serve(echo, ("127.0.0.1", 0))
        helper = threading.Timer(0.1, getattr(server, end))
        helper.start()
        server.serve_forever()
        helper.join(TIMEOUT)
        server.serve_forever()  # it is over: returns at once


def test_serve_forever_in_another_thread_returns_too() -> None:
    server = proactor.serve(echo, ("127.0.0.1", 0))
    threads = [threading.Thread(target=server.serve_forever) for _ in range(2)]
    for thread in threads:
        thread.start()
    server.shutdown(TIMEOUT)
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()


# ---- nothing is left ----


def test_shutdown_gives_back_every_thread_and_descriptor_while_the_server_object_lives() -> None:
    def serve_one():
        server = proactor.serve(echo, ("127.0.0.1", 0))
        with dial(server.address) as client:
            client.sendall(b"x")
            assert read_exactly(client, 1) == b"x"
            [connection] = server.connections
        report = server.shutdown(TIMEOUT)
        assert report.completed
        return server, connection

    threads = threads_of_process()
    serve_one()  # Windows opens some things once, for all sockets
    eventually(lambda: threads_of_process() == threads, "every thread is gone")
    descriptors = descriptor_count()
    server, connection = serve_one()
    eventually(lambda: threads_of_process() == threads, "every thread is gone")
    assert descriptor_count() == descriptors
    assert "closed" in repr(connection)
    assert connection.statistics().received_bytes == 1
    assert server.statistics().accepted == 1


def test_a_hundred_servers_one_after_the_other_leave_nothing() -> None:
    for _ in range(100):
        with proactor.serve(echo, ("127.0.0.1", 0)) as server, dial(server.address) as client:
            client.sendall(b"x")
            assert read_exactly(client, 1) == b"x"


def test_a_server_that_was_never_shut_down_warns_and_ends() -> None:
    server = proactor.serve(echo, ("127.0.0.1", 0))
    address = server.address
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del server
        gc.collect()
    assert [warning.category for warning in caught] == [ResourceWarning]
    assert str(address[1]) in str(caught[0].message)
    eventually(lambda: refused(address), "nobody listens any more")


def test_a_server_is_collected_after_its_end_whatever_its_handler_keeps(connect, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("proactor"), "disabled", True)  # pytest keeps what is logged

    class Keeping(proactor.Handler):
        def __init__(self):
            self.seen = []
            self.closed_with = []

        def connected(self, connection):
            self.seen.append(connection)
            connection.context = (self, connection, server_of[0])

        def received(self, connection, data):
            raise LookupError("kept with its traceback")

        def closed(self, connection, error):
            self.closed_with.append(error)

    handler = Keeping()
    server = proactor.serve(handler, ("127.0.0.1", 0))
    server_of = [server]
    handler.server = server
    clients = [connect(server) for _ in range(3)]
    clients[0].sendall(b"x")
    # Not in a closure, which would keep it.
    eventually(partial(getattr, handler, "closed_with"), "one has failed")
    eventually(lambda seen=handler.seen: len(seen) == 3, "all are connected")
    server.shutdown(TIMEOUT)
    watched = [weakref.ref(thing) for thing in (handler, server, handler.seen[1])]
    del handler, server
    server_of.clear()
    eventually(lambda: gc.collect() is not None and [watch() for watch in watched] == [None] * 3, "all is collected")


def test_a_connection_is_let_go_as_soon_as_it_is_closed(serve, connect) -> None:
    class Watching(proactor.Handler):
        def connected(self, connection):
            watched.append(weakref.ref(connection))

        def closed(self, connection, error):
            closed.set()

    watched: list[weakref.ref[proactor.Connection]] = []
    closed = threading.Event()
    server = serve(Watching)
    connect(server).close()
    assert closed.wait(TIMEOUT)
    eventually(lambda: watched[0]() is None, "nothing holds it, a parked worker neither")


def test_received_bytes_are_not_pinned_by_a_parked_worker(serve, connect) -> None:
    class Payload(bytearray):
        pass

    class Keeping(proactor.Handler):
        def received(self, connection, data):
            thing = Payload(data)
            watched.append(weakref.ref(thing))
            connection.context = thing
            connection.send(b"k")
            connection.context = None

    watched: list[weakref.ref[Payload]] = []
    client = connect(serve(Keeping))
    client.sendall(b"x")
    assert read_exactly(client, 1) == b"k"
    eventually(lambda: watched[0]() is None, "the handler's values are gone")


def test_an_unused_pool_and_server_can_be_dropped_from_a_handler(connect) -> None:
    """The last reference may go on a worker: nothing waits for itself."""
    done = threading.Event()

    def handler(connection, data):
        inner = proactor.serve(ignore, ("127.0.0.1", 0))
        inner.shutdown(TIMEOUT)
        del inner
        gc.collect()
        done.set()

    with proactor.serve(handler, ("127.0.0.1", 0)) as server:
        connect(server).sendall(b"x")
        assert done.wait(TIMEOUT)
