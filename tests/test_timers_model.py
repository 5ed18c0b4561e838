"""Timers and waits on the simulated network's clock, against a model: whatever is made, set, cancelled and however the clock moves."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import proactor
from proactor.testing import Network, WaitableObject

MILLISECONDS = 0.001


@dataclass
class Expected:
    """What the model knows of one timer or wait. Times are milliseconds of the network's clock."""

    made: "proactor.Timer | proactor.Wait | None" = None
    deadline: int | None = None
    interval: int | None = None
    timeout: int | None = None
    repeat: bool = False
    source: str | None = None
    calls: list[Any] = field(default_factory=list)
    missed: int = 0
    pending: bool = True
    cancelled: bool = False


class TimersAndWaits(RuleBasedStateMachine):
    """One worker, so that functions are called one after the other; each that repeats for a source clears it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()
        self.network.pool.submit(int).result(10)  # its threads have started
        self.sources: dict[str, WaitableObject | proactor.Event] = {"object": self.network.waitable(), "event": proactor.Event()}
        self.is_set = {"object": False, "event": False}
        self.now = 0
        self.all: list[Expected] = []
        self.called: list[list[Any]] = []

    def teardown(self) -> None:
        self.network.close()
        for one in self.all:
            assert one.made is not None
            assert not one.made.pending
            assert one.made.cancelled == (one.cancelled or one.pending)

    # ---- what happens ----

    @rule(delay=st.integers(0, 20))
    def call_after(self, delay: int) -> None:
        one, called = self.add(Expected(deadline=self.now + delay))
        one.made = self.network.pool.call_after(delay * MILLISECONDS, called.append, None)
        if delay == 0:
            self.time_comes(one)
        self.settle()

    @rule(interval=st.integers(1, 10))
    def call_every(self, interval: int) -> None:
        one, called = self.add(Expected(deadline=self.now + interval, interval=interval))
        one.made = self.network.pool.call_every(interval * MILLISECONDS, called.append, None)
        self.settle()

    @rule(source=st.sampled_from(["object", "event"]), timeout=st.none() | st.integers(1, 20), repeat=st.booleans())
    def call_when(self, source: str, timeout: int | None, repeat: bool) -> None:
        one, called = self.add(Expected(timeout=timeout, repeat=repeat, source=source))
        target = self.sources[source]

        def function(signalled: bool) -> None:
            if repeat and signalled:
                target.clear()
            called.append(signalled)

        seconds = None if timeout is None else timeout * MILLISECONDS
        one.made = self.network.pool.call_when(target, function, timeout=seconds, repeat=repeat)
        if timeout is not None:
            one.deadline = self.now + timeout
        if self.is_set[source]:
            self.signal([one])
        self.settle()

    @rule(source=st.sampled_from(["object", "event"]))
    def set(self, source: str) -> None:
        self.sources[source].set()
        self.is_set[source] = True
        self.signal([one for one in self.all if one.source == source and one.pending])
        self.settle()

    @rule(source=st.sampled_from(["object", "event"]))
    def clear(self, source: str) -> None:
        self.sources[source].clear()
        self.is_set[source] = False

    @rule(step=st.integers(1, 30))
    def advance(self, step: int) -> None:
        self.network.advance(step * MILLISECONDS)
        self.now += step
        for one in self.all:
            while one.pending and one.deadline is not None and one.deadline <= self.now:
                self.time_comes(one)
        self.settle()

    @precondition(lambda self: self.all)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.all))
        assert one.made is not None
        assert one.made.cancel() == (one.pending or one.cancelled)
        one.cancelled |= one.pending
        one.pending = False

    # ---- the model ----

    def add(self, one: Expected) -> tuple[Expected, list[Any]]:
        self.all.append(one)
        self.called.append([])
        return one, self.called[-1]

    def time_comes(self, one: Expected) -> None:
        assert one.deadline is not None
        one.calls.append(False if one.source else None)
        if one.interval is not None:
            late = (self.now - one.deadline - 1) // one.interval if self.now > one.deadline else 0
            one.missed += late
            one.deadline += (late + 1) * one.interval
        elif one.repeat and one.timeout is not None:
            one.deadline = self.now + one.timeout
        else:
            one.pending = False

    def signal(self, waits: list[Expected]) -> None:
        for one in waits:
            one.calls.append(True)
            one.pending = one.repeat
            if one.repeat:
                assert one.source is not None
                self.is_set[one.source] = False
                one.deadline = None if one.timeout is None else self.now + one.timeout

    def settle(self) -> None:
        self.network.settle()

    @invariant()
    def each_was_called_as_often_as_it_should(self) -> None:
        for one, called in zip(self.all, self.called, strict=True):
            assert called == one.calls, (one, self.now)
            assert one.made is not None
            assert one.made.pending == one.pending
            assert one.made.cancelled == one.cancelled
            if isinstance(one.made, proactor.Timer):
                assert one.made.missed == one.missed

    @invariant()
    def the_statistics_count_what_is_pending(self) -> None:
        numbers = self.network.pool.statistics()
        pending = [one for one in self.all if one.pending]
        waits = sum(one.source is not None for one in pending)
        assert (numbers.timers, numbers.waits) == (len(pending) - waits, waits)


TestTimersAndWaits = TimersAndWaits.TestCase
TestTimersAndWaits.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
