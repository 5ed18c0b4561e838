"""A result that cannot be written is not passed over: a script that reads the exit status is told."""

import os
import subprocess

import pytest
from cli_process import COMMAND, TIMEOUT

from proactor.cli.exit_codes import ExitCode

BUFFERING = pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])


def run_into(path: str, *arguments: str, unbuffered: str = "", stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    with open(path, "wb") as output:
        return subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )


@pytest.mark.linux("device files")
@BUFFERING
@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["--version"]], ids=" ".join)
def test_help_that_cannot_be_written_is_a_failure(arguments, unbuffered):
    result = run_into("/dev/full", *arguments, unbuffered=unbuffered)
    assert result.returncode == ExitCode.FAILED
    assert result.stderr == b"proactor: cannot write to standard output: No space left on device\n"


@pytest.mark.parametrize("columns", ["60", "80", "200"])
@pytest.mark.parametrize("command", [[], ["serve"], ["connect"], ["read"], ["copy"], ["dispatch"]], ids=" ".join)
def test_help_is_as_wide_as_the_terminal_at_most(command, columns):
    result = subprocess.run([*COMMAND, *command, "--help"], capture_output=True, timeout=TIMEOUT, env=os.environ | {"COLUMNS": columns})
    assert [line for line in result.stdout.decode().splitlines() if len(line) > int(columns)] == []


@pytest.mark.linux("device files")
@BUFFERING
def test_a_report_that_cannot_be_written_is_in_the_log_and_a_failure(unbuffered):
    result = run_into("/dev/full", "serve", "--port", "0", unbuffered=unbuffered, stdin=b"Exit\n")
    assert result.returncode == ExitCode.FAILED
    last = result.stderr.decode().splitlines()[-1]
    assert last.endswith("ERROR cannot write to standard output: No space left on device: served 0 clients, sent 0 bytes, dropped 0 bytes")


@BUFFERING
def test_a_reader_that_has_had_enough_is_no_failure(unbuffered):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as output:
        for arguments in (["serve", "--help"], ["serve", "--port", "0"]):
            result = subprocess.run(
                [*COMMAND, *arguments],
                input=b"Exit\n",
                stdout=output,
                stderr=subprocess.PIPE,
                timeout=TIMEOUT,
                env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            )
            assert result.returncode == ExitCode.OK, result.stderr
            assert b"Exception" not in result.stderr
