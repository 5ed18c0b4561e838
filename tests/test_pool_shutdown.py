"""What a pool's shutdown reports, its watchdog, what its numbers say of calls, and how its size follows the need."""

import dataclasses
import threading
import time
from concurrent.futures import wait

import pytest

import proactor
from peers import TIMEOUT, eventually
from platforms import descriptor_count, resident_bytes, threads_of_process


def stuck_in_here(entered, release):
    entered.thread = threading.current_thread().name
    entered.set()
    release.wait(TIMEOUT)


def test_a_shutdown_in_order_reports_what_was_done() -> None:
    pool = proactor.ThreadPool()
    for number in range(10):
        pool.submit(int, str(number) if number else "no number")
    report = pool.shutdown()
    assert report == proactor.PoolShutdownReport(completed=True, finished=10, cancelled=0, running=())
    assert pool.shutdown() == report
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.finished = 3


def test_a_shutdown_that_runs_out_of_time_names_what_still_runs_with_its_stack() -> None:
    pool = proactor.ThreadPool(max_workers=1, concurrency=1, thread_name_prefix="stuck")
    entered, release = threading.Event(), threading.Event()
    running = pool.submit(stuck_in_here, entered, release)
    assert entered.wait(TIMEOUT)
    queued = [pool.submit(int) for _ in range(3)]
    begun = time.monotonic()
    report = pool.shutdown(timeout=0.1)
    assert 0.1 <= time.monotonic() - begun < TIMEOUT
    assert (report.completed, report.finished, report.cancelled) == (False, 0, 3)
    [stack] = report.running
    assert stack.startswith("stuck-1:\n")
    assert "in stuck_in_here" in stack
    assert stack.index("in stuck_in_here") < stack.index("threading.py"), "the innermost last, as in a traceback"
    assert "proactor/workers.py" not in stack
    assert all(future.cancelled() for future in queued)
    release.set()
    running.result(TIMEOUT)
    assert pool.shutdown().running == ()


def test_a_shutdown_without_waiting_reports_this_moment() -> None:
    pool = proactor.ThreadPool(max_workers=2, concurrency=1)
    entered, release = threading.Event(), threading.Event()
    pool.submit(stuck_in_here, entered, release)
    assert entered.wait(TIMEOUT)
    report = pool.shutdown(wait=False)
    assert "stuck_in_here" in report.running[0]
    assert not report.completed
    release.set()
    assert pool.shutdown() == proactor.PoolShutdownReport(True, 1, 0, ())


def test_a_shutdown_that_cancels_counts_what_it_cancelled() -> None:
    pool = proactor.ThreadPool(max_workers=1, concurrency=1)
    entered, release = threading.Event(), threading.Event()
    pool.submit(stuck_in_here, entered, release)
    assert entered.wait(TIMEOUT)
    queued = [pool.submit(int) for _ in range(4)]
    threading.Timer(0.05, release.set).start()
    report = pool.shutdown(cancel_futures=True)
    assert (report.completed, report.finished, report.cancelled, report.running) == (False, 1, 4, ())
    assert all(future.cancelled() for future in queued)


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_wrong_time_is_refused(make_pool, timeout) -> None:
    with pytest.raises(ValueError, match="timeout"):
        make_pool().shutdown(timeout=timeout)


def test_the_numbers_tell_how_calls_ended_and_how_long_the_oldest_has_waited(make_pool) -> None:
    pool = make_pool(max_workers=1, concurrency=1)
    entered, release = threading.Event(), threading.Event()
    pool.submit(stuck_in_here, entered, release)
    assert entered.wait(TIMEOUT)
    assert pool.statistics().oldest_wait == 0
    begun = time.monotonic()
    oldest, failing, _ = pool.submit(int), pool.submit(int, "no number"), pool.submit(int)
    eventually(lambda: pool.statistics().oldest_wait > 0.05, "it waits")
    numbers = pool.statistics()
    assert numbers.oldest_wait <= time.monotonic() - begun
    assert numbers.queued == 3
    assert oldest.cancel()
    assert (pool.statistics().queued, pool.statistics().calls_cancelled) == (2, 1)
    release.set()
    failing.exception(TIMEOUT)
    numbers = eventually(lambda: (numbers := pool.statistics()).calls_done == 2 and numbers, "all are done")
    assert (numbers.calls_failed, numbers.queued, numbers.oldest_wait) == (1, 0, 0)


def test_the_watchdog_logs_the_stack_of_what_takes_too_long_once(make_pool, caplog) -> None:
    pool = make_pool(concurrency=2, slow_handler_seconds=0.1, thread_name_prefix="slow")
    entered, release = threading.Event(), threading.Event()
    future = pool.submit(stuck_in_here, entered, release)

    def logged():
        return [record for record in caplog.records if "stuck_in_here" in record.getMessage()]

    for number in range(3):
        pool.submit(int, number).result(TIMEOUT)
    eventually(logged, "it is told")
    begun = time.monotonic()
    eventually(lambda: time.monotonic() - begun > 0.3, "and is looked at several times more")
    release.set()
    future.result(TIMEOUT)
    [record] = logged()
    assert record.levelname == "WARNING"
    assert record.name == "proactor"
    assert entered.thread.startswith("slow-")
    assert f" {entered.thread}:" in record.getMessage()
    entered.clear(), release.clear()
    again = pool.submit(stuck_in_here, entered, release)
    eventually(lambda: len(logged()) == 2, "the next call is another one")
    release.set()
    again.result(TIMEOUT)
    caplog.clear()


def test_the_watchdog_sees_handlers_and_those_that_say_that_they_block(serve, connect, caplog) -> None:
    release = threading.Event()

    def handler(connection, data):
        with proactor.blocking():
            release.wait(TIMEOUT)

    with proactor.ThreadPool(slow_handler_seconds=0.05) as pool:
        server = serve(handler, pool=pool)
        client = connect(server)
        client.sendall(b"x")
        eventually(lambda: "in handler" in caplog.text, "it is told")
        release.set()
        server.shutdown(TIMEOUT)
    caplog.clear()


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_wrong_limit_of_the_watchdog_is_refused(make_pool, seconds) -> None:
    with pytest.raises(ValueError, match="slow_handler_seconds"):
        make_pool(slow_handler_seconds=seconds)


def test_a_thousand_sleeping_calls_take_little_more_than_their_share_of_the_workers(make_pool) -> None:
    pool = make_pool(concurrency=2, max_workers=100)
    begun = time.monotonic()
    wait([pool.submit(time.sleep, 0.1) for _ in range(1000)], TIMEOUT)
    seconds = time.monotonic() - begun
    assert pool.statistics().workers == 100
    assert seconds < 2.5, "10 rounds of 0.1 s, and the time to find out that calls block"


def test_computing_calls_never_get_more_runners_than_the_cap(make_pool) -> None:
    pool = make_pool(concurrency=2, max_workers=50)
    most = []

    def compute():
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            most.append(pool.statistics().running)

    wait([pool.submit(compute) for _ in range(50)], TIMEOUT)
    assert max(most) <= 2


@pytest.mark.slow
def test_a_hundred_thousand_calls_leave_nothing() -> None:
    threads, descriptors = threads_of_process(), descriptor_count()

    def round_of_calls(pool, count):
        for _ in range(count // 10_000):
            futures = [pool.submit(int) for _ in range(10_000)]
            for future in futures[::7]:
                future.cancel()
            wait(futures, TIMEOUT)

    with proactor.ThreadPool(max_workers=8) as pool:
        round_of_calls(pool, 30_000)
        grown = []
        for _ in range(4):
            before = resident_bytes()
            round_of_calls(pool, 30_000)
            grown.append(resident_bytes() - before)
        assert pool.statistics().queued == 0
    assert min(grown) < 30_000 * 40, "a leak shows in every round, what the allocator keeps does not"
    eventually(lambda: threads_of_process() <= threads, "its threads have ended")
    eventually(lambda: descriptor_count() <= descriptors, "its descriptors are closed")
