"""A terminal of the tests' own, with the screen a person would see. Knows nothing of servers."""

import os
import re
import select
import subprocess
import sys
import threading
import time
from typing import Any

from cli_process import TIMEOUT

if sys.platform != "win32":
    import pty
    import termios

COLUMNS, ROWS = 150, 50


class Terminal:
    """A command whose standard streams are one terminal, which is also its controlling terminal."""

    def __init__(self, command: list[str], *, stderr: Any = None, columns: int = COLUMNS, **options: Any) -> None:
        self._master, self._slave = pty.openpty()
        termios.tcsetwinsize(self._slave, (ROWS, columns))
        self.settings = termios.tcgetattr(self._slave)
        self.screen = Screen()
        self.raw = b""
        self._changed = threading.Condition()  # Guards the two above.
        environment = os.environ | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"} | options.pop("env", {})
        # A session leader that opens a terminal gets it as its controlling one.
        script = f'exec "$@" <>{os.ttyname(self._slave)} >&0' + ("" if stderr else " 2>&0")
        self.process = subprocess.Popen(
            ["sh", "-c", script, "sh", *command], start_new_session=True, env=environment, stderr=stderr, **options
        )
        self._ending = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, pattern: str, *, count: int = 1, timeout: float = TIMEOUT) -> "re.Match[str]":
        """Until what the screen shows (and has shown) matches, `count` times; the first match."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while len(matches := list(re.finditer(pattern, self.screen.text(), re.MULTILINE))) < count:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise AssertionError(f"{pattern!r} did not appear within {timeout} s; the screen:\n{self.screen.text()}")
            return matches[0]

    def wait_for_prompt(self) -> None:
        """Until the last line on the screen is the prompt, with nothing typed."""
        self.wait_for(r"\n> *\Z|\A> *\Z")

    def wait(self, timeout: float = TIMEOUT) -> int:
        return self.process.wait(timeout)

    def settings_now(self) -> Any:
        return termios.tcgetattr(self._slave)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()
        self._ending = True
        self._thread.join()
        os.close(self._master)
        os.close(self._slave)

    def _read(self) -> None:
        while not self._ending:
            if not select.select([self._master], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:
                return
            with self._changed:
                self.raw += data
                self.screen.feed(data)
                self._changed.notify_all()


class Screen:
    """As much of a terminal as a prompt uses: text, line breaks, cursor movement and erasing. It never scrolls; old lines stay."""

    def __init__(self) -> None:
        self._lines: list[list[str]] = [[]]
        self._row = self._column = 0
        self._rest = ""

    def text(self) -> str:
        lines = ["".join(line).rstrip() for line in self._lines]
        while lines and not lines[-1]:
            lines.pop()
        return "\n".join(lines)

    def feed(self, data: bytes) -> None:
        text = self._rest + data.decode("utf-8", "replace")
        # A sequence that has not come whole waits for the rest.
        cut = re.search(r"\x1b(\[[0-9;?]*|\][^\x07]*)?\Z", text)
        self._rest = cut[0] if cut else ""
        for token in _TOKEN.finditer(text[: cut.start()] if cut else text):
            if token["final"]:
                self._control(token["final"], token["arguments"])
            elif token["text"]:
                self._put(token["text"])

    def _put(self, text: str) -> None:
        for character in text:
            if character == "\r":
                self._column = 0
            elif character == "\n":
                self._move_to(self._row + 1)
            elif character == "\b":
                self._column = max(0, self._column - 1)
            elif character >= " ":
                line = self._lines[self._row]
                line.extend(" " * (self._column + 1 - len(line)))
                line[self._column] = character
                self._column += 1

    def _control(self, final: str, arguments: str) -> None:
        number = int(arguments) if arguments.isdigit() else 1
        if final == "A":
            self._row = max(0, self._row - number)
        elif final == "B":
            self._move_to(self._row + number)
        elif final == "C":
            self._column += number
        elif final == "D":
            self._column = max(0, self._column - number)
        elif final == "K":
            del self._lines[self._row][self._column :]
        elif final == "J":
            del self._lines[self._row][self._column :]
            del self._lines[self._row + 1 :]

    def _move_to(self, row: int) -> None:
        self._row = row
        while len(self._lines) <= row:
            self._lines.append([])


_TOKEN = re.compile(r"\x1b\[(?P<arguments>[0-9;?]*)(?P<final>[A-Za-z])|\x1b\][^\x07]*\x07|\x1b.|(?P<text>[^\x1b]+)", re.DOTALL)
