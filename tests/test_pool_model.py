"""The pool's calls against a simple model: submit, cancel, callbacks, ends and shutdown in any order.

One worker, which ends a call only when told, makes the order certain: calls are taken in the order in which they were submitted, and those
that were cancelled are passed over.
"""

import threading
from concurrent.futures import CancelledError, wait

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import proactor
from peers import TIMEOUT, eventually


class Told:
    """A call that ends when it is told to."""

    def __init__(self, number: int, fails: bool) -> None:
        self.number = number
        self.fails = fails
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self) -> int:
        self.begun.set()
        assert self.may_end.wait(TIMEOUT)
        if self.fails:
            raise KeyError(self.number)
        return self.number


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool = proactor.ThreadPool(max_workers=1, concurrency=1, queue_limit=8, queue_policy="raise")
        self.calls: list[Told] = []
        self.futures: list = []
        self.callbacks: list[int] = []
        # The model: which calls wait, which one runs, how the others ended.
        self.queued: list[int] = []
        self.running: int | None = None
        self.ended: dict[int, str] = {}
        self.expected_callbacks: list[int] = []
        self.watched: set[int] = set()
        self.shut = False

    @rule(fails=st.booleans())
    def submit(self, fails: bool) -> None:
        number = len(self.calls)
        told = Told(number, fails)
        if self.shut:
            with pytest.raises(RuntimeError, match="after shutdown"):
                self.pool.submit(told)
            return
        if len(self.queued) == 8:
            with pytest.raises(proactor.errors.QueueFull):
                self.pool.submit(told)
            return
        self.calls.append(told)
        self.futures.append(self.pool.submit(told))
        self.queued.append(number)
        self.follow()

    @precondition(lambda self: self.futures)
    @rule(data=st.data())
    def cancel(self, data) -> None:
        number = data.draw(st.integers(0, len(self.futures) - 1))
        cancelled = self.futures[number].cancel()
        assert cancelled == (number in self.queued or self.ended.get(number) == "cancelled")
        if number in self.queued:
            self.queued.remove(number)
            self.end(number, "cancelled")

    @precondition(lambda self: self.running is not None)
    @rule()
    def let_the_running_call_end(self) -> None:
        number = self.running
        assert number is not None
        told = self.calls[number]
        told.may_end.set()
        assert wait([self.futures[number]], TIMEOUT).done
        self.running = None
        self.end(number, "failed" if told.fails else "done")
        self.follow()

    @precondition(lambda self: self.futures)
    @rule(data=st.data())
    def watch(self, data) -> None:
        number = data.draw(st.integers(0, len(self.futures) - 1))
        if number not in self.watched:
            self.watched.add(number)
            self.futures[number].add_done_callback(lambda future: self.callbacks.append(number))
            if number in self.ended:
                self.expected_callbacks.append(number)

    @precondition(lambda self: not self.shut)
    @rule(cancel=st.booleans())
    def shut_down(self, cancel: bool) -> None:
        self.shut = True
        before = sum(how == "cancelled" for how in self.ended.values())
        report = self.pool.shutdown(wait=False, cancel_futures=cancel)
        if cancel:
            for number in self.queued:
                self.end(number, "cancelled")
            assert report.cancelled == before + len(self.queued)
            self.queued.clear()
        assert report.finished == sum(how in ("done", "failed") for how in self.ended.values())

    @invariant()
    def every_future_says_what_the_model_says(self) -> None:
        for number, future in enumerate(self.futures):
            how = self.ended.get(number)
            assert future.done() == (how is not None)
            assert future.running() == (number == self.running)
            assert future.cancelled() == (how == "cancelled")
            if how == "done":
                assert future.result() == number
            elif how == "failed":
                assert isinstance(future.exception(), KeyError)
            elif how == "cancelled":
                with pytest.raises(CancelledError):
                    future.result()
            else:
                with pytest.raises(TimeoutError):
                    future.result(timeout=0)

    @invariant()
    def the_numbers_are_the_models(self) -> None:
        # A callback is called a moment after whoever waits has been told.
        eventually(lambda: sorted(self.callbacks) == sorted(self.expected_callbacks), "each callback once")
        numbers = self.pool.statistics()
        ways = list(self.ended.values())
        assert (numbers.calls_done, numbers.calls_failed, numbers.calls_cancelled) == tuple(
            map(ways.count, ("done", "failed", "cancelled"))
        )
        assert numbers.queued == len(self.queued)
        assert (numbers.oldest_wait > 0) == bool(self.queued)

    def teardown(self) -> None:
        for told in self.calls:
            told.may_end.set()
        report = self.pool.shutdown()
        assert report.running == ()
        assert all(future.done() for future in self.futures)
        assert not any(self.calls[number].begun.is_set() for number, how in self.ended.items() if how == "cancelled")

    def end(self, number: int, how: str) -> None:
        self.ended[number] = how
        if number in self.watched:
            self.expected_callbacks.append(number)

    def follow(self) -> None:
        """The worker takes the next call."""
        if self.running is None and self.queued:
            self.running = self.queued.pop(0)
            assert self.calls[self.running].begun.wait(TIMEOUT)


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=50, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
