"""Operations on files under races: however completing, cancelling and closing meet, each completes once, and no byte goes astray."""

import collections
import errno
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import proactor
from peers import TIMEOUT, eventually
from platforms import FILE_MECHANISMS, RACE_ROUNDS, forget_pages

SIZE = 8192
CANARY = b"\xa5" * 64


@pytest.fixture(params=FILE_MECHANISMS, autouse=True)
def mechanism(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PROACTOR_FILES", request.param)
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)) * 32 * 16)  # sixteen pieces, all the same
    return path


def filled(memory: bytearray) -> bool:
    """Nothing beside its middle was written to; whether that was filled."""
    assert memory[: len(CANARY)] == memory[-len(CANARY) :] == CANARY, "written beside the buffer"
    return memory[len(CANARY) : -len(CANARY)] == bytes(range(256)) * 32


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_thousands_of_cancels_against_completions_leave_the_canaries_alive(
    path: Path, make_port: Callable[..., proactor.CompletionPort]
) -> None:
    port = make_port(concurrency=2)
    turns: list[list[proactor.Operation]] = []
    barrier = threading.Barrier(2)
    over = False

    def canceller() -> None:
        while True:
            barrier.wait(TIMEOUT)
            if over:
                return
            for operation in turns.pop():
                operation.cancel()
            barrier.wait(TIMEOUT)

    thread = threading.Thread(target=canceller)
    thread.start()
    outcomes: collections.Counter[str] = collections.Counter()
    rounds = 0
    try:
        with open(path, "r+b", buffering=0) as file:
            descriptor = file.fileno()
            handle = port.associate(file)
            piece = bytes(range(256)) * 32
            for number in range(RACE_ROUNDS):
                random.seed(number)
                if number % 2:
                    forget_pages(descriptor)
                memories: dict[proactor.Operation, bytearray] = {}
                settled: list[bytearray] = []
                for _ in range(random.randrange(1, 5)):
                    at = random.randrange(16) * SIZE
                    if random.random() < 0.4:
                        memories[handle.write(piece, at)] = bytearray()
                    else:
                        memory = bytearray(CANARY + bytes(SIZE) + CANARY)
                        memories[handle.read_into(memoryview(memory)[len(CANARY) : -len(CANARY)], at)] = memory
                turns.append(random.sample(list(memories), len(memories)))
                barrier.wait(TIMEOUT)
                for _ in range(len(memories)):
                    completion = port.get(TIMEOUT)
                    assert completion.operation is not None
                    memory = memories.pop(completion.operation)
                    error = completion.error
                    assert error is None or (isinstance(error, OSError) and error.errno == errno.ECANCELED)
                    outcomes[f"{completion.operation.kind} {'cancelled' if error else 'done'}"] += 1
                    if memory:
                        assert filled(memory) or error is not None
                        memory[len(CANARY) : -len(CANARY)] = bytes(SIZE)
                        memory.append(0)  # nobody holds it
                        memory.pop()
                        settled.append(memory)
                barrier.wait(TIMEOUT)
                while settled:  # what came after the completion would be here
                    assert settled.pop()[len(CANARY) : -len(CANARY)] == bytes(SIZE), "written after the completion"
                rounds += 1
            assert handle.statistics().receives == handle.statistics().sends == 0
    finally:
        over = True
        barrier.wait(TIMEOUT)
        thread.join(TIMEOUT)
    assert rounds == RACE_ROUNDS
    with pytest.raises(TimeoutError):
        port.get(0)
    assert path.read_bytes() == bytes(range(256)) * 32 * 16
    assert outcomes["read_into done"], outcomes
    assert outcomes["write done"], outcomes
    assert outcomes["write cancelled"], outcomes


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_closes_of_handles_and_ports_race_with_completions_and_lose_nothing(path: Path) -> None:
    for number in range(1000):
        random.seed(number)
        port = proactor.CompletionPort()
        got: list[proactor.Completion] = []
        lock = threading.Lock()

        def work(port=port, got=got, lock=lock) -> None:
            for completion in port:
                with lock:
                    got.append(completion)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        with open(path, "r+b", buffering=0) as file:
            handle = port.associate(file)
            memory = bytearray(SIZE)
            operations = [
                handle.read_into(memory, 0) if random.random() < 0.5 else handle.write(bytes(range(256)) * 32, SIZE)
                for _ in range(random.randrange(1, 40))
            ]
            if random.random() < 0.5:
                handle.close()
            port.close()
            for thread in threads:
                thread.join(TIMEOUT)
            eventually(
                lambda got=got, port=port, operations=operations: len(got) + port.statistics().dropped >= len(operations),  # type: ignore[misc]
                "each was got or dropped",
            )
            assert len(got) + port.statistics().dropped == len(operations)
            assert len({completion.operation for completion in got}) == len(got)
            memory.clear()  # nobody holds it
