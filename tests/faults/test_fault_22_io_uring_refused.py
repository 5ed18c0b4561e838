"""Fault 22: the kernel refuses io_uring (EPERM as under Docker's default profile, ENOSYS): threads read and write; the log says so once."""

import errno

import pytest

from peers import run_python

pytestmark = pytest.mark.linux("io_uring, and seccomp, which refuses it")

PROGRAM = """
import logging, sys
import proactor, seccomp
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s %(levelname)s %(message)s")
seccomp.refuse(seccomp.IO_URING_SETUP, error=int(sys.argv[2]))
for _ in range(2):
    with proactor.open(sys.argv[1], "r+b", direct=False) as file:
        requests = [file.write_at(at, bytes([at >> 12]) * 4096) for at in range(0, 1 << 19, 4096)]
        assert [request.result() for request in requests] == [4096] * 128
        file.sync()
        assert file.read() == b"".join(bytes([number]) * 4096 for number in range(128))
        print(file.statistics().engine)
        with proactor.open(sys.argv[1]) as other:
            other.read()
"""


@pytest.mark.parametrize(
    ("error", "text"), [(errno.EPERM, "EPERM: a container's seccomp profile"), (errno.ENOSYS, "ENOSYS: an older kernel")]
)
def test_threads_take_over_and_the_log_says_why(tmp_path, error, text) -> None:
    path = tmp_path / "file"
    path.touch()
    run = run_python(PROGRAM, str(path), str(error), env={"PROACTOR_FILES": ""})
    assert run.stderr == ""
    assert run.returncode == 0
    lines = run.stdout.splitlines()
    assert lines.count("threads") == 2
    said = [line for line in lines if "io_uring is refused" in line]
    assert len(said) == 1, "once a process"
    assert said[0].startswith("proactor INFO")
    assert text in said[0]
    assert said[0].endswith(": reading and writing files with threads")


def test_forced_io_uring_raises_and_says_what_to_do(tmp_path) -> None:
    path = tmp_path / "file"
    path.touch()
    program = """
import sys, proactor, seccomp
seccomp.refuse(seccomp.IO_URING_SETUP)
try:
    proactor.open(sys.argv[1])
except OSError as error:
    print(error)
"""
    run = run_python(program, str(path), env={"PROACTOR_FILES": "io_uring"})
    assert run.stderr == ""
    assert "unset it, or set it to threads" in run.stdout
    assert "EPERM" in run.stdout


def test_another_name_is_refused_at_once(tmp_path, monkeypatch) -> None:
    import proactor

    monkeypatch.setenv("PROACTOR_FILES", "uring")
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(ValueError, match='PROACTOR_FILES must be one of io_uring, threads, or unset; not "uring"'):
        proactor.open(path)
