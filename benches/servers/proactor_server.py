"""proactor.serve with default settings. Messages that sleep sleep in the handler: nothing is picked by hand."""

from __future__ import annotations

import contextlib

import workload

import proactor


def echo(connection, data):
    connection.send(data)


def make_handler(arguments):
    respond = workload.make_respond(arguments)
    if respond is None:
        return echo

    def respond_to_each(connection, data):
        connection.send(respond(data))

    return respond_to_each


class Broadcast(proactor.Handler):
    server: proactor.Server

    def received(self, connection, data):
        if data[0] == workload.BROADCAST:
            self.server.broadcast(data, exclude=(connection,))
        else:
            connection.send(data)


def main() -> None:
    arguments = workload.parse_arguments(__doc__)
    handler = Broadcast() if arguments.mode == "broadcast" else make_handler(arguments)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(proactor.ThreadPool(busy_poll=arguments.busy_poll)) if arguments.busy_poll else None
        server = stack.enter_context(proactor.serve(handler, ("127.0.0.1", arguments.port), pool=pool, backlog=workload.BACKLOG))
        if isinstance(handler, Broadcast):
            handler.server = server
        workload.announce(server.address[1])
        server.serve_forever()


if __name__ == "__main__":
    main()
