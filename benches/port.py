"""Packets through a queue, in a process of its own; prints its figures as JSON. Without a kind: both, in interleaved rounds, and the
ratios.

`rate`: pairs of post and get a second in one thread. `threads_rate`: packets a second from two threads that post to two that get.
"""

from __future__ import annotations

import argparse
import json
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import interleaved
import proactor

PAIRS = 200_000
PACKETS = 50_000  # of each of two threads
KINDS = ("proactor", "SimpleQueue")

Post = Callable[[Any], None]
Get = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS, nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.kind is None:
        interleaved.compare(__file__, KINDS, ("rate", "threads_rate"), options.rounds, ",.0f")
        return
    if options.kind == "proactor":
        with proactor.CompletionPort() as port:
            report = measure(port.post, port.get)
    else:
        simple: queue.SimpleQueue[Any] = queue.SimpleQueue()
        report = measure(simple.put, simple.get)
    print(json.dumps({**report, "errors": 0}))


def measure(post: Post, get: Get) -> dict:
    pairs(post, get, PAIRS // 10)
    return {"rate": pairs(post, get, PAIRS), "threads_rate": between_threads(post, get)}


def pairs(post: Post, get: Get, count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        post(1)
        get()
    return count / (time.perf_counter() - begun)


def between_threads(post: Post, get: Get) -> float:
    def posts() -> None:
        for _ in range(PACKETS):
            post(1)

    def gets() -> None:
        for _ in range(PACKETS):
            get()

    threads = [threading.Thread(target=target) for target in (gets, gets, posts, posts)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 2 * PACKETS / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
