"""The end of a completion port: closed with threads that wait, with operations pending, forgotten, forked, at the interpreter's exit."""

import errno
import gc
import socket
import threading
import weakref
from collections.abc import Callable

import pytest

import proactor
from peers import TIMEOUT, eventually, run_python
from platforms import ENGINES, LINUX, resident_bytes
from proactor.errors import PortClosed
from proactor.testing import PortNetwork

MakePort = Callable[..., proactor.CompletionPort]


def test_a_close_ends_every_wait_and_every_iteration(make_port: MakePort, start) -> None:
    port = make_port()
    ends: list[str] = []

    def gets() -> None:
        with pytest.raises(PortClosed, match="the completion port is closed"):
            port.get()
        ends.append("get")

    def iterates() -> None:
        for completion in port:
            raise AssertionError(completion)
        ends.append("iteration")

    threads = [start(function) for function in (gets, iterates, gets, iterates)]
    eventually(lambda: port.statistics().waiting == 4, "all wait")
    port.close()
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(ends) == ["get", "get", "iteration", "iteration"]


def test_a_closed_port_refuses_everything_and_says_so(make_port: MakePort, pair) -> None:
    port = make_port()
    ours, _theirs = pair()
    handle = port.associate(ours)
    port.close()
    port.close()
    assert port.closed
    assert "closed" in repr(port)
    other, _ = pair()
    for call in (port.get, lambda: port.get(0), port.post, lambda: port.associate(other)):
        with pytest.raises(PortClosed):
            call()
    assert issubclass(PortClosed, RuntimeError)
    assert list(port) == []
    assert other.fileno() >= 0, "what was refused stays its owner's"
    assert handle.closed
    with pytest.raises(OSError, match="the handle is closed") as refused:
        handle.receive()
    assert refused.value.errno == errno.EBADF
    assert port.statistics().handles == 0


def test_what_nobody_has_got_is_dropped_and_counted(make_port: MakePort, pair) -> None:
    port = make_port()
    ours, theirs = pair()
    handle = port.associate(ours)
    handle.receive()
    handle.receive()
    for number in range(3):
        port.post(value=number)
    assert port.get(0).value == 0
    port.close()
    assert port.statistics().dropped == 4, "two packets, two cancelled receives"
    assert theirs.recv(1) == b"", "its handles are closed"


def test_those_who_wait_are_told_of_the_close_and_not_of_what_it_cancels(start) -> None:
    for _ in range(50):
        with PortNetwork() as network:
            got: list[proactor.Completion] = []
            threads = [start(lambda got=got, port=network.port: got.extend(port)) for _ in range(2)]
            connected, _peer = network.pair()
            handle = network.port.associate(connected)
            for _ in range(20):
                handle.receive()
            eventually(lambda network=network: network.port.statistics().waiting == 2, "both wait")
        for thread in threads:
            thread.join(TIMEOUT)
        assert got == []
        assert network.port.statistics().dropped == 20


def test_what_a_thread_has_got_is_its_own_after_a_close(make_port: MakePort) -> None:
    port = make_port()
    port.post("key", [1])
    completion = port.get(0)
    port.close()
    assert (completion.key, completion.value) == ("key", [1])
    completion.release()


def test_the_end_of_a_with_block_closes(pair) -> None:
    with proactor.CompletionPort() as port:
        assert not port.closed
    assert port.closed


def test_any_thread_may_close_one_that_iterates_included(make_port: MakePort, start) -> None:
    port = make_port(2)

    def work() -> None:
        for completion in port:
            if completion.value == "last":
                port.close()

    threads = [start(work) for _ in range(3)]
    port.post(value="first")
    port.post(value="last")
    for thread in threads:
        thread.join(TIMEOUT)
    assert port.closed


@pytest.mark.parametrize("engine", ENGINES)
def test_closes_race_with_everything_else(start, engine) -> None:
    """Threads that get, post and close at the same time, again and again; nothing is left behind, as the fixture checks."""
    for number in range(100):
        port = proactor.CompletionPort(2, engine=engine)
        begin = threading.Barrier(5)

        def gets(timeout: float | None, port=port, begin=begin) -> None:
            begin.wait(TIMEOUT)
            try:
                while True:
                    try:
                        port.get(timeout)
                    except TimeoutError:
                        pass
            except PortClosed:
                pass

        def posts(port=port, begin=begin) -> None:
            begin.wait(TIMEOUT)
            try:
                while True:
                    port.post()
            except PortClosed:
                pass

        threads = [start(gets, None), start(gets, 0), start(gets, 0.0001), start(posts)]
        begin.wait(TIMEOUT)
        for _ in range(number * 20):
            pass
        port.close()
        for thread in threads:
            thread.join(TIMEOUT)
        snapshot = port.statistics()
        assert (snapshot.waiting, snapshot.queued) == (0, 0)
        assert snapshot.posted >= snapshot.completed + snapshot.dropped


def test_a_port_that_nobody_holds_is_over(pair) -> None:
    port = proactor.CompletionPort()
    ours, theirs = pair()
    handle = port.associate(ours, key="a key")
    handle.receive()
    port.post(value=handle)
    gone = weakref.ref(port)
    del port
    gc.collect()
    assert gone() is None
    assert theirs.recv(1) == b"", "its handles are closed"
    assert handle.closed


def test_neither_keys_nor_values_outlive_a_closed_port() -> None:
    class Thing:
        pass

    things = [Thing() for _ in range(4)]
    gone = [weakref.ref(thing) for thing in things]
    with PortNetwork() as network:
        connected, _peer = network.pair()
        handle = network.port.associate(connected, things[0])
        handle.receive()
        network.port.post(things[1], things[2])
        network.port.post(things[3])
        network.port.get(0)
    del things, handle, connected
    gc.collect()
    assert [reference() for reference in gone] == [None] * 4


def test_a_completion_in_a_cycle_is_collected(make_port: MakePort) -> None:
    class Thing:
        pass

    port = make_port()
    thing = Thing()
    port.post(thing)
    thing.completion = port.get(0)  # type: ignore[attr-defined]
    gone = weakref.ref(thing)
    del thing
    gc.collect()
    assert gone() is None


def test_thousands_of_ports_leave_nothing_behind() -> None:
    """Threads and descriptors are the fixture's to count."""
    for _ in range(300):
        with proactor.CompletionPort() as port:
            port.post()
            port.get(0)


def test_a_million_completions_take_no_memory(make_port: MakePort, pair) -> None:
    port = make_port()
    ours, theirs = pair()
    handle = port.associate(ours, "key")

    def go(count: int) -> None:
        for _ in range(count):
            port.post("key", 1)
            handle.send(b"x")
            port.get(0), port.get(0)
        theirs.recv(1 << 20)

    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    for _ in range(20):
        go(100)
    before = resident_bytes()
    for _ in range(300 if LINUX else 30):  # fewer under Wine, where each call of the kernel asks a server
        go(100)
    assert resident_bytes() - before < 4 << 20


# ---- forks ----


@pytest.mark.linux("fork")
@pytest.mark.parametrize("others", [0, 2])
def test_a_child_process_is_told_that_the_port_is_its_parents(others) -> None:
    source = f"""
import os, threading, warnings
import proactor
warnings.simplefilter("ignore", DeprecationWarning)
port = proactor.CompletionPort()
port.post(value=1)
port.get()
threads = [threading.Thread(target=lambda: list(port)) for _ in range({others})]
for thread in threads: thread.start()
child = os.fork()
if child == 0:
    for call in (port.get, port.post, port.statistics, lambda: next(port)):
        try:
            call()
        except RuntimeError as error:
            assert "belongs to the parent process" in str(error)
        else:
            os._exit(1)
    port.close()
    mine = proactor.CompletionPort()
    mine.post(value=2)
    os._exit(0 if mine.get(5).value == 2 else 2)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
port.post(value=3)
port.close()
for thread in threads: thread.join()
"""
    result = run_python(source)
    assert result.returncode == 0, result.stderr


# ---- the interpreter's end ----

PROGRAMS = {
    "nobody waits": "",
    "threads iterate": "for _ in range(4): threading.Thread(target=lambda: list(port)).start()",
    "daemons wait": "for _ in range(4): threading.Thread(target=lambda: list(port), daemon=True).start()",
    "threads with time-outs": """
def work():
    while not port.closed:
        try: port.get(0.001)
        except (TimeoutError, proactor.errors.PortClosed): pass
for _ in range(4): threading.Thread(target=work).start()
""",
    "the main thread has got something": "port.post(); kept = port.get()",
    "queued, and a module global that dies late": "import builtins; builtins.kept = port; port.post(port, port)",
    "operations are pending": """
ours, theirs = socket.socketpair()
handle = port.associate(ours); handle.receive(); handle.send(b"x" * 10_000_000)
import builtins; builtins.kept = theirs, handle
threading.Thread(target=lambda: list(port)).start()
""",
}


@pytest.mark.parametrize("how", PROGRAMS)
def test_the_interpreter_ends_in_order(how) -> None:
    head = (
        "import socket, threading, warnings, proactor\nwarnings.simplefilter('ignore', ResourceWarning)\nport = proactor.CompletionPort()\n"
    )
    for _ in range(5):
        result = run_python(head + PROGRAMS[how])
        assert (result.returncode, result.stderr) == (0, "")


def test_a_get_in_a_thread_ends_with_the_main_thread_and_says_why() -> None:
    source = """
import threading, proactor
port = proactor.CompletionPort()
def work():
    try:
        port.get()
    except proactor.errors.PortClosed as error:
        print(error)
threading.Thread(target=work).start()
"""
    result = run_python(source)
    assert (result.returncode, result.stdout, result.stderr) == (0, "the completion port is closed\n", "")
