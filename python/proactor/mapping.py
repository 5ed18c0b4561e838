"""`ThreadPool.map`: which items are one call, how far ahead of its reader it runs, and the results in order. Knows only how to submit."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")

# submit(function, arguments)
Submit = Callable[[Callable[..., Any], tuple[Any, ...]], "Future[Any]"]


def map_on(
    submit: Submit,
    function: Callable[..., T],
    iterables: tuple[Iterable[Any], ...],
    *,
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
) -> Iterator[T]:
    """As `ThreadPool.map` says. The first calls are submitted here, not when the first result is asked for."""
    deadline = None if timeout is None else time.monotonic() + timeout
    items = zip(*iterables, strict=False)
    calls: Iterator[Future[Any]]
    if chunksize == 1:
        calls = (submit(function, arguments) for arguments in items)
    else:
        calls = (submit(_run_chunk, (function, chunk)) for chunk in iter(lambda: list(islice(items, chunksize)), []))
    # The buffer is counted in items; a chunk is submitted whole.
    ahead = None if buffersize is None else -(-buffersize // chunksize)
    pending: deque[Future[Any]] = deque()
    try:
        pending.extend(islice(calls, ahead))
    except BaseException:
        _cancel(pending)
        raise
    results = _results(pending, calls if buffersize is not None else iter(()), deadline)
    return results if chunksize == 1 else _flat(results)


def _results(pending: deque[Future[Any]], more: Iterator[Future[Any]], deadline: float | None) -> Iterator[Any]:
    try:
        while pending:
            # The one that is waited for is no longer ahead. Nothing here holds a result while the reader has it.
            pending.extend(islice(more, 1))
            yield _take(pending, deadline)
    finally:
        _cancel(pending)


def _take(pending: deque[Future[Any]], deadline: float | None) -> Any:
    call = pending.popleft()
    try:
        return call.result(None if deadline is None else deadline - time.monotonic())
    except BaseException:
        call.cancel()  # the time ran out, or Ctrl-C
        raise
    finally:
        del call  # it holds its exception, whose traceback holds this frame


def _flat(chunks: Iterator[list[Any]]) -> Iterator[Any]:
    """Gives each result away: a chunk does not hold those that were read."""
    for chunk in chunks:
        chunk.reverse()
        while chunk:
            yield chunk.pop()


def _run_chunk(function: Callable[..., T], chunk: list[tuple[Any, ...]]) -> list[T]:
    return [function(*arguments) for arguments in chunk]


def _cancel(calls: Iterable[Future[Any]]) -> None:
    for call in calls:
        call.cancel()
