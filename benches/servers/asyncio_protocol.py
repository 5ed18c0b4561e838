"""asyncio's Protocol API, the fastest way to write an asyncio server. uvloop_protocol.py runs the same classes on uvloop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import workload


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class Respond(Echo):
    def __init__(self, respond: workload.Respond):
        self.respond = respond

    def data_received(self, data):
        self.transport.write(self.respond(data))


class RespondInExecutor(Respond):
    """Only the messages known to sleep go to the executor: picked by hand, as the author of a real server would have to."""

    def __init__(self, respond: workload.Respond, executor: ThreadPoolExecutor):
        super().__init__(respond)
        self.loop = asyncio.get_running_loop()
        self.executor = executor

    def data_received(self, data):
        if data[0] == workload.SLEEP:
            self.loop.run_in_executor(self.executor, self.respond, data).add_done_callback(self.answer)
        else:
            self.transport.write(self.respond(data))

    def answer(self, future):
        self.transport.write(future.result())


class Broadcast(Echo):
    everybody: set[asyncio.Transport] = set()

    def connection_made(self, transport):
        self.transport = transport
        self.everybody.add(transport)

    def connection_lost(self, error):
        self.everybody.discard(self.transport)

    def data_received(self, data):
        if data[0] == workload.BROADCAST:
            for transport in self.everybody:
                if transport is not self.transport:
                    transport.write(data)
        else:
            self.transport.write(data)


def make_protocol(arguments) -> Callable[[], asyncio.Protocol]:
    respond = workload.make_respond(arguments)
    if arguments.mode == "broadcast":
        return Broadcast
    if respond is None:
        return Echo
    if arguments.executor:
        return functools.partial(RespondInExecutor, respond, ThreadPoolExecutor(arguments.executor))
    return functools.partial(Respond, respond)


async def serve(arguments) -> None:
    loop = asyncio.get_running_loop()
    # Both set TCP_NODELAY on every connection by themselves.
    server = await loop.create_server(make_protocol(arguments), "127.0.0.1", arguments.port, backlog=workload.BACKLOG)
    workload.announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(workload.parse_arguments(__doc__)))
