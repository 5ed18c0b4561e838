"""Starts a server from options, and turns each way this can fail into one line and an exit status of its own."""

import errno
import ipaddress
import os
import socket
from typing import Any

import proactor
from proactor.cli.exit_codes import CommandError, ExitCode

UNIX = "unix:"


def start_server(handler: Any, address: Any, **options: Any) -> proactor.Server:
    """`proactor.serve(handler, address, **options)`, its errors as `CommandError`s."""
    try:
        return proactor.serve(handler, address, **options)
    except (OSError, ValueError, OverflowError) as error:
        raise failure(error, address) from error


def address_of(host: str, port: int) -> Any:
    """What `proactor.serve` takes: a host and a port, or the path of a Unix socket as it stands. Brackets around IPv6 may stay."""
    if host.startswith(UNIX):
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
    if not isinstance(error, OSError):
        return CommandError(f"{what}: {error}", ExitCode.BAD_ADDRESS)
    is_unix = isinstance(address, str)
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
        case errno.EAFNOSUPPORT | errno.EINVAL:
            family = "IPv6" if not is_unix and _is_ipv6(address[0]) else "this kind of address"
            return CommandError(f"{what}: {text}; {family} does not work here, choose another --host", ExitCode.BAD_ADDRESS)
        case errno.EMFILE | errno.ENFILE:
            return CommandError(f"{what}: too many open files; raise the limit (ulimit -n)", ExitCode.CANNOT_START)
    return CommandError(f"{what}: {text}", ExitCode.CANNOT_START)


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
