"""`call_after`, `call_every` and `call_when` from outside: real clocks, sockets, pipes and processes."""

import errno
import gc
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

import proactor
from peers import TIMEOUT, eventually
from platforms import LINUX, descriptor_count, resource
from proactor import ThreadPool
from signalling import USER_SIGNAL, signal_this_process

MakePool = Callable[..., ThreadPool]


@pytest.fixture
def pool(make_pool: MakePool) -> ThreadPool:
    return make_pool()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        yield ours, theirs


class Calls:
    """A function that notes its calls, and lets a test wait for them."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.made: list[tuple[Any, ...]] = []
        self.times: list[float] = []

    def __call__(self, *arguments: Any) -> None:
        with self.changed:
            self.times.append(time.monotonic())
            self.made.append(arguments)
            self.changed.notify_all()

    def wait_for(self, count: int) -> list[tuple[Any, ...]]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.made) >= count, TIMEOUT), self.made
            return list(self.made)


# ---- timers ----


def test_a_timer_calls_once_with_its_arguments_and_not_too_early(pool: ThreadPool) -> None:
    calls = Calls()
    begun = time.monotonic()
    timer = pool.call_after(0.05, calls, 1, "two")
    assert timer.pending
    assert calls.wait_for(1) == [(1, "two")]
    assert calls.times[0] - begun >= 0.05
    eventually(lambda: not timer.pending, "it is over")
    assert not timer.cancel()
    assert not timer.cancelled
    assert (timer.interval, timer.missed) == (None, 0)


def test_timers_of_an_idle_pool_are_on_time_to_a_few_milliseconds(pool: ThreadPool) -> None:
    calls = Calls()
    late = []
    for _ in range(20):
        begun = time.monotonic()
        pool.call_after(0.01, calls)
        calls.wait_for(len(late) + 1)
        late.append(calls.times[-1] - begun - 0.01)
    assert min(late) >= 0
    assert sorted(late)[10] < 0.005, late


def test_an_earlier_timer_comes_before_a_later_one_that_was_made_first(pool: ThreadPool) -> None:
    calls = Calls()
    later = pool.call_after(1000, calls, "later")
    pool.call_after(0.02, calls, "earlier")
    assert calls.wait_for(1) == [("earlier",)]
    assert later.cancel()


def test_a_periodic_timer_keeps_its_phase_and_does_not_overlap_itself(pool: ThreadPool) -> None:
    interval = 0.02
    calls = Calls()
    inside = threading.Semaphore(1)

    def tick() -> None:
        assert inside.acquire(blocking=False)
        calls()
        if len(calls.made) == 3:
            time.sleep(2.5 * interval)
        inside.release()

    begun = time.monotonic()
    timer = pool.call_every(interval, tick)
    made_within = time.monotonic() - begun
    calls.wait_for(8)
    assert timer.cancel()
    assert timer.missed >= 2
    for at in calls.times:
        ticks = (at - begun) / interval
        assert ticks - math.floor(ticks) < 0.6 + made_within / interval, calls.times
    assert timer.interval == interval
    assert timer.cancelled


def test_a_cancelled_timer_does_not_start_and_lets_its_function_go(pool: ThreadPool) -> None:
    class Function:
        def __call__(self, argument: object) -> None:
            raise AssertionError("it was cancelled")

    function, argument = Function(), Function()
    gone = weakref.ref(function), weakref.ref(argument)
    timer = pool.call_after(1000, function, argument)
    del function, argument
    assert timer.cancel()
    assert timer.cancel(), "it says so again"
    assert timer.cancelled
    assert not timer.pending
    assert [reference() for reference in gone] == [None, None]
    assert pool.statistics().timers == 0


def test_a_timer_that_was_called_lets_its_function_go(pool: ThreadPool) -> None:
    calls = Calls()
    gone = weakref.ref(calls)
    timer = pool.call_after(0, calls)
    calls.wait_for(1)
    del calls
    eventually(lambda: gone() is None, "its function is let go")
    assert not timer.pending


def test_a_periodic_timer_may_cancel_itself(pool: ThreadPool) -> None:
    calls = Calls()

    def tick() -> None:
        calls(timers[0].cancel())

    timers: list[proactor.Timer] = []
    held = threading.Event()
    pool.submit(held.wait, TIMEOUT)
    timers.append(pool.call_every(0.01, tick))
    held.set()
    assert calls.wait_for(1) == [(True,)]
    eventually(lambda: not timers[0].pending, "it is over")
    assert pool.statistics().timers == 0
    timers.clear()


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_periodic_timer_goes_on_when_its_function_raises(
    pool: ThreadPool, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    calls = Calls()

    def tick() -> None:
        calls()
        raise error("on purpose")

    with caplog.at_level(logging.ERROR, "proactor"):
        timer = pool.call_every(0.005, tick)
        calls.wait_for(3)
        timer.cancel()
    assert sum("in tick" in (record.exc_text or "") for record in caplog.records) >= 2
    assert pool.submit(int, "5").result(TIMEOUT) == 5


@pytest.mark.parametrize(
    ("seconds", "error", "text"),
    [
        (-1, ValueError, "0 or more|more than 0"),
        (math.nan, ValueError, "0 or more"),
        (math.inf, ValueError, "seconds"),
        ("1", TypeError, "number"),
    ],
)
def test_bad_seconds_are_refused(pool: ThreadPool, seconds: Any, error: type[Exception], text: str) -> None:
    for call in (pool.call_after, pool.call_every):
        with pytest.raises(error, match=text):
            call(seconds, print)


def test_a_period_of_nothing_and_what_cannot_be_called_are_refused(pool: ThreadPool) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        pool.call_every(0, print)
    nothing: Any = 5
    for call in (pool.call_after, pool.call_every):
        with pytest.raises(TypeError, match="fn must be a callable, not int"):
            call(1, nothing)
    with pytest.raises(TypeError, match="fn must be a callable, not int"):
        pool.call_when(proactor.Event(), nothing)


def test_what_has_not_come_at_the_end_is_cancelled_and_never_comes(make_pool: MakePool, pair: Any) -> None:
    pool = make_pool()
    calls = Calls()
    timers = [pool.call_after(0.05, calls) for _ in range(10)]
    ticking = pool.call_every(0.001, lambda: None)
    waits = [pool.call_when(pair[0], calls), pool.call_when(proactor.Event(), calls, timeout=0.05)]
    numbers = pool.statistics()
    assert (numbers.timers, numbers.waits) == (11, 2)
    pool.shutdown()
    assert not calls.made
    assert all(timer.cancelled for timer in timers)
    assert all(wait.cancelled for wait in waits)
    assert not ticking.pending
    pair[1].send(b"x")
    for call in (pool.call_after, pool.call_every):
        with pytest.raises(RuntimeError, match="shut down"):
            call(1, calls)
    with pytest.raises(RuntimeError, match="shut down"):
        pool.call_when(pair[0], calls)
    assert not calls.made


def test_pending_timers_and_waits_do_not_keep_the_program_alive() -> None:
    source = """
import proactor, socket
pool = proactor.ThreadPool()
ours, theirs = socket.socketpair()
pool.call_after(1000, print, "never")
pool.call_every(1000, print, "never")
pool.call_when(ours, print)
print("main ends")
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=TIMEOUT, check=True)
    assert (done.stdout, done.stderr) == ("main ends\n", "")


def test_timers_do_not_mind_a_wall_clock_that_jumps() -> None:
    # The time functions of libfaketime's clients jump by an hour; CLOCK_MONOTONIC does not, nor does anything of ours.
    library = next((path for path in FAKETIME if os.path.exists(path)), None)
    if library is None:
        pytest.skip("libfaketime is not installed; the simulated clock's tests cover the arithmetic")
    source = """
import proactor, threading, time
pool, done = proactor.ThreadPool(), threading.Event()
begun = time.monotonic()
pool.call_after(0.2, done.set)
assert done.wait(10)
assert 0.2 <= time.monotonic() - begun < 5
"""
    environment = {**os.environ, "LD_PRELOAD": library, "FAKETIME": "+1h", "DONT_FAKE_MONOTONIC": "1"}
    subprocess.run([sys.executable, "-c", source], env=environment, timeout=TIMEOUT, check=True)


FAKETIME = ["/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"]


@pytest.mark.linux("fork")
def test_in_the_child_of_a_fork_timers_and_waits_say_that_they_are_the_parents() -> None:
    source = """
import os, proactor, socket
pool = proactor.ThreadPool()
ours, theirs = socket.socketpair()
timer, wait = pool.call_after(1000, print), pool.call_when(ours, print)
descriptors = len(os.listdir("/proc/self/fd"))
if os.fork() == 0:
    looks = (timer.statistics, lambda: wait.pending, lambda: timer.missed, pool.statistics)
    for call in (timer.cancel, wait.cancel, lambda: pool.call_after(1, print), lambda: pool.call_when(ours, print), *looks):
        try:
            call()
        except RuntimeError as error:
            assert "parent process" in str(error), error
        else:
            raise AssertionError(call)
    assert len(os.listdir("/proc/self/fd")) == descriptors - 3, "epoll, eventfd and the copy are closed"
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
assert timer.cancel() and wait.cancel()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", source], timeout=TIMEOUT, check=True)


# ---- waits ----


def test_a_wait_for_a_socket_tells_that_it_was_signalled(pool: ThreadPool, pair: Any) -> None:
    calls = Calls()
    ours, theirs = pair
    wait = pool.call_when(ours, calls, "argument")
    assert pool.statistics().waits == 1
    theirs.send(b"x")
    assert calls.wait_for(1) == [(True, "argument")]
    assert ours.recv(10) == b"x"
    assert not wait.pending
    assert not wait.cancel()
    assert pool.statistics().waits == 0


def test_a_wait_that_times_out_says_so(pool: ThreadPool, pair: Any) -> None:
    calls = Calls()
    begun = time.monotonic()
    pool.call_when(pair[0], calls, timeout=0.05)
    assert calls.wait_for(1) == [(False,)]
    assert calls.times[0] - begun >= 0.05


def test_what_is_signalled_already_does_not_time_out(pool: ThreadPool, pair: Any) -> None:
    calls = Calls()
    event = proactor.Event()
    event.set()
    pair[1].send(b"x")
    for handle in [pair[0], event] * 20:
        pool.call_when(handle, calls, timeout=0)
    assert calls.wait_for(40) == [(True,)] * 40


def test_a_wait_for_room_to_write(pool: ThreadPool, pair: Any) -> None:
    calls = Calls()
    ours, theirs = pair
    ours.setblocking(False)
    try:
        while True:
            ours.send(bytes(65536))
    except BlockingIOError:
        pass
    pool.call_when(ours, calls, writable=True)
    pool.call_when(ours, calls, timeout=0.02)
    assert calls.wait_for(1) == [(False,)]
    theirs.setblocking(False)
    try:
        while theirs.recv(1 << 20):
            pass
    except BlockingIOError:
        pass
    assert calls.wait_for(2)[1] == (True,)


def test_a_repeated_wait_comes_again_for_each_message(pool: ThreadPool, pair: Any) -> None:
    ours, theirs = pair
    received = []
    calls = Calls()

    def receive(signalled: bool) -> None:
        received.append(ours.recv(1) if signalled else b"")
        calls(signalled)

    wait = pool.call_when(ours, receive, repeat=True, timeout=1000)
    theirs.send(b"abc")
    calls.wait_for(3)
    theirs.send(b"d")
    calls.wait_for(4)
    assert b"".join(received) == b"abcd"
    assert wait.pending
    assert wait.cancel()
    theirs.send(b"e")
    assert wait.cancelled
    assert not wait.pending


def test_a_repeated_wait_goes_on_after_a_timeout(pool: ThreadPool, pair: Any) -> None:
    calls = Calls()

    def receive(signalled: bool) -> None:
        if signalled:
            pair[0].recv(1)
        calls(signalled)

    wait = pool.call_when(pair[0], receive, repeat=True, timeout=0.02)
    assert calls.wait_for(2)[:2] == [(False,), (False,)]
    pair[1].send(b"x")
    eventually(lambda: (True,) in calls.made, "it was called with a signal")
    before = len(calls.made)
    calls.wait_for(before + 2)
    assert wait.cancel()


def test_the_descriptor_may_be_closed_during_the_wait(pool: ThreadPool, pair: Any) -> None:
    calls = Calls()
    reading, writing = socket.socketpair()
    number = reading.fileno()
    pool.call_when(number, calls)
    reading.close()
    again, other = socket.socketpair()
    assert again.fileno() == number or not LINUX, "the same number, for something else"
    other.send(b"x")
    assert not calls.made
    writing.send(b"x")
    assert calls.wait_for(1) == [(True,)]
    for one in (again, other, writing):
        one.close()


def test_a_wait_that_is_over_keeps_no_descriptor(pool: ThreadPool, pair: Any) -> None:
    calls = Calls()
    pool.submit(int).result(TIMEOUT)
    assert pool.call_when(pair[0], calls, timeout=1000).cancel()
    before = descriptor_count()
    waits = [pool.call_when(pair[0], calls, timeout=1000) for _ in range(10)]
    cancelled = [pool.call_when(pair[0], calls, repeat=True) for _ in range(10)]
    assert descriptor_count() == before + 20 or not LINUX  # where a wait has a descriptor
    assert all(wait.cancel() for wait in cancelled)
    assert descriptor_count() == before + 10 or not LINUX
    waits += [pool.call_when(pair[0], calls, timeout=0.02) for _ in range(10)]
    calls.wait_for(10)
    pair[1].send(b"x")
    calls.wait_for(20)
    eventually(lambda: descriptor_count() <= before, "the descriptors are given back")
    assert not any(wait.pending for wait in waits)


@pytest.mark.linux("eventfd")
def test_eventfds_and_numbers_are_waited_for(pool: ThreadPool) -> None:
    calls = Calls()
    counter = os.eventfd(0)
    pool.call_when(counter, calls)
    os.eventfd_write(counter, 1)
    assert calls.wait_for(1) == [(True,)]
    os.close(counter)


def test_a_process_is_waited_for_and_its_return_code_is_there(pool: ThreadPool) -> None:
    calls = Calls()

    def ended(signalled: bool, process: "subprocess.Popen[bytes]") -> None:
        calls(signalled, process.returncode)

    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read(); sys.exit(7)"], stdin=subprocess.PIPE) as process:
        pool.call_when(process, ended, process, timeout=0.01)
        assert calls.wait_for(1) == [(False, None)]
        pool.call_when(process, ended, process)
        assert process.stdin is not None
        process.stdin.close()
        assert calls.wait_for(2)[1] == (True, 7)
    pool.call_when(process, ended, process)
    assert calls.wait_for(3)[2] == (True, process.returncode)


def test_twenty_processes_are_waited_for_while_a_thread_waits_too(pool: ThreadPool) -> None:
    calls = Calls()
    processes = [subprocess.Popen([sys.executable, "-S", "-c", ""]) for _ in range(20)]
    for number, process in enumerate(processes):
        pool.call_when(process, lambda signalled, process: calls(signalled, process.returncode), process)
        if number % 2:
            process.wait(TIMEOUT)
    assert calls.wait_for(20) == [(True, 0)] * 20


def test_events_end_waits_of_threads_and_of_several_pools(make_pool: MakePool) -> None:
    first, second = make_pool(), make_pool()
    event, calls = proactor.Event(), Calls()
    waits = [pool.call_when(event, calls, number) for number in range(10) for pool in (first, second)]
    waits[0].cancel()
    assert event.statistics() == proactor.EventStatistics(is_set=False, waits=19)
    waiting = first.submit(event.wait, TIMEOUT)
    assert not event.wait(0.01)
    event.set()
    assert waiting.result(TIMEOUT) is True
    assert event.wait(0)
    calls.wait_for(19)
    event.clear()
    assert not event.is_set()
    assert event.statistics().waits == 0
    with pytest.raises(ValueError, match="timeout"):
        event.wait(-1)


def test_an_event_that_is_waited_for_repeatedly_comes_once_a_set_if_it_is_cleared(pool: ThreadPool) -> None:
    event, calls = proactor.Event(), Calls()

    def clear(signalled: bool) -> None:
        event.clear()
        calls(signalled)

    wait = pool.call_when(event, clear, repeat=True)
    for count in range(1, 6):
        event.set()
        assert calls.wait_for(count) == [(True,)] * count
        eventually(lambda: event.statistics().waits == 1, "it waits")
    assert wait.cancel()
    assert event.statistics().waits == 0


def test_a_thread_that_waits_for_an_event_frees_its_slot_and_runs_signal_handlers(make_pool: MakePool) -> None:
    pool = make_pool(concurrency=1)
    event = proactor.Event()
    waiting = [pool.submit(event.wait, TIMEOUT) for _ in range(4)]
    pool.submit(event.set)
    assert [future.result(TIMEOUT) for future in waiting] == [True] * 4
    event.clear()
    seen = []
    before = signal.signal(USER_SIGNAL, lambda *_: (seen.append(1), event.set()))
    try:
        pool.call_after(0.05, signal_this_process, USER_SIGNAL)
        assert event.wait(TIMEOUT)
    finally:
        signal.signal(USER_SIGNAL, before)
    assert seen


def test_what_cannot_be_waited_for_is_refused_with_what_to_do(pool: ThreadPool, pair: Any) -> None:
    of_files = "always ready: read it in a call of its own" if LINUX else "waits for sockets and for HANDLEs, .* not for files and pipes"
    with open(__file__) as file, pytest.raises(ValueError, match=of_files):
        pool.call_when(file, print)
    closed = socket.socket()
    closed.close()
    with pytest.raises(ValueError, match="is closed; call call_when before"):
        pool.call_when(closed, print)
    with pytest.raises(OSError) as refused:
        pool.call_when(1 << 20, print)
    assert refused.value.errno == errno.EBADF
    nothing: Any
    for nothing in ("text", None, True, threading.Event()):
        with pytest.raises(TypeError, match="cannot be waited for: give a descriptor"):
            pool.call_when(nothing, print)
    with pytest.raises(ValueError, match="timeout must be a number of seconds"):
        pool.call_when(pair[0], print, timeout=-1)
    with pytest.raises(ValueError, match="an Event is set or not"):
        pool.call_when(proactor.Event(), print, writable=True)
    assert pool.statistics().waits == 0


@pytest.mark.linux("a limit of descriptors (setrlimit)")
def test_running_out_of_descriptors_is_an_error_of_that_wait_only(pool: ThreadPool, pair: Any) -> None:
    calls = Calls()
    pool.submit(int).result(TIMEOUT)
    wait = pool.call_when(pair[0], calls)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            [pool.call_when(pair[0], calls, timeout=1000) for _ in range(100)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    pair[1].send(b"x")
    calls.wait_for(1)
    assert not wait.pending


def test_statistics_are_frozen_snapshots(pool: ThreadPool, pair: Any) -> None:
    timer, wait = pool.call_every(1000, print), pool.call_when(pair[0], print)
    assert timer.statistics() == proactor.TimerStatistics(pending=True, cancelled=False, interval=1000.0, missed=0)
    assert wait.statistics() == proactor.WaitStatistics(pending=True, cancelled=False, repeat=False)
    assert (repr(timer), repr(wait)) == ("<Timer every 1000 s pending>", "<Wait pending>")
    gc.collect()
    assert timer.cancel()
    assert wait.cancel()
    assert (repr(timer), repr(wait)) == ("<Timer every 1000 s cancelled>", "<Wait cancelled>")
