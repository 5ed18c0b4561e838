"""Whether this process may have an io_uring: where the kernel refuses it, the tests that need one are skipped, with its reason.

Asks the kernel itself, not proactor, which is what is tested.
"""

import ctypes
import errno
import functools
import os
import sys

import pytest

from seccomp import IO_URING_SETUP

_REFUSALS = (errno.ENOSYS, errno.EPERM, errno.ENOMEM)
_PARAMETERS = 120  # bytes of struct io_uring_params


@functools.cache
def refusal() -> str | None:
    """Why there is no ring; None: there is. Asked once: io_uring_setup(2).

    Raises:
        OSError: it fails otherwise than by a refusal: nothing is skipped for that.
    """
    if sys.platform != "linux":
        return "io_uring is of Linux"
    libc = ctypes.CDLL(None, use_errno=True)
    ring = libc.syscall(IO_URING_SETUP, 1, ctypes.create_string_buffer(_PARAMETERS))
    if ring >= 0:
        os.close(ring)
        return None
    error = ctypes.get_errno()
    if error not in _REFUSALS:
        raise OSError(error, f"io_uring_setup: {os.strerror(error)}")
    return f"the kernel refuses io_uring ({errno.errorcode[error]})"


needs_io_uring = pytest.mark.skipif(refusal() is not None, reason=refusal() or "")
"""For a test that forces io_uring, or counts on it."""
