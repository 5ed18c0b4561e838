"""How files end: forks, the interpreter's exit, cancelling; what is left of them."""

import collections
import concurrent.futures
import ctypes
import errno
import os
import socket
import struct
import threading

import pytest

import proactor
from peers import TIMEOUT, eventually, run_python
from platforms import FILE_MECHANISMS, RACE_ROUNDS, threads_of_process

PREPARE = """
import os, sys, threading
import proactor
path = sys.argv[1]
with open(path, "wb") as file:
    file.write(bytes(1 << 22))
"""


@pytest.mark.linux("fork")
@pytest.mark.parametrize("engine", FILE_MECHANISMS)
def test_a_child_of_a_fork_shares_nothing_and_may_begin_anew(tmp_path, engine) -> None:
    program = (
        PREPARE
        + """
file = proactor.open(path, direct=True)
requests = [file.read_at(at, 4096) for at in range(0, 1 << 20, 4096)]
requests[0].add_done_callback(lambda request: None)
requests[0].result()
before = set(os.listdir("/proc/self/fd"))
child = os.fork()
if child == 0:
    status = 1
    try:
        left = [os.readlink(f"/proc/self/fd/{name}") for name in before if os.path.exists(f"/proc/self/fd/{name}")]
        assert not any("io_uring" in what or "eventfd" in what or what == path for what in left), left
        for call in (lambda: file.read_at(0, 1), requests[-1].result, requests[-1].done, requests[-1].cancel, file.statistics, file.sync):
            try:
                call()
            except RuntimeError as error:
                assert "fork" in str(error)
            else:
                raise AssertionError(call)
        file.close()
        with proactor.open(path, direct=True) as own:
            assert own.read() == bytes(1 << 22)
        status = 0
    finally:
        os._exit(status)
assert os.waitpid(child, 0)[1] == 0
assert all(request.result() == bytes(4096) for request in requests)
file.close()
print("over")
"""
    )
    run = run_python(program, str(tmp_path / "file"), env={"PROACTOR_FILES": engine})
    assert (run.stdout, run.stderr) == ("over\n", "")


@pytest.mark.parametrize("engine", FILE_MECHANISMS)
def test_the_end_of_the_program_waits_for_writes_and_for_nothing_else(tmp_path, engine) -> None:
    program = (
        PREPARE
        + """
file = proactor.open(path, "r+b")
for at in range(0, 1 << 22, 4096):
    request = file.write_at(at, b"x" * 4096)
request.add_done_callback(lambda request: print("told"))
del file.__class__.__del__  # unclosed on purpose
"""
    )
    path = tmp_path / "file"
    run = run_python(program, str(path), env={"PROACTOR_FILES": engine})
    assert (run.stdout, run.stderr, run.returncode) == ("told\n", "", 0)
    assert path.read_bytes() == b"x" * (1 << 22)


def test_requests_without_anybody_leave_nothing(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    for _ in range(20):
        with proactor.open(path, direct=True) as file:
            for at in range(0, 1 << 20, 4096):
                file.read_at(at, 4096)
                file.readinto_at(at, bytearray(4096))


@pytest.mark.parametrize("engine", FILE_MECHANISMS)
@pytest.mark.parametrize("watched", [False, True])
def test_after_a_cancel_that_says_true_nothing_happens(tmp_path, monkeypatch, engine, watched) -> None:
    monkeypatch.setenv("PROACTOR_FILES", engine)
    path = tmp_path / "file"
    path.write_bytes(b"x" * (1 << 20))
    with proactor.open(path, "r+b") as file:
        done = threading.Semaphore(0)
        requests = [(at, file.write_at(at, b"y" * 4096)) for at in range(0, 1 << 20, 4096)]
        cancelled = set()
        for at, request in reversed(requests):
            if watched:
                request.add_done_callback(lambda request: done.release())
            if request.cancel():
                cancelled.add(at)
                assert request.cancelled()
                assert request.cancel()
                with pytest.raises(concurrent.futures.CancelledError):
                    request.result()
        if watched:
            for _ in requests:
                assert done.acquire(timeout=20)
        assert file.statistics().cancelled == len(cancelled)
    data = path.read_bytes()
    for at, request in requests:
        assert data[at : at + 4096] == (b"x" if at in cancelled else b"y") * 4096
        assert request.done()


@pytest.mark.parametrize("engine", FILE_MECHANISMS)
def test_a_cancel_that_races_the_completion_touches_no_memory_of_others(tmp_path, monkeypatch, engine) -> None:
    """Fault 31: ten thousand rounds (under Wine a thousand), canaries around the buffers."""
    monkeypatch.setenv("PROACTOR_FILES", engine)
    path = tmp_path / "file"
    path.write_bytes(b"d" * 65536)
    canary = b"canary!!"
    cancelled = 0
    with proactor.open(path, direct=True) as file:
        for round_number in range(RACE_ROUNDS):
            memory = bytearray(canary + bytes(512) + canary)
            request = file.readinto_at(512 * (round_number % 100), memoryview(memory)[8:520])
            if round_number % 2:
                file._give_up(request)  # as an abandoned iterator does
                assert request.exception() is None or isinstance(request.exception(), OSError)
                brought = request.exception() is None
            else:
                brought = not request.cancel()
                if brought:
                    assert request.result() == 512
            assert memory[:8] == memory[520:] == canary
            assert memory[8:520] == (b"d" if brought else b"\0") * 512
            cancelled += not brought
            del memory[:]  # nobody has it any more
    assert os.path.getsize(path) == 65536
    assert 0 < cancelled <= RACE_ROUNDS


def test_the_threads_end_with_the_last_file(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(8192))

    before = threads_of_process()

    def native() -> set[int]:
        return threads_of_process() - before

    with proactor.open(path, direct=True) as first:
        with proactor.open(path, direct=True) as second:
            second.read()
        first.read()
        assert native()
    eventually(lambda: not native(), "they have ended: the kernel lists a thread for a moment after it was joined")


@pytest.mark.parametrize("engine", ["", *FILE_MECHANISMS])
def test_a_read_that_was_put_off_begins_as_soon_as_anybody_looks(tmp_path, monkeypatch, engine) -> None:
    """Who always waits at once reads by himself, so that nobody is woken at the submit; other ways of waiting must have it begun.

    So must they see the end of one that its asker began, which no native thread takes while nobody says that it must.
    """
    monkeypatch.setenv("PROACTOR_FILES", engine)
    path = tmp_path / "file"
    path.write_bytes(b"x" * 65536)

    def polled(request) -> None:
        eventually(request.done, "a read that is polled")

    def told(request) -> None:
        event = threading.Event()
        request.add_done_callback(lambda request: event.set())
        assert event.wait(TIMEOUT)

    def waited(request) -> None:
        assert concurrent.futures.wait([request], TIMEOUT).done

    with proactor.open(path, "r+b", direct=True) as file:  # to write, since Windows flushes nothing else
        for look in (polled, told, waited, lambda request: request.result(TIMEOUT), lambda request: file.sync()):
            for _ in range(10):
                assert file.read_at(0, 512).result() == b"x" * 512
            request = file.read_at(512, 512)
            look(request)
            assert request.done()
            assert request.result() == b"x" * 512
        for _ in range(10):
            file.read_at(0, 512).result()
        file.read_at(0, 512)  # and nobody looks


@pytest.mark.linux("signals that interrupt system calls")
def test_a_thread_that_began_reads_is_interrupted_by_none_and_may_end_before_them(tmp_path) -> None:
    """Whoever begins a read may then be in a call that a signal would interrupt: its completion is none. No read ends with its thread."""
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    ours, theirs = socket.socketpair()
    with proactor.open(path, direct=True) as file, ours, theirs:
        # A receive with the kernel's own time-out, as database drivers have it: a signal ends it with EINTR, which is not tried again.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 20_000))
        receive = ctypes.CDLL(None, use_errno=True).recv
        errors, left = collections.Counter(), []

        def begin() -> None:
            for round_number in range(20):
                requests = [file.read_at(4096 * ((round_number + index) % 256), 4096) for index in range(8)]
                assert receive(ours.fileno(), ctypes.create_string_buffer(1), 1, 0) == -1
                errors[errno.errorcode[ctypes.get_errno()]] += 1
                assert all(request.result() == bytes(4096) for request in requests)
            left.extend(file.read_at(4096 * index, 4096) for index in range(8))

        thread = threading.Thread(target=begin)
        thread.start()
        thread.join(TIMEOUT)
        assert errors == {"EAGAIN": 20}
        assert len(left) == 8
        assert all(request.result(TIMEOUT) == bytes(4096) for request in left)


@pytest.mark.parametrize("depth", [1, 2, 8])
def test_threads_that_wait_for_reads_of_one_file_see_their_own(tmp_path, depth) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"".join(number.to_bytes(4, "little") * 1024 for number in range(256)))
    with proactor.open(path, direct=True) as file, concurrent.futures.ThreadPoolExecutor(4) as executor:

        def read(first: int) -> int:
            window = collections.deque((number % 256, file.read_at(4096 * (number % 256), 4096)) for number in range(first, first + depth))
            for number in range(first + depth, first + 400):
                window.append((number % 256, file.read_at(4096 * (number % 256), 4096)))
                wanted, request = window.popleft()
                assert request.result() == wanted.to_bytes(4, "little") * 1024
            return sum(request.result() == wanted.to_bytes(4, "little") * 1024 for wanted, request in window)

        assert list(executor.map(read, range(0, 256, 64), timeout=60)) == [depth] * 4
        assert file.statistics().outstanding == 0


@pytest.mark.timeout(30)
def test_a_block_that_is_late_keeps_the_others_going_within_twice_the_depth(tmp_path, monkeypatch) -> None:
    """The first request hangs: each other that completes is followed by another, up to 2 x depth blocks with the one that is awaited."""
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)) * 40)
    asked, enough = [], threading.Event()
    with proactor.open(path, block_size=256, depth=4) as file, proactor.open(path, block_size=256) as other:
        gate = HungRequest(other.read_at(0, 256), enough)

        def read_at(offset, size):
            asked.append(offset)
            if len(asked) == 7:  # 2 x depth, less the one for the caller
                enough.set()
            return gate if offset == 0 else other.read_at(offset, size)

        monkeypatch.setattr(file, "read_at", read_at)
        monkeypatch.setattr(file, "_give_up", lambda request: None)
        assert next(file.blocks()) == bytes(range(256))
        assert enough.is_set()
        assert len(asked) <= 8


class HungRequest(concurrent.futures.Future):
    """Complete once `enough` is set."""

    def __init__(self, request, enough) -> None:
        super().__init__()
        self._request, self._enough = request, enough

    def _perform_here(self) -> bool:
        return False

    def done(self) -> bool:
        return self._enough.is_set()

    def exception(self, timeout=None):
        if not self._enough.wait(timeout):
            raise TimeoutError

    def result(self, timeout=None):
        assert self._enough.wait(10), "nothing more was asked for"
        return self._request.result()


def test_a_closed_file_cannot_be_entered_again(tmp_path) -> None:
    file = proactor.open(tmp_path / "data", "wb")
    file.close()
    with pytest.raises(ValueError, match="closed"), file:
        pass
