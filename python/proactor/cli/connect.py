"""`proactor connect`: standard input to a server, what the server sends to standard output. Owns both ends' order of ending.

It ends when the server has ended the connection. At the end of input it only says so to the server (half-close) and goes
on reading. When the server finishes first, piped input that is at hand is still sent; a terminal is not waited for.
"""

import argparse
import codecs
import os
import select
import signal
import threading
from collections import deque
from typing import Any

import proactor
from proactor.cli.exit_codes import SIGNAL_BASE, CommandError, ExitCode
from proactor.cli.input import Input
from proactor.cli.options import Help, Options, seconds
from proactor.cli.output import reader_has_gone
from proactor.cli.signals import Wakeup, end_process
from proactor.cli.start import HOW_TO_CONNECT, not_connected, refuse_simulated_engine
from proactor.cli.terminal import is_terminal
from proactor.cli.text import printable
from proactor.listener import parse

INPUT_PAUSE_SECONDS = 1.0
"""After the server has finished sending, input that pauses for so long is taken to have ended."""

PEER_ENDED, INPUT_ENDED, OUTPUT_GONE, CLOSED = "peer ended", "input ended", "output gone", "closed"


class Events:
    """What happened, for the main thread, which waits here and hears Ctrl-C meanwhile. `put` is safe from any thread."""

    def __init__(self) -> None:
        self.wakeup = Wakeup()
        self._events: deque[tuple[str, Any]] = deque()

    def put(self, event: tuple[str, Any]) -> None:
        self._events.append(event)
        self.wakeup.wake()

    def get(self) -> tuple[str, Any]:
        self.wakeup.wait_until(lambda: bool(self._events))
        return self._events.popleft()


def add_parser(commands: Any, epilog: str) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "connect",
        help="connect standard input and output to a server",
        description="Sends standard input to the server and prints what comes back. Bytes pass unchanged, except that on a terminal "
        "control characters are shown escaped. The end of input is passed on; the command ends when the server ends the connection.",
        epilog=epilog,
        formatter_class=Help,
    )
    parser.add_argument("address", metavar="HOST:PORT", help="also [IPV6]:PORT, unix:/path and, on Windows, pipe:name")
    options = Options(parser)
    options.add("--connect-timeout", seconds(zero=False), 30.0, metavar="SECONDS", meaning="how long to wait for the connection")
    parser.set_defaults(run=run, options=options)


def run(options: argparse.Namespace) -> int:
    """Connects, passes bytes both ways, and answers the exit status: 0 after an orderly end."""
    events = Events()
    try:
        connection = _connect(options.address, Receiver(events), options.connect_timeout)
        with events.wakeup.hearing_signals():
            sender = Sender(connection, events)
            sender.start()
            error = _wait_for_end(connection, sender, events)
    except KeyboardInterrupt:
        end_process(SIGNAL_BASE + signal.SIGINT)
        raise
    if error is None:
        return ExitCode.OK
    raise CommandError(f"the connection to {options.address} broke: {_reason(error)}", ExitCode.FAILED)


class Receiver(proactor.Handler):
    """Writes what comes to standard output, and says what happens. While the output blocks, nothing more is received."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._output = Output()

    def received(self, connection: proactor.Connection, data: bytes) -> None:
        try:
            with proactor.blocking():
                self._output.write(data)
        except OSError as error:
            self._events.put((OUTPUT_GONE, None if reader_has_gone(error, 1) else error))
            connection.pause()

    def ended(self, _connection: proactor.Connection) -> None:
        self._events.put((PEER_ENDED, None))

    def closed(self, _connection: proactor.Connection, error: BaseException | None) -> None:
        self._events.put((CLOSED, error))


class Output:
    """Standard output: the bytes as they are, or, on a terminal, as text that cannot command it."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape") if is_terminal(1) else None
        self._after_return = False

    def write(self, data: bytes) -> None:
        rest = memoryview(data if self._decoder is None else self._for_terminal(self._decoder.decode(data)))
        while rest:
            rest = rest[_write(rest) :]

    def _for_terminal(self, text: str) -> bytes:
        """Line breaks (CR LF too) and tabs stay; other control characters are escaped."""
        if self._after_return and not text.startswith("\n"):
            text = "\r" + text
        self._after_return = text.endswith("\r")
        text = text.removesuffix("\r").replace("\r\n", "\n")
        shown = "".join(f"\\x{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else printable(c, keep="\n\t") for c in text)
        return shown.encode("utf-8", "backslashreplace")


class Sender:
    """A thread that sends standard input as it comes, and passes its end on."""

    def __init__(self, connection: proactor.Connection, events: Events) -> None:
        self._connection = connection
        self._events = events
        self._input = Input(0)
        self._told = False  # That the peer has ended; the thread's own.
        self._thread = threading.Thread(target=self._run, name="input", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def peer_ended(self) -> None:
        """From now on only input that is at hand is sent."""
        self._input.wake()

    def _run(self) -> None:
        try:
            while data := self._read():
                self._connection.send(data)
            self._connection.shutdown_write()
        except (OSError, ValueError, RuntimeError):
            pass  # The connection is closed, or about to be: `closed` brings the error.
        self._events.put((INPUT_ENDED, None))

    def _read(self) -> bytes:
        """The next input; none at its end."""
        while True:
            data = self._input.read(INPUT_PAUSE_SECONDS if self._told else None)
            if data is not None:
                return data
            if self._told:
                return b""
            self._told = True


def _connect(address: str, receiver: Receiver, timeout: float) -> proactor.Connection:
    refuse_simulated_engine()
    try:
        target = parse(address, HOW_TO_CONNECT)
    except ValueError as error:
        hint = f"; did you mean 127.0.0.1:{address}?" if address.isascii() and address.isdigit() else ""
        raise CommandError(f"{error}{hint}", ExitCode.USAGE) from error
    try:
        return proactor.connect(address, receiver, timeout=timeout)
    except OSError as error:
        raise not_connected(target, error) from error
    except ValueError as error:  # The address and the limits are right: it is the engine.
        raise CommandError(f"environment variable PROACTOR_ENGINE: {error}", ExitCode.USAGE) from error
    except RuntimeError as error:
        raise CommandError(f"cannot connect to {address}: {error}; raise the limits (ulimit -u, ulimit -v)", ExitCode.FAILED) from error


def _wait_for_end(connection: proactor.Connection, sender: Sender, events: Events) -> BaseException | None:
    """The error that ended the connection, if it was one."""
    peer_ended = input_ended = False
    while True:
        event, detail = events.get()
        if event == CLOSED:
            error: BaseException | None = detail
            return error
        if event == OUTPUT_GONE:
            connection.abort()
            if detail is not None:
                raise CommandError(f"cannot write to standard output: {_reason(detail)}", ExitCode.FAILED)
            return None
        if event == PEER_ENDED:
            peer_ended = True
            if is_terminal(0):
                input_ended = True
            else:
                sender.peer_ended()
        if event == INPUT_ENDED:
            input_ended = True
        if peer_ended and input_ended:
            connection.close()


def _write(data: memoryview) -> int:
    try:
        return os.write(1, data)
    except BlockingIOError:  # Somebody made the descriptor non-blocking.
        select.select([], [1], [])
        return 0


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
