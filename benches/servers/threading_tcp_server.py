"""socketserver.ThreadingTCPServer: one thread a connection."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading

import workload


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = workload.BACKLOG
    allow_reuse_address = True


class Echo(socketserver.BaseRequestHandler):
    def setup(self):
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def handle(self):
        connection = self.request
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(workload.RECEIVE_SIZE):
                connection.sendall(data)


class Respond(Echo):
    respond: workload.Respond

    def handle(self):
        connection, respond = self.request, self.respond
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(workload.RECEIVE_SIZE):
                connection.sendall(respond(data))


class Broadcast(Echo):
    everybody: set[socket.socket] = set()
    lock = threading.Lock()  # Guards everybody.

    def handle(self):
        with self.lock:
            self.everybody.add(self.request)
        with contextlib.suppress(ConnectionError):
            while data := self.request.recv(workload.RECEIVE_SIZE):
                self.answer(data)

    def answer(self, data):
        receivers = {self.request}
        if data[0] == workload.BROADCAST:
            with self.lock:
                receivers = self.everybody - receivers
        for connection in receivers:
            connection.sendall(data)

    def finish(self):
        with self.lock:
            self.everybody.discard(self.request)


def main() -> None:
    arguments = workload.parse_arguments(__doc__)
    respond = workload.make_respond(arguments)
    handler = Broadcast if arguments.mode == "broadcast" else Echo
    if respond is not None:
        handler = type("RespondHandler", (Respond,), {"respond": staticmethod(respond)})
    # The stacks of 10,000 threads need not be 8 MiB each; 256 KiB is the documented way to ask for less.
    threading.stack_size(256 * 1024)
    with Server(("127.0.0.1", arguments.port), handler) as server:
        workload.announce(server.server_address[1])
        server.serve_forever()


if __name__ == "__main__":
    main()
