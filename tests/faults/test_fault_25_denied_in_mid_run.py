"""Fault 25: the ring is denied in mid-run. What the kernel has is waited for, the rest goes to threads; nothing is lost."""

import errno

import pytest

from peers import run_python
from rings import needs_io_uring

pytestmark = pytest.mark.linux("io_uring, and seccomp, which denies it")

PROGRAM = """
import logging, sys
import proactor, seccomp
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
data = b"".join(number.to_bytes(8, "little") * 512 for number in range(2000))
with open(sys.argv[1], "wb") as file:
    file.write(data)
with proactor.open(sys.argv[1], direct=True) as file:
    before = [file.read_at(at, 4096) for at in range(0, len(data), 4096)]
    before[0].add_done_callback(lambda request: None)
    print(file.statistics().engine)
    seccomp.refuse(seccomp.IO_URING_ENTER, seccomp.IO_URING_SETUP, error=int(sys.argv[2]))
    after = [file.read_at(at, 4096) for at in range(0, len(data), 4096)]
    assert b"".join(request.result() for request in before) == data
    assert b"".join(request.result() for request in after) == data
    print(file.statistics().engine, file.statistics().outstanding, file.statistics().failed)
    file.read_at(0, 10).result()
"""


@needs_io_uring
@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS, errno.EACCES])
def test_nothing_is_lost_when_the_ring_is_denied(tmp_path, error) -> None:
    run = run_python(PROGRAM, str(tmp_path / "file"), str(error), env={"PROACTOR_FILES": ""})
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    assert lines[0] == "io_uring"
    assert "threads 0 0" in lines
    assert len([line for line in lines if "io_uring is refused" in line and "not at the start" in line]) == 1
