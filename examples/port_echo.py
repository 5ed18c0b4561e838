"""An echo server on a completion port and four plain threads: no pool and no server class. Try it: `nc 127.0.0.1 60001`."""

import contextlib
import socket
import threading

import proactor

ADDRESS = ("127.0.0.1", 60001)


def work(port: proactor.CompletionPort, listener: proactor.Handle) -> None:
    for completion in port:
        handle, value = completion.handle, completion.value
        if completion.error is not None:
            print(completion.operation.kind, "failed:", completion.error, flush=True)
            if handle is listener:  # no descriptors are left, say: nothing tells when there are
                threading.Timer(0.1, accept, [listener]).start()
            else:
                handle.close()
        elif completion.operation.kind == "accept":
            client, address = value
            port.associate(client, key=address).receive()  # the operation holds its handle
            accept(listener)
        elif completion.operation.kind == "receive":
            if value:
                handle.send(value)
            else:
                handle.close()  # the peer has finished sending, and everything it sent was sent back
        elif completion.operation.kind == "send":
            handle.receive()


def accept(listener: proactor.Handle) -> None:
    with contextlib.suppress(OSError):  # it was closed meanwhile
        listener.accept()


def serve_forever() -> None:
    with proactor.CompletionPort() as port:
        listener = port.associate(socket.create_server(ADDRESS), key="listener")
        for _ in range(16):
            accept(listener)
        threads = [threading.Thread(target=work, args=(port, listener)) for _ in range(4)]
        for thread in threads:
            thread.start()
        print("listening on", ADDRESS, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("closing", flush=True)
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    serve_forever()
