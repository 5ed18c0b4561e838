"""A pool whose queue has a limit: what submit does when it is reached."""

import threading
from concurrent.futures import wait

import pytest

from peers import TIMEOUT, eventually
from proactor.errors import ProactorError, QueueFull


@pytest.fixture
def full(make_pool):
    """`full(policy)`: a pool of one worker that is busy until the gate is opened, with its one place in the queue taken: `pool, open`."""
    gates = []

    def make(policy):
        pool = make_pool(max_workers=1, concurrency=1, queue_limit=1, queue_policy=policy)
        entered, opened = threading.Event(), threading.Event()
        gates.append(opened)
        pool.submit(lambda: (entered.set(), opened.wait(TIMEOUT)))
        assert entered.wait(TIMEOUT)
        pool.submit(int)
        return pool, opened.set

    yield make
    for gate in gates:
        gate.set()


def test_a_full_queue_raises_if_that_is_the_policy(full) -> None:
    pool, release = full("raise")
    with pytest.raises(QueueFull, match="queue_limit"):
        pool.submit(int)
    assert issubclass(QueueFull, RuntimeError)
    assert issubclass(QueueFull, ProactorError)
    assert (pool.statistics().queued, pool.statistics().queue_full) == (1, 1)
    release()
    eventually(lambda: pool.statistics().queued == 0, "there is room")
    assert pool.submit(int).result(TIMEOUT) == 0


def test_a_full_queue_runs_the_call_in_the_caller_if_that_is_the_policy(full) -> None:
    pool, _ = full("run")
    future = pool.submit(threading.get_ident)
    assert future.done()
    assert future.result() == threading.get_ident()
    failed = pool.submit(int, "no number")
    assert isinstance(failed.exception(), ValueError)
    numbers = pool.statistics()
    assert (numbers.calls_done, numbers.calls_failed, numbers.queued, numbers.queue_full) == (1, 1, 1, 2)


def test_a_full_queue_blocks_until_there_is_room(full) -> None:
    pool, release = full("block")
    submitted = []
    submitter = threading.Thread(target=lambda: submitted.append(pool.submit(threading.get_ident)))
    submitter.start()
    eventually(lambda: pool.statistics().queue_full, "it has found the queue full")
    assert submitted == []
    release()
    submitter.join(TIMEOUT)
    assert submitted[0].result(TIMEOUT) != submitter.ident


def test_cancelling_a_queued_call_makes_room(make_pool) -> None:
    pool = make_pool(max_workers=1, concurrency=1, queue_limit=1)
    release = threading.Event()
    pool.submit(release.wait, TIMEOUT)
    eventually(lambda: pool.statistics().queued == 0, "it has begun")
    queued = pool.submit(int)
    submitter = threading.Thread(target=pool.submit, args=(int,))
    submitter.start()
    eventually(lambda: pool.statistics().queue_full, "it has found the queue full")
    assert queued.cancel()
    submitter.join(TIMEOUT)
    assert not submitter.is_alive()
    release.set()


def test_shutdown_ends_a_submit_that_waits_for_room(full) -> None:
    pool, release = full("block")
    errors = []

    def submit():
        try:
            pool.submit(int)
        except RuntimeError as error:
            errors.append(error)

    submitter = threading.Thread(target=submit)
    submitter.start()
    eventually(lambda: pool.statistics().queue_full, "it has found the queue full")
    pool.shutdown(wait=False)
    submitter.join(TIMEOUT)
    assert "after shutdown" in str(errors[0])
    release()


@pytest.mark.parametrize(("workers", "limit"), [(1, 1), (2, 1), (3, 5)])
def test_calls_that_submit_more_than_the_queue_holds_never_deadlock(make_pool, workers, limit) -> None:
    """Where every worker waits for room, the last one runs its call itself."""
    pool = make_pool(max_workers=workers, concurrency=min(2, workers), queue_limit=limit)
    leaves = []

    def tree(depth):
        if depth == 0:
            leaves.append(1)
            return
        for child in [pool.submit(tree, depth - 1) for _ in range(4)]:
            child.result()

    wait([pool.submit(tree, 4) for _ in range(4)], TIMEOUT)
    assert len(leaves) == 4 * 4**4


def test_a_worker_that_waits_for_room_frees_its_slot(make_pool) -> None:
    pool = make_pool(max_workers=3, concurrency=1, queue_limit=2)

    def parent():
        return [pool.submit(int) for _ in range(200)]

    assert all(child.result(TIMEOUT) == 0 for child in pool.submit(parent).result(TIMEOUT))
    assert pool.statistics().queue_full > 0


def test_many_submitters_never_queue_more_than_the_limit(make_pool) -> None:
    pool = make_pool(max_workers=2, concurrency=2, queue_limit=10)
    seen, done = [], []

    def submit():
        for _ in range(300):
            pool.submit(done.append, 1)
            seen.append(pool.statistics().queued)

    submitters = [threading.Thread(target=submit) for _ in range(4)]
    for submitter in submitters:
        submitter.start()
    for submitter in submitters:
        submitter.join(TIMEOUT)
    eventually(lambda: len(done) == 1200, "all were called")
    assert max(seen) <= 10


@pytest.mark.parametrize("options", [{"queue_limit": 0}, {"queue_limit": -1}, {"queue_policy": "drop"}])
def test_a_wrong_limit_or_policy_is_refused(make_pool, options) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        make_pool(**options)
