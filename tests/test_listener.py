"""Addresses: what users may write, what they get told, and what is done with the sockets."""

import contextlib
import errno
import os
import socket
import threading

import pytest

import proactor
from peers import TIMEOUT, Recorder, RecordingEcho, dial, echo, read_exactly
from proactor.listener import parse


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (("127.0.0.1", 60001), ("127.0.0.1", 60001)),
        (("::1", 1, 0, 0), ("::1", 1, 0, 0)),
        (("fe80::1", 80, 5, 2), ("fe80::1", 80, 5, 2)),
        ("127.0.0.1:60001", ("127.0.0.1", 60001)),
        ("localhost:0", ("localhost", 0)),
        (":65535", ("", 65535)),
        ("[::1]:80", ("::1", 80)),
        ("[fe80::1%2]:80", ("fe80::1%2", 80)),
        ("unix:/run/x.sock", "/run/x.sock"),
        ("unix:relative", "relative"),
    ],
)
def test_good_addresses_are_understood(address, expected) -> None:
    assert parse(address) == expected


@pytest.mark.parametrize(
    "address",
    [
        *[
            "",
            "localhost",
            "8080",
            "::1:80",
            "host:",
            "host:http",
            "host:-1",
            "host:1.5",
            "host:٣",
            "host:65536",
            "unix:",
            "[::1]",
            "host:80 ",
        ],
        *[
            (),
            ("host",),
            ("host", "80"),
            (80, "host"),
            ("host", 65536),
            ("host", -1),
            ("host", True),
            ("a", 1, 2),
            ("::1", 1, -1, 0),
            ("::1", 1, 0, 2**32),
            "unix:/" + "x" * 107,
        ],
    ],
    ids=repr,
)
def test_bad_addresses_are_refused_with_the_way_to_write_them(address) -> None:
    with pytest.raises(ValueError, match=r"no address|no path|a port is|brackets|107 bytes|flow"):
        parse(address)


@pytest.mark.parametrize("address", [None, 80, b"127.0.0.1:80", ["127.0.0.1", 80]], ids=repr)
def test_what_is_no_address_at_all_is_a_type_error(address) -> None:
    with pytest.raises(TypeError, match="an address is"):
        proactor.serve(echo, address)


def test_without_a_host_every_ipv4_address_is_meant(serve, connect) -> None:
    server = serve(address=":0")
    assert server.address[0] == "0.0.0.0"
    client = connect(("127.0.0.1", server.address[1]))
    client.sendall(b"x")
    assert read_exactly(client, 1) == b"x"


def test_a_name_is_looked_up(serve) -> None:
    assert serve(address="localhost:0").address[0] in ("127.0.0.1", "::1")


@pytest.mark.parametrize("address", [("256.1.1.1", 0), ("no host has this name", 0), ("x" * 70 + ".invalid", 0), ("é" * 64, 0)])
def test_a_name_that_nobody_knows_is_told(address) -> None:
    with pytest.raises(OSError, match="no address is known"):
        proactor.serve(echo, address)


def test_an_address_that_is_not_ours_is_told() -> None:
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:0") as caught:
        proactor.serve(echo, ("192.0.2.1", 0))
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_a_port_in_time_wait_can_be_used_again_at_once() -> None:
    with proactor.serve(echo, ("127.0.0.1", 0)) as server, dial(server.address) as client:
        address = server.address
        client.sendall(b"x")
        assert read_exactly(client, 1) == b"x"
        server.connections[0].close()  # our side ends first: TIME_WAIT is here
        assert client.recv(1) == b""
    with proactor.serve(echo, address) as again:
        assert again.address == address


@pytest.mark.linux("Unix sockets")
def test_the_socket_file_of_a_dead_server_is_replaced(serve, connect, tmp_path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    client = connect(serve(address=f"unix:{path}"))
    client.sendall(b"x")
    assert read_exactly(client, 1) == b"x"


@pytest.mark.linux("Unix sockets")
def test_the_socket_file_of_a_living_server_is_left_alone(serve, connect, tmp_path) -> None:
    path = tmp_path / "s.sock"
    serve(address=f"unix:{path}")
    with pytest.raises(OSError, match="cannot listen on unix:") as caught:
        proactor.serve(echo, f"unix:{path}")
    assert caught.value.errno == errno.EADDRINUSE
    client = connect(f"unix:{path}")
    client.sendall(b"x")
    assert read_exactly(client, 1) == b"x"


@pytest.mark.linux("Unix sockets")
def test_the_socket_file_of_a_server_whose_backlog_is_full_is_left_alone_at_once(tmp_path) -> None:
    path = str(tmp_path / "s.sock")
    with contextlib.ExitStack() as stack:
        living = stack.enter_context(socket.socket(socket.AF_UNIX))
        living.bind(path)
        living.listen(0)
        refused = 0
        while refused != errno.EAGAIN:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            refused = client.connect_ex(path)
        with pytest.raises(OSError, match="cannot listen on unix:") as caught:
            proactor.serve(echo, f"unix:{path}")
        assert caught.value.errno == errno.EADDRINUSE
        assert os.path.exists(path)


@pytest.mark.linux("Unix sockets")
@pytest.mark.parametrize("relative", [False, True])
def test_the_socket_file_of_a_server_that_is_about_to_listen_is_left_alone(tmp_path, monkeypatch, relative) -> None:
    monkeypatch.chdir(tmp_path)
    path = "s.sock" if relative else str(tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX) as starting:
        starting.bind(path)
        with pytest.raises(OSError, match="cannot listen on unix:") as caught:
            proactor.serve(echo, f"unix:{path}")
        assert caught.value.errno == errno.EADDRINUSE
        assert os.path.exists(path)


@pytest.mark.linux("Unix sockets")
def test_the_socket_file_of_a_dead_server_is_replaced_while_its_clients_are_still_served(serve, connect, tmp_path) -> None:
    path = str(tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen()
        client = connect(f"unix:{path}")
        accepted = dead.accept()[0]
    with client, accepted:
        newcomer = connect(serve(address=f"unix:{path}"))
        newcomer.sendall(b"x")
        assert read_exactly(newcomer, 1) == b"x"


@pytest.mark.linux("Unix sockets")
def test_an_abstract_name_is_served_and_connected_to(serve, tmp_path) -> None:
    name = f"unix:\0{tmp_path}"
    handler = RecordingEcho()
    server = serve(handler, name)
    assert server.address == name
    with pytest.raises(OSError, match="cannot listen on unix:@/") as caught:
        proactor.serve(echo, name)
    assert caught.value.errno == errno.EADDRINUSE
    received = threading.Event()

    class Client(proactor.Handler):
        def received(self, connection, data):
            received.set()
            connection.close()

    connection = proactor.connect(name, Client)
    connection.send(b"x")
    assert received.wait(TIMEOUT)
    handler.wait_closed()


def test_a_path_with_a_nul_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        proactor.serve(echo, "unix:/run/a\0b")


@pytest.mark.linux("Unix sockets")
@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb\x1b[31m", b"\0abstract\n"], ids=ascii)
def test_a_unix_peers_name_is_told_as_it_is_and_shown_on_one_line(serve, connect, tmp_path, name) -> None:
    handler = Recorder()
    path = os.fsdecode(bytes(tmp_path) + b"/server\xff")
    server = serve(handler, f"unix:{path}")
    assert server.address == f"unix:{path}"
    bound = name if name.startswith(b"\0") else bytes(tmp_path) + b"/" + name
    with socket.socket(socket.AF_UNIX) as client:
        client.bind(bound)
        client.connect(path)
        handler.wait_for_count("connected", 1)
        [connection] = handler.connections
        assert os.fsencode(connection.peername) == bound.replace(b"\0", b"@")
        assert connection.sockname == path
        assert repr(connection).isprintable()
    handler.wait_closed()


@pytest.mark.linux("Unix sockets")
def test_a_connection_to_a_path_that_is_no_text_has_its_name(serve, tmp_path) -> None:
    address = "unix:" + os.fsdecode(bytes(tmp_path) + b"/server\xff")
    handler = Recorder()
    serve(handler, address)
    connection = proactor.connect(address, echo)
    assert f"unix:{connection.peername}" == address
    connection.close()
    handler.wait_closed()


@pytest.mark.linux("Unix sockets")
def test_a_file_that_is_no_socket_is_never_removed(tmp_path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(OSError, match="cannot listen"):
        proactor.serve(echo, f"unix:{path}")
    assert path.read_text() == "data"


@pytest.mark.linux("Unix sockets")
def test_a_missing_directory_is_told(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="cannot listen on unix:"):
        proactor.serve(echo, f"unix:{tmp_path}/nowhere/s.sock")


@pytest.mark.linux("Unix sockets")
def test_a_socket_file_that_somebody_removed_does_not_disturb_the_end(serve, tmp_path) -> None:
    path = tmp_path / "s.sock"
    server = serve(address=f"unix:{path}")
    os.unlink(path)
    assert server.shutdown(5).completed


@pytest.mark.linux("Unix sockets")
def test_the_socket_file_of_a_successor_is_not_removed(serve, connect, tmp_path) -> None:
    path = tmp_path / "s.sock"
    first = serve(address=f"unix:{path}")
    os.unlink(path)
    serve(address=f"unix:{path}")
    first.shutdown(5)
    client = connect(f"unix:{path}")
    client.sendall(b"x")
    assert read_exactly(client, 1) == b"x"


@pytest.mark.linux("Unix sockets")
def test_a_bound_unix_socket_is_served_and_its_file_stays_the_callers(serve, connect, tmp_path) -> None:
    path = tmp_path / "mine.sock"
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(path))
    server = serve(address=bound)
    assert server.address == f"unix:{path}"
    client = connect(server)
    client.sendall(b"x")
    assert read_exactly(client, 1) == b"x"
    server.shutdown(5)
    assert path.exists()


def test_a_datagram_socket_is_refused_and_left_to_its_owner() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        with pytest.raises(ValueError, match="stream"):
            proactor.serve(echo, datagram)
        assert datagram.fileno() >= 0


def test_a_bound_socket_with_a_timeout_is_served_too(serve, connect) -> None:
    bound = socket.socket()
    bound.settimeout(5)
    bound.bind(("127.0.0.1", 0))
    client = connect(serve(address=bound))
    client.sendall(b"x")
    assert read_exactly(client, 1) == b"x"


def test_a_closed_socket_is_refused() -> None:
    closed = socket.socket()
    closed.close()
    with pytest.raises(OSError, match=r"Bad file descriptor|WinError 10038"):
        proactor.serve(echo, closed)


def test_only_one_of_two_servers_gets_a_port_without_reuse_port(serve) -> None:
    """The bind is exclusive: no second server steals connections, and the error is told at once."""
    server = serve()
    results = []

    def attempt() -> None:
        try:
            proactor.serve(echo, server.address).close()
            results.append("served")
        except OSError as error:
            results.append(error.errno)

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == [errno.EADDRINUSE] * 4
