"""How servers and the program end together: a served one keeps the program alive, one that nobody serves ends with the main thread."""

import signal
import threading

import pytest

import proactor
import proactor.server
from peers import Program, dial, eventually, read_exactly

HEAD = """
import os, threading, time
import proactor

class Echo(proactor.Handler):
    def received(self, connection, data):
        if data == b"stop":
            connection.server.shutdown(5)
        else:
            connection.send(data)

# Called before ours, which was registered earlier.
threading._register_atexit(lambda: print("main has ended", flush=True))
"""

SERVED = {
    "a thread of serve_forever": """
server = proactor.serve(Echo, "127.0.0.1:0")
print(server.address[1])
threading.Thread(target=server.serve_forever).start()
""",
    "a thread that does it all": """
ready = threading.Event()
def run():
    with proactor.serve(Echo, "127.0.0.1:0") as server:
        print(server.address[1])
        ready.set()
        server.serve_forever()
threading.Thread(target=run).start()
ready.wait()
""",
    "two threads of one server, on a pool of the program's": """
server = proactor.serve(Echo, "127.0.0.1:0", pool=proactor.ThreadPool(2))
print(server.address[1])
for daemon in (True, False):
    threading.Thread(target=server.serve_forever, daemon=daemon).start()
""",
}


@pytest.mark.parametrize("how", SERVED)
def test_a_server_served_by_an_ordinary_thread_outlives_the_main_thread(program, how) -> None:
    server: Program = program(HEAD + SERVED[how])
    address = server.address()
    assert server.line() == "main has ended"
    for _ in range(3):
        with dial(address) as client:
            client.sendall(b"hello")
            assert read_exactly(client, 5) == b"hello"
    with dial(address) as client:
        client.sendall(b"stop")
        assert server.wait() == 0
    assert server.errors() == ""


def test_ctrl_c_ends_a_server_that_outlives_the_main_thread(program) -> None:
    server: Program = program(HEAD + SERVED["a thread that does it all"], signals=True)
    address = server.address()
    assert server.line() == "main has ended"
    with dial(address) as client:
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"
        server.signal(signal.SIGINT)
        assert client.recv(1) == b"", "in order"
    assert server.wait() == 0
    assert server.errors() == ""


def test_a_daemon_thread_keeps_nothing_alive(program) -> None:
    server: Program = program(
        HEAD
        + """
server = proactor.serve(Echo, "127.0.0.1:0")
threading.Thread(target=server.serve_forever, daemon=True).start()
"""
    )
    assert server.wait() == 0


NOT_SERVED = """
server = proactor.serve(Echo, "127.0.0.1:0")
print(server.address[1])
def last():
    os.read(0, 100)
    server.serve_forever()
    print("nothing is left to serve", flush=True)
threading.Thread(target=last).start()
"""


def test_a_server_that_nobody_serves_stops_listening_with_the_main_thread(program) -> None:
    server: Program = program(HEAD + NOT_SERVED)
    address = server.address()
    assert server.line() == "main has ended"

    def is_refused() -> bool:
        try:
            dial(address).close()
        except ConnectionRefusedError:
            return True
        return False

    eventually(is_refused, "it accepts nobody whom it could not serve")
    server.say("go on")
    assert server.line() == "nothing is left to serve", "a late serve_forever does not wait for ever"
    assert server.wait() == 0


STUCK = """
entered, go_on = threading.Event(), threading.Event()
def stuck(connection, data):
    entered.set()
    go_on.wait()
server = proactor.serve(stuck, "127.0.0.1:0")
print(server.address[1])
def let_go():
    if os.read(0, 100):
        go_on.set()
threading.Thread(target=let_go, daemon=True).start()
import socket
client = socket.create_connection(server.address)
client.sendall(b"x")
entered.wait()
"""


@pytest.mark.parametrize("how", ["the handler returns", "Ctrl-C"])
def test_the_end_of_the_program_says_once_for_which_handlers_it_waits(program, how) -> None:
    server: Program = program(HEAD + STUCK, signals=how == "Ctrl-C")
    server.line()
    server.wait_for_error("the end of the program waits for handlers that have not returned (Ctrl-C ends it): proactor-")
    assert server.errors().count("waits for handlers") == 1
    assert ": stuck (" in server.errors()
    assert server.process.poll() is None
    if how == "Ctrl-C":
        server.signal(signal.SIGINT)
        server.wait()
    else:
        server.say("go on")
        assert server.wait() == 0


def test_ctrl_c_while_the_end_of_the_program_says_why_it_waits_ends_it(program) -> None:
    interrupts = """
import logging, signal, signalling
class Interrupts(logging.StreamHandler):
    def emit(self, record):
        super().emit(record)
        signalling.signal_this_process(signal.SIGINT)
logging.getLogger("proactor").addHandler(Interrupts())
"""
    server: Program = program(HEAD + interrupts + STUCK)
    server.wait_for_error("the end of the program waits for handlers")
    server.wait()


def test_leaving_the_with_block_says_which_handlers_did_not_return_in_time(caplog, monkeypatch, connect) -> None:
    monkeypatch.setattr(proactor.server, "_DRAIN_SECONDS", 0.1)
    go_on, there = threading.Event(), threading.Event()

    def stuck(connection, data):
        there.set()
        go_on.wait()

    with proactor.ThreadPool() as pool:
        with proactor.serve(stuck, "127.0.0.1:0", pool=pool) as server:
            connect(server).sendall(b"x")
            assert there.wait(10)
        assert "were not enough to shut down; handlers that have not returned: proactor-" in caplog.text
        go_on.set()
