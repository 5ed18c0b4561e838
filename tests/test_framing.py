"""Framing from outside: whole messages in any chunking, and what ends a connection that breaks the rules."""

import random
import socket
import struct

import pytest

import proactor
from peers import Recorder, cut, eventually, read_exactly, read_to_end
from proactor.errors import MessageTooLong, MessageTruncated


def send_in_pieces(client: socket.socket, data: bytes, longest: int) -> None:
    for piece in cut(random.Random(longest), data, longest):
        client.sendall(piece)


@pytest.mark.parametrize("longest", [1, 3, 1000])
def test_lines_come_whole_however_they_are_cut(serve, connect, longest) -> None:
    handler = Recorder()
    client = connect(serve(handler, framing=proactor.Lines()))
    lines = [b"", b"one", b"two words", b"", b"x" * 500, b"\r\r", "żółć".encode(), b"nul \0 in it"]
    send_in_pieces(client, b"".join(line + end for line, end in zip(lines, [b"\n", b"\r\n"] * 4, strict=True)), longest)
    client.close()
    handler.wait_closed()
    assert handler.values("received") == lines


def test_a_last_line_without_an_end_counts(serve, connect) -> None:
    handler = Recorder()
    client = connect(serve(handler, framing=proactor.Lines()))
    client.sendall(b"first\nlast")
    client.shutdown(socket.SHUT_WR)
    assert handler.wait_closed() == [None]
    assert handler.values("received") == [b"first", b"last"]
    assert handler.names() == ["connected", "received", "received", "ended", "closed"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_line_of_the_limit_passes_and_a_longer_one_ends_the_connection(serve, connect, end) -> None:
    handler = Recorder()
    client = connect(serve(handler, framing=proactor.Lines(limit=10)))
    client.sendall(b"0123456789" + end + b"01234567890" + end + b"never" + end)
    [error] = handler.wait_closed()
    assert isinstance(error, MessageTooLong)
    assert "10" in str(error)
    assert handler.values("received") == [b"0123456789"], "what came before it is told"
    assert handler.names()[-1] == "closed"
    with pytest.raises(MessageTooLong):
        handler.connections[0].send(b"x")


def test_an_endless_line_ends_the_connection_before_its_end_comes(serve, connect) -> None:
    handler = Recorder()
    client = connect(serve(handler, framing=proactor.Lines(limit=1000)))
    client.sendall(b"x" * 1002)
    [error] = handler.wait_closed()
    assert isinstance(error, MessageTooLong)
    assert handler.count("received") == 0


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("longest", [1, 5, 3000])
def test_length_prefixed_messages_come_whole_however_they_are_cut(serve, connect, size, longest) -> None:
    handler = Recorder()
    client = connect(serve(handler, framing=proactor.LengthPrefixed(bytes=size)))
    chooser = random.Random(size)
    messages = [chooser.randbytes(length) for length in (0, 1, 2, 255, 0, 100, 17)]
    send_in_pieces(client, b"".join(len(message).to_bytes(size, "big") + message for message in messages), longest)
    client.close()
    assert handler.wait_closed() == [None]
    assert handler.values("received") == messages


def test_a_large_length_prefixed_message_is_one_call(serve, connect) -> None:
    handler = Recorder()
    client = connect(serve(handler, framing=proactor.LengthPrefixed()))
    message = random.Random(1).randbytes(5_000_000)
    client.sendall(struct.pack(">I", len(message)) + message + struct.pack(">I", 2) + b"ok")
    handler.wait_for_count("received", 2)
    assert handler.values("received") == [message, b"ok"]


def test_a_message_above_the_limit_ends_the_connection_at_its_prefix(serve, connect) -> None:
    handler = Recorder()
    client = connect(serve(handler, framing=proactor.LengthPrefixed(bytes=8, limit=1000)))
    client.sendall(struct.pack(">Q", 1000) + bytes(1000) + struct.pack(">Q", 2**63))
    [error] = handler.wait_closed()
    assert isinstance(error, MessageTooLong)
    assert handler.values("received") == [bytes(1000)]


@pytest.mark.parametrize("sent", [b"\0", b"\0\0\0\5", b"\0\0\0\5four"], ids=["in the prefix", "after the prefix", "in the message"])
def test_an_end_in_the_middle_of_a_message_is_an_error(serve, connect, sent) -> None:
    handler = Recorder()
    client = connect(serve(handler, framing=proactor.LengthPrefixed()))
    client.sendall(struct.pack(">I", 3) + b"one" + sent)
    client.shutdown(socket.SHUT_WR)
    [error] = handler.wait_closed()
    assert isinstance(error, MessageTruncated)
    assert isinstance(error, EOFError)
    assert handler.values("received") == [b"one"]
    assert "ended" not in handler.names(), "no orderly end"


def test_the_answer_to_the_messages_before_a_bad_one_still_goes_out(serve, connect) -> None:
    class Answering(Recorder):
        def on_received(self, connection, data):
            connection.send(data.upper())

    handler = Answering()
    client = connect(serve(handler, framing=proactor.Lines(limit=5)))
    client.sendall(b"good\n")
    assert read_exactly(client, 4) == b"GOOD"
    client.sendall(b"much too long\n")
    assert client.recv(1) == b""
    handler.wait_closed()


def test_many_messages_in_one_segment_keep_their_order(serve, connect) -> None:
    handler = Recorder()
    server = serve(handler, framing=proactor.Lines(), receive_limit=20_000)
    client = connect(server)
    lines = [str(number).encode() for number in range(20_000)]
    client.sendall(b"\n".join(lines) + b"\n")
    handler.wait_for(lambda handler: len(handler.events) > 20_000, "all lines")
    assert handler.values("received") == lines
    eventually(lambda: server.statistics().queued_bytes == 0, "nothing is left in the queues' count")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: proactor.Lines(limit=0), "limit"),
        (lambda: proactor.Lines(limit=-5), "limit"),
        (lambda: proactor.LengthPrefixed(bytes=3), "1, 2, 4 or 8"),
        (lambda: proactor.LengthPrefixed(bytes=0), "1, 2, 4 or 8"),
        (lambda: proactor.LengthPrefixed(limit=0), "limit"),
    ],
    ids=str,
)
def test_wrong_framing_is_refused(make, text) -> None:
    with pytest.raises(ValueError, match=text):
        make()


class Answering(Recorder):
    def on_received(self, connection, data):
        connection.send(data + b"|")


@pytest.mark.parametrize("longest", [1, 4, 100], ids=["byte by byte", "in pieces", "in one segment"])
def test_messages_in_front_of_a_bad_one_are_answered_however_the_bytes_were_cut(serve, connect, caplog, longest) -> None:
    handler = Answering()
    client = connect(serve(handler, framing=proactor.Lines(limit=4)))
    send_in_pieces(client, b"a\nb\nc\ntoolo", longest)
    assert read_to_end(client) == b"a|b|c|"
    [error] = handler.wait_closed()
    assert isinstance(error, MessageTooLong)
    assert handler.values("received") == [b"a", b"b", b"c"]
    assert "raised" not in caplog.text, "the handler has done nothing wrong"


def test_a_handler_that_reads_on_gets_what_is_whole_and_then_the_error(serve, connect) -> None:
    got: list[object] = []

    class Reading(Recorder):
        def on_received(self, connection, data):
            got.append(data)
            try:
                while True:
                    got.append(connection.receive(5))
            except MessageTooLong as error:
                got.append(type(error))
            connection.send(b"that was too long")  # it is closed only after this handler

    handler = Reading()
    client = connect(serve(handler, framing=proactor.Lines(limit=4)))
    client.sendall(b"a\nb\nc\ntoolo")
    assert read_to_end(client) == b"that was too long"
    assert got == [b"a", b"b", b"c", MessageTooLong]
    [error] = handler.wait_closed()
    assert isinstance(error, MessageTooLong)


def test_an_end_inside_a_message_takes_effect_after_the_answers_before_it(serve, connect) -> None:
    handler = Answering()
    client = connect(serve(handler, framing=proactor.LengthPrefixed(bytes=1)))
    client.sendall(b"\1a\1b\5c")
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(client) == b"a|b|"
    [error] = handler.wait_closed()
    assert isinstance(error, MessageTruncated)


@pytest.mark.parametrize(
    "framing",
    [proactor.Lines(), proactor.LengthPrefixed(bytes=1), proactor.LengthPrefixed(bytes=2), proactor.LengthPrefixed(bytes=8)],
    ids=repr,
)
def test_what_is_encoded_arrives_as_the_same_messages_on_both_sides(serve, framing) -> None:
    server = serve(lambda connection, data: connection.send(framing.encode(data)), framing=framing)
    handler = Recorder()
    connection = proactor.connect(server.address, handler, framing=framing)
    messages = [b"", b"one", b"x" * 255, bytearray(b"two words"), memoryview(b"view")]
    for message in messages:
        connection.send(framing.encode(message))
    handler.wait_for_count("received", len(messages))
    assert handler.values("received") == [bytes(message) for message in messages]
    connection.close()
    handler.wait_closed()


def test_encoding_says_what_cannot_be_a_message() -> None:
    with pytest.raises(MessageTooLong, match=r"5 bytes.*limit is 4.*split it"):
        proactor.Lines(limit=4).encode(b"12345")
    assert proactor.Lines(limit=4).encode(b"1234") == b"1234\n"
    with pytest.raises(ValueError, match="arrive as two"):
        proactor.Lines().encode(b"one\ntwo")
    with pytest.raises(MessageTooLong, match=r"256 bytes.*limit is 255"):
        proactor.LengthPrefixed(bytes=1).encode(bytes(256))
    with pytest.raises(MessageTooLong, match="limit is 10"):
        proactor.LengthPrefixed(limit=10).encode(bytes(11))
    for framing in (proactor.Lines(), proactor.LengthPrefixed()):
        with pytest.raises(TypeError, match=r"encode the text first"):
            framing.encode("text")
        with pytest.raises(TypeError, match=r"a message is bytes, not int"):
            framing.encode(5)


def test_a_length_of_a_float_is_refused():
    with pytest.raises(ValueError, match=r"takes 1, 2, 4 or 8, not 1\.0"):
        proactor.LengthPrefixed(bytes=1.0)
