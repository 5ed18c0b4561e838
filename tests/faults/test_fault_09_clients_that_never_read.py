"""Fault 9: clients that never read. Each costs a bounded amount of memory and no worker; the others are served at full speed."""

import random
import socket
import threading
import time

from peers import TIMEOUT, dial, echo, eventually, exchange, ignore
from platforms import resident_bytes


def stuff(client: socket.socket) -> int:
    """Sends until nothing is taken any more."""
    client.settimeout(0.5)
    total = 0
    try:
        while True:
            total += client.send(b"x" * 65536)
    except TimeoutError:
        return total


def test_fifty_echo_clients_that_never_read_cost_a_bounded_amount(serve, connect) -> None:
    """The article's server had no send limit: two such clients grew it without bound."""
    server = serve(echo, send_limit=100_000, receive_limit=100_000)
    before = resident_bytes()
    greedy = [connect(server, receive_buffer=4096, send_buffer=65536) for _ in range(50)]
    threads = [threading.Thread(target=stuff, args=(client,)) for client in greedy]
    for thread in threads:
        thread.start()
    good = connect(server)
    data = random.Random(1).randbytes(200_000)
    for _ in range(5):
        assert exchange(good, data) == data
    for thread in threads:
        thread.join(TIMEOUT)
    numbers = server.statistics()
    assert numbers.queued_bytes <= 50 * (100_000 + 100_000 + 64 * 1024 + 100)
    assert resident_bytes() - before < 50 * 1_000_000
    # They are all stalled now, and the good one does not notice.
    started = time.monotonic()
    for _ in range(50):
        assert exchange(good, b"quick") == b"quick"
    assert time.monotonic() - started < 5
    for connection in server.connections:
        connection.abort()


def test_a_thousand_broadcasts_to_clients_that_never_read_cost_the_limit_and_no_more(serve, connect) -> None:
    server = serve(ignore, send_limit=100_000)
    [connect(server, receive_buffer=4096) for _ in range(20)]
    eventually(lambda: len(server.connections) == 20, "all are connected")
    message = bytes(10_000)
    skipped = sum(server.broadcast(message).skipped for _ in range(1000))
    assert skipped > 0
    assert server.statistics().queued_bytes <= 20 * 100_000
    for connection in server.connections:
        connection.abort()


def test_idle_timeout_cuts_a_client_that_takes_nothing(serve) -> None:
    server = serve(echo, idle_timeout=0.5, send_timeout=0.5)
    with dial(server.address, receive_buffer=4096) as client:
        stuff(client)
        eventually(lambda: server.connections == (), "it is cut")
