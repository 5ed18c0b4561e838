"""What the tests ask of the platform that they run on: its threads, its descriptors, whether a test can run here at all.

A test that needs Linux has the marker `linux("what it needs")`; `conftest.py` skips it elsewhere and counts it. It is for what other
platforms lack, never for what fails on them.
"""

import ctypes
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from proactor import _core
from rings import needs_io_uring

LINUX = sys.platform == "linux"
UNIX: Any = getattr(socket, "AF_UNIX", None)

if LINUX:
    import fcntl
    import resource
else:
    fcntl: Any = None  # Tests that need them are marked.
    resource: Any = None


def of_unix_sockets(*values: Any) -> Any:
    """A parameter set of a test for which it needs Unix sockets."""
    return pytest.param(*values, marks=pytest.mark.linux("Unix sockets"))


def skip_what_needs_linux(items: list[pytest.Item]) -> None:
    if LINUX:
        return
    for item in items:
        marker = item.get_closest_marker("linux")
        what = marker.args[0] if marker is not None else _needed_for_fixtures(item)
        if what:
            item.add_marker(pytest.mark.skip(reason=f"{NEEDS_LINUX}: {what}"))


def _needed_for_fixtures(item: pytest.Item) -> str:
    return "a pseudo-terminal" if "terminal" in getattr(item, "fixturenames", ()) else ""


NEEDS_LINUX = "needs Linux"

ENGINES = _core.ENGINES
FILE_ENGINES = _core.FILE_ENGINES
FILE_MECHANISMS = [pytest.param(name, marks=needs_io_uring) if name == "io_uring" else name for name in FILE_ENGINES]
"""What PROACTOR_FILES may be, the default first, as parameters of a test; what the kernel refuses is skipped."""


def forget_pages(descriptor: int) -> None:
    """The next read of the file is one of the disk, where the platform can be told so."""
    if LINUX:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def thread_names(tids: set[int]) -> list[str]:
    names = []
    for tid in tids:
        try:
            names.append(Path(f"/proc/self/task/{tid}/comm").read_text().strip())
        except OSError:
            pass  # it has just ended, or there is no such place
    return names


if LINUX:

    def threads_of_process() -> set[int]:
        return {int(name) for name in os.listdir("/proc/self/task")}

    def descriptors() -> dict[int, str]:
        """The open descriptors of this process, and what they are."""
        found = {}
        for name in os.listdir("/proc/self/fd"):
            try:
                found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
            except FileNotFoundError:
                pass  # the one that listed the directory
        return found

else:

    class _ThreadEntry(ctypes.Structure):
        _fields_ = (
            ("size", ctypes.c_uint32),
            ("usage", ctypes.c_uint32),
            ("thread", ctypes.c_uint32),
            ("process", ctypes.c_uint32),
            ("base_priority", ctypes.c_int32),
            ("delta_priority", ctypes.c_int32),
            ("flags", ctypes.c_uint32),
        )

    _TH32CS_SNAPTHREAD = 4
    _LAST_DESCRIPTOR = 64

    _kernel = ctypes.WinDLL("kernel32")
    _kernel.CreateToolhelp32Snapshot.restype = ctypes.c_void_p

    def threads_of_process() -> set[int]:
        snapshot = ctypes.c_void_p(_kernel.CreateToolhelp32Snapshot(_TH32CS_SNAPTHREAD, 0))
        entry = _ThreadEntry()
        entry.size = ctypes.sizeof(entry)
        found = set()
        more = _kernel.Thread32First(snapshot, ctypes.byref(entry))
        while more:
            if entry.process == os.getpid():
                found.add(entry.thread)
            more = _kernel.Thread32Next(snapshot, ctypes.byref(entry))
        _kernel.CloseHandle(snapshot)
        return found

    def descriptors() -> dict[int, str]:
        """The C library's open descriptors; Windows does not list sockets and handles."""
        found = {}
        for number in range(3, _LAST_DESCRIPTOR):
            try:
                status = os.fstat(number)
            except OSError:
                continue
            found[number] = f"mode {status.st_mode:o}, inode {status.st_ino}"
        return found
