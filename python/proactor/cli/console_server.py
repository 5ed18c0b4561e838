"""The console server's handler: logs what clients do and sends them nothing of its own. Knows nothing of the console.

States of a client: connected -> (finished sending ->) disconnected. One that only finished sending goes on receiving
broadcasts, so it stays until its socket closes. Of a client on another machine that cannot be known: such a one stays for a
bounded time, and only so many of them do. (Keep-alive would not tell: while the client's kernel waits for our end, a minute
long, it answers for a process that is gone.)
"""

import contextlib
import dataclasses
import logging
import threading
import time
from typing import Any

import proactor
from proactor import pipes
from proactor.cli.half_closed import Peer, PeerSockets
from proactor.cli.text import TextStream, printable

LOOK_SECONDS = 0.2
"""How often half-closed clients are looked at..."""

LOOK_SHARE = 20
"""...but a look takes at most one part in this many of a processor."""

UNKNOWN_SECONDS = 10.0
"""How long a half-closed client stays of which it cannot be known whether it is there..."""

UNKNOWN_LIMIT = 64
"""...and how many do; then the first that finished sending goes first. They take descriptors, which other clients need."""

logger = logging.getLogger("proactor.serve")


@dataclasses.dataclass(slots=True)
class Client:
    """What the log needs to know of a connection; kept in its `context`."""

    name: str
    text: TextStream = dataclasses.field(default_factory=TextStream)
    finished_sending: bool = False
    finished_at: float = 0.0
    """By the monotonic clock."""
    gone: bool = False
    sockname: Any = None


class ConsoleServer(proactor.Handler):
    """Logs every event of every client: its address, the worker's name, and text that cannot harm the log."""

    def __init__(self) -> None:
        self._sockets = PeerSockets()
        self._lock = threading.Lock()  # Guards the two below.
        self._half_closed: dict[proactor.Connection, None] = {}  # As they finished sending.
        self._looking = False
        self.stopping = False

    def close(self) -> None:
        """When the server is closed."""
        self._sockets.close()

    def connected(self, connection: proactor.Connection) -> None:
        connection.context = client = Client(peer_name(connection))
        logger.info("%s connected", client.name)

    def received(self, connection: proactor.Connection, data: bytes) -> None:
        if logger.isEnabledFor(logging.INFO):
            client: Client = connection.context
            logger.info("%s received %d bytes: %s", client.name, len(data), client.text.show(data))

    def sent(self, connection: proactor.Connection, count: int) -> None:
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s sent %d bytes", name_of(connection), count)

    def ended(self, connection: proactor.Connection) -> None:
        """Does not close: a half-closed client still receives broadcasts. One that has gone altogether is let go."""
        client: Client = connection.context
        rest = client.text.finish()
        if rest:
            logger.info("%s ended in the middle of a character: %s", client.name, rest)
        client.finished_sending = True
        client.finished_at = time.monotonic()
        peer = self._look_at(connection)
        if peer is Peer.GONE:
            return
        more = f" for {UNKNOWN_SECONDS:g} seconds" if peer is Peer.UNKNOWN and _over_tcp(connection) else ""
        logger.info("%s finished sending; it still receives what is typed%s", client.name, more)
        with self._lock:
            self._half_closed[connection] = None
            if self._looking:
                return
            self._looking = True
        try:
            threading.Thread(target=self._look_after_half_closed, name="half-closed", daemon=True).start()
        except RuntimeError:  # No thread can be started: the next half-closed client tries again.
            with self._lock:
                self._looking = False

    def closed(self, connection: proactor.Connection, error: BaseException | None) -> None:
        with self._lock:
            self._half_closed.pop(connection, None)
        client = connection.context
        gone = isinstance(client, Client) and (client.gone or (client.finished_sending and error is not None))
        logger.info("%s disconnected: %s", name_of(connection), self._reason(gone, error))

    def _reason(self, gone: bool, error: BaseException | None) -> str:
        if error is None:
            return "closed by the server's shutdown" if self.stopping and not gone else "closed by the peer"
        return "closed by the peer" if gone and isinstance(error, ConnectionError) else reason_text(error)

    def _look_at(self, connection: proactor.Connection) -> Peer:
        """What is known of the peer. Lets it go if it is gone."""
        client: Client = connection.context
        if client.sockname is None:
            with contextlib.suppress(OSError):  # It is closed already.
                client.sockname = connection.sockname
        # Once we have closed our end too, a peer that is there looks like one that has gone: so not during the shutdown.
        if self.stopping:
            return Peer.OPEN
        peer = self._sockets.ask(connection.peername, client.sockname)
        if peer is Peer.GONE:
            self._let_go(connection)
        return peer

    def _let_go(self, connection: proactor.Connection) -> None:
        client: Client = connection.context
        client.gone = True
        connection.close()
        with self._lock:
            self._half_closed.pop(connection, None)

    def _look_after_half_closed(self) -> None:
        while True:
            started = time.monotonic()
            with self._lock:
                connections = tuple(self._half_closed)
                if not connections:
                    self._looking = False
                    return
            unknown = [connection for connection in connections if self._look_at(connection) is Peer.UNKNOWN and _over_tcp(connection)]
            for number, connection in enumerate(unknown):
                client: Client = connection.context
                if number < len(unknown) - UNKNOWN_LIMIT or started - client.finished_at >= UNKNOWN_SECONDS:
                    self._let_go(connection)
            time.sleep(max(LOOK_SECONDS, LOOK_SHARE * (time.monotonic() - started)))


def _over_tcp(connection: proactor.Connection) -> bool:
    """A Unix socket's client that goes is noticed without being looked at."""
    return isinstance(connection.peername, tuple)


def peer_name(connection: proactor.Connection) -> str:
    """The peer's address for a log line. A Unix socket's clients mostly have none, so they get the connection's number."""
    peer = connection.peername
    if isinstance(peer, tuple) and len(peer) >= 2:
        host, port = str(peer[0]), peer[1]
        return f"[{printable(host)}]:{port}" if ":" in host else f"{printable(host)}:{port}"
    path = peer.decode("utf-8", "backslashreplace") if isinstance(peer, bytes) else str(peer or "")
    kind, _, name = path.partition(":") if path.startswith(pipes.PREFIX) else ("unix", "", path)
    return f"{kind}:{printable(name)}#{connection.id}"


def name_of(connection: proactor.Connection) -> str:
    client = connection.context
    return client.name if isinstance(client, Client) else peer_name(connection)


def reason_text(error: BaseException) -> str:
    """Why a connection ended, in words a person at a console uses."""
    if isinstance(error, ConnectionResetError):
        return "reset by the peer"
    if isinstance(error, BrokenPipeError):
        return "the peer was gone when data was sent to it"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable(str(text)).replace("\n", "\\n")
