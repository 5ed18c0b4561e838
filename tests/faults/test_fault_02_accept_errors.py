"""Fault 2: accept fails with whatever the kernel may say. One bad accept never stops the listener."""

import shutil
import subprocess
import sys

import pytest

from peers import Program, dial, read_exactly

pytestmark = pytest.mark.linux("strace, which makes accept fail")

SERVER = """
import logging, sys
import proactor
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
with proactor.serve(lambda connection, data: connection.send(data), ("127.0.0.1", 0)) as server:
    print(server.address[1])
    for line in sys.stdin:
        print(server.statistics())
"""


def strace(error: str, when: str) -> list[str]:
    if shutil.which("strace") is None:
        pytest.fail("strace is missing: .ci/run installs it")
    inject = ["-e", "trace=accept4,accept", "-e", f"inject=accept4:error={error}:when={when}"]
    attempt = subprocess.run(["strace", "-f", "-o", "/dev/null", sys.executable, "-c", ""], capture_output=True, text=True)
    if attempt.returncode != 0 and "ptrace" in attempt.stderr:
        pytest.skip(f"ptrace is refused here: {attempt.stderr.strip()}")
    return ["strace", "-f", "-qq", "-o", "/dev/null", *inject]


@pytest.mark.parametrize("error", ["ECONNABORTED", "EPROTO", "EPERM", "EINTR"])
def test_an_error_of_one_connection_is_logged_and_the_next_ones_are_served(program, error) -> None:
    server: Program = program(SERVER, command=strace(error, "1..3"))
    address = server.address()
    for _ in range(8):
        with dial(address) as client:
            client.sendall(b"x")
            assert read_exactly(client, 1) == b"x", "the connection is still in the backlog: the next accept takes it"
    if error != "EINTR":
        server.wait_for_error("accept failed")


@pytest.mark.parametrize("error", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"])
def test_a_shortage_pauses_accepting_for_a_while(program, error) -> None:
    server: Program = program(SERVER, command=strace(error, "2..4"))
    address = server.address()
    for _ in range(5):
        with dial(address) as client:
            client.sendall(b"x")
            assert read_exactly(client, 1) == b"x"
    server.wait_for_error("clients wait in the backlog")
    server.say("statistics")
    numbers = server.line()
    assert "accepted=5" in numbers
    # strace counts for each thread, and any worker may be the one that accepts.
    assert 3 <= int(numbers.split("accept_errors=")[1].split(",")[0]) <= 30, "it did not spin"
