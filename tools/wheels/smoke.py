"""What an installed proactor must do at the least: `serve`, two clients by `connect`, a broadcast, `Exit`, a pool's task, an interpreter
that ends with threads in native calls.

`python smoke.py`, with the Python that it was installed in, on any platform. Only the standard library. Exit code 0: it did.
"""

import queue
import re
import subprocess
import sys
import threading
from pathlib import Path

import proactor

TIMEOUT = 60.0
"""Seconds for each step: a first start is slow where nothing is in memory yet."""


class Command:
    """`proactor ...` in a process, with pipes; its lines can be waited for."""

    def __init__(self, *arguments: str) -> None:
        self.name = arguments[0]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "proactor", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._seen: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.decode().rstrip("\r\n"))
        self._lines.put(None)

    def type(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode() + b"\n")
        self._process.stdin.flush()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The next line that has it. Raises RuntimeError, with all lines, where none comes."""
        while True:
            try:
                line = self._lines.get(timeout=TIMEOUT)
            except queue.Empty:
                line = None
            if line is None:
                raise RuntimeError(f"proactor {self.name}: no line with {pattern!r} came, only {self._seen}")
            self._seen.append(line)
            if match := re.search(pattern, line):
                return match

    def end(self) -> int:
        """Its exit code, once it has ended by itself."""
        return self._process.wait(TIMEOUT)

    def close(self) -> None:
        """Leaves nothing running, whatever happened."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


# Threads that are inside native calls when the interpreter ends, and come back when it is gone.
DAEMONS = """
import sys, threading, time, proactor
port = proactor.CompletionPort()
def wait():
    while True:
        try:
            port.get(timeout=0.0005)
        except (TimeoutError, proactor.errors.PortClosed):
            pass
def block():
    while True:
        with proactor.blocking():
            time.sleep(0.0005)
for function in (wait, block) * 4:
    threading.Thread(target=function, daemon=True).start()
class LastsLong:
    def __del__(self):
        until = time.monotonic() + 0.1
        while time.monotonic() < until:
            time.sleep(0.001)
sys.kept = LastsLong()
with proactor.blocking():
    time.sleep(0.05)
"""


def main() -> None:
    commands: list[Command] = []

    def start(*arguments: str) -> Command:
        commands.append(Command(*arguments))
        return commands[-1]

    try:
        server = start("serve", "--port", "0")
        address = server.wait_for(r"listening on (127\.0\.0\.1:\d+)")[1]
        clients = [start("connect", address) for _ in range(2)]
        for _ in clients:
            server.wait_for(" connected$")
        clients[0].type("from a client")
        server.wait_for(r'received \d+ bytes: "from a client')
        server.type("to all")
        for client in clients:
            client.wait_for("^to all$")
        server.type("Exit")
        server.wait_for("^served 2 clients, ")
        codes = {command.name: command.end() for command in commands}
        if any(codes.values()):
            raise RuntimeError(f"a command did not end with 0: {codes}")
    finally:
        for command in commands:
            command.close()
    with proactor.ThreadPool() as pool:
        if pool.submit(sum, [1, 2]).result(TIMEOUT) != 3:
            raise RuntimeError("the pool computes 1 + 2 wrongly")
    code = subprocess.run([sys.executable, "-c", DAEMONS], timeout=TIMEOUT).returncode
    if code != 0:
        raise RuntimeError(f"a Python with daemon threads in native calls ended with {code}")
    print(f"proactor {proactor.__version__} in {Path(proactor.__file__).parent}: serve, connect, broadcast, Exit, pool, end: all right")


if __name__ == "__main__":
    main()
