"""The article's two programs as references: behaviour of theirs that is kept, and defects that are not. Real commands, real clients.

The numbers are those of the two lists in tests/README.md. What takes thousands of clients, or a look into the process or the accept
window, stands in the tests that are named there.
"""

import random
import re
import socket
import sys
import time

import pytest
from cli_files import SIZES, one_line, random_bytes
from cli_process import LOG_LINE, TIMEOUT, free_port, name_of, read_exactly, read_line, read_to_end, reset

from proactor.cli.exit_codes import ExitCode

# ---- behaviour to keep ----


def test_keep_1_the_reader_has_requests_outstanding_and_is_exact(run, tmp_path) -> None:
    for size in SIZES:
        data = random_bytes(size, seed=size)
        (tmp_path / "file").write_bytes(data)
        result = run("read", "file", "--block", "256", "--depth", "4", cwd=tmp_path)
        assert (result.returncode, result.stdout) == (0, data), size
    missing = run("read", "nix", cwd=tmp_path)
    assert (missing.returncode, one_line(missing)) == (1, "cannot read nix: No such file or directory; check the name")


def test_keep_2_to_6_the_server_tells_each_step_and_has_a_window_of_accepts(serve) -> None:
    server = serve("--host", "0.0.0.0", "--port", "0")
    assert server.address.startswith("0.0.0.0:")
    server.host = "127.0.0.1"
    if sys.platform == "win32":  # where the kernel needs them
        server.log.wait_for("5 accepts pending$")
    client = server.connect()
    name = re.escape(name_of(client))
    server.log.wait_for(rf"\] {name} connected$")  # before it has said anything
    for number in range(1, 4):  # a receive is always outstanding
        client.sendall(b"line %d\n" % number)
        server.log.wait_for(rf"\[worker-\d+\] {name} received 7 bytes", count=number)
    server.type(b"answer\n")
    assert read_line(client) == b"answer\n"
    server.log.wait_for(rf"\] {name} sent 7 bytes$")
    client.close()
    server.log.wait_for(rf"\] {name} disconnected: closed by the peer$")


def test_keep_7_to_10_everybody_hears_a_line_and_exit_ends_them_all(serve) -> None:
    server = serve()
    clients = server.clients(300)
    half = clients[0]
    half.shutdown(socket.SHUT_WR)
    server.log.wait_for("finished sending")
    server.type(b"to everybody\n")
    assert [read_line(client) for client in clients] == [b"to everybody\n"] * 300
    resets = clients[200:]
    names = [name_of(client) for client in resets]
    for client in resets:
        reset(client)
    server.log.wait_for("disconnected: ", count=100)
    server.type(b"Exit\n")
    assert [client.recv(1) for client in clients[:200]] == [b""] * 200
    assert server.wait() == 0
    lines = server.log.all()
    assert [sum(f" {name} disconnected: " in line for line in lines) for name in names] == [1] * 100
    assert sum(" disconnected: " in line for line in lines) == 300
    assert server.report().startswith("served 300 clients, ")


def test_keep_11_failures_at_start_have_statuses_of_their_own_and_say_which_step(serve, run) -> None:
    server = serve()
    failures = {
        ExitCode.ADDRESS_IN_USE: run("serve", "--port", str(server.port)),
        ExitCode.BAD_ADDRESS: run("serve", "--host", "192.0.2.1"),
        ExitCode.USAGE: run("serve", "--port", "http"),
        ExitCode.MISSING_MODULE: run("serve", "nowhere:handler"),
    }
    assert {code: result.returncode for code, result in failures.items()} == {code: int(code) for code in failures}
    assert len({result.stderr for result in failures.values()}) == len(failures)
    for result in failures.values():
        assert result.stderr.startswith((b"proactor", b"usage"))


# ---- defects not to have ----


def test_defect_1_half_closed_clients_are_let_go_and_do_not_hold_up_the_end(serve) -> None:
    server = serve()
    clients = server.clients(20)
    for client in clients:
        client.shutdown(socket.SHUT_WR)
    server.log.wait_for("finished sending", count=20)
    received = len(server.log.matching(" received "))
    server.type(b"still there?\n")
    assert [read_line(client) for client in clients] == [b"still there?\n"] * 20
    assert len(server.log.matching(" received ")) == received, "it receives for ever"
    server.type(b"Exit\n")
    assert server.wait() == 0
    assert len([line for line in server.log.all() if " disconnected: " in line]) == 20


@pytest.mark.timeout(180)
def test_defect_2_and_3_bursts_and_resets_leave_a_server_that_accepts(serve) -> None:
    server = serve("--quiet", "--port", str(port := free_port()), listening=False)
    server.connect_when_up().close()
    for _ in range(10):
        burst = [socket.create_connection(("127.0.0.1", port), TIMEOUT) for _ in range(50)]
        for number, client in enumerate(burst):
            reset(client) if number % 2 else client.close()
    good = [server.connect() for _ in range(10)]
    for client in good:
        server.type_until_heard(client)
    server.type(b"Exit\n")
    assert server.wait() == 0


def test_defect_4_and_5_broadcasts_during_churn_reach_who_stays(serve) -> None:
    server = serve()
    stays = server.clients(5)
    for number in range(40):
        comes = [server.connect() for _ in range(5)]
        server.type(b"%d\n" % number)
        for client in comes:
            client.close()
    for client in stays:
        with client.makefile("rb") as lines:
            assert [lines.readline() for _ in range(40)] == [b"%d\n" % number for number in range(40)]
    server.type(b"Exit\n")
    assert server.wait() == 0


def test_defect_6_lines_are_whole_and_only_exit_alone_ends(serve) -> None:
    server = serve()
    (client,) = server.clients(1)
    for line in (b"x" * 2044, b"x" * 2045, b"x" * 100_000, b"several  words", b"now Exit, please", b"Exit now"):
        server.type(line + b"\n")
        assert read_exactly(client, len(line) + 1) == line + b"\n"
    server.type(b"the last word")
    server.end_input()
    assert read_line(client) == b"the last word\n"
    server.log.wait_for("end of input")
    assert server.stop() == 0
    assert client.recv(1) == b"", "the last word was sent again"


def test_defect_7_and_8_clients_that_do_not_read_are_skipped(serve) -> None:
    server = serve()
    _slow, good = server.clients(2)
    line = b"x" * 500_000 + b"\n"
    for _ in range(200):
        server.type(line)
        assert read_exactly(good, len(line)) == line
        if server.log.matching("1 read too slowly and were skipped"):
            break
    else:
        pytest.fail("no limit on what is queued for a client")
    server.kill()


def test_defect_9_text_is_whole_and_cannot_forge_the_log(serve, tmp_path) -> None:
    (tmp_path / "app.py").write_text("def lengths(connection, data):\n    connection.send(b'%d,' % len(data))\n")
    framed = serve("app:lengths", "--framing", "lines", cwd=tmp_path)
    client = framed.connect()
    data = b"x" * 4999 + b"\n" + b"a\0b\n"
    for piece in (data[:2043], data[2043:4086], data[4086:]):
        client.sendall(piece)
    client.shutdown(socket.SHUT_WR)
    assert [int(length) for length in read_to_end(client).decode().split(",") if length] in ([5000, 4], [4999, 3])

    server = serve()
    (client,) = server.clients(1)
    client.sendall(b"1 \xe2\x82")
    server.log.wait_for(r'received 4 bytes: "1 "$')
    client.sendall(b"\xac\0\x1b[2J\n2026-01-01 00:00:00.000 [main] forged")
    server.log.wait_for("forged")
    server.type(b"Exit\n")
    assert server.wait() == 0
    lines = server.log.all()
    assert [line for line in lines if not LOG_LINE.fullmatch(line) or not line.isprintable()] == []
    assert any(r"€\x00\x1b[2J\n2026" in line for line in lines)


def test_defect_10_who_comes_and_goes_is_told_by_its_name_and_sent_means_sent(serve) -> None:
    server = serve()
    for _ in range(20):
        server.connect().close()
    server.log.wait_for(" disconnected: ", count=20)
    (client,) = server.clients(1)
    server.type(b"x" * 3_000_000 + b"\n")
    assert len(read_exactly(client, 3_000_001)) == 3_000_001
    assert server.stop() == 0
    lines = server.log.all()
    assert [line for line in lines if " disconnected: " in line and not re.search(r" 127\.0\.0\.1:[1-9]\d* disconnected: ", line)] == []
    assert sum(int(line.split(" sent ")[1].split()[0]) for line in lines if " sent " in line) == 3_000_001


def test_defect_11_idle_clients_limits_ipv6_and_an_address_of_its_own(serve, run) -> None:
    server = serve("--idle-timeout", "0.5", "--max-connections", "1", "--host", "::1", "--port", "0")
    first = server.connect()
    server.log.wait_for(" connected$")
    assert server.connect().recv(1) == b"", "more than the limit"
    assert first.recv(1) == b"", "idle"
    second = run("serve", "--host", "::1", "--port", str(server.port))
    assert second.returncode == ExitCode.ADDRESS_IN_USE


def test_defect_12_exit_sends_what_is_queued_and_has_a_deadline(serve) -> None:
    server = serve("--drain", "1")
    client, deaf = server.connect(receive_buffer=4096), server.connect(receive_buffer=4096)
    server.log.wait_for(" connected$", count=2)
    lines = [
        bytes([65 + number]) * 999_999 + b"\n" for number in range(4)
    ]  # an outbox has 4 MiB, and the kernel less for one who does not read
    server.type(b"".join(lines) + b"Exit\n")
    assert read_to_end(client) == b"".join(lines)
    began = time.monotonic()
    assert server.wait() == 0
    assert time.monotonic() - began < 10
    assert re.search(r"dropped [1-9]\d* bytes", server.report())
    deaf.close()


def test_defect_13_offsets_beyond_two_and_four_gibibytes(run, tmp_path) -> None:
    marks = {(2 << 30) + 10: random.Random(2).randbytes(100), (4 << 30) + 10: random.Random(4).randbytes(100)}
    with (tmp_path / "file").open("wb") as file:
        for offset, data in marks.items():
            file.seek(offset)
            file.write(data)
    for offset, data in marks.items():
        assert run("read", "file", "--offset", str(offset), "--length", "100", cwd=tmp_path).stdout == data
    end = (4 << 30) + 100
    assert run("read", "file", "--offset", str(end), cwd=tmp_path).stdout == marks[(4 << 30) + 10][-10:]
