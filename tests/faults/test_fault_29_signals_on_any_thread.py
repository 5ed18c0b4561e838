"""Fault 29: a signal lands on a native thread, a worker, the leader. It is neither lost nor does it disturb anybody."""

import ctypes
import os
import signal
import threading

import pytest

import proactor
from peers import TIMEOUT, Program, dial, echo, eventually, read_exactly

pytestmark = pytest.mark.linux("signals to threads")

SERVER = """
import os, signal, sys, threading
import proactor

counts = {}
def count(number, frame):
    counts[number] = counts.get(number, 0) + 1
    print("signal", int(number), counts[number], threading.current_thread() is threading.main_thread())

signal.signal(signal.SIGUSR1, count)
server = proactor.serve(lambda connection, data: connection.send(data), ("127.0.0.1", 0))
signal.signal(signal.SIGTERM, lambda *_: print("report", server.shutdown(5).completed))
try:
    print(server.address[1])
    server.serve_forever()
except KeyboardInterrupt:
    print("interrupted")
print("over", server.shutdown(5).completed)
"""


def send_to_thread(process: Program, thread: int, number: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.tgkill(process.process.pid, thread, number) != 0:
        raise OSError(ctypes.get_errno(), "tgkill")


def threads(process: Program) -> dict[int, str]:
    folder = f"/proc/{process.process.pid}/task"
    found = {}
    for name in os.listdir(folder):
        with open(f"{folder}/{name}/comm") as file:
            found[int(name)] = file.read().strip()
    return found


def warm_up(address) -> None:
    with dial(address) as client:
        client.sendall(b"x")
        assert read_exactly(client, 1) == b"x"


def test_a_signal_on_each_thread_reaches_its_handler_in_the_main_thread(program) -> None:
    server: Program = program(SERVER)
    address = server.address()
    warm_up(address)
    eventually(lambda: "proactor-mon" in threads(server).values(), "the native one is among them")
    sent = 0
    with dial(address) as client:
        for _ in range(3):
            for thread in threads(server):
                send_to_thread(server, thread, signal.SIGUSR1)
                sent += 1
                assert server.line() == f"signal {int(signal.SIGUSR1)} {sent} True"
                client.sendall(b"still")
                assert read_exactly(client, 5) == b"still"
    server.process.terminate()
    assert server.line() == "report True"
    assert server.wait() == 0, server.errors()


@pytest.mark.parametrize(("number", "said"), [(signal.SIGTERM, "report True"), (signal.SIGINT, "interrupted")])
@pytest.mark.parametrize("which", ["main", "monitor", "worker", "last"])
def test_a_signal_to_end_works_on_whichever_thread_it_lands(program, number, said, which) -> None:
    server: Program = program(SERVER)
    warm_up(server.address())
    # A native thread gives itself its name, as soon as it runs.
    all_of_them = eventually(lambda: "proactor-mon" in (found := threads(server)).values() and found, "the monitor runs")
    others = sorted(set(all_of_them) - {server.process.pid})
    thread = {
        "main": server.process.pid,
        "monitor": next(thread for thread, name in all_of_them.items() if name == "proactor-mon"),
        "worker": next(thread for thread in others if all_of_them[thread] != "proactor-mon"),
        "last": others[-1],
    }[which]
    send_to_thread(server, thread, number)
    assert server.line() == said
    assert server.line() == "over True"
    assert server.wait() == 0, server.errors()


def test_a_rain_of_signals_under_load_loses_no_byte(program) -> None:
    server: Program = program(SERVER)
    address = server.address()
    warm_up(address)
    stop = threading.Event()

    def rain() -> None:
        while not stop.is_set():
            for thread in threads(server):
                try:
                    send_to_thread(server, thread, signal.SIGUSR1)
                except ProcessLookupError:
                    pass  # a worker has retired

    raining = threading.Thread(target=rain)
    raining.start()
    try:
        with dial(address) as client:
            for number in range(500):
                message = number.to_bytes(4, "big") * 500
                client.sendall(message)
                assert read_exactly(client, len(message)) == message
    finally:
        stop.set()
        raining.join(TIMEOUT)
    server.process.terminate()
    assert server.wait() == 0, server.errors()


def test_serve_forever_hands_signals_on_to_an_older_wake_up_descriptor() -> None:
    """An event loop elsewhere in the program relies on it."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    handled = []
    before = signal.signal(signal.SIGUSR2, lambda *_: (handled.append(1), threading.Thread(target=server.shutdown).start()))
    old = signal.set_wakeup_fd(writer)
    server = proactor.serve(echo, ("127.0.0.1", 0))
    try:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR2))
        timer.start()
        server.serve_forever()
        timer.join(TIMEOUT)
        assert handled == [1]
        assert os.read(reader, 10) == bytes([signal.SIGUSR2])
        assert signal.set_wakeup_fd(old) == writer, "and it is put back"
    finally:
        signal.set_wakeup_fd(old)
        signal.signal(signal.SIGUSR2, before)
        os.close(reader)
        os.close(writer)
        server.shutdown(TIMEOUT)


@pytest.mark.parametrize("call", ["send", "shutdown"])
def test_a_main_thread_that_waits_in_a_call_of_ours_runs_signal_handlers(connect, call) -> None:
    """`send` at its limit and `shutdown` both wait; Ctrl-C must not."""
    from peers import Recorder

    handler = Recorder()
    server = proactor.serve(handler, ("127.0.0.1", 0), send_limit=10_000)
    connect(server, receive_buffer=4096)
    handler.wait_for_count("connected", 1)
    [connection] = handler.connections
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(InterruptedError, match="by the test"):
            wait_in(call, connection, server)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    server.close()
    eventually(lambda: handler.count("closed") == 1, "it ends")


def wait_in(call, connection, server) -> None:
    if call == "send":
        while True:
            connection.send(bytes(9_000))
    connection.send(bytes(30_000_000))
    server.shutdown()


def interrupt(number, frame):
    raise InterruptedError("by the test")
