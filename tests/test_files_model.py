"""Any reads, writes and cuts of a file, side by side, against a bytearray."""

import os
import tempfile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import proactor
from platforms import FILE_MECHANISMS

OFFSETS = st.integers(0, 20_000)
SIZES = st.integers(0, 6000)


class Files(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.folder.name, "file")
        self.model = bytearray()
        self.file = proactor.open(self.path, "w+b", depth=3, block_size=1000)
        self.reads: list[tuple[proactor.FileRequest, bytes]] = []
        self.writes: list[tuple[proactor.FileRequest, int]] = []

    def teardown(self) -> None:
        self.file.close()
        for request, expected in self.reads:
            assert request.result(0) == expected
        for request, size in self.writes:
            assert request.result(0) == size
        with open(self.path, "rb") as file:
            assert file.read() == self.model
        self.folder.cleanup()

    def settle_writes(self) -> None:
        for request, size in self.writes:
            assert request.result() == size
        self.writes.clear()

    def settle_reads(self) -> None:
        for request, expected in self.reads:
            assert request.result() == expected
        self.reads.clear()

    @rule(offset=OFFSETS, size=SIZES)
    def read(self, offset: int, size: int) -> None:
        self.settle_writes()
        self.reads.append((self.file.read_at(offset, size), bytes(self.model[offset : offset + size])))

    @rule(offset=OFFSETS, size=SIZES)
    def read_into(self, offset: int, size: int) -> None:
        self.settle_writes()
        memory = bytearray(b"-" * size)
        count = self.file.readinto_at(offset, memory).result()
        assert memory == bytes(self.model[offset : offset + size]).ljust(size, b"-")
        assert count == len(self.model[offset : offset + size])

    @rule(offset=OFFSETS, data=st.binary(max_size=3000))
    def write(self, offset: int, data: bytes) -> None:
        self.settle_reads()
        self.settle_writes()  # writes that overlap have no order
        self.writes.append((self.file.write_at(offset, data), len(data)))
        if data:
            self.model.extend(bytes(max(0, offset - len(self.model))))
            self.model[offset : offset + len(data)] = data

    @rule(size=OFFSETS)
    def cut(self, size: int) -> None:
        self.settle_reads()
        self.settle_writes()
        os.truncate(self.path, size)
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))

    @rule(offset=OFFSETS, length=st.none() | SIZES)
    def blocks(self, offset: int, length: int | None) -> None:
        self.settle_writes()
        expected = self.model[offset:] if length is None else self.model[offset : offset + length]
        assert b"".join(self.file.blocks(offset=offset, length=length)) == expected

    @rule()
    def cancel(self) -> None:
        if not self.writes:
            return
        request, size = self.writes[-1]
        if not request.cancel():
            assert request.result() == size
            return
        self.writes.pop()
        with open(self.path, "rb") as file:
            self.model = bytearray(file.read())

    @invariant()
    def size(self) -> None:
        if not self.writes:
            assert self.file.size == len(self.model)


@pytest.mark.parametrize("engine", FILE_MECHANISMS)
def test_files_against_a_model(monkeypatch, engine) -> None:
    monkeypatch.setenv("PROACTOR_FILES", engine)
    run_state_machine_as_test(Files, settings=settings(max_examples=60, stateful_step_count=40, deadline=None))
