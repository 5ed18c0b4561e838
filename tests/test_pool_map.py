"""`ThreadPool.map`: order, chunks, buffers, time-outs, and what becomes of the rest."""

import gc
import threading
import time
import weakref

import pytest

from peers import TIMEOUT, eventually


def test_several_iterables_are_read_in_step_until_the_shortest_ends(make_pool) -> None:
    assert list(make_pool().map(pow, range(10), [2] * 5)) == [0, 1, 4, 9, 16]
    assert list(make_pool().map(pow, [], [])) == []


@pytest.mark.parametrize("chunksize", [1, 2, 7, 100, 1000])
@pytest.mark.parametrize("buffersize", [None, 1, 5, 5000])
def test_chunks_and_buffers_change_neither_results_nor_order(make_pool, chunksize, buffersize) -> None:
    results = make_pool().map(lambda a, b: a - b, range(500), range(0, 1000, 2), chunksize=chunksize, buffersize=buffersize)
    assert list(results) == [-number for number in range(500)]


def test_a_chunk_is_one_call(make_pool) -> None:
    pool = make_pool()
    threads = list(pool.map(lambda _: threading.get_ident(), range(100), chunksize=50))
    assert len(set(threads[:50])) == len(set(threads[50:])) == 1
    assert pool.statistics().calls_done == 2


def test_with_a_buffer_the_iterables_are_read_as_the_results_are(make_pool) -> None:
    read = []

    def numbers():
        number = 0
        while True:
            read.append(number)
            yield number
            number += 1

    results = make_pool().map(str, numbers(), buffersize=3)
    assert len(read) == 3
    assert [next(results) for _ in range(5)] == list("01234")
    assert len(read) == 8
    results.close()


def test_calls_begin_before_the_first_result_is_asked_for(make_pool) -> None:
    called = threading.Event()
    results = make_pool().map(lambda _: called.set(), range(1))
    assert called.wait(TIMEOUT)
    assert list(results) == [None]


@pytest.mark.parametrize("chunksize", [1, 2])
def test_an_error_comes_in_its_turn_and_cancels_the_rest(make_pool, chunksize) -> None:
    pool = make_pool(max_workers=1, concurrency=1)
    release, called = threading.Event(), []

    def work(number):
        called.append(number)
        if number == 4:
            raise KeyError(number)
        if number == 6:
            release.wait(TIMEOUT)
        return number

    results = pool.map(work, range(100), chunksize=chunksize)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(KeyError):
        next(results)
    release.set()
    pool.submit(int).result(TIMEOUT)
    assert len(called) < 10
    assert list(results) == []


def test_dropping_the_iterator_cancels_what_has_not_begun(make_pool) -> None:
    pool = make_pool(max_workers=1, concurrency=1)
    release, called = threading.Event(), []

    def work(number):
        called.append(number)
        if number:
            release.wait(TIMEOUT)

    results = pool.map(work, range(100))
    next(results)
    del results
    release.set()
    pool.submit(int).result(TIMEOUT)
    assert len(called) <= 2
    assert pool.statistics().calls_cancelled >= 98


def test_the_time_out_counts_from_the_call_and_cancels_the_rest(make_pool) -> None:
    pool = make_pool(max_workers=1, concurrency=1)
    entered, release = threading.Event(), threading.Event()

    def work(number):
        if number:
            entered.set()
            release.wait(TIMEOUT)
        return number

    begun = time.monotonic()
    results = pool.map(work, range(10), timeout=0.2)
    assert entered.wait(TIMEOUT)
    assert next(results) == 0
    with pytest.raises(TimeoutError):
        next(results)
    assert 0.2 <= time.monotonic() - begun < TIMEOUT
    release.set()
    eventually(lambda: pool.statistics().calls_cancelled == 8, "the rest is cancelled")


@pytest.mark.parametrize("chunksize", [1, 3])
def test_the_iterator_holds_no_result_that_was_read(make_pool, chunksize) -> None:
    class Thing:
        pass

    pool = make_pool(max_workers=1, concurrency=1)
    gc.disable()
    try:
        results = pool.map(lambda _: Thing(), range(9), chunksize=chunksize)
        pool.submit(int).result(TIMEOUT)
        for thing in results:
            watched = weakref.ref(thing)
            del thing
            pool.submit(int).result(TIMEOUT)  # without the interpreter's lock who has made an object lets go of it, when it runs again
            assert watched() is None
    finally:
        gc.enable()


def test_a_map_inside_a_call_runs_in_place_where_it_must(make_pool) -> None:
    pool = make_pool(max_workers=1, concurrency=1)
    assert pool.submit(lambda: sum(pool.map(abs, range(-10, 0)))).result(TIMEOUT) == 55


@pytest.mark.parametrize(
    ("options", "error"),
    [({"chunksize": 0}, ValueError), ({"buffersize": 0}, ValueError), ({"chunksize": 1.5}, TypeError), ({"buffersize": "1"}, TypeError)],
)
def test_a_wrong_size_is_refused(make_pool, options, error) -> None:
    with pytest.raises(error):
        make_pool().map(int, [], **options)


def test_a_time_out_that_is_no_number_is_named(make_pool):
    with pytest.raises(TypeError, match="timeout must be a number of seconds"):
        make_pool().map(abs, [1], timeout="x")
