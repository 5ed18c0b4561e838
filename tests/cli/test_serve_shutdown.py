"""How `proactor serve` ends: what starts the shutdown, what it waits for, what it reports, what cuts it short."""

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_process import COMMAND, TIMEOUT, name_of, read_exactly, read_to_end

from peers import eventually
from platforms import LINUX, resource
from proactor.cli.signals import SAME_SIGNAL_SECONDS, StopRequests

REPORT = r"served \d+ clients?, sent \d+ bytes?, dropped \d+ bytes?"


def test_exit_alone_on_its_line_ends_the_server_with_a_report(serve):
    server = serve()
    (client,) = server.clients(1)
    server.type(b"hello\n")
    assert read_exactly(client, 6) == b"hello\n"
    server.log.wait_for(" sent 6 bytes")
    server.type(b"Exit\n")
    assert client.recv(1) == b""
    assert server.wait() == 0
    assert server.report() == "served 1 client, sent 6 bytes, dropped 0 bytes"
    assert re.search(rf"{name_of(client)} disconnected: closed by the server's shutdown$", server.log.all()[-1])


def test_exit_with_two_hundred_clients_ends_each_of_them(serve):
    server = serve()
    clients = server.clients(200)
    server.type(b"Exit\n")
    assert server.wait() == 0
    assert [client.recv(1) for client in clients] == [b""] * 200
    assert len([line for line in server.log.all() if " disconnected: " in line]) == 200
    assert server.report() == "served 200 clients, sent 0 bytes, dropped 0 bytes"


def test_lines_before_exit_are_sent_and_lines_after_it_are_not(serve):
    server = serve()
    (client,) = server.clients(1)
    server.type(b"before\nExit\nafter\n")
    assert read_to_end(client) == b"before\n"
    assert server.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP if LINUX else signal.SIGBREAK])
def test_a_signal_ends_the_server_with_a_report(serve, number):
    server = serve()
    (client,) = server.clients(1)
    server.signal(number)
    assert client.recv(1) == b""
    assert server.wait() == 0
    assert re.fullmatch(REPORT, server.report())
    assert [line for line in server.log.all() if f"shutting down ({number.name}), for at most 10 seconds" in line]


def test_a_signal_at_once_after_listening_is_not_lost(serve):
    for _ in range(5):
        server = serve(stdin=subprocess.DEVNULL)
        assert server.stop() == 0


@pytest.mark.linux("a Unix shell")
def test_ctrl_c_ends_a_server_that_a_script_put_in_the_background(serve):
    # A shell without job control makes its background processes ignore SIGINT.
    server = serve(command=["sh", "-c", 'trap "" INT; exec "$@"', "sh", *COMMAND])
    server.signal(signal.SIGINT)
    assert server.wait() == 0


@pytest.mark.linux("a Unix shell")
def test_a_server_under_nohup_survives_the_hang_up(serve):
    server = serve(command=["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *COMMAND])
    server.signal(signal.SIGHUP)
    (client,) = server.clients(1)
    client.sendall(b"still there?")
    server.log.wait_for("still there")
    assert server.stop() == 0


def test_the_drain_flushes_what_is_queued(serve):
    server = serve()
    client = server.connect(receive_buffer=4096)
    server.log.wait_for(" connected$")
    lines = [bytes([65 + number]) * 999_999 + b"\n" for number in range(3)]
    server.type(b"".join(lines))
    server.log.wait_for("broadcast 1000000 bytes to 1 client", count=3)
    server.signal(signal.SIGTERM)
    server.log.wait_for("shutting down")
    assert read_to_end(client) == b"".join(lines)
    assert server.wait() == 0
    assert server.report() == "served 1 client, sent 3000000 bytes, dropped 0 bytes"


def test_what_cannot_be_sent_in_time_is_reported_as_dropped(serve):
    server = serve("--drain", "0.3")
    client = server.connect(receive_buffer=4096)
    server.log.wait_for(" connected$")
    for number in range(5):  # the kernel takes 1 to 4 MB of one who does not read, an outbox 4 MiB
        server.type(b"x" * 999_999 + b"\n")
        server.log.wait_for("broadcast 1000000 bytes to 1 client", count=number + 1)
    started = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert time.monotonic() - started < 5
    sent, dropped = map(int, re.fullmatch(r"served 1 client, sent (\d+) bytes, dropped (\d+) bytes", server.report()).groups())
    assert dropped > 0
    assert sent + dropped == 5_000_000
    client.close()


def test_a_handler_that_is_running_finishes_and_its_answer_arrives(serve, application):
    with socket.create_server(("127.0.0.1", 0)) as gate:
        gate.settimeout(TIMEOUT)
        source = """
import socket
def slow(connection, data):
    with socket.create_connection(("127.0.0.1", {port})) as gate:
        assert gate.recv(1) == b""
    connection.send(b"done " + data)
"""
        server = serve("app:slow", **application(source.format(port=gate.getsockname()[1])))
        client = server.connect()
        client.sendall(b"this")
        running, _ = gate.accept()
        with running:
            server.signal(signal.SIGTERM)
            server.log.wait_for("shutting down")
            eventually(lambda: refuses_new_clients(server), "it accepts no more")
    assert read_to_end(client) == b"done this"
    assert server.wait() == 0
    assert re.fullmatch(r"served \d+ clients?, sent 9 bytes, dropped 0 bytes", server.report())


HANGS = """
import time
def hangs(connection, data):
    connection.send(b"entered")
    while True:
        with_time(connection)
def with_time(connection):
    time.sleep(3600)
"""


def test_a_handler_that_never_returns_is_named_and_the_command_ends(serve, application):
    server = serve("app:hangs", "--drain", "0.3", **application(HANGS))
    client = server.connect()
    client.sendall(b"x")
    assert read_exactly(client, 7) == b"entered"
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert [line for line in server.log.all() if re.search(r"WARNING ending the process: these handlers did not return: .*hangs", line)]
    assert re.fullmatch(REPORT, server.report())


@pytest.mark.parametrize(
    ("first", "second"), [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)]
)
def test_a_second_signal_ends_the_process_at_once(serve, application, first, second):
    server = serve("app:hangs", "--drain", "3600", **application(HANGS))
    client = server.connect()
    client.sendall(b"x")
    assert read_exactly(client, 7) == b"entered"
    server.signal(first)
    server.log.wait_for("shutting down")
    if first == second:
        time.sleep(SAME_SIGNAL_SECONDS)  # Sooner it would be the same one.
    server.signal(second)
    assert server.wait(10) == 128 + second
    assert f"proactor: {second.name} during the shutdown: ended at once" in server.log.all()


def test_a_signal_that_comes_twice_at_once_is_one():
    # As timeout(1) sends it: to the process, and then to its group.
    stop = StopRequests()
    with stop.handling_signals():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.wait() == "SIGTERM"
        signal.raise_signal(signal.SIGTERM)
        assert not stop.requested


@pytest.mark.linux("a limit of memory (setrlimit)")
def test_the_end_of_a_process_that_gets_no_more_threads_is_orderly(serve, application):
    server = serve("app:echo", **application("def echo(connection, data): connection.send(data)"))
    client = server.connect()
    client.sendall(b"x")
    assert read_exactly(client, 1) == b"x"
    size = int(re.search(r"VmSize:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())[1]) * 1024
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (size, size))
    server.signal(signal.SIGTERM)
    assert client.recv(1) == b""
    assert server.wait() == 0
    assert server.report() == "served 1 client, sent 1 byte, dropped 0 bytes"


def test_the_console_leaves_nothing_open(serve):
    server = serve(command=[sys.executable, "-X", "dev", "-m", "proactor"])
    server.type(b"Exit\n")
    assert server.wait() == 0
    assert not [line for line in server.log.all() if "ResourceWarning" in line]


def test_a_signal_after_exit_ends_the_process_at_once(serve):
    server = serve("--drain", "3600")
    client = server.connect(receive_buffer=4096)
    server.log.wait_for(" connected$")
    for _ in range(3):  # More than the sockets' buffers hold, so that the drain waits.
        server.type(b"x" * 1_000_000 + b"\n")
    server.type(b"Exit\n")
    server.log.wait_for("shutting down")
    server.signal(signal.SIGINT)
    assert server.wait(10) == 128 + signal.SIGINT
    client.close()


def refuses_new_clients(server) -> bool:
    try:
        server.connect().close()
    except ConnectionError:
        return True
    return False
