"""Half-closed clients of the console server from another machine: a network namespace, of whose sockets this one cannot ask the kernel."""

import contextlib
import os
import shutil
import subprocess
import sys

import pytest

import proactor
from peers import eventually
from proactor.cli import console_server
from proactor.cli.console_server import ConsoleServer

pytestmark = pytest.mark.linux("network namespaces")

# Of the range that is kept for tests between networks (RFC 2544).
HERE, THERE = "198.18.89.1", "198.18.89.2"

CLIENT = """
import socket, sys
client = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
client.shutdown(socket.SHUT_WR)
print("half-closed", flush=True)
while data := client.recv(100):
    print(data.decode(), flush=True)
print("end", flush=True)
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20)


@pytest.fixture
def elsewhere():
    """The name of a network namespace that is joined to this one by a cable of its own."""
    if shutil.which("ip") is None:
        pytest.skip("needs ip (iproute2) to make a network namespace")
    name = f"proactor-{os.getpid()}"
    ours, theirs = f"pra{os.getpid()}"[:15], f"prb{os.getpid()}"[:15]
    with contextlib.ExitStack() as made:
        try:
            ip("netns", "add", name)
            made.callback(ip, "netns", "del", name)
            ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name)
            made.callback(subprocess.run, ["ip", "link", "del", ours], capture_output=True, timeout=20, check=False)
            ip("addr", "add", f"{HERE}/30", "dev", ours)
            ip("link", "set", ours, "up")
            ip("-n", name, "addr", "add", f"{THERE}/30", "dev", theirs)
            ip("-n", name, "link", "set", theirs, "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are refused here: {error.stderr.strip()}")
        yield name


@pytest.fixture
def server(elsewhere):
    handler = ConsoleServer()
    with contextlib.closing(handler), proactor.serve(handler, (HERE, 0)) as server:
        yield server


@pytest.fixture
def client(elsewhere, server):
    """`client()` starts a half-closed client there."""
    with contextlib.ExitStack() as started:

        def start() -> "subprocess.Popen[str]":
            where = ["ip", "netns", "exec", elsewhere, sys.executable, "-c", CLIENT, HERE, str(server.address[1])]
            process = started.enter_context(subprocess.Popen(where, stdout=subprocess.PIPE, text=True))
            started.callback(process.kill)
            assert process.stdout.readline() == "half-closed\n"
            return process

        yield start


def test_it_receives_for_a_while_and_is_let_go(server, client, monkeypatch, caplog):
    monkeypatch.setattr(console_server, "UNKNOWN_SECONDS", 3.0)
    with caplog.at_level("INFO", "proactor.serve"):
        process = client()
        eventually(lambda: "still receives what is typed for 3 seconds" in caplog.text, "that it is there cannot be known")
        server.broadcast(b"typed")
        assert process.stdout.readline() == "typed\n"
        assert process.stdout.readline() == "end\n"
        assert process.wait(20) == 0
        eventually(lambda: "disconnected: closed by the peer" in caplog.text, "it is let go")
    assert f"{THERE}:" in caplog.text


def test_one_whose_process_is_gone_is_let_go_as_well(server, client, monkeypatch):
    """The kernel there has sent its FIN when it half-closed, and nothing more at its end."""
    monkeypatch.setattr(console_server, "UNKNOWN_SECONDS", 0.5)
    client().kill()
    eventually(lambda: server.statistics().accepted == 1 and server.connections == (), "it is let go")


def test_only_so_many_stay(server, client, monkeypatch):
    monkeypatch.setattr(console_server, "UNKNOWN_LIMIT", 2)
    processes = [client() for _ in range(3)]
    assert processes[0].stdout.readline() == "end\n", "the first that finished sending goes first"
    eventually(lambda: len(server.connections) == 2, "the others stay")
    server.broadcast(b"typed")
    assert [process.stdout.readline() for process in processes[1:]] == ["typed\n"] * 2
