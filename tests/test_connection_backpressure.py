"""What happens when one side is faster than the other: nothing is lost, nothing grows without bound, and nobody else waits."""

import random
import socket
import threading
import time

import pytest

import proactor
from peers import TIMEOUT, Recorder, RecordingEcho, echo, ends_with_reset, eventually, exchange, read_exactly, read_to_end

SMALL = {"receive_buffer": 4096}


def fill(client: socket.socket, data: bytes, quiet: float = 0.5) -> int:
    """Sends until the other side has taken nothing for `quiet` seconds; answers how much it took."""
    client.settimeout(quiet)
    sent = 0
    try:
        while sent < len(data):
            sent += client.send(data[sent : sent + 65536])
    except TimeoutError:
        pass
    finally:
        client.settimeout(TIMEOUT)
    return sent


# ---- sending ----


def test_send_blocks_at_the_limit_with_its_slot_freed_until_the_peer_reads(serve, connect, make_pool) -> None:
    data = random.Random(1).randbytes(16_000_000)
    blocked, done = threading.Event(), threading.Event()

    class Flooding(proactor.Handler):
        def received(self, connection, request):
            if request == b"echo":
                connection.send(request)
                return
            for at in range(0, len(data), 100_000):
                connection.send(data[at : at + 100_000])
                if connection.statistics().outbox_bytes > 150_000:
                    blocked.set()
            done.set()

    server = serve(Flooding, send_limit=200_000, pool=make_pool(concurrency=1, max_workers=4))
    slow, other = connect(server, **SMALL), connect(server)
    slow.sendall(b"flood")
    assert blocked.wait(TIMEOUT)
    for _ in range(20):
        other.sendall(b"echo")
        assert read_exactly(other, 4) == b"echo", "the only slot is free while send blocks"
    assert not done.is_set()
    [flooded] = [connection for connection in server.connections if connection.peername == slow.getsockname()]
    assert flooded.statistics().outbox_bytes <= 200_000
    assert read_exactly(slow, len(data)) == data
    assert done.wait(TIMEOUT)


def test_send_from_a_foreign_thread_blocks_at_the_limit_too(serve, connect) -> None:
    handler = Recorder()
    client = connect(serve(handler, send_limit=100_000), **SMALL)
    handler.wait_for_count("connected", 1)
    [connection] = handler.connections
    data = random.Random(2).randbytes(10_000_000)
    most = []

    def send() -> None:
        for at in range(0, len(data), 30_000):
            connection.send(data[at : at + 30_000])
            most.append(connection.statistics().outbox_bytes)

    sender = threading.Thread(target=send)
    sender.start()
    eventually(lambda: connection.statistics().outbox_bytes > 60_000, "it fills up")
    assert sender.is_alive()
    assert read_exactly(client, len(data)) == data
    sender.join(TIMEOUT)
    assert not sender.is_alive()
    assert max(most) <= 100_000


def test_send_raises_timeout_error_when_the_peer_takes_nothing_for_send_timeout(serve, connect) -> None:
    handler = Recorder()
    client = connect(serve(handler, send_limit=100_000, send_timeout=0.4), **SMALL)
    handler.wait_for_count("connected", 1)
    [connection] = handler.connections
    while connection.try_send(bytes(50_000)):
        pass
    eventually(lambda: connection.statistics().outbox_bytes > 50_000 and not connection.try_send(bytes(50_000)), "it is full")
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="send_timeout"):
        connection.send(bytes(100_000))
    assert 0.3 < time.monotonic() - started < 5
    assert connection.statistics().open, "the caller decides what that means"
    connection.abort()
    assert ends_with_reset(client)


class Amplifying(Recorder):
    """Answers more than it is asked for, without end."""

    def on_received(self, connection, data):
        if data == b"echo":
            connection.send(data)
            return
        while True:
            connection.send(bytes(100_000))


@pytest.mark.parametrize("workers", [1, 4])
def test_clients_that_never_read_do_not_keep_the_workers_from_those_who_do(serve, connect, make_pool, caplog, workers) -> None:
    pool = make_pool(max_workers=workers)
    handler = Amplifying()
    server = serve(handler, pool=pool, send_limit=100_000)
    for _ in range(workers):
        connect(server, **SMALL).sendall(b"flood")
    eventually(lambda: pool.statistics().blocked == workers, "every worker blocks in send")
    for _ in range(3):
        client = connect(server)
        client.sendall(b"echo")
        assert read_exactly(client, 4) == b"echo", "long before send_timeout, and nobody is refused"
    assert server.statistics().refused == 0
    assert "others need the worker" in caplog.text
    assert pool.submit(lambda: 5).result(TIMEOUT) == 5
    server.close()  # in order, its end would wait for handlers that never stop, until their sends time out
    caplog.clear()


def test_a_send_that_blocks_the_last_worker_goes_on_while_nobody_else_wants_it(serve, connect, make_pool) -> None:
    handler = Amplifying()
    pool = make_pool(max_workers=1)
    server = serve(handler, pool=pool, send_limit=100_000)
    client = connect(server, **SMALL)
    client.sendall(b"flood")
    eventually(lambda: pool.statistics().blocked == 1, "it blocks in send")
    with handler.changed:
        assert not handler.changed.wait_for(lambda: "closed" in [name for name, _ in handler.events], 1.5)
    assert len(read_exactly(client, 5_000_000)) == 5_000_000
    server.close()


def test_a_handler_that_does_not_catch_the_send_timeout_loses_its_connection(serve, connect, caplog) -> None:
    class Flooding(Recorder):
        def on_received(self, connection, data):
            while True:
                connection.send(bytes(100_000))

    handler = Flooding()
    client = connect(serve(handler, send_limit=100_000, send_timeout=0.3), **SMALL)
    client.sendall(b"x")
    [error] = handler.wait_closed()
    assert isinstance(error, TimeoutError)
    assert "send_timeout" in caplog.text


def test_close_waits_no_longer_than_send_timeout_for_a_peer_that_takes_nothing(serve, connect) -> None:
    class Closing(Recorder):
        def on_received(self, connection, data):
            connection.send(bytes(30_000_000))
            connection.close()

    handler = Closing()
    client = connect(serve(handler, send_timeout=0.4), **SMALL)
    started = time.monotonic()
    client.sendall(b"x")
    [error] = handler.wait_closed()
    assert isinstance(error, TimeoutError)
    assert 0.3 < time.monotonic() - started < 5
    assert handler.connections[0].statistics().dropped_bytes > 20_000_000


def test_try_send_never_blocks_and_says_when_it_did_not_take_the_bytes(serve, connect) -> None:
    handler = Recorder()
    server = serve(handler, send_limit=100_000)
    client = connect(server, **SMALL)
    handler.wait_for_count("connected", 1)
    [connection] = handler.connections
    taken = 0
    started = time.monotonic()
    refused = 0
    number = 0
    while refused < 3:
        assert number < 100_000
        if connection.try_send(number.to_bytes(4, "big") * 2500):
            taken += 1
            number += 1
            refused = 0
        else:
            refused += 1
    assert time.monotonic() - started < 10
    assert connection.statistics().outbox_bytes <= 100_000
    got = read_exactly(client, taken * 10_000)
    assert got == b"".join(number.to_bytes(4, "big") * 2500 for number in range(taken)), "what was refused was not sent in part"
    eventually(lambda: connection.try_send(b"x"), "there is room again")


def test_one_message_always_fits_into_an_empty_queue(serve, connect) -> None:
    data = random.Random(3).randbytes(5_000_000)

    class Sending(proactor.Handler):
        def connected(self, connection):
            assert connection.try_send(data)
            connection.close()

    assert read_to_end(connect(serve(Sending, send_limit=1000), **SMALL)) == data


def test_a_client_that_sends_and_does_not_read_costs_itself(serve, connect) -> None:
    """Its own sends stall, its queue stays within the limit, and everybody else is served."""
    server = serve(echo, send_limit=200_000, receive_limit=200_000)
    greedy, other = connect(server, **SMALL), connect(server)
    data = random.Random(4).randbytes(20_000_000)
    taken = fill(greedy, data)
    assert taken < len(data), "the client's own sends stall"
    [connection] = [connection for connection in server.connections if connection.peername == greedy.getsockname()]
    numbers = connection.statistics()
    assert numbers.outbox_bytes <= 200_000
    assert numbers.inbox_bytes <= 200_000 + 64 * 1024 + 64
    assert numbers.receiving_paused
    assert exchange(other, data[:1_000_000]) == data[:1_000_000]
    # And nothing is lost once it reads.
    rest = threading.Thread(target=greedy.sendall, args=(data[taken:],))
    rest.start()
    assert read_exactly(greedy, len(data)) == data
    rest.join(TIMEOUT)


def test_a_broken_deferred_send_is_told_to_closed_and_to_later_sends(serve, connect) -> None:
    class Sending(Recorder):
        def on_received(self, connection, data):
            connection.send(bytes(30_000_000))

    handler = Sending()
    client = connect(serve(handler), **SMALL)
    client.sendall(b"x")
    read_exactly(client, 100)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()
    [error] = handler.wait_closed()
    assert isinstance(error, ConnectionResetError | BrokenPipeError)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        handler.connections[0].send(b"y")
    assert handler.connections[0].statistics().dropped_bytes > 0


def test_a_send_that_waits_is_woken_by_close_and_by_abort(serve, connect) -> None:
    for end in ("close", "abort"):
        handler = Recorder()
        server = serve(handler, send_limit=100_000, send_timeout=3)
        connect(server, **SMALL)
        handler.wait_for_count("connected", 1)
        [connection] = handler.connections
        raised: list[BaseException] = []

        def send(connection=connection, raised=raised) -> None:
            try:
                while True:
                    connection.send(bytes(90_000))
            except Exception as error:
                raised.append(error)

        sender = threading.Thread(target=send)
        sender.start()
        eventually(lambda connection=connection: connection.statistics().outbox_bytes > 50_000, "it fills up")
        getattr(connection, end)()
        sender.join(TIMEOUT)
        assert not sender.is_alive()
        assert isinstance(raised[0], ConnectionError), raised
        connection.abort()
        handler.wait_closed()


def test_total_limit_bounds_what_all_send_queues_hold(serve, connect) -> None:
    handler = Recorder()
    server = serve(handler, total_limit=200_000, send_limit=150_000)
    clients = [connect(server, **SMALL) for _ in range(5)]
    handler.wait_for_count("connected", 5)
    for _ in range(500):
        for connection in handler.connections:
            connection.try_send(bytes(20_000))
    numbers = server.statistics()
    # One message always fits into an empty queue: nobody is locked out by the others.
    assert 100_000 < numbers.queued_bytes <= 200_000 + 5 * 20_000
    assert server.broadcast(bytes(20_000)).skipped > 0
    reading = threading.Thread(target=read_to_end, args=(clients[0],))
    reading.start()
    eventually(lambda: handler.connections[0].try_send(b"x"), "there is room as soon as one reads")
    for connection in handler.connections:
        connection.close() if connection.peername == clients[0].getsockname() else connection.abort()
    reading.join(TIMEOUT)


def test_a_client_that_reads_is_served_however_much_waits_for_those_who_do_not(serve, connect) -> None:
    limit = 256 * 1024

    def handler(connection, data):
        if data != b"fill":
            connection.send(data)
            return
        while not enough.is_set():
            if not connection.try_send(b"x" * 1024):
                enough.wait(0.01)  # the kernel may have room for more in a while

    enough = threading.Event()
    server = serve(handler, send_limit=64 * limit, total_limit=limit)
    deaf = connect(server, **SMALL)
    deaf.sendall(b"fill")
    seen = [-1, -2]

    def kernel_is_full() -> bool:
        statistics = server.statistics()
        seen.append(statistics.sent_bytes)
        return statistics.queued_bytes > limit * 7 // 8 and len(set(seen[-20:])) == 1

    eventually(kernel_is_full, "the queue is full, and stays so: the peer never reads")
    enough.set()
    data = random.Random(1).randbytes(1024 * 1024)
    assert exchange(connect(server), data) == data
    server.close()


def test_two_clients_that_talk_through_the_server_lose_nothing(serve, connect) -> None:
    """Each handler sends to the other's connection, at full speed both ways, through small queues."""

    class Relay(Recorder):
        def on_received(self, connection, data):
            other = next(each for each in self.connections if each is not connection)
            other.send(data)

    handler = Relay()
    server = serve(handler, send_limit=50_000, receive_limit=50_000)
    pair = [connect(server), connect(server)]
    handler.wait_for_count("connected", 2)
    payloads = [random.Random(seed).randbytes(4_000_000) for seed in (8, 9)]
    threads = [threading.Thread(target=client.sendall, args=(data,)) for client, data in zip(pair, payloads, strict=True)]
    got: list[bytes] = [b"", b""]

    def read(number: int) -> None:
        got[number] = read_exactly(pair[number], 4_000_000)

    threads += [threading.Thread(target=read, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert got == payloads[::-1]


def test_very_many_very_small_sends_arrive_in_order(serve, connect) -> None:
    class Sending(proactor.Handler):
        def received(self, connection, data):
            for number in range(100_000):
                connection.send(b"%c" % (number % 251))
            connection.close()

    client = connect(serve(Sending))
    client.sendall(b"x")
    assert read_to_end(client) == bytes(number % 251 for number in range(100_000))


# ---- receiving ----


def test_a_busy_handler_bounds_what_the_server_takes(serve, connect) -> None:
    release, entered = threading.Event(), threading.Event()

    class Busy(Recorder):
        def on_received(self, connection, data):
            entered.set()
            assert release.wait(TIMEOUT)

    handler = Busy()
    server = serve(handler, receive_limit=300_000)
    client = connect(server)
    data = random.Random(5).randbytes(30_000_000)
    taken = fill(client, data)
    assert taken < len(data), "the kernel's buffers are full: the client has to wait"
    [connection] = server.connections
    numbers = connection.statistics()
    assert 200_000 < numbers.inbox_bytes <= 300_000 + 64 * 1024 + 64
    assert numbers.receiving_paused
    release.set()
    client.sendall(data[taken:])
    handler.wait_for(lambda handler: sum(map(len, handler.values("received"))) == len(data), "all arrives")
    assert handler.data() == data
    eventually(lambda: not connection.statistics().receiving_paused, "it receives again")
    assert connection.statistics().inbox_bytes == 0


def test_a_flood_of_tiny_messages_is_bounded_too(serve, connect) -> None:
    """Each message has its cost besides its bytes, so that empty lines cannot fill the memory."""
    release = threading.Event()

    class Busy(Recorder):
        def on_received(self, connection, data):
            assert release.wait(TIMEOUT)

    handler = Busy()
    server = serve(handler, framing=proactor.Lines(), receive_limit=100_000)
    client = connect(server)
    data = b"\n" * 3_000_000
    taken = fill(client, data)
    [connection] = server.connections
    numbers = connection.statistics()
    # One receive, of at most 64 KiB, may bring that many empty lines. Each takes its place in the queue, of 32 bytes, and nothing else.
    assert 32 * 1024 <= numbers.inbox_bytes <= 100_000 + 33 * 64 * 1024
    assert numbers.receiving_paused
    connection.abort()
    release.set()
    assert taken < len(data)


def test_pause_stops_receiving_and_resume_goes_on(serve, connect) -> None:
    class Pausing(Recorder):
        def on_received(self, connection, data):
            if data == b"pause":
                connection.pause()
                connection.send(b"paused")

    handler = Pausing()
    client = connect(serve(handler))
    client.sendall(b"pause")
    assert read_exactly(client, 6) == b"paused"
    [connection] = handler.connections
    assert connection.statistics().receiving_paused
    data = random.Random(6).randbytes(20_000_000)
    taken = fill(client, data)
    assert taken < len(data)
    # A receive that was under way when it was paused may still bring one piece.
    assert connection.statistics().received_bytes <= 5 + 64 * 1024
    connection.resume()
    client.sendall(data[taken:])
    handler.wait_for(lambda handler: len(handler.data()) == 5 + len(data), "all arrives")
    assert handler.data() == b"pause" + data
    assert not connection.statistics().receiving_paused


def test_pause_and_resume_from_many_threads_lose_nothing(serve, connect) -> None:
    handler = RecordingEcho()
    client = connect(serve(handler))
    handler.wait_for_count("connected", 1)
    [connection] = handler.connections
    stop = threading.Event()

    def toggle() -> None:
        while not stop.is_set():
            connection.pause()
            connection.resume()

    threads = [threading.Thread(target=toggle) for _ in range(3)]
    for thread in threads:
        thread.start()
    data = random.Random(7).randbytes(2_000_000)
    try:
        assert exchange(client, data) == data
    finally:
        stop.set()
        for thread in threads:
            thread.join(TIMEOUT)
    connection.resume()
    assert exchange(client, data) == data


def test_an_end_while_paused_is_told_after_resume(serve, connect) -> None:
    class Pausing(Recorder):
        def on_connected(self, connection):
            connection.pause()

    handler = Pausing()
    client = connect(serve(handler))
    handler.wait_for_count("connected", 1)
    client.sendall(b"last words")
    client.shutdown(socket.SHUT_WR)
    handler.connections[0].resume()
    assert handler.wait_closed() == [None]
    assert handler.data() == b"last words"
    assert handler.names()[-2:] == ["ended", "closed"]


def test_what_lies_behind_an_urgent_mark_is_received(serve, connect) -> None:
    """A receive ends at the mark of urgent data (telnet's Ctrl-C), and no further edge tells of what follows."""
    handler = Recorder()
    client = connect(serve(handler))
    handler.wait_for_count("connected", 1)
    for number in range(20):
        handler.connections[0].pause()
        client.sendall(b"before")
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"behind")
        handler.connections[0].resume()
        eventually(lambda number=number: handler.data() == b"beforebehind" * (number + 1), "all but the urgent byte came")


@pytest.mark.linux("Unix sockets")
def test_messages_that_bring_descriptors_over_a_unix_socket_are_all_received(serve, tmp_path) -> None:
    """A receive ends behind such a message; the descriptors themselves are closed by the kernel."""
    handler = Recorder()
    serve(handler, f"unix:{tmp_path}/socket")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/socket")
        handler.wait_for_count("connected", 1)
        handler.connections[0].pause()
        for number in range(5):
            socket.send_fds(client, [b"%d" % number], [client.fileno()])
        handler.connections[0].resume()
        eventually(lambda: handler.data() == b"01234", "all came")


def test_close_while_paused_closes(serve, connect) -> None:
    class Pausing(Recorder):
        def on_connected(self, connection):
            connection.pause()

    handler = Pausing()
    client = connect(serve(handler))
    handler.wait_for_count("connected", 1)
    handler.connections[0].close()
    assert client.recv(1) == b""
    assert handler.wait_closed() == [None]


def test_a_reset_while_paused_is_noticed(serve, connect) -> None:
    class Pausing(Recorder):
        def on_connected(self, connection):
            connection.pause()

    handler = Pausing()
    client = connect(serve(handler))
    handler.wait_for_count("connected", 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()
    [error] = handler.wait_closed()
    assert isinstance(error, ConnectionResetError)


@pytest.mark.parametrize("limit", ["receive_limit", "send_limit", "total_limit"])
def test_the_smallest_limits_slow_a_conversation_down_and_do_not_end_it(serve, connect, limit) -> None:
    client = connect(serve(**{limit: 1}))
    for _ in range(5):
        client.sendall(bytes(5000))
        assert read_exactly(client, 5000) == bytes(5000)
