"""`Connection` from outside: what can be sent, names, context, statistics, half-close, and how a connection ends."""

import array
import gc
import random
import socket
import threading
import weakref

import pytest

import proactor
from peers import TIMEOUT, Recorder, RecordingEcho, ends_with_reset, eventually, ignore, read_exactly, read_to_end, reset
from platforms import descriptor_count, of_unix_sockets

SENDABLE = {
    "bytes": b"bytes",
    "no bytes at all": b"",
    "bytearray": bytearray(b"bytearray"),
    "part of bytes": memoryview(b"xmemoryviewx")[1:-1],
    "writable memory": memoryview(bytearray(b"writable")),
    "array of bytes": array.array("B", b"array of bytes"),
    "array of floats": array.array("d", [1.5, -2.5]),
    "memory of integers": memoryview(array.array("i", [1, 2, 3])),
}


@pytest.mark.parametrize("method", ["send", "try_send"])
@pytest.mark.parametrize("value", SENDABLE.values(), ids=SENDABLE.keys())
def test_any_contiguous_bytes_like_object_can_be_sent(serve, connect, method, value) -> None:
    class Sending(proactor.Handler):
        def connected(self, connection):
            getattr(connection, method)(value)
            connection.close()

    assert read_to_end(connect(serve(Sending))) == bytes(memoryview(value).cast("B"))


@pytest.mark.parametrize("method", ["send", "try_send"])
@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ("text", TypeError, r"encode the text first"),
        (5, TypeError, "bytes-like"),
        (None, TypeError, "bytes-like"),
        ([1, 2], TypeError, "bytes-like"),
        (memoryview(b"abcdef")[::2], ValueError, "contiguous"),
        (memoryview(array.array("i", [1, 2, 3, 4]))[::2], ValueError, "contiguous"),
    ],
    ids=["str", "int", "None", "list", "strided bytes", "strided integers"],
)
def test_what_cannot_be_sent_is_refused_and_the_connection_lives(serve, connect, method, value, error, text) -> None:
    caught: list[BaseException] = []

    def handler(connection, data):
        try:
            getattr(connection, method)(value)
        except Exception as refused:
            caught.append(refused)
        connection.send(data)

    client = connect(serve(handler))
    client.sendall(b"still here")
    assert read_exactly(client, 10) == b"still here"
    [refused] = caught
    assert type(refused) is error
    assert text in str(refused)


@pytest.mark.parametrize("size", [10, 4096, 100_000])
def test_a_bytearray_may_change_as_soon_as_send_has_returned(serve, connect, size) -> None:
    class Reusing(proactor.Handler):
        def connected(self, connection):
            buffer = bytearray(size)
            for number in range(20):
                buffer[:] = bytes([number]) * size
                connection.send(buffer)
            buffer.clear()  # and it is not exported any more
            connection.close()

    assert read_to_end(connect(serve(Reusing))) == b"".join(bytes([number]) * size for number in range(20))


def test_a_bytes_object_that_was_sent_may_be_dropped_at_once(serve, connect) -> None:
    class Dropping(proactor.Handler):
        def connected(self, connection):
            for number in range(200):
                connection.send(bytes([number]) * 10_000)  # large enough to be held, not copied
            gc.collect()
            connection.close()

    assert read_to_end(connect(serve(Dropping, send_limit=4_000_000))) == b"".join(bytes([number]) * 10_000 for number in range(200))


def test_received_bytes_that_a_handler_keeps_never_change(serve, connect) -> None:
    handler = Recorder()
    client = connect(serve(handler))
    data = random.Random(2).randbytes(3_000_000)
    client.sendall(data)
    handler.wait_for(lambda handler: len(handler.data()) == len(data), "all has come")
    assert handler.data() == data
    assert all(type(piece) is bytes for piece in handler.values("received"))


def test_received_bytes_hash_and_compare_as_any_bytes(serve, connect) -> None:
    """Buffers are used again; a cached hash or a stale length must not be."""
    handler = Recorder()
    server = serve(handler)
    client = connect(server)
    for number in range(60):
        piece = bytes([number]) * (60_000 + number)
        client.sendall(piece)
        handler.wait_for(lambda handler, piece=piece: len(handler.data()) >= len(piece), "the piece has come")
        with handler.changed:
            for value in handler.values("received"):
                assert hash(value) == hash(bytes(bytearray(value)))
                assert len(value) == len(bytes(bytearray(value)))
            handler.events.clear()  # lets go of them, so that the buffers are used again
            for events in handler.by_connection.values():
                events.clear()


def test_sends_from_handlers_and_other_threads_keep_their_order_each(serve, connect) -> None:
    handler = Recorder()
    server = serve(handler)
    client = connect(server)
    handler.wait_for_count("connected", 1)
    [connection] = handler.connections

    def send(name: int) -> None:
        for number in range(500):
            connection.send(bytes([name, number % 256]) + b"x" * 98)

    threads = [threading.Thread(target=send, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    got = read_exactly(client, 4 * 500 * 100)
    for thread in threads:
        thread.join(TIMEOUT)
    messages = [got[at : at + 100] for at in range(0, len(got), 100)]
    for name in range(4):
        mine = [message for message in messages if message[0] == name]
        assert [message[1] for message in mine] == [number % 256 for number in range(500)]
        assert all(message[2:] == b"x" * 98 for message in mine)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", of_unix_sockets("unix:{folder}/names.sock")])
def test_names_are_those_of_the_sockets(serve, connect, tmp_path, address) -> None:
    handler = Recorder()
    client = connect(serve(handler, address.format(folder=tmp_path)))
    handler.wait_for_count("connected", 1)
    [connection] = handler.connections
    assert connection.peername == client.getsockname()
    assert connection.sockname == client.getpeername()
    assert str(connection.id) in repr(connection)
    assert "open" in repr(connection)
    client.close()
    handler.wait_closed()
    assert connection.peername == client_name(connection), "the peer's name outlives the connection"
    with pytest.raises(OSError, match="closed"):
        _ = connection.sockname
    assert "closed" in repr(connection)


def client_name(connection):
    return connection.peername


@pytest.mark.linux("Unix sockets")
def test_a_unix_client_with_a_name_of_its_own_is_told_by_it(serve, tmp_path) -> None:
    handler = Recorder()
    server = serve(handler, f"unix:{tmp_path}/server.sock")
    with socket.socket(socket.AF_UNIX) as client:
        client.bind(f"{tmp_path}/client.sock")
        client.connect(f"{tmp_path}/server.sock")
        handler.wait_for_count("connected", 1)
        assert server.connections[0].peername == f"{tmp_path}/client.sock"


def test_ids_are_never_used_twice(serve, connect) -> None:
    handler = Recorder()
    one, two = serve(handler), serve(handler)
    for server in (one, two) * 20:
        connect(server).close()
    handler.wait_closed(40)
    ids = [connection.id for connection in handler.connections]
    assert len(set(ids)) == len(handler.connections) == 40


def test_a_connection_is_one_object_all_its_life_and_carries_a_context(serve, connect) -> None:
    class Counting(proactor.Handler):
        def connected(self, connection):
            assert connection.context is None
            connection.context = [connection]

        def received(self, connection, data):
            connection.context.append(data)
            connection.send(str(len(connection.context)).encode())

        def closed(self, connection, error):
            finished.append(connection.context[0] is connection)
            closed.set()

    finished: list[bool] = []
    closed = threading.Event()
    client = connect(serve(Counting))
    for number in range(3):
        client.sendall(b"x")
        assert read_exactly(client, 1) == str(number + 2).encode()
    client.close()
    assert closed.wait(TIMEOUT)
    assert finished == [True]


def test_a_context_that_refers_to_its_connection_is_collected(serve, connect) -> None:
    class Thing:
        pass

    class Cyclic(proactor.Handler):
        def connected(self, connection):
            thing = Thing()
            thing.connection = connection
            connection.context = thing
            found.append(weakref.ref(thing))

        def closed(self, connection, error):
            closed.set()

    found: list[weakref.ref[Thing]] = []
    closed = threading.Event()
    connect(serve(Cyclic)).close()
    assert closed.wait(TIMEOUT)
    eventually(lambda: gc.collect() is not None and found[0]() is None, "the cycle is collected while the server lives")


def test_nobody_makes_connections_by_hand() -> None:
    with pytest.raises(TypeError, match=r"proactor\.serve"):
        proactor.Connection()


def test_connection_statistics_count_bytes_and_messages(serve, connect) -> None:
    handler = RecordingEcho()
    client = connect(serve(handler))
    for _ in range(5):
        client.sendall(b"12345")
        assert read_exactly(client, 5) == b"12345"
    [connection] = handler.connections
    eventually(lambda: connection.statistics().sent_bytes == 25, "the sender has counted")
    numbers = connection.statistics()
    assert (numbers.received_bytes, numbers.messages, numbers.dropped_bytes) == (25, 5, 0)
    assert (numbers.inbox_bytes, numbers.outbox_bytes, numbers.receiving_paused, numbers.open) == (0, 0, False, True)
    client.close()
    handler.wait_closed()
    assert not connection.statistics().open
    assert connection.statistics().received_bytes == 25


# ---- half-close ----


def test_a_client_that_has_finished_sending_still_gets_its_answer(serve, connect) -> None:
    client = connect(serve())
    data = random.Random(4).randbytes(500_000)
    sender = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
    sender.start()
    assert read_to_end(client) == data
    sender.join(TIMEOUT)


def test_a_handler_may_keep_a_half_closed_client_and_send_to_it(serve, connect) -> None:
    class Keeping(Recorder):
        def on_ended(self, connection):
            pass

    handler = Keeping()
    server = serve(handler)
    client = connect(server)
    client.shutdown(socket.SHUT_WR)
    handler.wait_for_count("ended", 1)
    assert server.broadcast(b"news").sent == 1
    assert read_exactly(client, 4) == b"news"
    assert handler.count("closed") == 0
    [connection] = handler.connections
    connection.send(b"more")
    connection.close()
    assert read_to_end(client) == b"more"
    assert handler.wait_closed() == [None]


def test_shutdown_write_ends_our_side_and_the_client_may_send_on(serve, connect) -> None:
    class Finishing(Recorder):
        def on_connected(self, connection):
            connection.send(b"all I have to say")
            connection.shutdown_write()

    handler = Finishing()
    client = connect(serve(handler))
    assert read_to_end(client) == b"all I have to say"
    client.sendall(b"but I")
    handler.wait_for(lambda handler: handler.data() == b"but I", "received after our end")
    [connection] = handler.connections
    with pytest.raises(proactor.errors.ConnectionEnded):
        connection.send(b"x")
    with pytest.raises(proactor.errors.ConnectionEnded):
        connection.try_send(b"x")
    connection.shutdown_write()  # once more does no harm
    client.close()
    assert handler.wait_closed() == [None], "both directions have ended"
    assert handler.names()[-2:] == ["ended", "closed"]


@pytest.mark.linux("Unix sockets")
def test_a_kept_unix_client_that_closes_is_noticed_without_a_send(serve, tmp_path) -> None:
    class Keeping(Recorder):
        def on_ended(self, connection):
            pass

    handler = Keeping()
    serve(handler, f"unix:{tmp_path}/socket")
    for finishes_first in [True, False]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(f"{tmp_path}/socket")
            client.sendall(b"last words")
            if finishes_first:
                client.shutdown(socket.SHUT_WR)
                handler.wait_for_count("ended", 1)
                assert handler.count("closed") == 0
    assert handler.wait_closed(2) == [None, None]
    assert handler.data() == b"last words" * 2


def test_both_ends_of_a_kept_connection_close_it(serve, connect) -> None:
    class Keeping(Recorder):
        def on_ended(self, connection):
            pass

    handler = Keeping()
    client = connect(serve(handler))
    client.shutdown(socket.SHUT_WR)
    handler.wait_for_count("ended", 1)
    handler.connections[0].shutdown_write()
    assert client.recv(1) == b""
    assert handler.wait_closed() == [None]


def test_shutdown_write_comes_after_everything_that_was_queued(serve, connect) -> None:
    data = random.Random(6).randbytes(2_000_000)

    class Finishing(Recorder):
        def on_connected(self, connection):
            for at in range(0, len(data), 50_000):
                connection.send(data[at : at + 50_000])
            connection.shutdown_write()

    client = connect(serve(Finishing(), send_limit=4_000_000), receive_buffer=4096)
    assert read_to_end(client) == data


# ---- how it ends ----


def test_close_sends_what_is_queued_first(serve, connect) -> None:
    data = random.Random(7).randbytes(3_000_000)

    class Closing(Recorder):
        def on_connected(self, connection):
            connection.send(data)
            connection.close()

    handler = Closing()
    client = connect(serve(handler), receive_buffer=4096)
    assert read_to_end(client) == data
    assert handler.wait_closed() == [None]
    assert handler.connections[0].statistics().dropped_bytes == 0


def test_close_discards_what_was_received_and_not_yet_handled(serve, connect) -> None:
    entered, release = threading.Event(), threading.Event()

    class Closing(Recorder):
        def on_received(self, connection, data):
            entered.set()
            assert release.wait(TIMEOUT)
            connection.close()

    handler = Closing()
    client = connect(serve(handler))
    client.sendall(b"first")
    assert entered.wait(TIMEOUT)
    client.sendall(b"second")
    eventually(lambda: handler.connections[0].statistics().inbox_bytes > 0, "the second message waits")
    release.set()
    assert handler.wait_closed() == [None]
    assert handler.data() == b"first"


def test_abort_resets_and_tells_what_was_dropped(serve, connect) -> None:
    class Aborting(Recorder):
        def on_received(self, connection, data):
            connection.send(bytes(30_000_000))
            connection.abort()

    handler = Aborting()
    server = serve(handler)
    client = connect(server, receive_buffer=4096)
    client.sendall(b"x")
    assert ends_with_reset(client)
    [error] = handler.wait_closed()
    assert isinstance(error, ConnectionAbortedError)
    numbers = handler.connections[0].statistics()
    assert numbers.sent_bytes + numbers.dropped_bytes == 30_000_000
    assert numbers.dropped_bytes > 0
    eventually(lambda: server.statistics().dropped_bytes == numbers.dropped_bytes, "the server counts it too")


def test_a_reset_by_the_peer_is_told_as_such(serve, connect) -> None:
    handler = Recorder()
    client = connect(serve(handler))
    handler.wait_for_count("connected", 1)
    reset(client)
    [error] = handler.wait_closed()
    assert isinstance(error, ConnectionResetError)
    assert handler.names() == ["connected", "closed"], "a reset is no end of the data"
    with pytest.raises(ConnectionResetError):
        handler.connections[0].send(b"x")


def test_a_hundred_resets_are_a_hundred_closed(serve, connect) -> None:
    handler = Recorder()
    server = serve(handler)
    clients = [connect(server) for _ in range(100)]
    handler.wait_for_count("connected", 100)
    for client in clients:
        reset(client)
    errors = handler.wait_closed(100)
    assert all(isinstance(error, ConnectionResetError) for error in errors)
    eventually(lambda: server.connections == (), "none is left")
    assert handler.count("closed") == 100


def test_after_close_everything_says_so(serve, connect) -> None:
    handler = Recorder()
    client = connect(serve(handler))
    handler.wait_for_count("connected", 1)
    [connection] = handler.connections
    connection.close()
    assert client.recv(1) == b""
    handler.wait_closed()
    for use in (
        lambda: connection.send(b"x"),
        lambda: connection.send(b""),
        lambda: connection.try_send(b"x"),
        lambda: connection.shutdown_write(),
    ):
        with pytest.raises(proactor.errors.ConnectionEnded, match="closed"):
            use()
    for harmless in (connection.close, connection.abort, connection.pause, connection.resume, connection.close):
        harmless()
    assert connection.statistics().open is False
    assert handler.count("closed") == 1


def test_close_from_many_threads_at_once_is_one_close(serve, connect) -> None:
    handler = Recorder()
    server = serve(handler)
    for _ in range(30):
        client = connect(server)
        handler.wait_for(lambda handler: len(handler.connections) > handler.count("closed"), "connected")
        connection = handler.connections[-1]
        start = threading.Barrier(6)

        def end(method, start=start):
            start.wait(TIMEOUT)
            method()

        threads = [threading.Thread(target=end, args=(method,)) for method in (connection.close, connection.abort) * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        count = len(handler.connections)
        handler.wait_closed(count)
        assert handler.count("closed") == count
        client.close()


def test_a_connection_closed_in_connected_hears_nothing_more(serve, connect) -> None:
    class Refusing(Recorder):
        def on_connected(self, connection):
            connection.send(b"no")
            connection.close()

    handler = Refusing()
    client = connect(serve(handler))
    client.sendall(b"let me in")
    # The bytes that nobody took may reset the connection, but not before the answer was taken by the kernel.
    try:
        assert client.recv(10) == b"no"
    except ConnectionResetError:
        pass
    handler.wait_closed()
    assert handler.names() == ["connected", "closed"]


def test_fail_ends_the_connection_with_the_given_error(serve, connect) -> None:
    class Failing(Recorder):
        def on_received(self, connection, data):
            connection.send(b"sorry")
            connection.fail(problem)

    problem = ValueError("not what I expected")
    handler = Failing()
    client = connect(serve(handler))
    client.sendall(b"x")
    assert read_to_end(client) == b"sorry"
    assert handler.wait_closed() == [problem]
    with pytest.raises(proactor.errors.HandlerFailed):
        handler.connections[0].send(b"x")


def test_a_plain_function_needs_no_handler_for_the_ends(serve, connect) -> None:
    server = serve(ignore)
    client = connect(server)
    eventually(lambda: server.statistics().accepted == 1, "it is served")  # Windows does not accept a client that is gone already
    reset(client)
    connect(server).close()
    client = connect(server)
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    eventually(lambda: server.connections == () and server.statistics().accepted == 3, "all are gone")


@pytest.mark.parametrize("ending", ["close", "raise"])
def test_a_reply_before_the_end_arrives_whole_although_the_client_is_still_sending(serve, connect, caplog, ending) -> None:
    reply = random.Random(2).randbytes(300_000)

    class Replies(Recorder):
        def on_received(self, connection, data):
            connection.send(reply)
            if ending == "raise":
                raise ValueError("enough")
            connection.close()

    handler = Replies()
    client = connect(serve(handler), receive_buffer=4096)
    client.sendall(b"request")
    handler.wait_closed()
    for _ in range(20):
        client.sendall(b"more, which nobody wants" * 100)
    assert read_to_end(client) == reply
    assert handler.names() == ["connected", "received", "closed"]
    caplog.clear()


@pytest.mark.linux("/proc, to look into a process")
def test_a_connection_that_was_closed_keeps_its_descriptor_for_a_moment_only(serve, connect) -> None:
    handler = Recorder()
    handler.on_received = lambda connection, data: (connection.send(b"bye"), connection.close())
    server = serve(handler)
    stays, leaves = connect(server), connect(server)
    handler.wait_for_count("connected", 2)
    before = descriptor_count()
    for client in (stays, leaves):
        client.sendall(b"x")
        assert client.recv(9) == b"bye"
        assert client.recv(9) == b""
    handler.wait_closed(2)
    assert server.connections == ()
    leaves.close()
    eventually(lambda: descriptor_count() <= before - 2, "the peer has ended")
    eventually(lambda: descriptor_count() <= before - 3, "the peer is quiet")
