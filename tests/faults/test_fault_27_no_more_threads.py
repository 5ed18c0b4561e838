"""Fault 27: a thread cannot be created. The pool goes on with those it has, and starts more when it can."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peers import Program, dial, read_exactly
from platforms import resource

pytestmark = pytest.mark.linux("a limit of threads (setrlimit, cgroups)")

BOUND = """
import os, sys
if len(sys.argv) > 1:
    import encodings.idna  # what is loaded late may lie where that user may not look
    os.setgroups([])
    os.setgid(int(sys.argv[1]))
    os.setuid(int(sys.argv[1]))  # RLIMIT_NPROC does not bind root
"""

SERVER = (
    """
import logging, sys, threading, time
import proactor
"""
    + BOUND
    + """
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
)

NOT_EVEN_ONE = (
    """
import sys
import proactor
"""
    + BOUND
    + """
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
)

CGROUP = Path("/sys/fs/cgroup/pids")


# A user of whom nothing else runs.
NOBODY = 61_000 + os.getpid() % 4_000

Limit = Callable[[int | None], object]
Started = tuple[Program, Limit]


def in_a_cgroup(program: Callable[..., Program], source: str) -> Iterator[Started]:
    if not (CGROUP.is_dir() and os.access(CGROUP, os.W_OK)):
        pytest.skip("no pids cgroup (v1, writable)")
    process = program(source)
    assert process.line() == "ready"
    group = CGROUP / f"proactor-test-{os.getpid()}"
    group.mkdir()
    (group / "cgroup.procs").write_text(str(process.process.pid))
    try:
        yield process, lambda count: (group / "pids.max").write_text("max" if count is None else str(count))
    finally:
        process.end()
        group.rmdir()


def by_rlimit(program: Callable[..., Program], source: str) -> Iterator[Started]:
    if shutil.which("prlimit") is None:
        pytest.skip("no prlimit(1), of util-linux")
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    is_root = os.getuid() == 0
    user = NOBODY if is_root else os.getuid()
    process = program(source, *([str(user)] if is_root else []))
    assert process.line() == "ready", process.errors()
    pid = process.process.pid
    others = threads_of(user) - len(os.listdir(f"/proc/{pid}/task"))

    def limit(count: int | None) -> None:
        # The limit is on all threads of the user. By prlimit(1), as that user: a container's root may not set another user's limits.
        soft = ("unlimited" if hard == resource.RLIM_INFINITY else hard) if count is None else others + count
        as_user = {"user": user, "group": user, "extra_groups": []} if is_root else {}
        subprocess.run(["prlimit", f"--pid={pid}", f"--nproc={soft}:"], check=True, cwd="/", **as_user)

    yield process, limit


def threads_of(user: int) -> int:
    threads = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if process.stat().st_uid == user:
                threads += len(os.listdir(process / "task"))
    return threads


@pytest.fixture(params=[in_a_cgroup, by_rlimit])
def started(request, program) -> Iterator[Callable[[str], Started]]:
    """`started(source)` answers a program that is ready, and `limit(count)`: it may have so many threads, None: as many as it likes."""
    with contextlib.ExitStack() as stack:
        yield lambda source: stack.enter_context(contextlib.contextmanager(request.param)(program, source))


def test_the_pool_goes_on_with_fewer_threads_and_grows_when_it_can(started) -> None:
    server, limit = started(SERVER)
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


def test_a_server_that_gets_no_thread_at_all_says_so_and_leaves_nothing(started) -> None:
    server, limit = started(NOT_EVEN_ONE)
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
def test_too_few_threads_for_a_pool_neither_hang_nor_crash(started, threads) -> None:
    """The monitor alone, or the monitor and one worker: it serves, or it refuses."""
    server, limit = started(NOT_EVEN_ONE)
    limit(threads)
    server.say("go")
    answers = [server.line() for _ in range(3)]
    assert all(answer.startswith(("served", "refused")) for answer in answers), answers
    assert server.line() == "asking for room"
    limit(None)
    server.say("go")
    assert server.line() == "served"
    assert server.wait() == 0, server.errors()
