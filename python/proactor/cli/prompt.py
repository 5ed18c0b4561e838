"""The prompt below the log, when a person sits at a terminal. Knows nothing of servers. Slow to import: only for those who need it."""

import contextlib
import threading
import time
from collections.abc import Callable

from prompt_toolkit import PromptSession
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.patch_stdout import patch_stdout

from proactor.cli.log import LogWriter, write_to_standard_error
from proactor.cli.terminal import is_terminal, restore_terminal, terminal_state

STOP_SECONDS = 2.0
"""How long the prompt may take to give the terminal back."""

BUNDLE_SECONDS = 0.03
"""The prompt is redrawn below every batch of log lines, so what comes within this time is one batch."""


class Prompt:
    """Edits lines below the log, on a thread of its own, until `stop`, Ctrl-D, Ctrl-C or the terminal ends.

    `line(text)` is called for each line typed, on the prompt's thread; `end(reason)` once, unless it was stopped.
    """

    def __init__(self, writer: LogWriter, *, line: Callable[[str], None], end: Callable[[str], None], commands: tuple[str, ...]) -> None:
        self._writer = writer
        self._line = line
        self._end = end
        self._stopping = threading.Event()
        self._state_before = terminal_state()
        self._session: PromptSession[str] = PromptSession(
            "> ", enable_suspend=True, completer=WordCompleter(list(commands), sentence=True), complete_while_typing=False
        )
        # One application for as long as the console lives: log lines would get lost between one prompt and the next.
        self._session.default_buffer.accept_handler = self._accept
        self._log_to_terminal = is_terminal(2)
        self._thread = threading.Thread(target=self._run, name="console", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the prompt and gives the terminal back. Safe from any thread but the prompt's. Idempotent."""
        self._stopping.set()
        application = self._session.app
        loop = application.loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # The prompt is just ending, and its loop is closed.
                loop.call_soon_threadsafe(self._exit_if_stopping)
        self._thread.join(STOP_SECONDS)
        self._writer.write_through(write_to_standard_error)
        if self._thread.is_alive():
            self.restore()

    def restore(self) -> None:
        """Puts the terminal back as it was, at once: for the moment before the process ends."""
        restore_terminal(self._state_before)

    def _run(self) -> None:
        reason = "end of input"
        try:
            with patch_stdout():
                if self._log_to_terminal:
                    self._writer.write_through(self._write_above)
                self._session.prompt(pre_run=self._exit_if_stopping, handle_sigint=False, set_exception_handler=False, in_thread=False)
        except KeyboardInterrupt:
            reason = "SIGINT"
        except EOFError:
            pass
        except Exception as error:  # whatever it is, the server goes on to an orderly end.
            reason = f"the console failed: {error!r}"
        if not self._stopping.is_set():
            self._end(reason)

    def _accept(self, buffer: Buffer) -> bool:
        for line in buffer.text.split("\n"):  # A paste may hold several.
            self._line(line)
        return False  # The buffer is emptied for the next line.

    def _exit_if_stopping(self) -> None:
        application = self._session.app
        if self._stopping.is_set() and application.future is not None and not application.future.done():
            application.exit(exception=EOFError)

    def _write_above(self, text: str) -> None:
        """Called on the log's thread: takes the prompt away, writes, has it drawn again below; waits until this is done.

        The terminal stays in raw mode meanwhile: `run_in_terminal` would leave it for a moment, and a Ctrl-D typed just then gets lost.
        """
        application = self._session.app
        loop = application.loop
        claim = threading.Lock()  # Taken by whichever of the two threads writes.
        written = threading.Event()

        def write() -> None:
            if not claim.acquire(blocking=False):
                return
            drawn = application.is_running and not application.is_done
            if drawn:
                application.renderer.erase()
            write_to_standard_error(text)
            if drawn:
                application.renderer.request_absolute_cursor_position()
                application.invalidate()
            written.set()

        if loop is not None:
            with contextlib.suppress(RuntimeError):  # The prompt has just ended, and its loop is closed.
                loop.call_soon_threadsafe(write)
                while not written.wait(0.1) and self._thread.is_alive():
                    pass
        if claim.acquire(blocking=False):  # There is no prompt, or it ended first.
            write_to_standard_error(text)
        time.sleep(BUNDLE_SECONDS)
