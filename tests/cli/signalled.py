"""Runs the command as `python -m proactor` does, and raises the signals in it whose numbers come on a socket: signalled.py PORT ARGUMENTS.

For Windows, where a process gets Ctrl-C and Ctrl-Break from its console only. The handler is called on a thread of its own, as there.
"""

import runpy
import signal
import socket
import sys
import threading


def hear(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while number := connection.recv(1):
            signal.raise_signal(number[0])


threading.Thread(target=hear, args=(int(sys.argv.pop(1)),), name="signals", daemon=True).start()
runpy.run_module("proactor", run_name="__main__", alter_sys=True)
