"""A completion port and its callers' threads: what is posted, associated and got, and what is refused."""

import dataclasses
import errno
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import proactor
from peers import TIMEOUT, eventually, run_python, tcp_pair
from platforms import ENGINES, LINUX
from proactor.testing import Network, PortNetwork
from signalling import USER_SIGNAL, signal_this_process

MakePort = Callable[..., proactor.CompletionPort]


# ---- packets ----


def test_packets_come_in_the_order_in_which_they_were_posted(make_port: MakePort) -> None:
    port = make_port()
    for number in range(100):
        port.post("key", number)
    completions = [port.get(TIMEOUT) for _ in range(100)]
    assert [completion.value for completion in completions] == list(range(100))
    assert {completion.key for completion in completions} == {"key"}
    assert all(completion.handle is completion.operation is completion.error is None for completion in completions)


def test_a_packet_needs_neither_key_nor_value(make_port: MakePort) -> None:
    port = make_port()
    port.post()
    completion = port.get(0)
    assert (completion.key, completion.value) == (None, None)


def test_get_waits_for_what_comes_later(make_port: MakePort, start) -> None:
    port = make_port()
    got: list[Any] = []
    thread = start(lambda: got.append(port.get(TIMEOUT).value))
    eventually(lambda: port.statistics().waiting == 1, "the thread waits")
    port.post(value="at last")
    thread.join(TIMEOUT)
    assert got == ["at last"]


@pytest.mark.parametrize("timeout", [0, 0.0, 0.05])
def test_get_gives_up_when_its_time_is_out(make_port: MakePort, timeout) -> None:
    port = make_port()
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match="no completion came in time"):
        port.get(timeout)
    assert timeout <= time.monotonic() - begun < TIMEOUT
    assert port.statistics().waiting == 0


def test_many_threads_give_up_in_time_while_one_leads_and_others_are_parked(make_port: MakePort, start) -> None:
    port = make_port()
    took = []

    def wait(timeout: float) -> None:
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            port.get(timeout)
        took.append(time.monotonic() - begun - timeout)

    threads = [start(wait, timeout) for timeout in (0.3, 0.05, 0.2, 0.1, 0.15)]
    for thread in threads:
        thread.join(TIMEOUT)
    assert len(took) == 5
    assert all(0 <= late < 1 for late in took)


def test_an_infinite_time_out_is_none(make_port: MakePort) -> None:
    port = make_port()
    port.post(value=1)
    assert port.get(float("inf")).value == 1


@pytest.mark.parametrize(
    ("timeout", "error"), [(-1, ValueError), (float("nan"), ValueError), ("soon", TypeError), (True, TypeError), (-0.5, ValueError)]
)
def test_what_is_no_time_out_is_refused_by_name(make_port: MakePort, timeout, error) -> None:
    with pytest.raises(error, match="timeout must be a number of seconds, 0 or more"):
        make_port().get(timeout)


def test_each_packet_reaches_exactly_one_of_many_threads(make_port: MakePort, start) -> None:
    port = make_port(4)
    seen: Counter[int] = Counter()
    lock = threading.Lock()

    def work() -> None:
        for completion in port:
            with lock:
                seen[completion.value] += 1

    for _ in range(8):
        start(work)

    def post(begin: int) -> None:
        for number in range(begin, begin + 5000):
            port.post(value=number)

    for thread in [start(post, begin) for begin in (0, 5000, 10000)]:
        thread.join(TIMEOUT)
    eventually(lambda: len(seen) == 15000, "everything has come")
    port.close()
    assert set(seen.values()) == {1}


def test_threads_may_post_to_the_port_that_they_get_from(make_port: MakePort, start) -> None:
    port = make_port(2)
    done = threading.Event()

    def work() -> None:
        for completion in port:
            if completion.value < 3000:
                port.post(value=completion.value + 1)
            else:
                done.set()

    for _ in range(4):
        start(work)
    port.post(value=0)
    assert done.wait(TIMEOUT)
    port.close()


# ---- operations ----


def test_operations_complete_with_the_key_of_their_handle(make_port: MakePort, pair) -> None:
    port = make_port()
    ours, theirs = pair()
    handle = port.associate(ours, "client")
    operation = handle.receive(3)
    theirs.sendall(b"hello")
    completion = port.get(TIMEOUT)
    assert (completion.key, completion.value, completion.error) == ("client", b"hel", None)
    assert completion.handle is handle
    assert completion.operation is operation
    assert not operation.pending
    handle.send(b"and you")
    assert port.get(TIMEOUT).value == 7
    assert theirs.recv(100) == b"and you"
    assert "receive key='client' value=b'hel'" in repr(completion)


def test_a_key_is_any_object_and_none_if_nothing_is_said(make_port: MakePort, pair) -> None:
    port = make_port()
    key = object()
    for given, expected in (((key,), key), ((), None)):
        ours, theirs = pair()
        handle = port.associate(ours, *given)
        handle.receive()
        theirs.sendall(b"x")
        assert port.get(TIMEOUT).key is expected


def test_errors_come_as_completions(make_port: MakePort) -> None:
    port = make_port()
    ours, theirs = tcp_pair()
    handle = port.associate(ours)
    handle.receive()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    completion = port.get(TIMEOUT)
    assert completion.value is None
    assert isinstance(completion.error, ConnectionResetError)
    assert "error=ConnectionResetError" in repr(completion)


def test_cancelled_operations_complete_once(make_port: MakePort, pair) -> None:
    port = make_port()
    ours, _theirs = pair()
    handle = port.associate(ours)
    operations = [handle.receive() for _ in range(5)]
    assert operations[2].cancel()
    assert handle.cancel() == 4
    completions = [port.get(TIMEOUT) for _ in range(5)]
    assert [completion.operation for completion in completions] == [operations[index] for index in (2, 0, 1, 3, 4)]
    assert {completion.error.errno for completion in completions if completion.error} == {errno.ECANCELED}
    with pytest.raises(TimeoutError):
        port.get(0)


def test_completions_of_one_handle_are_with_several_threads_at_the_same_time(make_port: MakePort, pair, start) -> None:
    """The pool would call one function at a time."""
    port = make_port(2)
    ours, theirs = pair()
    handle = port.associate(ours)
    for _ in range(2):
        handle.receive(1)
    both = threading.Barrier(2)

    def work() -> None:
        for _completion in port:
            with proactor.blocking():
                both.wait(TIMEOUT)

    threads = [start(work) for _ in range(2)]
    theirs.sendall(b"12")
    eventually(lambda: both.n_waiting == 0 and port.statistics().completed + port.statistics().waiting >= 2, "both have met")
    port.close()
    for thread in threads:
        thread.join(TIMEOUT)
    assert not both.broken


def test_everything_comes_in_the_order_in_which_it_came_about() -> None:
    """Completions of handles and packets in one queue, whosever they are."""
    with PortNetwork() as network:
        handles = []
        for key in "ab":
            connected, peer = network.pair()
            handles.append((network.port.associate(connected, key), peer))
        (first, _), (second, _) = handles
        first.send(b"1")
        network.port.post("packet")
        first.send(b"22")
        second.send(b"333")
        network.port.post("packet")
        first.send(b"4444")
        order = [(completion.key, completion.value) for completion in network.completions()]
        assert order == [("a", 1), ("packet", None), ("a", 2), ("b", 3), ("packet", None), ("a", 4)]


def test_an_echo_server_of_four_threads(make_port: MakePort, pair, start) -> None:
    port = make_port(2)
    sockets = [pair() for _ in range(20)]

    def work() -> None:
        for completion in port:
            if completion.operation.kind == "receive" and completion.value:
                completion.handle.send(completion.value)
                completion.handle.receive()

    for _ in range(4):
        start(work)
    kept = [port.associate(ours) for ours, _ in sockets]
    for handle in kept:
        handle.receive()
    for number in range(30):
        for _, theirs in sockets:
            theirs.sendall(b"%4d" % number)
        for _, theirs in sockets:
            assert theirs.recv(100) == b"%4d" % number
    eventually(lambda: port.statistics().waiting == 4, "the last receives are submitted")
    assert port.statistics().handles == 20
    port.close()
    assert all(handle.closed for handle in kept)


# ---- ports and handles ----


def test_two_ports_share_nothing(make_port: MakePort, pair) -> None:
    one, other = make_port(), make_port()
    ours, theirs = pair()
    handle = one.associate(ours, "one")
    other.post("other")
    handle.receive()
    theirs.sendall(b"x")
    assert one.get(TIMEOUT).key == "one"
    assert other.get(TIMEOUT).key == "other"
    for port in (one, other):
        with pytest.raises(TimeoutError):
            port.get(0)


def test_a_handle_belongs_to_one_port_only(make_port: MakePort, make_pool, pair) -> None:
    one, other = make_port(), make_port()
    ours, _ = pair()
    handle = one.associate(ours)
    for elsewhere in (one, other):
        with pytest.raises(ValueError, match="closed, or a pool or port has taken it over: a handle is associated once"):
            elsewhere.associate(ours)
        with pytest.raises(ValueError, match="the handle is associated already"):
            elsewhere.associate(handle)
    with pytest.raises(ValueError, match="the handle is associated already"):
        make_pool().associate(handle, print)
    theirs, _ = pair()
    with pytest.raises(ValueError, match="the handle is associated already"):
        one.associate(make_pool().associate(theirs, print))


def test_the_sockets_of_a_simulated_network_stay_in_it(pair) -> None:
    with PortNetwork() as network, proactor.CompletionPort() as port:
        ours, _ = pair()
        with pytest.raises(ValueError, match="the simulated network, which has sockets of its own only"):
            network.port.associate(ours)
        assert ours.fileno() >= 0, "it stays the caller's"
        theirs, _peer = network.pair()
        with pytest.raises(ValueError, match="is a simulated network's"):
            port.associate(theirs)
        network.port.associate(theirs)


@pytest.mark.parametrize("handle", [None, "socket", object()])
def test_what_is_no_handle_is_refused(make_port: MakePort, handle) -> None:
    with pytest.raises(TypeError, match="is no handle"):
        make_port().associate(handle)


def test_a_handle_that_nobody_holds_closes_by_itself(make_port: MakePort, pair) -> None:
    port = make_port()
    ours, theirs = pair()
    port.associate(ours)
    assert theirs.recv(1) == b""
    assert port.statistics().handles == 0


# ---- making one ----


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (
            {"concurrency": 0},
            ValueError,
            "concurrency must be a whole number, at least 1, or None for as many as there are processors; not 0",
        ),
        ({"concurrency": 1.5}, TypeError, "concurrency must be a whole number"),
        ({"concurrency": True}, TypeError, "concurrency must be a whole number"),
        ({"concurrency": 2**40}, ValueError, "is too large"),
        ({"engine": "kqueue"}, ValueError, 'no engine called "kqueue"'),
        ({"engine": 3}, TypeError, "engine must be the name of one"),
        ({"max_workers": 3}, TypeError, "max_workers"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(arguments, error, text) -> None:
    with pytest.raises(error, match=text):
        proactor.CompletionPort(**arguments)


def test_the_concurrency_is_the_pools_if_nothing_is_said(make_port: MakePort, make_pool) -> None:
    assert make_port().concurrency == make_pool().concurrency
    assert make_port(3).concurrency == 3
    assert "concurrency=3" in repr(make_port(3))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_engine_can_be_named(make_port: MakePort, engine) -> None:
    port = make_port(engine=engine)
    assert port.engine == port.statistics().engine == engine
    port.post(value=1)
    assert port.get(TIMEOUT).value == 1
    with pytest.raises(TimeoutError):
        port.get(0.05)


def test_a_port_can_be_subclassed(pair) -> None:
    class Named(proactor.CompletionPort):
        def __init__(self, concurrency: int | None = None) -> None:
            super().__init__(concurrency)
            self.name = "mine"

    with Named(2) as port:
        port.post(port.name)
        assert port.get(TIMEOUT).key == "mine"
    assert port.closed


# ---- statistics ----


def test_statistics_are_a_frozen_snapshot_that_adds_up(make_port: MakePort, pair, start) -> None:
    port = make_port(1)
    before = port.statistics()
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.queued = 1  # type: ignore[misc]
    for number in range(5):
        port.post(value=number)
    ours, _theirs = pair()
    handle = port.associate(ours)
    handle.receive()
    first = port.get(0)
    snapshot = port.statistics()
    assert (snapshot.posted, snapshot.queued, snapshot.completed, snapshot.handles, snapshot.operations) == (5, 4, 0, 1, 1)
    assert (snapshot.threads, snapshot.waiting, snapshot.running + snapshot.blocked) == (1, 0, 1)
    first.release()
    snapshot = port.statistics()
    assert (snapshot.running + snapshot.blocked, snapshot.completed, snapshot.threads) == (0, 1, 1)


def test_a_threads_seat_is_given_back_when_it_ends(make_port: MakePort, start) -> None:
    port = make_port()
    for _ in range(10):
        port.post()
        start(lambda: port.get(TIMEOUT)).join(TIMEOUT)
    eventually(lambda: port.statistics().threads == 0, "their seats are free")
    snapshot = port.statistics()
    assert (snapshot.running, snapshot.blocked) == (0, 0)


# ---- signals ----


def test_a_signal_handler_runs_while_the_main_thread_waits(make_port: MakePort, start) -> None:
    port = make_port()
    before = signal.signal(USER_SIGNAL, lambda *_: port.post("from the handler"))
    try:
        eventually_in_get = start(lambda: (eventually(lambda: port._inside(), "main waits"), signal_this_process(USER_SIGNAL)))
        assert port.get(TIMEOUT).key == "from the handler"
        eventually_in_get.join(TIMEOUT)
    finally:
        signal.signal(USER_SIGNAL, before)


@pytest.mark.parametrize("others", [0, 2])
def test_what_a_signal_handler_raises_comes_out_of_get_and_costs_no_completion(make_port: MakePort, start, others) -> None:
    class Interrupted(Exception):
        pass

    def raises(*_: object) -> None:
        raise Interrupted

    port = make_port()
    got: list[int] = []
    for _ in range(others):
        start(lambda: [got.append(completion.value) for completion in port])
    eventually(lambda: port.statistics().waiting == others, "the others wait")
    before = signal.signal(USER_SIGNAL, raises)
    try:
        for number in range(20):
            sender = start(lambda: (eventually(lambda: port._inside() == others + 1, "main waits"), signal_this_process(USER_SIGNAL)))
            with pytest.raises(Interrupted):
                port.get(TIMEOUT)
            sender.join(TIMEOUT)
            port.post(value=number)
            if others:
                eventually(lambda number=number: len(got) == number + 1, "one of the others has got it")
                eventually(lambda: port.statistics().waiting == others, "the others wait")
            else:
                assert port.get(0).value == number
    finally:
        signal.signal(USER_SIGNAL, before)
    port.close()


def test_a_get_in_a_signal_handler_that_interrupted_a_get_is_refused(make_port: MakePort, start) -> None:
    port, other = make_port(), make_port()
    other.post(value="another port is fine")
    said: list[Any] = []

    def handler(*_: object) -> None:
        said.append(other.get(0).value)
        try:
            port.get(0)
        except RuntimeError as error:
            said.append(str(error))
        port.post()

    before = signal.signal(USER_SIGNAL, handler)
    try:
        start(lambda: (eventually(lambda: port._inside(), "main waits"), signal_this_process(USER_SIGNAL)))
        port.get(TIMEOUT)
    finally:
        signal.signal(USER_SIGNAL, before)
    assert said[0] == "another port is fine"
    assert "a signal handler has interrupted it there" in said[1]


def test_what_a_signal_handler_got_of_another_port_is_over_with_the_get_that_it_interrupted(make_port: MakePort, start) -> None:
    port, other = make_port(1), make_port(1)
    other.post(value=1)

    def handler(*_: object) -> None:
        assert other.get(0).value == 1
        port.post(value=2)

    before = signal.signal(USER_SIGNAL, handler)
    try:
        sender = start(lambda: (eventually(lambda: port._inside(), "main waits"), signal_this_process(USER_SIGNAL)))
        assert port.get(TIMEOUT).value == 2
        sender.join(TIMEOUT)
    finally:
        signal.signal(USER_SIGNAL, before)
    numbers = other.statistics()
    assert (numbers.running, numbers.blocked, numbers.completed) == (0, 0, 1)


@pytest.mark.linux("fork")
@pytest.mark.parametrize("others", [0, 2])
def test_a_signal_handler_may_fork_and_the_child_is_told_that_the_port_is_its_parents(others) -> None:
    source = f"""
import os, signal, threading, warnings
import proactor
warnings.simplefilter("ignore", DeprecationWarning)
port = proactor.CompletionPort()
children = []
def fork(number, frame):
    children.append(os.fork())
    if number == signal.SIGUSR2 and not children[-1]:
        raise ZeroDivisionError
    if children[-1]:
        port.post("the parent")
signal.signal(signal.SIGUSR1, fork)
signal.signal(signal.SIGUSR2, fork)
waiting = [threading.Thread(target=lambda: list(port)) for _ in range({others})]
for thread in waiting: thread.start()
for number in (signal.SIGUSR1, signal.SIGUSR2):
    threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
    try:
        port.get(1)
    except TimeoutError:
        assert children[-1]  # one of the others has got it
    except RuntimeError as error:
        os._exit(42 if not children[-1] and "belongs to the parent process" in str(error) else 1)
    except ZeroDivisionError:
        os._exit(43)
    signal.alarm(20)
    print(os.waitstatus_to_exitcode(os.waitpid(children[-1], 0)[1]))
port.close()
for thread in waiting: thread.join()
"""
    result = run_python(source)
    assert (result.stdout.split(), result.returncode) == (["42", "43"], 0), result.stderr


@pytest.mark.parametrize("setup", ["", "threading.Thread(target=port.get).start(); time.sleep(0.3)"])
def test_ctrl_c_ends_a_program_that_waits(setup) -> None:
    source = f"""
import signal, threading, time
import proactor, signalling
port = proactor.CompletionPort()
{setup}
threading.Timer(0.3, signalling.signal_this_process, (signal.SIGINT,)).start()
try:
    port.get()
except KeyboardInterrupt:
    print("interrupted")
port.post(); port.post()
"""
    result = run_python(source)
    assert result.stdout == "interrupted\n"
    assert result.returncode == 0, result.stderr


def test_a_signal_handler_that_raises_at_exit_leaves_no_port_open() -> None:
    source = """
import atexit
import proactor

class Interrupted(proactor.CompletionPort):
    def close(self):
        super().close()
        raise KeyboardInterrupt("as a signal handler does, right after the call")

ports = [Interrupted() for _ in range(3)]
atexit.register(lambda: print([port.closed for port in ports]))
"""
    result = run_python(source)
    assert result.stdout == "[True, True, True]\n"
    assert "as a signal handler does" in result.stderr, "it is not swallowed"


# ---- the simulated network ----


def test_a_networks_port_goes_by_what_the_test_does() -> None:
    with PortNetwork() as network:
        connected, peer = network.pair()
        handle = network.port.associate(connected, "key")
        handle.receive()
        assert network.completions() == []
        peer.send(b"hello")
        [completion] = network.completions()
        assert (completion.key, completion.value) == ("key", b"hello")
        network.fail_next("receive", errno.EHOSTUNREACH)
        handle.receive()
        peer.send(b"x")
        [completion] = network.completions()
        assert isinstance(completion.error, OSError)
        assert completion.error.errno == errno.EHOSTUNREACH
        before = network.now
        network.advance(5)
        assert network.now == before + 5


def test_a_pools_network_and_a_ports_have_handles_of_their_own() -> None:
    with Network() as pools, PortNetwork() as ports:
        connected, _ = pools.pair()
        with pytest.raises(OSError) as refused:  # the number is one of nothing in the kernel
            ports.port.associate(connected)
        assert refused.value.errno == (errno.EBADF if LINUX else errno.ENOTSOCK)
