"""The end of a Windows console: its window was closed, or the user logs off. Knows nothing of servers. On other platforms SIGHUP says so.

Python makes SIGBREAK of Ctrl-Break and of these alike; but Windows ends the process as soon as the handler of these has returned, and five
seconds after it was called at the latest. So this handler waits for the process's own end.
"""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

PATIENCE_SECONDS = 60.0
"""Longer than Windows waits."""


@contextlib.contextmanager
def hearing_console_close(told: Callable[[str], None]) -> Iterator[None]:
    """Inside, `told` is called with the event's name, on a thread that Windows makes. It may do what a signal handler may."""
    if sys.platform != "win32":
        yield
        return
    import ctypes

    over = threading.Event()

    @ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint32)
    def handle(event: int) -> int:
        name = _EVENTS.get(event)
        if name is None:  # Ctrl-C and Ctrl-Break are signals, which Python's own handler tells.
            return 0
        told(name)
        over.wait(PATIENCE_SECONDS)
        return 1

    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    if not kernel.SetConsoleCtrlHandler(handle, 1):
        raise ctypes.WinError(ctypes.get_last_error())
    try:
        yield
    finally:
        kernel.SetConsoleCtrlHandler(handle, 0)
        over.set()


_EVENTS = {2: "CTRL_CLOSE_EVENT", 5: "CTRL_LOGOFF_EVENT", 6: "CTRL_SHUTDOWN_EVENT"}
