"""Operations under races: however submitting, cancelling, closing, resets and the pool's end meet, each completes exactly once."""

import collections
import errno
import gc
import random
import socket
import threading
from collections.abc import Callable

import pytest

import proactor
from peers import TIMEOUT, threads_beside_workers
from platforms import RACE_ROUNDS, descriptor_count, resident_bytes


def resident() -> int:
    """Bytes of memory in use."""
    gc.collect()
    return resident_bytes()


class Books:
    """Which operations were submitted, and how often each was told."""

    def __init__(self) -> None:
        # Guards all; notified when one was told.
        self.lock = threading.Condition()
        self.told: collections.Counter[proactor.Operation] = collections.Counter()
        self.errors: set[int | None] = set()
        self.submitted: list[proactor.Operation] = []

    def __call__(self, completion: proactor.Completion) -> None:
        with self.lock:
            self.told[completion.operation] += 1
            self.errors.add(completion.error.errno if completion.error is not None else None)
            self.lock.notify()

    def submit(self, submit: Callable[[], proactor.Operation]) -> None:
        try:
            operation = submit()
        except OSError as error:
            assert error.errno == errno.EBADF
        else:
            with self.lock:
                self.submitted.append(operation)

    def balance(self) -> bool:
        """Waits until all that were submitted were told."""
        with self.lock:
            return self.lock.wait_for(lambda: len(self.told) == len(self.submitted), TIMEOUT)

    def check(self) -> None:
        with self.lock:
            assert set(self.told) == set(self.submitted)
            assert set(self.told.values()) <= {1}
            assert self.errors <= {None, errno.ECANCELED, errno.ECONNRESET, errno.EPIPE}, self.errors


def connect(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A connected pair, TCP or Unix."""
    if random.random() < 0.5:
        return socket.socketpair()
    ours = socket.create_connection(listener.getsockname(), TIMEOUT)
    return ours, listener.accept()[0]


def race(handle: proactor.Handle, theirs: socket.socket, books: Books, actions: list[str], data: bytearray) -> None:
    for action in actions:
        match action:
            case "receive":
                books.submit(handle.receive)
            case "send":
                books.submit(lambda: handle.send(data))
            case "small":
                books.submit(lambda: handle.send(b"small"))
            case "cancel":
                handle.cancel()
            case "cancel one":
                with books.lock:
                    operation = books.submitted[-1] if books.submitted else None
                if operation is not None:
                    operation.cancel()
            case "close":
                handle.close()
            case "peer sends":
                try:
                    theirs.send(b"from the peer")
                except OSError:
                    pass
            case "peer reads":
                try:
                    theirs.recv(65536)
                except OSError:
                    pass
            case "reset":
                try:
                    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    theirs.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


ACTIONS = ["receive"] * 4 + ["send", "small", "small"] + ["cancel", "cancel one", "cancel one"] + ["peer sends"] * 3 + ["peer reads"] * 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_operation_completes_exactly_once_in_thousands_of_races(make_pool: Callable[..., proactor.ThreadPool]) -> None:
    pool = make_pool(concurrency=2)
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    data = bytearray(b"x" * 300_000)
    work: list[Callable[[], None]] = []
    barrier = threading.Barrier(2)
    over = False

    def other() -> None:
        while True:
            barrier.wait(TIMEOUT)
            if over:
                return
            work.pop()()
            barrier.wait(TIMEOUT)

    thread = threading.Thread(target=other)
    thread.start()
    rounds = 0
    try:
        for number in range(RACE_ROUNDS):
            random.seed(number)
            ours, theirs = connect(listener)
            theirs.setblocking(False)
            with theirs:
                books = Books()
                handle = pool.associate(ours, books)
                for _ in range(random.randrange(3)):
                    books.submit(handle.receive)
                plans = [random.choices(ACTIONS, k=random.randrange(1, 5)) + random.choice([[], ["close"], ["reset"]]) for _ in range(2)]
                work.append(lambda handle=handle, theirs=theirs, books=books, plan=plans[1]: race(handle, theirs, books, plan, data))
                barrier.wait(TIMEOUT)
                race(handle, theirs, books, plans[0], data)
                barrier.wait(TIMEOUT)
                handle.close()
                assert books.balance(), (number, plans, handle.statistics())
                books.check()
                # Nobody holds the memory any more.
                data.append(0)
                data.pop()
            rounds += 1
    finally:
        over = True
        if thread.is_alive():
            barrier.wait(TIMEOUT)
        thread.join(TIMEOUT)
        listener.close()
    assert rounds == RACE_ROUNDS
    numbers = pool.statistics()
    assert (numbers.handles, numbers.operations) == (0, 0)


def test_the_end_of_the_pool_in_the_middle_loses_no_completion() -> None:
    for number in range(100):
        random.seed(number)
        pool = proactor.ThreadPool(concurrency=2)
        books = Books()
        sides = [socket.socketpair() for _ in range(3)]
        handles = [pool.associate(ours, books) for ours, _ in sides]
        go = threading.Barrier(3)

        def submit(
            handles: list[proactor.Handle] = handles,
            sides: list[tuple[socket.socket, socket.socket]] = sides,
            books: Books = books,
            go: threading.Barrier = go,
        ) -> None:
            go.wait(TIMEOUT)
            for _ in range(20):
                for handle, (_, theirs) in zip(handles, sides, strict=True):
                    race(
                        handle,
                        theirs,
                        books,
                        random.choices(["receive", "small", "send", "peer sends", "cancel one"], k=1),
                        bytearray(100_000),
                    )

        for _, theirs in sides:
            theirs.setblocking(False)
        threads = [threading.Thread(target=submit) for _ in range(2)]
        for thread in threads:
            thread.start()
        go.wait(TIMEOUT)
        report = pool.shutdown(timeout=TIMEOUT)
        assert report.completed
        for thread in threads:
            thread.join(TIMEOUT)
        books.check()
        assert all(handle.closed for handle in handles)
        for _, theirs in sides:
            theirs.close()


def test_many_handles_and_operations_leave_nothing(make_pool: Callable[..., proactor.ThreadPool]) -> None:
    pool = make_pool()
    pool.submit(int).result(TIMEOUT)

    def round_of(count: int) -> None:
        books = Books()
        sides = [socket.socketpair() for _ in range(10)]
        handles = [pool.associate(ours, books) for ours, _ in sides]
        data = bytes(10_000)
        for number in range(count // 20):
            for handle, (_, theirs) in zip(handles, sides, strict=True):
                books.submit(handle.receive)
                if number % 3:
                    theirs.send(b"x" * (number % 100 + 1))
                else:
                    handle.cancel()
                books.submit(lambda handle=handle: handle.send(data))
                theirs.recv(20_000)
        for handle in handles:
            handle.close()
        assert books.balance(), "everything is told"
        books.check()
        for _, theirs in sides:
            theirs.close()

    operations = 2 * RACE_ROUNDS
    round_of(operations)
    descriptors, threads, before = descriptor_count(), threads_beside_workers(pool), resident()
    for _ in range(4):
        round_of(operations)
    assert descriptor_count() == descriptors
    assert threads_beside_workers(pool) <= threads + 1
    assert resident() - before < 8 << 20, "100 bytes an operation of 80,000"
    numbers = pool.statistics()
    assert (numbers.handles, numbers.operations) == (0, 0)
