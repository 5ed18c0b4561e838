"""Fault 25: the ring is denied in mid-run, or the calls by which a read's asker begins it.

What the kernel has is waited for, the rest goes on in another way; nothing is lost.
"""

import errno

import pytest

import seccomp
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


READS = """
import sys
import proactor, seccomp
data = b"".join(number.to_bytes(8, "little") * 512 for number in range(200))
with open(sys.argv[1], "wb") as file:
    file.write(data)
with proactor.open(sys.argv[1], direct=True) as file:
    assert file.read_at(0, 4096).result() == data[:4096]
    waited = file.read_at(4096, 4096)
    told, looked_at = file.read_at(8192, 4096), file.read_at(12288, 4096)
    abandoned = file.read_at(0, 4096)
    seccomp.refuse(*map(int, sys.argv[3:]), error=int(sys.argv[2]))
    del abandoned
    told.add_done_callback(lambda request: print("told"))
    after = [file.read_at(at, 4096) for at in range(0, len(data), 4096)]
    assert waited.result() == data[4096:8192]
    while not looked_at.done():
        pass
    assert b"".join(request.result() for request in after) == data
    assert told.result() == data[8192:12288]
print(file.statistics().outstanding, file.statistics().failed)
"""


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
@pytest.mark.parametrize("calls", [seccomp.ASYNCHRONOUS_READS, seccomp.ASYNCHRONOUS_READS[2:]], ids=["all", "io_getevents"])
def test_nothing_is_lost_when_reads_that_were_begun_cannot_be_asked_after(tmp_path, error, calls) -> None:
    run = run_python(READS, str(tmp_path / "file"), str(error), *map(str, calls), env={"PROACTOR_FILES": ""})
    assert (run.stderr, sorted(run.stdout.split())) == ("", ["0", "0", "told"])


def test_reads_that_cannot_be_begun_by_their_askers_go_the_usual_way(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 256)
    program = """
import pathlib, sys
import proactor, seccomp
seccomp.refuse(*seccomp.ASYNCHRONOUS_READS)
with proactor.open(sys.argv[1], direct=True) as file:
    assert b"".join(request.result() for request in [file.read_at(at, 512) for at in range(0, 65536, 512)]) == bytes(range(256)) * 256
    threads = [comm.read_text().strip() for comm in pathlib.Path("/proc/self/task").glob("*/comm")]
assert "proactor-ring" in threads or "proactor-files" in threads, threads
assert "proactor-direct" not in threads, threads
"""
    run = run_python(program, str(path), env={"PROACTOR_FILES": ""})
    assert (run.stdout, run.stderr) == ("", "")
