"""A chat: each line goes to everybody else."""

import proactor


class Chat(proactor.Handler):
    def connected(self, connection: proactor.Connection) -> None:
        connection.context = f"{connection.peername[0]}:{connection.peername[1]}"
        tell(f"{connection.context} is here\n", connection)

    def received(self, connection: proactor.Connection, data: bytes) -> None:
        tell(f"{connection.context}: {data.decode(errors='replace')}\n", connection)

    def closed(self, connection: proactor.Connection, error: BaseException | None) -> None:
        tell(f"{connection.context} has left\n", connection)


def tell(text: str, but: proactor.Connection) -> None:
    but.server.broadcast(text.encode(), exclude=[but])  # a client that does not read is skipped


if __name__ == "__main__":
    with proactor.serve(Chat, "127.0.0.1:60001", framing=proactor.Lines(limit=4096), idle_timeout=3600) as server:
        print("chatting on", server.address, flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Ctrl-C: sending what is queued")
