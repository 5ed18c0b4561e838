"""What ends the console server on Windows: Ctrl-Break, and the end of its console. The rest of it is in the other files."""

import signal
import subprocess
import sys

import pytest
from cli_process import TIMEOUT

pytestmark = pytest.mark.skipif(sys.platform != "win32", reason="is about a Windows console")


def test_ctrl_break_ends_it_in_order_and_a_second_at_once(serve):
    server = serve()
    client = server.clients(1)[0]
    server.signal(signal.SIGBREAK)
    assert server.wait() == 0
    assert server.log.matching(r"shutting down \(SIGBREAK\)")
    assert client.recv(1) == b""
    assert server.report().startswith("served 1 client, ")


CLOSED = """
import ctypes, threading
from proactor.cli import console_close

# What Windows calls when the window is closed, called as Windows does: on a thread of its own.
given = []
class Kernel:
    def SetConsoleCtrlHandler(self, handler, add):
        given.append((handler, add))
        return 1

ctypes.WinDLL = lambda *_, **__: Kernel()
told, came = [], threading.Event()
def tell(name):
    told.append(name)
    came.set()

with console_close.hearing_console_close(tell):
    handler = given[0][0]
    assert handler(0) == handler(1) == 0 and not told, "Ctrl-C and Ctrl-Break are signals"
    answers = []
    thread = threading.Thread(target=lambda: answers.append(handler(2)))
    thread.start()
    assert came.wait(20) and told == ["CTRL_CLOSE_EVENT"]
    assert not answers, "Windows would end the process now"
thread.join(20)
assert answers == [1] and given[1] == (handler, 0)
"""


def test_the_end_of_the_console_is_told_and_waits_for_the_orderly_end():
    subprocess.run([sys.executable, "-c", CLOSED], check=True, timeout=TIMEOUT)
