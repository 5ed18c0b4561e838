"""What platforms have and lack, asked for in one place. Knows nothing of proactor."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from collections.abc import Callable

__all__ = [
    "ACCESS_MODE",
    "BINARY",
    "DIRECT",
    "UNIX",
    "at_a_time",
    "available_processors",
    "in_child_of_fork",
    "kernels_number",
    "listen_exclusively",
    "name",
    "processors",
    "tell_wakeup_descriptor",
    "unix_sockets",
]

UNIX: int | None = getattr(socket, "AF_UNIX", None)
"""The address family of Unix sockets; None where Python has none."""

# Flags of open(2); 0 where they mean nothing.
DIRECT: int = getattr(os, "O_DIRECT", 0)
BINARY: int = getattr(os, "O_BINARY", 0)
ACCESS_MODE: int = os.O_RDONLY | os.O_WRONLY | os.O_RDWR


def unix_sockets() -> int:
    """The address family of Unix sockets.

    Raises:
        OSError: EAFNOSUPPORT, where Python has none.
    """
    if UNIX is None:
        raise OSError(errno.EAFNOSUPPORT, f"Python has no Unix sockets on {name()}: use HOST:PORT")
    return UNIX


def in_child_of_fork(function: Callable[[], object]) -> None:
    """Has `function` called in each child of a fork, where there is such a thing."""
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=function)


def at_a_time(seconds: float | None) -> float | None:
    """Of a wait for a lock or a thread that may take `seconds`, how much of it in one go; None is for ever.

    Windows does not interrupt the main thread's wait when a signal has come: the handler runs afterwards, so Ctrl-C would not end one that
    is for ever.
    """
    if sys.platform == "win32" and threading.current_thread() is threading.main_thread():
        return _LOOK_SECONDS if seconds is None else min(seconds, _LOOK_SECONDS)
    return seconds


_LOOK_SECONDS = 0.05


def processors() -> int:
    """The processors that this process is allowed to run on, as far as the platform tells; at least 1."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def listen_exclusively(listening: socket.socket, *, reuse_port: bool) -> None:
    """The options of a socket that is to listen: its address is its own, and free again at once after its end.

    Raises:
        OSError: EOPNOTSUPP, `reuse_port` where the platform has no such thing.
    """
    if reuse_port and not hasattr(socket, "SO_REUSEPORT"):
        raise OSError(errno.EOPNOTSUPP, f"{name()} has no SO_REUSEPORT, so no two servers share a port: leave reuse_port out")
    if sys.platform == "win32":
        # SO_REUSEADDR would let anybody take the address over: Win32, "Using SO_REUSEADDR and SO_EXCLUSIVEADDRUSE".
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        return
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def tell_wakeup_descriptor(descriptor: int, numbers: bytes) -> None:
    """Writes signals' numbers to what `signal.set_wakeup_fd` was given: on Windows that is a socket, which is no descriptor.

    Raises:
        OSError: it is full or closed.
    """
    if sys.platform != "win32":
        os.write(descriptor, numbers)
        return
    borrowed = socket.socket(fileno=descriptor)
    try:
        borrowed.send(numbers)
    finally:
        borrowed.detach()


def kernels_number(number: int) -> int:
    """What the kernel calls an error of which Python makes this `errno`: Windows has numbers of its own, but for most errors of sockets."""
    return _WINDOWS_NUMBERS.get(number, number) if sys.platform == "win32" else number


# ERROR_FILE_NOT_FOUND, ERROR_NOT_ENOUGH_MEMORY, ERROR_DISK_FULL, ERROR_BROKEN_PIPE, and those of Winsock of which Python makes the C
# library's.
_WINDOWS_NUMBERS = {
    errno.ENOENT: 2,
    errno.ENOMEM: 8,
    errno.ENOSPC: 112,
    errno.EPIPE: 109,
    **{number: 10_000 + number for number in (errno.EINTR, errno.EBADF, errno.EACCES, errno.EFAULT, errno.EINVAL, errno.EMFILE)},
}


def name() -> str:
    """The platform's, for errors."""
    return {"win32": "Windows", "darwin": "macOS"}.get(sys.platform, sys.platform)


def available_processors() -> int:
    """The processors this process may use: its affinity, and its cgroup's quota rounded up; at least 1."""
    affinity = processors()
    quota = _cgroup_quota()
    return max(1, affinity if quota is None else min(affinity, quota))


def _cgroup_quota() -> int | None:
    """The cgroup's processor quota, v2 or v1, as the process sees it at the root of its mount; None without one."""
    version_2 = ("/sys/fs/cgroup/cpu.max", None)
    version_1 = ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    for quota_path, period_path in (version_2, version_1):
        try:
            with open(quota_path) as file:
                words = file.read().split()
            if period_path is not None:
                with open(period_path) as file:
                    words += file.read().split()
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):
            continue  # no such file, or "max": no quota here
        if quota > 0 and period > 0:
            return -(-quota // period)
    return None
