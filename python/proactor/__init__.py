"""I/O completion ports and a thread pool for Python.

You write plain, synchronous handlers, which may block; the kernel does the I/O; the right number of threads run your code.
"""

from proactor import errors
from proactor._core import __version__
from proactor.client import connect
from proactor.connection import Connection, ConnectionStatistics, Handler, LengthPrefixed, Lines
from proactor.handles import Completion, Handle, HandleStatistics, Operation
from proactor.pool import PoolShutdownReport, PoolStatistics, ThreadPool, blocking
from proactor.port import CompletionPort, PortStatistics
from proactor.server import BroadcastResult, Server, ServerStatistics, ShutdownReport, serve
from proactor.timers import Event, EventStatistics, Timer, TimerStatistics, Wait, WaitStatistics

__all__ = [
    "BroadcastResult",
    "Completion",
    "CompletionPort",
    "Connection",
    "ConnectionStatistics",
    "Event",
    "EventStatistics",
    "Handle",
    "HandleStatistics",
    "Handler",
    "LengthPrefixed",
    "Lines",
    "Operation",
    "PoolShutdownReport",
    "PoolStatistics",
    "PortStatistics",
    "Server",
    "ServerStatistics",
    "ShutdownReport",
    "ThreadPool",
    "Timer",
    "TimerStatistics",
    "Wait",
    "WaitStatistics",
    "__version__",
    "blocking",
    "connect",
    "errors",
    "serve",
]
