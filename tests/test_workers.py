"""The threads of a pool: what a debugger, a log and the interpreter's exit see of them."""

import contextvars
import sys
import threading
import traceback

import pytest

import proactor
from peers import TIMEOUT, eventually, read_exactly
from proactor.workers import describe

METHOD = type(str.join)


def test_handlers_run_on_python_threads_with_names_that_tools_see(serve, connect) -> None:
    def handler(connection, data):
        thread = threading.current_thread()
        connection.send(f"{thread.name} {thread.daemon} {thread in threading.enumerate()}".encode())

    client = connect(serve(handler))
    client.sendall(b"x")
    name, daemon, listed = client.recv(100).decode().split()
    assert name.startswith("proactor-")
    assert (daemon, listed) == ("False", "True"), "no daemon: the interpreter waits for it"


def test_a_handlers_stack_is_ordinary_python(serve, connect) -> None:
    def handler(connection, data):
        connection.send("\n".join(frame.name for frame in traceback.extract_stack()).encode())

    client = connect(serve(handler))
    client.sendall(b"x")
    names = client.recv(1000).decode().split("\n")
    assert names[-1] == "handler"
    assert "_work" in names


def test_thread_locals_and_context_variables_belong_to_the_worker(make_pool) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    pool = make_pool(max_workers=1, concurrency=1)
    pool.submit(variable.set, 5).result(TIMEOUT)
    assert pool.submit(variable.get).result(TIMEOUT) == 5
    assert variable.get() == 0


def test_trace_functions_reach_handlers(serve, connect) -> None:
    """`threading.settrace` is how debuggers and coverage see a thread."""
    seen = []

    def trace(frame, event, argument):
        if frame.f_code.co_name == "traced_handler":
            seen.append(event)

    def traced_handler(connection, data):
        connection.send(data)

    before = threading.gettrace()
    threading.settrace(trace)
    try:
        client = connect(serve(traced_handler))
        client.sendall(b"x")
        assert read_exactly(client, 1) == b"x"
    finally:
        threading.settrace(before)
    assert "call" in seen


def test_what_handlers_are_doing_can_be_told(make_pool) -> None:
    pool = make_pool(thread_name_prefix="told")
    entered, release = threading.Event(), threading.Event()

    def reading_the_database():
        entered.set()
        release.wait(TIMEOUT)

    future = pool.submit(reading_the_database)
    assert entered.wait(TIMEOUT)
    lines = list(describe(threading.enumerate()))
    release.set()
    future.result(TIMEOUT)
    [line] = [line for line in lines if line.startswith("told-") and "watcher" not in line]
    assert "reading_the_database (test_workers.py:" in line, "the user's function, not ours around it"


def test_a_recursion_limit_hit_in_a_handler_costs_its_connection_only(serve, connect, caplog) -> None:
    def endless(connection, data):
        def deeper():
            return deeper()

        deeper() if data == b"deep" else connection.send(data)

    server = serve(endless)
    client = connect(server)
    client.sendall(b"deep")
    assert client.recv(1) == b""
    good = connect(server)
    good.sendall(b"fine")
    assert read_exactly(good, 4) == b"fine"
    assert "RecursionError" in caplog.text
    caplog.clear()


def test_memory_that_runs_out_in_a_handler_costs_its_connection_only(serve, connect, caplog) -> None:
    def greedy(connection, data):
        bytearray(sys.maxsize) if data == b"much" else connection.send(data)

    server = serve(greedy)
    client = connect(server)
    client.sendall(b"much")
    assert client.recv(1) == b""
    good = connect(server)
    good.sendall(b"fine")
    assert read_exactly(good, 4) == b"fine"
    caplog.clear()


@pytest.mark.linux("/proc, to look into a process")
def test_os_threads_have_names_too(make_pool) -> None:
    pool = make_pool()
    pool.submit(int).result(TIMEOUT)

    def names():
        found = []
        for tid in proactor_threads():
            try:
                with open(f"/proc/self/task/{tid}/comm") as file:
                    found.append(file.read().strip())
            except OSError:
                pass  # it has just ended
        return found

    eventually(lambda: "proactor-mon" in names(), "the monitor is called by its name")


def proactor_threads():
    import os

    return os.listdir("/proc/self/task")


def test_a_handler_may_start_and_join_threads_of_its_own(serve, connect) -> None:
    def handler(connection, data):
        results = []
        threads = [threading.Thread(target=results.append, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        connection.send(bytes(sorted(results)))

    client = connect(serve(handler))
    client.sendall(b"x")
    assert read_exactly(client, 5) == bytes(range(5))


@pytest.mark.parametrize("public", [proactor.Connection, proactor.File, proactor.CompletionPort])
def test_the_interpreter_finds_a_public_class_own_native_methods(public):
    methods = [name for name, value in vars(public.__base__).items() if type(value) is METHOD and not name.startswith("__")]
    assert methods
    for name in methods:
        own = vars(public)[name]
        assert type(own) is not METHOD or (own.__objclass__ is public and own.__qualname__ == f"{public.__qualname__}.{name}")
        assert own.__doc__ or name.startswith("_")
