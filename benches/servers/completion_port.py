"""The completion port itself: four plain threads, accept, receive and send as operations."""

from __future__ import annotations

import socket
import threading

import workload

import proactor

THREADS = 4
ACCEPTS = 64


def work(port: proactor.CompletionPort, listener: proactor.Handle) -> None:
    for completion in port:
        handle, value = completion.handle, completion.value
        if handle is listener:
            client, _address = value
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            port.associate(client).receive()
            listener.accept()
        elif completion.error is not None or value == b"":
            handle.close()
        elif completion.operation.kind == "receive":
            handle.receive()  # before the answer goes out: the next request may follow it
            handle.send(value)


def main() -> None:
    arguments = workload.parse_arguments(__doc__)
    with proactor.CompletionPort() as port:
        listening = socket.create_server(("127.0.0.1", arguments.port), backlog=workload.BACKLOG)
        number = listening.getsockname()[1]
        listener = port.associate(listening)
        for _ in range(ACCEPTS):
            listener.accept()
        threads = [threading.Thread(target=work, args=(port, listener)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        workload.announce(number)
        threading.Event().wait()


if __name__ == "__main__":
    main()
