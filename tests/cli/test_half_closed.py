"""What the kernel tells of the other end of a connection on this machine."""

import contextlib
import socket

import pytest

import proactor
from peers import eventually
from proactor.cli import console_server
from proactor.cli.console_server import ConsoleServer
from proactor.cli.half_closed import Peer, PeerSockets


@pytest.fixture
def sockets():
    with contextlib.closing(PeerSockets()) as one:
        yield one


@pytest.mark.linux("sock_diag(7)")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_it_tells_a_half_closed_peer_from_one_that_has_gone(sockets, host):
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        client = socket.create_connection(listener.getsockname()[:2])
        accepted, peername = listener.accept()
        with accepted:
            sockname = accepted.getsockname()
            assert sockets.ask(peername, sockname) is Peer.OPEN
            client.shutdown(socket.SHUT_WR)
            assert accepted.recv(1) == b""
            assert sockets.ask(peername, sockname) is Peer.OPEN
            client.close()
            assert sockets.ask(peername, sockname) is Peer.GONE


@pytest.mark.linux("sock_diag(7)")
def test_an_ipv4_client_of_an_ipv6_server_is_found(sockets):
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        client = socket.create_connection(("127.0.0.1", listener.getsockname()[1]))
        accepted, peername = listener.accept()
        with accepted:
            assert sockets.ask(peername, accepted.getsockname()) is Peer.OPEN
            client.close()
            assert sockets.ask(peername, accepted.getsockname()) is Peer.GONE


def test_of_a_peer_elsewhere_nothing_is_known(sockets):
    assert sockets.ask(("192.0.2.1", 5), ("192.0.2.2", 6)) is Peer.UNKNOWN
    assert sockets.ask("", "/some/path") is Peer.UNKNOWN


def test_without_the_kernels_interface_nothing_is_known():
    sockets = PeerSockets()
    sockets.close()
    assert sockets.ask(("127.0.0.1", 5), ("127.0.0.1", 6)) is Peer.UNKNOWN


class Elsewhere(PeerSockets):
    """As if every client were on another machine."""

    def ask(self, peername, sockname):
        return Peer.UNKNOWN


@pytest.fixture
def console(monkeypatch):
    """A console server whose clients' processes cannot be known of."""
    monkeypatch.setattr(console_server, "PeerSockets", Elsewhere)
    handler = ConsoleServer()
    with contextlib.closing(handler), proactor.serve(handler, ("127.0.0.1", 0)) as server:
        yield server


def half_closed(server):
    client = socket.create_connection(server.address)
    client.settimeout(20)
    client.shutdown(socket.SHUT_WR)
    return client


def test_a_half_closed_client_elsewhere_is_let_go_after_a_while(console, monkeypatch, caplog):
    monkeypatch.setattr(console_server, "UNKNOWN_SECONDS", 0.5)
    with caplog.at_level("INFO", "proactor.serve"), half_closed(console) as client:
        eventually(lambda: "still receives what is typed for 0.5 seconds" in caplog.text, "it is kept")
        console.broadcast(b"typed")
        assert client.recv(5) == b"typed"
        assert client.recv(1) == b""
        eventually(lambda: "disconnected: closed by the peer" in caplog.text, "it is let go")


def test_of_half_closed_clients_elsewhere_only_so_many_are_kept(console, monkeypatch):
    monkeypatch.setattr(console_server, "UNKNOWN_LIMIT", 2)
    with contextlib.ExitStack() as open_ones:
        clients = []
        for number in range(4):
            clients.append(open_ones.enter_context(half_closed(console)))
            wanted = min(number + 1, 2)
            eventually(
                lambda number=number, wanted=wanted: console.statistics().accepted == number + 1 and len(console.connections) == wanted,
                "the one that finished sending first is let go",
            )
        assert [client.recv(1) for client in clients[:2]] == [b"", b""]
        console.broadcast(b"x")
        assert [client.recv(1) for client in clients[2:]] == [b"x", b"x"]


def test_an_error_after_the_client_has_finished_sending_is_its_close(console, caplog):
    with caplog.at_level("INFO", "proactor.serve"):
        client = half_closed(console)
        eventually(lambda: "finished sending" in caplog.text, "the server knows")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        client.close()
        console.broadcast(b"x")
        eventually(lambda: "disconnected: closed by the peer" in caplog.text, "it is let go")
