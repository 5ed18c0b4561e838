"""Fault 17: a signal handler that shuts down, wherever it interrupts a shutdown or a start. It runs in the main thread, on top of whatever
that was doing, so whatever it waits for must not be held below it.

Signals come when they like: here the handler is called before each instruction of our Python in turn.
"""

import pytest

from peers import run_python

PROGRAM = """
import faulthandler, os, socket, sys, threading
import proactor

OURS = os.path.dirname(proactor.__file__)
FILES = {threading.__file__, *(os.path.join(OURS, name) for name in ("server.py", "pool.py", "workers.py"))}

def interrupt(function, handler, at):
    '''Calls `handler` before the instruction number `at` of `function`; says whether there were so many.'''
    left = at
    def trace(frame, event, argument):
        nonlocal left
        if frame.f_code.co_filename not in FILES:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                handler()  # not traced itself
        return trace
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(None)
    return left <= 0

def shutting_down_a_server():
    server = proactor.serve(lambda connection, data: None, ("127.0.0.1", 0))
    return server.shutdown, server.shutdown

def shutting_down_a_pool():
    pool = proactor.ThreadPool(max_workers=2)
    pool.submit(int).result()
    return pool.shutdown, pool.shutdown

def starting_a_pool():
    pool = proactor.ThreadPool(max_workers=2)
    def submit():
        try:
            pool.submit(int)
        except RuntimeError:
            pass  # it came after the shutdown
    return submit, pool.shutdown

def while_another_shuts_down(what):
    '''It waits for a handler to return, and then needs of the server what the main thread may have.'''
    entered, go_on = threading.Event(), threading.Event()
    def stays(connection, data):
        entered.set()
        go_on.wait()
    server = proactor.serve(stays, ("127.0.0.1", 0))
    client = socket.create_connection(server.address)
    client.sendall(b"x")
    entered.wait()
    threading.Thread(target=server.shutdown).start()
    while True:
        try:
            socket.create_connection(server.address).close()
        except OSError:
            break  # refused or reset: it has begun
    def handler():
        go_on.set()
        server.shutdown()
        client.close()
    threading.Timer(0.01, go_on.set).start()  # where the handler comes later
    return getattr(server, what), handler

def serving_while_another_shuts_down():
    return while_another_shuts_down("serve_forever")

def shutting_down_while_another_does():
    return while_another_shuts_down("shutdown")

at = 0
more = True
while more:
    faulthandler.dump_traceback_later(20, exit=True)  # one that hangs, not all of them together
    at += 1
    function, handler = globals()[sys.argv[1]]()
    more = interrupt(function, handler, at)
    handler()
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join()  # a handler that could not wait has left this to others
assert at > (30 if sys.argv[1].endswith('another_does') else 100), at
"""


@pytest.mark.parametrize(
    "which",
    [
        "shutting_down_a_server",
        "shutting_down_a_pool",
        "starting_a_pool",
        pytest.param("serving_while_another_shuts_down", marks=pytest.mark.slow),
        pytest.param("shutting_down_while_another_does", marks=pytest.mark.slow),
    ],
)
def test_a_signal_handler_that_shuts_down_waits_for_nothing_that_it_interrupted(which) -> None:
    ended = run_python(PROGRAM, which, timeout=90)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
