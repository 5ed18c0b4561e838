"""What typed and piped lines do to a running server: broadcasts and commands. Knows nothing of signals or exit statuses."""

import contextlib
import dataclasses
import logging
import sys
from typing import TYPE_CHECKING, Any

import proactor
from proactor.cli.console_server import Client, name_of
from proactor.cli.lines import LineReader
from proactor.cli.log import LogWriter
from proactor.cli.signals import StopRequests
from proactor.cli.terminal import at_terminal, can_prompt, is_terminal
from proactor.cli.text import counted, printable, quoted

EXIT = "Exit"
CLIENTS_SHOWN = 100

if TYPE_CHECKING:
    from proactor.cli.prompt import Prompt

logger = logging.getLogger("proactor.serve")


class Console:
    """Reads standard input for as long as the server runs.

    At a terminal: commands, everything else is sent to every client, and the end of input asks for the shutdown. From a
    pipe or a file: every line is sent to every client, only `Exit` is a command, and the end of input just ends reading.
    With a handler of the user's own (`talks` is False) nothing is sent: its clients speak a protocol the console does not know.
    """

    def __init__(self, stop: StopRequests, writer: LogWriter, *, raw: bool, talks: bool) -> None:
        self._server: proactor.Server
        self._stop = stop
        self._line_break = b"" if raw else b"\n"
        self._talks = talks
        self._writer = writer
        # Made before the server is: once that runs, its clients may take every descriptor.
        self._lines = LineReader(0, line=self._read_line, end=self._end_of_input)
        self._reader: Prompt | LineReader | None = None
        self._interactive = False
        self._in_line = False
        self._exiting = False
        self.skipped = 0
        """Broadcasts that single clients did not get, because they read too slowly."""

    def start(self, server: proactor.Server) -> None:
        self._server = server
        if at_terminal():
            self._interactive = True
            self._start_at_terminal()
        elif is_terminal(0):
            logger.info("in the background of a terminal: nothing is read from it; end with SIGTERM")
        elif self._talks:
            self._start_reading()

    def stop(self) -> None:
        """Stops reading and gives the terminal back. Not from the console's own thread."""
        if self._reader is not None:
            self._reader.stop()

    def _start_at_terminal(self) -> None:
        logger.info("%s", _WELCOME_TALKING if self._talks else _WELCOME)
        if not can_prompt():
            self._start_reading()
            return
        from proactor.cli.prompt import Prompt  # Here, because it is slow, and a server without a person needs none.

        try:
            prompt = Prompt(self._writer, line=self._typed, end=self._stop.put, commands=tuple(_COMMANDS))
        except (OSError, ValueError, RuntimeError) as error:
            logger.warning("this terminal cannot be drawn on (%r): reading plain lines", error)
            self._start_reading()
            return
        self._stop.before_ending_at_once(prompt.restore)
        self._reader = prompt
        prompt.start()

    def _start_reading(self) -> None:
        self._reader = self._lines
        self._lines.start()

    def _end_of_input(self) -> None:
        if self._interactive:
            self._stop.put("end of input")
        elif not self._exiting:
            logger.info("end of input; serving until a signal comes")

    def _read_line(self, line: bytes, ended: bool) -> None:
        first, self._in_line = not self._in_line, not ended
        if self._exiting:
            return
        if first and ended and line == EXIT.encode():
            self._exit()
        elif first and ended and self._interactive:
            self._typed(line.decode("utf-8", "surrogateescape"))
        elif self._talks:
            self.broadcast(line + (self._line_break if ended else b""))

    def _typed(self, line: str) -> None:
        command = _COMMANDS.get(line)
        if command is not None:
            getattr(self, command)()
        elif not self._talks:
            say(f"{printable(line)!s} is not a command; `help` lists them" if line else "`help` lists the commands")
        else:
            text = line.removeprefix("\\")
            self.broadcast(text.encode("utf-8", "surrogateescape") + self._line_break)

    def broadcast(self, data: bytes) -> None:
        """Sends `data` to every client that can take it now. A client that reads too slowly is skipped, and said to be."""
        if not data:
            return
        result = self._server.broadcast(data, slow="skip")
        skipped = f"; {result.skipped} read too slowly and were skipped" if result.skipped else ""
        self.skipped += result.skipped
        level = logging.WARNING if result.skipped else logging.INFO
        logger.log(level, "broadcast %d bytes to %s: %s%s", len(data), counted(result.sent, "client"), quoted(data), skipped)

    def _exit(self) -> None:
        self._exiting = True
        self._stop.put(EXIT)

    def _help(self) -> None:
        say(_HELP_TALKING if self._talks else _HELP)

    def _clients(self) -> None:
        connections = sorted(self._server.connections, key=lambda connection: connection.id)
        lines = []
        for connection in connections[:CLIENTS_SHOWN]:
            numbers = _fields(connection.statistics())
            context = connection.context
            state = " (finished sending)" if isinstance(context, Client) and context.finished_sending else ""
            lines.append(f"{name_of(connection)}{state}  {_one_line(numbers)}")
        more = len(connections) - CLIENTS_SHOWN
        lines.append(f"... and {more} more" if more > 0 else counted(len(connections), "client"))
        say("\n".join(lines))

    def _stats(self) -> None:
        server, pool = self._server.statistics(), self._server.pool.statistics()
        say(f"server  {_one_line(_fields(server))}\npool    {_one_line(_fields(pool))}")


def say(text: str) -> None:
    """A line or more on standard output, in one piece: no log line gets between a line and its end. Nobody may be there to read it."""
    if sys.stdout is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()


def _fields(snapshot: Any) -> dict[str, Any]:
    """The plain numbers and words of a statistics snapshot; what is nested stays out."""
    return {
        field.name: value for field in dataclasses.fields(snapshot) if isinstance(value := getattr(snapshot, field.name), (int, float, str))
    }


def _one_line(fields: dict[str, Any]) -> str:
    return "  ".join(f"{name}={printable(str(value))}" for name, value in fields.items())


_COMMANDS = {"clients": "_clients", "stats": "_stats", "help": "_help", EXIT: "_exit"}

_WELCOME_TALKING = "what you type goes to every client; `help` lists the commands, `Exit` or Ctrl-D ends the server"
_WELCOME = "`help` lists the commands, `Exit` or Ctrl-D ends the server"

_HELP = """\
clients  who is connected
stats    the server's and the pool's counters
help     this list
Exit     shut down: no new clients, what is queued is sent, handlers finish (also Ctrl-D, Ctrl-C; a second Ctrl-C ends at once)"""

_HELP_TALKING = (
    _HELP
    + """
Any other line goes to every connected client. To send a word above as text, put a backslash before it: \\help"""
)
