"""Fault 8: one side finishes sending and goes on receiving, in both orders, thousands of times. No spinning, nothing left behind."""

import socket
import threading
import time

from peers import TIMEOUT, Recorder, dial, echo, eventually, read_exactly, read_to_end


class Keeping(Recorder):
    """Keeps half-closed clients, as the console server does."""

    def on_ended(self, connection):
        pass


def test_half_closed_clients_cost_no_processor_time(serve, connect) -> None:
    """The article's server re-posted its receive for ever: half a core for each such client."""
    handler = Keeping()
    server = serve(handler)
    clients = [connect(server) for _ in range(50)]
    for client in clients:
        client.shutdown(socket.SHUT_WR)
    handler.wait_for_count("ended", 50)
    before, started = time.process_time(), time.monotonic()
    threading.Event().wait(1.0)  # nothing is waited for here: it is a measurement
    assert (time.process_time() - before) / (time.monotonic() - started) < 0.1
    assert handler.count("ended") == 50, "told once each"
    assert server.broadcast(b"still there?").sent == 50
    for client in clients:
        assert read_exactly(client, 12) == b"still there?"


def test_shutdown_with_half_closed_clients_ends(connect) -> None:
    """The article's server hung at `Exit` with one such client."""
    import proactor

    handler = Keeping()
    server = proactor.serve(handler, ("127.0.0.1", 0))
    clients = [connect(server) for _ in range(10)]
    for client in clients:
        client.shutdown(socket.SHUT_WR)
    handler.wait_for_count("ended", 10)
    report = server.shutdown(TIMEOUT)
    assert report.completed
    assert handler.values("closed") == [None] * 10
    for client in clients:
        assert client.recv(1) == b""


def test_the_end_and_the_last_bytes_may_come_in_one_segment(serve) -> None:
    server = serve(echo)
    for number in range(500):
        with dial(server.address) as client:
            client.sendall(number.to_bytes(2, "big"))
            client.shutdown(socket.SHUT_WR)
            assert read_to_end(client) == number.to_bytes(2, "big")
    eventually(lambda: server.connections == (), "all are gone")


def test_server_first_then_client(serve) -> None:
    class Finishing(Recorder):
        def on_connected(self, connection):
            connection.send(b"bye")
            connection.shutdown_write()

    handler = Finishing()
    server = serve(handler)
    for number in range(1, 201):
        with dial(server.address) as client:
            assert read_to_end(client) == b"bye"
            client.sendall(b"one more")
        handler.wait_closed(number)
    assert handler.values("closed") == [None] * 200
    assert handler.data() == b"one more" * 200


def test_client_first_then_server(serve) -> None:
    class Answering(Keeping):
        def on_ended(self, connection):
            connection.send(b"all of it: %d" % len(self.data(connection.id)))
            connection.shutdown_write()

    handler = Answering()
    server = serve(handler)
    for number in range(1, 201):
        with dial(server.address) as client:
            client.sendall(b"x" * number)
            client.shutdown(socket.SHUT_WR)
            assert read_to_end(client) == b"all of it: %d" % number
        handler.wait_closed(number)
    assert handler.values("closed") == [None] * 200
    eventually(lambda: server.connections == (), "nobody is left")


def test_both_at_once(serve) -> None:
    class Finishing(Keeping):
        def on_received(self, connection, data):
            connection.shutdown_write()

    handler = Finishing()
    server = serve(handler)
    for number in range(1, 201):
        with dial(server.address) as client:
            client.sendall(b"x")
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
        handler.wait_closed(number)
    assert handler.values("closed") == [None] * 200
