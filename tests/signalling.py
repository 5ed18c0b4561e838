"""How a test sends signals to a process on Windows, which gets Ctrl-C and Ctrl-Break from its console only: as numbers on a socket.

The process raises them: the handler of the C library is called on a thread of its own, as Windows calls it. For a zero the process tells
its processor time: under Wine, who asks the system for another process's gets his own.
"""

import os
import signal
import socket
import struct
import sys
import threading
import time


class Signals:
    """The test's end. The process calls `hear(port)`."""

    def __init__(self, timeout: float) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(timeout)
        self._timeout = timeout
        self._connection: socket.socket | None = None
        self.port: int = self._listener.getsockname()[1]

    def send(self, number: int) -> None:
        self._connected().sendall(bytes([number]))

    def cpu_seconds(self) -> float:
        connection = self._connected()
        connection.sendall(b"\0")
        return float(struct.unpack("d", connection.recv(8, socket.MSG_WAITALL))[0])

    def close(self) -> None:
        self._listener.close()
        if self._connection is not None:
            self._connection.close()

    def _connected(self) -> socket.socket:
        if self._connection is None:
            self._connection, _ = self._listener.accept()
            self._connection.settimeout(self._timeout)
        return self._connection


def hear(port: int) -> None:
    """In the process, before anything else."""
    connected = threading.Event()
    threading.Thread(target=_hear, args=(port, connected), name="signals", daemon=True).start()
    connected.wait()


def _hear(port: int, connected: threading.Event) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connected.set()
        while number := connection.recv(1):
            if number == b"\0":
                connection.sendall(struct.pack("d", time.process_time()))
            else:
                signal.raise_signal(number[0])


USER_SIGNAL: signal.Signals = getattr(signal, "SIGUSR1", None) or signal.SIGBREAK  # type: ignore[attr-defined]
"""One that nothing else uses."""


def signal_this_process(number: int) -> None:
    """For another thread than the main one, whose handlers run then."""
    if sys.platform == "win32":
        signal.raise_signal(number)
    else:
        os.kill(os.getpid(), number)
