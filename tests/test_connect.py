"""`connect`: the same connections and handlers from the client's side."""

import contextlib
import errno
import gc
import random
import select
import socket
import threading
import time
from collections.abc import Callable

import pytest

import proactor
from peers import TIMEOUT, Program, Recorder, RecordingEcho, dial, echo, eventually, read_exactly
from platforms import LINUX, WINE, of_unix_sockets, threads_of_process


def test_both_sides_may_be_proactors(serve) -> None:
    handler = Recorder()
    connection = proactor.connect(serve().address, handler, timeout=TIMEOUT)
    data = random.Random(1).randbytes(3_000_000)
    for at in range(0, len(data), 60_000):
        connection.send(data[at : at + 60_000])
    handler.wait_for(lambda handler: sum(map(len, handler.values("received"))) == len(data), "it all comes back")
    assert handler.data() == data
    connection.close()
    assert handler.wait_closed() == [None]
    assert handler.names()[0] == "connected"
    assert handler.overlaps == []


def test_a_plain_function_is_a_handler_here_too(serve) -> None:
    answers: list[bytes] = []
    came = threading.Event()

    def handler(connection, data):
        answers.append(data)
        came.set()
        connection.close()

    connection = proactor.connect(serve().address, handler)
    connection.send(b"hello")
    assert came.wait(TIMEOUT)
    assert answers == [b"hello"]


@pytest.mark.parametrize("form", ["tuple", "string", "ipv6", of_unix_sockets("unix"), "socket"])
def test_every_form_of_address(serve, tmp_path, form) -> None:
    where = {"ipv6": "[::1]:0", "unix": f"unix:{tmp_path}/s.sock"}.get(form, ("127.0.0.1", 0))
    server = serve(echo, where)
    address = server.address
    if form == "string":
        address = f"127.0.0.1:{server.address[1]}"
    elif form == "ipv6":
        address = f"[::1]:{server.address[1]}"
    elif form == "socket":
        address = socket.create_connection(server.address)
    handler = Recorder()
    connection = proactor.connect(address, handler, timeout=TIMEOUT)
    if form == "unix":
        assert connection.peername == f"{tmp_path}/s.sock"
    else:
        assert connection.peername[:2] == server.address[:2]
    connection.send(b"ping")
    handler.wait_for(lambda handler: handler.data() == b"ping", "the echo")
    connection.close()
    handler.wait_closed()


def test_its_own_pool_ends_with_the_connection(serve) -> None:
    server = serve()
    before = threads_of_process()
    for end in ("close", "abort"):
        handler = Recorder()
        connection = proactor.connect(server.address, handler)
        assert any(thread.name.startswith("proactor-connect-") for thread in threading.enumerate())
        getattr(connection, end)()
        handler.wait_closed()
    # The server's pool may have got a further worker meanwhile.
    eventually(lambda: not any(thread.name.startswith("proactor-connect") for thread in threading.enumerate()), "its threads have ended")
    eventually(lambda: len(threads_of_process()) <= len(before) + 1, "the native ones too")


def test_its_own_pool_ends_when_the_server_closes(serve) -> None:
    server = serve()
    handler = Recorder()
    proactor.connect(server.address, handler)
    eventually(lambda: server.connections, "it is connected")
    server.shutdown(TIMEOUT)
    assert handler.wait_closed() == [None]


def test_its_own_pool_ends_even_if_closed_raises(serve, caplog) -> None:
    class Raising(Recorder):
        def on_closed(self, connection):
            raise ValueError("in closed")

    handler = Raising()
    proactor.connect(serve().address, handler).close()
    handler.wait_closed()
    eventually(lambda: not any(thread.name.startswith("proactor-connect") for thread in threading.enumerate()), "its threads have ended")
    assert "in closed" in caplog.text
    caplog.clear()


def test_a_connection_nobody_keeps_lives_on(serve) -> None:
    handler = Recorder()
    server = serve()
    proactor.connect(server.address, handler).send(b"x")
    handler.wait_for(lambda handler: handler.data() == b"x", "the echo")
    with handler.changed:
        handler.connections.clear()
    gc.collect()
    assert server.broadcast(b"y").sent == 1
    handler.wait_for(lambda handler: b"y" in handler.values("received"), "it is still told")


def test_a_shared_pool_stays_and_takes_its_connections_with_it(serve, make_pool) -> None:
    server = serve()
    pool = proactor.ThreadPool()
    first, second = Recorder(), Recorder()
    connection = proactor.connect(server.address, first, pool=pool)
    proactor.connect(server.address, second, pool=pool)
    eventually(lambda: len(server.connections) == 2, "both are connected")
    connection.close()
    first.wait_closed()
    assert pool.submit(lambda: 5).result(TIMEOUT) == 5
    pool.shutdown()
    [error] = second.wait_closed()
    assert isinstance(error, ConnectionAbortedError)
    with pytest.raises(RuntimeError, match="shut down"):
        proactor.connect(server.address, Recorder(), pool=pool)
    eventually(lambda: server.connections == (), "the server sees both end")


def test_many_connections_on_one_pool(serve, make_pool) -> None:
    pool = make_pool()
    server = serve()
    handler = Recorder()
    connections = [proactor.connect(server.address, handler, pool=pool) for _ in range(100)]
    for number, connection in enumerate(connections):
        connection.send(number.to_bytes(2, "big") * 50)
    handler.wait_for(lambda handler: len(handler.data()) == 100 * 100, "every answer")
    for number, connection in enumerate(connections):
        assert handler.data(connection.id) == number.to_bytes(2, "big") * 50
        connection.close()
    handler.wait_closed(100)


def test_framing_and_limits_are_those_of_serve(serve) -> None:
    handler = Recorder()
    connection = proactor.connect(serve().address, handler, framing=proactor.Lines())
    connection.send(b"one\ntwo\nthr")
    handler.wait_for(lambda handler: handler.values("received") == [b"one", b"two"], "whole lines")
    connection.shutdown_write()
    handler.wait_closed()
    assert handler.values("received") == [b"one", b"two", b"thr"]
    for wrong in ({"send_limit": 0}, {"idle_timeout": 0}, {"framing": 3}):
        with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
            proactor.connect(("127.0.0.1", 1), echo, **wrong)


def test_idle_timeout_ends_a_client_too(serve) -> None:
    handler = Recorder()
    proactor.connect(serve().address, handler, idle_timeout=0.2)
    [error] = handler.wait_closed()
    assert isinstance(error, TimeoutError)


def test_a_refused_connect_names_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(ConnectionRefusedError, match=f"cannot connect to 127.0.0.1:{port}"):
            proactor.connect(("127.0.0.1", port), echo)


def test_a_connect_that_is_not_answered_times_out() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        try:
            for _ in range(4):  # once the backlog is full, further SYNs are dropped
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
                fillers.append(filler)
            started = time.monotonic()
            with pytest.raises(TimeoutError, match=r"did not answer within 0\.3 seconds"):
                proactor.connect(full.getsockname(), echo, timeout=0.3)
            assert time.monotonic() - started < 5
        finally:
            for filler in fillers:
                filler.close()


@pytest.mark.linux("Unix sockets")
def test_a_full_backlog_of_a_unix_socket_is_waited_for(tmp_path) -> None:
    """Linux has a connect that must not wait fail there at once."""
    path = str(tmp_path / "full")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as waiting:
        listener.bind(path)
        listener.listen(0)
        waiting.enter_context(dial(f"unix:{path}"))  # the one that it has room for
        started = time.monotonic()
        with pytest.raises(TimeoutError, match=r"did not answer within 0\.3 seconds"):
            proactor.connect(f"unix:{path}", echo, timeout=0.3)
        assert 0.25 < time.monotonic() - started < 5
        handler = Recorder()
        connecting = threading.Thread(target=proactor.connect, args=(f"unix:{path}", handler), kwargs={"timeout": TIMEOUT})
        connecting.start()
        for _ in range(2):
            waiting.enter_context(listener.accept()[0])
        connecting.join()
    handler.wait_closed()


@pytest.mark.linux("Unix sockets")
def test_an_unknown_name_and_a_missing_path_are_told(tmp_path) -> None:
    with pytest.raises(OSError, match=r"256\.256\.256\.256"):
        proactor.connect(("256.256.256.256", 80), echo)
    with pytest.raises(FileNotFoundError, match="cannot connect to unix:"):
        proactor.connect(f"unix:{tmp_path}/nobody", echo)
    with pytest.raises(ValueError, match="no address"):
        proactor.connect("nowhere", echo)
    with pytest.raises(TypeError, match="a handler is"):
        proactor.connect(("127.0.0.1", 1), 5)


def test_a_bad_handler_is_told_and_leaves_nothing(serve) -> None:
    server = serve()
    with pytest.raises(TypeError, match="a handler is"):
        proactor.connect(server.address, 5)


def test_a_client_may_talk_in_connected(serve, connect) -> None:
    class Asking(Recorder):
        def on_connected(self, connection):
            connection.send(b"question")
            self.note(connection, "answer", connection.receive(timeout=TIMEOUT))
            connection.close()

    handler = Asking()
    proactor.connect(serve(RecordingEcho()).address, handler)
    handler.wait_closed()
    assert handler.values("answer") == [b"question"]


def test_a_handler_of_a_server_may_connect_elsewhere_on_the_same_pool(serve, connect, make_pool) -> None:
    """A relay: what comes in goes out, what comes back goes back."""
    pool = make_pool()
    target = serve(lambda connection, data: connection.send(data.upper()), pool=pool)

    class Relay(proactor.Handler):
        def connected(self, connection):
            connection.context = proactor.connect(target.address, lambda _upstream, data: connection.send(data), pool=pool, timeout=TIMEOUT)

        def received(self, connection, data):
            connection.context.send(data)

        def closed(self, connection, error):
            connection.context.close()

    relay = serve(Relay, pool=pool)
    clients = [connect(relay) for _ in range(5)]
    for number, client in enumerate(clients):
        client.sendall(b"message %d" % number)
    for number, client in enumerate(clients):
        assert read_exactly(client, 9) == b"MESSAGE %d" % number
        client.close()
    eventually(lambda: target.connections == (), "the upstream connections end as well")


@pytest.mark.parametrize("form", ["address", "socket"])
def test_no_delay_and_keepalive_are_those_of_the_arguments(serve, form) -> None:
    server = serve()
    for wanted in (True, False):
        address = server.address
        if form == "socket":
            address = socket.create_connection(server.address)
            address.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, not wanted)
        connection = proactor.connect(address, echo, no_delay=wanted, keepalive=wanted)
        with socket.socket(fileno=socket.dup(connection._descriptor())) as duplicate:
            assert bool(duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) == wanted
            assert bool(duplicate.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) == wanted
            if wanted and not WINE:  # which does not know the option
                assert duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        connection.close()


def test_a_peer_with_an_ipv6_zone_is_told_to_the_core_by_number() -> None:
    from types import SimpleNamespace

    from proactor.client import _peer_text

    for name, text in [
        (("fe80::1%eth0", 80, 0, 2), "[fe80::1%2]:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        (("127.0.0.1", 80), "127.0.0.1:80"),
    ]:
        assert _peer_text(SimpleNamespace(getpeername=lambda name=name: name), "anywhere") == text


def test_connections_without_a_pool_share_one_until_the_last_has_ended(serve) -> None:
    server = serve()
    handler = Recorder()
    before = len(threads_of_process())
    connections = [proactor.connect(server.address, handler) for _ in range(30)]
    handler.wait_for_count("connected", 30)
    assert len(threads_of_process()) < before + 15
    for connection in connections[1:]:
        connection.close()
    handler.wait_closed(29)
    connections[0].send(b"still")
    handler.wait_for(lambda handler: handler.data(connections[0].id) == b"still", "the pool is there for the last one")
    connections[0].close()
    handler.wait_closed(30)
    eventually(lambda: not any(thread.name.startswith("proactor-connect") for thread in threading.enumerate()), "its threads have ended")
    again = proactor.connect(server.address, handler)
    again.send(b"again")
    handler.wait_for(lambda handler: b"again" in handler.values("received"), "the next one gets a new pool")
    again.close()
    handler.wait_closed(31)


def test_connects_from_many_threads_that_come_and_go_share_and_leave_nothing(serve) -> None:
    server = serve()
    failures: list[BaseException] = []

    def come_and_go() -> None:
        try:
            for _ in range(20):
                handler = Recorder()
                proactor.connect(server.address, handler).send(b"x")
                handler.wait_for(lambda handler: handler.data() == b"x", "the echo")
                handler.connections[0].close()
                handler.wait_closed()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert failures == []


def test_a_socket_that_is_not_connected_is_refused_and_stays_the_callers() -> None:
    with socket.socket() as unconnected:
        unconnected.settimeout(7)
        with pytest.raises(ValueError, match="the socket is not connected: connect it first"):
            proactor.connect(unconnected, echo)
        assert unconnected.fileno() >= 0
        assert unconnected.gettimeout() == 7
    with socket.socket(type=socket.SOCK_DGRAM) as datagram:
        with pytest.raises(ValueError, match="stream"):
            proactor.connect(datagram, echo)
        assert datagram.fileno() >= 0


def test_a_connected_socket_stays_the_callers_where_connect_fails(serve) -> None:
    pool = proactor.ThreadPool()
    pool.shutdown()
    with socket.create_connection(serve().address) as connected:
        connected.settimeout(TIMEOUT)
        with pytest.raises(RuntimeError, match="shut down"):
            proactor.connect(connected, echo, pool=pool)
        connected.sendall(b"mine")
        assert connected.recv(4) == b"mine"
        assert connected.gettimeout() == TIMEOUT


CLOSED = errno.EBADF if LINUX else errno.ENOTSOCK
"""What the engine says that is closed."""


@pytest.fixture
def exhausted(make_pool, monkeypatch):
    """A pool on which nothing can be attached or listened on any more, though it looks as if it could."""
    pool = make_pool()
    started = pool._start()
    pool._workers.close()
    monkeypatch.setattr(pool, "_start", lambda: started)
    return pool


def test_a_connected_socket_stays_the_callers_where_it_cannot_be_attached(serve, exhausted) -> None:
    handler = Recorder()
    with socket.create_connection(serve().address) as connected:
        connected.settimeout(TIMEOUT)
        descriptor = connected.fileno()
        with pytest.raises(OSError) as caught:
            proactor.connect(connected, handler, pool=exhausted)
        assert caught.value.errno == CLOSED
        assert connected.fileno() == descriptor
        assert connected.gettimeout() == TIMEOUT
        connected.sendall(b"mine")
        assert connected.recv(4) == b"mine", "neither closed nor reset"
    assert handler.names() == [], "there was no connection to tell of"


def test_a_connected_socket_stays_the_callers_where_the_pool_is_shut_down_meanwhile(serve, make_pool, monkeypatch) -> None:
    handler, held, pool = Recorder(), threading.Event(), make_pool()
    pool.submit(held.wait, TIMEOUT)  # so that the pool's engine still takes what it is given
    start = pool._start

    def started_and_shut_down():
        started = start()
        pool.shutdown(wait=False)
        return started

    monkeypatch.setattr(pool, "_start", started_and_shut_down)
    with socket.create_connection(serve().address) as connected:
        with pytest.raises(RuntimeError, match="shut down"):
            proactor.connect(connected, handler, pool=pool)
        connected.sendall(b"mine")
        assert connected.recv(4) == b"mine", "neither closed nor reset"
    held.set()
    pool.shutdown()
    assert handler.names() == [], "there was no connection to tell of"


FREE_NUMBERS = 64
"""On Linux the lowest free number is taken, on Windows one of those that are free: hardly more than these."""


class OpensAfterwards:
    """Stands for a port, and opens sockets after a call of `name` has failed, as another thread may, until one has the freed number."""

    def __init__(self, port, name: str) -> None:
        self.port, self.name = port, name
        self.opened: list[socket.socket] = []
        self.has_number = False

    def __getattr__(self, name: str):
        return self.call if name == self.name else getattr(self.port, name)

    def call(self, descriptor: int, *arguments):
        try:
            return getattr(self.port, self.name)(descriptor, *arguments)
        except BaseException:
            self.has_number = any(self.take(descriptor) for _ in range(FREE_NUMBERS))
            raise

    def take(self, descriptor: int) -> bool:
        self.opened.append(socket.socket())
        return self.opened[-1].fileno() == descriptor

    def check(self, fail: Callable[[], object]) -> None:
        """Has the call fail, again where some other thread was quicker: it may keep the number."""

        def failed_and_opened() -> bool:
            with pytest.raises(OSError) as caught:
                fail()
            assert caught.value.errno == CLOSED
            for each in self.opened:
                each.close()  # an error if it was closed a second time
            self.opened.clear()
            return self.has_number

        eventually(failed_and_opened, "the number was free when the call had failed")


def test_a_descriptor_that_cannot_be_attached_is_closed_once(serve, exhausted, monkeypatch) -> None:
    server = serve()
    port, workers = exhausted._start()
    port = OpensAfterwards(port, "attach")
    monkeypatch.setattr(exhausted, "_start", lambda: (port, workers))
    port.check(lambda: proactor.connect(server.address, echo, pool=exhausted))


def test_a_descriptor_that_cannot_be_listened_on_is_closed_once(exhausted, monkeypatch) -> None:
    port, workers = exhausted._start()
    port = OpensAfterwards(port, "listen")
    monkeypatch.setattr(exhausted, "_start", lambda: (port, workers))
    port.check(lambda: proactor.serve(echo, ("127.0.0.1", 0), pool=exhausted))


FORKED = """
import os, socket, warnings
import proactor
warnings.simplefilter("ignore", DeprecationWarning)  # of fork with threads: that is what is tried here
from proactor.handlers import handler_methods
from proactor.limits import limits

pool = proactor.ThreadPool()
port, _ = pool._start()
group = limits(None, None, None, 1000, 1000, True, True).group(port, handler_methods(lambda connection, data: None))
if os.fork() == 0:
    for call in (port.attach, port.listen):
        ours, theirs = socket.socketpair()
        descriptor = ours.detach()
        try:
            call(descriptor, "", group)
        except RuntimeError as error:
            told = "parent process" in str(error)
        try:
            os.fstat(descriptor)
        except OSError:
            os.write(1, b"closed\\n" if told else b"not told\\n")
    os._exit(0)
os.wait()
pool.shutdown()
"""


@pytest.mark.linux("fork")
def test_a_port_of_the_parent_closes_what_it_is_given_too(program) -> None:
    child: Program = program(FORKED)
    assert child.lines() == ["closed", "closed"], child.errors()


@pytest.mark.linux("the error that a reset leaves at its socket (SO_ERROR)")
def test_a_socket_whose_peer_has_reset_it_is_told_as_that(serve) -> None:
    handler = Recorder()
    with socket.create_connection(serve(handler).address) as connected:
        handler.wait_for_count("connected", 1)
        handler.connections[0].abort()
        assert select.select([connected], [], [], TIMEOUT)[0]
        with pytest.raises(ConnectionResetError, match="over already"):
            proactor.connect(connected, echo)


def test_an_address_with_flow_and_scope_is_connected_to(serve) -> None:
    server = serve(address=("::1", 0, 0, 0))
    assert len(server.address) == 4
    handler = Recorder()
    connection = proactor.connect(server.address, handler, timeout=TIMEOUT)
    connection.send(b"six")
    handler.wait_for(lambda handler: handler.data() == b"six", "the echo")
    assert connection.peername == server.address
    connection.close()
    handler.wait_closed()


def test_the_scope_of_an_address_reaches_the_kernel() -> None:
    with pytest.raises(OSError, match=r"cannot (listen on|connect to) \[fe80::1\]:9|No such device|Invalid argument"):
        proactor.connect(("fe80::1", 9, 0, 2**31), echo, timeout=TIMEOUT)


def test_a_connection_is_a_context_manager_that_closes(serve) -> None:
    handler = Recorder()
    with proactor.connect(serve().address, handler) as connection:
        connection.send(b"x")
        handler.wait_for(lambda handler: handler.data() == b"x", "the echo")
    assert handler.wait_closed() == [None]
