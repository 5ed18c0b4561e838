"""The fixtures of the library's tests. What they start, they end; and after every test nothing may be left."""

import gc
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))  # For the helpers beside this file.

import proactor
from peers import TIMEOUT, Program, dial, echo
from platforms import LINUX, NEEDS_LINUX, NEEDS_WINDOWS, descriptors, skip_what_cannot_run_here, thread_names, threads_of_process

# Who starts the suite in the background of a script has the shell ignore SIGINT, in whatever the tests start too: they send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# nohup does so with SIGHUP.
if LINUX and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


# The first example takes as long as it takes to read every source for constants to try: a minute under Wine on a busy machine.
settings.register_profile("suite", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip_what_cannot_run_here(items)


def pytest_collection_finish() -> None:
    """What pytest has made of the suite by now stays until its end: the collection after every test looks only at what is newer."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for reason, what in ((NEEDS_LINUX, "Linux"), (NEEDS_WINDOWS, "a real Windows")):
        skipped = [report for report in terminalreporter.stats.get("skipped", []) if reason in str(report.longrepr)]
        if skipped:
            terminalreporter.write_line(f"{len(skipped)} of the skipped tests need {what}")


THREADS_SECONDS = 5 if LINUX else 15
"""Within which threads have to be gone. Windows waits for processes with threads of its own, which end after seconds without work."""


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A test leaves no thread, native ones included, and no descriptor behind."""
    threads_before, descriptors_before = threads_of_process(), descriptors()
    yield
    deadline = time.monotonic() + THREADS_SECONDS
    gc.collect()
    while True:
        threads = threads_of_process() - threads_before
        opened = {number: what for number, what in descriptors().items() if descriptors_before.get(number) != what}
        if not threads and not opened:
            return
        if time.monotonic() > deadline:
            python = [thread.name for thread in threading.enumerate() if thread.native_id in threads]
            pytest.fail(f"left behind: threads {python or thread_names(threads)}, descriptors {opened}")
        time.sleep(0.005)


Serve = Callable[..., proactor.Server]
Connect = Callable[..., socket.socket]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(handler, address=..., **options)` starts a server on a free port of 127.0.0.1; it ends with the test, in order."""
    servers: list[proactor.Server] = []

    def start(handler: Any = echo, address: Any = ("127.0.0.1", 0), **options: Any) -> proactor.Server:
        server = proactor.serve(handler, address, **options)
        servers.append(server)
        return server

    yield start
    for server in servers:
        report = server.shutdown(TIMEOUT)
        assert not report.running, report
    servers.clear()  # pytest keeps `start` for longer than the check for leaks waits


@pytest.fixture
def connect() -> Iterator[Connect]:
    """`connect(server)` answers a connected plain socket with a time-out, closed at the end of the test."""
    clients: list[socket.socket] = []

    def start(server: Any, **options: Any) -> socket.socket:
        client = dial(getattr(server, "address", server), **options)
        clients.append(client)
        return client

    yield start
    while clients:
        clients.pop().close()


@pytest.fixture
def make_pool() -> Iterator[Callable[..., proactor.ThreadPool]]:
    """`make_pool(...)` makes a thread pool that is shut down at the end of the test."""
    pools: list[proactor.ThreadPool] = []

    def make(*arguments: Any, **options: Any) -> proactor.ThreadPool:
        pools.append(proactor.ThreadPool(*arguments, **options))
        return pools[-1]

    yield make
    while pools:
        pools.pop().shutdown()


@pytest.fixture
def make_port() -> Iterator[Callable[..., proactor.CompletionPort]]:
    """`make_port(...)` makes a completion port that is closed at the end of the test."""
    ports: list[proactor.CompletionPort] = []

    def make(*arguments: Any, **options: Any) -> proactor.CompletionPort:
        ports.append(proactor.CompletionPort(*arguments, **options))
        return ports[-1]

    yield make
    while ports:
        ports.pop().close()


@pytest.fixture
def start() -> Iterator[Callable[..., threading.Thread]]:
    """`start(function, *arguments)` starts a thread, which is joined at the end of the test: what it waits for must have come by then."""
    threads: list[threading.Thread] = []

    def begin(function: Callable[..., object], *arguments: Any, name: str | None = None) -> threading.Thread:
        threads.append(threading.Thread(target=function, args=arguments, name=name))
        threads[-1].start()
        return threads[-1]

    yield begin
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive(), f"{thread.name} has not ended"


@pytest.fixture
def program() -> Iterator[Callable[..., Program]]:
    """`program(source, *arguments)` runs a Python program beside the test; it is killed at the end of the test."""
    programs: list[Program] = []

    def start(source: str, *arguments: str, **options: Any) -> Program:
        programs.append(Program(source, *arguments, **options))
        return programs[-1]

    yield start
    while programs:
        programs.pop().end()


@pytest.fixture
def pair() -> Iterator[Callable[[], tuple[socket.socket, socket.socket]]]:
    """`pair()` answers two sockets that are connected to each other, with time-outs; closed at the end."""
    made: list[socket.socket] = []

    def make() -> tuple[socket.socket, socket.socket]:
        ours, theirs = socket.socketpair()
        theirs.settimeout(TIMEOUT)
        made.extend((ours, theirs))
        return ours, theirs

    yield make
    for one in made:
        one.close()
