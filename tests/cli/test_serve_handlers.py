"""`proactor serve module:handler`: what can be served, and what the options do for it."""

import os
import re
import signal
import subprocess
import sys

import pytest
from cli_process import COMMAND, LOG_LINE, Process, free_port, read_exactly, read_line, read_to_end

APPLICATION = """
import threading
import proactor

def echo(connection, data):
    connection.send(data)

def worker(connection, data):
    connection.send(threading.current_thread().name.encode() + b"\\n")

def lengths(connection, data):
    connection.send(f"{len(data)},".encode())

def fails(connection, data):
    raise ValueError("cannot read " + data.decode())

class Greeter(proactor.Handler):
    def __init__(self, greeting="hello"):
        self.greeting = greeting
    def connected(self, connection):
        connection.send(self.greeting.encode())
    def received(self, connection, data):
        connection.send(data.upper())

class Shop:
    greeter = Greeter("welcome")
"""


@pytest.mark.parametrize(
    ("target", "greeting", "answer"),
    [("app:echo", b"", b"abc"), ("app:Greeter", b"hello", b"ABC"), ("app:Shop.greeter", b"welcome", b"ABC")],
)
def test_it_serves_a_function_a_handler_class_or_an_instance(serve, application, target, greeting, answer):
    server = serve(target, **application(APPLICATION))
    client = server.connect()
    assert read_exactly(client, len(greeting)) == greeting
    client.sendall(b"abc")
    assert read_exactly(client, 3) == answer
    assert server.stop() == 0
    assert server.report().startswith("served 1 client, ")


def test_the_installed_command_finds_modules_in_the_current_directory(serve, application):
    command = os.path.join(os.path.dirname(sys.executable), "proactor")
    if not os.path.exists(command):
        pytest.skip("the command is not installed beside this interpreter")
    server = serve("app:echo", command=[command], **application(APPLICATION))
    client = server.connect()
    client.sendall(b"abc")
    assert read_exactly(client, 3) == b"abc"
    assert server.stop() == 0


def test_a_module_in_a_package_is_found(serve, tmp_path):
    (tmp_path / "shop" / "net").mkdir(parents=True)
    (tmp_path / "shop" / "net" / "app.py").write_text(APPLICATION)
    server = serve("shop.net.app:echo", cwd=tmp_path)
    client = server.connect()
    client.sendall(b"abc")
    assert read_exactly(client, 3) == b"abc"


def test_a_client_that_finished_sending_is_answered_and_closed(serve, application):
    server = serve("app:echo", **application(APPLICATION))
    client = server.connect()
    client.sendall(b"abc")
    client.shutdown(1)
    assert read_to_end(client) == b"abc"


def test_piped_input_is_not_sent_to_a_protocol_of_the_users(serve, application):
    server = serve("app:echo", **application(APPLICATION))
    client = server.connect()
    client.sendall(b"1")
    assert read_exactly(client, 1) == b"1"
    server.type(b"injected\n")
    server.end_input()
    client.sendall(b"2")
    client.shutdown(1)
    assert read_to_end(client) == b"2"


def test_a_handler_that_raises_is_logged_and_the_server_goes_on(serve, application):
    server = serve("app:fails", **application(APPLICATION))
    forged = b"x\n2026-01-01 00:00:00.000 [main] all is well\x1b[2J"
    for _ in range(2):
        client = server.connect()
        client.sendall(forged)
        assert client.recv(1) == b""
    server.log.wait_for(r"  \| ValueError: cannot read x$", count=2)
    assert server.stop() == 0
    lines = server.log.all()
    assert [line for line in lines if not LOG_LINE.fullmatch(line)] == []
    assert sum("[main] all is well" in line and line.startswith("  | ") for line in lines) == 2
    assert [line for line in lines if not line.isprintable()] == []


def test_framing_gives_the_handler_whole_lines(serve, application):
    server = serve("app:lengths", "--framing", "lines", **application(APPLICATION))
    client = server.connect()
    client.sendall(b"four\nsi")
    assert read_exactly(client, 2) in (b"4,", b"5,")
    client.sendall(b"xxxx\n")
    assert read_exactly(client, 2) in (b"6,", b"7,")


def test_options_may_come_from_the_environment_and_the_command_line_wins(serve, application):
    port = free_port()
    environment = os.environ | {
        "PROACTOR_PORT": str(port),
        "PROACTOR_MAX_CONNECTIONS": "1",
        "PROACTOR_LOG_LEVEL": "debug",
        "PROACTOR_DRAIN": "7",
        "PROACTOR_QUIET": "0",
        "PROACTOR_BUSY_POLL": "",
    }
    server = serve("app:echo", "--host", "127.0.0.1", "--drain", "8", env=environment, **application(APPLICATION))
    assert server.port == port
    first = server.connect()
    first.sendall(b"x")
    assert read_exactly(first, 1) == b"x"
    assert server.connect().recv(1) == b""
    assert server.stop() == 0
    assert any("for at most 8 seconds" in line for line in server.log.all())


def test_the_pool_options_are_taken(serve, application):
    server = serve(
        "app:worker", "--concurrency", "1", "--max-workers", "3", "--busy-poll", "50e-6", "--backlog", "5", **application(APPLICATION)
    )
    client = server.connect()
    client.sendall(b"x")
    assert re.fullmatch(rb"worker-\d+\n", read_line(client))
    assert server.stop() == 0


def test_what_the_module_prints_and_logs_appears(serve, application):
    source = 'import logging\nprint("printed")\ndef handler(connection, data):\n    logging.getLogger("app").warning("logged %s", data)\n'
    server = serve("app:handler", **application(source))
    client = server.connect()
    client.sendall(b"x")
    server.log.wait_for(r"\[worker-\d+\] WARNING logged b'x'$")
    assert server.stop() == 0
    assert server.output.all()[0] == "printed"


def test_ctrl_c_while_the_module_is_imported_ends_with_130(application, tmp_path):
    source = 'import pathlib, time\npathlib.Path("importing").touch()\ntime.sleep(3600)\n'
    process = Process([*COMMAND, "serve", "app:x"], stderr=subprocess.PIPE, **application(source))
    try:
        while not (tmp_path / "importing").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (130, b"")
    finally:
        process.kill()
        process.wait()
