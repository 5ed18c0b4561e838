"""trio: one task a connection. Messages that sleep go to trio's threads, as blocking calls must there."""

from __future__ import annotations

import trio
import workload

everybody: set[trio.SocketStream] = set()


def make_handle(arguments):
    respond = workload.make_respond(arguments)
    limiter = trio.CapacityLimiter(max(1, arguments.executor))

    async def echo(stream):
        while data := await stream.receive_some(workload.RECEIVE_SIZE):
            await stream.send_all(data)

    async def respond_to_each(stream):
        while data := await stream.receive_some(workload.RECEIVE_SIZE):
            if arguments.executor and data[0] == workload.SLEEP:
                await stream.send_all(await trio.to_thread.run_sync(respond, data, limiter=limiter))
            else:
                await stream.send_all(respond(data))

    async def broadcast(stream):
        everybody.add(stream)
        try:
            while data := await stream.receive_some(workload.RECEIVE_SIZE):
                others = everybody - {stream} if data[0] == workload.BROADCAST else (stream,)
                for other in others:
                    await other.send_all(data)
        finally:
            everybody.discard(stream)

    chosen = broadcast if arguments.mode == "broadcast" else echo if respond is None else respond_to_each

    async def handle(stream):
        try:
            await chosen(stream)
        except trio.BrokenResourceError:
            pass  # The peer has reset the connection.

    return handle


async def main() -> None:
    arguments = workload.parse_arguments(__doc__)
    # trio sets TCP_NODELAY on every connection by itself.
    listeners = await trio.open_tcp_listeners(arguments.port, host="127.0.0.1", backlog=workload.BACKLOG)
    workload.announce(listeners[0].socket.getsockname()[1])
    await trio.serve_listeners(make_handle(arguments), listeners)


if __name__ == "__main__":
    trio.run(main)
