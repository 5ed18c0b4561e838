"""What Ctrl-C does to a command that moves bytes: it ends the process at once, wherever that waits. Knows nothing of files.

Python runs a signal's handler between two bytecodes of the main thread. A signal that comes just before the main thread blocks in a write
to a pipe that nobody reads would wait for as long as it does. So a thread waits for the signal instead, woken by the interpreter's own
handler (`signal.set_wakeup_fd`), and ends the process; nothing that is outstanding can hold that up.
"""

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

from proactor.cli.exit_codes import SIGNAL_BASE
from proactor.cli.signals import end_process
from proactor.cli.text import printable

SETTLE_SECONDS = 0.3
"""How long the main thread may take to its next `settle`, so that what it has just done is counted. It may be blocked, and never come."""


class Interruption:
    """What `ending_at_once` and the main thread have between them."""

    def __init__(self) -> None:
        self._asked = False
        self._settled = threading.Event()

    def settle(self) -> None:
        """The main thread, when everything it has done is counted: goes no further once Ctrl-C has come."""
        if self._asked:
            self._settled.set()
            threading.Event().wait()

    def ask(self) -> None:
        """Waits until the main thread has settled, for a moment only."""
        self._asked = True
        self._settled.wait(SETTLE_SECONDS)


@contextlib.contextmanager
def ending_at_once(before: Callable[[], str]) -> Iterator[Interruption]:
    """Inside, SIGINT ends the process with one line, `before`'s answer, which is asked on a thread of its own. Main thread only.

    Where SIGINT is ignored, as in a shell's background job, it stays so.
    """
    interruption = Interruption()
    if signal.getsignal(signal.SIGINT) != signal.default_int_handler:
        yield interruption
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def wait() -> None:
        while heard := reader.recv(64):
            if signal.SIGINT in heard:
                interruption.ask()
                end_process(SIGNAL_BASE + signal.SIGINT, f"proactor: {printable(before())}\n")

    thread = threading.Thread(target=wait, name="interruption", daemon=True)
    thread.start()
    wakeup_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.set_wakeup_fd(wakeup_before)
        writer.close()
        thread.join()
        reader.close()
