"""`Connection.receive`: handlers that read on by themselves, with the slot freed while they wait."""

import random
import socket
import threading
import time

import pytest

import proactor
from peers import TIMEOUT, Recorder, echo, eventually, read_exactly, read_to_end, reset


class Reading(Recorder):
    """Runs `script(connection, data)` on the first bytes, and keeps what it answers or raises."""

    def __init__(self, script) -> None:
        super().__init__()
        self.script = script
        self.outcome: list[object] = []

    def on_received(self, connection, data):
        if self.outcome:
            return
        try:
            result = self.script(connection, data)
        except Exception as error:
            result = error
        with self.changed:
            self.outcome.append(result)
            self.changed.notify_all()

    def result(self) -> object:
        self.wait_for(lambda self: self.outcome, "the handler's script is through")
        return self.outcome[0]


def test_a_conversation_in_one_handler_call(serve, connect) -> None:
    def script(connection, data):
        answers = [data]
        for question in (b"name?", b"age?"):
            connection.send(question)  # must go out before the handler waits for the answer
            answers.append(connection.receive(timeout=TIMEOUT))
        connection.send(b"thanks")
        return answers

    handler = Reading(script)
    client = connect(serve(handler))
    client.sendall(b"hello")
    assert read_exactly(client, 5) == b"name?"
    client.sendall(b"Ada")
    assert read_exactly(client, 4) == b"age?"
    client.sendall(b"36")
    assert read_exactly(client, 6) == b"thanks"
    assert handler.result() == [b"hello", b"Ada", b"36"]
    client.sendall(b"later")
    handler.wait_for_count("received", 2)
    assert handler.values("received") == [b"hello", b"later"], "what receive answered does not come to the handler as well"


def test_receive_answers_every_byte_in_order(serve, connect) -> None:
    data = random.Random(1).randbytes(3_000_000)

    def script(connection, first):
        got = bytearray(first)
        while len(got) < len(data):
            got += connection.receive(timeout=TIMEOUT)
        return bytes(got)

    handler = Reading(script)
    client = connect(serve(handler, receive_limit=100_000))
    client.sendall(data)
    assert handler.result() == data


def test_receive_answers_empty_bytes_when_the_peer_has_ended(serve, connect) -> None:
    handler = Reading(lambda connection, data: [connection.receive(), connection.receive(timeout=0), connection.receive(timeout=5)])
    client = connect(serve(handler))
    client.sendall(b"x")
    handler.wait_for_count("received", 1)
    client.shutdown(socket.SHUT_WR)
    assert handler.result() == [b"", b"", b""]
    assert handler.wait_closed() == [None]
    assert handler.names() == ["connected", "received", "ended", "closed"], "ended is told in any case"


def test_receive_raises_what_broke_the_connection(serve, connect) -> None:
    handler = Reading(lambda connection, data: connection.receive())
    client = connect(serve(handler))
    client.sendall(b"x")
    handler.wait_for_count("received", 1)
    reset(client)
    assert isinstance(handler.result(), ConnectionResetError)
    assert isinstance(handler.wait_closed()[0], ConnectionResetError)


def test_receive_raises_timeout_error_and_the_connection_lives(serve, connect) -> None:
    def script(connection, data):
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            connection.receive(timeout=0.2)
        took = time.monotonic() - started
        connection.send(b"go on")
        return took, connection.receive(timeout=TIMEOUT)

    handler = Reading(script)
    client = connect(serve(handler))
    client.sendall(b"x")
    assert read_exactly(client, 5) == b"go on"
    client.sendall(b"here")
    took, data = handler.result()
    assert 0.15 < took < 5
    assert data == b"here"


def test_receive_with_timeout_0_takes_what_is_there_or_raises(serve, connect) -> None:
    second = threading.Event()

    def script(connection, data):
        with pytest.raises(TimeoutError):
            connection.receive(timeout=0)
        connection.send(b"now")
        assert second.wait(TIMEOUT)
        return connection.receive(timeout=0)

    handler = Reading(script)
    client = connect(serve(handler))
    client.sendall(b"x")
    eventually(lambda: handler.connections, "connected")
    # `send` inside a handler goes out when the handler blocks or ends; the monitor sees that it does.
    assert read_exactly(client, 3) == b"now"
    client.sendall(b"more")
    eventually(lambda: handler.connections[0].statistics().inbox_bytes > 0, "the second message waits")
    second.set()
    assert handler.result() == b"more"


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf") * -1])
def test_a_timeout_that_is_no_time_is_refused(serve, connect, timeout) -> None:
    handler = Reading(lambda connection, data: connection.receive(timeout=timeout))
    connect(serve(handler)).sendall(b"x")
    assert isinstance(handler.result(), ValueError)


def test_receive_belongs_to_the_connections_own_handler(serve, connect) -> None:
    found: dict[str, BaseException] = {}

    def attempt(where, connection):
        try:
            connection.receive(timeout=1)
        except BaseException as error:
            found[where] = error

    first = Recorder()
    server = serve(first)
    connect(server)
    first.wait_for_count("connected", 1)
    [stranger] = first.connections
    attempt("main thread", stranger)
    server.pool.submit(attempt, "a call on the pool", stranger).result(TIMEOUT)
    other = connect(serve(lambda connection, data: (attempt("another's handler", stranger), connection.send(b"ok")), pool=server.pool))
    other.sendall(b"x")
    assert read_exactly(other, 2) == b"ok"

    def in_own_thread(connection, data):
        thread = threading.Thread(target=attempt, args=("a thread of the handler's", connection))
        thread.start()
        thread.join(TIMEOUT)
        connection.send(b"ok")

    client = connect(serve(in_own_thread))
    client.sendall(b"x")
    assert read_exactly(client, 2) == b"ok"
    assert set(found) == {"main thread", "a call on the pool", "another's handler", "a thread of the handler's"}
    assert {type(error) for error in found.values()} == {RuntimeError}


def test_handlers_that_wait_in_receive_hold_no_slot(serve, connect, make_pool) -> None:
    arrived = threading.Barrier(11)

    def waiting(connection, data):
        arrived.wait(TIMEOUT)
        connection.send(connection.receive(timeout=TIMEOUT))

    pool = make_pool(concurrency=1, max_workers=16)
    server = serve(waiting, pool=pool)
    clients = [connect(server) for _ in range(10)]
    for client in clients:
        client.sendall(b"x")
    arrived.wait(TIMEOUT)
    eventually(lambda: pool.statistics().blocked == 10, "all wait without a slot")
    talker = connect(serve(echo, pool=pool))
    talker.sendall(b"free")
    assert read_exactly(talker, 4) == b"free"
    for number, client in enumerate(clients):
        client.sendall(bytes([number]))
        assert read_exactly(client, 1) == bytes([number])


def test_receive_is_woken_when_somebody_else_ends_the_connection(serve, connect) -> None:
    for end, expected in (("close", b""), ("abort", ConnectionAbortedError)):
        handler = Reading(lambda connection, data: connection.receive())
        client = connect(serve(handler))
        client.sendall(b"x")
        handler.wait_for_count("received", 1)
        getattr(handler.connections[0], end)()
        result = handler.result()
        assert result == expected or (isinstance(expected, type) and isinstance(result, expected)), (end, result)
        handler.wait_closed()


def test_receive_works_in_connected_and_answers_the_end_in_ended(serve, connect) -> None:
    class Greeting(Recorder):
        def on_connected(self, connection):
            connection.send(b"password? ")
            connection.context = connection.receive(timeout=TIMEOUT)

        def on_ended(self, connection):
            connection.send(connection.context + connection.receive(timeout=TIMEOUT))
            connection.close()

    handler = Greeting()
    client = connect(serve(handler))
    assert read_exactly(client, 10) == b"password? "
    client.sendall(b"secret")
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(client) == b"secret"
    handler.wait_closed()
    assert handler.names() == ["connected", "ended", "closed"]


def test_receive_answers_whole_messages_where_there_is_framing(serve, connect) -> None:
    handler = Reading(lambda connection, data: [data, connection.receive(timeout=TIMEOUT), connection.receive(timeout=TIMEOUT)])
    client = connect(serve(handler, framing=proactor.Lines()))
    for piece in (b"on", b"e\ntw", b"o\nthr", b"ee\n"):
        client.sendall(piece)
    assert handler.result() == [b"one", b"two", b"three"]


def test_sent_is_told_after_a_handler_that_reads_on(serve, connect) -> None:
    class Telling(Reading):
        def sent(self, connection, count):
            self.note(connection, "sent", count)

    def script(connection, data):
        connection.send(b"12345")
        return connection.receive(timeout=TIMEOUT)

    handler = Telling(script)
    client = connect(serve(handler))
    client.sendall(b"x")
    assert read_exactly(client, 5) == b"12345"
    client.sendall(b"answer")
    assert handler.result() == b"answer"
    handler.wait_for(lambda handler: sum(handler.values("sent")) == 5, "sent is told")
    assert handler.overlaps == []


# ---- total_limit ----


def test_a_handler_that_only_receives_goes_on_after_total_limit_stopped_its_peer(serve, connect) -> None:
    data = random.Random(8).randbytes(2_000_000)

    def script(connection, first):
        received = bytearray(first)
        eventually(lambda: connection.statistics().receiving_paused, "total_limit is reached")
        while len(received) < len(data):
            received += connection.receive(timeout=TIMEOUT)
        return bytes(received)

    handler = Reading(script)
    client = connect(serve(handler, total_limit=100_000, receive_limit=10_000_000))
    client.sendall(data)
    assert handler.result() == data


def test_workers_that_all_wait_in_receive_get_their_messages_although_the_others_fill_total_limit(serve, connect, make_pool) -> None:
    data = random.Random(9).randbytes(300_000)
    waiting = threading.Barrier(3)

    def handle(connection, first):
        if first != b"collect":
            return
        waiting.wait(TIMEOUT)
        received = bytearray()
        while len(received) < len(data):
            received += connection.receive(timeout=TIMEOUT)
        connection.send(bytes(received))

    server = serve(handle, pool=make_pool(max_workers=2, concurrency=2), total_limit=200_000, receive_limit=10_000_000)
    collecting = [connect(server) for _ in range(2)]
    for client in collecting:
        client.sendall(b"collect")
    waiting.wait(TIMEOUT)
    others = [connect(server) for _ in range(4)]
    senders = [threading.Thread(target=client.sendall, args=(data,)) for client in others]
    for sender in senders:
        sender.start()
    eventually(lambda: server.statistics().queued_bytes > 200_000, "the others fill the limit")
    for client in collecting:
        client.sendall(data)
    for client in collecting:
        assert read_exactly(client, len(data)) == data
    for sender in senders:
        sender.join(TIMEOUT)
