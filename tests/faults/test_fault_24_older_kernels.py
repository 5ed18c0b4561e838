"""Fault 24: a kernel without newer features, which cannot be asked what it can do. Files are read and written all the same."""

import errno

import pytest

from peers import run_python

pytestmark = pytest.mark.linux("io_uring")

PROGRAM = """
import sys
import proactor, seccomp
seccomp.refuse(seccomp.IO_URING_REGISTER, error=int(sys.argv[2]))
with proactor.open(sys.argv[1], "r+b") as file:
    assert file.write_at(0, b"some" * 1000).result() == 4000
    assert file.read() == b"some" * 1000
    print(file.statistics().engine)
"""


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EPERM])
def test_a_ring_that_cannot_be_asked_is_not_trusted(tmp_path, error) -> None:
    path = tmp_path / "file"
    path.touch()
    run = run_python(PROGRAM, str(path), str(error), env={"PROACTOR_FILES": ""})
    assert (run.stdout, run.stderr) == ("threads\n", "")


def test_without_cached_reads_every_read_is_a_request(tmp_path) -> None:
    """preadv2 is of Linux 4.6, its RWF_NOWAIT of 4.14."""
    path = tmp_path / "file"
    path.write_bytes(b"some" * 1000)
    program = """
import errno, os, sys
import proactor, seccomp
seccomp.refuse({"x86_64": 327, "aarch64": 286, "riscv64": 286}[os.uname().machine], error=errno.ENOSYS)
with proactor.open(sys.argv[1]) as file:
    assert file.read() == b"some" * 1000
    assert file.statistics().cached == 0
    print("read")
"""
    run = run_python(program, str(path))
    assert (run.stdout, run.stderr) == ("read\n", "")
