"""`proactor.testing`, and what only a simulated network shows: a clock moved by hand, errors at any place, any order of completions."""

import errno
import logging
import random
import threading

import pytest

import proactor
from peers import TIMEOUT, Recorder, RecordingEcho, echo, eventually
from proactor.testing import Network


@pytest.fixture
def network():
    with Network() as network:
        yield network


def test_a_peer_talks_to_a_handler(network) -> None:
    server = network.serve(lambda connection, data: connection.send(data.upper()))
    peer = network.connect(server)
    peer.send(b"hello")
    assert peer.receive(5) == b"HELLO"
    peer.send(b"bye")
    peer.finish()
    assert peer.receive_to_end() == b"BYE"
    assert server.statistics().engine == "simulated"


def test_names_are_invented_and_told(network) -> None:
    handler = Recorder()
    server = network.serve(handler)
    network.connect(server)
    network.connect(server)
    handler.wait_for_count("connected", 2)
    assert server.address[0] == "192.0.2.1"
    assert len({connection.peername for connection in handler.connections}) == 2
    assert all(connection.peername[0] == "192.0.2.2" for connection in handler.connections)
    with pytest.raises(OSError, match="name"):
        _ = handler.connections[0].sockname


def test_a_peer_that_waits_in_vain_says_what_came(network) -> None:
    peer = network.connect(network.serve(echo))
    peer.send(b"ab")
    with pytest.raises(TimeoutError, match=r"3 bytes did not come.*2 bytes did: b'ab'"):
        peer.receive(3, timeout=0.2)
    with pytest.raises(TimeoutError, match="the end did not come"):
        peer.receive_to_end(timeout=0.1)
    peer.finish()
    with pytest.raises(TimeoutError, match="in order"):
        peer.wait_reset()
    with pytest.raises(ValueError, match="finish"):
        peer.send(b"after the end")


def test_nobody_listens_after_the_end(network) -> None:
    server = network.serve(echo)
    server.shutdown(TIMEOUT)
    with pytest.raises(ConnectionRefusedError):
        network.connect(server)


def test_what_cannot_fail_is_refused(network) -> None:
    with pytest.raises(ValueError, match="cannot fail"):
        network.fail_next("steal", 5)


# ---- the clock ----


def test_idle_timeout_goes_by_the_clock_and_not_a_second_early(network) -> None:
    handler = RecordingEcho()
    peer = network.connect(network.serve(handler, idle_timeout=60))
    handler.wait_for_count("connected", 1)
    network.settle()
    began = network.now
    network.advance(59)
    network.settle()
    assert handler.count("closed") == 0
    peer.send(b"x")  # it is not idle
    assert peer.receive(1) == b"x"
    network.settle()
    network.advance(59)
    network.settle()
    assert handler.count("closed") == 0
    network.advance(2)
    assert isinstance(handler.wait_closed()[0], TimeoutError)
    assert peer.receive_to_end() == b""
    assert network.now - began == pytest.approx(120)


def test_a_closing_connection_waits_send_timeout_for_its_peer(network) -> None:
    class Closing(Recorder):
        def on_received(self, connection, data):
            connection.send(b"1234567890")
            connection.close()

    handler = Closing()
    peer = network.connect(network.serve(handler, send_timeout=30))
    peer.set_window(4)
    peer.send(b"x")
    handler.wait_for_count("received", 1)
    network.settle()
    network.advance(31)  # it has taken four bytes in this time: it gets as much again
    network.settle()
    assert handler.count("closed") == 0
    network.advance(29)
    network.settle()
    assert handler.count("closed") == 0
    network.advance(2)
    [error] = handler.wait_closed()
    assert isinstance(error, TimeoutError)
    assert handler.connections[0].statistics().dropped_bytes == 6
    peer.wait_reset()


def test_a_shortage_at_accept_is_tried_again_after_a_tenth_of_a_second(network, caplog) -> None:
    caplog.set_level(logging.WARNING, "proactor")
    server = network.serve(echo)
    network.fail_next("accept_paused", errno.EMFILE)
    peer = network.connect(server)
    peer.send(b"patient")
    eventually(lambda: server.statistics().accept_errors == 1, "accept has failed")
    network.settle()
    assert server.statistics().accepted == 0
    network.advance(0.099)
    network.settle()
    assert server.statistics().accepted == 0
    network.advance(0.002)
    assert peer.receive(7) == b"patient"
    eventually(lambda: "clients wait in the backlog" in caplog.text, "the log says so")
    caplog.clear()


# ---- faults ----


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM])
def test_an_accept_that_fails_for_one_client_lets_the_next_one_in(network, number, caplog) -> None:
    server = network.serve(echo)
    network.fail_next("accept", number)
    network.connect(server)
    peer = network.connect(server)
    peer.send(b"next")
    assert peer.receive(4) == b"next"
    assert server.statistics().accept_errors == 1
    eventually(lambda: "accept failed" in caplog.text, "the log says so")
    caplog.clear()


def test_a_client_that_cannot_be_associated_is_told_off_and_the_next_one_is_served(network, caplog) -> None:
    handler = RecordingEcho()
    server = network.serve(handler)
    network.fail_next("associate", errno.ENOSPC)
    lost = network.connect(server)
    lost.wait_reset()
    peer = network.connect(server)
    peer.send(b"next")
    assert peer.receive(4) == b"next"
    eventually(lambda: len(server.connections) == 1, "only that one is counted")
    assert server.statistics().connections == 1
    caplog.clear()


def test_a_server_that_cannot_start_says_why_and_leaves_the_pool_whole(network) -> None:
    for operation in ("adopt", "associate"):
        network.fail_next(operation, errno.ENOMEM)
        with pytest.raises(OSError) as caught:
            network.serve(echo)
        assert caught.value.errno == errno.ENOMEM
    peer = network.connect(network.serve(echo))
    peer.send(b"ok")
    assert peer.receive(2) == b"ok"


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ECONNRESET, ConnectionResetError), (errno.ETIMEDOUT, TimeoutError), (errno.EHOSTUNREACH, OSError)]
)
def test_an_error_of_a_receive_is_told_as_what_it_is(network, number, kind) -> None:
    handler = Recorder()
    server = network.serve(handler)
    network.fail_next("receive", number)
    network.connect(server).send(b"x")
    [error] = handler.wait_closed()
    assert isinstance(error, kind)
    assert error.errno == number


def test_an_error_of_a_send_is_told_and_what_was_not_sent_is_counted(network) -> None:
    handler = RecordingEcho()
    server = network.serve(handler)
    network.fail_next("send", errno.EPIPE)
    network.connect(server).send(b"12345")
    [error] = handler.wait_closed()
    assert isinstance(error, BrokenPipeError)
    assert handler.connections[0].statistics().dropped_bytes == 5
    with pytest.raises(BrokenPipeError):
        handler.connections[0].send(b"more")


def test_an_error_in_the_middle_of_a_send_counts_what_went_out_before(network) -> None:
    handler = RecordingEcho()
    peer = network.connect(network.serve(handler))
    peer.set_window(3)
    peer.send(b"1234567890")
    assert peer.receive(3) == b"123"
    network.settle()
    peer.reset()
    [error] = handler.wait_closed()
    assert isinstance(error, ConnectionResetError)
    numbers = handler.connections[0].statistics()
    assert numbers.sent_bytes + numbers.dropped_bytes == 10
    assert numbers.dropped_bytes >= 4


def test_an_error_of_shutdown_write_closes_with_it(network) -> None:
    class Finishing(Recorder):
        def on_received(self, connection, data):
            connection.shutdown_write()

    handler = Finishing()
    server = network.serve(handler)
    network.fail_next("shutdown_write", errno.ENOTCONN)
    network.connect(server).send(b"x")
    [error] = handler.wait_closed()
    assert error is not None
    assert error.errno == errno.ENOTCONN


@pytest.mark.parametrize("number", [errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.ECONNRESET])
def test_a_connection_that_dies_while_its_peer_is_silent_is_told(network, number) -> None:
    handler = Recorder()
    peer = network.connect(network.serve(handler))
    handler.wait_for_count("connected", 1)
    peer.fail(number)
    [error] = handler.wait_closed()
    assert error.errno == number


# ---- a network that misbehaves ----


@pytest.mark.parametrize("seed", range(1, 31))
def test_every_byte_arrives_once_and_in_order_however_the_network_cuts_it(seed) -> None:
    chooser = random.Random(seed)
    handler = RecordingEcho()
    with Network(seed) as network:
        server = network.serve(handler)
        peers = [network.connect(server) for _ in range(5)]
        sent = [b"" for _ in peers]
        for _ in range(20):
            for number, peer in enumerate(peers):
                data = chooser.randbytes(chooser.choice([1, 10, 1000, 70_000]))
                peer.send(data)
                sent[number] += data
        for number, peer in enumerate(peers):
            assert peer.receive(len(sent[number])) == sent[number]
            peer.finish()
        for peer in peers:
            assert peer.receive_to_end() == b""
        handler.wait_closed(5)
        assert handler.overlaps == []
        assert handler.values("closed") == [None] * 5


@pytest.mark.parametrize("seed", range(1, 11))
def test_framing_is_exact_however_the_network_cuts_it(seed) -> None:
    chooser = random.Random(seed)
    lines = [chooser.randbytes(chooser.randint(0, 300)).replace(b"\n", b"").replace(b"\r", b"") for _ in range(200)]
    handler = Recorder()
    with Network(seed) as network:
        peer = network.connect(network.serve(handler, framing=proactor.Lines()))
        peer.send(b"".join(line + b"\n" for line in lines))
        peer.finish()
        handler.wait_closed()
    assert handler.values("received") == lines


@pytest.mark.parametrize("seed", range(1, 11))
def test_small_windows_and_broadcasts_lose_nothing(seed) -> None:
    chooser = random.Random(seed)
    with Network(seed) as network:
        handler = Recorder()
        server = network.serve(handler)
        peers = [network.connect(server) for _ in range(4)]
        handler.wait_for_count("connected", 4)
        for peer in peers:
            peer.set_window(chooser.randint(1, 5000))
        messages = [chooser.randbytes(chooser.randint(1, 20_000)) for _ in range(20)]
        for message in messages:
            assert server.broadcast(message).sent == 4
        for peer in peers:
            assert peer.receive(sum(map(len, messages))) == b"".join(messages)


@pytest.mark.parametrize("seed", range(1, 11))
def test_churn_ends_each_connection_exactly_once(seed) -> None:
    chooser = random.Random(seed)
    handler = RecordingEcho()
    with Network(seed, concurrency=2) as network:
        server = network.serve(handler)
        for _ in range(60):
            peer = network.connect(server)
            act = chooser.choice(["finish", "reset", "send and finish", "send and reset"])
            if "send" in act:
                peer.send(b"something")
            peer.finish() if "finish" in act else peer.reset()
        handler.wait_closed(60)
        network.settle()
        assert handler.count("connected") == handler.count("closed") == 60
        assert server.connections == ()
        assert handler.overlaps == []


# ---- the accept window, where the kernel needs pending accepts ----


def test_five_accepts_are_pending_and_are_topped_up_when_fewer_than_two_are_left(network, caplog) -> None:
    caplog.set_level(logging.INFO, "proactor")
    network.need_pending_accepts()
    handler = Recorder()
    server = network.serve(handler)
    eventually(lambda: "5 accepts pending" in caplog.text, "the log says so")
    assert network.pending_accepts(server) == 5
    seen = []
    for number in range(1, 11):
        network.connect(server)
        handler.wait_for_count("connected", number)
        network.settle()
        seen.append(network.pending_accepts(server))
    assert seen == [4, 3, 2, 5, 4, 3, 2, 5, 4, 3]


def test_the_window_may_be_chosen_and_drifts_in_no_storm(network) -> None:
    """The article's counter drifted with every client that left at once, until nobody was served."""
    network.need_pending_accepts()
    handler = Recorder()
    server = network.serve(handler, accepts=(3, 8))
    assert network.pending_accepts(server) == 8
    for _ in range(500):
        network.connect(server).reset()
    handler.wait_closed(500)
    network.settle()
    assert 3 <= network.pending_accepts(server) <= 8
    peer = network.connect(server)
    peer.send(b"good")
    handler.wait_for(lambda handler: handler.data() == b"good", "a good client is served")


def test_other_threads_may_drive_the_network(network) -> None:
    server = network.serve(echo)
    failures: list[BaseException] = []

    def talk(number: int) -> None:
        try:
            peer = network.connect(server)
            for _ in range(50):
                peer.send(b"%04d" % number)
                assert peer.receive(4) == b"%04d" % number
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert failures == []
