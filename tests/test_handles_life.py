"""What can be associated, and how handles end: with their pool, its interpreter, in the child of a fork."""

import gc
import os
import socket
import ssl
from collections.abc import Callable

import pytest

import proactor
from peers import Program, Told, tcp_pair
from platforms import UNIX

MakePool = Callable[..., proactor.ThreadPool]

# ---- what can be associated ----


def test_the_pool_takes_the_socket_over(make_pool: MakePool, pair) -> None:
    ours, _ = pair()
    pool = make_pool()
    descriptor = ours.fileno()
    handle = pool.associate(ours, print)
    assert ours.fileno() == -1
    assert handle.fileno() == descriptor
    with pytest.raises(ValueError, match="associated once"):
        pool.associate(ours, print)
    with pytest.raises(ValueError, match="associated already"):
        pool.associate(handle, print)  # type: ignore[arg-type]


def test_what_cannot_be_associated_says_why_and_stays_open(make_pool: MakePool, pair) -> None:
    pool = make_pool()
    ours, _ = pair()
    with pytest.raises(TypeError, match="callable"):
        pool.associate(ours, None)  # type: ignore[arg-type]
    assert ours.fileno() >= 0
    if UNIX is not None:
        with socket.socket(UNIX, socket.SOCK_SEQPACKET) as packets, pytest.raises(ValueError, match="neither a stream nor a datagram"):
            pool.associate(packets, print)
    with pytest.raises(TypeError, match="no handle"):
        pool.associate("localhost:80", print)  # type: ignore[arg-type]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with context.wrap_socket(ours, do_handshake_on_connect=False) as encrypted, pytest.raises(ValueError, match="encryption"):
        pool.associate(encrypted, print)
    closed = socket.socket()
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        pool.associate(closed, print)
    assert pool.statistics().handles == 0


def test_tcp_is_associated_as_well(make_pool: MakePool) -> None:
    ours, theirs = tcp_pair()
    told = Told()
    with theirs:
        handle = make_pool().associate(ours, told)
        handle.receive()
        theirs.sendall(b"over TCP")
        assert told.value() == b"over TCP"
        handle.send(b"x" * 1_000_000)
        received = 0
        while received < 1_000_000:
            received += len(theirs.recv(65536))
        assert told.value() == 1_000_000
        handle.close()


# ---- the end of the pool ----


def test_shutdown_completes_what_is_pending_and_leaves_no_descriptor(pair) -> None:
    ours, theirs = pair()
    told = Told()
    pool = proactor.ThreadPool()
    handle = pool.associate(ours, told)
    operations = [handle.receive() for _ in range(3)] + [handle.send(bytes(10_000_000)) for _ in range(3)]
    assert pool.shutdown().completed
    assert {told.cancelled().operation for _ in operations} == set(operations)
    assert told.queue.empty()
    assert handle.closed
    with pytest.raises(OSError, match="closed"):
        handle.receive()
    ours, _ = pair()
    with pytest.raises(RuntimeError, match="shut down"):
        pool.associate(ours, print)
    assert ours.fileno() >= 0
    received = 0
    while chunk := theirs.recv(1 << 20):
        received += len(chunk)


def test_shutdown_inside_the_function_completes_the_rest(pair) -> None:
    ours, theirs = pair()
    told = Told()
    pool = proactor.ThreadPool()

    def end(completion: proactor.Completion) -> None:
        told(completion)
        if completion.error is None:
            pool.shutdown()

    handle = pool.associate(ours, end)
    handle.receive()
    handle.receive()
    theirs.sendall(b"x")
    assert told.value() == b"x"
    told.cancelled()
    pool.shutdown()


def test_the_end_of_the_pools_last_reference_completes_what_is_pending(pair) -> None:
    told = Told()
    handle = proactor.ThreadPool().associate(pair()[0], told)
    gc.collect()
    try:
        handle.receive()
    except OSError:
        pass  # the pool has gone already
    else:
        told.cancelled()
    assert handle.closed


@pytest.mark.linux("fork")
def test_the_child_of_a_fork_is_told_so(make_pool: MakePool, pair) -> None:
    ours, theirs = pair()
    told = Told()
    handle = make_pool().associate(ours, told)
    operation = handle.receive()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for call in (handle.receive, lambda: handle.send(b"x"), handle.cancel, handle.close, handle.statistics, operation.cancel):
                try:
                    call()
                except RuntimeError as error:
                    code = 0 if "fork" in str(error) else 2
                else:
                    code = 3
                if code:
                    break
            repr((handle, operation))
            del handle, operation
            gc.collect()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    theirs.sendall(b"the parent goes on")
    assert told.value() == b"the parent goes on"


def test_what_is_pending_when_the_program_ends_is_told(program: Callable[..., Program]) -> None:
    running = program(
        "import errno, socket, proactor\n"
        "ours, theirs = socket.socketpair()\n"
        "def told(completion):\n"
        "    print(completion.operation.kind, errno.errorcode[completion.error.errno])\n"
        "pool = proactor.ThreadPool()\n"
        "handle = pool.associate(ours, told)\n"
        "handle.receive()\n"
    )
    assert running.line() == "receive ECANCELED"
    assert running.wait() == 0
    assert running.errors() == ""
