"""Timers of one kind, in a process of its own; prints its figures as JSON. Without a kind: all, in interleaved rounds, and the ratios.

100,000 timers that are due within half a second are added and called; as many are added and cancelled. Processor time (user and system,
all threads), in microseconds a timer; what is called costs next to nothing.

The floors: `call_us` at most 0.3 of asyncio's, `cancel_us` at most asyncio's.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import resource
import threading

import interleaved
import proactor

COUNT = 100_000
KINDS = ("proactor", "asyncio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS, nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.kind is None:
        interleaved.compare(__file__, KINDS, ("add_us", "call_us", "cancel_us"), options.rounds, ".3f")
    else:
        report = measure_proactor() if options.kind == "proactor" else asyncio.run(measure_asyncio())
        print(json.dumps({**report, "errors": 0}))


def processor_time() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# Between 0.25 and 0.5 seconds, in no order; then the one that says that all have come.
DELAYS = [0.25 + number * 7919 % COUNT / COUNT / 4 for number in range(COUNT)]
LAST = 0.51


def microseconds(begun: float) -> float:
    return (processor_time() - begun) / COUNT * 1e6


def measure_proactor() -> dict:
    with proactor.ThreadPool(concurrency=1) as pool:
        pool.submit(int).result()
        over, called = threading.Event(), itertools.count()
        begun = processor_time()
        for delay in DELAYS:
            pool.call_after(delay, called.__next__)
        pool.call_after(LAST, over.set)
        add = microseconds(begun)
        over.wait()
        call = microseconds(begun)
    # Only now: while the last one says that all have come, another worker may still be in the call of one that came before.
    assert next(called) == COUNT, "a timer was lost, or came twice"
    with proactor.ThreadPool(concurrency=1) as pool:
        pool.submit(int).result()
        timers = [pool.call_after(1000 + delay, int) for delay in DELAYS]
        begun = processor_time()
        for timer in timers:
            timer.cancel()
        return {"add_us": add, "call_us": call, "cancel_us": microseconds(begun)}


async def measure_asyncio() -> dict:
    loop = asyncio.get_running_loop()
    over, called = asyncio.Event(), itertools.count()
    begun = processor_time()
    for delay in DELAYS:
        loop.call_later(delay, called.__next__)
    loop.call_later(LAST, over.set)
    add = microseconds(begun)
    await over.wait()
    call = microseconds(begun)
    assert next(called) == COUNT
    timers = [loop.call_later(1000 + delay, int) for delay in DELAYS]
    begun = processor_time()
    for timer in timers:
        timer.cancel()
    return {"add_us": add, "call_us": call, "cancel_us": microseconds(begun)}


if __name__ == "__main__":
    main()
