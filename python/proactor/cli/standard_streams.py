"""Standard descriptors that the command was started without: what takes their numbers, and paths that name them.

Knows nothing of what is read and written.
"""

import os
import sys

from proactor.cli.exit_codes import CommandError, ExitCode

_closed: set[int] = set()
"""Those that were closed when the command was started. Filled once, before anything else."""


def fill_standard_descriptors() -> None:
    """A closed standard descriptor's number would go to the next socket, and what is printed would go to a client.

    Standard output stays one that cannot be written to: data that is lost there must be an error.
    """
    for descriptor, mode in ((0, os.O_RDWR), (1, os.O_RDONLY), (2, os.O_RDWR)):
        try:
            os.fstat(descriptor)
        except OSError:
            if sys.platform != "win32":  # There the C library keeps the number of a stream that is missing.
                os.open(os.devnull, mode)
            _closed.add(descriptor)


def refuse_closed(path: str, what: str) -> None:
    """For a file to be opened: where it is a standard descriptor that was closed, what takes its number would be opened, and lose the data.

    Raises:
        CommandError: it is; the text begins with `what`, as in "cannot write to /dev/stdout".
    """
    descriptor = _named(path) if _closed else None
    if descriptor in _closed:
        hint = "redirect it somewhere, or leave out what closes it"
        raise CommandError(f"{what}: it is closed; {hint}", ExitCode.FAILED)


def _named(path: str) -> int | None:
    """The descriptor that `path` stands for, as /dev/stdout does: by one link after the other, since the last one leads to what is open."""
    own = os.path.realpath("/proc/self/fd")
    for _ in range(_MOST_LINKS):
        folder, name = os.path.split(path)
        folder = os.path.realpath(folder or ".")
        if folder == own:
            return int(name) if name.isdigit() else None
        try:
            path = os.path.join(folder, os.readlink(os.path.join(folder, name)))
        except OSError:  # No link, or nothing at all.
            return None
    return None


_MOST_LINKS = 40  # as the kernel follows
