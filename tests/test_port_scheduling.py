"""What the scheduler promises, seen from callers' threads: the cap, compensation, newest first, and when one is done with what it got."""

import threading
import time
from collections.abc import Callable

import pytest

import proactor
from peers import TIMEOUT, Computing, Runners, compress, eventually, spin

MakePort = Callable[..., proactor.CompletionPort]


class Threads:
    """Threads that call `handle(completion)` for each completion, until the port is closed."""

    def __init__(self, port: proactor.CompletionPort, start, handle: Callable[[proactor.Completion], object], count: int) -> None:
        self.port = port
        self.handle = handle
        self.names: list[str] = []
        self.threads = []
        for number in range(count):
            # One after the other, so that it is known who waits longest.
            self.threads.append(start(self.work, name=f"thread {number}"))
            eventually(lambda number=number: port.statistics().waiting == number + 1, "it waits")

    def work(self) -> None:
        for completion in self.port:
            self.names.append(threading.current_thread().name)
            self.handle(completion)


def test_twenty_threads_that_sleep_take_little_more_than_one_sleep(make_port: MakePort, start) -> None:
    port = make_port(1)
    done = threading.Semaphore(0)

    def sleepy(_completion: proactor.Completion) -> None:
        time.sleep(0.5)
        done.release()

    Threads(port, start, sleepy, 20)
    begun = time.monotonic()
    for _ in range(20):
        port.post()
    for _ in range(20):
        assert done.acquire(timeout=TIMEOUT)
    assert time.monotonic() - begun < 1.5, "20 x 0.5 s one after the other would be 10 s"
    port.close()


@pytest.mark.parametrize("concurrency", [1, 2])
def test_computing_threads_never_exceed_the_cap(make_port: MakePort, start, concurrency) -> None:
    port = make_port(concurrency)
    runners = Runners()

    def computing(_completion: proactor.Completion) -> None:
        with runners:
            spin(0.01)

    Threads(port, start, computing, 8)
    for _ in range(90):
        port.post()
    eventually(lambda: port.statistics().completed == 90, "all is done")
    port.close()
    # A runner seen in a lock of the allocator or in a page fault may count as blocked; that is rare.
    above = sum(1 for count in runners.seen if count > concurrency)
    assert above <= len(runners.seen) * 0.03, runners.seen


CHOSEN_BEFORE = 0.02
"""Who is chosen for a completion has it so long afterwards at the most: it needs a processor and the interpreter."""


@pytest.mark.linux("there the monitor sees who waits and who has come back (/proc)")
@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("how", [spin, compress])
@pytest.mark.parametrize("sleeps", ["each", "every other"])
def test_who_came_back_from_a_block_and_computes_keeps_others_out(make_port: MakePort, start, concurrency, how, sleeps) -> None:
    """It may finish what it has beside those that were let in for it, and the cap holds for whoever comes next."""
    port = make_port(concurrency)
    computing = Computing()

    def handle(completion: proactor.Completion) -> None:
        computing.let_in()
        if sleeps == "each":
            time.sleep(0.0003)
        elif completion.value % 2:
            return time.sleep(0.03)
        computing.compute(how, 0.03)

    Threads(port, start, handle, 8)
    for number in range(40):
        port.post(value=number)
    eventually(lambda: port.statistics().completed == 40, "all is done")
    port.close()
    beside = computing.beside(concurrency, CHOSEN_BEFORE)
    # A runner seen in a lock of the allocator or in a page fault may count as blocked; that is rare.
    assert len(beside) <= 2, beside


def test_a_computing_thread_keeps_no_other_from_working_below_the_cap(make_port: MakePort, start) -> None:
    port = make_port(2)
    stop, quick = threading.Event(), threading.Semaphore(0)

    def handle(completion: proactor.Completion) -> None:
        if completion.value == "compute":
            while not stop.is_set():
                pass
        quick.release()

    Threads(port, start, handle, 3)
    port.post(value="compute")
    try:
        for _ in range(20):
            port.post(value="quick")
            assert quick.acquire(timeout=TIMEOUT)
    finally:
        stop.set()
    port.close()


def test_a_blocked_thread_frees_its_slot_without_saying_so(make_port: MakePort, start) -> None:
    port = make_port(1)
    event, waited = threading.Event(), threading.Event()

    def handle(completion: proactor.Completion) -> None:
        if completion.value == "wait":
            assert event.wait(TIMEOUT)
            waited.set()
        else:
            event.set()

    Threads(port, start, handle, 2)
    port.post(value="wait")
    eventually(lambda: port.statistics().blocked == 1, "the monitor sees that it is blocked")
    port.post(value="set")
    assert waited.wait(TIMEOUT)
    assert port.statistics().compensations >= 1
    port.close()


def test_blocking_frees_the_slot_at_once_and_may_be_nested(make_port: MakePort, start) -> None:
    port = make_port(1)
    inside = []
    ran = threading.Event()
    over = threading.Event()

    def handle(completion: proactor.Completion) -> None:
        if completion.value == "second":
            return ran.set()
        with proactor.blocking(), proactor.blocking():
            with proactor.blocking():
                inside.append(port.statistics().blocked)
            inside.append(port.statistics().blocked)
            port.post(value="second")
            inside.append(ran.wait(TIMEOUT))
        inside.append(port.statistics().blocked)
        over.set()

    Threads(port, start, handle, 2)
    port.post(value="first")
    assert over.wait(TIMEOUT)
    assert inside[:3] == [1, 1, True]
    port.close()


def test_the_thread_that_waited_last_is_released_first(make_port: MakePort, start) -> None:
    """Eight packets, one after the other: the same thread has them all, though seven more wait."""
    port = make_port(1)
    threads = Threads(port, start, lambda _completion: None, 8)
    for number in range(8):
        port.post(value=number)
        eventually(lambda number=number: port.statistics().completed == number + 1, "it is done")
        eventually(lambda: port.statistics().waiting == 8, "it waits again")
    port.close()
    assert set(threads.names) == {"thread 7"}


def test_threads_that_gave_up_are_not_released(make_port: MakePort, start) -> None:
    port = make_port(1)
    got = []
    patient = start(lambda: got.append(port.get(TIMEOUT).value))
    eventually(lambda: port.statistics().waiting == 1, "the patient one leads")
    for _ in range(5):
        with pytest.raises(TimeoutError):
            port.get(0.01)
    port.post(value=1)
    patient.join(TIMEOUT)
    assert got == [1]


# ---- when a thread is done with what it got ----


def computes_until(stop: threading.Event, got: threading.Event) -> None:
    got.set()
    while not stop.is_set():
        pass


@pytest.mark.parametrize(
    "how", ["the next get", "a get of another port", "release", "its end", "a get that times out", "an interrupted get"]
)
def test_a_thread_is_done_with_what_it_got_at(make_port: MakePort, start, how) -> None:
    """Until then the cap of 1 holds the other one back."""
    port, other = make_port(1), make_port(1)
    got, go_on, over = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        completion = port.get(TIMEOUT)
        computes_until(go_on, got)
        if how == "the next get":
            assert port.get(TIMEOUT).value == 2, "in the same slot: the other one waits for the next"
        elif how == "a get of another port":
            assert other.get(TIMEOUT).value == "elsewhere"
        elif how == "release":
            completion.release()
            assert over.wait(TIMEOUT)
        elif how == "a get that times out":
            with pytest.raises(TimeoutError):
                other.get(0)
            assert over.wait(TIMEOUT)
        elif how == "an interrupted get":
            with pytest.raises(ValueError):
                port.get(-1)
            completion.release()
            assert over.wait(TIMEOUT)

    port.post(value=1)
    thread = start(first)
    assert got.wait(TIMEOUT)
    second = start(lambda: (port.get(TIMEOUT), over.set()))
    try:
        eventually(lambda: port.statistics().waiting == 1, "the second one waits")
        port.post(value=2)
        assert not over.wait(0.2), "there is one slot, and the first computes in it"
        if how == "a get of another port":
            other.post(value="elsewhere")
    finally:
        go_on.set()
    port.post(value=3)
    assert over.wait(TIMEOUT)
    thread.join(TIMEOUT)
    second.join(TIMEOUT)


def test_only_the_thread_that_got_a_completion_releases_it_and_once(make_port: MakePort, start) -> None:
    port = make_port(1)
    port.post(value=1)
    port.post(value=2)
    first = port.get(0)
    refused = threading.Event()

    def release_of_another() -> None:
        with pytest.raises(RuntimeError, match="another thread got this completion"):
            first.release()
        refused.set()

    start(release_of_another).join(TIMEOUT)
    assert refused.is_set()
    assert port.statistics().completed == 0
    second = port.get(0)
    first.release()
    assert port.statistics().completed == 1, "the first was over already, and the second is not"
    second.release()
    second.release()
    assert port.statistics().completed == 2


def test_a_get_in_a_pools_call_frees_the_pools_slot_while_it_waits(make_port: MakePort, make_pool) -> None:
    port = make_port()
    pool = make_pool(concurrency=1, max_workers=2)
    waits = pool.submit(lambda: port.get(TIMEOUT).value)
    eventually(lambda: port._inside(), "it waits")
    pool.submit(port.post, None, "from another call").result(TIMEOUT)
    assert waits.result(TIMEOUT) == "from another call"


def test_what_was_submitted_goes_on_while_all_threads_are_at_work(make_port: MakePort, pair, start) -> None:
    """Nobody is in get: the monitor writes on."""
    port = make_port(1)
    ours, theirs = pair()
    handle = port.associate(ours)
    data = b"x" * 4_000_000
    port.post()
    port.get(0)
    operation = handle.send(data)
    count = 0

    def read() -> None:
        nonlocal count
        while count < len(data):
            count += len(theirs.recv(1 << 16))

    reader = start(read)
    end = time.monotonic() + TIMEOUT
    while operation.pending and time.monotonic() < end:
        pass  # at work, as the monitor sees it
    assert not operation.pending
    reader.join(TIMEOUT)
