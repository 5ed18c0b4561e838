"""A completion port and files on it against a model: any reads, writes, syncs, packets, cancels and closes."""

import errno
import os
import tempfile
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

import proactor
from peers import TIMEOUT, eventually
from platforms import FILE_MECHANISMS
from proactor.errors import PortClosed

WHICH = st.integers(0, 1)
OFFSETS = st.integers(0, 20_000)
SIZES = st.integers(0, 6000)
CANARY = b"\xa5" * 16


class Model:
    """One file: what it holds, its handle, and what is pending on it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.file = proactor.open(path, "w+b")
        self.handle: proactor.Handle | None = None
        self.content = bytearray()
        self.writes = 0
        self.outcomes: set[proactor.Operation] = set()

    def write(self, data: bytes, offset: int) -> None:
        if data:
            self.content.extend(bytes(max(0, offset - len(self.content))))
            self.content[offset : offset + len(data)] = data


class PortAndFiles(RuleBasedStateMachine):
    """What overlaps has no order, so a write waits for what is pending on its file, and a read for its writes.

    Which completions come first is not the same every time, so nothing that is drawn may depend on what is pending.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.port = proactor.CompletionPort()
        self.closed = False
        # What each operation is to bring, and the memory that it was lent.
        self.pending: dict[proactor.Operation, tuple[Model, Any, bytearray | None]] = {}
        self.cancelled: set[proactor.Operation] = set()
        self.packets: list[int] = []
        self.posted = 0

    @initialize()
    def open(self) -> None:
        self.models = [Model(os.path.join(self.folder.name, str(number))) for number in range(2)]
        for model in self.models:
            model.handle = self.port.associate(model.file, model)

    def teardown(self) -> None:
        if not self.closed:
            self.get_all()
            with pytest.raises(TimeoutError):
                self.port.get(0)
        self.port.close()
        for model in getattr(self, "models", ()):
            model.file.close()
            if not self.closed:
                with open(model.path, "rb") as file:
                    assert file.read() == model.content
        self.folder.cleanup()

    # ---- what happens ----

    @precondition(lambda self: not self.closed)
    @rule(which=WHICH, offset=OFFSETS, size=SIZES)
    def read(self, which: int, offset: int, size: int) -> None:
        if (model := self.open_one(which)) is not None:
            self.settle(model, "write")
            operation = model.handle.read(size, offset)
            self.pending[operation] = (model, bytes(model.content[offset : offset + size]), None)

    @precondition(lambda self: not self.closed)
    @rule(which=WHICH, offset=OFFSETS, size=SIZES)
    def read_into(self, which: int, offset: int, size: int) -> None:
        if (model := self.open_one(which)) is not None:
            self.settle(model, "write")
            memory = bytearray(CANARY + bytes(size) + CANARY)
            operation = model.handle.read_into(memoryview(memory)[len(CANARY) : len(CANARY) + size], offset)
            self.pending[operation] = (model, bytes(model.content[offset : offset + size]), memory)

    @precondition(lambda self: not self.closed)
    @rule(which=WHICH, offset=OFFSETS, data=st.binary(max_size=3000))
    def write(self, which: int, offset: int, data: bytes) -> None:
        if (model := self.open_one(which)) is not None:
            self.settle(model, "")
            operation = model.handle.write(data, offset)
            self.pending[operation] = (model, data, None)

    @precondition(lambda self: not self.closed)
    @rule(which=WHICH, data_only=st.booleans())
    def sync(self, which: int, data_only: bool) -> None:
        if (model := self.open_one(which)) is not None:
            self.pending[model.handle.sync(data_only)] = (model, None, None)

    @precondition(lambda self: not self.closed)
    @rule(value=st.integers())
    def post(self, value: int) -> None:
        self.port.post("packet", value)
        self.packets.append(value)
        self.posted += 1

    @precondition(lambda self: not self.closed)
    @rule(number=st.integers(0, 99))
    def cancel(self, number: int) -> None:
        if self.pending:
            operation = list(self.pending)[number % len(self.pending)]
            if operation.cancel():
                self.cancelled.add(operation)

    @precondition(lambda self: not self.closed)
    @rule(which=WHICH)
    def cancel_all(self, which: int) -> None:
        if (model := self.open_one(which)) is not None:
            count = model.handle.cancel()
            mine = {operation for operation, (owner, *_) in self.pending.items() if owner is model}
            assert count <= len(mine)
            self.cancelled |= mine

    @precondition(lambda self: not self.closed)
    @rule(which=WHICH)
    def close_and_associate_again(self, which: int) -> None:
        model = self.models[which]
        assert model.handle is not None
        if model.handle.closed:
            model.handle = self.port.associate(model.file, model)
            return
        model.handle.close()
        self.cancelled |= {operation for operation, (owner, *_) in self.pending.items() if owner is model}
        self.settle(model, "")
        with pytest.raises(OSError, match="closed"):
            model.handle.read(1, 0)

    @precondition(lambda self: not self.closed)
    @rule()
    def get_one(self) -> None:
        if self.pending or self.packets:
            self.check(self.port.get(TIMEOUT))

    @precondition(lambda self: not self.closed)
    @rule()
    def get_all(self) -> None:
        while self.pending or self.packets:
            self.check(self.port.get(TIMEOUT))

    @precondition(lambda self: not self.closed)
    @rule(seldom=st.integers(0, 9))
    def close_port(self, seldom: int) -> None:
        if seldom < 9:
            return
        self.port.close()
        self.closed = True
        with pytest.raises(PortClosed):
            self.port.get(0)
        assert all(model.handle is not None and model.handle.closed for model in self.models)
        lost = len(self.pending) + len(self.packets)
        eventually(lambda: self.port.statistics().dropped == lost, "what nobody got is counted")

    @precondition(lambda self: self.closed)
    @rule()
    def close_again(self) -> None:
        self.port.close()
        assert list(self.port) == []

    # ---- the model ----

    def open_one(self, which: int) -> Any:
        model = self.models[which]
        return None if model.handle is None or model.handle.closed else model

    def settle(self, model: Model, kind: str) -> None:
        """Gets completions until nothing of that kind is pending on the file."""
        while any(owner is model and operation.kind.startswith(kind) for operation, (owner, *_) in self.pending.items()):
            self.check(self.port.get(TIMEOUT))

    def check(self, completion: proactor.Completion) -> None:
        if completion.operation is None:
            assert (completion.key, completion.value) == ("packet", self.packets.pop(0))
            return
        model, expected, memory = self.pending.pop(completion.operation)
        assert completion.key is model
        assert not completion.operation.pending
        done = self.outcome(completion, expected)
        if memory is not None:
            size = len(memory) - 2 * len(CANARY)
            assert memory[: len(CANARY)] == memory[len(CANARY) + size :] == CANARY
            if completion.error is None:
                assert memory[len(CANARY) : len(CANARY) + completion.value] == expected
            memory.clear()  # nobody holds it
        if completion.operation.kind == "write":
            assert completion.operation.offset is not None
            model.write(expected[:done], completion.operation.offset)

    def outcome(self, completion: proactor.Completion, expected: Any) -> int:
        """How many bytes were done."""
        error = completion.error
        if error is not None:
            assert isinstance(error, OSError)
            assert error.errno == errno.ECANCELED
            assert completion.operation in self.cancelled
            return completion.value or 0
        if completion.operation is not None and completion.operation.kind == "read":
            assert completion.value == expected
        else:
            assert completion.value == (None if expected is None else len(expected))
        return 0 if expected is None else len(expected)

    @invariant()
    def the_numbers_add_up(self) -> None:
        snapshot = self.port.statistics()
        assert snapshot.posted == self.posted
        assert snapshot.operations <= len(self.pending)
        if not self.closed:
            assert snapshot.dropped == 0
            assert snapshot.handles == sum(model.handle is not None and not model.handle.closed for model in getattr(self, "models", ()))


@pytest.mark.parametrize("mechanism", FILE_MECHANISMS)
def test_port_and_files_do_what_the_model_does(mechanism: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROACTOR_FILES", mechanism)
    checks = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(PortAndFiles, settings=checks)
