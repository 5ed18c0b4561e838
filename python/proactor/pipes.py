"""Named pipes, which Windows has: their ends as a server or a client takes them. Knows Win32's calls; knows nothing of servers."""

from __future__ import annotations

import errno
import sys
import time
import warnings
from dataclasses import dataclass
from typing import Self

from proactor import platform

__all__ = ["End", "PipeName", "connect", "listen"]

PREFIX = "pipe:"
HOW = 'write "pipe:name"'

LONGEST_NAME = 247
r"""Characters: `\\.\pipe\` and the name have 256 at most (CreateNamedPipe)."""

# Windows wakes nobody who waits for a pipe when Ctrl-C comes.
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class PipeName:
    r"""What an address names that begins with "pipe:", without `\\.\pipe\`."""

    name: str

    @classmethod
    def parse(cls, address: str, how: str) -> PipeName:
        """Of an address that begins with "pipe:".

        Raises:
            ValueError: it names none; the text says how to write one.
        """
        name = address.removeprefix(PREFIX)
        if not name:
            raise ValueError(f"{address!r} has no name: {how}")
        if "\\" in name or "\0" in name:
            raise ValueError(f"{address!r}: the name of a pipe has no backslash and no NUL, and needs no \\\\.\\pipe\\ before it")
        if len(name.encode("utf-16-le", "surrogatepass")) > 2 * LONGEST_NAME:
            raise ValueError(f"the name of a pipe may have {LONGEST_NAME} characters; {name!r} has {len(name)}")
        return cls(name)

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}"

    @property
    def path(self) -> str:
        return f"\\\\.\\pipe\\{self.name}"


class End:
    """One end of a pipe, with the few methods of a socket that a server or a connection uses. `connect` and `listen` make it; a completion
    port or a pool takes it over with `associate`. Close it otherwise; it is a context manager, which does."""

    family = -1
    """No socket's."""

    _handle = -1

    def __init__(self, handle: int, name: PipeName, *, listens: bool = False, engine: int = 0) -> None:
        self._handle = handle
        self._name = name
        self.kind = "listener" if listens else "pipe"
        self.engine = engine
        """Which engine has accepted it; 0: none."""

    def fileno(self) -> int:
        """The handle; -1 once it is closed, or somebody else's."""
        return self._handle

    def getsockname(self) -> str:
        return str(self._name)

    def getpeername(self) -> str:
        return str(self._name)

    def gettimeout(self) -> float | None:
        return None

    def settimeout(self, _timeout: float | None) -> None:
        """Its operations do not wait."""

    def setblocking(self, _blocking: bool) -> None:
        """Its operations do not wait."""

    def detach(self) -> int:
        """Gives the handle away."""
        handle, self._handle = self._handle, -1
        return handle

    def close(self) -> None:
        handle = self.detach()
        if sys.platform == "win32" and handle >= 0:
            import _winapi

            _winapi.CloseHandle(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._handle >= 0:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        return f"<End of {self._name}, {self._handle}>"


def listen(name: PipeName | str) -> End:
    """The first instance of the pipe `"pipe:name"`, which serves this machine and no other. Once it is associated, `accept` takes clients.

    Raises:
        ValueError, TypeError: that names no pipe.
        OSError: what Windows said; EADDRINUSE where somebody has a pipe of that name, EAFNOSUPPORT where there are no such pipes.
    """
    name = _named(name)
    if sys.platform != "win32":
        raise _unsupported()
    import _winapi

    # The engine makes further ones, and like this: `engine/iocp/pipe.rs`.
    first_instance, reject_remote, quota = 0x00080000, 0x8, 64 * 1024
    mode = _winapi.PIPE_ACCESS_DUPLEX | _winapi.FILE_FLAG_OVERLAPPED | first_instance
    try:
        handle = _winapi.CreateNamedPipe(name.path, mode, reject_remote, _winapi.PIPE_UNLIMITED_INSTANCES, quota, quota, 0, 0)
    except PermissionError as error:
        raise OSError(errno.EADDRINUSE, f"somebody has a pipe of that name ({error.strerror})") from None
    return End(handle, name, listens=True)


def connect(name: PipeName | str, timeout: float | None = None) -> End:
    """A client's end of the pipe `"pipe:name"`. Waits for a server that has no instance free, `timeout` seconds at most.

    Raises:
        ValueError, TypeError: that names no pipe.
        OSError: what Windows said: FileNotFoundError where nobody serves it; EAFNOSUPPORT where there are no such pipes.
        TimeoutError: no instance was free for `timeout` seconds.
    """
    name = _named(name)
    if sys.platform != "win32":
        raise _unsupported()
    import _winapi

    # The server may know who we are, and not act as us: SECURITY_SQOS_PRESENT, SECURITY_IDENTIFICATION.
    flags = _winapi.FILE_FLAG_OVERLAPPED | 0x00100000 | 0x00010000
    access = _winapi.GENERIC_READ | _winapi.GENERIC_WRITE
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        try:
            return End(_winapi.CreateFile(name.path, access, 0, _winapi.NULL, _winapi.OPEN_EXISTING, flags, _winapi.NULL), name)
        except OSError as error:
            if error.winerror != _winapi.ERROR_PIPE_BUSY:
                raise
        left = _LOOK_SECONDS if deadline is None else min(_LOOK_SECONDS, deadline - time.monotonic())
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "no instance of the pipe is free")
        try:
            _winapi.WaitNamedPipe(name.path, max(1, round(left * 1000)))
        except OSError as error:
            if error.winerror != _winapi.ERROR_SEM_TIMEOUT:
                raise


def accepted(handle: int, address: str, engine: int) -> End:
    """The server's end of the pipe at `address`, which a client has opened."""
    return End(handle, PipeName(address.removeprefix(PREFIX)), engine=engine)


def _named(name: PipeName | str) -> PipeName:
    if isinstance(name, PipeName):
        return name
    if not isinstance(name, str):
        raise TypeError(f"a pipe is named by a string, not {type(name).__name__}: {HOW}")
    if not name.startswith(PREFIX):
        raise ValueError(f"{name!r} names no pipe: {HOW}")
    return PipeName.parse(name, HOW)


def _unsupported() -> OSError:
    return OSError(errno.EAFNOSUPPORT, f"{platform.name()} has no named pipes as Windows has them: use unix:/path")
