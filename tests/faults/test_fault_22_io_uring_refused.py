"""Fault 22: the kernel refuses io_uring (EPERM as under Docker's default profile, ENOSYS): threads read and write; the log says so once."""

import errno
import os
import re
from pathlib import Path

import pytest

from peers import run_python
from rings import needs_io_uring

ROOT = Path(__file__).parents[2]

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


REFUSED = """
import os, sys
import seccomp
if sys.argv[1]:
    seccomp.refuse(seccomp.IO_URING_SETUP, seccomp.IO_URING_ENTER, seccomp.IO_URING_REGISTER, error=int(sys.argv[1]))
"""

SUITE = """
import pytest
os.chdir(sys.argv[2])
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--color=no", *sys.argv[3:]]))
"""

ABOUT_FILES = (
    "tests/faults/test_fault_04_completion_queue_overflow.py",
    "tests/faults/test_fault_25_denied_in_mid_run.py::test_nothing_is_lost_when_the_ring_is_denied",
    "tests/test_files.py::test_writes_land_where_they_are_told",
    "tests/test_handles_files.py::test_memory_is_lent_until_the_completion",
)


def run_suite(error: str) -> tuple[dict[str, int], str]:
    """How many of these tests passed, were skipped and so on, and what was printed."""
    run = run_python(REFUSED + SUITE, error, str(ROOT), *ABOUT_FILES, timeout=50)
    printed = run.stdout + run.stderr
    closing = re.search(r"^(.*) in [\d.]+s", printed.splitlines()[-1] if run.stdout else "")
    assert closing, printed
    return {what: int(number) for number, what in re.findall(r"(\d+) ([a-z]+)", closing[1])}, printed


def test_the_suite_passes_where_io_uring_is_refused_and_says_what_it_leaves_out() -> None:
    counted, printed = run_suite(str(errno.EPERM))
    # Those of threads pass, their twins on the ring do not run.
    assert counted == {"passed": 3, "skipped": 6}, printed
    skips = [line for line in printed.splitlines() if line.startswith("SKIPPED")]
    assert skips, printed
    assert all(line.endswith("the kernel refuses io_uring (EPERM)") for line in skips), printed


@needs_io_uring
def test_nothing_is_skipped_where_there_is_a_ring() -> None:
    counted, printed = run_suite("")
    assert counted == {"passed": 9}, printed


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOMEM, errno.EINVAL, errno.EMFILE], ids=errno.errorcode.get)
def test_only_a_refusal_skips_tests(error) -> None:
    run = run_python(REFUSED + "import rings", str(error))
    if error in (errno.ENOSYS, errno.ENOMEM):
        assert (run.returncode, run.stderr) == (0, "")
    else:
        assert run.returncode == 1
        assert f"io_uring_setup: {os.strerror(error)}" in run.stderr
