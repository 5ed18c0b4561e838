"""A completion port on the simulated network, against a model: what is posted, submitted, cancelled and closed, and what the peers do, in any order."""

import errno
from collections import deque
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proactor import Completion, Handle, Operation
from proactor.errors import PortClosed
from proactor.testing import Peer, PortNetwork


class Model:
    """One handle: its receives, and what its peer has sent that none of them has brought."""

    def __init__(self, key: int, handle: Handle, peer: Peer) -> None:
        self.key, self.handle, self.peer = key, handle, peer
        self.receives: deque[tuple[Operation, int]] = deque()
        self.incoming = b""
        self.finished = False

    def received(self, completion: Completion) -> None:
        operation, limit = self.receives.popleft()
        assert completion.operation is operation
        assert completion.error is None
        value = completion.value
        assert self.incoming.startswith(value)
        assert len(value) <= limit
        assert value or (self.finished and not self.incoming)
        self.incoming = self.incoming[len(value) :]


class OnePort(RuleBasedStateMachine):
    """What is posted, sent, cancelled or closed is complete at once, and comes in that order. Receives come in the order of each handle."""

    def __init__(self) -> None:
        super().__init__()
        self.network = PortNetwork()
        self.port = self.network.port
        self.models: list[Model] = []
        self.at_once: deque[tuple[int, Operation | None, Any]] = deque()
        self.posted = self.got = 0
        self.last: Completion | None = None
        self.closed = False

    def teardown(self) -> None:
        if not self.closed:
            self.get_everything()
        self.network.close()

    @initialize(count=st.integers(1, 3))
    def associate(self, count: int) -> None:
        for key in range(count):
            connected, peer = self.network.pair()
            self.models.append(Model(key, self.port.associate(connected, key), peer))

    # ---- what happens ----

    @precondition(lambda self: not self.closed)
    @rule(key=st.integers(100, 105), value=st.integers())
    def post(self, key: int, value: int) -> None:
        self.port.post(key, value)
        self.posted += 1
        self.at_once.append((key, None, value))

    @precondition(lambda self: not self.closed)
    @rule(data=st.data(), limit=st.integers(1, 8))
    def receive(self, data: st.DataObject, limit: int) -> None:
        if (model := self.open_one(data)) is not None:
            model.receives.append((model.handle.receive(limit), limit))

    @precondition(lambda self: not self.closed)
    @rule(data=st.data(), length=st.integers(0, 20))
    def send(self, data: st.DataObject, length: int) -> None:
        if (model := self.open_one(data)) is not None:
            self.at_once.append((model.key, model.handle.send(bytes(length)), length))

    @precondition(lambda self: not self.closed)
    @rule(data=st.data(), sent=st.binary(min_size=1, max_size=12))
    def peer_sends(self, data: st.DataObject, sent: bytes) -> None:
        model = data.draw(st.sampled_from(self.models))
        if not model.finished and not model.handle.closed:
            model.peer.send(sent)
            model.incoming += sent

    @precondition(lambda self: not self.closed)
    @rule(data=st.data())
    def peer_finishes(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from(self.models))
        model.peer.finish()
        model.finished = True

    @precondition(lambda self: not self.closed)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        model = self.open_one(data)
        if model is not None and model.receives:
            chosen = data.draw(st.sampled_from(list(model.receives)))
            operation, _ = chosen
            pending = operation.pending
            assert operation.cancel() == pending
            if pending:
                model.receives.remove(chosen)
                self.at_once.append((model.key, operation, None))

    @precondition(lambda self: not self.closed)
    @rule(data=st.data())
    def close_handle(self, data: st.DataObject) -> None:
        if (model := self.open_one(data)) is not None:
            pending = [one for one in model.receives if one[0].pending]
            model.handle.close()
            for one in pending:
                model.receives.remove(one)
                self.at_once.append((model.key, one[0], None))

    @precondition(lambda self: not self.closed)
    @rule()
    def get_one(self) -> None:
        before = bool(self.at_once)
        try:
            self.check(self.port.get(0))
        except TimeoutError:
            assert not before

    @precondition(lambda self: not self.closed)
    @rule()
    def get_everything(self) -> None:
        for completion in self.network.completions():
            self.check(completion)
        assert not self.at_once
        for model in self.models:
            assert not (model.receives and (model.incoming or model.finished)), "a receive is left to wait"

    @precondition(lambda self: not self.closed and self.last is not None)
    @rule()
    def release(self) -> None:
        assert self.last is not None
        self.last.release()
        assert self.port.statistics().completed == self.got

    @precondition(lambda self: not self.closed)
    @rule()
    def close(self) -> None:
        queued = self.port.statistics().queued
        pending = self.port.statistics().operations
        self.port.close()
        self.closed = True
        assert self.port.statistics().dropped == queued + pending == len(self.at_once) + sum(len(model.receives) for model in self.models)
        with pytest.raises(PortClosed):
            self.port.get(0)
        assert all(model.handle.closed for model in self.models)

    # ---- the model ----

    def open_one(self, data: st.DataObject) -> Model | None:
        models = [model for model in self.models if not model.handle.closed]
        return data.draw(st.sampled_from(models)) if models else None

    def check(self, completion: Completion) -> None:
        self.got += 1
        self.last = completion
        error = completion.error
        if completion.operation is not None and completion.operation.kind == "receive" and error is None:
            self.models[completion.key].received(completion)
            return
        key, operation, value = self.at_once.popleft()
        assert (completion.key, completion.operation, completion.value) == (key, operation, value)
        cancelled = operation is not None and value is None
        assert (error is not None and error.errno == errno.ECANCELED) == cancelled

    @precondition(lambda self: self.closed)
    @rule()
    def close_again(self) -> None:
        self.port.close()
        assert list(self.port) == []

    @invariant()
    def the_numbers_add_up(self) -> None:
        snapshot = self.port.statistics()
        assert snapshot.posted == self.posted
        assert snapshot.completed in (self.got, self.got - 1)
        assert snapshot.handles == sum(not model.handle.closed for model in self.models)


TestOnePort = OnePort.TestCase
TestOnePort.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
