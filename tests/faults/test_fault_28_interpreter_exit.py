"""Fault 28: the interpreter ends with live connections and queued work. No hang, no crash, nothing half-written; again and again."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from peers import run_python
from platforms import WINE

HEAD = """
import socket, sys, threading, time, warnings
import proactor
warnings.simplefilter("ignore", ResourceWarning)

server = proactor.serve(lambda connection, data: connection.send(data), ("127.0.0.1", 0))
clients = [socket.create_connection(server.address) for _ in range(20)]
for client in clients:
    client.sendall(b"x" * 1000)
"""

PROGRAMS = {
    "falls off the end": "",
    "exits": "sys.exit(0)",
    "exits in a with block": "with server: sys.exit(0)",
    "queued work": "done = []\nfor number in range(200): server.pool.submit(lambda: (time.sleep(0.0005), done.append(1)))",
    "handlers at work": """
def slow(connection, data):
    time.sleep(0.05)
    connection.send(data)
second = proactor.serve(slow, ("127.0.0.1", 0))
others = [socket.create_connection(second.address) for _ in range(10)]
for other in others: other.sendall(b"y")
""",
    "broadcasts from a thread": """
def broadcast():
    for _ in range(200): server.broadcast(b"news" * 100)
threading.Thread(target=broadcast).start()
""",
    "a client of ours": "connection = proactor.connect(server.address, lambda connection, data: None); connection.send(b'x' * 100000)",
    "closed handlers that work": """
class Handler(proactor.Handler):
    def closed(self, connection, error): time.sleep(0.001)
third = proactor.serve(Handler, ("127.0.0.1", 0))
more = [socket.create_connection(third.address) for _ in range(10)]
""",
    "everything in a cycle": """
class Handler(proactor.Handler):
    def connected(self, connection): connection.context = (self, connection, server)
handler = Handler()
handler.server = proactor.serve(handler, ("127.0.0.1", 0))
more = [socket.create_connection(handler.server.address) for _ in range(10)]
""",
    "a pool nobody shut down": "pool = proactor.ThreadPool(); futures = [pool.submit(time.sleep, 0.001) for _ in range(50)]",
    "a pool that dies late": "import builtins; pool = proactor.ThreadPool(); pool.submit(int).result(); builtins.kept = pool",
    "a module global that dies late": "import builtins; builtins.kept = (server, clients, server.connections)",
}


@pytest.mark.parametrize("how", PROGRAMS)
def test_the_interpreter_ends_in_order(how) -> None:
    source = HEAD + PROGRAMS[how]

    def run(_number: int):
        return run_python(source, timeout=40)

    with ThreadPoolExecutor(2) as pool:
        times = 30 if how in ("falls off the end", "queued work") else 5
        for result in pool.map(run, range(times // 5 if WINE else times)):  # there to start a program takes a second
            assert result.returncode == 0, result.stderr
            assert result.stderr == ""


def test_an_uncaught_exception_in_main_ends_it_with_its_traceback() -> None:
    result = run_python(HEAD + "raise LookupError('in main')")
    assert result.returncode == 1
    assert "LookupError: in main" in result.stderr
    assert "Fatal" not in result.stderr


def test_work_queued_at_exit_is_done() -> None:
    source = """
import os, proactor, time
pool = proactor.ThreadPool(max_workers=2)
for number in range(50):
    pool.submit(lambda number=number: (time.sleep(0.001), os.write(1, b"%d\\n" % number)))
"""
    result = run_python(source)
    assert result.returncode == 0, result.stderr
    assert sorted(map(int, result.stdout.split())) == list(range(50)), "as the standard library's pool does it"


def test_submitting_while_the_interpreter_ends_is_refused_or_done() -> None:
    source = """
import proactor
pool = proactor.ThreadPool()
def again(depth):
    try:
        pool.submit(again, depth + 1)
    except RuntimeError as error:
        print("refused", flush=True)
pool.submit(again, 0)
"""
    result = run_python(source)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "refused\n"
    assert result.stderr == ""


def test_a_server_shut_down_in_atexit_is_in_time() -> None:
    source = HEAD + "import atexit\natexit.register(lambda: print(server.shutdown(5)))"
    result = run_python(source)
    assert result.returncode == 0, result.stderr
    assert "ShutdownReport" in result.stdout


def test_a_warning_tells_a_server_that_was_forgotten() -> None:
    result = run_python("import proactor\nserver = proactor.serve(print, ('127.0.0.1', 0))\ndel server")
    assert "was never shut down" in result.stderr


def test_the_last_reference_to_a_pool_may_go_when_its_module_is_empty() -> None:
    """The interpreter's end sets a module's names to None; which objects are still there then differs from build to build."""
    result = run_python("""
import sys
import proactor
pool = proactor.ThreadPool()
pool.submit(int).result()
names = vars(sys.modules["proactor.pool"])
names.update(dict.fromkeys(names))
del pool
""")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
