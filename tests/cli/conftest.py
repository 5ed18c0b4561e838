"""The fixtures of the command line's tests. What they start, they end."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # For the helpers beside this file.

from cli_process import COMMAND, TIMEOUT, Serve
from cli_terminal import Terminal


@pytest.fixture
def serve() -> Iterator[Callable[..., Serve]]:
    """`serve(*arguments, **options of Popen)` starts a server on a free port and waits until it listens."""
    started: list[Serve] = []

    def start(*arguments: str, listening: bool = True, **options: Any) -> Serve:
        server = Serve(*arguments, **options)
        started.append(server)
        return server.listening() if listening else server

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def run() -> Callable[..., "subprocess.CompletedProcess[bytes]"]:
    """`run(*arguments)` runs the command to its end."""

    def run_command(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[bytes]":
        options.setdefault("stdin", None if "input" in options else subprocess.DEVNULL)
        if options["stdin"] is None:
            del options["stdin"]
        result = subprocess.run([*COMMAND, *arguments], capture_output=True, timeout=TIMEOUT, **options)
        if sys.platform == "win32" and isinstance(result.stderr, bytes):  # What is told there is text.
            result.stderr = result.stderr.replace(b"\r\n", b"\n")
        return result

    return run_command


@pytest.fixture
def application(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """`application(source)` writes `app.py`; its answer, given to `serve` or `run`, makes its directory the current one."""

    def write(source: str) -> dict[str, Any]:
        (tmp_path / "app.py").write_text(source)
        return {"cwd": tmp_path}

    return write


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """`terminal(*arguments)` runs the command at a terminal of its own."""
    started: list[Terminal] = []

    def start(*arguments: str, command: list[str] = COMMAND, **options: Any) -> Terminal:
        started.append(Terminal([*command, *arguments], **options))
        return started[-1]

    yield start
    for one in started:
        one.close()
