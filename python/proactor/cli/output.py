"""What a command was asked for, on standard output: whoever asked is told when it is lost. Knows nothing of servers."""

import os
import sys


class OutputLost(Exception):
    """Standard output took nothing. The text says why."""


def write_result(text: str) -> None:
    """Writes `text`, and makes sure that it is written. A standard output that is closed was not wanted.

    Raises:
        BrokenPipeError: whoever read it has gone.
        OutputLost: anything else, a full disk say.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        _forget_what_is_buffered()
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputLost(f"cannot write to standard output: {getattr(error, 'strerror', None) or error}") from None


def _forget_what_is_buffered() -> None:
    """The interpreter's exit would try to write it once more, and fail with a message and a status of its own."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
    except OSError:
        pass
    finally:
        os.close(nowhere)
