"""Files that a connection sends: what arrives, in which order, and what is refused."""

import io
import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import proactor
from peers import TIMEOUT, Recorder, ends_with_reset, eventually, read_exactly, read_to_end
from platforms import LINUX, descriptors, resident_bytes
from proactor.errors import ConnectionEnded

SMALL = {"receive_buffer": 4096}


@pytest.fixture
def content() -> bytes:
    return random.Random(1).randbytes(3_000_000)


@pytest.fixture
def path(tmp_path, content) -> Path:
    (tmp_path / "file").write_bytes(content)
    return tmp_path / "file"


@pytest.fixture
def connection_to(serve, connect):
    """`connection_to(**options)` answers a client, its connection, and what its handler was called for."""

    def make(address=("127.0.0.1", 0), client=SMALL, **options):
        handler = Recorder()
        socket = connect(serve(handler, address, **options), **client)
        handler.wait_for_count("connected", 1)
        return socket, handler.connections[0], handler

    return make


# ---- what arrives ----


def test_a_handler_sends_a_file_between_what_it_sends_before_and_after(serve, connect, path, content) -> None:
    sent = []

    def handler(connection, data):
        connection.send(b"before")
        sent.append(connection.send_file(path))
        connection.send(b"after")
        connection.close()

    client = connect(serve(handler))
    client.sendall(b"?")
    assert read_to_end(client) == b"before" + content + b"after"
    assert sent == [len(content)]


@pytest.mark.parametrize("kind", ["str", "bytes", "Path", "buffered", "raw", "text", "proactor", "direct"])
def test_a_file_may_be_given_in_many_ways(connection_to, path, content, start, kind) -> None:
    client, connection, _ = connection_to()
    opened = {
        "buffered": lambda: path.open("rb"),
        "raw": lambda: path.open("rb", buffering=0),
        "text": lambda: path.open("r", encoding="latin-1", newline=""),
        "proactor": lambda: proactor.open(path, "rb"),
        "direct": lambda: proactor.open(path, "rb", direct=True),
    }
    if kind in opened:
        try:
            file = opened[kind]()
        except OSError:
            pytest.skip("this file system cannot be read past the page cache")
    else:
        file = {"str": str, "bytes": os.fsencode, "Path": Path}[kind](path)
    receiver = ThreadPoolExecutor(1)
    try:
        received = receiver.submit(read_exactly, client, len(content) - 1001)
        assert connection.send_file(file, 1001) == len(content) - 1001
        assert received.result(TIMEOUT) == content[1001:]
    finally:
        receiver.shutdown()
        if kind in opened:
            file.close()


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, 0, slice(0, 0)),
        (0, 1, slice(0, 1)),
        (4095, 2, slice(4095, 4097)),
        (2999990, 50, slice(2999990, None)),
        (3000000, None, slice(0, 0)),
        (9000000, 5, slice(0, 0)),
        (2**62, None, slice(0, 0)),
        (70000, 100000, slice(70000, 170000)),
    ],
)
def test_offset_and_length_choose_a_part(connection_to, path, content, offset, length, expected) -> None:
    client, connection, _ = connection_to(client={})
    assert connection.send_file(path, offset, length) == len(content[expected])
    connection.send(b"end")
    connection.close()
    assert read_to_end(client) == content[expected] + b"end"


def test_the_position_of_the_file_is_neither_used_nor_moved(connection_to, path, content) -> None:
    client, connection, _ = connection_to(client={})
    with path.open("rb", buffering=0) as file:
        file.seek(17)
        connection.send_file(file, 100, 200)
        assert file.tell() == 17
    assert read_exactly(client, 200) == content[100:300]


@pytest.mark.linux("Unix sockets")
def test_a_unix_socket_takes_a_file(connection_to, tmp_path, path, content, start) -> None:
    client, connection, _ = connection_to(f"unix:{tmp_path / 'socket'}", client={})
    start(connection.send_file, path)
    assert read_exactly(client, len(content)) == content


def test_a_slow_reader_gets_all_of_it_while_others_are_served(serve, connect, make_pool, path, content) -> None:
    begun = threading.Event()

    def handler(connection, data):
        if data == b"file":
            begun.set()
            connection.send_file(path)
            connection.send(b"end")
        else:
            connection.send(data)

    server = serve(handler, pool=make_pool(concurrency=1, max_workers=4))
    slow, other = connect(server, **SMALL), connect(server)
    slow.sendall(b"file")
    assert begun.wait(TIMEOUT)
    for _ in range(20):
        other.sendall(b"echo")
        assert read_exactly(other, 4) == b"echo", "the only slot is free while the file is sent"
    [sending] = [connection for connection in server.connections if connection.peername == slow.getsockname()]
    assert sending.statistics().outbox_bytes == 0, "the file is in nobody's memory"
    assert read_exactly(slow, len(content) + 3) == content + b"end"
    eventually(lambda: sending.statistics().sent_bytes == len(content) + 3, "its bytes are counted")


def test_the_sent_handler_is_told_of_a_files_bytes(serve, connect, path, content) -> None:
    counted = []

    class Sending(proactor.Handler):
        def received(self, connection, data):
            connection.send_file(path)

        def sent(self, connection, count):
            counted.append(count)

    client = connect(serve(Sending))
    client.sendall(b"?")
    assert read_exactly(client, len(content)) == content
    eventually(lambda: sum(counted) == len(content), "all was told")


def test_a_file_beyond_four_gigabytes_is_sent_from_where_one_asks(connection_to, tmp_path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(10 << 30)
        file.seek((6 << 30) + 5)
        file.write(b"here")
    client, connection, _ = connection_to(client={})
    assert connection.send_file(path, 6 << 30, 20) == 20
    assert read_exactly(client, 20) == bytes(5) + b"here" + bytes(11)
    assert connection.send_file(path, (10 << 30) - 3) == 3
    assert read_exactly(client, 3) == bytes(3)


@pytest.mark.wine("each call of TransmitFile leaves its buffer of 64 KiB behind")
def test_a_sparse_file_of_ten_gigabytes_takes_no_memory(connection_to, tmp_path, start) -> None:
    """Until its reader has had enough: what matters is what is held meanwhile."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(10 << 30)
    client, connection, _ = connection_to(client={})
    raised: list[BaseException] = []

    def send() -> None:
        try:
            connection.send_file(path)
        except OSError as error:
            raised.append(error)

    before = resident_bytes()
    sender = start(send)
    received = 0
    while received < 200_000_000:
        received += len(client.recv(1 << 20))
    assert resident_bytes() - before < 20_000_000
    connection.abort()
    sender.join(TIMEOUT)
    [error] = raised
    assert isinstance(error, ConnectionAbortedError)
    assert error.sent_bytes >= received  # type: ignore[attr-defined]
    assert connection.statistics().sent_bytes == error.sent_bytes  # type: ignore[attr-defined]


# ---- order ----


def test_what_is_sent_meanwhile_waits_behind_the_file(connection_to, path, content, start) -> None:
    client, connection, _ = connection_to()
    server = connection.server
    sender = start(connection.send_file, path)
    eventually(lambda: connection.statistics().sent_bytes > 0, "it has begun")
    connection.send(b"one")
    assert server.broadcast(b"two").sent == 1
    second = start(connection.send_file, path, 0, 10)
    third = []
    eventually(lambda: connection.statistics().outbox_bytes == 6, "they wait")
    assert sender.is_alive()
    assert second.is_alive()
    assert not third
    assert read_exactly(client, len(content) + 6) == content + b"onetwo"
    assert read_exactly(client, 10) == content[:10]


def test_a_file_waits_for_what_was_queued_before(connection_to, path, content, start) -> None:
    client, connection, _ = connection_to()
    before = random.Random(2).randbytes(8_000_000)
    connection.send(before)
    start(connection.send_file, path)
    assert read_exactly(client, len(before) + len(content)) == before + content


def test_concurrent_senders_keep_whole_units(connection_to, path, content, start) -> None:
    client, connection, _ = connection_to(send_limit=1_000_000)
    chunk = 50_000

    def send(number: int) -> None:
        for _ in range(10):
            if number % 2:
                connection.send_file(path, number * chunk, chunk)
            else:
                connection.send(content[number * chunk : (number + 1) * chunk])

    threads = [start(send, number) for number in range(6)]
    units = []
    for _ in range(60):
        unit = read_exactly(client, chunk)
        units.append(content.index(unit[:64]) // chunk)
        assert unit == content[units[-1] * chunk : (units[-1] + 1) * chunk], "a unit was torn"
    assert sorted(units) == sorted(list(range(6)) * 10)
    for thread in threads:
        thread.join(TIMEOUT)


def test_an_end_of_the_writing_side_comes_after_the_file(connection_to, path, content, start) -> None:
    client, connection, _ = connection_to()
    start(connection.send_file, path)
    eventually(lambda: connection.statistics().sent_bytes > 0, "it has begun")
    connection.shutdown_write()
    with pytest.raises(ConnectionEnded):
        connection.send_file(path)
    assert read_to_end(client) == content


@pytest.mark.parametrize("how", ["close", "shutdown"])
def test_an_orderly_end_waits_for_the_file(connection_to, path, content, start, how) -> None:
    client, connection, handler = connection_to()
    results = []
    start(lambda: results.append(connection.send_file(path)))
    eventually(lambda: connection.statistics().sent_bytes > 0, "it has begun")
    reports = []
    if how == "close":
        connection.close()
    else:
        start(lambda: reports.append(connection.server.shutdown(TIMEOUT)))
        eventually(lambda: not connection.statistics().open, "the server drains")
    with pytest.raises(ConnectionEnded):
        connection.send_file(path)
    assert read_to_end(client) == content
    assert handler.wait_closed() == [None]
    eventually(lambda: results == [len(content)], "the sender is told")
    if how == "shutdown":
        eventually(lambda: reports, "the server has ended")
        assert reports[0].dropped == 0, reports


# ---- what goes wrong ----


def failure_of(call, *arguments, **options):
    with pytest.raises(OSError) as caught:
        call(*arguments, **options)
    return caught.value


def test_a_file_that_becomes_shorter_resets_the_connection_and_says_how_far_it_came(connection_to, path, start) -> None:
    client, connection, handler = connection_to()
    errors = []
    start(lambda: errors.append(failure_of(connection.send_file, path, 10)))
    eventually(lambda: connection.statistics().sent_bytes > 0, "it has begun")
    os.truncate(path, 0)
    assert ends_with_reset(client)
    [told] = handler.wait_closed()
    assert isinstance(told, OSError)
    assert "became shorter" in str(told)
    eventually(lambda: errors, "the sender is told")
    error = errors[0]
    assert error.filename == path
    assert f"sending 2999990 bytes at 10 after {error.sent_bytes} of them" in str(error)
    assert "early" in str(error)
    assert connection.statistics().sent_bytes == error.sent_bytes


def test_who_gives_up_before_the_first_byte_leaves_the_connection_as_it_was(connection_to, path) -> None:
    client, connection, _ = connection_to()
    data = bytes(8_000_000)
    connection.send(data)
    error = failure_of(connection.send_file, path, timeout=0.05)
    assert isinstance(error, TimeoutError)
    assert error.sent_bytes == 0
    assert "sending 3000000 bytes at 0: the time-out of 0.05 seconds is over" in str(error)
    connection.try_send(b"next")
    connection.close()
    received = read_to_end(client)
    assert received in (data, data + b"next")


@pytest.mark.parametrize("limit", ["timeout", "send_timeout"])
def test_a_peer_that_takes_too_little_is_cut_off(connection_to, path, limit) -> None:
    client, connection, handler = connection_to(**({"send_timeout": 0.3} if limit == "send_timeout" else {}))
    error = failure_of(connection.send_file, path, timeout=0.3 if limit == "timeout" else None)
    assert isinstance(error, TimeoutError)
    assert 0 < error.sent_bytes < 3_000_000
    assert connection.statistics().sent_bytes == error.sent_bytes
    assert f"sending 3000000 bytes at 0 after {error.sent_bytes} of them" in str(error)
    assert "reset" in str(error)
    assert error.filename == path
    [told] = handler.wait_closed()
    assert isinstance(told, TimeoutError)
    assert ends_with_reset(client)


def test_a_peer_that_reads_slowly_is_not_cut_off_by_send_timeout(connection_to, path, content, start) -> None:
    client, connection, _ = connection_to(send_timeout=0.5)
    results = []
    sender = start(lambda: results.append(connection.send_file(path)))
    received = bytearray()
    while len(received) < len(content):
        received += read_exactly(client, min(200_000, len(content) - len(received)))
        # Longer than send_timeout in all, and less at a time.
        threading.Event().wait(0.07)
    sender.join(TIMEOUT)
    assert received == content
    assert results == [len(content)]


def test_an_abort_meanwhile_is_told_with_how_much_was_sent(connection_to, path, start) -> None:
    client, connection, handler = connection_to()
    errors = []
    sender = start(lambda: errors.append(failure_of(connection.send_file, path)))
    waiting = start(lambda: errors.append(failure_of(connection.send_file, path, 5)))
    eventually(lambda: connection.statistics().sent_bytes > 0, "it has begun")
    connection.abort()
    sender.join(TIMEOUT)
    waiting.join(TIMEOUT)
    assert all(isinstance(error, ConnectionAbortedError) for error in errors), errors
    assert sum(error.sent_bytes for error in errors) == connection.statistics().sent_bytes
    assert isinstance(handler.wait_closed()[0], ConnectionAbortedError)
    with pytest.raises(ConnectionAbortedError):
        connection.send_file(path)
    client.close()


def test_what_cannot_be_sent_is_refused_and_the_connection_goes_on(connection_to, tmp_path, path) -> None:
    client, connection, _ = connection_to(client={})
    if LINUX:
        os.mkfifo(tmp_path / "fifo")
        others = [(tmp_path / "fifo", ValueError, "has no offsets"), ("/dev/zero", ValueError, "has no offsets")]
    else:
        others = [("NUL", ValueError, "has no offsets")]
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "wb"), path.open("ab") as writable, path.open("rb") as closed:
        closed.close()
        for file, error, text in [
            (tmp_path, IsADirectoryError, "one by one"),
            (tmp_path / "missing", FileNotFoundError, "missing"),
            *others,
            (pipe, ValueError, "read it, and send what comes"),
            (writable, io.UnsupportedOperation, "not open for reading"),
            (closed, ValueError, "closed"),
            (io.BytesIO(b"bytes"), io.UnsupportedOperation, "fileno"),
            (5, TypeError, "takes a path or an open file"),
            (None, TypeError, "takes a path or an open file"),
            (b"\0", ValueError, "null"),
        ]:
            with pytest.raises(error, match=text):
                connection.send_file(file)
    for arguments, options, error, text in [
        ((-1,), {}, ValueError, "offset"),
        ((0, -1), {}, ValueError, "length"),
        ((1.5,), {}, TypeError, "offset"),
        ((True,), {}, TypeError, "offset"),
        ((0, "9"), {}, TypeError, "length"),
        ((2**63,), {}, ValueError, "too large"),
        ((), {"timeout": -1}, ValueError, "timeout"),
        ((), {"timeout": "1"}, TypeError, "timeout"),
    ]:
        with pytest.raises(error, match=text):
            connection.send_file(path, *arguments, **options)
    connection.send(b"still here")
    assert read_exactly(client, 10) == b"still here"


def test_a_closed_connection_takes_no_file(connection_to, path) -> None:
    client, connection, handler = connection_to()
    connection.close()
    client.close()
    handler.wait_closed()
    with pytest.raises(ConnectionEnded):
        connection.send_file(path)


def test_a_handler_whose_file_fails_ends_only_its_connection(serve, connect, tmp_path, caplog) -> None:
    def handler(connection, data):
        if data == b"file":
            connection.send_file(tmp_path / "missing")
        connection.send(data)

    server = serve(handler)
    other, client = connect(server), connect(server)
    client.sendall(b"file")
    assert read_to_end(client) == b""
    other.sendall(b"echo")
    assert read_exactly(other, 4) == b"echo"
    assert "FileNotFoundError" in caplog.text
    caplog.clear()


def test_files_sent_or_given_up_leave_no_descriptor(serve, connect, path, content) -> None:
    def ours() -> int:
        if LINUX:
            return sum(what == str(path) for what in descriptors().values())
        try:
            path.rename(path.with_name("renamed")).rename(path)  # which an open handle prevents
        except PermissionError:
            return 1
        return 0

    handler = Recorder()
    server = serve(handler)
    client = connect(server)
    handler.wait_for_count("connected", 1)
    with path.open("rb"):
        assert ours() == 1, "an open one is seen"
    for _ in range(50):
        handler.connections[0].send_file(path, 0, 40_000)
        assert read_exactly(client, 40_000) == content[:40_000]
    assert ours() == 0
    for count in range(1, 21):
        client = connect(server, **SMALL)
        handler.wait_for_count("connected", count + 1)
        failure_of(handler.connections[-1].send_file, path, timeout=0.01)
        assert ours() == 0
        handler.wait_closed(count)


# ---- the kernel says no, and signals ----


@pytest.mark.linux("a filter of the kernel's calls (seccomp)")
@pytest.mark.parametrize("error", ["EPERM", "ENOSYS", "EINVAL"])
def test_where_the_kernel_refuses_sendfile_the_file_is_read_and_sent(program, path, error) -> None:
    running = program(
        """
import errno, os, socket, sys
import proactor, seccomp
seccomp.refuse({"x86_64": 40, "aarch64": 71, "riscv64": 71}[os.uname().machine], error=getattr(errno, sys.argv[2]))
content = open(sys.argv[1], "rb").read()
def handler(connection, data):
    connection.send(b"before")
    connection.send_file(sys.argv[1], 4097, 2_500_001)
    connection.send(b"after")
    connection.close()
with proactor.serve(handler, ("127.0.0.1", 0)) as server:
    client = socket.create_connection(server.address)
    client.sendall(b"?")
    received = b"".join(iter(lambda: client.recv(1 << 16), b""))
    print(received == b"before" + content[4097:4097 + 2_500_001] + b"after", flush=True)
    client.close()
""",
        str(path),
        error,
    )
    assert running.line() == "True"
    assert running.wait() == 0, running.errors()


@pytest.mark.linux("SIGPIPE")
def test_a_broken_pipe_does_not_end_a_program_that_gave_sigpipe_its_action_back(program, path) -> None:
    running = program(
        """
import signal, socket, struct, sys, threading
import proactor
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
done = threading.Event()
def handler(connection, data):
    try:
        while True:
            connection.send_file(sys.argv[1])
    except ConnectionError as error:
        print(type(error).__name__, error.sent_bytes >= 0, flush=True)
        done.set()
with proactor.serve(handler, ("127.0.0.1", 0)) as server:
    for _ in range(20):
        client = socket.create_connection(server.address)
        client.sendall(b"?")
        client.recv(100_000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert done.wait(20)
        done.clear()
    print("alive", flush=True)
""",
        str(path),
    )
    assert running.wait() == 0, running.errors()
    assert running.lines()[-1] == "alive"


def test_a_signal_handler_that_raises_ends_the_sending(program, path) -> None:
    os.truncate(path, 100_000_000)  # more than the kernel takes for a client that does not read
    running = program(
        """
import signal, socket, sys, threading
import proactor
made = threading.Event()
connections = []
class Handler(proactor.Handler):
    def connected(self, connection):
        connections.append(connection)
        made.set()
with proactor.serve(Handler, ("127.0.0.1", 0)) as server:
    client = socket.create_connection(server.address)
    assert made.wait(20)
    def tell():
        while not connections[0].statistics().sent_bytes:
            pass
        print("sending", flush=True)
    teller = threading.Thread(target=tell)
    teller.start()
    try:
        connections[0].send_file(sys.argv[1])
    except KeyboardInterrupt:
        print("interrupted", connections[0].statistics().open, flush=True)
    client.close()
""",
        str(path),
        signals=True,
    )
    assert running.line() == "sending"
    running.signal(signal.SIGINT)
    assert running.line() == "interrupted False"
    assert running.wait() == 0, running.errors()
