"""Fault 17: SIGTERM and SIGINT under load, twice. What was taken is answered, and the process ends; it neither hangs nor crashes."""

import signal
import socket
import threading

import pytest

from peers import TIMEOUT, Program, dial
from platforms import LINUX

ENDED = -signal.SIGTERM if LINUX else 1
"""What `terminate` leaves: on Windows there is nobody to send SIGTERM from outside, and it ends the process at once."""

INTERRUPTED = -signal.SIGINT if LINUX else 0xC000013A
"""What Python leaves of a KeyboardInterrupt that nobody caught. On Windows: STATUS_CONTROL_C_EXIT."""

SERVER = """
import signal, sys, threading
import proactor

def handler(connection, data):
    connection.send(data)

def stop(number, frame):
    print("report", server.shutdown(5))

with proactor.serve(handler, ("127.0.0.1", 0)) as server:
    if "handler" in sys.argv:
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
    print(server.address[1])
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("interrupted")
print("over", *(thread.name for thread in threading.enumerate() if thread.name != "signals"))
"""


class Load:
    """Clients that send and check echoes until the server ends them."""

    def __init__(self, address, count: int = 8) -> None:
        self.wrong: list[object] = []
        self.rounds = 0
        self.warm = threading.Event()
        self.clients = [dial(address) for _ in range(count)]
        self.threads = [threading.Thread(target=self.run, args=(client,)) for client in self.clients]
        for thread in self.threads:
            thread.start()
        assert self.warm.wait(TIMEOUT)

    def run(self, client: socket.socket) -> None:
        number = 0
        try:
            while True:
                number += 1
                message = b"%08d" % number
                client.sendall(message)
                answer = client.recv(8, socket.MSG_WAITALL)
                self.rounds += 1
                if self.rounds > 100:
                    self.warm.set()
                if answer != message:
                    if not message.startswith(answer):
                        self.wrong.append((message, answer))
                    return
        except TimeoutError as error:
            self.wrong.append(error)
        except OSError:
            pass  # the end came while this client was sending: that is no lost answer

    def finish(self) -> None:
        for thread in self.threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()
        for client in self.clients:
            client.close()
        assert self.wrong == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_signal_handler_that_shuts_down_ends_it_in_order(program, number, times) -> None:
    server: Program = program(SERVER, "handler", signals=True)
    load = Load(server.address())
    for _ in range(times):
        server.signal(number)
    # A further signal may come when the interpreter has given its handler up already, at its very end.
    assert server.wait() in {0, -number if times > 1 else 0}, server.errors()
    load.finish()
    lines = server.lines()
    assert any("completed=True" in line and "dropped=0" in line and "running=()" in line for line in lines), lines
    assert not any("proactor-" in line for line in lines), "no handler is named as running that is not"
    assert server.errors() == ""


def test_ctrl_c_interrupts_serve_forever_and_the_with_block_ends_it_in_order(program) -> None:
    server: Program = program(SERVER, signals=True)
    load = Load(server.address())
    server.signal(signal.SIGINT)
    assert server.wait() == 0, server.errors()
    load.finish()
    assert server.line() == "interrupted"
    assert server.line() == "over MainThread"
    assert server.errors() == ""


@pytest.mark.parametrize("repeat", range(5))
def test_ctrl_c_twice_ends_it_without_a_crash(program, repeat) -> None:
    server: Program = program(SERVER, signals=True)
    load = Load(server.address())
    server.signal(signal.SIGINT)
    server.signal(signal.SIGINT)
    code = server.wait()
    load.finish()
    assert code in (0, 1, 130, INTERRUPTED), server.errors()
    assert "Fatal" not in server.errors()
    # At its very end the interpreter has given its handler up: a signal that comes then ends it as any process, without a word.
    silent = code == INTERRUPTED and server.errors() == ""
    assert code == 0 or silent or "KeyboardInterrupt" in server.errors()


@pytest.mark.wine("a socket of a process that was ended with an operation under way may stay open, and its peer is not told")
def test_sigterm_without_a_handler_ends_it_as_any_process(program) -> None:
    server: Program = program(SERVER, signals=True)
    load = Load(server.address())
    server.process.terminate()
    assert server.wait() == ENDED
    load.finish()


BLOCKED = """
import signal, sys, time
import proactor

def handler(connection, data):
    connection.send(b"begun")
    time.sleep(0.5)
    connection.send(b"finished")

with proactor.serve(handler, ("127.0.0.1", 0)) as server:
    signal.signal(signal.SIGTERM, lambda *_: print("report", server.shutdown(10)))
    print(server.address[1])
    server.serve_forever()
"""


def test_a_request_that_is_under_way_is_answered(program) -> None:
    server: Program = program(BLOCKED, signals=True)
    with dial(server.address()) as client:
        client.sendall(b"x")
        assert client.recv(5, socket.MSG_WAITALL) == b"begun"
        server.signal(signal.SIGTERM)
        assert client.recv(100, socket.MSG_WAITALL) == b"finished"
    assert server.wait() == 0, server.errors()
