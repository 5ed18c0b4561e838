"""Fault 6: the kernel takes a part of what is to be sent. Everything arrives once, in order."""

import random
import socket

from peers import Recorder, exchange, read_exactly, read_to_end


def shrink(connection) -> None:
    with socket.socket(fileno=socket.dup(connection._descriptor())) as duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)


class Shrunk(Recorder):
    def on_connected(self, connection):
        shrink(connection)

    def on_received(self, connection, data):
        connection.send(data)


def test_every_byte_arrives_through_a_tiny_send_buffer(serve, connect) -> None:
    data = random.Random(1).randbytes(500_000)
    client = connect(serve(Shrunk()), receive_buffer=2048)
    assert exchange(client, data) == data


def test_many_small_and_large_pieces_keep_their_order(serve, connect) -> None:
    chooser = random.Random(2)
    pieces = [chooser.randbytes(chooser.choice([1, 10, 3000, 4096, 70_000])) for _ in range(60)]

    class Sending(Recorder):
        def on_connected(self, connection):
            shrink(connection)
            for piece in pieces:
                connection.send(piece)
            connection.close()

    client = connect(serve(Sending(), send_limit=50_000), receive_buffer=2048)
    assert read_to_end(client) == b"".join(pieces)


def test_a_broadcast_to_tiny_buffers_arrives(serve, connect) -> None:
    handler = Shrunk()
    server = serve(handler)
    clients = [connect(server, receive_buffer=2048) for _ in range(5)]
    handler.wait_for_count("connected", 5)
    message = random.Random(3).randbytes(100_000)
    assert server.broadcast(message).sent == 5
    assert server.broadcast(b"end").sent == 5
    for client in clients:
        assert read_exactly(client, 100_003) == message + b"end"
