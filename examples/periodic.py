"""A periodic job: five times a second it reports the machine's load, for two seconds."""

import os
import time

import proactor


def report(began: float) -> None:
    print(f"{time.monotonic() - began:5.3f} s: load {os.getloadavg()[0]:.2f}", flush=True)


if __name__ == "__main__":
    over = proactor.Event()
    with proactor.ThreadPool() as pool:
        timer = pool.call_every(0.2, report, time.monotonic())
        pool.call_after(2.1, over.set)
        over.wait()
        timer.cancel()  # the end of the pool would do as well
        print(f"{timer.missed} ticks left out")
