"""Tells a client that only finished sending from one that has gone. Knows nothing of servers or logs.

TCP tells both with the same FIN, and the console server keeps a half-closed client for its broadcasts. When the client
is on this machine the kernel knows whether a process still holds its socket (sock_diag(7)); for any other client, and
where that interface is missing, only the next broadcast, keep-alive or the idle timeout finds out.
"""

import enum
import ipaddress
import socket
import struct
import sys
import threading
from typing import Any


class Peer(enum.Enum):
    OPEN = "its socket is open"
    GONE = "nobody holds its socket any more"
    UNKNOWN = "it cannot be known"


class PeerSockets:
    """Asks the kernel about sockets on this machine. Safe from any thread; an answer takes about 20 microseconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards the one question and answer under way, and its number.
        self._number = 0
        self._netlink: socket.socket | None = None
        if sys.platform != "linux":
            return
        try:
            self._netlink = socket.socket(_AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
            self._netlink.settimeout(1.0)
        except OSError:
            self.close()

    def close(self) -> None:
        with self._lock:
            if self._netlink is not None:
                self._netlink.close()
                self._netlink = None

    def ask(self, peername: Any, sockname: Any) -> Peer:
        """About the other end of a connection, by its two addresses as a socket gives them."""
        question = _question(peername, sockname)
        if question is None:
            return Peer.UNKNOWN
        with self._lock:
            if self._netlink is None:
                return Peer.UNKNOWN
            self._number = (self._number + 1) & _ANY
            try:
                self._netlink.sendto(question[:8] + struct.pack("=I", self._number) + question[12:], (0, 0))
                while True:
                    message = self._netlink.recv(8192)
                    if struct.unpack_from("=I", message, 8)[0] == self._number:  # Not a late answer to an earlier question.
                        return _answer(message)
            except OSError:
                return Peer.UNKNOWN


def _question(peername: Any, sockname: Any) -> bytes | None:
    """The request for the peer's socket; None unless both ends are on this machine."""
    if not (isinstance(peername, tuple) and isinstance(sockname, tuple)):
        return None
    try:
        peer, own = ipaddress.ip_address(peername[0]), ipaddress.ip_address(sockname[0])
    except ValueError:
        return None
    if peer != own and not (peer.is_loopback and own.is_loopback):
        return None
    # A client that speaks IPv4 to a socket bound to [::] has an IPv4 socket of its own.
    addresses = [address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address for address in (peer, own)]
    family = socket.AF_INET if addresses[0].version == 4 else socket.AF_INET6
    identity = struct.pack("!HH16s16s", peername[1], sockname[1], addresses[0].packed, addresses[1].packed)
    identity += struct.pack("=III", 0, _ANY, _ANY)
    request = struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, _ANY) + identity
    header = struct.pack("=IHHII", _HEADER + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
    return header + request


def _answer(message: bytes) -> Peer:
    kind = struct.unpack_from("=IH", message)[1]
    if kind == _NLMSG_ERROR:
        (error,) = struct.unpack_from("=i", message, _HEADER)
        return Peer.GONE if -error == _ENOENT else Peer.UNKNOWN
    if kind != _SOCK_DIAG_BY_FAMILY or len(message) < _INODE + 4:
        return Peer.UNKNOWN
    (inode,) = struct.unpack_from("=I", message, _INODE)
    return Peer.OPEN if inode else Peer.GONE


# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
_AF_NETLINK = 16
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR = 2
_NLM_F_REQUEST = 1
_HEADER = 16
_ANY = 0xFFFFFFFF
_ENOENT = 2
_INODE = _HEADER + 68
"""Where `idiag_inode` lies in the answer; 0 means that no process has the socket."""
