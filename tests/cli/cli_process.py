"""The real command as a subprocess, and its clients: waits for what they say, with a time limit. Knows nothing of terminals."""

import contextlib
import io
import locale
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from platforms import descriptor_count
from signalling import Signals

if sys.platform == "win32":
    import msvcrt

COMMAND = [sys.executable, "-m", "proactor"]

TIMEOUT = 30.0
"""Seconds after which something that was waited for is a failure: nothing here takes a tenth of it on an idle machine."""

ENCODING = locale.getpreferredencoding(False)
"""Of what a command writes into a pipe."""

LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \[[^\]]+\] .*|  \| .*")
"""What every line of the log looks like; a forged one would not start so."""


if sys.platform == "win32":

    class Process(subprocess.Popen[bytes]):
        """The command, which can be sent signals: see signalled.py."""

        def __init__(self, arguments: list[str], **options: Any) -> None:
            self._signals = Signals(TIMEOUT)
            if arguments[: len(COMMAND)] == COMMAND:
                signalled = str(Path(__file__).with_name("signalled.py"))
                arguments = [sys.executable, signalled, str(self._signals.port), *arguments[len(COMMAND) :]]
            super().__init__(arguments, **options)

        def send_signal(self, number: int) -> None:
            self._signals.send(number)

        def cpu_seconds(self) -> float:
            return self._signals.cpu_seconds()

        def __del__(self) -> None:
            self._signals.close()
            super().__del__()

    def cpu_seconds(process: Process) -> float:
        """User and system time used so far, as it tells itself."""
        return process.cpu_seconds()

else:
    Process = subprocess.Popen

    def cpu_seconds(process: Process) -> float:
        """User and system time used so far, by proc_pid_stat(5)."""
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if sys.platform == "win32":

    def run_without(streams: tuple[int, ...], *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        """Runs the command without these standard streams, by number, as a service or pythonw.exe is started."""
        read_end, write_end = os.pipe()
        nothing = os.open(os.devnull, os.O_RDWR)
        try:
            descriptors = {0: nothing, 1: nothing, 2: write_end}
            handles = [None if number in streams else msvcrt.get_osfhandle(descriptors[number]) for number in (0, 1, 2)]
            given = sorted({handle for handle in handles if handle is not None})
            for handle in given:
                os.set_handle_inheritable(handle, True)
            started = subprocess.STARTUPINFO(
                dwFlags=subprocess.STARTF_USESTDHANDLES,
                hStdInput=handles[0],
                hStdOutput=handles[1],
                hStdError=handles[2],
                lpAttributeList={"handle_list": given},
            )
            process = subprocess.Popen([*COMMAND, *arguments], startupinfo=started)
        finally:
            os.close(nothing)
            os.close(write_end)
        with open(read_end, "rb") as errors, process:
            said = errors.read().replace(b"\r\n", b"\n")
            return subprocess.CompletedProcess(arguments, process.wait(TIMEOUT), b"", said)

else:

    def run_without(streams: tuple[int, ...], *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        """Runs the command without these standard streams, by number."""
        closed = " ".join(("<&-", ">&-", "2>&-")[number] for number in streams)
        shell = ["sh", "-c", f'exec "$@" {closed}', "sh"]
        return subprocess.run([*shell, *COMMAND, *arguments], capture_output=True, timeout=TIMEOUT, check=False)


class Lines:
    """The lines of a stream as they come, read by a thread so that the pipe never fills."""

    def __init__(self, stream: IO[bytes]) -> None:
        # A raw stream's lines are read byte by byte, which under Wine takes longer than the command waits for who reads its log.
        self._stream = io.BufferedReader(stream) if isinstance(stream, io.RawIOBase) else stream
        self._changed = threading.Condition()  # Guards the two below.
        self._lines: list[str] = []
        self._ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def all(self) -> list[str]:
        """Everything, once the stream has ended."""
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive(), "the stream did not end"
        return self.matching("")

    def matching(self, pattern: str) -> list[str]:
        with self._changed:
            return [line for line in self._lines if re.search(pattern, line)]

    def ended(self, within: float) -> bool:
        """Whether the stream ends in so many seconds; at once when it does."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ended, within)

    def wait_for(self, pattern: str, *, count: int = 1, timeout: float = TIMEOUT) -> list[str]:
        """The lines that match, as soon as there are `count` of them."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                found = [line for line in self._lines if re.search(pattern, line)]
                if len(found) >= count:
                    return found
                left = deadline - time.monotonic()
                if self._ended or left <= 0 or not self._changed.wait(left):
                    end = "\n".join(self._lines[-30:])
                    why = "the stream ended" if self._ended else f"not within {timeout} s"
                    raise AssertionError(f"{len(found)} of {count} lines match {pattern!r} ({why}); the last lines:\n{end}")

    def _read(self) -> None:
        for line in self._stream:
            with self._changed:
                self._lines.append(line.decode(ENCODING, "backslashreplace").rstrip("\r\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class Serve:
    """One `proactor serve`, listening."""

    def __init__(self, *arguments: str, stdin: Any = subprocess.PIPE, read_log: bool = True, **options: Any) -> None:
        self.host, self.port, self.address = "127.0.0.1", int(arguments[-1]) if arguments[-2:-1] == ("--port",) else 0, ""
        where = [] if any(argument in ("--port", "--host") for argument in arguments) else ["--port", "0"]
        self.process = Process(
            [*options.pop("command", COMMAND), "serve", *arguments, *where],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            **options,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._sockets: list[socket.socket] = []
        self.reads_log = read_log
        if read_log:
            self.log = Lines(self.process.stderr)
        self.output = Lines(self.process.stdout)

    def listening(self) -> "Serve":
        line = self.log.wait_for(r"\] listening on ")[0]
        self.address = line.split("listening on ")[1]
        host, _, port = self.address.rpartition(":")
        if port.isdigit():
            self.host, self.port = host.strip("[]"), int(port)
        return self

    def connect(self, *, receive_buffer: int | None = None) -> socket.socket:
        """A connected socket, closed at the end of the test; with a `receive_buffer` of so many bytes, not the system's choice."""
        family: int = socket.AF_UNIX if self.address.startswith("unix:") else socket.AF_INET6 if ":" in self.host else socket.AF_INET
        sock = socket.socket(family)
        self._sockets.append(sock)
        sock.settimeout(TIMEOUT)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(self.address.removeprefix("unix:") if self.address.startswith("unix:") else (self.host, self.port))
        return sock

    def connect_when_up(self) -> socket.socket:
        """For a server that says nothing: tries until somebody listens, or the server ends, which is noticed at once."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                return self.connect()
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
            # What comes of it is the end of its output; that it listens, it says to nobody.
            assert not self.output.ended(within=0.02), f"it has ended: {self.output.all()}"

    def clients(self, number: int) -> list[socket.socket]:
        """Connected clients, each known to the server."""
        before = len(self.log.matching(r" connected$"))
        sockets = [self.connect() for _ in range(number)]
        self.log.wait_for(r" connected$", count=before + number)
        return sockets

    def type(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def type_until_heard(self, client: socket.socket) -> None:
        """For a server that says nothing: types `anybody?` until it has accepted the client. More of these lines may follow."""
        deadline = time.monotonic() + TIMEOUT
        client.settimeout(0.1)
        while True:
            self.type(b"anybody?\n")
            try:
                assert read_line(client) == b"anybody?\n"
                break
            except TimeoutError:
                assert time.monotonic() < deadline
        client.settimeout(TIMEOUT)

    def end_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = TIMEOUT) -> int:
        return self.process.wait(timeout)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def report(self) -> str:
        """The one line on standard output."""
        lines = self.output.all()
        assert len(lines) == 1, lines
        return lines[0]

    def cpu_share(self, seconds: float = 1.0) -> float:
        """The share of one processor used during the next `seconds`."""
        before, started = cpu_seconds(self.process), time.monotonic()
        time.sleep(seconds)
        return (cpu_seconds(self.process) - before) / (time.monotonic() - started)

    def descriptors(self) -> int:
        return descriptor_count(self.process.pid)

    def kill(self) -> None:
        for sock in self._sockets:
            sock.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.reads_log:
            self.log.all()
        self.output.all()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def read_exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        chunk = sock.recv(min(1 << 16, count - len(data)))
        if not chunk:
            break
        data += chunk
    return bytes(data)


def read_line(sock: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte:
            break
        data += byte
    return data


def read_to_end(sock: socket.socket) -> bytes:
    data = bytearray()
    while chunk := sock.recv(1 << 16):
        data += chunk
    return bytes(data)


def name_of(sock: socket.socket) -> str:
    """How the server's log calls this client."""
    host, port = sock.getsockname()[:2]
    return f"{host}:{port}"


def reset(sock: socket.socket) -> None:
    """Closes with a TCP reset instead of an orderly end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    sock.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
