"""Starts a server from options, and turns each way this can fail into one line and an exit status of its own."""

import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from typing import Any

import proactor
from proactor import pipes
from proactor.cli.exit_codes import CommandError, ExitCode
from proactor.listener import Target

UNIX = "unix:"

THREADS_LIMIT = 2**31 - 1
"""The most that a pool takes for its numbers of threads."""

HOW_TO_CONNECT = "write HOST:PORT, [IPV6]:PORT, unix:/path or pipe:name"

ZONE_HINT = "a link-local address needs its zone: append it, as in fe80::1%eth0"


def start_server(handler: Any, address: Any, **options: Any) -> proactor.Server:
    """`proactor.serve(handler, address, **options)`, its errors as `CommandError`s."""
    with starting(address):
        return proactor.serve(handler, address, **options)


@contextlib.contextmanager
def starting(address: Any) -> Iterator[None]:
    """What goes wrong inside, on the way to listening on `address`, becomes a `CommandError`."""
    try:
        yield
    except (OSError, ValueError, OverflowError, RuntimeError, MemoryError) as error:
        raise failure(error, address) from error


def make_pool(address: Any, max_workers: int | None, **options: Any) -> proactor.ThreadPool:
    """For a server on `address`. Of wrong arguments only PROACTOR_ENGINE is left: the options are checked."""
    refuse_simulated_engine()
    try:
        return proactor.ThreadPool(max_workers, **options)
    except ValueError as error:
        raise CommandError(f"environment variable PROACTOR_ENGINE: {error}", ExitCode.USAGE) from error
    except (OSError, RuntimeError, MemoryError, OverflowError) as error:
        raise failure(error, address) from error


def refuse_simulated_engine() -> None:
    """For whoever needs a real network."""
    if os.environ.get("PROACTOR_ENGINE") == "simulated":
        raise CommandError(
            "environment variable PROACTOR_ENGINE: the simulated engine is for tests, and reaches no network; unset it", ExitCode.USAGE
        )


def not_connected(target: Target, error: OSError) -> CommandError:
    """Of what an address was parsed to, and an error whose text names it."""
    hint = "; is a server running there?" if isinstance(error, (ConnectionRefusedError, FileNotFoundError)) else ""
    if error.errno == errno.EINVAL and isinstance(target, tuple) and lacks_zone(target[0]):
        hint = f"; {ZONE_HINT}"
    return CommandError(f"{error.strerror or error}{hint}", ExitCode.FAILED)


def lacks_zone(host: str) -> bool:
    """Whether it is an IPv6 address that is valid on every link, without saying on which."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return isinstance(address, ipaddress.IPv6Address) and address.is_link_local and address.scope_id is None


def address_of(host: str, port: int) -> Any:
    """What `proactor.serve` takes: a host and a port, or what names a Unix socket or a pipe as it stands. Brackets around IPv6 may stay."""
    if host.startswith((UNIX, pipes.PREFIX)):
        return host
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return (host, port)


def show_address(address: Any) -> str:
    if isinstance(address, tuple):
        host, port = address[0], address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(address)


def failure(error: Exception, address: Any) -> CommandError:
    """What stood in the way of listening on `address`, why, and what to do about it."""
    what = f"cannot listen on {show_address(address)}"
    if isinstance(error, BrokenExecutor):
        return broken(error)
    if isinstance(error, RuntimeError | MemoryError):
        reason = str(error) or "out of memory"
        return CommandError(f"{what}: {reason}; raise the limits (ulimit -u, ulimit -v), or free some memory", ExitCode.CANNOT_START)
    if not isinstance(error, OSError):
        return CommandError(f"{what}: {error}", ExitCode.BAD_ADDRESS)
    if isinstance(address, str) and address.startswith(pipes.PREFIX):
        return _pipe_failure(error, what)
    is_unix = isinstance(address, str)
    if error.errno in (errno.EMFILE, errno.ENFILE):  # Before a name is looked up, which takes descriptors too.
        return CommandError(f"{what}: too many open files; raise the limit (ulimit -n)", ExitCode.CANNOT_START)
    if not is_unix and not _resolves(address[0]):
        return CommandError(f"{what}: there is no such host; check the name given as --host", ExitCode.BAD_ADDRESS)
    text = os.strerror(error.errno) if error.errno is not None else str(error)
    match error.errno:
        case errno.EADDRINUSE if is_unix:
            hint = f"end the server that has it, or remove the file if none does: rm {str(address).removeprefix(UNIX)}"
            return CommandError(f"{what}: the file exists already; {hint}", ExitCode.ADDRESS_IN_USE)
        case errno.EADDRINUSE:
            port = address[1]
            hint = f"choose another with --port (0 takes a free one), or end what has it: ss -ltnp 'sport = :{port}'"
            return CommandError(f"{what}: the port is in use; {hint}", ExitCode.ADDRESS_IN_USE)
        case errno.EACCES | errno.EPERM if is_unix:
            return CommandError(f"{what}: not permitted; choose a directory you may write to", ExitCode.NOT_PERMITTED)
        case errno.EACCES | errno.EPERM:
            hint = "choose a --port of 1024 or above, or give the program CAP_NET_BIND_SERVICE"
            return CommandError(f"{what}: not permitted (a privileged port); {hint}", ExitCode.NOT_PERMITTED)
        case errno.ENOENT | errno.ENOTDIR | errno.ENAMETOOLONG | None if is_unix:
            return CommandError(f"{what}: {text}; give the path of a file in a directory that exists", ExitCode.BAD_ADDRESS)
        case errno.EADDRNOTAVAIL:
            hint = "give one of this machine's own as --host (ip address), 0.0.0.0 for all of them"
            return CommandError(f"{what}: the address is not this machine's; {hint}", ExitCode.BAD_ADDRESS)
        case errno.EINVAL if not is_unix and lacks_zone(address[0]):
            return CommandError(f"{what}: {text}; {ZONE_HINT}", ExitCode.BAD_ADDRESS)
        case errno.EAFNOSUPPORT | errno.EINVAL:
            family = "IPv6" if not is_unix and _is_ipv6(address[0]) else "this kind of address"
            return CommandError(f"{what}: {text}; {family} does not work here, choose another --host", ExitCode.BAD_ADDRESS)
    return CommandError(f"{what}: {text}", ExitCode.CANNOT_START)


def _pipe_failure(error: OSError, what: str) -> CommandError:
    reason = str(error.strerror or error).removeprefix(f"{what}: ")
    if error.errno == errno.EADDRINUSE:
        return CommandError(f"{what}: {reason}; end the server that has it, or choose another name", ExitCode.ADDRESS_IN_USE)
    if error.errno in (errno.EAFNOSUPPORT, errno.EINVAL):
        return CommandError(f"{what}: {reason}", ExitCode.BAD_ADDRESS)
    return CommandError(f"{what}: {reason}", ExitCode.CANNOT_START)


def broken(error: BrokenExecutor) -> CommandError:
    """Workers could not start, so the server does not or no longer listen."""
    return CommandError(f"the server has ended: {error}; the log has what it raised", ExitCode.CANNOT_START)


def _resolves(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None, flags=socket.AI_PASSIVE))
    except (socket.gaierror, UnicodeError):
        return False


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False
