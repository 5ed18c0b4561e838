"""What is left of the interpreter for other threads while workers have no end of short work: as much as beside any busy thread."""

import threading
import time

import pytest

import proactor
from peers import echo, read_exactly

TURNS = 100
SECONDS = 0.02 * TURNS
"""A busy thread lets another have the interpreter when that has waited for 5 ms (sys.getswitchinterval); with room for a busy machine."""


def seconds_for_turns() -> float:
    """How long the calling thread takes to let go of the interpreter, and to get it again, so many times."""
    begun = time.monotonic()
    for _ in range(TURNS):
        time.sleep(0)
        if time.monotonic() > begun + 5 * SECONDS:
            break
    return time.monotonic() - begun


@pytest.mark.parametrize("has_talked", [False, True])
def test_other_threads_get_the_interpreter_while_a_worker_has_no_end_of_calls(connect, has_talked) -> None:
    ended = threading.Event()
    with proactor.ThreadPool(1) as pool:

        def again() -> None:
            if not ended.is_set():
                pool.submit(again)

        server = proactor.serve(echo, ("127.0.0.1", 0), pool=pool)
        client = connect(server)
        pool.submit(again)
        if has_talked:
            client.sendall(b"x")
            read_exactly(client, 1)
        took = seconds_for_turns()
        ended.set()
    assert took < SECONDS


def test_other_threads_get_the_interpreter_while_a_thread_has_no_end_of_completions(start) -> None:
    port = proactor.CompletionPort(concurrency=1)
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            port.post()
            port.get()

    thread = start(work)
    took = seconds_for_turns()
    ended.set()
    thread.join()
    port.close()
    assert took < SECONDS
