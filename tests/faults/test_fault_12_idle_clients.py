"""Fault 12: many clients that do nothing. They cost little memory and no processor time, and the others do not notice."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from peers import TIMEOUT, Program, Recorder, dial, eventually, read_exactly
from platforms import LINUX, WINE, resident_bytes, resource

SERVER = """
import sys, time
import proactor
if sys.platform == "linux":
    import resource
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
with proactor.serve(lambda connection, data: connection.send(data), ("127.0.0.1", 0)) as server:
    print(server.address[1])
    for line in sys.stdin:
        print(time.process_time() if line == "processor time\\n" else server.statistics().connections)
"""


def check(server: Program, count: int) -> None:
    address = server.address()
    clients: list[socket.socket] = []
    with room_for(count + 1000), contextlib.ExitStack() as open_clients:
        with dial(address) as first:  # what every server needs once
            first.sendall(b"ping")
            assert read_exactly(first, 4) == b"ping"
        before = resident_bytes(server.process.pid)
        clients.extend(open_clients.enter_context(dial(address)) for _ in range(count))
        server.say("how many")
        eventually(lambda: int(server.line()) == count or server.say("how many"), "all are in")
        assert (resident_bytes(server.process.pid) - before) / count < 4096, "bytes for each, allocator's rounding included"
        started = time.monotonic()
        with dial(address) as good:
            for _ in range(100):
                good.sendall(b"ping")
                assert read_exactly(good, 4) == b"ping"
        assert time.monotonic() - started < TIMEOUT / 2
        # And none of the idle ones was forgotten.
        for number in range(0, count, max(1, count // 50)):
            clients[number].sendall(b"awake")
            assert read_exactly(clients[number], 5) == b"awake"
        cpu, started = cpu_seconds(server), time.monotonic()
        time.sleep(1.0)  # a measurement, not a wait
        assert (cpu_seconds(server) - cpu) / (time.monotonic() - started) < 0.05
    server.say("how many")
    eventually(lambda: int(server.line()) == 0 or server.say("how many"), "all are gone")


@contextlib.contextmanager
def room_for(descriptors: int) -> Iterator[None]:
    """Lets this process open so many, where there is a limit."""
    if not LINUX:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, descriptors)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def cpu_seconds(server: Program) -> float:
    server.say("processor time")
    return float(server.line())


def test_three_hundred_idle_clients(program) -> None:
    check(program(SERVER), 300)


@pytest.mark.slow
def test_ten_thousand_idle_clients(program) -> None:
    if WINE:
        check(program(SERVER), 5_000)  # its server has the sockets of both sides, and a limit of its own
        return
    if LINUX and (hard := resource.getrlimit(resource.RLIMIT_NOFILE)[1]) < 11_000:
        pytest.skip(f"needs 11,000 descriptors on either side, the hard limit is {hard}")
    check(program(SERVER), 10_000)


def test_a_client_that_only_listens_is_not_idle_while_it_is_sent_to(serve, connect) -> None:
    handler = Recorder()
    server = serve(handler, idle_timeout=1)
    client = connect(server)
    handler.wait_for_count("connected", 1)
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        server.broadcast(b"tick")
        assert client.recv(100)[:4] == b"tick"
        threading.Event().wait(0.05)
    assert handler.count("closed") == 0
    [error] = handler.wait_closed()
    assert isinstance(error, TimeoutError)
