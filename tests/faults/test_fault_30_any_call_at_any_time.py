"""Fault 30: double close, use after close, calls from any thread in any order: nothing but the documented errors, and it all ends."""

import socket
import threading
import warnings

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import proactor
from peers import TIMEOUT, Recorder, dial, reset

# What a call on something that may be over at any moment may raise.
ALLOWED = (ConnectionError, TimeoutError, proactor.errors.ProactorError, OSError)


class Anything(Recorder):
    """Does what the client's first byte says."""

    def on_received(self, connection, data):
        act = data[:1]
        try:
            if act == b"c":
                connection.close()
            elif act == b"a":
                connection.abort()
            elif act == b"r":
                connection.receive(timeout=0.01)
            elif act == b"w":
                connection.shutdown_write()
            elif act == b"p":
                connection.pause()
                connection.resume()
            elif act == b"b":
                connection.context.broadcast(b"from a handler")
            connection.send(data)
        except ALLOWED:
            pass

    def on_ended(self, connection):
        if connection.id % 2:
            connection.close()


class Machine(RuleBasedStateMachine):
    """One server at a time, its clients, and its connections, also those that are over."""

    def __init__(self) -> None:
        super().__init__()
        self.unexpected: list[BaseException] = []
        self.clients: list[socket.socket] = []
        self.servers: list[proactor.Server] = []
        self.handler = Anything()

    @initialize(own_pool=st.booleans(), workers=st.integers(1, 4))
    def start(self, own_pool: bool, workers: int) -> None:
        self.pool = None if own_pool else proactor.ThreadPool(max_workers=workers, concurrency=1)
        self.serve()

    @precondition(lambda self: len(self.servers) < 3)
    @rule()
    def serve(self) -> None:
        options = {"send_limit": 20_000, "receive_limit": 20_000, "send_timeout": 0.05}
        self.servers.append(proactor.serve(self.handler, ("127.0.0.1", 0), pool=self.pool, **options))

    @property
    def server(self) -> proactor.Server:
        return self.servers[-1]

    @rule()
    def connect(self) -> None:
        try:
            self.clients.append(dial(self.server.address, receive_buffer=4096))
        except ConnectionRefusedError:
            pass  # it is shut down

    @rule(number=st.integers(0, 20), data=st.sampled_from([b"e", b"c", b"a", b"r", b"w", b"p", b"b", b"x" * 30_000]))
    def client_sends(self, number: int, data: bytes) -> None:
        if self.clients:
            client = self.clients[number % len(self.clients)]
            client.settimeout(0.02)
            try:
                client.sendall(data)
            except OSError:
                pass

    @rule(number=st.integers(0, 20), how=st.sampled_from(["close", "reset", "half", "read"]))
    def client_acts(self, number: int, how: str) -> None:
        if not self.clients:
            return
        client = self.clients[number % len(self.clients)]
        client.settimeout(0.02)
        try:
            if how == "half":
                client.shutdown(socket.SHUT_WR)
            elif how == "read":
                client.recv(1 << 16)
            else:
                self.clients.remove(client)
                reset(client) if how == "reset" else client.close()
        except OSError:
            pass

    def calls(self, number: int):
        connections = self.handler.connections
        if not connections:
            return [self.server.statistics]
        connection = connections[number % len(connections)]
        return [
            lambda: connection.send(b"from outside"),
            lambda: connection.send(bytes(15_000)),
            lambda: connection.try_send(bytes(5_000)),
            connection.close,
            connection.abort,
            connection.pause,
            connection.resume,
            connection.shutdown_write,
            connection.statistics,
            lambda: connection.sockname,
            lambda: (connection.peername, repr(connection), connection.id),
            lambda: connection.fail(ValueError("from outside")),
            lambda: setattr(connection, "context", self.server),
            lambda: self.server.broadcast(b"y" * 1000, exclude=[connection]),
            lambda: self.server.broadcast(b"z" * 15_000, slow="close"),
            lambda: self.server.connections,
            self.server.statistics,
        ]

    def attempt(self, call) -> None:
        try:
            call()
        except ALLOWED:
            pass
        except AttributeError as error:
            if "broadcast" not in str(error):
                self.unexpected.append(error)
        except BaseException as error:
            self.unexpected.append(error)

    @rule(number=st.integers(0, 50), which=st.integers(0, 16))
    def one_call(self, number: int, which: int) -> None:
        calls = self.calls(number)
        self.attempt(calls[which % len(calls)])

    @rule(number=st.integers(0, 50), which=st.lists(st.integers(0, 16), min_size=2, max_size=5))
    def calls_from_several_threads_at_once(self, number: int, which: list[int]) -> None:
        calls = self.calls(number)
        self.at_once([calls[index % len(calls)] for index in which])

    @rule(which=st.lists(st.sampled_from(["shutdown", "close", "calls", "submit"]), min_size=1, max_size=4))
    def end_from_several_threads_at_once(self, which: list[str]) -> None:
        server = self.server
        calls = {
            "shutdown": lambda: server.shutdown(0.2),
            "close": server.close,
            "calls": lambda: (server.connections, server.broadcast(b"q"), server.statistics()),
            "submit": lambda: submit(server.pool),
        }
        self.at_once([calls[name] for name in which])

    def at_once(self, calls) -> None:
        barrier = threading.Barrier(len(calls))

        def run(call) -> None:
            barrier.wait(TIMEOUT)
            self.attempt(call)

        threads = [threading.Thread(target=run, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive(), "a call hangs"

    @invariant()
    def nothing_unexpected_was_raised(self) -> None:
        assert self.unexpected == []
        assert self.handler.overlaps == []

    def teardown(self) -> None:
        for client in self.clients:
            client.close()
        for server in self.servers:
            server.shutdown(1)
            server.close()
        if self.pool is not None:
            self.pool.shutdown()
        self.handler.wait_for(
            lambda handler: handler.count("closed") == len(handler.connections), "every connection was told its end exactly once"
        )
        for connection in self.handler.connections:
            names = self.handler.names(connection.id)
            assert names.count("closed") == 1
            assert names[0] == "connected"
            assert names[-1] == "closed"
            connection.context = None


def submit(pool: proactor.ThreadPool) -> None:
    try:
        pool.submit(int)
    except RuntimeError as error:
        assert "shut" in str(error), error  # the pool is over: that is documented


def test_any_sequence_of_calls(caplog) -> None:
    import hypothesis.stateful

    with warnings.catch_warnings():
        hypothesis.stateful.run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=60,
                stateful_step_count=25,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    caplog.clear()
