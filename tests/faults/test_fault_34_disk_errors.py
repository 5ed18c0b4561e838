"""Fault 34: the disk fails, or the file is shorter than it was. The error says where; the other requests go on."""

import errno
import os

import pytest

import proactor
from peers import Program, run_python
from platforms import FILE_MECHANISMS

PROGRAM = """
import sys
import proactor
with proactor.open(sys.argv[1], "r+b", direct=True) as file:
    requests = [file.read_at(at, 4096) for at in range(0, 40960, 4096)] + [file.write_at(40960, bytes(4096))]
    for request in requests:
        error = request.exception()
        print("whole" if error is None else f"{type(error).__name__} {error.errno} {error}")
    assert file.read_at(0, 4096).exception() is not None
"""


@pytest.mark.linux("strace, which makes reads fail")
def test_a_disk_error_is_told_with_its_place(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(65536))
    # The ring's own system calls cannot be made to fail one by one; see below.
    inject = ["-e", "trace=pread64,pwrite64", "-e", "inject=pread64:error=EIO", "-e", "inject=pwrite64:error=ENOSPC"]
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(path), *inject]
    program = Program(PROGRAM, str(path), command=command, env={**os.environ, "PROACTOR_FILES": "threads"})
    try:
        assert program.wait() == 0, program.errors()
        lines = program.lines()
    finally:
        program.end()
    for number, line in enumerate(lines[:10]):
        assert line.startswith(f"OSError {errno.EIO} ")
        assert f"reading 4096 bytes at {number * 4096}: Input/output error" in line
        assert str(path) in line
    assert f"OSError {errno.ENOSPC} " in lines[-1]
    assert "writing 4096 bytes at 40960: No space left on device" in lines[-1]


@pytest.mark.linux("device files")
@pytest.mark.parametrize("engine", FILE_MECHANISMS)
def test_a_device_that_fails_is_told_with_its_place_and_the_rest_goes_on(tmp_path, monkeypatch, engine) -> None:
    """Files that always fail stand in for the disk, under the number of the file's descriptor: so the ring meets the error too."""
    monkeypatch.setenv("PROACTOR_FILES", engine)
    path = tmp_path / "file"
    path.write_bytes(b"x" * 65536)
    with proactor.open(path, "r+b") as file, proactor.open(path) as sound:
        for stand_in, number in (("/proc/self/mem", errno.EIO), ("/dev/full", errno.ENOSPC)):
            failing = os.open(stand_in, os.O_RDWR if number == errno.ENOSPC else os.O_RDONLY)
            try:
                os.dup2(failing, file.fileno())
            finally:
                os.close(failing)
            if number == errno.EIO:
                requests = [file.read_at(at, 100) for at in range(0, 2000, 100)]
            else:
                requests = [file.write_at(at, bytes(100)) for at in range(0, 2000, 100)]
            assert sound.read_at(4096, 4096).result() == b"x" * 4096
            for at, request in zip(range(0, 2000, 100), requests, strict=True):
                error = request.exception()
                assert isinstance(error, OSError)
                assert error.errno == number
                assert f"ing 100 bytes at {at}: {os.strerror(number)}" in str(error)
                assert error.filename == str(path)
        assert file.statistics().engine == engine
        assert file.statistics().failed == 40
    assert path.read_bytes() == b"x" * 65536


@pytest.mark.linux("strace, which makes reads hang")
def test_a_disk_that_hangs_keeps_nobody_who_gives_up(tmp_path) -> None:
    """What `blocks` leaves under way owns its memory, so neither the end of the iteration nor `close` waits for it."""
    program = """
import sys, time
import proactor
file = proactor.open(sys.argv[1], block_size=4096, depth=4, direct=True)
blocks = file.blocks()
assert [len(next(blocks)) for _ in range(2)] == [4096, 4096]
begun = time.monotonic()
blocks.close()
file.close()
print("long" if time.monotonic() - begun > 1.5 else "at once", file.statistics().outstanding)
"""
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    inject = ["-e", "trace=pread64", "-e", "inject=pread64:delay_enter=3000000"]
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(path), *inject]
    program_run = Program(program, str(path), command=command, env={**os.environ, "PROACTOR_FILES": "threads"})
    try:
        assert program_run.wait() == 0, program_run.errors()
        assert program_run.lines() == ["at once 0"]
    finally:
        program_run.end()


@pytest.mark.parametrize("engine", FILE_MECHANISMS)
@pytest.mark.parametrize("direct", [False, True])
def test_a_file_that_is_shorter_than_it_was_is_read_to_its_end(tmp_path, monkeypatch, engine, direct) -> None:
    monkeypatch.setenv("PROACTOR_FILES", engine)
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1_000_000)
    with proactor.open(path, direct=direct, block_size=10_000) as file:
        os.truncate(path, 12_345)
        assert file.read_at(12_000, 1000).result() == b"x" * 345
        assert file.read_at(20_000, 1000).result() == b""
        assert file.read() == b"x" * 12_345


@pytest.mark.linux("a limit of a file's size (setrlimit)")
def test_a_failed_copy_says_how_much_was_copied(tmp_path) -> None:
    """A limit on the size of files stands in for a disk that fills up."""
    path = tmp_path / "source"
    path.write_bytes(bytes(range(256)) * 4096)
    program = """
import resource, signal, sys
import proactor
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
    proactor.copy(sys.argv[1], sys.argv[2])
except OSError as error:
    print(error)
"""
    run = run_python(program, str(path), str(tmp_path / "target"))
    assert run.stderr == ""
    assert "500000 bytes were copied before" in run.stdout
    assert "target" in run.stdout
    assert path.read_bytes() == bytes(range(256)) * 4096
