"""All four kinds of work on one pool: a server takes words (I/O), each is looked up by a slow function (a call), a pipe brings news
(a wait), and once a second a line says how it goes (a timer).

Try it: `nc 127.0.0.1 60001`, type words.
"""

import os
import threading
import time

import proactor

FRAMING = proactor.Lines(limit=256)


def received(connection: proactor.Connection, data: bytes) -> None:
    """I/O: one line of a client. What takes long goes on as a call, and the client may send the next word."""
    pool.submit(look_up, connection, data.decode(errors="replace").strip())


def look_up(connection: proactor.Connection, word: str) -> None:
    """A call: plain, blocking code. While it blocks others run."""
    time.sleep(0.2)
    with lock:
        seen[word] = seen.get(word, 0) + 1
    connection.send(f"{word}: {len(word)} letters, asked for {seen[word]} times\n".encode())


def news(signalled: bool, descriptor: int) -> None:
    """A wait: something was written to the pipe."""
    server.broadcast(b"news: " + os.read(descriptor, 4096))


def report() -> None:
    """A timer."""
    numbers = pool.statistics()
    print(f"{numbers.finished} items done, {numbers.workers} workers, {numbers.blocked} of them blocked", flush=True)
    os.write(write_end, b"a second has passed\n")


if __name__ == "__main__":
    lock = threading.Lock()  # guards seen
    seen: dict[str, int] = {}
    read_end, write_end = os.pipe()
    with proactor.ThreadPool() as pool, proactor.serve(received, "127.0.0.1:60001", pool=pool, framing=FRAMING) as server:
        pool.call_when(read_end, news, read_end, repeat=True)
        pool.call_every(1, report)
        print("serving on", server.address, flush=True)
        server.serve_forever()
