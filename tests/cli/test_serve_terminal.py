"""`proactor serve` at a terminal: the prompt below the log, what is typed, and the terminal as it was afterwards."""

import os
import re
import signal
import socket
import subprocess
import time

import pytest
from cli_process import COMMAND, TIMEOUT, Lines, read_line


class AtTerminal:
    """A server whose console has drawn its prompt."""

    def __init__(self, terminal, *arguments, target=(), **options):
        self.terminal = terminal("serve", *target, "--port", "0", *arguments, **options)
        self.port = int(self.terminal.wait_for(r"listening on \S+:(\d+)")[1])
        self.sockets = []

    def connect(self):
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT)
        self.sockets.append(sock)
        return sock

    def client(self):
        """A connected socket that the console server knows."""
        sock = self.connect()
        self.terminal.wait_for(re.escape(f":{sock.getsockname()[1]} connected"))
        return sock

    def close(self):
        for sock in self.sockets:
            sock.close()


@pytest.fixture
def console(terminal):
    """`console(*arguments)` starts a server at a terminal and waits for its prompt."""
    started = []

    def start(*arguments, prompt=True, **options):
        started.append(AtTerminal(terminal, *arguments, **options))
        if prompt:
            started[-1].terminal.wait_for_prompt()
        return started[-1]

    yield start
    for one in started:
        one.close()


def assert_orderly_end(terminal):
    assert terminal.wait() == 0
    terminal.wait_for(r"^served \d+ clients?, sent \d+ bytes?, dropped 0 bytes$")
    assert terminal.settings_now() == terminal.settings


def test_the_prompt_stays_below_the_log(console):
    server = console()
    for number in range(5):
        client = server.client()
        client.sendall(b"hello %d" % number)
        server.terminal.wait_for(f'received 7 bytes: "hello {number}"')
        server.terminal.wait_for_prompt()
    lines = server.terminal.screen.text().split("\n")
    assert lines[-1].strip() == ">"
    assert [line for line in lines if line.startswith(">")] == lines[-1:]


def test_what_is_being_typed_survives_a_log_line(console):
    server = console()
    server.terminal.type("half a li")
    server.terminal.wait_for(r"^> half a li\Z")
    client = server.client()
    server.terminal.wait_for(r"connected\n> half a li\Z")
    server.terminal.type("ne\r")
    assert read_line(client) == b"half a line\n"
    server.terminal.wait_for_prompt()


def test_a_typed_line_goes_to_every_client(console):
    server = console()
    clients = [server.client() for _ in range(3)]
    server.terminal.type("grüße an  alle\r")
    assert [read_line(client) for client in clients] == ["grüße an  alle\n".encode()] * 3
    server.terminal.type("Exit now\r")
    assert [read_line(client) for client in clients] == [b"Exit now\n"] * 3
    assert server.terminal.process.poll() is None


def test_raw_sends_what_is_typed_without_a_line_break(console):
    server = console("--raw")
    client = server.client()
    server.terminal.type("one\r")
    server.terminal.wait_for('broadcast 3 bytes to 1 client: "one"')
    server.terminal.type("two\r")
    server.terminal.wait_for('broadcast 3 bytes to 1 client: "two"')
    server.terminal.type("Exit\r")
    assert client.recv(100) + client.recv(100) == b"onetwo"


def test_several_pasted_lines_are_lines(console):
    server = console()
    client = server.client()
    server.terminal.type("\x1b[200~first\nsecond\x1b[201~\r")
    assert read_line(client) == b"first\n"
    assert read_line(client) == b"second\n"


@pytest.mark.parametrize(("keys", "reason"), [("Exit\r", "Exit"), ("\x04", "end of input"), ("\x03", "SIGINT")])
def test_exit_ctrl_d_and_ctrl_c_end_the_server_and_restore_the_terminal(console, keys, reason):
    server = console()
    client = server.client()
    server.terminal.type(keys)
    assert client.recv(1) == b""
    server.terminal.wait_for(rf"shutting down \({reason}\)")
    assert_orderly_end(server.terminal)


def test_a_signal_ends_the_prompt_and_restores_the_terminal(console):
    server = console()
    server.terminal.process.send_signal(signal.SIGTERM)
    assert_orderly_end(server.terminal)


def test_a_second_ctrl_c_ends_at_once_and_restores_the_terminal(console, application):
    source = "import time\ndef hangs(connection, data):\n    connection.send(b'entered')\n    time.sleep(3600)\n"
    server = console("--drain", "3600", target=("app:hangs",), **application(source))
    client = server.connect()
    client.sendall(b"x")
    server.terminal.type("\x03")
    server.terminal.wait_for("shutting down")
    server.terminal.type("\x03")
    assert server.terminal.wait() == 128 + signal.SIGINT
    server.terminal.wait_for("SIGINT during the shutdown: ended at once")
    assert server.terminal.settings_now() == server.terminal.settings


def test_clients_stats_and_help_are_commands(console):
    server = console()
    client = server.client()
    client.sendall(b"12345")
    server.terminal.wait_for("received 5 bytes")
    server.terminal.type("clients\r")
    server.terminal.wait_for(rf"^127\.0\.0\.1:{client.getsockname()[1]}  .*received_bytes=5\b")
    server.terminal.wait_for(r"^1 client$")
    server.terminal.type("stats\r")
    server.terminal.wait_for(r"^server  .*accepted=1\b")
    server.terminal.wait_for(r"^pool    .*engine=")
    server.terminal.type("help\r")
    for command in ("clients", "stats", "help", "Exit"):
        server.terminal.wait_for(rf"^{command} +\w")
    server.terminal.type("\\help\r")
    assert read_line(client) == b"help\n"
    server.terminal.wait_for_prompt()


def test_a_half_closed_client_is_listed_as_one(console):
    server = console()
    client = server.client()
    client.shutdown(socket.SHUT_WR)
    server.terminal.wait_for("finished sending;")
    server.terminal.type("clients\r")
    server.terminal.wait_for(r"^127\.0\.0\.1:\d+ \(finished sending\)  ")


def test_with_a_handler_of_ones_own_only_commands_are_taken(console, application):
    source = "def echo(connection, data):\n    connection.send(data)\n"
    server = console(target=("app:echo",), **application(source))
    client = server.connect()
    server.terminal.type("not for the protocol\r")
    server.terminal.wait_for("^not for the protocol is not a command; `help` lists them")
    client.sendall(b"x")
    assert client.recv(100) == b"x"
    server.terminal.type("Exit\r")
    assert_orderly_end(server.terminal)


def test_a_client_cannot_send_codes_to_the_terminal(console):
    server = console()
    client = server.client()
    client.sendall(b"\x1b]0;owned\x07\x1b[31mred\x9b")
    server.terminal.wait_for(r'"\\x1b\]0;owned\\x07\\x1b\[31mred\\x9b"')
    assert b"\x1b]0;owned" not in server.terminal.raw
    assert b"\x1b[31mred" not in server.terminal.raw


def test_a_burst_of_log_lines_all_appear_above_the_prompt(console):
    server = console()
    clients = [server.connect() for _ in range(300)]
    server.terminal.wait_for(" connected$", count=300)
    server.terminal.type("to all\r")
    assert [read_line(client) for client in clients] == [b"to all\n"] * 300
    server.terminal.wait_for("sent 7 bytes$", count=300)
    server.terminal.wait_for_prompt()
    server.terminal.type("Exit\r")
    assert_orderly_end(server.terminal)
    assert len(re.findall(r"disconnected: closed by the server's shutdown$", server.terminal.screen.text(), re.MULTILINE)) == 300


def test_a_terminal_that_cannot_be_drawn_on_is_read_line_by_line(console):
    server = console(prompt=False, env={"TERM": "dumb"})
    client = server.client()
    server.terminal.type("plain\n")
    assert read_line(client) == b"plain\n"
    server.terminal.type("clients\n")
    server.terminal.wait_for("^1 client$")
    server.terminal.type("\x04")
    server.terminal.wait_for("shutting down \\(end of input\\)")
    assert_orderly_end(server.terminal)


def test_a_log_that_is_redirected_stays_out_of_the_terminal(terminal):
    one = terminal("serve", "--port", "0", stderr=subprocess.PIPE)
    log = Lines(one.process.stderr)
    log.wait_for("listening on")
    one.wait_for_prompt()
    one.type("Exit\r")
    assert one.wait() == 0
    one.wait_for("^served 0 clients")
    assert "listening" not in one.screen.text()
    assert re.search(r"shutting down", "\n".join(log.all()))


def test_a_server_in_the_background_leaves_the_terminal_alone(terminal):
    # The shell with job control puts the server into a process group of its own, which is not the terminal's.
    script = 'set -m; "$@" & server=$!; read line; kill $server; wait $server; echo "status $?"'
    one = terminal(command=["sh", "-c", script, "sh", *COMMAND, "serve", "--port", "0"])
    one.wait_for("in the background of a terminal: nothing is read from it")
    one.type("for the shell\n")
    one.wait_for("^served 0 clients")
    one.wait_for("^status 0$")


def test_an_idle_prompt_uses_no_processor(console):
    server = console()

    def used():
        with open(f"/proc/{server.terminal.process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = used()
    time.sleep(1.0)
    assert used() - before < 0.1


def test_a_terminal_that_goes_away_ends_the_server(console):
    server = console()
    client = server.client()
    os.kill(server.terminal.process.pid, signal.SIGHUP)
    assert client.recv(1) == b""
    assert server.terminal.wait() == 0
