"""Commands that were started without a standard stream (`>&-`): nothing is lost in silence, and what is said is one line."""

import os
import socket
import threading

import pytest
from cli_process import TIMEOUT, run_without

from proactor.cli.exit_codes import ExitCode


@pytest.mark.linux("/dev/stdout")
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize("command", ["copy", "read"])
def test_a_closed_standard_output_is_no_target(tmp_path, command, name):
    (tmp_path / "file").write_bytes(b"data")
    (tmp_path / "link").symlink_to("/dev/stdout")
    target = str(tmp_path / name)
    arguments = ["copy", str(tmp_path / "file"), target] if command == "copy" else ["read", str(tmp_path / "file"), "--output", target]
    result = run_without((1,), *arguments)
    assert result.stderr.decode() == (
        f"proactor: cannot write to {target}: it is closed; redirect it somewhere, or leave out what closes it\n"
    )
    assert result.returncode == ExitCode.FAILED


@pytest.mark.linux("/dev/stdin")
@pytest.mark.parametrize("command", ["copy", "read"])
def test_a_closed_standard_input_is_no_source(tmp_path, command):
    target = tmp_path / "target"
    arguments = ["copy", "/dev/stdin", str(target)] if command == "copy" else ["read", "/dev/stdin", "--output", str(target)]
    result = run_without((0,), *arguments)
    assert result.stderr.startswith(b"proactor: cannot read /dev/stdin: it is closed; ")
    assert result.stderr.count(b"\n") == 1
    assert result.returncode == ExitCode.FAILED
    assert not target.exists()


@pytest.mark.parametrize("command", ["copy", "read"])
def test_any_other_target_is_written_to(tmp_path, command):
    (tmp_path / "file").write_bytes(b"data")
    for target in (str(tmp_path / "target"), os.devnull):
        arguments = ["copy", str(tmp_path / "file"), target] if command == "copy" else ["read", str(tmp_path / "file"), "--output", target]
        result = run_without((1,), *arguments)
        assert (result.stderr, result.returncode) == (b"", ExitCode.OK)
    assert (tmp_path / "target").read_bytes() == b"data"


def test_connect_says_that_what_came_is_lost():
    def answer() -> None:
        client, _ = listener.accept()
        with client:
            client.sendall(b"hello\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answer)
        server.start()
        result = run_without((0, 1), "connect", f"127.0.0.1:{listener.getsockname()[1]}")
        server.join(TIMEOUT)
    assert result.stderr == b"proactor: cannot write to standard output: Bad file descriptor\n"
    assert result.returncode == ExitCode.FAILED
