"""Many timers and waits: none is lost, and what they took is given back."""

import gc
import os
import threading
from collections.abc import Callable, Iterator

import pytest

import proactor
from peers import eventually, threads_beside_workers
from platforms import descriptor_count, resident_bytes, resource

TIMEOUT = 60.0


def resident() -> int:
    """Bytes of memory in use."""
    gc.collect()
    return resident_bytes()


class Countdown:
    """A function that is called so many times."""

    def __init__(self, count: int) -> None:
        self.lock = threading.Lock()
        self.left = count
        self.over = threading.Event()

    def __call__(self, *arguments: object) -> None:
        with self.lock:
            self.left -= 1
            if self.left == 0:
                self.over.set()


@pytest.fixture
def many_descriptors() -> Iterator[int]:
    """The limit of descriptors raised to its most; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_hundred_thousand_timers_leave_nothing(make_pool: Callable[..., proactor.ThreadPool]) -> None:
    pool = make_pool()

    def round_of(count: int) -> None:
        called = Countdown(count)
        for number in range(count):
            pool.call_after(number % 100 * 0.001, called)
        cancelled = [pool.call_after(1000, called) for _ in range(count)]
        assert all(timer.cancel() for timer in cancelled)
        assert called.over.wait(TIMEOUT)
        assert pool.statistics().timers == 0

    # How many are pending at a time depends on the machine: the first round is the largest.
    round_of(40_000)
    before, threads = resident(), threads_beside_workers(pool)
    for _ in range(5):
        round_of(20_000)
    assert resident() - before < 8 << 20, "40 bytes a timer"
    assert threads_beside_workers(pool) <= threads + 1


@pytest.mark.linux("eventfd")
def test_a_hundred_thousand_waits_leave_nothing(make_pool: Callable[..., proactor.ThreadPool], many_descriptors: int) -> None:
    """Ten thousand at a time, on a thousand descriptors: half of them are signalled, a quarter cancelled, a quarter timed out."""
    count = 10_000
    if many_descriptors < 2 * count:
        pytest.skip(f"needs {2 * count} descriptors, may have {many_descriptors}")
    pool = make_pool()
    pool.submit(int).result(TIMEOUT)
    descriptors, threads = len(os.listdir("/proc/self/fd")), threads_beside_workers(pool)

    def round_of_waits() -> None:
        called = Countdown(count * 3 // 4)
        counters = [os.eventfd(0) for _ in range(count // 10)]
        signalled, silent = counters[::2], counters[1::2]
        waits = [pool.call_when(counter, called, timeout=1000) for counter in signalled for _ in range(10)]
        given_up = [pool.call_when(counter, called, timeout=1000) for counter in silent for _ in range(5)]
        assert pool.statistics().waits == count * 3 // 4
        waits += [pool.call_when(counter, called, timeout=0.01) for counter in silent for _ in range(5)]
        assert threads_beside_workers(pool) <= threads + 2
        assert all(wait.cancel() for wait in given_up)
        for counter in signalled:
            os.eventfd_write(counter, 1)
        assert called.over.wait(TIMEOUT)
        eventually(lambda: not pool.statistics().waits, "no wait is left")
        assert not any(wait.pending for wait in waits + given_up)
        for counter in counters:
            os.close(counter)
        assert len(os.listdir("/proc/self/fd")) == descriptors

    round_of_waits()
    round_of_waits()
    before = resident()
    for _ in range(10):
        round_of_waits()
    assert resident() - before < 8 << 20, "80 bytes a wait"
    assert threads_beside_workers(pool) <= threads + 2


@pytest.mark.linux("eventfd")
def test_ten_thousand_waits_at_once(make_pool: Callable[..., proactor.ThreadPool], many_descriptors: int) -> None:
    count = 10_000
    if many_descriptors < 2 * count:
        pytest.skip(f"needs {2 * count} descriptors, may have {many_descriptors}")
    pool = make_pool()
    pool.submit(int).result(TIMEOUT)
    threads, called = threads_beside_workers(pool), Countdown(count)
    counters = [os.eventfd(0) for _ in range(count // 10)]
    for counter in counters * 10:
        pool.call_when(counter, called, timeout=1000)
    assert pool.statistics().waits == count
    assert threads_beside_workers(pool) <= threads + 2
    for counter in counters:
        os.eventfd_write(counter, 1)
    assert called.over.wait(TIMEOUT)
    for counter in counters:
        os.close(counter)


def test_ten_thousand_waits_for_one_event_need_no_descriptor(make_pool: Callable[..., proactor.ThreadPool]) -> None:
    pool = make_pool()
    event, called = proactor.Event(), Countdown(10_000)
    pool.submit(int).result(TIMEOUT)
    assert pool.call_when(event, called, timeout=1000).cancel()
    descriptors = descriptor_count()
    waits = [pool.call_when(event, called, timeout=1000) for _ in range(10_000)]
    assert descriptor_count() <= descriptors
    event.set()
    assert called.over.wait(TIMEOUT)
    assert not any(wait.cancel() for wait in waits)


def test_pending_timers_are_small(make_pool: Callable[..., proactor.ThreadPool]) -> None:
    pool = make_pool()
    pool.submit(int).result(TIMEOUT)
    before = resident()
    timers = [pool.call_after(1000, int) for _ in range(200_000)]
    assert (resident() - before) / len(timers) < 400
    pool.shutdown()
    assert all(timer.cancelled for timer in timers)


def test_timers_that_are_made_and_cancelled_from_many_threads_come_or_were_prevented(make_pool: Callable[..., proactor.ThreadPool]) -> None:
    pool = make_pool()
    changed = threading.Condition()
    came = prevented = 0

    def call() -> None:
        nonlocal came
        with changed:
            came += 1
            changed.notify()

    def make() -> None:
        nonlocal prevented
        for number in range(2_000):
            timer = pool.call_after(number % 3 * 0.0005, call)
            if number % 2 and timer.cancel():
                with changed:
                    prevented += 1

    makers = [threading.Thread(target=make) for _ in range(4)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(TIMEOUT)
    with changed:
        changed.wait_for(lambda: came + prevented >= 8_000, TIMEOUT)
    pool.shutdown()
    assert came + prevented == 8_000
