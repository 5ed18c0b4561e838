"""`proactor copy` as a process: the same bytes at the target, how it ends, and what it says when it cannot."""

import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest
from cli_files import MARKS, SIZES, SPARSE_SIZE, make_sparse_file, may_override, one_line, random_bytes
from cli_process import COMMAND, TIMEOUT, Process

from platforms import FILE_ENGINES
from proactor.cli.exit_codes import ExitCode

AT_ONCE = 5.0
"""Seconds within which Ctrl-C must have ended it, on a busy machine."""


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_exact(run, tmp_path, size):
    data = random_bytes(size)
    (tmp_path / "one").write_bytes(data)
    result = run("copy", "one", "two", "--block", "256", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert (tmp_path / "two").read_bytes() == data


def test_a_target_that_was_longer_is_overwritten_whole(run, tmp_path):
    (tmp_path / "one").write_bytes(b"short")
    (tmp_path / "two").write_bytes(b"much longer" * 100_000)
    assert run("copy", "one", "two", cwd=tmp_path).returncode == 0
    assert (tmp_path / "two").read_bytes() == b"short"


@pytest.mark.linux("files with holes, and st_blocks, which tells of them")
def test_ten_gigabytes_of_holes_stay_holes(run, tmp_path):
    source = make_sparse_file(tmp_path / "one")
    if source.stat().st_blocks * 512 > 1 << 20:
        pytest.skip("this file system keeps no holes")
    assert run("copy", "one", "two", cwd=tmp_path).returncode == 0
    with (tmp_path / "two").open("rb") as copy:
        for offset, data in MARKS.items():
            copy.seek(offset)
            assert copy.read(len(data)) == data
        assert os.fstat(copy.fileno()).st_size == SPARSE_SIZE
        assert os.fstat(copy.fileno()).st_blocks * 512 < 1 << 22


@pytest.mark.linux("named pipes of the file system (mkfifo)")
def test_a_pipe_is_copied_to_its_end(tmp_path):
    data = random_bytes(1_000_003)
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(data,), daemon=True)
    writer.start()
    result = subprocess.run([*COMMAND, "copy", "fifo", "two"], capture_output=True, timeout=TIMEOUT, cwd=tmp_path)
    writer.join(TIMEOUT)
    assert (result.returncode, result.stderr) == (0, b"")
    assert (tmp_path / "two").read_bytes() == data


@pytest.mark.linux("device files")
def test_it_copies_into_a_pipe(tmp_path):
    data = random_bytes(300_000)
    (tmp_path / "one").write_bytes(data)
    script = f"{sys.executable} -m proactor copy one /dev/stdout | cat"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", script], capture_output=True, timeout=TIMEOUT, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == data


@pytest.mark.linux("/proc")
def test_a_file_of_proc_whose_size_is_told_as_none(run, tmp_path):
    assert run("copy", "/proc/cpuinfo", "two", cwd=tmp_path).returncode == 0
    assert b"processor" in (tmp_path / "two").read_bytes()


def test_stats_tell_bytes_rate_requests_and_engine(run, tmp_path):
    (tmp_path / "one").write_bytes(random_bytes(1_000_003))
    result = run("copy", "one", "two", "--stats", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, b"")
    first, second = result.stdout.decode().splitlines()
    assert re.fullmatch(r"copied 1000003 bytes \(977 KiB\) in \d+\.\d{3} s, [\d.]+ [KMG]iB/s", first)
    assert re.fullmatch(
        r"the kernel copied by itself|the files share their blocks now|\d+ requests?\b.* outstanding on average; engine: \S.*", second
    )


def test_json_for_programs(run, tmp_path):
    (tmp_path / "one").write_bytes(random_bytes(100_000))
    result = run("copy", "one", "two", "--json", cwd=tmp_path)
    told = json.loads(result.stdout)
    assert result.stderr == b""
    assert (told["path"], told["target"], told["bytes"]) == ("one", "two", 100_000)
    assert told["method"] in ("requests", "kernel", "reflink")
    assert 0 <= told["cached"] <= told["requests"]
    assert told["bytes_per_second"] == pytest.approx(100_000 / told["seconds"])
    assert told["engine"] in (None, *FILE_ENGINES)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("nix", "two", "cannot read nix: No such file or directory; check the name"),
        ("folder", "two", "cannot read folder: .*[Dd]irectory.*; name a file in it"),
        ("one", "folder", r"cannot write to folder: it is a directory; name the file in it: folder[/\\]one"),
        ("one", "no/where", "cannot write to no/where: No such file or directory; check the name"),
        pytest.param(
            "one",
            "nodir/",
            "cannot write to nodir/: Is a directory; there is no such directory: make it, or name a file",
            marks=pytest.mark.linux("the error of Linux"),
        ),
        ("one", "one", "one and one are the same file; name another to copy to"),
        ("one", "hard", "one and hard are the same file; name another to copy to"),
        pytest.param(
            "one",
            "soft",
            "one and soft are the same file; name another to copy to",
            marks=pytest.mark.linux("symbolic links, which Wine has none of"),
        ),
        pytest.param(
            "one",
            "/dev/full",
            "cannot write to /dev/full: .*No space left on device; 0 bytes were copied before; make room, or name a place that has some",
            marks=pytest.mark.linux("device files"),
        ),
    ],
)
def test_what_cannot_be_copied(run, tmp_path, source, target, words):
    data = random_bytes(1000)
    (tmp_path / "folder").mkdir()
    (tmp_path / "one").write_bytes(data)
    (tmp_path / "two").write_bytes(b"kept")
    (tmp_path / "hard").hardlink_to(tmp_path / "one")
    if source == "soft" or target == "soft":
        (tmp_path / "soft").symlink_to("one")
    result = run("copy", source, target, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (ExitCode.FAILED, b"")
    assert re.fullmatch(words, one_line(result))
    assert (tmp_path / "one").read_bytes() == data
    assert (tmp_path / "two").read_bytes() == b"kept"


@pytest.mark.linux("permissions of Unix")
@pytest.mark.parametrize(("name", "words"), [("one", "cannot read one"), ("two", "cannot write to two")])
def test_a_file_that_may_not_be_touched(tmp_path, name, words):
    for each in ("one", "two"):
        (tmp_path / each).write_bytes(b"x")
    (tmp_path / name).chmod(0)
    drop = may_override()
    if drop and subprocess.run([*drop, "true"], capture_output=True, check=False).returncode:
        pytest.skip("root's rights cannot be given up here")
    result = subprocess.run([*drop, *COMMAND, "copy", "one", "two"], capture_output=True, timeout=TIMEOUT, cwd=tmp_path)
    assert result.returncode == ExitCode.FAILED
    assert one_line(result).startswith(f"{words}: Permission denied; its owner may permit it (chmod)")


@pytest.mark.linux("a limit of a file's size (setrlimit)")
def test_a_target_that_may_not_grow_tells_how_far_it_came(tmp_path):
    (tmp_path / "one").write_bytes(random_bytes(3_000_000))
    script = f"ulimit -f 1000; exec {sys.executable} -m proactor copy one two"
    result = subprocess.run(["bash", "-c", script], capture_output=True, timeout=TIMEOUT, cwd=tmp_path)
    assert result.returncode == ExitCode.FAILED
    assert re.fullmatch(
        r"cannot write to two: .*File too large; 1024000 bytes were copied before; raise the limit \(ulimit -f\).*", one_line(result)
    )


@pytest.mark.linux("a limit of memory (setrlimit)")
def test_blocks_that_there_is_no_memory_for(run, tmp_path):
    (tmp_path / "one").write_bytes(b"data")
    limited = ["sh", "-c", 'ulimit -v 600000; exec "$@"', "sh", *COMMAND, "copy"]
    many = subprocess.run([*limited, "/dev/zero", "zeros", "--block", "1G"], capture_output=True, timeout=TIMEOUT, cwd=tmp_path)
    assert many.returncode == ExitCode.FAILED
    assert re.fullmatch("cannot copy /dev/zero: .*no memory.*; choose a smaller --block or --depth", one_line(many))
    if json.loads(run("copy", "one", "two", "--json", cwd=tmp_path).stdout)["method"] == "requests":
        pytest.skip("the kernel does not copy by itself here")
    by_kernel = subprocess.run([*limited, "one", "two", "--block", "1G"], capture_output=True, timeout=TIMEOUT, cwd=tmp_path)
    assert (by_kernel.returncode, by_kernel.stderr) == (ExitCode.OK, b"")
    assert (tmp_path / "two").read_bytes() == b"data"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: TARGET"),
        (["two", "--block", "0"], "argument --block: 0 is out of range: at least 1, please"),
        (["two", "--depth", "-3"], "argument --depth: -3 is out of range"),
        (["two", "--stats", "--json"], "argument --stats: --json tells the same; leave one of them out"),
        (["two", "three"], "unrecognized arguments: three"),
    ],
    ids=str,
)
def test_a_wrong_command_line(run, tmp_path, arguments, words):
    (tmp_path / "one").touch()
    result = run("copy", "one", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (ExitCode.USAGE, b"")
    assert words in result.stderr.decode().splitlines()[-1]
    assert not (tmp_path / "two").exists()


@pytest.mark.linux("named pipes of the file system (mkfifo)")
def test_ctrl_c_says_how_far_it_came(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    process = Process([*COMMAND, "copy", "fifo", "two"], stderr=subprocess.PIPE, cwd=tmp_path)
    with (tmp_path / "fifo").open("wb", buffering=0) as writer:
        writer.write(b"x" * 1000)
        wait_for_size(tmp_path / "two", 1000)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=AT_ONCE)
    assert process.returncode == 130
    assert re.fullmatch(rb"proactor: interrupted: \d+ bytes had been copied; two is not complete\n", errors)


def test_a_bar_at_a_terminal_stays_at_its_end(terminal, tmp_path):
    (tmp_path / "one").write_bytes(random_bytes(3_000_000))
    one = terminal("copy", "one", "two", "--stats", cwd=tmp_path)
    assert one.wait() == 0
    one.wait_for(r"^one .*100% 2\.86 MiB of 2\.86 MiB [\d.]+ [KMG]iB/s$")
    one.wait_for(r"^copied 3000000 bytes \(2\.86 MiB\) in ")


def test_quiet_at_a_terminal_says_nothing(terminal, tmp_path):
    (tmp_path / "one").write_bytes(b"x")
    one = terminal("copy", "one", "two", "--quiet", cwd=tmp_path)
    assert one.wait() == 0
    assert one.raw == b""


@pytest.mark.linux("a Unix shell")
def test_no_bar_where_standard_error_is_no_terminal(terminal, tmp_path):
    (tmp_path / "one").write_bytes(b"x")
    one = terminal("-c", f"{sys.executable} -m proactor copy one two 2>errors", command=["sh"], cwd=tmp_path)
    assert one.wait() == 0
    assert (one.raw, (tmp_path / "errors").read_bytes()) == (b"", b"")


def wait_for_size(path, size):
    """Until the file has grown to this."""
    grown = threading.Event()
    for _ in range(int(TIMEOUT / 0.02)):
        if path.exists() and path.stat().st_size >= size:
            return
        grown.wait(0.02)
    raise AssertionError(f"{path} did not grow to {size} bytes")
