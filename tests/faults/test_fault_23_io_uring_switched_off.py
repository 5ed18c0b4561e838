"""Fault 23: the sysctl kernel.io_uring_disabled, 1 (only the privileged may) and 2 (nobody may). Threads read and write; the log says why.

The switch is the whole machine's, so this runs only where PROACTOR_TEST_SYSCTL=1 says that nothing else needs io_uring meanwhile.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers import run_python
from rings import needs_io_uring

pytestmark = pytest.mark.linux("io_uring")

SWITCH = Path("/proc/sys/kernel/io_uring_disabled")

pytestmark = [
    needs_io_uring,
    pytest.mark.skipif(os.environ.get("PROACTOR_TEST_SYSCTL") != "1", reason="switches io_uring off for all: set PROACTOR_TEST_SYSCTL=1"),
    pytest.mark.skipif(not os.access(SWITCH, os.W_OK), reason=f"{SWITCH} is not there, or not ours to write to"),
]

PROGRAM = """
import logging, os, sys
import proactor
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s %(levelname)s %(message)s")
if sys.argv[2] == "unprivileged":
    os.chown(sys.argv[1], 65534, 65534)
    descriptor = os.open(sys.argv[1], os.O_RDWR)
    os.setuid(65534)
    path = f"/proc/self/fd/{descriptor}"
else:
    path = sys.argv[1]
with proactor.open(path, "r+b") as file:
    requests = [file.write_at(at, bytes([at >> 12]) * 4096) for at in range(0, 1 << 19, 4096)]
    assert [request.result() for request in requests] == [4096] * 128
    assert file.read() == b"".join(bytes([number]) * 4096 for number in range(128))
    print(file.statistics().engine)
"""


@contextlib.contextmanager
def switched(value: str) -> Iterator[None]:
    before = SWITCH.read_text()
    SWITCH.write_text(value)
    try:
        yield
    finally:
        SWITCH.write_text(before)


@pytest.mark.parametrize(
    ("value", "who", "engine"), [("1", "unprivileged", "threads"), ("1", "root", "io_uring"), ("2", "root", "threads")]
)
def test_threads_take_over_where_io_uring_is_switched_off(tmp_path, value, who, engine) -> None:
    path = tmp_path / "file"
    path.touch()
    with switched(value):
        run = run_python(PROGRAM, str(path), who, env={"PROACTOR_FILES": ""})
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    assert lines[-1] == engine
    said = [line for line in lines if "io_uring is refused" in line]
    assert len(said) == (engine == "threads")
    assert all("kernel.io_uring_disabled" in line for line in said)


def test_a_ring_that_is_there_goes_on(tmp_path) -> None:
    import proactor

    path = tmp_path / "file"
    path.write_bytes(b"x" * 65536)
    with proactor.open(path, direct=True) as file:
        assert file.read_at(0, 512).result() == b"x" * 512
        engine = file.statistics().engine
        with switched("2"):
            requests = [file.read_at(at, 512) for at in range(0, 65536, 512)]
            assert all(request.result() == b"x" * 512 for request in requests)
        assert file.statistics().engine == engine
