"""Named pipes as addresses: on Windows they work, elsewhere they are refused by name."""

import errno
import queue
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import proactor
from proactor import pipes
from proactor.listener import parse
from proactor.pipes import PipeName

ON_WINDOWS = sys.platform == "win32"
on_windows = pytest.mark.skipif(not ON_WINDOWS, reason="Windows has named pipes")


@pytest.fixture
def address() -> str:
    return f"pipe:proactor-test-{uuid.uuid4()}"


@pytest.fixture
def pool() -> Iterator[proactor.ThreadPool]:
    with proactor.ThreadPool() as pool:
        yield pool


class Client(proactor.Handler):
    def __init__(self) -> None:
        self.received_data: queue.Queue[bytes] = queue.Queue()
        self.end: queue.Queue[BaseException | None] = queue.Queue()

    def received(self, connection: proactor.Connection, data: bytes) -> None:
        self.received_data.put(data)

    def closed(self, connection: proactor.Connection, error: BaseException | None) -> None:
        self.end.put(error)

    def take(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            data += self.received_data.get(timeout=30)
        return data


def test_an_address_that_begins_with_pipe_names_one() -> None:
    assert parse("pipe:name with: anything") == PipeName("name with: anything")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [("pipe:", "has no name"), (r"pipe:\\.\pipe\name", "no backslash"), ("pipe:a\0b", "no NUL"), ("pipe:" + 248 * "x", "247")],
)
def test_a_name_that_is_none_is_refused_with_what_is_wrong(wrong: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse(wrong)


@pytest.mark.skipif(ON_WINDOWS, reason="Windows has named pipes")
def test_elsewhere_a_pipe_is_refused_with_what_to_use_instead(address: str) -> None:
    with pytest.raises(OSError, match=rf"cannot listen on {address}: .* has no named pipes .*: use unix:/path") as listening:
        proactor.serve(lambda connection, data: None, address)
    with pytest.raises(OSError, match=rf"cannot connect to {address}: .* has no named pipes") as connecting:
        proactor.connect(address, lambda connection, data: None)
    assert listening.value.errno == connecting.value.errno == errno.EAFNOSUPPORT


@on_windows
def test_a_server_and_its_clients_talk_over_a_pipe(address: str, pool: proactor.ThreadPool) -> None:
    peers: queue.Queue[tuple[object, object]] = queue.Queue()

    def echo(connection: proactor.Connection, data: bytes) -> None:
        peers.put((connection.peername, connection.sockname))
        connection.send(data)

    with proactor.serve(echo, address, pool=pool) as server:
        assert server.address == address
        clients = [Client() for _ in range(20)]
        connections = [proactor.connect(address, client, pool=pool, timeout=30) for client in clients]
        for connection in connections:
            assert (connection.peername, connection.sockname) == (address, address)
            connection.send(b"hello")
        for client in clients:
            assert client.take(5) == b"hello"
        assert peers.get(timeout=30) == ("pipe:", address)
        assert server.broadcast(b"all").sent == 20
        for client in clients:
            assert client.take(3) == b"all"
        for connection in connections:
            connection.close()
        for client in clients:
            assert client.end.get(timeout=30) is None


@on_windows
def test_much_goes_through_a_pipe_both_ways_while_both_send(address: str, pool: proactor.ThreadPool) -> None:
    data = bytes(range(256)) * 2_500  # below the limits above which a connection stops receiving: nobody else makes room here
    with proactor.serve(lambda connection, data: connection.send(data), address, pool=pool):
        client = Client()
        connection = proactor.connect(address, client, pool=pool, timeout=30)
        connection.send(data)
        assert client.take(len(data)) == data
        connection.close()
        assert client.end.get(timeout=30) is None


@on_windows
def test_what_a_server_sends_before_it_closes_is_received(address: str, pool: proactor.ThreadPool) -> None:
    def answer(connection: proactor.Connection, data: bytes) -> None:
        connection.send(b"x" * 300_000)
        connection.close()

    with proactor.serve(answer, address, pool=pool):
        client = Client()
        proactor.connect(address, client, pool=pool, timeout=30).send(b"?")
        assert client.take(300_000) == b"x" * 300_000
        assert client.end.get(timeout=30) is None


@on_windows
def test_a_pipe_has_no_half_close(address: str, pool: proactor.ThreadPool) -> None:
    with proactor.serve(lambda connection, data: None, address, pool=pool):
        client = Client()
        connection = proactor.connect(address, client, pool=pool, timeout=30)
        with pytest.raises(OSError, match="pipe"):
            connection.shutdown_write()
        connection.send(b"goes on")
        connection.close()
        assert client.end.get(timeout=30) is None


@on_windows
def test_nobody_serves_a_pipe_that_is_not_there(address: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"cannot connect to {address}"):
        proactor.connect(address, Client())


@on_windows
def test_a_connect_waits_its_time_for_a_free_instance(address: str) -> None:
    from proactor import pipes

    name = parse(address)
    assert isinstance(name, PipeName)
    listening, first = pipes.listen(name), pipes.connect(name, 5)
    try:
        with pytest.raises(TimeoutError, match=r"did not answer within 0\.2 seconds"):
            proactor.connect(address, Client(), timeout=0.2)
    finally:
        first.close()
        listening.close()


@on_windows
def test_a_completion_port_takes_both_ends_of_a_pipe(address: str) -> None:
    with proactor.CompletionPort() as port:
        listening = port.associate(pipes.listen(address), "server")
        accept = listening.accept()
        client = port.associate(pipes.connect(address, timeout=30), "client")
        completion = port.get(timeout=30)
        assert (completion.key, completion.operation, completion.error) == ("server", accept, None)
        end, peer = completion.value
        assert isinstance(end, pipes.End)
        assert (end.getsockname(), peer) == (address, "pipe:")
        with proactor.CompletionPort() as other, pytest.raises(ValueError, match="stays with the port that has accepted it"):
            other.associate(end)
        server = port.associate(end, "accepted")
        assert end.fileno() == -1
        receives = {server: server.receive(100), client: client.receive(100)}
        for sender, receiver, data in ((client, server, b"there"), (server, client, b"back")):
            sent = sender.send(data)
            completions = {completion.operation: completion for completion in (port.get(timeout=30), port.get(timeout=30))}
            assert completions[sent].value == len(data)
            assert completions[receives[receiver]].value == data
        end_of_it = server.receive(100)
        client.close()
        completion = port.get(timeout=30)
        assert (completion.operation, completion.value, completion.error) == (end_of_it, b"", None)


@on_windows
def test_an_end_that_nobody_takes_over_is_closed_by_its_owner(address: str) -> None:
    with pipes.listen(address) as listening:
        assert listening.fileno() >= 0
    with pytest.raises(FileNotFoundError):
        pipes.connect(address)


@on_windows
def test_an_end_that_is_forgotten_is_closed_with_a_warning(address: str) -> None:
    with proactor.CompletionPort() as port:
        listening = port.associate(pipes.listen(address))
        listening.accept()
        client = port.associate(pipes.connect(address, timeout=30))
        completion = port.get(timeout=30)
        receive = client.receive()
        with pytest.warns(ResourceWarning, match=f"unclosed <End of {address}"):
            del completion
        completion = port.get(timeout=30)
        assert (completion.operation, completion.value) == (receive, b"")


@on_windows
def test_two_threads_cannot_give_away_one_end(address: str) -> None:
    start = threading.Barrier(2)

    def associate(end: pipes.End) -> str:
        start.wait()
        try:
            port.associate(end).close()
        except ValueError as error:
            return str(error)
        return ""

    refusal = "the end of a pipe is closed, or a pool or port has taken it over: a handle is associated once"
    with proactor.CompletionPort() as port, ThreadPoolExecutor(2) as executor:
        for _ in range(50):
            end = pipes.listen(address)
            assert sorted(executor.map(associate, (end, end))) == ["", refusal]


@pytest.mark.parametrize("make", [pipes.connect, pipes.listen])
def test_an_end_is_of_no_other_type(make) -> None:
    with pytest.raises(TypeError, match="a pipe is named by a string, not tuple"):
        make(("localhost", 1))


@pytest.mark.parametrize("make", [pipes.connect, pipes.listen])
def test_an_end_is_of_what_names_a_pipe(make) -> None:
    with pytest.raises(ValueError, match="'localhost:1' names no pipe: write \"pipe:name\""):
        make("localhost:1")
