"""The command line's exit statuses, and the exception that carries one. Knows nothing of servers."""

import enum


class ExitCode(enum.IntEnum):
    """What the shell sees. The table in `proactor.cli`'s docstring explains each; a test compares the two."""

    OK = 0
    FAILED = 1
    USAGE = 2
    ADDRESS_IN_USE = 3
    BAD_ADDRESS = 4
    NOT_PERMITTED = 5
    MISSING_MODULE = 6
    MISSING_ATTRIBUTE = 7
    NOT_A_HANDLER = 8
    IMPORT_FAILED = 9
    CANNOT_START = 10


SIGNAL_BASE = 128
"""A command that a signal ended exits with this plus the signal's number, as in a shell."""


class CommandError(Exception):
    """A failure the user can act on: one line that says what, why and what to do, and the exit status."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code
