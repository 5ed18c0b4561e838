"""What messages that have come in part may take in all: who leaves them so shuts nobody out for ever, and no upload waits for another."""

import random
import struct
import threading

import pytest

import proactor
from peers import TIMEOUT, Recorder, RecordingEcho, dial, eventually, read_exactly, read_to_end
from proactor.errors import MessageCrowdedOut
from proactor.testing import Network

FRAMING = proactor.LengthPrefixed(limit=16 << 20)
LIMIT = 1_000_000


def begun(length: int, come: int) -> bytes:
    """A message of which so much comes."""
    return struct.pack(">I", length) + bytes(come)


def send_and_wait(server: proactor.Server, client, data: bytes) -> None:
    before = server.statistics().received_bytes
    client.sendall(data)
    eventually(lambda: server.statistics().received_bytes >= before + len(data), "all of it is received")


def test_messages_that_were_begun_and_left_are_bounded_and_the_newest_goes(serve, connect) -> None:
    handler = RecordingEcho()
    server = serve(handler, framing=FRAMING, total_limit=LIMIT)
    hostile = [connect(server) for _ in range(5)]
    for client in hostile:
        send_and_wait(server, client, begun(1 << 20, 90_000))
    late = connect(server)
    late.sendall(begun(1 << 20, 90_000))
    [error] = handler.wait_closed()
    assert isinstance(error, MessageCrowdedOut)
    assert "more than 500000 bytes, half of total_limit" in str(error)
    assert read_to_end(late) == b""
    assert server.statistics().crowded_out == 1
    assert len(server.connections) == 5, "those that were earlier go on"
    small = connect(server)
    small.sendall(begun(5, 5))
    assert read_exactly(small, 5) == bytes(5), "what is small needs no room"
    for client in hostile[:2]:
        client.close()
    eventually(lambda: len(server.connections) == 4, "they are gone, and what they had sent with them")
    another = connect(server)
    another.sendall(begun(200_000, 200_000))
    assert read_exactly(another, 200_000) == bytes(200_000)
    assert server.statistics().crowded_out == 1


@pytest.mark.parametrize("framing", [FRAMING, proactor.Lines(limit=16 << 20)], ids=repr)
def test_one_message_alone_may_be_as_long_as_its_framing_lets_it(serve, connect, framing) -> None:
    handler = Recorder()
    server = serve(handler, framing=framing, total_limit=LIMIT)
    message = random.Random(1).randbytes(8_000_000).replace(b"\n", b" ").replace(b"\r", b" ")
    client = connect(server)
    client.sendall(framing.encode(message))
    handler.wait_for(lambda handler: handler.count("received") == 1, "it has come whole")
    assert handler.values("received") == [message]
    assert server.statistics().crowded_out == 0


def test_uploads_that_have_no_room_together_all_come_through_if_their_clients_try_again(serve) -> None:
    handler = RecordingEcho()
    server = serve(handler, framing=FRAMING, total_limit=LIMIT, receive_limit=LIMIT)
    data = bytes(400_000)

    def upload() -> None:
        come = b""
        while come != data:
            try:
                with dial(server.address) as client:
                    client.sendall(FRAMING.encode(data))
                    first = client.recv(1)
                    come = first + read_exactly(client, len(data) - 1) if first else b""
            except OSError:
                pass  # crowded out, and reset where it was still sending: the next attempt may have room
        done.release()

    done = threading.Semaphore(0)
    uploads = [threading.Thread(target=upload, daemon=True) for _ in range(8)]
    for thread in uploads:
        thread.start()
    for _ in uploads:
        assert done.acquire(timeout=TIMEOUT), "an upload waits for ever"
    for thread in uploads:
        thread.join(TIMEOUT)


def test_a_message_in_part_is_received_on_while_others_fill_the_total_limit(serve, connect, make_pool) -> None:
    release = threading.Event()

    def handle(connection, message):
        if message == b"hold":
            assert release.wait(TIMEOUT)
        else:
            connection.send(message)

    server = serve(handle, framing=FRAMING, total_limit=LIMIT, receive_limit=10 * LIMIT, pool=make_pool(max_workers=4))
    filling = connect(server)
    sender = threading.Thread(target=filling.sendall, args=(FRAMING.encode(b"hold") + 30 * FRAMING.encode(bytes(50_000)),))
    try:
        sender.start()
        eventually(lambda: server.statistics().queued_bytes > LIMIT, "they wait behind the handler that is held")
        client = connect(server)
        send_and_wait(server, client, begun(100, 50))
        client.sendall(bytes(50))
        assert read_exactly(client, 100) == bytes(100)
    finally:
        release.set()
    assert len(read_exactly(filling, 30 * 50_000)) == 30 * 50_000
    sender.join(TIMEOUT)


def test_a_message_that_has_had_its_time_goes_for_newer_ones() -> None:
    handler = RecordingEcho()
    with Network() as network:
        server = network.serve(handler, framing=FRAMING, total_limit=LIMIT)
        old = network.connect(server)
        old.send(begun(1 << 20, 400_000))
        network.settle()
        network.advance(31)
        new = network.connect(server)
        new.send(begun(300_000, 300_000))
        assert new.receive(300_000) == bytes(300_000)
        [error] = handler.wait_closed()
        assert isinstance(error, MessageCrowdedOut)
        assert old.ended
        assert server.statistics().crowded_out == 1
