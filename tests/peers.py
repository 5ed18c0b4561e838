"""What the tests of the library share: clients that count every byte, handlers that remember what they were called for, waits with a limit.

Knows sockets and the public names; knows nothing of the command line.
"""

import errno
import os
import queue
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import proactor
from platforms import LINUX, WINE, descriptor_count, threads_of_process
from signalling import Signals

TIMEOUT = 20.0
"""Seconds after which something that was waited for is a failure. Nothing here takes a tenth of it on an idle machine."""


def echo(connection: proactor.Connection, data: bytes) -> None:
    connection.send(data)


def ignore(connection: proactor.Connection, data: bytes) -> None:
    pass


class Runners:
    """Counts how many threads are inside at once. Without a lock: who waits for one is blocked, which would change what is counted."""

    def __init__(self) -> None:
        self._changes: list[tuple[float, int]] = []

    def __enter__(self) -> None:
        self._changes.append((time.monotonic(), 1))

    def __exit__(self, *_: object) -> None:
        self._changes.append((time.monotonic(), -1))

    @property
    def seen(self) -> list[int]:
        """How many were inside with each that came in, itself too, in the order of their coming."""
        now = 0
        seen = []
        for _at, change in sorted(self._changes):
            now += change
            if change > 0:
                seen.append(now)
        return seen


if LINUX:

    def spin(seconds: float) -> None:
        """Computes for so much processor time of this thread."""
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

else:
    # A thread's own clock moves in steps of 15 ms on Windows, and to ask for it is a wait under Wine: so it is so much work instead.

    def spin(seconds: float) -> None:
        for _ in range(int(seconds * ROUNDS_A_SECOND)):
            pass

    def _seconds_of(rounds: int) -> float:
        begun = time.perf_counter()
        for _ in range(rounds):
            pass
        return time.perf_counter() - begun

    # Where nothing disturbs it.
    ROUNDS_A_SECOND = 10_000 / min(_seconds_of(10_000) for _ in range(50))


def compress(seconds: float) -> None:
    """As `spin`, most of it without the interpreter."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        zlib.compress(INCOMPRESSIBLE)


INCOMPRESSIBLE = random.Random(1).randbytes(1 << 16)
"""A millisecond's or two's work."""


class Computing:
    """Who computes from when to when, and who was let in beside them. Without a lock, as `Runners`."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []
        self._let_in: list[float] = []

    def let_in(self) -> None:
        """A handler begins."""
        self._let_in.append(time.monotonic())

    def compute(self, how: Callable[[float], None], seconds: float) -> None:
        start = time.monotonic()
        how(seconds)
        self._spans.append((start, time.monotonic()))

    def beside(self, concurrency: int, since: float) -> list[int]:
        """Beside how many each was let in that should have waited: so many had computed for `since` seconds."""
        counts = [sum(start + since <= at < end for start, end in self._spans) for at in self._let_in]
        return [count for count in counts if count >= concurrency]


class Recorder(proactor.Handler):
    """Remembers every call as `(name, value)`, by connection and in all, and lets a test wait for what it expects."""

    def __init__(self) -> None:
        self.changed = threading.Condition()  # Guards what follows.
        self.events: list[tuple[str, Any]] = []
        self.by_connection: dict[int, list[tuple[str, Any]]] = {}
        self.connections: list[proactor.Connection] = []
        self._inside: dict[int, str] = {}
        self.overlaps: list[str] = []

    def note(self, connection: proactor.Connection, name: str, value: Any = None) -> None:
        with self.changed:
            if connection.id not in self.by_connection:
                self.connections.append(connection)
            self.events.append((name, value))
            self.by_connection.setdefault(connection.id, []).append((name, value))
            self.changed.notify_all()

    def enter(self, connection: proactor.Connection, name: str) -> None:
        with self.changed:
            if connection.id in self._inside:
                self.overlaps.append(f"{name} while {self._inside[connection.id]} of connection {connection.id} still ran")
            self._inside[connection.id] = name

    def leave(self, connection: proactor.Connection) -> None:
        with self.changed:
            self._inside.pop(connection.id, None)

    def connected(self, connection: proactor.Connection) -> None:
        self._do(connection, "connected", None, self.on_connected)

    def received(self, connection: proactor.Connection, data: bytes) -> None:
        self._do(connection, "received", data, lambda connection: self.on_received(connection, data))

    def ended(self, connection: proactor.Connection) -> None:
        self._do(connection, "ended", None, self.on_ended)

    def closed(self, connection: proactor.Connection, error: BaseException | None) -> None:
        self._do(connection, "closed", error, self.on_closed)

    def _do(self, connection: proactor.Connection, name: str, value: Any, act: Callable[[proactor.Connection], None]) -> None:
        self.enter(connection, name)
        try:
            self.note(connection, name, value)
            act(connection)
        finally:
            self.leave(connection)

    # What a test overrides.
    def on_connected(self, connection: proactor.Connection) -> None:
        pass

    def on_received(self, connection: proactor.Connection, data: bytes) -> None:
        pass

    def on_ended(self, connection: proactor.Connection) -> None:
        connection.close()

    def on_closed(self, connection: proactor.Connection) -> None:
        pass

    # What a test asks.
    def wait_for(self, condition: Callable[["Recorder"], Any], what: str = "", timeout: float = TIMEOUT) -> Any:
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self), timeout), (
                f"not within {timeout} s: {what or condition}; so far: {self.events[-20:]!r}"
            )
            return condition(self)

    def wait_for_count(self, name: str, count: int, timeout: float = TIMEOUT) -> None:
        self.wait_for(lambda self: self.count(name) >= count, f"{count} x {name}", timeout)

    def wait_closed(self, count: int = 1, timeout: float = TIMEOUT) -> list[BaseException | None]:
        """The errors of the first `count` connections that closed."""
        self.wait_for_count("closed", count, timeout)
        return self.values("closed")

    def count(self, name: str) -> int:
        with self.changed:
            return sum(1 for kind, _ in self.events if kind == name)

    def values(self, name: str) -> list[Any]:
        with self.changed:
            return [value for kind, value in self.events if kind == name]

    def names(self, connection_id: int | None = None) -> list[str]:
        with self.changed:
            events = self.events if connection_id is None else self.by_connection[connection_id]
            return [name for name, _ in events]

    def data(self, connection_id: int | None = None) -> bytes:
        with self.changed:
            events = self.events if connection_id is None else self.by_connection[connection_id]
            return b"".join(value for name, value in events if name == "received")


class RecordingEcho(Recorder):
    def on_received(self, connection: proactor.Connection, data: bytes) -> None:
        connection.send(data)


def eventually(condition: Callable[[], Any], what: str, timeout: float = TIMEOUT) -> Any:
    """For what only a look can tell: a counter, the kernel's state. Answers what `condition` answered."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.002)
    return result


def dial(address: Any, *, timeout: float = TIMEOUT, receive_buffer: int | None = None, send_buffer: int | None = None) -> socket.socket:
    """A client's socket, connected to a server's `address`; buffers in bytes."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    client = socket.socket(family, socket.SOCK_STREAM)
    try:
        client.settimeout(timeout)
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if send_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        client.connect(address.removeprefix("unix:") if isinstance(address, str) else address)
    except BaseException:
        client.close()
        raise
    return client


def read_exactly(client: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        chunk = client.recv(min(1 << 18, count - len(data)))
        if not chunk:
            break
        data += chunk
    return bytes(data)


def read_to_end(client: socket.socket) -> bytes:
    data = bytearray()
    while chunk := client.recv(1 << 18):
        data += chunk
    return bytes(data)


def ends_with_reset(client: socket.socket) -> bool:
    """Reads to the end. For a client that has not finished sending: its connection still has a peer after an orderly end."""
    try:
        read_to_end(client)
    except ConnectionResetError:
        return True
    if not WINE:
        return False
    # Under Wine a reset looks like an end to recv.
    try:
        client.getpeername()
    except OSError:
        return True
    return False


def exchange(client: socket.socket, data: bytes) -> bytes:
    """Sends, and reads as many bytes as were sent, at the same time, so that neither side's buffers have to hold it all."""
    failure: list[BaseException] = []

    def send() -> None:
        try:
            client.sendall(data)
        except BaseException as error:
            failure.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        return read_exactly(client, len(data))
    finally:
        sender.join(TIMEOUT)
        assert not failure, failure


def reset(client: socket.socket) -> None:
    """Closes with a TCP reset instead of an orderly end."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def cut(chooser: random.Random, data: bytes, longest: int) -> Iterator[bytes]:
    """The same bytes in pieces of any length from 1 to `longest`."""
    at = 0
    while at < len(data):
        size = chooser.randint(1, longest)
        yield data[at : at + size]
        at += size


def threads_beside_workers(pool: proactor.ThreadPool) -> int:
    """A worker that waits for a lock of Python's counts as blocked, and gets a deputy: without the interpreter's lock more of them do."""
    return len(threads_of_process()) - pool.statistics().workers


def run_python(source: str, *arguments: str, timeout: float = TIMEOUT, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Runs a program to its end, with every warning an error and the tests' helpers at hand."""
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", source, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=with_helpers(options.pop("env", None)),
        **options,
    )


def with_helpers(environment: dict[str, str] | None = None) -> dict[str, str]:
    """An environment in which a program can import this file."""
    path = os.pathsep.join(filter(None, [os.path.dirname(__file__), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **(environment or {}), "PYTHONPATH": path}


class Program:
    """A Python program that goes on while the test talks to it: its lines are answered one at a time.

    With `signals` it can be sent some; on Windows a thread called "signals" hears them, see signalling.py.
    """

    def __init__(self, source: str, *arguments: str, command: list[str] | None = None, signals: bool = False, **options: Any) -> None:
        self._signals: Signals | None = None
        if signals and sys.platform == "win32":
            self._signals = Signals(TIMEOUT)
            source = f"import signalling; signalling.hear({self._signals.port})\n{source}"
        self.process = subprocess.Popen(
            [*(command or []), sys.executable, "-u", "-X", "faulthandler", "-c", source, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=with_helpers(options.pop("env", None)),
            start_new_session=True,  # so that all of it can be ended, whatever `command` started
            **options,
        )
        self._changed = threading.Condition()  # Guards the lines.
        self._lines: list[str] = []
        self._ended = False
        self._errors: list[str] = []
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self._lines)),
            threading.Thread(target=self._read, args=(self.process.stderr, self._errors)),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            with self._changed:
                lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = self._ended or lines is self._lines
            self._changed.notify_all()

    def line(self, timeout: float = TIMEOUT) -> str:
        """The next line of its output."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._ended, timeout)
            assert self._lines, f"no line came; standard error: {self.errors()}"
            return self._lines.pop(0)

    def lines(self) -> list[str]:
        """What is left of its output, once it has ended."""
        self.wait()
        with self._changed:
            lines, self._lines[:] = list(self._lines), []
            return lines

    def address(self) -> tuple[str, int]:
        """What a program prints that serves: a port on 127.0.0.1."""
        return "127.0.0.1", int(self.line())

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        if self._signals is None:
            self.process.send_signal(number)
        else:
            self._signals.send(number)

    def errors(self) -> str:
        with self._changed:
            return "\n".join(self._errors)

    def wait_for_error(self, text: str, timeout: float = TIMEOUT) -> None:
        with self._changed:
            found = self._changed.wait_for(lambda: any(text in line for line in self._errors), timeout)
            assert found, f"{text!r} did not come on standard error, but: {self.errors()}"

    def wait(self, timeout: float = TIMEOUT) -> int:
        code = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(TIMEOUT)
        return code

    def cpu_seconds(self) -> float:
        """User and system time used so far, by proc_pid_stat(5)."""
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        return descriptor_count(self.process.pid)

    def end(self) -> None:
        if sys.platform == "win32":
            self.process.kill()
        else:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended
        self.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass  # it had something unsent for a program that is gone
        if self._signals is not None:
            self._signals.close()


class Told:
    """A function to associate: keeps what it is told, in order."""

    def __init__(self) -> None:
        self.queue: queue.Queue[proactor.Completion] = queue.Queue()

    def __call__(self, completion: proactor.Completion) -> None:
        self.queue.put(completion)

    def next(self) -> proactor.Completion:
        return self.queue.get(timeout=TIMEOUT)

    def value(self) -> Any:
        """The next completion's, which is none of an error."""
        completion = self.next()
        assert completion.error is None
        return completion.value

    def cancelled(self) -> proactor.Completion:
        completion = self.next()
        assert isinstance(completion.error, OSError)
        assert completion.error.errno == errno.ECANCELED
        return completion


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), TIMEOUT)
        theirs, _ = listener.accept()
    theirs.settimeout(TIMEOUT)
    return ours, theirs
