"""selectors and a ThreadPoolExecutor of four: what one would write with the standard library. The loop receives, the executor answers."""

from __future__ import annotations

import contextlib
import selectors
import socket
from concurrent.futures import ThreadPoolExecutor

import workload

THREADS = 4


def answer(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(data)


def main() -> None:
    arguments = workload.parse_arguments(__doc__)
    listener = socket.create_server(("127.0.0.1", arguments.port), backlog=workload.BACKLOG)
    with selectors.DefaultSelector() as selector, ThreadPoolExecutor(THREADS) as executor:
        selector.register(listener, selectors.EVENT_READ)
        workload.announce(listener.getsockname()[1])
        while True:
            for key, _events in selector.select():
                if key.fileobj is listener:
                    client, _address = listener.accept()
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    selector.register(client, selectors.EVENT_READ)
                    continue
                connection = key.fileobj
                try:
                    data = connection.recv(workload.RECEIVE_SIZE)
                except ConnectionError:
                    data = b""
                if data:
                    executor.submit(answer, connection, data)
                else:
                    selector.unregister(connection)
                    connection.close()


if __name__ == "__main__":
    main()
