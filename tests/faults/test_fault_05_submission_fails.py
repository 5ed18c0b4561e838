"""Fault 5: io_uring_enter fails with EAGAIN, EINTR or EBUSY after requests were pushed. They are submitted later, once each."""

import os

import pytest

from peers import Program
from rings import needs_io_uring

pytestmark = pytest.mark.linux("io_uring, and strace")

PROGRAM = """
import sys
import proactor
data = b"".join(number.to_bytes(8, "little") * 512 for number in range(500))
with proactor.open(sys.argv[1], "w+b", direct=True) as file:
    for request in [file.write_at(at, data[at:at + 4096]) for at in range(0, len(data), 4096)]:
        assert request.result() == 4096
    requests = [file.read_at(at, 4096) for at in range(0, len(data), 4096)]
    assert b"".join(request.result() for request in requests) == data
    statistics = file.statistics()
    print(statistics.engine, statistics.failed, statistics.outstanding)
"""


@needs_io_uring
@pytest.mark.parametrize("error", ["EAGAIN", "EBUSY", "EINTR"])
@pytest.mark.parametrize("when", ["1+2", "2+3"])
def test_requests_are_submitted_when_the_kernel_has_room_again(tmp_path, error, when) -> None:
    log = tmp_path / "log"
    command = [
        "strace",
        "-f",
        "-qq",
        "-o",
        str(log),
        "-e",
        "trace=io_uring_enter",
        "-e",
        f"inject=io_uring_enter:error={error}:when={when}",
    ]
    program = Program(PROGRAM, str(tmp_path / "file"), command=command, env={**os.environ, "PROACTOR_FILES": "io_uring"})
    try:
        assert program.wait() == 0, program.errors()
        assert program.lines() == ["io_uring 0 0"]
        assert f"{error} " in log.read_text()
    finally:
        program.end()
