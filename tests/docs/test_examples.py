"""The examples where it gets hard: what a user who starts from one of them inherits. That they run at all: test_documents.py."""

import importlib.util
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.linux("backlogs and limits as Linux has them")

EXAMPLES = Path(__file__).parents[2] / "examples"
TIMEOUT = 30.0
FEW_DESCRIPTORS = 24


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_silent_ports_do_not_keep_the_mass_connector_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    connector = example("port_connector")
    monkeypatch.setattr(connector, "WINDOW", 1)
    monkeypatch.setattr(connector, "PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent, socket.create_server(("127.0.0.1", 0)) as listening:
        filling = [socket.socket() for _ in range(4)]
        for one in filling:  # a full backlog answers nobody
            one.setblocking(False)
            one.connect_ex(silent.getsockname())
        ports = [silent.getsockname()[1], listening.getsockname()[1]]
        assert connector.scan("127.0.0.1", ports) == ([ports[1]], 1)
        for one in filling:
            one.close()


def test_the_echo_server_waits_for_descriptors_and_goes_on(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    source = (EXAMPLES / "port_echo.py").read_text().replace("60001", str(address[1]))
    (tmp_path / "echo.py").write_text(source)
    limited = ["sh", "-c", f'ulimit -n {FEW_DESCRIPTORS}; exec "$@"', "sh"]
    server = subprocess.Popen([*limited, sys.executable, tmp_path / "echo.py"], stdout=subprocess.PIPE)
    assert server.stdout is not None
    clients: list[socket.socket] = []
    rest = threading.Thread(target=server.stdout.read)
    try:
        assert server.stdout.readline().startswith(b"listening")
        clients += [socket.create_connection(address, TIMEOUT) for _ in range(30)]
        lines = lines_within(server.stdout.fileno(), 1.0)
        assert b"accept failed: [Errno 24]" in lines[0]
        assert len(lines) < 1000, "16 accepts, ten times a second; at once they would fail 20,000 times"
        while clients:
            clients.pop().close()
        with socket.create_connection(address, TIMEOUT) as client:
            rest.start()  # it goes on to say what has failed
            client.sendall(b"served")
            assert client.recv(100) == b"served"
        server.send_signal(signal.SIGINT)
        assert server.wait(TIMEOUT) == 0
        rest.join()
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
        for client in clients:
            client.close()


def lines_within(descriptor: int, seconds: float) -> list[bytes]:
    """What comes in so many seconds after the first."""
    said = b""
    until = None
    while until is None or time.monotonic() < until:
        left = TIMEOUT if until is None else max(0.0, until - time.monotonic())
        if not select.select([descriptor], [], [], left)[0]:
            break
        said += os.read(descriptor, 65536)
        until = until or time.monotonic() + seconds
    return said.splitlines()
