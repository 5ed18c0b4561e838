"""Very many connects at once, in the style of a port scanner: which ports of this machine can be connected to?

`python port_connector.py 127.0.0.1 1 65535`; without arguments it looks for a listener of its own among its neighbours.
"""

import socket
import sys
import time

import proactor

WINDOW = 500  # connects under way at a time
PATIENCE = 2.0  # seconds after which a port that has not answered counts as silent


def scan(host: str, ports: range) -> tuple[list[int], int]:
    """The ports that could be connected to, and how many gave no answer."""
    left = iter(ports)
    pending: dict[int, tuple[proactor.Handle, float]] = {}  # with the time of its end; the oldest first
    found, silent = [], 0
    with proactor.CompletionPort() as completions:

        def connect_next() -> None:
            if (port := next(left, None)) is not None:
                handle = completions.associate(socket.socket(), key=port)
                pending[port] = handle, time.monotonic() + PATIENCE
                handle.connect((host, port))

        for _ in range(WINDOW):
            connect_next()
        while pending:
            oldest = next(iter(pending))
            try:
                completion = completions.get(max(0.0, pending[oldest][1] - time.monotonic()))
            except TimeoutError:
                silent += 1
                pending.pop(oldest)[0].close()
                connect_next()
                continue
            if completion.key not in pending:
                continue  # it was given up
            if completion.error is None:
                found.append(completion.key)
            pending.pop(completion.key)[0].close()
            connect_next()
        return sorted(found), silent


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as own:
        middle = own.getsockname()[1]
        host, first, last = sys.argv[1:] or ("127.0.0.1", max(1, middle - 500), min(65535, middle + 500))
        begun = time.monotonic()
        found, silent = scan(host, range(int(first), int(last) + 1))
        seconds = time.monotonic() - begun
    print(f"{int(last) - int(first) + 1} ports of {host} in {seconds:.2f} s: {len(found)} open, {silent} silent")
    assert sys.argv[1:] or middle in found
