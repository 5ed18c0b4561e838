"""Associated handles: receives and sends that call a function when they complete."""

import dataclasses
import errno
import gc
import logging
import os
import socket
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import proactor
from peers import TIMEOUT, Told, eventually, tcp_pair

MakePool = Callable[..., proactor.ThreadPool]


# ---- receiving ----


def test_a_receive_completes_with_what_comes_and_at_most_its_limit(make_pool: MakePool, pair) -> None:
    ours, theirs = pair()
    told = Told()
    handle = make_pool().associate(ours, told)
    operation = handle.receive(3)
    assert operation.pending
    theirs.sendall(b"hello, you")
    completion = told.next()
    assert (completion.value, completion.error) == (b"hel", None)
    assert completion.handle is handle
    assert completion.operation is operation
    assert (operation.kind, operation.pending, operation.handle) == ("receive", False, handle)
    # What came beyond the limit is kept for those who ask next.
    handle.receive(2)
    assert told.value() == b"lo"
    handle.receive()
    assert told.value() == b", you"


def test_receives_complete_in_the_order_in_which_they_were_submitted(make_pool: MakePool, pair) -> None:
    ours, theirs = pair()
    told = Told()
    handle = make_pool().associate(ours, told)
    operations = [handle.receive(1) for _ in range(100)]
    data = bytes(range(100))
    theirs.sendall(data)
    completions = [told.next() for _ in operations]
    assert [completion.operation for completion in completions] == operations
    assert b"".join(completion.value for completion in completions) == data


def test_the_peers_end_is_told_to_every_receive(make_pool: MakePool, pair) -> None:
    ours, theirs = pair()
    told = Told()
    handle = make_pool().associate(ours, told)
    handle.receive()
    handle.receive()
    theirs.sendall(b"last words")
    assert told.value() == b"last words"
    theirs.shutdown(socket.SHUT_WR)
    assert told.value() == b""
    handle.receive()
    assert told.value() == b""
    handle.send(b"good bye")  # it may still receive
    assert told.value() == 8
    assert theirs.recv(100) == b"good bye"


def test_a_reset_is_told_as_such_and_never_as_an_end(make_pool: MakePool) -> None:
    ours, theirs = tcp_pair()
    told = Told()
    handle = make_pool().associate(ours, told)
    handle.receive()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    completion = told.next()
    assert completion.value is None
    assert isinstance(completion.error, ConnectionResetError)
    handle.receive()
    assert isinstance(told.next().error, ConnectionResetError)
    handle.send(b"x")
    completion = told.next()
    assert completion.value == 0
    assert isinstance(completion.error, ConnectionError)
    handle.close()


def test_nothing_is_received_while_no_receive_is_pending(make_pool: MakePool, pair) -> None:
    """The kernel's buffers fill up, and the peer notices."""
    ours, theirs = pair()
    told = Told()
    handle = make_pool().associate(ours, told)
    handle.receive()
    theirs.sendall(b"x")
    assert told.value() == b"x"
    theirs.setblocking(False)
    sent = 0
    try:
        while True:
            sent += theirs.send(bytes(65536))
    except BlockingIOError:
        pass
    assert handle.statistics().kept_bytes <= 65536
    received = 0
    while received < sent:
        handle.receive()
        received += len(told.value())


def test_large_messages_are_received_whole(make_pool: MakePool, pair) -> None:
    ours, theirs = pair()
    told = Told()
    handle = make_pool().associate(ours, told)
    data = os.urandom(5_000_000)
    sender = threading.Thread(target=theirs.sendall, args=(data,))
    sender.start()
    received = bytearray()
    while len(received) < len(data):
        handle.receive(70_001)
        received += told.value()
    sender.join(TIMEOUT)
    assert received == data


# ---- sending ----


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"abc",
        b"x" * 5000,
        bytearray(b"y" * 10),
        bytearray(b"y" * 5000),
        memoryview(b"z" * 9000)[1:8000],
        memoryview(bytearray(b"0123"))[1:3],
    ],
)
def test_any_bytes_like_object_is_sent(make_pool: MakePool, pair, data: Any) -> None:
    ours, theirs = pair()
    told = Told()
    handle = make_pool().associate(ours, told)
    handle.send(data)
    assert told.value() == len(data)
    received = b""
    while len(received) < len(data):
        received += theirs.recv(65536)
    assert received == bytes(data)


def test_an_array_of_numbers_is_sent_as_it_lies(make_pool: MakePool, pair) -> None:
    import array

    ours, theirs = pair()
    told = Told()
    numbers = array.array("d", [1.5, 2.5])
    make_pool().associate(ours, told).send(numbers)
    assert told.value() == 16
    assert theirs.recv(100) == numbers.tobytes()


def test_sends_leave_in_order_however_slowly_the_peer_reads(make_pool: MakePool, pair) -> None:
    ours, theirs = pair()
    told = Told()
    handle = make_pool().associate(ours, told)
    pieces = [bytes([number]) * 100_000 for number in range(50)]
    operations = [handle.send(piece) for piece in pieces]
    assert handle.statistics().sends > 0
    assert handle.statistics().unsent_bytes > 0
    received = bytearray()
    while len(received) < 5_000_000:
        received += theirs.recv(65536)
    assert received == b"".join(pieces)
    completions = [told.next() for _ in pieces]
    assert [completion.operation for completion in completions] == operations
    assert {completion.value for completion in completions} == {100_000}
    assert handle.statistics().sent_bytes == 5_000_000


def test_a_large_buffer_is_held_until_its_send_is_complete(make_pool: MakePool, pair) -> None:
    ours, theirs = pair()
    resized = threading.Event()
    told = Told()
    data = bytearray(3_000_000)

    def again(completion: proactor.Completion) -> None:
        data.append(1)  # whoever is told of it may use it again
        resized.set()

    make_pool().associate(ours, again).send(data)
    with pytest.raises(BufferError):
        data.append(1)
    received = 0
    while received < 3_000_000:
        received += len(theirs.recv(1 << 20))
    assert resized.wait(TIMEOUT)
    del told


def test_what_cannot_be_sent_is_refused_with_the_reason(make_pool: MakePool, pair) -> None:
    handle = make_pool().associate(pair()[0], print)
    with pytest.raises(TypeError, match="encode the text"):
        handle.send("text")
    with pytest.raises(TypeError, match=r"bytes-like object .* not int"):
        handle.send(5)
    with pytest.raises(ValueError, match="contiguous"):
        handle.send(memoryview(bytes(10_000))[::2])
    for limit in (0, -1):
        with pytest.raises(ValueError, match=f"limit must be at least 1 byte, not {limit}: "):
            handle.receive(limit)
    for beyond in (2**63, -(2**70)):
        with pytest.raises(ValueError, match=rf"limit must be at least 1 byte and below 2\*\*63, not {beyond}"):
            handle.receive(beyond)
    for unfit, shown in ((2.5, "2.5"), (None, "None"), ("1", "'1'"), (True, "True"), (False, "False")):
        with pytest.raises(TypeError, match=f"limit must be a whole number of bytes, not {shown}"):
            handle.receive(unfit)  # type: ignore[arg-type]
    assert handle.statistics().completed == 0


# ---- cancelling, closing ----


def test_a_cancelled_receive_completes_once_and_the_next_gets_the_bytes(make_pool: MakePool, pair) -> None:
    ours, theirs = pair()
    told = Told()
    handle = make_pool().associate(ours, told)
    first, second = handle.receive(), handle.receive()
    assert first.cancel()
    completion = told.cancelled()
    assert completion.operation is first
    assert completion.value is None
    assert not first.cancel()
    theirs.sendall(b"for the second")
    completion = told.next()
    assert (completion.operation, completion.value) == (second, b"for the second")
    assert not second.cancel()


def test_a_send_that_the_peer_does_not_read_can_be_cancelled(make_pool: MakePool, pair) -> None:
    ours, theirs = pair()
    told = Told()
    handle = make_pool().associate(ours, told)
    data = bytearray(b"x" * 10_000_000)
    stuck, queued = handle.send(data), handle.send(b"queued")
    assert queued.cancel()
    assert told.cancelled().value == 0
    assert stuck.cancel()
    taken = told.cancelled().value
    assert isinstance(taken, int)
    assert 0 < taken < len(data)
    data.clear()  # nobody holds it any more
    handle.send(b"next")
    received = b""
    while not received.endswith(b"next"):
        received += theirs.recv(1 << 20)
    assert len(received) == taken + 4
    assert told.value() == 4


def test_cancel_of_the_handle_cancels_all_and_leaves_it_open(make_pool: MakePool, pair) -> None:
    ours, theirs = pair()
    told = Told()
    pool = make_pool()
    handle = pool.associate(ours, told)
    operations = [handle.receive() for _ in range(5)] + [handle.send(bytes(10_000_000)), handle.send(b"x")]
    assert pool.statistics().operations == 7
    assert handle.cancel() == 7
    assert {told.cancelled().operation for _ in operations} == set(operations)
    assert handle.cancel() == 0
    assert pool.statistics().operations == 0
    handle.receive()
    theirs.sendall(b"still here")
    assert told.value() == b"still here"
    numbers = handle.statistics()
    assert (numbers.completed, numbers.failed, numbers.cancelled, numbers.untold) == (8, 7, 7, 0)


def test_close_completes_what_is_pending_and_is_idempotent(make_pool: MakePool, pair) -> None:
    ours, theirs = pair()
    told = Told()
    pool = make_pool()
    handle = pool.associate(ours, told)
    assert handle.fileno() >= 0
    operations = [handle.receive(), handle.receive()]
    assert pool.statistics().handles == 1
    handle.close()
    handle.close()
    assert [told.cancelled().operation for _ in operations] == operations
    assert handle.closed
    assert handle.fileno() == -1
    assert pool.statistics().handles == 0
    assert theirs.recv(1) == b""
    for submit in (handle.receive, lambda: handle.send(b"x"), lambda: handle.send(bytes(10_000))):
        with pytest.raises(OSError, match="closed") as caught:
            submit()
        assert caught.value.errno == errno.EBADF
    assert handle.cancel() == 0
    assert not operations[0].cancel()
    assert told.queue.empty()


def test_the_function_may_close_and_cancel_its_own_handle(make_pool: MakePool, pair) -> None:
    ours, theirs = pair()
    told = Told()

    def close(completion: proactor.Completion) -> None:
        told(completion)
        if completion.error is None:
            completion.handle.cancel()
            completion.handle.close()

    handle = make_pool().associate(ours, close)
    for _ in range(3):
        handle.receive()
    theirs.sendall(b"x")
    assert told.value() == b"x"
    told.cancelled()
    told.cancelled()


def test_a_handle_that_nobody_holds_closes_but_not_while_something_is_pending(make_pool: MakePool, pair) -> None:
    ours, theirs = pair()
    told = Told()
    pool = make_pool()
    operation = weakref.ref(pool.associate(ours, told).receive())
    gc.collect()
    assert operation() is not None
    theirs.sendall(b"for nobody's handle")
    assert told.value() == b"for nobody's handle"
    # Without the interpreter's lock the worker that has made the completion lets go of it, when it runs again, or the collector does.
    assert eventually(lambda: (gc.collect(), pool.statistics().handles)[1] == 0, "the handle is closed")
    assert theirs.recv(1) == b""


def test_a_handle_in_a_cycle_with_its_function_is_collected(make_pool: MakePool, pair) -> None:
    ours, theirs = pair()

    class Protocol:
        def __init__(self, pool: proactor.ThreadPool) -> None:
            self.handle = pool.associate(ours, self.told)

        def told(self, completion: proactor.Completion) -> None: ...

    Protocol(make_pool())
    gc.collect()
    assert theirs.recv(1) == b""


# ---- the function ----


def test_the_function_is_called_one_at_a_time_for_a_handle_and_in_order(make_pool: MakePool, pair) -> None:
    ours, theirs = pair()
    inside, most, seen = 0, 0, []
    lock, over = threading.Lock(), threading.Event()

    def one_at_a_time(completion: proactor.Completion) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        with proactor.blocking():
            threading.Event().wait(0.001)
        seen.append(completion.value)
        with lock:
            inside -= 1
        if len(seen) == 50:
            over.set()

    handle = make_pool(concurrency=4).associate(ours, one_at_a_time)
    for _ in range(50):
        handle.receive(1)
    theirs.sendall(bytes(range(50)))
    assert over.wait(TIMEOUT)
    assert most == 1
    assert b"".join(seen) == bytes(range(50))


def test_functions_of_different_handles_run_at_the_same_time(make_pool: MakePool, pair) -> None:
    pool = make_pool(concurrency=2)
    both = threading.Barrier(2)
    told = Told()

    def meet(completion: proactor.Completion) -> None:
        with proactor.blocking():
            both.wait(TIMEOUT)
        told(completion)

    sides = [pair() for _ in range(2)]
    handles = [pool.associate(ours, meet) for ours, _ in sides]
    for handle, (_, theirs) in zip(handles, sides, strict=True):
        handle.receive()
        theirs.sendall(b"x")
    assert [told.value() for _ in handles] == [b"x", b"x"]


def test_what_the_function_raises_is_logged_and_the_handle_stays_open(make_pool: MakePool, pair, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = pair()
    told = Told()

    def raises(completion: proactor.Completion) -> None:
        told(completion)
        if completion.value == b"1":
            raise SystemExit("the first")

    with caplog.at_level(logging.ERROR, "proactor"):
        handle = make_pool().associate(ours, raises)
        handle.receive(1)
        handle.receive(1)
        theirs.sendall(b"12")
        assert [told.value(), told.value()] == [b"1", b"2"]
    [record] = [record for record in caplog.records if "raised" in record.message]
    assert "Operation 1 receive completed" in record.message
    assert record.exc_info is not None
    assert not handle.closed
    caplog.clear()


def test_neither_completions_nor_statistics_can_be_changed(make_pool: MakePool, pair) -> None:
    ours, theirs = pair()
    told = Told()
    handle = make_pool().associate(ours, told)
    handle.receive()
    theirs.sendall(b"x")
    completion = told.next()
    for name in ("key", "handle", "operation", "value", "error"):
        with pytest.raises(AttributeError):
            setattr(completion, name, None)
    assert completion.key is None
    completion.release()  # nothing: the worker is done with it when the function is
    snapshot = handle.statistics()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(snapshot, dataclasses.fields(snapshot)[0].name, None)
    assert handle.statistics().received_bytes == 1
    assert "Handle open, 0 operations" in repr(handle)
