"""The futures of submitted calls: real ones, to the standard library and to asyncio, that keep nothing of a finished call."""

import asyncio
import concurrent.futures
import contextvars
import gc
import logging
import sys
import threading
import weakref
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Future,
    InvalidStateError,
    as_completed,
    wait,
)

import pytest

from peers import TIMEOUT, eventually


@pytest.fixture
def gate(make_pool):
    """A pool of one worker that is busy until the gate is opened: `pool, open`."""
    pool = make_pool(max_workers=1, concurrency=1)
    entered, opened = threading.Event(), threading.Event()
    pool.submit(lambda: (entered.set(), opened.wait(TIMEOUT)))
    assert entered.wait(TIMEOUT)
    yield pool, opened.set
    opened.set()


def boom():
    raise KeyError("boom")


def test_a_future_is_one_of_the_standard_librarys_and_tells_its_state(gate) -> None:
    pool, release = gate
    future = pool.submit(pow, 2, 5)
    assert isinstance(future, Future)
    assert (future.running(), future.done(), future.cancelled()) == (False, False, False)
    assert "state=pending" in repr(future)
    release()
    assert future.result(TIMEOUT) == 32
    assert (future.running(), future.done(), future.cancelled()) == (False, True, False)
    assert future.exception() is None
    assert "state=finished returned int" in repr(future)
    failed = pool.submit(boom)
    assert isinstance(failed.exception(TIMEOUT), KeyError)
    assert "state=finished raised KeyError" in repr(failed)
    with pytest.raises(KeyError, match="boom"):
        failed.result()


def test_a_result_that_takes_too_long_is_a_timeout(gate) -> None:
    pool, release = gate
    future = pool.submit(int)
    for timeout in (0, 0.01):
        with pytest.raises(TimeoutError):
            future.result(timeout)
        with pytest.raises(TimeoutError):
            future.exception(timeout)
    release()
    assert future.result(TIMEOUT) == 0


def test_a_cancelled_future_says_so_everywhere_and_lets_its_function_go(gate) -> None:
    pool, release = gate
    called: list[Future] = []

    class Function:
        def __call__(self):
            raise AssertionError("never called")

    function = Function()
    watched = weakref.ref(function)
    future = pool.submit(function)
    future.add_done_callback(called.append)
    del function
    waiting = threading.Thread(target=wait, args=([future],))
    waiting.start()
    gc.disable()
    try:
        assert future.cancel()
        assert future.cancel(), "again: it is cancelled"
        assert watched() is None, "at once, not when a worker comes across it"
    finally:
        gc.enable()
    waiting.join(TIMEOUT)
    assert not waiting.is_alive()
    assert called == [future]
    assert (future.cancelled(), future.done(), future.running()) == (True, True, False)
    for ask in (future.result, future.exception):
        with pytest.raises(CancelledError):
            ask()
    assert "cancelled" in repr(future)
    release()
    assert pool.submit(int).result(TIMEOUT) == 0
    assert not pool.submit(int).cancelled()
    assert pool.statistics().calls_cancelled == 1


def test_a_call_that_runs_or_has_ended_cannot_be_cancelled(make_pool) -> None:
    pool = make_pool()
    entered, release = threading.Event(), threading.Event()
    future = pool.submit(lambda: (entered.set(), release.wait(TIMEOUT)))
    assert entered.wait(TIMEOUT)
    assert future.running()
    assert not future.cancel()
    release.set()
    future.result(TIMEOUT)
    assert not future.cancel()


@pytest.mark.parametrize("how", [ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION])
def test_wait_takes_our_futures_beside_the_standard_librarys(make_pool, how) -> None:
    pool = make_pool()
    with concurrent.futures.ThreadPoolExecutor(2) as others:
        for _ in range(50):
            futures = [executor.submit(function) for executor in (pool, others) for function in (int, boom, int)]
            done, pending = wait(futures, TIMEOUT, return_when=how)
            assert done
            assert done | pending == set(futures)
            if how == ALL_COMPLETED:
                assert not pending


def test_as_completed_answers_each_future_once_while_calls_end_and_are_cancelled(make_pool) -> None:
    pool = make_pool(max_workers=2, concurrency=2)
    for _ in range(30):
        futures = [pool.submit(pow, number, 2) for number in range(50)]
        canceller = threading.Thread(target=lambda futures=futures: [future.cancel() for future in futures[::3]])
        canceller.start()
        assert sorted(map(id, as_completed(futures, TIMEOUT))) == sorted(map(id, futures))
        canceller.join(TIMEOUT)
        assert all(future.cancelled() or future.result() == number**2 for number, future in enumerate(futures))


def test_waiters_that_come_just_as_the_call_ends_are_told(make_pool) -> None:
    pool = make_pool()
    for number in range(3000):
        future = pool.submit(int, number)
        assert wait([future], TIMEOUT).done == {future}
        assert future.result(0) == number


def test_done_callbacks_are_called_once_in_order_and_one_that_raises_stops_nobody(gate, caplog) -> None:
    pool, release = gate
    called: list[object] = []
    future = pool.submit(int)
    future.add_done_callback(lambda future: called.append(1))
    future.add_done_callback(lambda future: boom())
    future.add_done_callback(lambda future: called.append(future))
    release()
    future.result(TIMEOUT)
    eventually(lambda: len(called) == 2, "both were called")
    future.add_done_callback(lambda future: called.append(3))
    assert called == [1, future, 3], "after the end at once, in the caller"
    eventually(lambda: "boom" in caplog.text, "the error is logged")
    assert [record.name for record in caplog.records if record.levelno == logging.ERROR] == ["concurrent.futures"]
    caplog.clear()


def test_a_future_may_be_ended_from_outside_as_in_the_standard_library(gate) -> None:
    pool, release = gate
    called: list[int] = []
    future = pool.submit(called.append, 1)
    failing = pool.submit(called.append, 2)
    future.set_result("mine")
    failing.set_exception(OSError("mine"))
    assert future.result() == "mine"
    with pytest.raises(OSError, match="mine"):
        failing.result()
    with pytest.raises(InvalidStateError):
        future.set_result("again")
    with pytest.raises(RuntimeError, match="begun by its pool"):
        future.set_running_or_notify_cancel()
    release()
    pool.submit(int).result(TIMEOUT)
    assert called == []


def test_futures_are_not_made_by_hand(make_pool) -> None:
    with pytest.raises(TypeError, match="made by its submit"):
        type(make_pool().submit(int))()


def test_asyncio_runs_calls_on_the_pool_and_awaits_its_futures(make_pool) -> None:
    pool = make_pool()

    async def main():
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(pool, pow, 2, 5) == 32
        assert await asyncio.wrap_future(pool.submit(pow, 3, 2)) == 9
        with pytest.raises(KeyError):
            await loop.run_in_executor(pool, boom)
        assert await asyncio.gather(*(loop.run_in_executor(pool, abs, -number) for number in range(500))) == list(range(500))

    asyncio.run(main())


def test_cancelling_what_asyncio_awaits_cancels_the_call(gate) -> None:
    pool, _ = gate

    async def main():
        future = pool.submit(int)
        wrapped = asyncio.wrap_future(future)
        wrapped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wrapped
        return future

    assert asyncio.run(main()).cancelled()


def test_nothing_of_a_finished_call_is_kept(make_pool) -> None:
    """With the garbage collector off: neither a reference left behind nor a cycle."""

    class Thing:
        def __call__(self, *arguments, **keywords):
            return Thing()

    class Error(Exception):
        pass

    class Failing(Thing):
        def __call__(self, *arguments, **keywords):
            raise Error(Thing())

    pool = make_pool(max_workers=1, concurrency=1)
    gc.collect()
    gc.disable()
    try:
        for kind in (Thing, Failing):
            for count in range(3):
                function = kind()
                arguments, keywords = tuple(Thing() for _ in range(min(count, 1))), {"key": Thing()} if count == 2 else {}
                watched = [weakref.ref(thing) for thing in (function, *arguments, *keywords.values())]
                future = pool.submit(function, *arguments, **keywords)
                del function, arguments, keywords
                error = future.exception(TIMEOUT)
                outcome = future.result() if error is None else error
                watched_outcome = weakref.ref(outcome)
                pool.submit(int).result(TIMEOUT)  # the worker is past it
                if error is None:
                    assert [reference() for reference in watched] == [None] * len(watched), "held by nobody once it has ended"
                watched_future = weakref.ref(future)
                del error, outcome, future
                pool.submit(int).result(TIMEOUT)  # without the interpreter's lock who has made an object lets go of it, when it runs again
                assert [reference() for reference in (watched_outcome, watched_future, *watched)] == [None] * (len(watched) + 2)
    finally:
        gc.enable()


def test_a_dropped_future_with_a_cycle_through_its_callback_is_collected(make_pool) -> None:
    pool = make_pool()
    release = threading.Event()
    pool.submit(release.wait, TIMEOUT)
    future = pool.submit(int)
    future.add_done_callback(lambda _, future=future: None)
    watched = weakref.ref(future)
    release.set()
    future.result(TIMEOUT)
    del future
    eventually(lambda: gc.collect() is not None and watched() is None, "it is collected")


def test_a_queued_call_whose_future_nobody_holds_survives_the_garbage_collector(gate) -> None:
    pool, release = gate
    done = threading.Event()
    pool.submit(done.set)
    for _ in range(3):
        gc.collect()
    release()
    assert done.wait(TIMEOUT)


def test_the_context_of_the_submit_is_copied_if_wanted(make_pool) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="worker's")
    variable.set("submitter's")
    assert make_pool().submit(variable.get).result(TIMEOUT) == "worker's"
    pool = make_pool(copy_context=True)
    assert pool.submit(variable.get).result(TIMEOUT) == "submitter's"
    assert list(pool.map(lambda _: variable.get(), range(2))) == ["submitter's"] * 2
    pool.submit(variable.set, "changed in the call").result(TIMEOUT)
    assert variable.get() == "submitter's"
    assert pool.submit(lambda *, a: a, a=1).result(TIMEOUT) == 1


# ---- waiting in a call for another one ----


def test_a_call_that_waits_for_its_own_child_runs_it_in_place(make_pool) -> None:
    pool = make_pool(max_workers=1, concurrency=1)

    def parent():
        return pool.submit(threading.get_ident).result() == threading.get_ident(), pool.submit(boom).exception(TIMEOUT)

    same_thread, error = pool.submit(parent).result(TIMEOUT)
    assert same_thread
    assert isinstance(error, KeyError)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_tree_of_calls_that_wait_for_their_children_never_deadlocks(make_pool, workers) -> None:
    pool = make_pool(max_workers=workers, concurrency=min(2, workers))

    def count(depth):
        return 1 + sum(child.result() for child in [pool.submit(count, depth - 1) for _ in range(3)]) if depth else 1

    assert pool.submit(count, 6).result(TIMEOUT) == (3**7 - 1) // 2


def test_a_child_that_waits_for_its_turn_is_not_run_by_a_poll_of_its_state(make_pool) -> None:
    pool = make_pool(max_workers=1, concurrency=1)

    def parent():
        child = pool.submit(int)
        with pytest.raises(TimeoutError):
            child.result(timeout=0)
        return child

    assert pool.submit(parent).result(TIMEOUT).result(TIMEOUT) == 0


def test_waiting_for_a_call_that_runs_elsewhere_frees_the_slot(make_pool) -> None:
    pool = make_pool(max_workers=4, concurrency=1)
    entered, release = threading.Event(), threading.Event()
    running = pool.submit(lambda: (entered.set(), release.wait(TIMEOUT)))
    assert entered.wait(TIMEOUT)
    waiting = [pool.submit(running.result) for _ in range(2)]
    assert pool.submit(int).result(TIMEOUT) == 0, "the fourth worker has a slot"
    release.set()
    assert [future.result(TIMEOUT) for future in waiting] == [(None, True)] * 2


def test_a_recursion_of_calls_ends_in_a_recursion_error_and_hangs_nobody(make_pool) -> None:
    pool = make_pool(max_workers=1, concurrency=1)
    begun: list[int] = []

    def endless():
        begun.append(1)
        return pool.submit(endless).result()

    with pytest.raises(RecursionError):
        pool.submit(endless).result(TIMEOUT)
    depth = len(begun)
    assert 50 < depth < sys.getrecursionlimit()
    assert pool.submit(int).result(TIMEOUT) == 0
    assert len(begun) == depth, "the last child failed as well, and is not tried again"
    assert pool.statistics().queued == 0


def test_a_deep_child_that_fails_tells_whoever_waits_for_it_elsewhere(make_pool) -> None:
    pool = make_pool(max_workers=1, concurrency=1)
    told = []

    def endless():
        child = pool.submit(endless)
        child.add_done_callback(told.append)
        return child.result()

    future = pool.submit(endless)
    assert isinstance(future.exception(TIMEOUT), RecursionError)
    pool.submit(int).result(TIMEOUT)
    children = list(told)
    assert len(children) > 50
    assert all(isinstance(child.exception(0), RecursionError) for child in children)


def test_cancel_and_running_in_place_and_taking_from_the_queue_race_without_loss(make_pool) -> None:
    pool = make_pool(max_workers=4, concurrency=2)
    calls: list[int] = []

    def parent(number):
        children = [pool.submit(calls.append, (number, index)) for index in range(5)]
        cancelled = {child for child in children[::2] if child.cancel()}
        for child in children:
            if child not in cancelled:
                child.result()
        return sum(child.cancelled() for child in children), len(cancelled)

    parents = [pool.submit(parent, number) for number in range(1000)]
    results = [future.result(TIMEOUT) for future in parents]
    assert all(cancelled == said for cancelled, said in results)
    assert len(calls) == len(set(calls)) == 5000 - sum(cancelled for cancelled, _ in results)
    eventually(lambda: pool.statistics().queued == 0, "nothing is left")
