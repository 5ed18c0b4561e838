"""`proactor read` as a process: exact bytes wherever they go, how it ends, and what it says when it cannot."""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading

import pytest
from cli_files import MARKS, SIZES, SPARSE_SIZE, make_sparse_file, may_override, one_line, part_of_sparse_file, random_bytes
from cli_process import COMMAND, TIMEOUT, Process, run_without

from platforms import FILE_ENGINES, LINUX, fcntl, resident_bytes
from proactor.cli.exit_codes import ExitCode

AT_ONCE = 5.0
"""Seconds within which Ctrl-C must have ended it, on a busy machine."""


@pytest.fixture
def start():
    """`start("read", ...)` runs the command with its output in pipes; `before` are words that go before it."""
    started = []

    def start_command(*arguments, before=(), **options):
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        process = Process([*before, *COMMAND, *arguments], bufsize=0, **streams)
        started.append(process)
        return process

    yield start_command
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def fifo(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_exact(run, tmp_path, size):
    data = random_bytes(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    result = run("read", str(path), "--block", "256", "--depth", "4")
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == data


@pytest.mark.parametrize("output", [[], ["--output", "-"], ["--output", "copy"]], ids=["", "-", "file"])
def test_the_output_may_be_named(run, tmp_path, output):
    data = random_bytes(700_000)
    (tmp_path / "file").write_bytes(data)
    (tmp_path / "copy").write_bytes(b"older and longer" * 100_000)
    result = run("read", "file", *output, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, b"")
    assert ((tmp_path / "copy").read_bytes() if output[-1:] == ["copy"] else result.stdout) == data


@pytest.mark.parametrize(
    ("offset", "length", "part"),
    [
        ("0", "0", slice(0, 0)),
        ("0", "1", slice(0, 1)),
        ("1", "1K", slice(1, 1025)),
        ("4K", "1M", slice(4096, 100_000)),
        ("99999", None, slice(99_999, 100_000)),
        ("100000", None, slice(0, 0)),
        ("10G", "10G", slice(0, 0)),
        ("1.5K", "255", slice(1536, 1791)),
    ],
)
def test_a_part_of_the_file(run, tmp_path, offset, length, part):
    data = random_bytes(100_000)
    (tmp_path / "file").write_bytes(data)
    more = [] if length is None else ["--length", length]
    result = run("read", "file", "--offset", offset, *more, "--block", "1000", cwd=tmp_path)
    assert (result.returncode, result.stderr, result.stdout) == (0, b"", data[part])


def test_options_may_come_from_the_environment(run, tmp_path):
    (tmp_path / "file").write_bytes(b"0123456789")
    environment = os.environ | {"PROACTOR_OFFSET": "2", "PROACTOR_LENGTH": "3", "PROACTOR_BLOCK": "1", "PROACTOR_STATS": "1"}
    result = run("read", "file", cwd=tmp_path, env=environment)
    assert result.stdout == b"234"
    assert result.stderr.startswith(b"read 3 bytes in ")


def test_offsets_beyond_four_gigabytes(run, tmp_path):
    path = make_sparse_file(tmp_path / "sparse")
    for offset, data in MARKS.items():
        assert run("read", str(path), "--offset", str(offset), "--length", str(len(data))).stdout == data
    assert run("read", str(path), "--offset", str(SPARSE_SIZE - 4), "--block", "4K").stdout == b"ll.\n"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_gigabytes_arrive_whole(start, tmp_path):
    path = make_sparse_file(tmp_path / "sparse")
    process = start("read", str(path), "--block", "1M")
    if LINUX:
        fcntl.fcntl(process.stdout.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)
    count = peak = 0
    while data := os.read(process.stdout.fileno(), 1 << 20):
        assert data == part_of_sparse_file(count, len(data)), f"something else at {count}"
        count += len(data)
        if peak == 0 and count > SPARSE_SIZE // 2:
            peak = resident_bytes(process.pid, peak=True)
    assert (process.wait(TIMEOUT), process.stderr.read()) == (0, b"")
    assert count == SPARSE_SIZE
    assert 0 < peak < 80_000_000


@pytest.mark.linux("a Unix shell")
def test_it_works_in_a_shell_pipe(tmp_path):
    (tmp_path / "file").write_bytes(b"abc\n" * 1000)
    script = f"{sys.executable} -m proactor read file | tr a-z A-Z | sort -u; echo ${{PIPESTATUS[*]}}"
    result = subprocess.run(["bash", "-c", script], capture_output=True, timeout=TIMEOUT, cwd=tmp_path, check=False)
    assert (result.stdout, result.stderr) == (b"ABC\n0 0 0\n", b"")


def test_a_reader_that_has_had_enough_ends_it_quietly(start, tmp_path):
    (tmp_path / "file").write_bytes(bytes(20_000_000))
    process = start("read", "file", cwd=tmp_path)
    assert process.stdout.read(10) == bytes(10)
    process.stdout.close()
    assert (process.wait(TIMEOUT), process.stderr.read()) == (0, b"")


@pytest.mark.linux("named pipes of the file system (mkfifo)")
def test_a_pipe_is_read_to_its_end(start, fifo):
    process = start("read", str(fifo))
    data = random_bytes(1_000_003)
    threading.Thread(target=fifo.write_bytes, args=(data,), daemon=True).start()
    assert process.stdout.read() == data
    assert (process.wait(TIMEOUT), process.stderr.read()) == (0, b"")


@pytest.mark.linux("device files")
def test_standard_input_may_be_read(run):
    data = random_bytes(300_000)
    result = run("read", "/dev/stdin", input=data)
    assert (result.returncode, result.stdout, result.stderr) == (0, data, b"")


@pytest.mark.linux("device files")
def test_the_length_ends_a_device_that_never_does(run):
    result = run("read", "/dev/zero", "--length", "1000003")
    assert (result.returncode, result.stdout) == (0, bytes(1_000_003))


@pytest.mark.linux("/proc")
def test_a_file_whose_size_is_told_as_none(run):
    result = run("read", "/proc/self/status")
    assert result.returncode == 0
    assert re.match(rb"Name:\t\w+", result.stdout)


def test_stats_tell_bytes_rate_requests_and_engine(run, tmp_path):
    (tmp_path / "file").write_bytes(bytes(1_000_003))
    result = run("read", "file", "--block", "64K", "--stats", cwd=tmp_path)
    assert result.stdout == bytes(1_000_003)
    first, second = result.stderr.decode().splitlines()
    assert re.fullmatch(r"read 1000003 bytes \(977 KiB\) in \d+\.\d{3} s, [\d.]+ [KMG]iB/s", first)
    assert re.fullmatch(r"1[67] requests( \(\d+ answered from memory\))?, [1-4]\.\d outstanding on average; engine: \S.*", second)


@pytest.mark.linux("device files")
def test_stats_of_a_pipe_say_that_it_was_read_in_turn(run):
    result = run("read", "/dev/stdin", "--stats", input=b"x" * 1000)
    assert result.stdout == b"x" * 1000
    assert result.stderr.decode().splitlines()[1] == "no requests: one block after the other"


@pytest.mark.parametrize("into_file", [False, True], ids=["standard output", "a file"])
def test_json_for_programs(run, tmp_path, into_file):
    (tmp_path / "file").write_bytes(bytes(100_000))
    result = run("read", "file", "--json", *(["--output", "copy"] if into_file else []), cwd=tmp_path)
    told = json.loads(result.stdout if into_file else result.stderr)
    assert (result.stderr if into_file else result.stdout) == (b"" if into_file else bytes(100_000))
    assert (told["path"], told["target"], told["bytes"]) == ("file", "copy" if into_file else None, 100_000)
    assert told["requests"] >= 1
    assert told["seconds"] > 0
    assert told["bytes_per_second"] == pytest.approx(100_000 / told["seconds"])
    assert 0 <= told["mean_depth"] <= 4
    assert 0 <= told["cached"] <= told["requests"]
    assert told["engine"] in (None, *FILE_ENGINES)
    assert told["method"] == "requests"


def test_the_engine_may_be_chosen(run, tmp_path):
    (tmp_path / "file").write_bytes(bytes(100_000))
    environment = os.environ | {"PROACTOR_FILES": "threads"}
    result = run("read", "file", "--json", cwd=tmp_path, env=environment)
    assert (result.returncode, result.stdout) == (0, bytes(100_000))
    assert json.loads(result.stderr)["engine"] == "threads"


def test_a_missing_file_gives_one_line_and_status_1(run, tmp_path):
    result = run("read", "nix", "--output", "copy", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (ExitCode.FAILED, b"")
    assert one_line(result) == "cannot read nix: No such file or directory; check the name"
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("folder", "cannot read folder: Is a directory.*; name a file in it"),
        ("file/below", "cannot read file/below: (Not a directory|No such file or directory); check the name"),
        pytest.param(
            "loop",
            "cannot read loop: Too many levels of symbolic links; a symbolic link leads back to itself",
            marks=pytest.mark.linux("symbolic links, which Wine has none of"),
        ),
        ("new\nline\x1b[31m", r"cannot read new\\nline\\x1b\[31m: (No such file|Invalid argument)"),
        ("", "cannot read : No such file or directory; check the name"),
        pytest.param(
            "socket", "cannot read socket: No such device or address; a socket is connected to", marks=pytest.mark.linux("Unix sockets")
        ),
        pytest.param("x" * 300, "cannot read x+: File name too long; choose a shorter name", marks=pytest.mark.linux("the longest name")),
        pytest.param(b"\xff", r"cannot read \\xff: No such file", marks=pytest.mark.linux("names that are no text")),
    ],
    ids=ascii,
)
def test_what_cannot_be_read(run, tmp_path, path, words):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "copy").write_bytes(b"kept")
    if path == "loop":
        (tmp_path / "loop").symlink_to("loop")
    if path == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(tmp_path / "socket"))
    result = run("read", path, "--output", "copy", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (ExitCode.FAILED, b"")
    assert re.fullmatch(f"{words}.*", one_line(result))
    assert (tmp_path / "copy").read_bytes() == b"kept"


@pytest.mark.linux("permissions of Unix")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "file"
    path.touch(mode=0o000)
    drop = may_override()
    if drop and subprocess.run([*drop, "true"], capture_output=True, check=False).returncode:
        pytest.skip("root's rights cannot be given up here")
    result = subprocess.run([*drop, *COMMAND, "read", str(path)], capture_output=True, timeout=TIMEOUT, check=False)
    assert result.returncode == ExitCode.FAILED
    assert one_line(result).startswith(f"cannot read {path}: Permission denied; its owner may permit it (chmod)")


@pytest.mark.linux("device files")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_at_standard_output(tmp_path, unbuffered):
    (tmp_path / "file").write_bytes(b"x" * 1000)
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [*COMMAND, "read", "file"],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT,
            cwd=tmp_path,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )
    assert result.returncode == ExitCode.FAILED
    assert one_line(result).startswith("cannot write to standard output: No space left on device; make room")


@pytest.mark.linux("device files")
def test_a_full_disk_under_the_named_output(run, tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 1000)
    result = run("read", "file", "--output", "/dev/full", cwd=tmp_path)
    assert result.returncode == ExitCode.FAILED
    assert one_line(result) == "cannot write to /dev/full: No space left on device; make room, or name a place that has some"


@pytest.mark.linux("a limit of a file's size (setrlimit)")
def test_an_output_that_may_not_grow_tells_how_far_it_came(tmp_path):
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    script = f"ulimit -f 1000; exec {sys.executable} -m proactor read file --output copy"
    result = subprocess.run(["bash", "-c", script], capture_output=True, timeout=TIMEOUT, cwd=tmp_path, check=False)
    assert result.returncode == ExitCode.FAILED
    assert one_line(result).startswith("cannot write to copy: File too large, after 1024000 bytes; raise the limit (ulimit -f)")


@pytest.mark.linux("device files")
@pytest.mark.parametrize("option", ["--stats", "--json"])
def test_a_report_that_is_lost_is_an_error(tmp_path, option):
    (tmp_path / "file").write_bytes(b"x")
    with open("/dev/full", "wb") as full:
        result = subprocess.run([*COMMAND, "read", "file", option], stdout=subprocess.PIPE, stderr=full, timeout=TIMEOUT, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (ExitCode.FAILED, b"x")


@pytest.mark.linux("a file of nearly 8 EiB")
@pytest.mark.parametrize("length", [[], ["--length", "2000"]], ids=["to the end", "beyond it"])
def test_the_last_bytes_that_an_offset_can_name(run, length):
    if not os.path.ismount("/dev/shm"):
        pytest.skip("there is no /dev/shm, whose files may be so large")
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        os.pwrite(file.fileno(), b"the end", 2**63 - 1 - 7)
        result = run("read", file.name, "--offset", str(2**63 - 1 - 1000), *length)
    assert (result.returncode, result.stderr) == (ExitCode.OK, b"")
    assert result.stdout == bytes(993) + b"the end"


def test_an_output_in_no_directory(run, tmp_path):
    (tmp_path / "file").touch()
    result = run("read", "file", "--output", "no/where", cwd=tmp_path)
    assert result.returncode == ExitCode.FAILED
    assert one_line(result) == "cannot write to no/where: No such file or directory; check the name"


@pytest.mark.parametrize(
    "name", ["file", "./file", "hard", pytest.param("soft", marks=pytest.mark.linux("symbolic links, which Wine has none of"))]
)
def test_the_output_may_not_be_the_file_itself(run, tmp_path, name):
    data = random_bytes(1000)
    (tmp_path / "file").write_bytes(data)
    (tmp_path / "hard").hardlink_to(tmp_path / "file")
    if name == "soft":
        (tmp_path / "soft").symlink_to("file")
    result = run("read", "file", "--output", name, cwd=tmp_path)
    assert result.returncode == ExitCode.FAILED
    words = "it is the file that is read, and would be overwritten meanwhile; name another"
    assert one_line(result) == f"cannot write to {name}: {words}"
    assert (tmp_path / "file").read_bytes() == data


def test_standard_output_may_not_append_to_the_file_itself(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 1000)
    with (tmp_path / "file").open("ab") as end:
        result = subprocess.run([*COMMAND, "read", "file"], stdout=end, stderr=subprocess.PIPE, timeout=TIMEOUT, cwd=tmp_path)
    assert result.returncode == ExitCode.FAILED
    assert one_line(result).startswith("cannot write to standard output: it is the file that is read")
    assert (tmp_path / "file").stat().st_size == 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--block", "0"], "argument --block: 0 is out of range: at least 1, please"),
        (["--block", "2G"], "argument --block: 2G is out of range: at most 1G, please"),
        (["--block", "1KB"], "argument --block: '1KB' may mean powers of 1000 or of 1024"),
        (["--depth", "0"], "argument --depth: 0 is out of range"),
        (["--depth", "many"], "argument --depth: 'many' is not a whole number"),
        (["--offset", "-1"], "argument --offset: '-1' is not a size"),
        (["--length", "x"], "argument --length: 'x' is not a size: write bytes"),
        (["--output", ""], "argument --output: it is empty"),
        (["--stats", "--json"], "argument --stats: --json tells the same; leave one of them out"),
        (["more"], "unrecognized arguments: more"),
    ],
    ids=str,
)
def test_a_wrong_command_line(run, tmp_path, arguments, words):
    (tmp_path / "file").touch()
    result = run("read", "file", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (ExitCode.USAGE, b"")
    assert words in result.stderr.decode().splitlines()[-1]


def test_a_wrong_choice_of_engine_is_a_usage_error(run, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    result = run("read", "file", cwd=tmp_path, env=os.environ | {"PROACTOR_FILES": "punched cards"})
    assert (result.returncode, result.stdout) == (ExitCode.USAGE, b"")
    assert "PROACTOR_FILES" in one_line(result)


@pytest.mark.linux("named pipes of the file system (mkfifo)")
def test_ctrl_c_while_nothing_comes_says_how_far_it_came(start, fifo):
    process = start("read", str(fifo))
    with fifo.open("wb", buffering=0) as writer:
        writer.write(b"x" * 1000)
        assert os.read(process.stdout.fileno(), 2000) == b"x" * 1000
        process.send_signal(signal.SIGINT)
        assert process.wait(AT_ONCE) == 130
    assert process.stderr.read() == f"proactor: interrupted: 1000 bytes of {fifo} had been written\n".encode()


@pytest.mark.linux("device files")
def test_ctrl_c_while_nobody_takes_the_output(start):
    process = start("read", "/dev/zero")
    assert os.read(process.stdout.fileno(), 1) == b"\0"
    process.send_signal(signal.SIGINT)
    assert process.wait(AT_ONCE) == 130
    assert re.fullmatch(rb"proactor: interrupted: \d+ bytes of /dev/zero had been written\n", process.stderr.read())


@pytest.mark.linux("strace, which tells when the pipe is being opened")
def test_ctrl_c_while_nobody_writes_to_the_pipe(start, fifo):
    if shutil.which("strace") is None:
        pytest.fail("strace is missing: .ci/run installs it")
    told, tell = os.pipe()
    with open(told, "rb", buffering=0) as told_of:
        # Of a child of its own (-D): the command stays ours, and has the signal.
        strace = ["strace", "-D", "-qq", "-e", "trace=openat", "-P", str(fifo), "-o", f"/dev/fd/{tell}"]
        try:
            process = start("read", str(fifo), before=strace, pass_fds=[tell])
        finally:
            os.close(tell)
        entered = b""
        while b"O_RDONLY" not in entered:
            assert select.select([told_of], [], [], TIMEOUT)[0], "it does not open the pipe"
            piece = told_of.read(1000)
            assert piece, "it ended, and has not opened the pipe"
            entered += piece
        process.send_signal(signal.SIGINT)
        assert process.wait(AT_ONCE) == 130
    assert process.stderr.read() == f"proactor: interrupted: 0 bytes of {fifo} had been written\n".encode()


def test_binary_data_is_not_sent_to_a_terminal_unasked(terminal, tmp_path):
    (tmp_path / "file").write_bytes(b"\x1b[31m\0binary")
    one = terminal("read", "file", cwd=tmp_path)
    assert one.wait() == ExitCode.FAILED
    one.wait_for(r"^proactor: file is binary, and might upset the terminal: write it to a file with --output FILE, or add --output -$")
    assert b"\x1b[31m" not in one.raw


def test_binary_data_is_sent_to_a_terminal_that_is_named(terminal, tmp_path):
    (tmp_path / "file").write_bytes(b"\x1b[31m\0binary\n")
    one = terminal("read", "file", "--output", "-", cwd=tmp_path)
    assert one.wait() == 0
    one.wait_for("binary")
    assert b"\x1b[31m\0binary" in one.raw


def test_binary_data_may_go_where_nobody_reads(start, tmp_path):
    (tmp_path / "file").write_bytes(b"\0")
    process = start("read", "file", cwd=tmp_path, stdout=subprocess.DEVNULL)
    assert (process.wait(TIMEOUT), process.stderr.read()) == (0, b"")


def test_text_at_a_terminal_comes_without_a_bar(terminal, tmp_path):
    (tmp_path / "file").write_bytes(b"first\nlast\n")
    one = terminal("read", "file", cwd=tmp_path)
    assert one.wait() == 0
    one.wait_for(r"\Afirst\nlast\Z")


def test_a_bar_at_a_terminal_shows_rate_and_time_left(terminal, fifo, tmp_path):
    one = terminal("read", str(fifo), "--length", "4M", "--output", "copy", "--stats", cwd=tmp_path)
    settings = one.settings
    with fifo.open("wb", buffering=0) as writer:
        feed(writer, 2 << 20, one, r"^fifo .*\d+% .*of 4\.00 MiB .*iB/s 0:\d\d:\d\d left$")
        write_all(writer, bytes((4 << 20) - (tmp_path / "copy").stat().st_size + (1 << 20)))
    assert one.wait() == 0
    one.wait_for(r"^fifo .*100% 4\.00 MiB of 4\.00 MiB [\d.]+ [KM]iB/s$")
    one.wait_for(r"^read 4194304 bytes \(4\.00 MiB\) in .*\nno requests: ")
    assert one.settings_now() == settings
    assert b"\x1b[?25l" not in one.raw  # A hidden cursor would stay hidden if the process were killed.


@pytest.mark.linux("a Unix shell")
def test_no_bar_into_a_pipe(terminal, tmp_path):
    (tmp_path / "file").write_bytes(b"x\n")
    one = terminal("-c", f"{sys.executable} -m proactor read file | cat", command=["sh"], cwd=tmp_path)
    assert one.wait() == 0
    one.wait_for(r"\Ax\Z")


def test_ctrl_c_at_a_terminal_ends_the_bar(terminal, fifo, tmp_path):
    one = terminal("read", str(fifo), "--output", "copy", cwd=tmp_path)
    with fifo.open("wb", buffering=0) as writer:
        writer.write(b"x" * 1000)
        one.wait_for(r"^fifo .*1000 B")
        one.type("\x03")
        assert one.wait() == 130
    one.wait_for(rf"^fifo .*1000 B.*\nproactor: interrupted: 1000 bytes of {re.escape(str(fifo))} had been written$")


def feed(writer, count, one, pattern):
    """Writes `count` bytes slowly enough to see the bar move, which matches the pattern then."""
    piece = count // 64
    for _ in range(64):
        write_all(writer, bytes(piece))
        with contextlib.suppress(AssertionError):
            one.wait_for(pattern, timeout=0.05)
            return
    one.wait_for(pattern)


def write_all(writer, data):
    """Into a pipe, until it is all taken or the reader has had enough."""
    rest = memoryview(data)
    with contextlib.suppress(BrokenPipeError):
        while rest:
            rest = rest[writer.write(rest) :]


@pytest.mark.linux("a limit of memory (setrlimit)")
def test_blocks_without_memory_are_told_of_in_one_line(tmp_path):
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 10 << 30)
    command = [*COMMAND, "read", str(path), "--block", "1G", "--depth", "1024", "--output", "/dev/null"]
    run = subprocess.run(["sh", "-c", 'ulimit -v 6000000; exec "$@"', "sh", *command], capture_output=True, text=True, timeout=TIMEOUT)
    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert "no memory for 1073741824 bytes" in run.stderr
    assert "--block" in run.stderr


@pytest.mark.linux("/proc")
def test_what_the_kernel_refuses_to_read_is_no_failing_device():
    run = subprocess.run([*COMMAND, "read", "/proc/self/mem"], capture_output=True, text=True, timeout=TIMEOUT)
    assert run.returncode == 1
    assert "Input/output error" in run.stderr
    assert "device" not in run.stderr


@pytest.mark.linux("/proc")
@pytest.mark.parametrize("command", [["read", "file", "--output"], ["copy", "file"]], ids=lambda command: command[0])
def test_what_the_kernel_takes_nothing_for_is_no_failing_device(run, tmp_path, command):
    (tmp_path / "file").write_bytes(b"x")
    result = run(*command, "/proc/version", cwd=tmp_path)
    assert result.returncode == ExitCode.FAILED
    assert re.fullmatch(
        "cannot write to /proc/version: .*(Input/output error|Illegal seek).*; it is one of the kernel's own.*", one_line(result)
    )


def test_a_closed_standard_output_loses_the_data_and_says_so(tmp_path):
    (tmp_path / "file").write_bytes(b"data")
    result = run_without((1,), "read", str(tmp_path / "file"))
    assert b"cannot write to standard output: Bad file descriptor; it is closed" in result.stderr
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
