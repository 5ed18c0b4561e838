"""The smallest server: what comes goes back."""

import proactor


def echo(connection: proactor.Connection, data: bytes) -> None:
    connection.send(data)


if __name__ == "__main__":
    with proactor.serve(echo, "127.0.0.1:60001") as server:
        print("serving on", server.address, flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Ctrl-C: finishing what is under way")
