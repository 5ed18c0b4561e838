"""What every server here does with a message, and the command line they share.

A message may begin with a header (message.rs writes it): one byte of command, then the microseconds to sleep. The generator sends such
messages one at a time on a connection, so a server may take what one receive brings for one message.
Knows messages; knows nothing of sockets. The servers differ only in how they get messages and answer them.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable

SLEEP = 1
BROADCAST = 2
REPORT = 3
BACKLOG = 4096
RECEIVE_SIZE = 65536

Respond = Callable[[bytes], bytes]


def parse_arguments(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, default=0, help="0: any free one; the port is printed on one line")
    parser.add_argument(
        "--mode",
        choices=("echo", "work", "command", "takeover", "broadcast"),
        default="echo",
        help="echo; echo after pure-Python work; echo after the sleep the message asks for; the same, timing the next call; "
        "messages with the command 'broadcast' go to everybody else",
    )
    parser.add_argument("--work-iterations", type=int, default=0, help="length of the pure-Python loop of --mode work")
    parser.add_argument("--executor", type=int, default=0, help="threads for the messages that sleep; 0: none, they sleep inline")
    parser.add_argument("--busy-poll", type=float, default=0.0, help="seconds (proactor only)")
    age_the_heap()
    return parser.parse_args()


def age_the_heap() -> None:
    """Frees one large block, as any longer-lived process has done before its first client.

    glibc gives blocks of 128 KiB and more a mapping of their own until a larger one was freed (mallopt(3), M_MMAP_THRESHOLD). A server as
    small as these never frees one, and asyncio's receive buffer of 256 KiB then costs three system calls and a page fault a message:
    some 20 us, which no larger program would see.
    """
    _ = bytes(1 << 20)


def announce(port: int) -> None:
    print(port, flush=True)


def compute(iterations: int) -> int:
    """Pure-Python work; run.py chooses the iterations once, for every server alike."""
    total = 0
    for number in range(iterations):
        total += number & 7
    return total


def make_respond(arguments: argparse.Namespace) -> Respond | None:
    """The function from message to answer; None where the answer is the message."""
    if arguments.mode == "work":
        iterations = arguments.work_iterations

        def work(data: bytes) -> bytes:
            compute(iterations)
            return data

        return work
    if arguments.mode == "command":
        return sleep_as_told
    if arguments.mode == "takeover":
        return Takeover().respond
    return None


def sleep_as_told(data: bytes) -> bytes:
    if data[0] == SLEEP:
        time.sleep(int.from_bytes(data[1:5], "little") / 1e6)
    return data


class Takeover:
    """Times from the moment a handler falls asleep to the next call of any handler.

    Safe from any thread. One sleeper at a time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards the two below; they are read without it only to skip it.
        self._asleep_since = 0
        self._nanoseconds: list[int] = []

    def respond(self, data: bytes) -> bytes:
        if data[0] == REPORT:
            return self._report()
        if self._asleep_since:
            called = time.perf_counter_ns()
            with self._lock:
                if self._asleep_since:
                    self._nanoseconds.append(called - self._asleep_since)
                    self._asleep_since = 0
        if data[0] == SLEEP:
            seconds = int.from_bytes(data[1:5], "little") / 1e6
            self._asleep_since = time.perf_counter_ns()
            time.sleep(seconds)
        return data

    def _report(self) -> bytes:
        """One line of JSON, and a fresh start."""
        with self._lock:
            nanoseconds, self._nanoseconds = self._nanoseconds, []
            self._asleep_since = 0
        return json.dumps({"takeover_us": [number / 1000 for number in nanoseconds]}).encode() + b"\n"
