"""I/O completion ports and a thread pool for Python.

You write plain, synchronous handlers, which may block; the kernel does the I/O; the right number of threads run your code.
"""

from proactor import errors
from proactor._core import __version__
from proactor.client import connect
from proactor.connection import Connection, ConnectionStatistics, Handler, LengthPrefixed, Lines
from proactor.pool import PoolStatistics, ThreadPool, blocking
from proactor.server import BroadcastResult, Server, ServerStatistics, ShutdownReport, serve

__all__ = [
    "BroadcastResult",
    "Connection",
    "ConnectionStatistics",
    "Handler",
    "LengthPrefixed",
    "Lines",
    "PoolStatistics",
    "Server",
    "ServerStatistics",
    "ShutdownReport",
    "ThreadPool",
    "__version__",
    "blocking",
    "connect",
    "errors",
    "serve",
]
