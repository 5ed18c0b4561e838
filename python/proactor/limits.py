"""What `serve` and `connect` have in common: the limits and options of connections, checked. Knows nothing of addresses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proactor import _core
from proactor.arguments import flag, seconds, whole_number
from proactor.connection import Connection, LengthPrefixed, Lines
from proactor.pool import ThreadPool

__all__ = ["Limits", "check_pool", "limits"]


@dataclass(frozen=True)
class Limits:
    """What `serve` and `connect` have in common, checked by `limits`."""

    framing: Lines | LengthPrefixed | None
    idle_timeout: float | None
    send_timeout: float | None
    receive_limit: int
    send_limit: int
    total_limit: int
    keepalive: bool
    no_delay: bool
    max_connections: int | None
    accepts: tuple[int, int]

    def group(self, port: _core.Port, methods: dict[str, Any], server: Callable[[], object] | None = None) -> _core.Group:
        return port.group(
            connection_class=Connection,
            server=server,
            receive_limit=self.receive_limit,
            send_limit=self.send_limit,
            total_limit=self.total_limit,
            send_timeout=self.send_timeout,
            idle_timeout=self.idle_timeout,
            max_connections=self.max_connections,
            framing=None if self.framing is None else self.framing._native(),
            no_delay=self.no_delay,
            keepalive=self.keepalive,
            accepts=self.accepts,
            **methods,
        )


def limits(
    framing: Any,
    idle_timeout: Any,
    send_timeout: Any,
    receive_limit: Any,
    send_limit: Any,
    keepalive: Any,
    no_delay: Any,
    total_limit: Any = None,
    max_connections: Any = None,
    accepts: Any = (2, 5),
) -> Limits:
    """The limits as they were given, checked. Without a `total_limit` one connection's own limits are enough."""
    if framing is not None and not isinstance(framing, Lines | LengthPrefixed):
        raise TypeError(f"framing must be None, proactor.Lines(...) or proactor.LengthPrefixed(...), not {framing!r}")
    receive_limit = whole_number("receive_limit", receive_limit, unit="bytes", maximum=2**60)
    send_limit = whole_number("send_limit", send_limit, unit="bytes", maximum=2**60)
    if total_limit is None:
        total_limit = 2 * (receive_limit + send_limit)
    if max_connections is not None:
        max_connections = whole_number("max_connections", max_connections, none="no limit")
    if not isinstance(accepts, tuple | list) or len(accepts) != 2:
        raise TypeError(f"accepts must be two numbers, (minimum, maximum), as in (2, 5); not {accepts!r}")
    minimum, maximum = (whole_number("each of accepts", number, maximum=2**31 - 1) for number in accepts)
    if minimum > maximum:
        raise ValueError(f"accepts must be (minimum, maximum) with 1 <= minimum <= maximum, not {accepts!r}")
    return Limits(
        framing,
        seconds("idle_timeout", idle_timeout),
        seconds("send_timeout", send_timeout),
        receive_limit,
        send_limit,
        whole_number("total_limit", total_limit, unit="bytes", maximum=2**62),
        flag("keepalive", keepalive),
        flag("no_delay", no_delay),
        max_connections,
        (minimum, maximum),
    )


def check_pool(pool: object, without: str) -> None:
    if pool is not None and not isinstance(pool, ThreadPool):
        raise TypeError(f"pool must be a proactor.ThreadPool, or None for {without}; not {pool!r}")
