"""A pool of several workers against a simple model: submit, map with its sizes and time-outs, the initializer, shutdown with a time-out.

Calls end only when told, each by itself and in any order. So which of them run is certain: as many as there are workers, taken in the order
of submission. `test_pool_model.py` knows more of the futures; this one of what several workers and `map` add.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, wait
from typing import Any

import pytest
from hypothesis import HealthCheck, reject, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import proactor
from peers import TIMEOUT, eventually


class Told:
    """A call that ends when it is told to; it notes whether its thread was prepared."""

    def __init__(self, fails: bool) -> None:
        self.fails = fails
        self.begun = threading.Event()
        self.begun_at = 0.0
        self.may_end = threading.Event()
        self.prepared: tuple[str, ...] = ()
        self.future: Future[Any] | None = None  # map keeps its own

    def run(self, prepared: threading.local) -> None:
        self.prepared = tuple(getattr(prepared, "arguments", ()))
        self.begun_at = time.monotonic()
        self.begun.set()
        assert self.may_end.wait(TIMEOUT)
        if self.fails:
            raise KeyError(id(self))


class Map:
    """What `map` has been asked for, and how far it is: its calls in order, each of so many items."""

    def __init__(self, calls: list[Told], chunks: list[list[int]], *, ahead: int | None, timed: bool) -> None:
        self.calls = calls
        self.chunks = chunks
        self.submitted = len(calls) if ahead is None else min(ahead, len(calls))
        self.bounded = ahead is not None
        self.timed = timed
        self.read = 0
        self.items: list[int] = []  # of the call that was read last
        self.asked = False
        self.over = False
        self.results: Iterator[int] = iter(())


class Workers(RuleBasedStateMachine):
    @initialize(workers=st.integers(2, 4))
    def start(self, workers: int) -> None:
        self.workers = workers
        self.prepared = threading.local()
        self.initialized: list[int] = []
        self.pool = proactor.ThreadPool(max_workers=workers, concurrency=workers, initializer=self.prepare, initargs=("given", "twice?"))
        self.calls: list[Told] = []
        self.maps: list[Map] = []
        # The model.
        self.queued: list[Told] = []
        self.running: list[Told] = []
        self.ended: dict[Told, str] = {}
        self.shut = False

    def prepare(self, *arguments: str) -> None:
        self.prepared.arguments = (*getattr(self.prepared, "arguments", ()), *arguments)
        self.initialized.append(threading.get_ident())

    # ---- calls ----

    @rule(fails=st.booleans())
    def submit(self, fails: bool) -> None:
        call = Told(fails)
        if self.shut:
            with pytest.raises(RuntimeError, match="after shutdown"):
                self.pool.submit(call.run, self.prepared)
            return
        try:
            call.future = self.pool.submit(call.run, self.prepared)
        except proactor.errors.PoolHung:
            self.this_machine_was_slow()
        self.queue(call)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def let_one_end(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.running))
        self.running.remove(call)
        call.may_end.set()
        self.end(call, "failed" if call.fails else "done")
        if call.future is not None:
            assert wait([call.future], TIMEOUT).done
        self.follow()

    @precondition(lambda self: any(call.future for call in self.calls))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from([call for call in self.calls if call.future]))
        assert call.future is not None
        assert call.future.cancel() == (call in self.queued or self.ended.get(call) == "cancelled")
        if call in self.queued:
            self.take_back([call])

    # ---- map ----

    @precondition(lambda self: not self.shut)
    @rule(
        failing=st.lists(st.booleans(), max_size=6),
        chunksize=st.integers(1, 3),
        last=st.integers(1, 3),
        buffersize=st.none() | st.integers(1, 7),
        timed=st.booleans(),
    )
    def map(self, failing: list[bool], chunksize: int, last: int, buffersize: int | None, timed: bool) -> None:
        """As many calls as `failing` says, of `chunksize` items each, the last of `last`. `timed`: its time is over at once."""
        calls = [Told(fails) for fails in failing]
        count = max(0, (len(calls) - 1) * chunksize + min(last, chunksize)) if calls else 0
        chunks = [list(range(at, min(at + chunksize, count))) for at in range(0, count, chunksize)]

        def work(item: int) -> int:
            if item % chunksize == 0:
                calls[item // chunksize].run(self.prepared)
            return item

        ahead = None if buffersize is None else -(-buffersize // chunksize)
        mapping = Map(calls, chunks, ahead=ahead, timed=timed)
        try:
            timeout = 0.0 if timed else None
            mapping.results = self.pool.map(work, range(count), timeout=timeout, chunksize=chunksize, buffersize=buffersize)
        except proactor.errors.PoolHung:
            self.this_machine_was_slow()
        self.maps.append(mapping)
        for call in calls[: mapping.submitted]:
            self.queue(call)

    @precondition(lambda self: any(self.can_be_read(mapping) for mapping in self.maps))
    @rule(data=st.data())
    def read_on(self, data: st.DataObject) -> None:
        mapping = data.draw(st.sampled_from([mapping for mapping in self.maps if self.can_be_read(mapping)]))
        mapping.asked = True
        if mapping.items:
            assert next(mapping.results) == mapping.items.pop(0)
            return
        if mapping.over or mapping.read == len(mapping.calls):
            assert next(mapping.results, None) is None
            return
        if mapping.bounded and mapping.submitted < len(mapping.calls):
            if self.shut:
                self.fails(mapping, RuntimeError)
                return
            if self.ended.get(mapping.calls[mapping.read]) != "done":
                self.occupy()  # or a free worker might begin what is submitted now, before it is given up with the rest
            following = mapping.calls[mapping.submitted]
            mapping.submitted += 1
            self.queued.append(following)  # it is submitted by what follows
            self.calls.append(following)
        call = mapping.calls[mapping.read]
        mapping.read += 1
        how = self.ended.get(call)
        if how == "done":
            mapping.items = list(mapping.chunks[mapping.read - 1])
            try:
                assert next(mapping.results) == mapping.items.pop(0)
            except proactor.errors.PoolHung:
                self.this_machine_was_slow()
            self.follow()
        else:
            if how is None:
                mapping.read -= 1  # given up with the rest
            self.fails(mapping, {"failed": KeyError, "cancelled": CancelledError, None: TimeoutError}[how])

    @precondition(lambda self: self.maps)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        mapping = data.draw(st.sampled_from(self.maps))
        self.maps.remove(mapping)
        mapping.results.close()  # type: ignore[attr-defined]
        if mapping.asked and not mapping.over:
            self.give_up(mapping)
        self.follow()

    def can_be_read(self, mapping: Map) -> bool:
        """Without waiting for anybody."""
        if mapping.items or mapping.over or mapping.read == len(mapping.calls) or mapping.timed:
            return True
        refused = self.shut and mapping.bounded and mapping.submitted < len(mapping.calls)
        return refused or mapping.calls[mapping.read] in self.ended

    def fails(self, mapping: Map, error: type[BaseException]) -> None:
        try:
            with pytest.raises(error):
                next(mapping.results)
        except proactor.errors.PoolHung:
            self.this_machine_was_slow()
        self.give_up(mapping)
        self.follow()

    def give_up(self, mapping: Map) -> None:
        mapping.over = True
        mapping.items = []
        self.take_back([call for call in mapping.calls[mapping.read :] if call in self.queued])

    # ---- the end ----

    @rule(how=st.sampled_from(["begin", "cancel", "in time"]))
    def shut_down(self, how: str) -> None:
        self.settle()
        before = self.ways().count("cancelled")
        if how == "in time":
            # Long enough for idle workers to end; those that run are told nothing meanwhile.
            report = self.pool.shutdown(timeout=TIMEOUT if not self.running else 0.02)
            self.take_back(list(self.queued))
        else:
            report = self.pool.shutdown(wait=False, cancel_futures=how == "cancel")
            if how == "cancel":
                self.take_back(list(self.queued))
        self.shut = True
        assert len(report.running) == len(self.running), report.running
        assert report.cancelled == self.ways().count("cancelled")
        assert report.finished == self.ways().count("done") + self.ways().count("failed")
        assert report.completed == (not self.running and report.cancelled == before)

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        for call in [*self.calls, *(call for mapping in self.maps for call in mapping.calls)]:
            call.may_end.set()
        report = self.pool.shutdown()
        assert report.running == ()
        assert not any(call.begun.is_set() for call, how in self.ended.items() if how == "cancelled")

    # ---- what must always hold ----

    @invariant()
    def every_call_is_where_the_model_has_it(self) -> None:
        assert not any(call.begun.is_set() for call in self.queued)
        for call in self.calls:
            if call.future is not None:
                how = self.ended.get(call)
                assert (call.future.done(), call.future.running()) == (how is not None, call in self.running)
                assert call.future.cancelled() == (how == "cancelled")
                if how == "failed":
                    assert isinstance(call.future.exception(), KeyError)

    @invariant()
    def every_worker_was_prepared_once(self) -> None:
        assert len(self.initialized) == len(set(self.initialized)) <= self.workers
        assert all(call.prepared == ("given", "twice?") for call in self.calls if call.begun.is_set())

    @invariant()
    def the_numbers_are_the_models(self) -> None:
        self.settle()
        numbers = self.pool.statistics()
        assert (numbers.calls_done, numbers.calls_failed, numbers.calls_cancelled) == tuple(
            map(self.ways().count, ("done", "failed", "cancelled"))
        )
        assert numbers.queued == len(self.queued)

    def settle(self) -> None:
        """A worker is back a moment after its call has ended."""

        def busy() -> bool:
            numbers = self.pool.statistics()
            done = numbers.calls_done + numbers.calls_failed
            return (numbers.running + numbers.blocked, done) == (len(self.running), len(self.ended) - self.ways().count("cancelled"))

        eventually(busy, "so many workers are inside calls as the model says")

    def ways(self) -> list[str]:
        return list(self.ended.values())

    def queue(self, call: Told) -> None:
        self.calls.append(call)
        self.queued.append(call)
        self.follow()

    def follow(self) -> None:
        """Workers take what is queued."""
        while self.queued and len(self.running) < self.workers:
            self.running.append(self.queued.pop(0))
            assert self.running[-1].begun.wait(TIMEOUT)

    def occupy(self) -> None:
        """No worker is free."""
        while len(self.running) < self.workers:
            self.submit(fails=False)

    def take_back(self, calls: list[Told]) -> None:
        for call in calls:
            self.queued.remove(call)
            self.end(call, "cancelled")

    def end(self, call: Told, how: str) -> None:
        self.ended[call] = how

    def this_machine_was_slow(self) -> None:
        """The pool refuses work while all workers have been in their calls for a second: the example has taken longer than it should."""
        assert len(self.running) == self.workers
        assert all(time.monotonic() - call.begun_at >= 1 for call in self.running)
        reject()


TestWorkers = Workers.TestCase
TestWorkers.settings = settings(max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
