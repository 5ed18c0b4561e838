"""Fault 1: EMFILE at accept. Clients wait in the backlog, those connected are served, and it goes on as soon as there is room."""

import socket

import pytest

from peers import TIMEOUT, Program, dial, eventually, read_exactly
from platforms import resource

pytestmark = pytest.mark.linux("a limit of descriptors (setrlimit)")

SERVER = """
import logging, os, sys
import proactor
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
with proactor.serve(lambda connection, data: connection.send(data), ("127.0.0.1", 0)) as server:
    print(server.address[1])
    for line in sys.stdin:
        print(server.statistics())
"""


def test_clients_wait_while_descriptors_are_short_and_are_served_afterwards(program) -> None:
    server: Program = program(SERVER)
    address = server.address()
    clients: list[socket.socket] = []
    try:
        for _ in range(5):
            clients.append(dial(address))
            clients[-1].sendall(b"early")
            assert read_exactly(clients[-1], 5) == b"early"
        used = server.descriptors()
        hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + 3, hard))

        waiting = [dial(address) for _ in range(20)]
        clients += waiting
        for client in waiting:
            client.sendall(b"late")
        server.wait_for_error("accept failed")
        served = [client for client in waiting if answers(client)]
        assert len(served) <= 3
        for client in clients[:5]:
            client.sendall(b"still")
            assert read_exactly(client, 5) == b"still", "those who are in are served all the while"

        before = server.cpu_seconds()
        assert not answers(waiting[-1], patience=1.0)
        assert server.cpu_seconds() - before < 0.3, "it does not spin"
        assert server.errors().count("accept failed") == 1, "what goes on is said once in a while, not ten times a second"

        # Room again, first by a client that goes, then by the limit.
        clients[0].close()
        eventually(lambda: sum(answers(client, patience=0.05) for client in waiting if client not in served), "the next one gets in")
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (hard, hard))
        for client in waiting:
            client.settimeout(TIMEOUT)
            client.sendall(b"done")
            data = b""
            while not data.endswith(b"done"):
                chunk = client.recv(100)
                assert chunk, "nobody was dropped"
                data += chunk
        server.say("statistics")
        numbers = server.line()
        assert "accepted=25" in numbers
        assert "accept_errors=0" not in numbers
    finally:
        for client in clients:
            client.close()


def answers(client: socket.socket, patience: float = 0.3) -> bool:
    client.settimeout(patience)
    try:
        return client.recv(4, socket.MSG_PEEK) != b""
    except TimeoutError:
        return False
