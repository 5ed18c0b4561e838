"""Whether a person sits at a terminal, and the terminal's settings. Knows nothing of prompts."""

import contextlib
import os
import sys
import termios
from typing import Any


def at_terminal() -> bool:
    """Whether a person types here: standard input is a terminal, and this process is not in its background."""
    if not os.isatty(0):
        return False
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def can_prompt() -> bool:
    """Whether there is also a terminal to draw a prompt on."""
    return sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def terminal_state() -> list[Any] | None:
    try:
        return termios.tcgetattr(0)
    except (OSError, termios.error):
        return None


def restore_terminal(state: list[Any] | None) -> None:
    if state is not None:
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(0, termios.TCSANOW, state)
