"""`proactor connect` in pipes and at a terminal, against plain sockets: what passes, when it ends, with which status."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
from cli_process import COMMAND, TIMEOUT, Process, cpu_seconds, read_exactly, read_line, read_to_end, reset

from platforms import UNIX, of_unix_sockets, resident_bytes
from proactor.cli.exit_codes import ExitCode


class Peer:
    """A listening socket and the one client it accepts."""

    def __init__(self, family=socket.AF_INET, address=("127.0.0.1", 0)):
        self.listener = socket.socket(family)
        self.listener.settimeout(TIMEOUT)
        self.listener.bind(address)
        self.listener.listen()
        self.sockets = [self.listener]
        if family == UNIX:
            self.address = f"unix:{address}"
        else:
            host, port = self.listener.getsockname()[:2]
            self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def accept(self):
        sock, _ = self.listener.accept()
        sock.settimeout(TIMEOUT)
        self.sockets.append(sock)
        return sock

    def echo(self):
        """Answers one client on a thread: everything it sends, until it has finished."""

        def serve():
            sock = self.accept()
            while data := sock.recv(1 << 16):
                sock.sendall(data)
            sock.close()

        threading.Thread(target=serve, daemon=True).start()
        return self.address

    def close(self):
        for sock in self.sockets:
            sock.close()


@pytest.fixture
def peer():
    one = Peer()
    yield one
    one.close()


@pytest.fixture
def start():
    """`start(address)` runs `proactor connect` with its streams in pipes."""
    started = []

    def start_command(address, **options):
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        process = Process([*COMMAND, "connect", address], bufsize=0, **streams)
        started.append(process)
        return process

    yield start_command
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.mark.linux("a Unix shell")
def test_it_works_in_a_shell_pipe(peer):
    script = f"printf 'a\\nb\\n' | {sys.executable} -m proactor connect {peer.echo()} | tr a-z A-Z; echo ${{PIPESTATUS[*]}}"
    result = subprocess.run(["bash", "-c", script], capture_output=True, timeout=TIMEOUT, check=False)
    assert (result.stdout, result.stderr) == (b"A\nB\n0 0 0\n", b"")


def test_bytes_pass_unchanged_both_ways(peer, run):
    data = random.Random(1).randbytes(5_000_000)
    result = run("connect", peer.echo(), input=data)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == data


def test_the_end_of_input_is_passed_on_and_answers_still_arrive(peer, start):
    process = start(peer.address)
    client = peer.accept()
    process.stdin.write(b"question")
    process.stdin.close()
    assert read_to_end(client) == b"question"
    assert process.poll() is None
    client.sendall(b"late answer")
    client.close()
    assert process.stdout.read() == b"late answer"
    assert process.wait(TIMEOUT) == 0


def test_what_comes_is_printed_at_once(peer, start):
    process = start(peer.address)
    client = peer.accept()
    client.sendall(b"no line break")
    assert os.read(process.stdout.fileno(), 100) == b"no line break"
    process.stdin.write(b"answer\n")
    assert read_line(client) == b"answer\n"


def test_it_ends_when_the_server_ends_though_input_is_open(peer, start):
    process = start(peer.address)
    client = peer.accept()
    client.sendall(b"bye\n")
    client.close()
    assert process.wait(TIMEOUT) == 0
    assert process.stdout.read() == b"bye\n"


def test_input_at_hand_is_sent_though_the_server_has_finished_sending(peer, start):
    process = start(peer.address)
    client = peer.accept()
    client.sendall(b"no more from me")
    client.shutdown(socket.SHUT_WR)
    assert read_exactly_from(process.stdout, 15) == b"no more from me"
    data = b"x" * 3_000_000
    threading.Thread(target=lambda: (process.stdin.write(data), process.stdin.close()), daemon=True).start()
    assert read_to_end(client) == data
    assert process.wait(TIMEOUT) == 0


def test_a_server_that_is_not_there_gives_one_line_and_status_1(peer, run):
    address = peer.address
    peer.close()
    result = run("connect", address)
    assert result.returncode == ExitCode.FAILED
    assert result.stderr.decode() == f"proactor: cannot connect to {address}: Connection refused; is a server running there?\n"


def test_a_host_that_does_not_exist_gives_status_1(run):
    result = run("connect", "no.such.host.invalid:80")
    assert result.returncode == ExitCode.FAILED
    assert re.fullmatch(rb"proactor: .*no\.such\.host\.invalid:80.*\n", result.stderr)


def test_a_reset_gives_one_line_and_status_1(peer, start):
    process = start(peer.address)
    client = peer.accept()
    client.sendall(b"x")
    assert read_exactly_from(process.stdout, 1) == b"x"
    reset(client)
    assert process.wait(TIMEOUT) == ExitCode.FAILED
    assert re.fullmatch(rb"proactor: the connection to \S+ broke: Connection reset by peer.*\n", process.stderr.read())


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:70000", ""])
def test_a_wrong_address_is_a_usage_error(run, address):
    result = run("connect", address)
    assert result.returncode == ExitCode.USAGE
    assert len(result.stderr.splitlines()) == 1


def test_no_address_is_a_usage_error(run):
    assert run("connect").returncode == ExitCode.USAGE


def test_ctrl_c_gives_130_and_says_nothing(peer, start):
    process = start(peer.address)
    client = peer.accept()
    client.sendall(b"x")
    assert read_exactly_from(process.stdout, 1) == b"x"
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT) == 130
    assert process.stderr.read() == b""


def test_a_reader_that_has_had_enough_ends_it_quietly(peer, start):
    process = start(peer.address)
    client = peer.accept()
    client.sendall(b"first\n")
    assert read_exactly_from(process.stdout, 6) == b"first\n"
    process.stdout.close()
    with pytest.raises(OSError):  # noqa: PT012
        while True:
            client.sendall(b"more\n" * 1000)
    assert process.wait(TIMEOUT) == 0
    assert process.stderr.read() == b""


def test_a_reader_that_is_slow_slows_the_server_down(peer, start):
    process = start(peer.address)
    client = peer.accept()
    before, data = resident_bytes(process.pid), b"x" * 20_000_000
    sender = threading.Thread(target=client.sendall, args=(data,), daemon=True)
    sender.start()
    assert read_exactly_from(process.stdout, 10) == b"x" * 10
    assert resident_bytes(process.pid) < before + 15_000_000
    assert len(read_exactly_from(process.stdout, len(data) - 10)) == len(data) - 10
    sender.join(TIMEOUT)


def test_with_standard_input_closed_it_only_listens(peer, start):
    process = start(peer.address, stdin=subprocess.DEVNULL)
    client = peer.accept()
    assert client.recv(1) == b""
    client.sendall(b"news")
    client.close()
    assert process.stdout.read() == b"news"
    assert process.wait(TIMEOUT) == 0


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET6, ("::1", 0)), of_unix_sockets(UNIX, "socket")])
def test_ipv6_and_unix_sockets(run, tmp_path, monkeypatch, family, address):
    monkeypatch.chdir(tmp_path)
    peer = Peer(family, address)
    result = run("connect", peer.echo(), input=b"hello")
    assert (result.returncode, result.stdout) == (0, b"hello")
    peer.close()


def test_it_talks_to_the_console_server(serve, start):
    server = serve()
    process = start(f"127.0.0.1:{server.port}")
    process.stdin.write(b"from a client\n")
    server.log.wait_for('received 14 bytes: "from a client')
    server.type(b"from the console\n")
    assert read_exactly_from(process.stdout, 17) == b"from the console\n"
    process.stdin.close()
    server.log.wait_for("finished sending")
    server.type(b"still there\nExit\n")
    assert process.stdout.read() == b"still there\n"
    assert (process.wait(TIMEOUT), server.wait()) == (0, 0)


def test_waiting_uses_no_processor(peer, start):
    process = start(peer.address, stdin=subprocess.DEVNULL)
    client = peer.accept()
    assert client.recv(1) == b""
    before = cpu_seconds(process)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.0)
    assert cpu_seconds(process) - before < 0.05


def test_at_a_terminal_typed_lines_are_sent_and_control_characters_shown(peer, terminal):
    one = terminal("connect", peer.address)
    client = peer.accept()
    one.type("typed\n")
    assert read_exactly(client, 6) == b"typed\n"
    client.sendall("grün\x1b[31m\r\nnext\ttab \x07\xe2\x82".encode("latin-1").replace(b"\xfc", "ü".encode()))
    client.sendall(b"\xac \xff\n")
    one.wait_for(r"^grün\\x1b\[31m\nnext.*tab \\x07€ \\xff$")
    assert b"\x1b[31m" not in one.raw
    one.type("\x04")
    assert read_to_end(client) == b""
    client.sendall(b"after the end\n")
    one.wait_for("^after the end$")
    client.close()
    assert one.wait() == 0


def test_at_a_terminal_it_ends_with_the_server(peer, terminal):
    one = terminal("connect", peer.address)
    peer.accept().close()
    assert one.wait() == 0


def read_exactly_from(stream, count):
    data = bytearray()
    while len(data) < count:
        chunk = os.read(stream.fileno(), min(count - len(data), 1 << 16))
        if not chunk:
            break
        data += chunk
    return bytes(data)


def test_a_port_alone_is_told_how_to_write_it(start):
    process = start("60001", stdin=subprocess.DEVNULL)
    assert process.wait(TIMEOUT) == 2
    expected = b"proactor: '60001' is no address: write HOST:PORT, [IPV6]:PORT, unix:/path or pipe:name; did you mean 127.0.0.1:60001?\n"
    assert process.stderr.read().replace(b"\r\n", b"\n") == expected
