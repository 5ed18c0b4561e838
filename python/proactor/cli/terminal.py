"""Whether a person sits at a terminal, and the terminal's settings. Knows nothing of prompts."""

import contextlib
import os
import sys
from typing import Any

if sys.platform != "win32":
    import termios


def is_terminal(descriptor: int) -> bool:
    """Whether it is a terminal. Windows' C library says so of any device, NUL too: there it has to be a console."""
    return os.isatty(descriptor) and (sys.platform != "win32" or _console(descriptor) is not None)


def at_terminal() -> bool:
    """Whether a person types here: standard input is a terminal, and this process is not in its background."""
    return in_foreground_of(0)


def in_foreground_of(descriptor: int) -> bool:
    """Whether it is a terminal, and this process is not in its background, which a Windows console does not have."""
    if not is_terminal(descriptor):
        return False
    if sys.platform == "win32":
        return True
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return False


def can_prompt() -> bool:
    """Whether there is also a terminal to draw a prompt on."""
    return sys.stdout is not None and sys.stdout.isatty() and understands_escapes(1)


def understands_escapes(descriptor: int) -> bool:
    """Whether what is behind the terminal moves its cursor when it is told to. A Windows console is asked to do so."""
    if sys.platform != "win32":
        return os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    console = _console(descriptor)
    if console is None:
        return False
    import ctypes

    handle, mode = console
    kernel = ctypes.WinDLL("kernel32")
    return bool(mode & _VIRTUAL_TERMINAL or kernel.SetConsoleMode(ctypes.c_void_p(handle), mode | _VIRTUAL_TERMINAL))


def _console(descriptor: int) -> tuple[int, int] | None:
    """The handle and the mode of a Windows console; None of anything else."""
    if sys.platform != "win32":
        return None
    import ctypes
    import msvcrt

    try:
        handle = msvcrt.get_osfhandle(descriptor)
    except OSError:
        return None
    mode = ctypes.c_uint32()
    if not ctypes.WinDLL("kernel32").GetConsoleMode(ctypes.c_void_p(handle), ctypes.byref(mode)):
        return None
    return handle, mode.value


_VIRTUAL_TERMINAL = 0x0004  # ENABLE_VIRTUAL_TERMINAL_PROCESSING


def terminal_state() -> list[Any] | None:
    """What `restore_terminal` takes; None where the library that draws the prompt gives the terminal back by itself."""
    if sys.platform == "win32":
        return None
    try:
        return termios.tcgetattr(0)
    except (OSError, termios.error):
        return None


def restore_terminal(state: list[Any] | None) -> None:
    if sys.platform != "win32" and state is not None:
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(0, termios.TCSANOW, state)
