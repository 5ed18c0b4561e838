"""What the kernel tells of the other end of a connection on this machine."""

import contextlib
import socket

import pytest

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
