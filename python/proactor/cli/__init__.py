"""The `proactor` command. Owns the list of its subcommands and what its exit statuses mean.

| status | name              | when                                                                              |
|--------|-------------------|-----------------------------------------------------------------------------------|
| 0      | OK                | it did what was asked; `serve`: an orderly shutdown; `connect`: an orderly end    |
| 1      | FAILED            | output lost; anything not foreseen; `connect`: no connection, or it was reset     |
|        |                   | `read`, `copy`: a file that is missing, or cannot be read or written to its end   |
|        |                   | `dispatch`: no connection; the picture cannot be written                          |
| 2      | USAGE             | the command line or a PROACTOR_ variable is wrong                                 |
| 3      | ADDRESS_IN_USE    | `serve`: the port, or the Unix socket's file, is in use                           |
| 4      | BAD_ADDRESS       | `serve`: no such host, or not an address of this machine                          |
| 5      | NOT_PERMITTED     | `serve`: the address needs rights this process does not have: a port below 1024   |
| 6      | MISSING_MODULE    | `serve`: there is no module of that name                                          |
| 7      | MISSING_ATTRIBUTE | `serve`: the module has nothing of that name                                      |
| 8      | NOT_A_HANDLER     | `serve`: it is neither a function of (connection, data) nor a Handler             |
| 9      | IMPORT_FAILED     | `serve`: the module, or something it imports, raised                              |
| 10     | CANNOT_START      | `serve`: anything else that kept it, or its workers, from starting                |
| 128+n  |                   | signal n ended it (130: Ctrl-C); `serve`, `dispatch`: a second, the first gives 0 |
"""

import argparse
import contextlib
import signal
import sys
from typing import Any

import proactor
from proactor.cli import connect, copy, dispatch, read, serve
from proactor.cli.exit_codes import SIGNAL_BASE, CommandError, ExitCode
from proactor.cli.options import Help
from proactor.cli.output import OutputLost, write_result
from proactor.cli.signals import end_process
from proactor.cli.standard_streams import fill_standard_descriptors
from proactor.cli.text import printable


def main(argv: list[str] | None = None) -> int:
    """Runs one command line (default: this process') and answers its exit status. Main thread only."""
    fill_standard_descriptors()
    parser = _parser()
    try:
        options = parser.parse_args(argv)
        options.options.complete(options)
        return int(options.run(options))
    except OutputLost as error:
        _complain(str(error))
        return ExitCode.FAILED
    except CommandError as error:
        _complain(str(error))
        return error.code
    except BrokenPipeError:  # Whoever read the output has had enough.
        end_process(ExitCode.OK)
        raise
    except KeyboardInterrupt:
        end_process(SIGNAL_BASE + signal.SIGINT)
        raise


class _Parser(argparse.ArgumentParser):
    """One that does not pretend to have shown its help where it could not be written."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if message and file is not None and file is sys.stdout:
            write_result(message)
        else:
            super()._print_message(message, file)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="proactor",
        description="I/O completion ports and a thread pool: servers of plain, blocking handlers, and files.",
        epilog=f"{_exit_statuses()}\n\n{_environment('--idle-timeout')}",
        formatter_class=Help,
    )
    parser.add_argument("--version", action="version", version=f"proactor {proactor.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    serve.add_parser(commands, f"{_exit_statuses('serve')}\n\n{_environment('--idle-timeout')}")
    connect.add_parser(commands, _exit_statuses("connect"))
    read.add_parser(commands, f"{_exit_statuses('read')}\n\n{_environment('--block')}")
    copy.add_parser(commands, f"{_exit_statuses('copy')}\n\n{_environment('--block')}")
    dispatch.add_parser(commands, f"{_exit_statuses('dispatch')}\n\n{_environment('--handler-ms')}")
    return parser


def _environment(option: str) -> str:
    return f"Every option is also an environment variable: {option} is PROACTOR_{option.strip('-').replace('-', '_').upper()}."


def _exit_statuses(command: str | None = None) -> str:
    """The table above, as `--help` shows it; for one command what concerns it. Without docstrings (`python -OO`) only the names."""
    rows = [line.strip("|").split("|") for line in (__doc__ or "").splitlines() if line.startswith("|")][2:]
    if not rows:
        return "exit statuses: " + ", ".join(f"{code.value} {code.name}" for code in ExitCode)
    shown = []
    status = last = ""
    for first, _, when in rows:
        status = first.strip() or status  # Without one the row goes on with the status above.
        words = when.strip() if command is None else _concerning(command, when.strip())
        if words:
            shown.append(f"  {'' if status == last else status:6} {words}")
            last = status
    return "exit statuses:\n" + "\n".join(shown)


def _concerning(command: str, when: str) -> str:
    """Of a row of the table what is said of every command, which comes first, and of this one; a part without names goes on as before."""
    parts = []
    mine = True
    for part in when.split("; "):
        names, colon, words = part.rpartition("`: ")
        if colon:
            mine = command in names.replace("`", "").split(", ")
        if mine:
            parts.append(words if colon else part)
    return "; ".join(parts)


def _complain(message: str) -> None:
    """One line on standard error, whatever the message contains."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"proactor: {printable(message)}\n")
            sys.stderr.flush()
