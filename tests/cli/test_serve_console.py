"""The console server: what it logs and what it sends. Its shutdown is in test_serve_shutdown.py."""

import re
import socket
import subprocess

import pytest
from cli_process import COMMAND, LOG_LINE, free_port, name_of, read_exactly, read_line, reset

from peers import eventually
from platforms import LINUX, resource
from proactor.cli.console_server import UNKNOWN_SECONDS

MEGABYTE = 1_000_000


def test_port_zero_takes_a_free_port_and_says_which(serve):
    server = serve()
    assert re.search(r"\[main\] listening on 127\.0\.0\.1:[1-9]\d*$", server.log.matching("listening")[0])
    server.connect().close()


def test_it_listens_on_ipv6(serve):
    server = serve("--host", "::1", "--port", "0")
    assert server.address.startswith("[::1]:")
    client = server.connect()
    assert server.log.wait_for(re.escape(f"[::1]:{client.getsockname()[1]} connected"))


@pytest.mark.linux("Unix sockets")
def test_it_listens_on_a_unix_socket(serve, tmp_path):
    server = serve("--host", f"unix:{tmp_path}/socket")
    client = server.connect()
    server.log.wait_for(r"unix:#\d+ connected")
    server.type(b"hello\n")
    assert read_line(client) == b"hello\n"


def test_every_line_of_a_client_names_its_address_and_the_worker(serve):
    server = serve()
    (client,) = server.clients(1)
    name = name_of(client)
    peer = re.escape(name)
    client.sendall(b"hello")
    server.log.wait_for(rf'\[worker-\d+\] {peer} received 5 bytes: "hello"$')
    server.type(b"hi\n")
    assert read_line(client) == b"hi\n"
    server.log.wait_for(rf"\[\S+\] {peer} sent 3 bytes$")
    client.close()
    server.log.wait_for(rf"\[\S+\] {peer} disconnected: closed by the peer$")
    server.stop()
    lines = [line for line in server.log.all() if name in line]
    # Where the kernel does not tell that the client has closed altogether, it has finished sending first.
    end = ["disconnected"] if LINUX else ["finished", "disconnected"]
    assert [re.sub(r"^.*\] \S+ (\w+).*$", r"\1", line) for line in lines] == ["connected", "received", "sent", *end]


def test_sent_counts_the_bytes_really_written(serve):
    server = serve()
    client = server.connect(receive_buffer=4096)
    server.log.wait_for(" connected$")
    server.type(b"x" * (3 * MEGABYTE) + b"\n")
    assert len(read_exactly(client, 3 * MEGABYTE + 1)) == 3 * MEGABYTE + 1
    server.stop()
    written = [int(line.split(" sent ")[1].split()[0]) for line in server.log.all() if " sent " in line]
    assert sum(written) == 3 * MEGABYTE + 1
    assert f"sent {3 * MEGABYTE + 1} bytes, dropped 0 bytes" in server.report()


def test_a_reset_gives_exactly_one_disconnect_line_a_hundred_times_out_of_a_hundred(serve):
    server = serve()
    names = []
    for _ in range(100):
        client = server.connect()
        names.append(name_of(client))
        client.sendall(b"x")
        server.log.wait_for(re.escape(names[-1]) + " received")
        reset(client)
    server.log.wait_for("disconnected: reset by the peer$", count=100)
    assert server.stop() == 0
    lines = server.log.all()
    for name in names:
        assert sum(f" {name} disconnected: " in line for line in lines) == 1


def test_a_client_cannot_forge_lines_or_send_terminal_codes(serve):
    server = serve()
    (client,) = server.clients(1)
    forged = "2026-01-01 00:00:00.000 [worker-0] 1.2.3.4:5 connected"
    breaks = ("\n", "\r", "\u2028", "\u2029", "\x85", "\x0b\x0c\x1c")
    pieces = [f"{mark}{forged}".encode() for mark in breaks]
    pieces += [b"\x1b[2J\x1b]0;owned\x07\xc2\x9b31m\x00", '\u202etxt\u2066\ufeff"\\'.encode(), b"\xff\xfe end"]
    for number, piece in enumerate(pieces, 1):
        client.sendall(piece)
        server.log.wait_for(" received ", count=number)
    server.stop()
    lines = server.log.all()
    assert [line for line in lines if not LOG_LINE.fullmatch(line)] == []
    assert [line for line in lines if not line.isprintable()] == []
    assert sum(" connected" in line and "received" not in line for line in lines) == 1
    shown = [line.split(" bytes: ")[1] for line in lines if " received " in line]
    escapes = (r"\n", r"\r", r"\u2028", r"\u2029", r"\u0085", r"\x0b\x0c\x1c")
    assert shown == [
        *(f'"{escape}{forged}"' for escape in escapes),
        r'"\x1b[2J\x1b]0;owned\x07\u009b31m\x00"',
        r'"\u202etxt\u2066\ufeff\"\\"',
        r'"\xff\xfe end"',
    ]


def test_a_character_split_across_chunks_is_shown_whole(serve):
    server = serve()
    (client,) = server.clients(1)
    client.sendall(b"1 \xe2\x82")
    server.log.wait_for(r'received 4 bytes: "1 "$')
    client.sendall(b"\xac 2")
    server.log.wait_for(r'received 3 bytes: "€ 2"$')


def test_what_never_becomes_a_character_is_shown_at_the_end(serve):
    server = serve()
    (client,) = server.clients(1)
    client.sendall(b"1 \xe2\x82")
    client.close()
    server.log.wait_for(r'ended in the middle of a character: "\\xe2\\x82"$')


def test_a_long_chunk_is_shown_shortened_with_its_byte_count(serve):
    server = serve()
    (client,) = server.clients(1)
    client.sendall(b"x" * 3000)
    line = server.log.wait_for("received")[0]
    count = int(re.search(r"received (\d+) bytes", line)[1])
    assert count > 256
    assert len(line) < 500
    assert line.endswith(f'"{"x" * 256}"... (the first 256 of {count} bytes)')


def test_a_line_goes_to_three_hundred_of_three_hundred_clients(serve):
    server = serve()
    clients = server.clients(300)
    server.type(b"to all of you\n")
    assert [read_line(client) for client in clients] == [b"to all of you\n"] * 300
    server.log.wait_for("sent 14 bytes$", count=300)
    server.log.wait_for('broadcast 14 bytes to 300 clients: "to all of you')


def test_the_words_of_a_line_are_not_glued_together(serve):
    server = serve()
    (client,) = server.clients(1)
    server.type(b"  four  words\tof one line \n")
    assert read_line(client) == b"  four  words\tof one line \n"


def test_a_line_of_a_megabyte_arrives_whole(serve):
    server = serve()
    clients = server.clients(3)
    line = bytes(range(32, 127)) * (MEGABYTE // 95) + b"\n"
    server.type(line)
    assert [read_exactly(client, len(line)) for client in clients] == [line] * 3


def test_a_line_longer_than_the_limit_arrives_whole_too(serve):
    server = serve()
    (client,) = server.clients(1)
    line = b"0123456789" * (5 * MEGABYTE // 20) + b"Exit\n"
    server.type(line)
    assert read_exactly(client, len(line)) == line


@pytest.mark.parametrize("line", [b"Exit now", b"exit", b" Exit", b"Exit ", b"Exit\r", b"clients", b"help", b"\\Exit", b""])
def test_a_piped_line_that_is_not_exactly_exit_is_sent(serve, line):
    server = serve()
    (client,) = server.clients(1)
    server.type(line + b"\n")
    assert read_line(client) == line + b"\n"
    assert server.process.poll() is None


def test_raw_sends_lines_without_their_line_break(serve):
    server = serve("--raw")
    (client,) = server.clients(1)
    server.type(b"one\ntwo\n\nthree\n")
    assert read_exactly(client, 11) == b"onetwothree"
    server.stop()
    assert client.recv(10) == b""


def test_the_last_line_is_sent_once_even_without_a_line_break(serve):
    server = serve()
    (client,) = server.clients(1)
    server.type(b"the last word")
    server.end_input()
    assert read_line(client) == b"the last word\n"
    server.log.wait_for("end of input")
    server.stop()
    assert client.recv(100) == b""


def test_end_of_piped_input_neither_stops_the_server_nor_spins(serve):
    server = serve()
    (client,) = server.clients(1)
    server.end_input()
    server.log.wait_for("end of input; serving until a signal comes")
    assert server.cpu_share() < 0.05
    client.sendall(b"still there?")
    server.log.wait_for("still there")
    assert server.stop() == 0


def test_a_server_without_clients_or_input_uses_no_processor(serve):
    server = serve(stdin=subprocess.DEVNULL)
    server.log.wait_for("end of input")
    assert server.cpu_share() < 0.05


@pytest.mark.linux("a Unix shell")
def test_with_standard_input_closed_it_serves_until_a_signal(serve):
    server = serve(command=["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND])
    clients = server.clients(3)
    for client in clients:
        client.sendall(b"hello")
    server.log.wait_for('received 5 bytes: "hello"', count=3)
    assert not server.log.matching("broadcast")
    assert server.cpu_share() < 0.05
    assert server.stop() == 0


def test_a_half_closed_client_still_receives(serve):
    server = serve()
    half, whole = server.clients(2)
    half.sendall(b"that was all")
    half.shutdown(socket.SHUT_WR)
    for_how_long = "" if LINUX else f" for {UNKNOWN_SECONDS:g} seconds"
    server.log.wait_for(f"{re.escape(name_of(half))} finished sending; it still receives what is typed{for_how_long}$")
    for line in (b"first\n", b"second\n"):
        server.type(line)
        assert read_line(half) == read_line(whole) == line
    assert not server.log.matching("disconnected")


def test_half_closed_clients_cost_no_processor_and_do_not_hold_up_the_end(serve):
    server = serve()
    clients = server.clients(50)
    for client in clients:
        client.shutdown(socket.SHUT_WR)
    server.log.wait_for("finished sending", count=50)
    assert server.cpu_share() < 0.1
    server.type(b"Exit\n")
    assert server.wait() == 0
    assert len([line for line in server.log.all() if "disconnected: closed by the server's shutdown" in line]) == 50


def test_a_half_closed_client_that_goes_is_noticed_without_a_broadcast(serve):
    server = serve()
    (client,) = server.clients(1)
    client.shutdown(socket.SHUT_WR)
    server.log.wait_for("finished sending")
    client.close()
    server.log.wait_for("disconnected: closed by the peer$")


@pytest.mark.linux("a limit of descriptors (setrlimit)")
def test_out_of_descriptors_it_lets_go_of_clients_that_left_and_serves_the_next_ones(serve):
    server = serve()
    used = server.descriptors()
    hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + 10, hard))
    clients = [server.connect() for _ in range(14)]
    server.log.wait_for("accept failed")
    for client in clients:
        client.close()
    server.log.wait_for(" disconnected: closed by the peer$", count=len(clients))
    (late,) = server.clients(1)
    server.type(b"hello\n")
    assert read_line(late) == b"hello\n"


def test_a_thousand_clients_that_come_and_go_leave_nothing_behind(serve):
    server = serve(stdin=subprocess.DEVNULL)
    server.connect().close()
    server.log.wait_for("disconnected")
    before = server.descriptors()
    for _ in range(10):
        for client in [server.connect() for _ in range(100)]:
            client.close()
    server.log.wait_for("disconnected", count=1001)
    eventually(lambda: server.descriptors() <= before + 2, "their descriptors are closed, which comes after the line")
    server.stop()
    assert server.report().startswith("served 1001 clients, ")


def test_clients_that_do_not_read_are_skipped_and_the_others_served(serve):
    server = serve()
    slow, good = server.clients(2)
    line = b"x" * 500_000 + b"\n"
    sent = 0
    while not server.log.matching("1 read too slowly and were skipped"):
        server.type(line)
        sent += 1
        assert read_exactly(good, len(line)) == line
        assert sent < 200, "no limit on what is queued for a client"
    server.signal(15)
    read_exactly(slow, sent * len(line))
    assert server.wait() == 0
    assert re.search(r"skipped \d+ broadcasts? to slow clients$", server.report())


def test_an_idle_client_is_disconnected_and_the_line_says_why(serve):
    server = serve("--idle-timeout", "0.3")
    (client,) = server.clients(1)
    server.log.wait_for("disconnected: .*(idle|timed out)")
    assert client.recv(1) == b""


def test_clients_beyond_max_connections_are_closed(serve):
    server = serve("--max-connections", "2")
    first, second = server.clients(2)
    third = server.connect()
    assert third.recv(1) == b""
    first.sendall(b"x")
    server.log.wait_for(re.escape(name_of(first)) + " received")
    second.close()
    server.log.wait_for("disconnected")
    server.clients(1)


def test_quiet_leaves_only_the_report(serve):
    server = serve("--quiet", "--port", str(free_port()), listening=False)
    client = server.connect_when_up()
    client.sendall(b"hello")
    server.type_until_heard(client)
    assert server.stop() == 0
    assert server.log.all() == []
    assert server.report().startswith("served ")


def test_a_log_that_nobody_reads_does_not_stop_the_server(serve):
    server = serve("--port", str(free_port()), listening=False, read_log=False)
    client = server.connect_when_up()
    server.type_until_heard(client)
    with client.makefile("rb") as lines:
        for number in range(3000):  # Half a megabyte of log, for a pipe of 64 KiB.
            server.type(b"x" * 100 + b" %d\n" % number)
            while (line := lines.readline()) == b"anybody?\n":
                pass
            assert line == b"x" * 100 + b" %d\n" % number
    assert server.stop() == 0


def test_the_port_is_free_again_at_once(serve):
    server = serve()
    clients = server.clients(5)
    server.type(b"Exit\n")
    assert server.wait() == 0
    again = serve("--port", str(server.port))
    assert again.port == server.port
    for client in clients:
        client.close()
