"""What a command was asked for, on standard output: whoever asked is told when it is lost. Knows nothing of servers."""

import errno
import os
import stat
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
        gone = reader_has_gone(error, 1)
        _forget_what_is_buffered()
        if gone:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from None
        raise OutputLost(f"cannot write to standard output: {getattr(error, 'strerror', None) or error}") from None


def reader_has_gone(error: BaseException, descriptor: int) -> bool:
    """Whether a write to the descriptor failed since nobody reads it any more. Windows' C library calls that an invalid argument."""
    if isinstance(error, BrokenPipeError):
        return True
    if sys.platform != "win32" or not isinstance(error, OSError) or error.errno != errno.EINVAL:
        return False
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def _forget_what_is_buffered() -> None:
    """The interpreter's exit would try to write it once more, and fail with a message and a status of its own."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
    except OSError:
        pass
    finally:
        os.close(nowhere)
