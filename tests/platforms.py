"""What the tests ask of the platform that they run on: its threads, its descriptors, whether a test can run here at all.

A test that needs Linux has the marker `linux("what it needs")`; `conftest.py` skips it elsewhere and counts it. It is for what other
platforms lack, never for what fails on them. A test of what Windows has, and Wine has not or does differently, has the marker
`wine("what Wine does differently")`, and is skipped and counted there. The difference stands in `docs/windows.md`.
"""

import ctypes
import functools
import os
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from proactor import _core
from rings import needs_io_uring

LINUX = sys.platform == "linux"
WINE = not LINUX and hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")
RACE_ROUNDS = 1_000 if WINE else 10_000
"""Of a race between an operation and its end. Fewer under Wine, where each call of the kernel asks a server."""

UNIX: Any = getattr(socket, "AF_UNIX", None)

if LINUX:
    import fcntl
    import resource
else:
    import msvcrt

    fcntl: Any = None  # Tests that need them are marked.
    resource: Any = None


def of_unix_sockets(*values: Any) -> Any:
    """A parameter set of a test for which it needs Unix sockets."""
    return pytest.param(*values, marks=pytest.mark.linux("Unix sockets"))


def skip_what_cannot_run_here(items: list[pytest.Item]) -> None:
    for item in items:
        if not LINUX and (what := _what("linux", item) or _needed_for_fixtures(item)):
            item.add_marker(pytest.mark.skip(reason=f"{NEEDS_LINUX}: {what}"))
        elif WINE and (what := _what("wine", item)):
            item.add_marker(pytest.mark.skip(reason=f"{NEEDS_WINDOWS}: {what}"))


def _what(name: str, item: pytest.Item) -> str:
    marker = item.get_closest_marker(name)
    return "" if marker is None else marker.args[0]


def _needed_for_fixtures(item: pytest.Item) -> str:
    return "a pseudo-terminal" if "terminal" in getattr(item, "fixturenames", ()) else ""


NEEDS_LINUX = "needs Linux"
NEEDS_WINDOWS = "needs a real Windows"

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

    def resident_bytes(pid: int | None = None, *, peak: bool = False) -> int:
        """The memory that a process has, or has had at most, by proc_pid_status(5); this process's by default."""
        status = Path(f"/proc/{pid or 'self'}/status").read_text()
        return int(re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]

    def descriptor_count(pid: int | None = None) -> int:
        """How many descriptors a process has open; this process by default. On Windows, how many handles of files, sockets and pipes."""
        return len(os.listdir(f"/proc/{pid or 'self'}/fd"))

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

    class _Memory(ctypes.Structure):
        _fields_ = (
            ("size", ctypes.c_uint32),
            ("page_faults", ctypes.c_uint32),
            ("peak_resident", ctypes.c_size_t),
            ("resident", ctypes.c_size_t),
            ("others", ctypes.c_size_t * 6),
        )

    class _Handle(ctypes.Structure):
        _fields_ = (
            ("object", ctypes.c_void_p),
            ("process", ctypes.c_size_t),
            ("handle", ctypes.c_size_t),
            ("access", ctypes.c_uint32),
            ("trace", ctypes.c_uint16),
            ("type", ctypes.c_uint16),
            ("others", ctypes.c_uint32 * 2),
        )

    _TH32CS_SNAPTHREAD = 4
    _LAST_DESCRIPTOR = 64
    _PROCESS_QUERY_LIMITED_INFORMATION, _PROCESS_VM_READ = 0x1000, 0x10
    _SYSTEM_EXTENDED_HANDLE_INFORMATION = 64
    _STATUS_INFO_LENGTH_MISMATCH = 0xC0000004

    _kernel, _ntdll = ctypes.WinDLL("kernel32"), ctypes.WinDLL("ntdll")
    _kernel.CreateToolhelp32Snapshot.restype = ctypes.c_void_p
    _kernel.OpenProcess.restype = ctypes.c_void_p
    _ntdll.NtQuerySystemInformation.restype = ctypes.c_uint32

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

    def resident_bytes(pid: int | None = None, *, peak: bool = False) -> int:
        memory = _Memory()
        memory.size = ctypes.sizeof(memory)
        rights = _PROCESS_QUERY_LIMITED_INFORMATION | _PROCESS_VM_READ
        process = ctypes.c_void_p(_kernel.OpenProcess(rights, 0, pid or os.getpid()))
        assert _kernel.K32GetProcessMemoryInfo(process, ctypes.byref(memory), memory.size)
        _kernel.CloseHandle(process)
        return memory.peak_resident if peak else memory.resident

    def descriptor_count(pid: int | None = None) -> int:
        """GetProcessHandleCount counts threads and events too, and answers 0 under Wine."""
        return sum(handle.process == (pid or os.getpid()) and handle.type == _type_of_files() for handle in _handles())

    @functools.cache
    def _type_of_files() -> int:
        """The number that the system has for what can be read and written."""
        with open(os.devnull) as file:
            number = msvcrt.get_osfhandle(file.fileno())
            [found] = [handle.type for handle in _handles() if (handle.process, handle.handle) == (os.getpid(), number)]
        return found

    def _handles() -> Any:
        """All in the system."""
        size, status, used = 1 << 16, _STATUS_INFO_LENGTH_MISMATCH, ctypes.c_uint32()
        while status == _STATUS_INFO_LENGTH_MISMATCH:
            size *= 2
            buffer = ctypes.create_string_buffer(size)
            status = _ntdll.NtQuerySystemInformation(_SYSTEM_EXTENDED_HANDLE_INFORMATION, buffer, size, ctypes.byref(used))
        assert status == 0, hex(status)
        count = ctypes.c_size_t.from_buffer(buffer).value  # and a reserved word, then the handles
        return (_Handle * count).from_buffer(buffer, 2 * ctypes.sizeof(ctypes.c_size_t))

    def descriptors() -> dict[int, str]:
        """The C library's open descriptors. Sockets and other handles are not among them: see `descriptor_count`."""
        found = {}
        for number in range(3, _LAST_DESCRIPTOR):
            try:
                status = os.fstat(number)
            except OSError:
                continue
            found[number] = f"mode {status.st_mode:o}, inode {status.st_ino}"
        return found
