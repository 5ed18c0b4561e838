"""Fault 13: clients that connect and leave, in order or with a reset, by the thousand. Afterwards good clients are served as before."""

import threading

import pytest

from peers import TIMEOUT, Recorder, RecordingEcho, dial, echo, eventually, read_exactly, reset
from platforms import WINE, descriptor_count


def storm(address, count: int, leave) -> None:
    def run(share: int) -> None:
        for _ in range(share):
            leave(dial(address))

    threads = [threading.Thread(target=run, args=(count // 4,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("leave", [reset, lambda client: client.close()], ids=["reset", "close"])
def test_three_thousand_that_connect_and_leave(serve, connect, leave) -> None:
    """The article's server lost count of its pending accepts and never served anybody again, in six runs of six."""
    handler = RecordingEcho()
    server = serve(handler)
    descriptors = descriptor_count()
    storm(server.address, 3000, leave)
    for number in range(50):
        client = connect(server)
        client.sendall(bytes([number]))
        assert read_exactly(client, 1) == bytes([number])
    # A client that resets while it is in the backlog may never be accepted; every other one is told in full.
    eventually(lambda: len(server.connections) == 50, "only the good ones are left")
    accepted = server.statistics().accepted
    assert accepted >= 50
    handler.wait_for(lambda handler: handler.count("connected") == accepted, "each was told once")
    handler.wait_for(lambda handler: handler.count("closed") >= accepted - 50, "and its end")
    assert handler.count("closed") == accepted - 50
    eventually(lambda: descriptor_count() <= descriptors + 100, "their descriptors are given back")
    assert handler.overlaps == []


def test_a_storm_that_sends_before_it_resets(serve, connect) -> None:
    handler = Recorder()
    server = serve(handler)

    def leave(client):
        client.sendall(b"half a message")
        reset(client)

    storm(server.address, 1000, leave)
    client = connect(server)
    client.sendall(b"good")
    handler.wait_for(lambda handler: b"good" in handler.values("received"), "the good one is heard")
    eventually(lambda: len(server.connections) == 1, "only the good one is left")
    handler.wait_for(lambda handler: handler.count("closed") == handler.count("connected") - 1, "each was told its end")


def test_good_clients_are_served_during_a_storm(serve, connect) -> None:
    server = serve(echo)
    stop = threading.Event()
    failures = []

    def run() -> None:
        try:
            while not stop.is_set():
                reset(dial(server.address))
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        # Under Wine the storm is quicker than the accepts: each good client waits a second behind thousands of resets in the backlog.
        for number in range(20 if WINE else 100):
            client = connect(server)
            client.sendall(b"%03d" % number)
            assert read_exactly(client, 3) == b"%03d" % number
            client.close()
    finally:
        stop.set()
        for thread in threads:
            thread.join(TIMEOUT)
    assert failures == []
