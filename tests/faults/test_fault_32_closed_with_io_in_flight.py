"""Fault 32: connections closed with I/O in flight, their descriptors used again at once. Nobody ever gets a byte of another's."""

import random
import socket
import threading

import proactor
from peers import TIMEOUT, Recorder, dial, eventually, reset

ROUNDS, THREADS = 3000, 4


def is_all(data: bytes, mark: bytes) -> bool:
    """Nothing but the mark's repetition; the end may be cut."""
    return data == (mark * (len(data) // len(mark) + 1))[: len(data)]


class Marked(Recorder):
    """The first 8 bytes are the client's mark: everything else that comes must repeat it, and so does what goes. Some are ended."""

    def __init__(self) -> None:
        super().__init__()
        self.strangers: list[tuple[bytes, bytes]] = []
        self.live: dict[int, tuple[proactor.Connection, bytes]] = {}

    def note(self, connection, name, value=None):
        pass  # thousands of rounds: nothing is kept

    def on_connected(self, connection):
        connection.context = bytearray()

    def received(self, connection, data):
        whole = connection.context
        before = len(whole)
        whole += data
        if len(whole) < 8:
            return
        mark = bytes(whole[:8])
        if not is_all(bytes(whole[before - before % 8 if before else 0 :]), mark):
            self.strangers.append((mark, bytes(data)))
        del whole[64 + len(whole) % 8 :]
        self.live[connection.id] = (connection, mark)
        chosen = mark[0] % 5
        try:
            connection.send(mark * 15_000)
            if chosen == 0:
                connection.close()
            elif chosen == 1:
                connection.abort()
            elif chosen == 2:
                connection.shutdown_write()
        except ConnectionError:
            pass

    def on_closed(self, connection):
        self.live.pop(connection.id, None)


def test_nobody_ever_receives_anothers_bytes(serve, make_pool, caplog) -> None:
    handler = Marked()
    server = serve(handler, send_limit=500_000, send_timeout=2, pool=make_pool(max_workers=16))
    stop = threading.Event()
    wrong: list[object] = []
    count = [0] * THREADS

    def client_rounds(seed: int) -> None:
        chooser = random.Random(seed)
        for _ in range(ROUNDS // THREADS):
            mark = chooser.randbytes(8)
            client = dial(server.address, receive_buffer=chooser.choice([4096, 65536]))
            try:
                client.sendall(mark * chooser.choice([1, 2, 500]))
                got = b""
                wanted = chooser.choice([0, 1, 8, 20_000, 100_000])
                while len(got) < wanted:
                    chunk = client.recv(65536)
                    if not chunk:
                        break
                    got += chunk
                if not is_all(got, mark):
                    wrong.append((mark, got[:100]))
            except ConnectionError:
                pass  # the server has ended it: every fifth is aborted
            except BaseException as error:
                wrong.append(error)
            finally:
                count[seed] += 1
                if chooser.random() < 0.5:
                    reset(client)
                else:
                    client.close()

    def send_from_outside() -> None:
        """Also to connections that are being closed at that moment."""
        chooser = random.Random(99)
        while not stop.is_set():
            for connection, mark in list(handler.live.values()):
                try:
                    connection.try_send(mark * chooser.choice([1, 3000]))
                    if chooser.random() < 0.1:
                        connection.abort()
                except OSError:
                    pass

    threads = [threading.Thread(target=client_rounds, args=(seed,)) for seed in range(THREADS)]
    outside = threading.Thread(target=send_from_outside)
    for thread in [*threads, outside]:
        thread.start()
    for thread in threads:
        thread.join(50)
    stop.set()
    outside.join(TIMEOUT)
    assert sum(count) == ROUNDS
    assert wrong == []
    assert handler.strangers == []
    eventually(lambda: server.connections == (), "all of them end")
    eventually(lambda: server.statistics().queued_bytes == 0, "the count of what is queued comes out even")
    numbers = server.statistics()
    assert numbers.accepted <= ROUNDS
    caplog.clear()


def test_a_closed_connections_descriptor_is_never_used_again_under_it(serve, connect) -> None:
    """Calls on a connection that is over reach nobody, though its number belongs to somebody else by now."""
    handler = Recorder()
    server = serve(handler)
    over: list[proactor.Connection] = []
    for number in range(1, 201):
        client = dial(server.address)
        handler.wait_for_count("connected", number)
        connection = handler.connections[-1]
        client.close()
        handler.wait_closed(number)
        over.append(connection)
    stranger = connect(server)
    handler.wait_for_count("connected", 201)
    for connection in over:
        assert connection._descriptor() == -1
        methods = (connection.close, connection.abort, connection.shutdown_write, connection.pause, connection.resume)
        for call in (lambda connection=connection: connection.send(b"lost"), *methods):
            try:
                call()
            except proactor.errors.ConnectionEnded:
                pass
    handler.connections[-1].send(b"mine")
    stranger.settimeout(TIMEOUT)
    assert stranger.recv(100) == b"mine"
    stranger.setblocking(False)
    try:
        assert stranger.recv(1, socket.MSG_PEEK) == b"nothing more"
    except BlockingIOError:
        pass
