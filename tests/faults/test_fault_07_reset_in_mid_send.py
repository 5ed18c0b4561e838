"""Fault 7: the peer resets while something is being sent to it."""

import random
import threading

from peers import TIMEOUT, Recorder, echo, eventually, read_exactly, reset

BROKEN = (ConnectionResetError, BrokenPipeError)


class Flooding(Recorder):
    """Sends and sends, until it is told not to."""

    def on_received(self, connection, data):
        if data == b"flood":
            for _ in range(400):
                connection.send(bytes(100_000))
        else:
            connection.send(data)


def test_a_handler_that_sends_is_told_and_nobody_else_is_disturbed(serve, connect, caplog) -> None:
    handler = Flooding()
    server = serve(handler)
    other = connect(server)
    for count in range(1, 31):
        victim = connect(server, receive_buffer=4096)
        victim.sendall(b"flood")
        read_exactly(victim, 50_000)
        reset(victim)
        errors = handler.wait_closed(count)
        assert isinstance(errors[-1], BROKEN), errors
        other.sendall(b"fine")
        assert read_exactly(other, 4) == b"fine"
    assert handler.count("closed") == 30
    numbers = server.statistics()
    assert numbers.dropped_bytes > 0
    eventually(lambda: server.statistics().queued_bytes == 0, "what was queued for them is given back")
    caplog.clear()


def test_a_reset_while_a_send_is_queued_from_another_thread(serve, connect) -> None:
    handler = Recorder()
    server = serve(handler)
    for count in range(1, 31):
        victim = connect(server, receive_buffer=4096)
        handler.wait_for_count("connected", count)
        connection = handler.connections[-1]
        raised: list[BaseException] = []

        def send(connection=connection, raised=raised) -> None:
            try:
                while True:
                    connection.send(bytes(50_000))
            except Exception as error:
                raised.append(error)

        sender = threading.Thread(target=send)
        sender.start()
        read_exactly(victim, 30_000)
        reset(victim)
        sender.join(TIMEOUT)
        assert not sender.is_alive()
        assert isinstance(raised[0], BROKEN)
        handler.wait_closed(count)
    assert all(isinstance(error, BROKEN) for error in handler.values("closed"))


def test_a_reset_in_the_middle_of_a_file_tells_the_sender_how_much_was_sent(serve, connect, tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(random.Random(2).randbytes(5_000_000))
    handler = Recorder()
    server = serve(handler)
    for count in range(1, 31):
        victim = connect(server, receive_buffer=4096)
        handler.wait_for_count("connected", count)
        connection = handler.connections[-1]
        raised: list[OSError] = []

        def send(connection=connection, raised=raised) -> None:
            try:
                connection.send_file(path)
            except OSError as raising:
                raised.append(raising)

        senders = [threading.Thread(target=send) for _ in range(2)]
        for sender in senders:
            sender.start()
        read_exactly(victim, 30_000)
        reset(victim)
        for sender in senders:
            sender.join(TIMEOUT)
            assert not sender.is_alive()
        assert all(isinstance(error, BROKEN) for error in raised), raised
        first, second = sorted(error.sent_bytes for error in raised)  # type: ignore[attr-defined]
        assert first == 0, "the second never had its turn"
        assert 30_000 <= second < 5_000_000
        assert connection.statistics().sent_bytes == second
        assert connection.statistics().dropped_bytes == 0
        handler.wait_closed(count)
    assert all(isinstance(error, BROKEN) for error in handler.values("closed"))
    eventually(lambda: server.statistics().queued_bytes == 0, "nothing is left of them")


def test_resets_during_broadcasts_cost_only_those_who_reset(serve, connect) -> None:
    server = serve(echo, send_limit=10_000_000)
    staying = connect(server)
    chooser = random.Random(1)
    message = chooser.randbytes(30_000)
    for _ in range(20):
        leaving = [connect(server, receive_buffer=4096) for _ in range(5)]
        eventually(lambda: len(server.connections) == 6, "all are connected")
        for client in leaving:
            server.broadcast(message)
            assert read_exactly(staying, len(message)) == message
            reset(client)
        eventually(lambda: len(server.connections) == 1, "those who reset are gone")
    server.broadcast(b"last")
    assert read_exactly(staying, 4) == b"last"
