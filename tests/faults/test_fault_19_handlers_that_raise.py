"""Fault 19: a handler raises Exception, SystemExit or KeyboardInterrupt. That costs its connection, and nothing else."""

import dataclasses
import logging
import socket
import threading

import pytest

import proactor
from peers import TIMEOUT, Recorder, echo, eventually, read_exactly, reset

ERRORS = [ValueError("broken handler"), SystemExit("broken handler"), KeyboardInterrupt("broken handler"), GeneratorExit("broken handler")]


class Raising(Recorder):
    """Raises `error` in the method called `where` of the first connection; serves the others."""

    def __init__(self, where: str, error: BaseException) -> None:
        super().__init__()
        self.where = where
        self.error = error
        self.raised = threading.Event()

    def on_ended(self, connection):
        if self.where != "ended":
            connection.close()

    def _do(self, connection, name, value, act):
        first = not self.raised.is_set() and name == self.where
        super()._do(connection, name, value, act)
        if name == "received" and not first:
            connection.send(value)
        if first:
            self.raised.set()
            raise self.error


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["connected", "received", "ended", "closed"])
def test_the_connection_closes_with_it_and_the_server_lives(serve, connect, caplog, where, error) -> None:
    caplog.set_level(logging.ERROR, "proactor")
    handler = Raising(where, error.with_traceback(None))
    server = serve(handler)
    client = connect(server)
    try:
        client.sendall(b"x")
        client.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # `connected` has raised already
    [told] = handler.wait_closed()
    assert handler.raised.wait(TIMEOUT)
    assert told is (None if where == "closed" else error)
    assert handler.names().count("closed") == 1
    [record] = eventually(lambda: caplog.records, "it is logged")
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert "test_fault_19" in caplog.text, "with its traceback"
    assert "broken handler" in caplog.text
    good = connect(server)
    good.sendall(b"good")
    assert read_exactly(good, 4) == b"good"
    caplog.clear()


def test_what_was_sent_before_it_raised_still_goes_out(serve, connect, caplog) -> None:
    def handler(connection, data):
        connection.send(b"half an answer")
        raise ValueError("no more")

    client = connect(serve(handler))
    client.sendall(b"x")
    assert read_exactly(client, 14) == b"half an answer"
    assert client.recv(1) == b""
    caplog.clear()


def test_a_handler_that_raises_after_a_reset_is_not_called_for_what_is_left(serve, connect, caplog) -> None:
    class Raises(Recorder):
        def on_received(self, connection, data):
            eventually(lambda: " closed" in repr(connection), "the reset has come")
            raise ValueError("broken handler")

    caplog.set_level(logging.ERROR, "proactor")
    handler = Raises()
    client = connect(serve(handler, framing=proactor.Lines()))
    client.sendall(b"\n" * 10_000)
    handler.wait_for_count("received", 1)
    reset(client)
    [error] = handler.wait_closed()
    assert isinstance(error, ConnectionResetError)
    assert handler.names() == ["connected", "received", "closed"], "what else came is dropped with it"
    assert len(caplog.records) == 1
    caplog.clear()


def test_a_thousand_raising_handlers_do_not_cost_a_worker(serve, connect, caplog, make_pool) -> None:
    caplog.set_level(logging.CRITICAL, "proactor")
    pool = make_pool(concurrency=2, max_workers=4)

    def handler(connection, data):
        raise SystemExit(data.decode())

    server = serve(handler, pool=pool)
    for number in range(1000):
        client = connect(server)
        client.sendall(str(number).encode())
        assert client.recv(1) == b""
        client.close()
    good = connect(serve(echo, pool=pool))
    good.sendall(b"good")
    assert read_exactly(good, 4) == b"good"
    assert pool.statistics().workers <= 4


@pytest.mark.parametrize("error", ERRORS[:3], ids=lambda error: type(error).__name__)
def test_a_submitted_call_that_raises_gives_it_to_its_future(make_pool, error) -> None:
    def call():
        raise error.with_traceback(None)

    pool = make_pool()
    assert pool.submit(call).exception(TIMEOUT) is error
    assert pool.submit(lambda: 5).result(TIMEOUT) == 5


def test_an_exception_without_text_or_with_a_broken_repr_is_logged_too(serve, connect, caplog) -> None:
    class Unspeakable(Exception):
        def __str__(self):
            raise RuntimeError("cannot even be shown")

        __repr__ = __str__

    def handler(connection, data):
        raise Unspeakable

    server = serve(handler)
    client = connect(server)
    client.sendall(b"x")
    assert client.recv(1) == b""
    good = connect(serve(echo, pool=server.pool))
    good.sendall(b"good")
    assert read_exactly(good, 4) == b"good"
    assert "Unspeakable" in caplog.text
    caplog.clear()


class NoAttributes(Exception):
    def __setattr__(self, name, value):
        raise RuntimeError(f"{name} cannot be set")

    @property
    def __traceback__(self):
        raise RuntimeError("there is none")


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int = 0


@pytest.mark.parametrize("error", [Frozen, NoAttributes])
def test_an_exception_that_refuses_attributes_ends_its_connection_and_no_worker(serve, connect, caplog, make_pool, error) -> None:
    class Refusing(Recorder):
        def on_received(self, connection, data):
            raise error

    handler = Refusing()
    pool = make_pool(max_workers=2)
    server = serve(handler, pool=pool)
    for number in range(4):
        client = connect(server)
        client.sendall(b"x")
        assert client.recv(1) == b""
        assert [type(told) for told in handler.wait_closed(number + 1)] == [error] * (number + 1)
    assert pool.statistics().started <= 2, "no worker was lost"
    caplog.clear()


@pytest.mark.parametrize("raised", [OSError, SystemExit, KeyboardInterrupt])
def test_a_logging_handler_that_raises_does_no_harm(serve, connect, caplog, make_pool, raised) -> None:
    class Broken(logging.Handler):
        def emit(self, record):
            raise raised("the disk is full")

    def handler(connection, data):
        raise ValueError("broken handler")

    pool = make_pool(max_workers=2)

    broken = Broken()
    logger = logging.getLogger("proactor")
    logger.addHandler(broken)
    try:
        server = serve(handler, pool=pool)
        for _ in range(3):
            client = connect(server)
            client.sendall(b"x")
            assert client.recv(1) == b""
        good = connect(serve(echo, pool=server.pool))
        good.sendall(b"good")
        assert read_exactly(good, 4) == b"good"
        assert pool.statistics().started <= 2, "no worker was lost"
    finally:
        logger.removeHandler(broken)
    caplog.clear()
