"""gevent's StreamServer: one greenlet a connection. Messages that sleep go to gevent's thread pool, as blocking calls must there."""

from __future__ import annotations

import contextlib
import socket

import gevent
import workload
from gevent.server import StreamServer

everybody: set = set()


def make_handle(arguments):
    respond = workload.make_respond(arguments)
    pool = gevent.get_hub().threadpool
    pool.maxsize = arguments.executor or pool.maxsize

    def echo(connection, address):
        while data := connection.recv(workload.RECEIVE_SIZE):
            connection.sendall(data)

    def respond_to_each(connection, address):
        while data := connection.recv(workload.RECEIVE_SIZE):
            if arguments.executor and data[0] == workload.SLEEP:
                connection.sendall(pool.apply(respond, (data,)))
            else:
                connection.sendall(respond(data))

    def broadcast(connection, address):
        everybody.add(connection)
        try:
            while data := connection.recv(workload.RECEIVE_SIZE):
                others = everybody - {connection} if data[0] == workload.BROADCAST else (connection,)
                for other in others:
                    other.sendall(data)
        finally:
            everybody.discard(connection)

    chosen = broadcast if arguments.mode == "broadcast" else echo if respond is None else respond_to_each

    def handle(connection, address):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            chosen(connection, address)

    return handle


def main() -> None:
    arguments = workload.parse_arguments(__doc__)
    server = StreamServer(("127.0.0.1", arguments.port), make_handle(arguments), backlog=workload.BACKLOG)
    server.start()
    workload.announce(server.server_port)
    server.serve_forever()


if __name__ == "__main__":
    main()
