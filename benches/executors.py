"""One executor under one load, in a process of its own; prints its figures as JSON. `run.py` starts it for each executor and round.

Loads: submit (no-ops: how many a second, and the time from submit to start), map (100,000 small items), mixed (one of 100 calls sleeps
10 ms).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor, wait

import proactor

BATCH = 10_000
MAPPED = 100_000
MIXED = 10_000
SLEEP = 0.010


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("executor", choices=("proactor", "threads", "to_thread"))
    parser.add_argument("load", choices=("submit", "map", "mixed"))
    parser.add_argument("--workers", type=int, help="max_workers; default: the executor's own")
    parser.add_argument("--seconds", type=float, default=2)
    options = parser.parse_args()
    if options.executor == "to_thread":
        report = asyncio.run(mixed_to_thread(options.seconds))
    else:
        make: Callable[..., Executor] = proactor.ThreadPool if options.executor == "proactor" else ThreadPoolExecutor
        with make(max_workers=options.workers) as executor:
            report = {"submit": submit, "map": mapped, "mixed": mixed}[options.load](executor, options.seconds)
    print(json.dumps({**report, "errors": 0}))


def nothing() -> None:
    """What is submitted."""


def submit(executor: Executor, seconds: float) -> dict:
    """Half of the time for the rate, half for the latency, one call at a time."""
    wait([executor.submit(nothing) for _ in range(BATCH // 10)])
    rates = []
    end = time.perf_counter() + seconds / 2
    while time.perf_counter() < end or not rates:
        begun = time.perf_counter()
        for future in [executor.submit(nothing) for _ in range(BATCH)]:
            future.result()
        rates.append(BATCH / (time.perf_counter() - begun))
    starts = []
    end = time.perf_counter() + seconds / 2
    while time.perf_counter() < end:
        begun_ns = time.perf_counter_ns()
        starts.append((executor.submit(time.perf_counter_ns).result() - begun_ns) / 1000)
    return {"rate": statistics.median(rates), **latency(starts)}


def mapped(executor: Executor, seconds: float) -> dict:
    rates = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not rates:
        begun = time.perf_counter()
        assert sum(executor.map(abs, range(MAPPED))) == MAPPED * (MAPPED - 1) // 2
        rates.append(MAPPED / (time.perf_counter() - begun))
    return {"rate": statistics.median(rates)}


def sleeps(number: int) -> bool:
    return number % 100 == 0


def call(sleeping: bool) -> int:
    if sleeping:
        time.sleep(SLEEP)
    return time.perf_counter_ns()


def mixed(executor: Executor, seconds: float) -> dict:
    """All are submitted at once. The latency of a short call is the time from its submit to its end."""
    totals, short = [], []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not totals:
        begun = time.perf_counter()
        calls = [(time.perf_counter_ns(), executor.submit(call, sleeps(number))) for number in range(MIXED)]
        ends = [future.result() for _, future in calls]
        totals.append(time.perf_counter() - begun)
        short += [(ends[number] - calls[number][0]) / 1000 for number in range(MIXED) if not sleeps(number)]
    return {"rate": MIXED / statistics.median(totals), "seconds": statistics.median(totals), **latency(short)}


async def mixed_to_thread(seconds: float) -> dict:
    totals, short = [], []

    async def one(number: int) -> None:
        begun_ns = time.perf_counter_ns()
        ended_ns = await asyncio.to_thread(call, sleeps(number))
        if not sleeps(number):
            short.append((ended_ns - begun_ns) / 1000)

    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not totals:
        begun = time.perf_counter()
        await asyncio.gather(*map(one, range(MIXED)))
        totals.append(time.perf_counter() - begun)
    return {"rate": MIXED / statistics.median(totals), "seconds": statistics.median(totals), **latency(short)}


def latency(microseconds: list[float]) -> dict:
    percentiles = statistics.quantiles(microseconds, n=100, method="inclusive")
    return {"p50_us": percentiles[49], "p99_us": percentiles[98]}


if __name__ == "__main__":
    main()
