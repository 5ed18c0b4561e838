"""The progress bar below a transfer, for a person at a terminal. Owns that one line of standard error.

It is drawn by the thread that calls `update`, at most ten times a second, without a thread and without hiding the cursor, so that a
process which is stopped or killed meanwhile leaves the terminal as it was.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING

from proactor.cli.sizes import show_size
from proactor.cli.terminal import in_foreground_of, is_terminal, understands_escapes
from proactor.cli.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, Task

REDRAW_SECONDS = 0.1

ABANDON_SECONDS = 0.5
"""How long the thread that draws may take to finish: it may hang in a terminal that takes nothing."""

UNKNOWN_COLUMNS = 80

LONGEST_NAME = 30
"""Characters of a file's name that the bar shows, in a narrow terminal fewer: the numbers matter more."""


def can_show_progress(output: int | None) -> bool:
    """Whether a bar on standard error would be seen, and would not get between the bytes that go to the descriptor `output`.

    None into a pipe: what reads it may well draw on the same terminal, as a pager does.
    """
    if sys.stderr is None or not in_foreground_of(2) or not understands_escapes(2):
        return False
    if output is None:
        return True
    try:
        return not is_terminal(output) and not stat.S_ISFIFO(os.fstat(output).st_mode)
    except OSError:
        return False


class ProgressBar:
    """Shows how far a transfer is, its rate and the time left. One thread; `close` it before anything else is written."""

    def __init__(self, name: str, total: int | None) -> None:
        self._name = printable(os.path.basename(name))
        self._total = total
        self._bar: tuple[Console, Progress, Task] | None = None
        self._drawing = threading.Lock()  # Guards the terminal's line.
        self._started = time.monotonic()
        self._drawn_at = 0.0
        self._done = 0

    def update(self, done: int, total: int | None = None) -> None:
        """So many bytes are done, of `total` if that is known better than at the start."""
        self._done = done
        if total is not None:
            self._total = total
        now = time.monotonic()
        if now - self._drawn_at >= REDRAW_SECONDS:
            with self._drawing:
                self._draw()
            self._drawn_at = time.monotonic()

    def close(self) -> None:
        """Draws the last state, and leaves it standing. Idempotent."""
        if self._bar is not None:
            with self._drawing:
                self._draw(last=True)
                self._bar = None
                _write("\n")

    def abandon(self) -> None:
        """Leaves the line as it stands: nothing is drawn any more. For the process's end; safe from any thread."""
        self._drawing.acquire(timeout=ABANDON_SECONDS)
        if self._bar is not None:
            _write("\n")

    def _draw(self, *, last: bool = False) -> None:
        if not in_foreground_of(2):  # It was sent to the background meanwhile.
            return
        if self._bar is None:
            self._bar = _make_bar()
        console, progress, task = self._bar
        console.width = _columns() - 1  # A full line would wrap.
        progress.update(task.id, completed=self._done, total=self._total)
        speed = self._done / max(time.monotonic() - self._started, 1e-9) if last else task.speed
        progress.update(
            task.id,
            description=self._shortened_name(console.width // 4),
            percentage=self._percentage(),
            amount=self._amount(),
            rate="" if speed is None else f"{show_size(speed)}/s",
            left=_time_left(task),
        )
        with console.capture() as captured:
            console.print(progress.make_tasks_table([task]), end="", no_wrap=True, crop=True)
        line, _, _ = captured.get().partition("\n")
        _write(f"\r{line}\x1b[K")

    def _shortened_name(self, room: int) -> str:
        longest = max(min(room, LONGEST_NAME), 2)
        return self._name if len(self._name) <= longest else f"{self._name[: longest - 1]}…"

    def _percentage(self) -> str:
        if self._total is None:
            return ""
        return f"{min(100 * self._done // self._total, 100) if self._total else 100:3}%"  # It may grow meanwhile.

    def _amount(self) -> str:
        return show_size(self._done) if self._total is None else f"{show_size(self._done)} of {show_size(self._total)}"


def _make_bar() -> tuple[Console, Progress, Task]:
    # Slow to import, and only for those who see it.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    def text(template: str) -> TextColumn:
        return TextColumn(template, markup=False, table_column=Column(no_wrap=True))

    console = Console(file=sys.stderr, highlight=False)
    progress = Progress(
        text("{task.description}"),
        BarColumn(bar_width=None),
        text("{task.fields[percentage]}"),
        text("{task.fields[amount]}"),
        text("{task.fields[rate]}"),
        text("{task.fields[left]}"),
        console=console,
        auto_refresh=False,
        expand=True,
    )
    identity = progress.add_task("", total=None, percentage="", amount="", rate="", left="")
    return console, progress, progress.tasks[identity]


def _time_left(task: Task) -> str:
    seconds = task.time_remaining
    if seconds is None or task.finished:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02} left"


def _columns() -> int:
    try:
        return os.get_terminal_size(2).columns or UNKNOWN_COLUMNS
    except OSError:
        return UNKNOWN_COLUMNS


def _write(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
