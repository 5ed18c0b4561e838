"""Datagram sockets on a handle: UDP over IPv4 and IPv6, and Unix sockets."""

import errno
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import proactor
from peers import TIMEOUT, Told
from platforms import LINUX, UNIX, WINE, of_unix_sockets
from proactor.testing import Network

MakePool = Callable[..., proactor.ThreadPool]
MakeSocket = Callable[[], socket.socket]


@pytest.fixture(params=["udp4", "udp6", of_unix_sockets("unix"), of_unix_sockets("abstract")])
def make_socket(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """`make_socket()` makes a bound datagram socket with a time-out, closed at the end."""
    made: list[socket.socket] = []

    def make() -> socket.socket:
        family = {"udp4": socket.AF_INET, "udp6": socket.AF_INET6}.get(request.param, UNIX)
        one = socket.socket(family, socket.SOCK_DGRAM)
        made.append(one)
        if request.param == "unix":
            one.bind(str(tmp_path / str(len(made))))
        elif request.param == "abstract":
            one.bind(b"\0proactor-" + os.urandom(8).hex().encode())
        else:
            one.bind(("127.0.0.1" if request.param == "udp4" else "::1", 0))
        one.settimeout(TIMEOUT)
        return one

    yield make
    for one in made:
        one.close()


def test_datagrams_come_whole_with_their_senders_and_are_answered(make_pool: MakePool, make_socket: MakeSocket) -> None:
    ours, theirs = make_socket(), make_socket()
    address = ours.getsockname()
    told = Told()
    handle = make_pool().associate(ours, told)
    operations = [handle.receive_from() for _ in range(4)]
    for data in (b"one", b"", b"x" * 1400, b"four"):
        theirs.sendto(data, address)
    completions = [told.next() for _ in operations]
    assert [completion.operation for completion in completions] == operations
    assert [completion.value for completion in completions] == [
        (data, theirs.getsockname()) for data in (b"one", b"", b"x" * 1400, b"four")
    ]
    handle.send_to(b"answer", completions[0].value[1])
    assert told.value() == 6
    assert theirs.recvfrom(100) == (b"answer", address)
    handle.send_to([b"in ", bytearray(b"pieces, "), b"x" * 5000], theirs.getsockname())
    handle.send_to(b"", theirs.getsockname())
    assert [told.value(), told.value()] == [5011, 0]
    assert theirs.recv(10_000) == b"in pieces, " + b"x" * 5000
    assert theirs.recv(100) == b""
    assert [operation.kind for operation in operations[:1]] == ["receive_from"]


def test_a_datagram_that_is_too_long_is_cut_off_and_says_so(make_pool: MakePool, make_socket: MakeSocket) -> None:
    ours, theirs = make_socket(), make_socket()
    told = Told()
    handle = make_pool().associate(ours, told)
    handle.receive_from(3)
    handle.receive_from(7)
    theirs.sendto(b"too long", ours_address := handle_address(handle))
    theirs.sendto(b"exactly", ours_address)
    completion = told.next()
    assert completion.value == (b"too", theirs.getsockname())
    assert isinstance(completion.error, OSError)
    assert completion.error.errno == errno.EMSGSIZE
    assert told.value() == (b"exactly", theirs.getsockname())  # the rest of the first is lost
    numbers = handle.statistics()
    assert (numbers.completed, numbers.failed, numbers.received_bytes) == (2, 1, 10)


def handle_address(handle: proactor.Handle) -> Any:
    """Of a handle's socket."""
    with socket.socket(fileno=socket.dup(handle.fileno())) as copy:
        return copy.getsockname()


def test_a_connected_datagram_socket_hears_and_writes_to_its_peer_alone(make_pool: MakePool, make_socket: MakeSocket) -> None:
    ours, theirs, stranger = make_socket(), make_socket(), make_socket()
    address = ours.getsockname()
    told = Told()
    handle = make_pool().associate(ours, told)
    handle.connect(theirs.getsockname())
    assert told.value() is None
    handle.send([b"to the ", b"peer"])
    assert told.value() == 11
    assert theirs.recv(100) == b"to the peer"
    handle.receive_from()
    try:
        stranger.sendto(b"from a stranger", address)
    except PermissionError:
        pass  # a Unix socket refuses at once
    theirs.sendto(b"from the peer", address)
    assert told.value() == (b"from the peer", theirs.getsockname())


def test_a_datagram_without_a_peer_or_too_long_says_so(make_pool: MakePool, make_socket: MakeSocket) -> None:
    ours, theirs = make_socket(), make_socket()
    told = Told()
    handle = make_pool().associate(ours, told)
    handle.send(b"to whom?")
    completion = told.next()
    assert completion.value == 0
    assert completion.error is not None
    assert completion.error.errno in (errno.EDESTADDRREQ, errno.ENOTCONN, errno.EINVAL if WINE else errno.ENOTCONN)
    handle.send_to(bytes(10_000_000), theirs.getsockname())
    completion = told.next()
    assert completion.error is not None
    assert completion.error.errno == errno.EMSGSIZE


class Refused:
    """A socket with two receives, whose datagram nobody was there for."""

    def __init__(self, pool: proactor.ThreadPool) -> None:
        ours, gone = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        ours.bind(("127.0.0.1", 0))
        gone.bind(("127.0.0.1", 0))
        self.address, self.our_address = gone.getsockname(), ours.getsockname()
        gone.close()
        self.told = Told()
        self.handle = pool.associate(ours, self.told)
        first, second = self.handle.receive_from(), self.handle.receive_from()
        self.handle.connect(self.address)
        assert self.told.value() is None
        sent = self.handle.send(b"anybody there?")
        if LINUX:
            completions = {completion.operation: completion for completion in (self.told.next(), self.told.next())}
            assert completions[sent].error is None
            assert isinstance(completions[first].error, ConnectionRefusedError)
            self.pending = [second]
        else:
            # There the engine has the system say nothing, since it would fail a receive of whoever comes next: the first receive goes on.
            completion = self.told.next()
            assert (completion.operation, completion.error) == (sent, None)
            self.pending = [first, second]


def test_that_nobody_listens_completes_one_receive_at_most(make_pool: MakePool) -> None:
    refused = Refused(make_pool())
    assert refused.handle.statistics().receives == len(refused.pending)
    refused.handle.close()
    closed = {completion.operation: completion.error for completion in (refused.told.next() for _ in refused.pending)}
    assert {operation: error.errno for operation, error in closed.items()} == dict.fromkeys(refused.pending, errno.ECANCELED)


@pytest.mark.wine("who waits for a datagram is forgotten when an answer comes that nobody was there for one")
def test_after_an_answer_that_nobody_listens_the_next_receive_goes_on(make_pool: MakePool) -> None:
    refused = Refused(make_pool())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
        back.bind(refused.address)
        back.sendto(b"back again", refused.our_address)
        completion = refused.told.next()
        assert (completion.operation, completion.value) == (refused.pending[0], (b"back again", refused.address))


@pytest.mark.linux("Unix sockets")
def test_a_full_unix_queue_is_an_error_without_a_peer_and_waited_for_with_one(make_pool: MakePool, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as theirs:
        theirs.bind(str(tmp_path / "theirs"))
        theirs.settimeout(TIMEOUT)
        told = Told()
        handle = make_pool().associate(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), told)
        queued = 0
        while True:
            handle.send_to(b"x", tmp_path / "theirs")
            completion = told.next()
            if completion.error is not None:
                break
            queued += 1
        assert isinstance(completion.error, BlockingIOError)
        handle.connect(tmp_path / "theirs")
        assert told.value() is None
        waits, queues = handle.send(b"waits"), handle.send(b"cancelled")
        assert queues.cancel()
        assert told.cancelled().operation is queues
        assert waits.pending
        for _ in range(queued):
            assert theirs.recv(100) == b"x"
        assert told.value() == 5
        assert theirs.recvfrom(100) == (b"waits", None)  # a socket without a name


@pytest.mark.linux("Unix sockets")
def test_a_sender_without_a_name_has_no_address(make_pool: MakePool) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with theirs:
        told = Told()
        handle = make_pool().associate(ours, told)
        theirs.send(b"who?")
        handle.receive_from()
        assert told.value() == (b"who?", None)
        handle.send(b"you")
        assert told.value() == 3
        assert theirs.recv(10) == b"you"


def test_receives_can_be_cancelled_and_a_close_completes_them(make_pool: MakePool, make_socket: MakeSocket) -> None:
    ours, theirs = make_socket(), make_socket()
    address = ours.getsockname()
    told = Told()
    handle = make_pool().associate(ours, told)
    first, second, third = (handle.receive_from() for _ in range(3))
    assert first.cancel()
    assert told.cancelled().operation is first
    theirs.sendto(b"for the second", address)
    completion = told.next()
    assert (completion.operation, completion.value[0]) == (second, b"for the second")
    handle.close()
    assert told.cancelled().operation is third
    if ours.family != UNIX:
        with socket.socket(ours.family, socket.SOCK_DGRAM) as again:
            again.bind(address)  # free at once


@pytest.mark.linux("Unix sockets")
def test_a_thousand_senders_and_four_receives_outstanding(make_pool: MakePool) -> None:
    """Fault 3, where buffers are few: what nobody has asked for yet waits, and nothing comes twice or in pieces."""
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    name = b"\0proactor-" + os.urandom(8).hex().encode()
    ours.bind(name)
    came: Counter[bytes] = Counter()
    over = threading.Event()
    outstanding, most = 0, 0
    lock = threading.Lock()

    def told(completion: proactor.Completion) -> None:
        nonlocal outstanding
        if completion.error is not None:
            assert completion.error.errno == errno.ECANCELED
            return
        with lock:
            outstanding -= 1
        came[completion.value[0]] += 1
        if came.total() == 1000:
            over.set()
        else:
            ask(completion.handle)

    def ask(handle: proactor.Handle) -> None:
        nonlocal outstanding, most
        with lock:
            outstanding += 1
            most = max(most, outstanding)
        handle.receive_from()

    handle = make_pool().associate(ours, told)
    for _ in range(4):
        ask(handle)

    def send(first: int) -> None:
        for number in range(first, first + 50):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(TIMEOUT)
                sender.connect(name)
                sender.send(b"sender %d " % number + bytes(number))

    threads = [threading.Thread(target=send, args=(first,)) for first in range(0, 1000, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert over.wait(TIMEOUT)
    assert set(came.values()) == {1}
    assert set(came) == {b"sender %d " % number + bytes(number) for number in range(1000)}
    assert most == 4
    assert handle.statistics().kept_bytes == 0


def test_what_is_submitted_fails_where_the_engine_fails_it(make_pool: MakePool) -> None:
    """Fault 33: a submission that fails with its request in the queue already completes once, and those behind it go on."""
    with Network() as network:
        told = Told()
        unconnected, peer = network.socket()
        handle = network.pool.associate(unconnected, told)
        network.fail_next("connect", errno.ENETUNREACH)
        operations = [handle.connect(("192.0.2.9", 80)), handle.connect(("192.0.2.9", 80)), handle.send(b"x")]
        peer.accept()
        completions = [told.next() for _ in operations]
        assert [completion.operation for completion in completions] == operations
        assert [completion.error and completion.error.errno for completion in completions] == [errno.ENETUNREACH, None, None]
        datagrams, others = network.datagrams()
        handle = network.pool.associate(datagrams, told)
        network.fail_next("send", errno.ENOBUFS)
        handle.send_to(b"lost", ("192.0.2.9", 53))
        handle.send_to(b"sent", ("192.0.2.9", 53))
        assert [told.next().error.errno, told.next().error] == [errno.ENOBUFS, None]  # type: ignore[union-attr]
        assert others.received() == [(b"sent", "192.0.2.9:53")]
        others.fail(errno.ECONNREFUSED)
        handle.receive_from()
        assert told.next().error.errno == errno.ECONNREFUSED  # type: ignore[union-attr]
        listener = network.listener()
        number = listener.fileno()
        handle = network.pool.associate(listener, told)
        network.fail_next("accept_some", errno.ENOBUFS)
        handle.accept()
        assert told.next().error.errno == errno.ENOBUFS  # type: ignore[union-attr]
        handle.accept()
        network.connect_to(number)
        assert told.next().error is None


def test_what_a_datagram_socket_cannot_do_is_refused_by_name(make_pool: MakePool) -> None:
    handle = make_pool().associate(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), print)
    for call, text in [
        (handle.receive, "receive: .* use receive_from"),
        (lambda: handle.receive_into(bytearray(1)), "receive_into: .* use receive_from"),
        (handle.shutdown, "shutdown: .* close it"),
        (handle.accept, "accept: .* use receive_from"),
        (lambda: handle.receive_from(0), "at least 1"),
        (lambda: handle.send_to(b"x", ("::1", 1)), "AF_INET6"),
    ]:
        with pytest.raises(ValueError, match=text):
            call()
    with pytest.raises(TypeError, match="encode"):
        handle.send_to("text", ("127.0.0.1", 1))
    with pytest.raises(TypeError, match="limit must be a whole number of bytes, not True"):
        handle.receive_from(True)
    with pytest.raises(TypeError, match=r"is no address: write \(host, port\)"):
        handle.send_to(b"x", ("127.0.0.1", True))
