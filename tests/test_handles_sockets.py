"""What sockets of every kind do on a handle: accept, connect, receive into memory, gathered sends, shutdown. Real sockets, TCP and Unix."""

import array
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import proactor
from peers import TIMEOUT, Told
from platforms import of_unix_sockets, resource
from proactor.testing import Network

MakePool = Callable[..., proactor.ThreadPool]


@pytest.fixture(params=["tcp4", "tcp6", of_unix_sockets("unix"), of_unix_sockets("abstract")])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """A listening socket of each family."""
    if request.param == "tcp4":
        made = socket.create_server(("127.0.0.1", 0))
    elif request.param == "tcp6":
        made = socket.create_server(("::1", 0), family=socket.AF_INET6)
    else:
        made = socket.socket(socket.AF_UNIX)
        made.bind(str(tmp_path / "socket") if request.param == "unix" else b"\0proactor-" + os.urandom(8).hex().encode())
        made.listen()
    made.settimeout(TIMEOUT)
    with made:
        yield made


def client_of(address: Any, family: int) -> socket.socket:
    client = socket.socket(family)
    try:
        client.settimeout(TIMEOUT)
        client.connect(address)
    except OSError:
        client.close()
        raise
    return client


# ---- accepting ----


def test_an_accept_completes_with_a_socket_and_its_address(make_pool: MakePool, listener: socket.socket) -> None:
    address, family = listener.getsockname(), listener.family
    told = Told()
    handle = make_pool().associate(listener, told)
    operation = handle.accept()
    assert (operation.kind, operation.pending) == ("accept", True)
    with client_of(address, family) as client:
        accepted, peer = told.value()
        with accepted:
            assert peer == client.getsockname()
            assert (accepted.family, accepted.type, accepted.gettimeout()) == (family, socket.SOCK_STREAM, None)
            assert not accepted.get_inheritable()
            client.sendall(b"hello")
            assert accepted.recv(10) == b"hello"


def test_accepts_complete_in_order_and_no_client_is_accepted_that_nobody_asked_for(make_pool: MakePool) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    told = Told()
    handle = make_pool().associate(listener, told)
    operations = [handle.accept() for _ in range(3)]
    clients = [client_of(address, socket.AF_INET) for _ in range(5)]
    completions = [told.next() for _ in operations]
    assert [completion.operation for completion in completions] == operations
    assert [completion.value[1] for completion in completions] == [client.getsockname() for client in clients[:3]]
    # The others wait in the kernel's backlog, for whoever asks.
    assert handle.statistics().kept_bytes == 0
    later = [handle.accept(), handle.accept()]
    completions += [told.next() for _ in later]
    for completion, client in zip(completions, clients, strict=True):
        accepted = completion.value[0]
        accepted.settimeout(TIMEOUT)
        client.sendall(b"x")
        assert accepted.recv(1) == b"x"
        accepted.close()
        client.close()


def test_another_process_gets_the_clients_that_no_accept_was_pending_for(make_pool: MakePool) -> None:
    """A copy of the listening socket stands for the other process."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    with listener.dup() as other:
        other.settimeout(TIMEOUT)
        told = Told()
        handle = make_pool().associate(listener, told)
        handle.accept()
        first = client_of(address, socket.AF_INET)
        told.value()[0].close()
        other.setblocking(True)  # the flag is the shared description's
        with client_of(address, socket.AF_INET):
            other.accept()[0].close()
        first.close()


def test_a_cancelled_accept_takes_no_client(make_pool: MakePool) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    told = Told()
    handle = make_pool().associate(listener, told)
    first, second = handle.accept(), handle.accept()
    assert first.cancel()
    assert told.cancelled().operation is first
    with client_of(address, socket.AF_INET):
        completion = told.next()
        assert completion.operation is second
        completion.value[0].close()


def test_a_closed_listener_refuses_its_clients(make_pool: MakePool) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    told = Told()
    handle = make_pool().associate(listener, told)
    handle.accept()
    handle.close()
    assert told.cancelled().value is None
    with pytest.raises(ConnectionRefusedError):
        client_of(address, socket.AF_INET)


@pytest.mark.linux("a limit of descriptors (setrlimit)")
def test_out_of_descriptors_completes_the_accepts_and_the_next_ones_go_on(make_pool: MakePool) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    told = Told()
    pool = make_pool()
    handle = pool.associate(listener, told)
    clients = [socket.socket() for _ in range(2)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    for client in clients:
        client.connect(address)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(3, limits[0]), limits[1]))
    try:
        operations = [handle.accept(), handle.accept()]
        failed = [told.next() for _ in operations]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [(completion.operation, completion.error.errno) for completion in failed if completion.error] == [
        (operation, errno.EMFILE) for operation in operations
    ]
    for _ in clients:
        handle.accept()
    for client in clients:
        told.value()[0].close()
        client.close()


def test_an_accept_that_fails_for_its_client_alone_completes_and_the_others_wait(make_pool: MakePool) -> None:
    with Network() as network:
        listener = network.listener()
        number = listener.fileno()
        told = Told()
        handle = network.pool.associate(listener, told)
        first, second = handle.accept(), handle.accept()
        network.fail_next("accept", errno.ECONNABORTED)
        network.connect_to(number)
        completion = told.next()
        assert (completion.operation, completion.value) == (first, None)
        assert isinstance(completion.error, ConnectionAbortedError)
        peer = network.connect_to(number)
        completion = told.next()
        assert completion.operation is second
        accepted, address = completion.value
        assert address[0] == "192.0.2.2"
        echo = Told()
        connection = network.pool.associate(accepted, echo)
        connection.receive()
        peer.send(b"hello")
        assert echo.value() == b"hello"


# ---- connecting ----


def test_a_connect_completes_and_what_was_submitted_meanwhile_follows(make_pool: MakePool, listener: socket.socket) -> None:
    told = Told()
    handle = make_pool().associate(socket.socket(listener.family), told)
    operations = [handle.connect(listener.getsockname()), handle.send(b"hello"), handle.shutdown()]
    received = handle.receive()
    peer, _ = listener.accept()
    with peer:
        completions = [told.next() for _ in operations]
        assert [completion.operation for completion in completions] == operations
        assert [completion.value for completion in completions] == [None, 5, None]
        assert [operation.kind for operation in operations] == ["connect", "send", "shutdown"]
        assert peer.recv(100) == b"hello"
        assert peer.recv(100) == b""
        peer.sendall(b"still open this way")
        completion = told.next()
        assert (completion.operation, completion.value) == (received, b"still open this way")
        handle.send(b"no more")
        completion = told.next()
        assert isinstance(completion.error, BrokenPipeError)
        assert completion.value == 0


def test_a_refused_connect_fails_what_waits_for_it_and_may_be_tried_again(make_pool: MakePool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = listener.getsockname()
    told = Told()
    handle = make_pool().associate(socket.socket(), told)
    operations = [handle.connect(nobody), handle.receive(), handle.send(b"x"), handle.shutdown()]
    completions = {completion.operation: completion for completion in (told.next() for _ in operations)}
    numbers = [completions[operation].error.errno for operation in operations]  # type: ignore[union-attr]
    # The receive fails with what it waited for; or at once, where that was over before it was submitted.
    assert numbers[0] == errno.ECONNREFUSED
    assert numbers[1] in (errno.ECONNREFUSED, errno.ENOTCONN)
    assert numbers[2:] == [errno.ENOTCONN, errno.ENOTCONN]
    assert completions[operations[2]].value == 0
    handle.receive()
    assert told.next().error.errno == errno.ENOTCONN  # type: ignore[union-attr]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        handle.connect(listener.getsockname())
        assert told.value() is None
        with listener.accept()[0] as peer:
            handle.receive()
            peer.sendall(b"at last")
            assert told.value() == b"at last"


def full_listener() -> tuple[socket.socket, list[socket.socket]]:
    """A listener that answers nobody: its backlog is full. And who fills it."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    return listener, [client_of(listener.getsockname(), socket.AF_INET)]


def test_a_cancelled_connect_ends_the_attempt_and_another_may_follow(make_pool: MakePool) -> None:
    silent, others = full_listener()
    told = Told()
    handle = make_pool().associate(socket.socket(), told)
    connect, receive = handle.connect(silent.getsockname()), handle.receive()
    assert connect.pending
    assert connect.cancel()
    assert {told.cancelled().operation for _ in range(2)} == {connect, receive}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT)
        handle.connect(listener.getsockname())
        assert told.value() is None
        listener.accept()[0].close()
    for one in (silent, *others):
        one.close()


def test_a_closed_connect_ends_the_attempt(make_pool: MakePool) -> None:
    silent, others = full_listener()
    told = Told()
    handle = make_pool().associate(socket.socket(), told)
    handle.connect(silent.getsockname())
    handle.send(b"never sent")
    handle.close()
    assert [told.cancelled().value for _ in range(2)] == [None, 0]
    silent.settimeout(TIMEOUT)
    silent.accept()[0].close()
    silent.settimeout(0.05)
    with pytest.raises(TimeoutError):
        silent.accept()
    for one in (silent, *others):
        one.close()


def test_a_connected_socket_cannot_connect_again_and_goes_on(make_pool: MakePool, pair: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        told = Told()
        handle = make_pool().associate(socket.create_connection(listener.getsockname()), told)
        with listener.accept()[0] as peer:
            handle.receive()
            handle.connect(listener.getsockname())
            completion = told.next()
            assert completion.error is not None
            assert completion.error.errno == errno.EISCONN
            peer.sendall(b"on")
            assert told.value() == b"on"


@pytest.mark.linux("Unix sockets")
def test_a_unix_connect_to_a_full_backlog_says_so_at_once(make_pool: MakePool, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen(0)
        told = Told()
        pool = make_pool()
        handles = [pool.associate(socket.socket(socket.AF_UNIX), told) for _ in range(3)]
        for handle in handles:
            handle.connect(tmp_path / "socket")
        errors = [told.next().error for _ in handles]
        assert any(isinstance(error, BlockingIOError) for error in errors), errors


def test_no_address_is_looked_up_and_a_wrong_one_says_what_to_write(make_pool: MakePool) -> None:
    pool = make_pool()
    four, six = (pool.associate(socket.socket(family), print) for family in (socket.AF_INET, socket.AF_INET6))
    for address, error, text in [
        (("localhost", 80), ValueError, "getaddrinfo"),
        (("127.0.0.1", 70_000), ValueError, "0 to 65535"),
        (("::1", 80), ValueError, "AF_INET6"),
        (("127.0.0.1",), TypeError, "host, port"),
        ("127.0.0.1:80", TypeError, "host, port"),
        (("127.0.0.1", 80, 0, 0), ValueError, "two parts"),
        ((80, "127.0.0.1"), TypeError, "host, port"),
    ]:
        with pytest.raises(error, match=text):
            four.connect(address)
    assert four.statistics().completed == 0
    told = Told()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        both = socket.socket(socket.AF_INET6)
        both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # Windows' default is another
        mapped = pool.associate(both, told)
        mapped.connect(listener.getsockname())
        assert told.value() is None
    six.close()


@pytest.mark.linux("Unix sockets")
def test_a_wrong_path_says_what_to_write(make_pool: MakePool) -> None:
    unix = make_pool().associate(socket.socket(socket.AF_UNIX), print)
    for path, error, text in [
        (("127.0.0.1", 80), TypeError, "path"),
        ("", ValueError, "empty"),
        ("x" * 108, ValueError, "107"),
        ("a\0b", ValueError, "NUL"),
    ]:
        with pytest.raises(error, match=text):
            unix.connect(path)
    assert unix.statistics().completed == 0


# ---- receiving into memory ----


def test_a_receive_into_memory_writes_where_it_is_told_and_nowhere_else(make_pool: MakePool, pair: Any) -> None:
    ours, theirs = pair()
    told = Told()
    handle = make_pool().associate(ours, told)
    memory = bytearray(b"\xcc" * 1000)
    theirs.sendall(b"0123456789")
    handle.receive_into(memoryview(memory)[100:104])
    assert told.value() == 4
    handle.receive_into(memoryview(memory)[200:300])
    assert told.value() == 6
    expected = bytearray(b"\xcc" * 1000)
    expected[100:104], expected[200:206] = b"0123", b"456789"
    assert memory == expected
    theirs.shutdown(socket.SHUT_WR)
    handle.receive_into(memory)
    assert told.value() == 0
    assert memory == expected


def test_its_memory_is_held_until_it_completes_and_not_longer(make_pool: MakePool, pair: Any) -> None:
    ours, theirs = pair()
    told = Told()
    seen: list[str] = []
    memory = bytearray(100)

    def again(completion: proactor.Completion) -> None:
        memory.append(0)  # whoever is told of it may use it again
        seen.append("resized")
        told(completion)

    handle = make_pool().associate(ours, again)
    operation = handle.receive_into(memory)
    with pytest.raises(BufferError):
        memory.append(0)
    theirs.sendall(b"x")
    assert told.value() == 1
    operation = handle.receive_into(memory)
    assert operation.cancel()
    assert told.cancelled().value is None
    before = bytes(memory)
    theirs.sendall(b"not for the cancelled one")
    handle.receive()
    assert told.value() == b"not for the cancelled one"
    assert memory.startswith(before)
    assert seen == ["resized"] * 3


def test_large_messages_are_received_into_memory(make_pool: MakePool, pair: Any) -> None:
    ours, theirs = pair()
    told = Told()
    handle = make_pool().associate(ours, told)
    data = os.urandom(3_000_000)
    sender = threading.Thread(target=theirs.sendall, args=(data,))
    sender.start()
    memory = bytearray(len(data) + 8)
    filled = 0
    while filled < len(data):
        handle.receive_into(memoryview(memory)[filled : len(data)])
        filled += told.value()
    sender.join(TIMEOUT)
    assert memory == data + bytes(8)


def test_what_cannot_be_received_into_is_refused_with_the_reason(make_pool: MakePool, pair: Any) -> None:
    handle = make_pool().associate(pair()[0], Told())
    for buffer, error, text in [
        (b"constant", ValueError, "writable"),
        (memoryview(bytearray(10))[::2], ValueError, "contiguous"),
        (bytearray(), ValueError, "empty"),
        (10, TypeError, "not int"),
    ]:
        with pytest.raises(error, match=text):
            handle.receive_into(buffer)
    numbers = array.array("d", [1.0])
    handle.receive_into(numbers).cancel()
    assert handle.statistics().cancelled == 1


# ---- sending in pieces ----


def test_pieces_are_gathered_in_their_order(make_pool: MakePool, pair: Any) -> None:
    ours, theirs = pair()
    told = Told()
    handle = make_pool().associate(ours, told)
    pieces = [b"head", bytearray(b"y" * 5000), memoryview(b"z" * 9000)[10:], b"", array.array("H", [1, 2, 3]), b"tail"]
    whole = b"".join(bytes(memoryview(piece).cast("B")) for piece in pieces)
    handle.send(pieces)
    assert told.value() == len(whole)
    handle.send(tuple(pieces))
    handle.send([])
    assert [told.value(), told.value()] == [len(whole), 0]
    received = b""
    while len(received) < 2 * len(whole):
        received += theirs.recv(65536)
    assert received == whole + whole
    for wrong in ([b"x", "text"], [1, 2], "text", {b"x": 1}, None):
        with pytest.raises(TypeError):
            handle.send(wrong)


def test_every_piece_is_held_until_all_are_sent(make_pool: MakePool, pair: Any) -> None:
    ours, _ = pair()
    told = Told()
    handle = make_pool().associate(ours, told)
    pieces = [bytearray(b"x" * 5_000_000) for _ in range(3)]
    operation = handle.send(pieces)
    for piece in pieces[1:]:
        with pytest.raises(BufferError):
            piece.append(0)
    assert operation.cancel()
    assert 0 < told.cancelled().value < 15_000_000
    for piece in pieces:
        piece.append(0)


# ---- what a kind cannot do ----


def test_what_a_socket_cannot_do_is_refused_by_name(make_pool: MakePool, pair: Any) -> None:
    pool = make_pool()
    stream = pool.associate(pair()[0], print)
    listening = pool.associate(socket.create_server(("127.0.0.1", 0)), print)
    for call, text in [
        (stream.accept, "accept: .* listen"),
        (stream.receive_from, "receive_from: .* use receive"),
        (lambda: stream.send_to(b"x", ("127.0.0.1", 1)), "send_to: .* connect, then send"),
        (listening.receive, "receive: .* accept"),
        (lambda: listening.receive_into(bytearray(1)), "receive_into: .* accept"),
        (lambda: listening.send(b"x"), "send: .* accept"),
        (listening.shutdown, "shutdown: .* accept"),
        (lambda: listening.connect(("127.0.0.1", 1)), "connect: .* accept"),
        (listening.receive_from, "receive_from: .* accept"),
    ]:
        with pytest.raises(ValueError, match=text):
            call()
    assert pool.statistics().operations == 0
    listening.close()
    with pytest.raises(OSError, match="closed") as caught:
        listening.accept()
    assert caught.value.errno == errno.EBADF


def test_a_second_socket_object_of_a_descriptor_that_a_handle_has_is_refused() -> None:
    ours, theirs = socket.socketpair()
    second = socket.socket(fileno=ours.fileno())
    with theirs, proactor.CompletionPort() as port, proactor.CompletionPort() as other:
        handle = port.associate(ours)
        for one in (port, other):
            with pytest.raises(ValueError, match="belongs to a handle already"):
                one.associate(second)
        second.detach()
        handle.close()
