"""`ThreadPool` as an executor, and what its numbers say. How it schedules handlers is in test_scheduling.py."""

import gc
import threading
import time
import weakref
from concurrent.futures import BrokenExecutor, CancelledError, Executor, wait

import pytest

import proactor
from peers import TIMEOUT, echo, eventually, read_exactly
from platforms import ENGINES, threads_of_process
from proactor.platform import processors


def test_a_call_is_made_with_its_arguments_and_answers(make_pool) -> None:
    pool = make_pool()
    assert isinstance(pool, Executor)
    assert pool.submit(pow, 2, 10).result(TIMEOUT) == 1024
    assert pool.submit(int, "ff", base=16).result(TIMEOUT) == 255
    assert pool.submit(lambda *, fn, self: (fn, self), fn=1, self=2).result(TIMEOUT) == (1, 2)


def test_an_exception_goes_to_the_future_with_its_traceback(make_pool) -> None:
    error = make_pool().submit(int, "no number").exception(TIMEOUT)
    assert isinstance(error, ValueError)
    assert error.__traceback__ is not None


def test_map_answers_in_order(make_pool) -> None:
    assert list(make_pool().map(lambda x: x * x, range(200), timeout=TIMEOUT)) == [x * x for x in range(200)]


def test_ten_thousand_calls_are_all_made_once(make_pool) -> None:
    pool = make_pool(concurrency=2)
    calls: list[int] = []
    done, pending = wait([pool.submit(calls.append, number) for number in range(10_000)], TIMEOUT)
    assert not pending
    assert sorted(calls) == list(range(10_000))
    assert len(done) == 10_000


def test_calls_submitted_from_many_threads_and_from_calls_are_all_made(make_pool) -> None:
    pool = make_pool()
    inner = []

    def submit(count):
        futures = [pool.submit(pool.submit, lambda: 1) for _ in range(count)]
        inner.extend(future.result(TIMEOUT) for future in futures)

    threads = [threading.Thread(target=submit, args=(100,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert sum(future.result(TIMEOUT) for future in inner) == 500


def test_the_end_of_a_with_block_waits_for_what_was_submitted() -> None:
    calls = []
    with proactor.ThreadPool() as pool:
        for number in range(20):
            pool.submit(lambda number=number: (time.sleep(0.005), calls.append(number)))
    assert sorted(calls) == list(range(20))


def test_after_shutdown_nothing_is_taken() -> None:
    pool = proactor.ThreadPool()
    pool.submit(int).result(TIMEOUT)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(int)
    with pytest.raises(RuntimeError, match="shut down"):
        proactor.serve(echo, ("127.0.0.1", 0), pool=pool)
    pool.shutdown()


def test_shutdown_with_cancel_futures_cancels_what_has_not_begun() -> None:
    pool = proactor.ThreadPool(max_workers=1, concurrency=1)
    entered, release = threading.Event(), threading.Event()
    first = pool.submit(lambda: (entered.set(), release.wait(TIMEOUT)))
    assert entered.wait(TIMEOUT)
    rest = [pool.submit(int) for _ in range(5)]
    ending = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": True})
    ending.start()
    wait(rest, TIMEOUT)
    assert all(future.cancelled() for future in rest)
    release.set()
    ending.join(TIMEOUT)
    assert first.result(TIMEOUT) == (None, True)
    with pytest.raises(CancelledError):
        rest[0].result(TIMEOUT)


def test_a_cancelled_future_is_never_called(make_pool) -> None:
    pool = make_pool(max_workers=1, concurrency=1)
    release, called = threading.Event(), []
    pool.submit(release.wait, TIMEOUT)
    future = pool.submit(called.append, 1)
    assert future.cancel()
    release.set()
    pool.submit(int).result(TIMEOUT)
    assert called == []


def test_shutdown_without_waiting_finishes_in_the_background() -> None:
    pool = proactor.ThreadPool()
    release = threading.Event()
    futures = [pool.submit(release.wait, TIMEOUT)] + [pool.submit(int) for _ in range(10)]
    pool.shutdown(wait=False)
    assert not futures[0].done()
    release.set()
    assert wait(futures, TIMEOUT).not_done == set()


def test_a_call_may_shut_its_own_pool_down() -> None:
    for arguments in ({}, {"wait": False}, {"cancel_futures": True}):
        pool = proactor.ThreadPool()
        after = []

        def end(pool=pool, arguments=arguments, after=after):
            after.append(pool.submit(lambda: "queued before"))
            pool.shutdown(**arguments)
            return "returned"

        assert pool.submit(end).result(TIMEOUT) == "returned"
        wait(after, TIMEOUT)
        assert after[0].done(), "no future is left hanging"
        assert after[0].cancelled() or after[0].result() == "queued before"


def test_shutdown_from_many_threads_at_once() -> None:
    for _ in range(20):
        pool = proactor.ThreadPool()
        futures = [pool.submit(int) for _ in range(10)]
        threads = [threading.Thread(target=pool.shutdown) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()
        assert all(future.done() for future in futures)


def test_calls_queued_on_a_servers_own_pool_are_made_before_it_ends() -> None:
    with proactor.serve(echo, ("127.0.0.1", 0)) as server:
        futures = [server.pool.submit(lambda: time.sleep(0.001)) for _ in range(50)]
    assert all(future.done() and not future.cancelled() for future in futures)


def test_closing_a_server_leaves_no_future_of_its_pool_hanging() -> None:
    server = proactor.serve(echo, ("127.0.0.1", 0))
    futures = [server.pool.submit(lambda: time.sleep(0.01)) for _ in range(50)]
    server.close()
    assert wait(futures, TIMEOUT).not_done == set()


def test_the_initializer_runs_once_in_each_worker(make_pool) -> None:
    local = threading.local()
    runs: list[str] = []

    def initialize(value):
        local.value = value
        runs.append(threading.current_thread().name)

    pool = make_pool(thread_name_prefix="prepared", initializer=initialize, initargs=("given",), concurrency=2, max_workers=6)
    barrier = threading.Barrier(4)
    names = [pool.submit(lambda: (barrier.wait(TIMEOUT), local.value, threading.current_thread().name)) for _ in range(4)]
    results = [future.result(TIMEOUT) for future in names]
    assert {value for _, value, _ in results} == {"given"}
    assert len({name for *_, name in results}) == 4
    assert {name for *_, name in results} <= set(runs)
    assert len(set(runs)) == len(runs)
    assert all(name.startswith("prepared-") for name in runs)


def test_an_initializer_that_raises_breaks_the_pool_and_hangs_nobody(caplog) -> None:
    def broken():
        raise OSError("no database")

    pool = proactor.ThreadPool(initializer=broken)
    future = pool.submit(int)
    assert isinstance(future.exception(TIMEOUT), BrokenExecutor)
    with pytest.raises(BrokenExecutor, match="initializer"):
        pool.submit(int)
    pool.shutdown()
    assert "no database" in caplog.text
    assert [(record.name, record.levelname) for record in caplog.records] == [("concurrent.futures", "CRITICAL")], (
        "as the standard library's"
    )
    assert caplog.records[0].getMessage().startswith("Exception in initializer:")


def test_an_initializer_that_raises_later_breaks_the_pool_too(caplog) -> None:
    started = []

    def second_fails():
        started.append(1)
        if len(started) > 1:
            raise OSError("no more connections")

    release = threading.Event()
    with proactor.ThreadPool(initializer=second_fails, concurrency=2) as pool:
        running = pool.submit(release.wait, TIMEOUT)
        queued = []

        def refuses() -> bool:
            try:
                queued.append(pool.submit(int))
            except BrokenExecutor:
                return True
            return False

        eventually(refuses, "a second worker was to be started, and the pool takes no more work")
        release.set()
        wait(queued, TIMEOUT)
        assert all(future.done() for future in queued), "either done by the worker that lives, or broken"
        assert running.result(TIMEOUT)
    caplog.clear()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_workers": 0}, ValueError),
        ({"max_workers": -1}, ValueError),
        ({"concurrency": 0}, ValueError),
        ({"idle_seconds": -1}, ValueError),
        ({"busy_poll": -1}, ValueError),
        ({"busy_poll": None}, TypeError),
        ({"busy_poll": float("inf")}, ValueError),
        ({"busy_poll": float("nan")}, ValueError),
        ({"initializer": 5}, TypeError),
        ({"engine": "no such engine"}, ValueError),
    ],
)
def test_a_wrong_argument_is_refused(arguments, error) -> None:
    with pytest.raises(error, match=next(iter(arguments))):
        proactor.ThreadPool(**arguments)


def test_the_engine_may_be_named_by_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("PROACTOR_ENGINE", ENGINES[0])
    with proactor.ThreadPool() as pool:
        assert pool.statistics().engine == ENGINES[0]
    monkeypatch.setenv("PROACTOR_ENGINE", "steam")
    with pytest.raises(ValueError, match=r"steam.*choose one of"):
        proactor.ThreadPool()


def test_defaults_follow_the_processors_this_process_may_use(make_pool) -> None:
    pool = make_pool()
    assert 1 <= pool.concurrency <= processors()
    assert pool.max_workers == min(512, 64 * pool.concurrency)
    assert f"concurrency={pool.concurrency}" in repr(pool)


def test_threads_start_with_the_first_work(make_pool) -> None:
    python_threads = threading.active_count()
    pool = make_pool(thread_name_prefix="late")
    assert threading.active_count() == python_threads
    pool.submit(int).result(TIMEOUT)
    assert any(thread.name.startswith("late-") for thread in threading.enumerate())


def test_worker_names_have_the_prefix(make_pool) -> None:
    name = make_pool(thread_name_prefix="mine").submit(lambda: threading.current_thread().name).result(TIMEOUT)
    assert name.startswith("mine-")
    name = make_pool().submit(lambda: threading.current_thread().name).result(TIMEOUT)
    assert name.startswith("proactor-")


def test_statistics_are_a_frozen_snapshot(make_pool) -> None:
    pool = make_pool(concurrency=1, max_workers=3)
    release, entered = threading.Event(), threading.Event()
    before = pool.statistics()
    assert (before.workers, before.running, before.queued, before.finished) == (0, 0, 0, 0)

    def spin():
        entered.set()
        while not release.is_set():
            pass

    future = pool.submit(spin)
    assert entered.wait(TIMEOUT)
    try:
        waiting = [pool.submit(int) for _ in range(4)]
        # Beside other processes a computing call may be taken for a blocked one for a moment.
        assert (during := pool.statistics()).running + during.blocked >= 1
    finally:
        release.set()
    future.result(TIMEOUT)
    wait(waiting, TIMEOUT)
    after = eventually(
        lambda: (numbers := pool.statistics()).finished == 5 and numbers.running == 0 and numbers, "five calls were finished"
    )
    assert (after.concurrency, after.max_workers, after.engine) == (1, 3, ENGINES[0])
    assert after.running == after.queued == after.blocked == 0
    assert 1 <= after.workers <= 3
    with pytest.raises(AttributeError):
        after.workers = 7


def test_there_are_never_more_workers_than_max_workers(make_pool) -> None:
    pool = make_pool(concurrency=2, max_workers=5)
    release = threading.Event()
    futures = [pool.submit(release.wait, TIMEOUT) for _ in range(5)]
    eventually(lambda: pool.statistics().workers == 5, "all are busy")
    most = max(pool.statistics().workers for _ in range(1000))
    release.set()
    wait(futures, TIMEOUT)
    assert most == 5


def test_surplus_workers_retire_and_the_pool_still_works(make_pool) -> None:
    pool = make_pool(concurrency=1, max_workers=10, idle_seconds=0.1)
    barrier = threading.Barrier(6)
    for future in [pool.submit(barrier.wait, TIMEOUT) for _ in range(6)]:
        future.result(TIMEOUT)
    assert pool.statistics().workers >= 6
    eventually(lambda: pool.statistics().workers <= 2, "a leader and one spare are left")
    assert pool.statistics().retired >= 4
    assert pool.submit(lambda: 5).result(TIMEOUT) == 5
    barrier = threading.Barrier(6)
    for future in [pool.submit(barrier.wait, TIMEOUT) for _ in range(6)]:
        future.result(TIMEOUT)


def test_a_pool_that_is_dropped_without_shutdown_ends_its_threads() -> None:
    before = threads_of_process()
    pool = proactor.ThreadPool()
    futures = [pool.submit(lambda: 5) for _ in range(10)]
    watched = weakref.ref(pool)
    del pool
    gc.collect()
    assert watched() is None
    assert [future.result(TIMEOUT) for future in futures] == [5] * 10, "what was submitted is still done"
    eventually(lambda: threads_of_process() <= before, "its threads have ended")


def test_a_result_is_not_kept_by_the_worker(make_pool) -> None:
    class Thing:
        pass

    pool = make_pool()
    thing = Thing()
    watched = weakref.ref(thing)
    future = pool.submit(lambda value: value, thing)
    assert future.result(TIMEOUT) is thing
    del thing, future
    eventually(lambda: watched() is None, "nobody holds it")


def test_an_exception_is_not_kept_by_the_worker(make_pool) -> None:
    class Thing:
        pass

    def fail(thing):
        raise ValueError("with a frame that holds the thing")

    pool = make_pool()
    watched = []

    def run():
        thing = Thing()
        watched.append(weakref.ref(thing))
        assert isinstance(pool.submit(fail, thing).exception(TIMEOUT), ValueError)

    run()
    eventually(lambda: gc.collect() is not None and watched[0]() is None, "nobody holds it")


def test_busy_poll_serves_and_ends(serve, connect, make_pool) -> None:
    client = connect(serve(echo, pool=make_pool(busy_poll=0.001)))
    for number in range(100):
        client.sendall(bytes([number]))
        assert read_exactly(client, 1) == bytes([number])


def test_one_worker_alone_serves_everybody(serve, connect, make_pool) -> None:
    """The same thread leads, handles and sends."""
    pool = make_pool(max_workers=1, concurrency=1)
    server = serve(echo, pool=pool)
    clients = [connect(server) for _ in range(10)]
    for _ in range(20):
        for number, client in enumerate(clients):
            client.sendall(bytes([number]) * 100)
        for number, client in enumerate(clients):
            assert read_exactly(client, 100) == bytes([number]) * 100
    assert pool.statistics().workers == 1
