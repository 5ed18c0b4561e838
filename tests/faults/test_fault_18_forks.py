"""Fault 18: fork in a handler. The child gets a clear error from everything of the parent's, and the parent does not notice it."""

import pytest

from peers import Program, dial, read_exactly

pytestmark = pytest.mark.linux("fork")

HEAD = """
import multiprocessing, os, signal, subprocess, sys, threading, time, warnings
import proactor
warnings.simplefilter("ignore", DeprecationWarning)  # of fork with threads: that is what is tried here

def serve(handler):
    with proactor.serve(handler, ("127.0.0.1", 0)) as server:
        globals()["server"] = server
        print(server.address[1])
        while os.read(0, 100):  # not sys.stdin: a child of multiprocessing closes it, and would wait for the lock that is held here
            print(server.statistics())
    print("over")
"""

ERRORS = (
    HEAD
    + """
def attempt(call):
    try:
        return f"{call()!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"

def handler(connection, data):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        calls = [
            lambda: connection.send(b"from the child"), lambda: connection.try_send(b"x"), lambda: connection.receive(),
            lambda: connection.shutdown_write(), lambda: connection.close(), lambda: connection.abort(), lambda: connection.pause(),
            lambda: server.pool.submit(int), lambda: server.broadcast(b"x"), lambda: server.connections, lambda: server.serve_forever(),
            lambda: server.shutdown(),
            lambda: server.statistics(), lambda: server.pool.statistics(), lambda: connection.statistics(),
            lambda: proactor.serve(handler, ("127.0.0.1", 0), pool=server.pool),
        ]
        os.write(writer, "\\n".join(map(attempt, calls)).encode())
        repr(connection), repr(server), connection.id, server.close(), server.pool.shutdown()  # these are harmless
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    _, status = os.waitpid(pid, 0)
    connection.send(f"{status}\\n{text}".encode() + b"\\0")
serve(handler)
"""
)


def test_the_child_gets_a_clear_error_from_every_call(program) -> None:
    server: Program = program(ERRORS)
    with dial(server.address()) as client:
        for _ in range(3):
            client.sendall(b"fork")
            answer = b""
            while not answer.endswith(b"\0"):
                chunk = client.recv(65536)
                assert chunk, server.errors()
                answer += chunk
            status, *lines = answer[:-1].decode().split("\n")
            assert status == "0"
            assert len(lines) == 16
            for line in lines:
                assert line.startswith("RuntimeError: "), line
                assert "fork" in line or "parent process" in line, line
    server.process.stdin.close()
    assert server.wait() == 0, server.errors()


LIVING_CHILD = (
    HEAD
    + """
children = []

def handler(connection, data):
    if data == b"fork":
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writer, b"x")
            signal.pause()  # lives on, with copies of every descriptor that was not closed
            os._exit(0)
        os.read(reader, 1)  # the child runs
        os.close(reader)
        os.close(writer)
        children.append(pid)
        connection.send(b"forked")
    elif data == b"close":
        connection.close()
    elif data == b"kill":
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        children.clear()
        connection.send(b"killed")
    else:
        connection.send(data)
serve(handler)
"""
)


def test_a_child_that_lives_on_neither_delays_an_end_nor_holds_the_port(program) -> None:
    server: Program = program(LIVING_CHILD)
    address = server.address()
    with dial(address) as other, dial(address) as client:
        other.sendall(b"before")
        assert read_exactly(other, 6) == b"before"
        client.sendall(b"fork")
        assert read_exactly(client, 6) == b"forked"
        client.sendall(b"close")
        assert client.recv(1) == b"", "the end comes while the child still lives"
        other.sendall(b"after")
        assert read_exactly(other, 5) == b"after"
        other.sendall(b"kill")
        assert read_exactly(other, 6) == b"killed"
        other.sendall(b"alive")
        assert read_exactly(other, 5) == b"alive", "the child's end ended nothing of the parent's"
        other.sendall(b"fork")
        assert read_exactly(other, 6) == b"forked"
        server.process.stdin.close()
        assert server.line() == "over"
        assert other.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        dial(address)
    assert server.process.wait(20) == 0


MULTIPROCESSING = (
    HEAD
    + """
def child(queue, text):
    queue.put(text.upper())

def handler(connection, data):
    method, text = data.decode().split()
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(queue, text))
    process.start()
    answer = queue.get()
    process.join()
    connection.send(f"{answer} {process.exitcode}".encode())

if __name__ == "__main__":
    serve(handler)
"""
)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing_works_in_a_handler(program, tmp_path, method) -> None:
    (tmp_path / "application.py").write_text(MULTIPROCESSING)
    server: Program = program("import runpy; runpy.run_path('application.py', run_name='__main__')", cwd=tmp_path)
    with dial(server.address()) as client:
        for word in ("one", "two"):
            client.sendall(f"{method} {word}".encode())
            assert client.recv(100).decode() == f"{word.upper()} 0", server.errors()
    server.process.stdin.close()
    assert server.wait() == 0, server.errors()


SUBPROCESS = (
    HEAD
    + """
def handler(connection, data):
    shown = subprocess.run([sys.executable, "-c", "import os; print(os.listdir('/proc/self/fd'))"], capture_output=True, text=True)
    connection.send(shown.stdout.encode())
serve(handler)
"""
)


def test_a_subprocess_inherits_no_descriptor_of_ours(program) -> None:
    server: Program = program(SUBPROCESS)
    with dial(server.address()) as client:
        client.sendall(b"x")
        assert len(client.recv(1000).decode().split(",")) == 4, "standard input, output and error, and the directory it lists"
    server.process.stdin.close()
    assert server.wait() == 0


ENDING_CHILD = (
    HEAD
    + """
server = proactor.serve(lambda connection, data: connection.send(data), ("127.0.0.1", 0))
client = proactor.connect(server.address, lambda connection, data: None)
pid = os.fork()
if pid == 0:
    sys.exit(7)  # through the whole of the interpreter's end
_, status = os.waitpid(pid, 0)
print("child", os.waitstatus_to_exitcode(status))
pid = os.fork()
if pid == 0:
    # A server of its own, in a child.
    with proactor.serve(lambda connection, data: connection.send(data), ("127.0.0.1", 0)) as own:
        import socket
        with socket.create_connection(own.address) as peer:
            peer.sendall(b"x")
            assert peer.recv(1) == b"x"
    os._exit(8)
_, status = os.waitpid(pid, 0)
print("child", os.waitstatus_to_exitcode(status))
client.close()
print("report", server.shutdown(5).completed)
"""
)


def test_a_child_may_end_as_any_process_and_may_serve_by_itself(program) -> None:
    parent: Program = program(ENDING_CHILD)
    assert parent.line() == "child 7", parent.errors()
    assert parent.line() == "child 8", parent.errors()
    assert parent.line() == "report True"
    assert parent.wait() == 0, parent.errors()


STORM = (
    HEAD
    + """
def handler(connection, data):
    connection.send(data)

def fork_again_and_again():
    for _ in range(100):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    os.write(1, b"forked\\n")  # whole: the main thread prints too

threading.Thread(target=fork_again_and_again).start()
serve(handler)
"""
)


def test_forks_at_any_moment_leave_the_parent_alone(program) -> None:
    server: Program = program(STORM)
    address = server.address()
    lines = []
    with dial(address) as client:
        number = 0
        while not lines:
            message = b"%08d" % number
            client.sendall(message)
            assert read_exactly(client, 8) == message
            number += 1
            if number % 50 == 0:
                server.say("statistics")
                while "accepted" not in (line := server.line()):
                    lines.append(line)
    assert lines == ["forked"]
    server.process.stdin.close()
    server.wait()
    assert server.errors() == ""


EVENTS = (
    HEAD
    + """
def attempt(call):
    try:
        return f"{call()!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"

pool = proactor.ThreadPool()
event, over = proactor.Event(), proactor.Event()
wait = pool.call_when(event, print)
pid = os.fork()
if pid == 0:
    own = proactor.ThreadPool()
    calls = [
        event.set, event.clear, event.is_set, event.wait, lambda: event.wait(0), event.statistics,
        lambda: own.call_when(event, print), lambda: over.set(),
    ]
    for call in calls:
        print("call", attempt(call))
    print("repr", repr(event))
    del event, over, calls, call  # harmless
    one = proactor.Event()
    came = threading.Event()
    own.call_when(one, lambda signalled: came.set())
    one.set()
    print("own", came.wait(20))
    own.shutdown()
    os._exit(0)
_, status = os.waitpid(pid, 0)
print("child", os.waitstatus_to_exitcode(status), event.is_set(), wait.pending)
wait.cancel()
"""
)


def test_an_event_of_the_parents_says_so_in_the_child_and_a_new_one_works_there(program) -> None:
    parent: Program = program(EVENTS)
    for _ in range(8):
        line = parent.line()
        assert line.startswith("call RuntimeError: "), line
        assert "parent process" in line
    assert parent.line() == "repr <Event of the parent process>"
    assert parent.line() == "own True", parent.errors()
    assert parent.line() == "child 0 False True"
    assert parent.wait() == 0, parent.errors()
