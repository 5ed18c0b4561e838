"""The completion port's own loop, without a pool and without a server: threads that take what is posted.

Eight packets, one after the other, for eight threads that wait: one thread handles them all, the last that came. Then eight at once, whose
handling blocks: the others are released, as many as it takes.
"""

import threading
import time

import proactor

STOP = "stop"


def work(port: proactor.CompletionPort) -> None:
    """The loop of every thread. (In the article: while GetQueuedCompletionStatus(...) { ... })"""
    for completion in port:
        if completion.key == STOP:
            return
        if completion.key == "slow":
            time.sleep(0.05)  # it blocks: the port lets another thread go on
        with lock:
            handled.append(threading.current_thread().name)
        done.release()


def scene(title: str, key: str, at_once: bool) -> None:
    handled.clear()
    for number in range(8):
        port.post(key, number)
        if not at_once:
            done.acquire()
            time.sleep(0.01)
    if at_once:
        for _ in range(8):
            done.acquire()
    print(f"{title}: {len(set(handled))} of {len(threads)} threads handled 8 packets", flush=True)


if __name__ == "__main__":
    handled: list[str] = []
    lock, done = threading.Lock(), threading.Semaphore(0)  # the lock guards handled
    with proactor.CompletionPort(concurrency=1) as port:
        threads = [threading.Thread(target=work, args=(port,), name=f"thread {number}") for number in range(8)]
        for thread in threads:
            thread.start()
        scene("one after the other", "quick", at_once=False)
        scene("all at once, and each blocks", "slow", at_once=True)
        for _ in threads:
            port.post(STOP)
        for thread in threads:
            thread.join()
