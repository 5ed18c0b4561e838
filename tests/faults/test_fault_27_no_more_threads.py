"""Fault 27: a thread cannot be created. The pool goes on with those it has, and starts more when it can."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers import Program, dial, read_exactly

SERVER = """
import logging, sys, threading, time
import proactor
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
print("ready")
sys.stdin.readline()

def handler(connection, data):
    time.sleep(0.2)
    connection.send(data)

with proactor.serve(handler, ("127.0.0.1", 0), pool=proactor.ThreadPool(concurrency=1, max_workers=32)) as server:
    print(server.address[1])
    for line in sys.stdin:
        print(server.pool.statistics().workers)
print("over")
"""

NOT_EVEN_ONE = """
import sys
import proactor
print("ready")
sys.stdin.readline()
for _ in range(3):
    try:
        proactor.serve(lambda connection, data: None, ("127.0.0.1", 0)).close()
        print("served")
    except (RuntimeError, OSError) as error:
        print("refused", type(error).__name__, error)
print("asking for room")
sys.stdin.readline()
proactor.serve(lambda connection, data: None, ("127.0.0.1", 0)).close()
print("served")
"""

CGROUP = Path("/sys/fs/cgroup/pids")


@contextlib.contextmanager
def limited(process: Program) -> Iterator:
    """Answers `limit(count)`: the process may have so many threads, None: as many as it likes."""
    pid = process.process.pid
    if CGROUP.is_dir() and os.access(CGROUP, os.W_OK):
        group = CGROUP / f"proactor-test-{os.getpid()}"
        group.mkdir()
        (group / "cgroup.procs").write_text(str(pid))
        try:
            yield lambda count: (group / "pids.max").write_text("max" if count is None else str(count))
        finally:
            process.end()
            group.rmdir()
    elif os.getuid() != 0:
        others = int(os.popen(f"ps -L -u {os.getuid()} --no-headers | wc -l").read())
        own = len(os.listdir(f"/proc/{pid}/task"))
        hard = resource.prlimit(pid, resource.RLIMIT_NPROC)[1]
        yield lambda count: resource.prlimit(pid, resource.RLIMIT_NPROC, (hard if count is None else others - own + count, hard))
    else:
        pytest.skip("neither a pids cgroup (v1, writable) nor a user whom RLIMIT_NPROC binds (root is not)")


def test_the_pool_goes_on_with_fewer_threads_and_grows_when_it_can(program) -> None:
    server: Program = program(SERVER)
    assert server.line() == "ready"
    with limited(server) as limit:
        limit(6)  # the main thread, the monitor, the watcher, and at most three workers
        server.say("go")
        address = server.address()
        clients = [dial(address) for _ in range(20)]
        for client in clients:
            client.sendall(b"x")
        for client in clients:
            assert read_exactly(client, 1) == b"x", "everybody is served, if slowly"
        server.wait_for_error("no further worker thread")
        server.say("workers")
        assert int(server.line()) <= 3
        limit(None)
        for _ in range(40):
            for client in clients:
                client.sendall(b"y")
            for client in clients:
                assert read_exactly(client, 1) == b"y"
            server.say("workers")
            if (workers := int(server.line())) > 10:
                break
        assert workers > 10, "it asks again, and gets them"
        for client in clients:
            client.close()
        server.process.stdin.close()
        assert server.wait() == 0, server.errors()


def test_a_server_that_gets_no_thread_at_all_says_so_and_leaves_nothing(program) -> None:
    server: Program = program(NOT_EVEN_ONE)
    assert server.line() == "ready"
    with limited(server) as limit:
        for count, _why in ((1, "not even the monitor"),):
            limit(count)
            server.say("go")
            for _ in range(3):
                assert server.line().startswith("refused"), server.errors()
        assert server.line() == "asking for room"
        limit(None)
        server.say("go")
        assert server.line() == "served"
        assert server.wait() == 0, server.errors()
        assert "Fatal" not in server.errors()
        assert "panicked" not in server.errors()


@pytest.mark.parametrize("threads", [2, 3])
def test_too_few_threads_for_a_pool_neither_hang_nor_crash(program, threads) -> None:
    """The monitor alone, or the monitor and one worker: it serves, or it refuses."""
    server: Program = program(NOT_EVEN_ONE)
    assert server.line() == "ready"
    with limited(server) as limit:
        limit(threads)
        server.say("go")
        answers = [server.line() for _ in range(3)]
        assert all(answer.startswith(("served", "refused")) for answer in answers), answers
        assert server.line() == "asking for room"
        limit(None)
        server.say("go")
        assert server.line() == "served"
        assert server.wait() == 0, server.errors()
