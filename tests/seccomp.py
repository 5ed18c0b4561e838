"""Has the kernel refuse system calls of this process, as a container's profile does. For programs that tests start: there is no way back.

seccomp(2), as a filter in classic BPF that looks at the call's number only.
"""

import ctypes
import errno
import platform
import struct

# The numbers of calls this young are the same on all architectures.
IO_URING_SETUP, IO_URING_ENTER, IO_URING_REGISTER = 425, 426, 427

# The older ones have one for each: io_setup, io_submit, io_getevents.
ASYNCHRONOUS_READS = {"x86_64": (206, 209, 208)}.get(platform.machine(), (0, 2, 4))

_LOAD_NUMBER = (0x20, 0, 0, 0)
_ALLOW = (0x06, 0, 0, 0x7FFF0000)
_REFUSE = 0x00050000
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_ALL_THREADS = 1
_SECCOMP = {"x86_64": 317, "aarch64": 277, "riscv64": 277}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse(*calls: int, error: int = errno.EPERM) -> None:
    """From here on these calls of every thread fail with that error."""
    instructions = [_LOAD_NUMBER]
    for call in calls:
        instructions += [(0x15, 0, 1, call), (0x06, 0, 0, _REFUSE | error)]
    instructions.append(_ALLOW)
    program = _Program(len(instructions), b"".join(struct.pack("HBBI", *instruction) for instruction in instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if libc.syscall(_SECCOMP[platform.machine()], _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(program)) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")
