"""One measurement: starts one server, drives it with the generator, ends it. Knows processes; knows nothing of ratios and tables.

Every process here is bounded in time and is ended by its process id.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from suite import Server, Workload

SERVERS_FOLDER = Path(__file__).parent / "servers"
START_SECONDS = 15
STOP_SECONDS = 5
# On top of warm-up and measurement: connecting, waiting for the last answers.
GENERATOR_EXTRA_SECONDS = 150


class MeasurementError(Exception):
    """A server did not start or died, or the generator saw a wrong byte. The text says which, with what the process wrote."""


@dataclasses.dataclass(frozen=True)
class Setting:
    python: Path
    generator: Path
    server_cpus: frozenset[int]
    generator_cpus: frozenset[int]
    seconds: float
    warmup: float
    work_iterations: int


class RunningServer:
    """A context manager: the server process, listening on `port`."""

    def __init__(self, server: Server, mode: str, setting: Setting):
        self.name = server.name
        if server.program is None:
            command = [setting.generator, "epoll-echo", "--port", "0"]
        else:
            command = [setting.python, SERVERS_FOLDER / server.program, "--port", "0", "--mode", mode, *server.options]
            command += ["--work-iterations", str(setting.work_iterations)]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            preexec_fn=lambda: os.sched_setaffinity(0, setting.server_cpus),
        )

    def __enter__(self) -> Self:
        try:
            self.port = self._read_port()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self._errors.close()

    def complain(self, what: str) -> MeasurementError:
        """An error that quotes the end of what the server wrote to its standard error."""
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace").strip()
        state = "still runs" if self.process.poll() is None else f"ended with {self.process.returncode}"
        return MeasurementError(
            f"{self.name}: {what} (the server {state})" + (f"; its standard error ends:\n{text[-2000:]}" if text else "")
        )

    def _read_port(self) -> int:
        line = b""
        deadline = time.monotonic() + START_SECONDS
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            piece = os.read(self.process.stdout.fileno(), 100) if ready else b""
            if not piece:
                raise self.complain("it printed no port" + ("" if ready else f" within {START_SECONDS} s"))
            line += piece
        return int(line)


def measure(server: Server, workload: Workload, setting: Setting) -> dict:
    """The generator's report on one server and one workload; MeasurementError when there is none or an error was seen."""
    if workload.generator[0] == "executor":
        load, *rest = workload.generator[1:]
        command = ["executors.py", server.options[0], load, *server.options[1:], *rest, "--seconds", str(setting.seconds)]
        return measure_program(server, command, setting)
    if workload.generator[0] == "timers":
        return measure_program(server, ["timers.py", *server.options], setting)
    if workload.generator[0] == "packets":
        return measure_program(server, ["port.py", *server.options], setting)
    if workload.generator[0] == "files":
        return measure_program(server, ["files.py", *server.options, *workload.generator[1:], "--seconds", str(setting.seconds)], setting)
    with RunningServer(server, workload.mode, setting) as running:
        if workload.generator[0] == "takeover":
            return measure_takeover(running, workload.generator[1:], setting)
        return generate(running, workload.generator, setting)


def measure_program(measured: Server, command: list[str], setting: Setting) -> dict:
    """What a program of this folder says of what it measures: a process of its own is both the load and what is loaded."""
    program, *options = command
    try:
        done = subprocess.run(
            [str(setting.python), str(Path(__file__).with_name(program)), *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=setting.seconds + GENERATOR_EXTRA_SECONDS,
            preexec_fn=lambda: os.sched_setaffinity(0, setting.server_cpus),
        )
    except subprocess.TimeoutExpired:
        raise MeasurementError(f"{measured.name} did not end in time") from None
    if not done.stdout.startswith("{"):
        raise MeasurementError(f"{measured.name} says: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def generate(server: RunningServer, options: tuple[str, ...], setting: Setting) -> dict:
    command = [str(setting.generator), *options, "--address", f"127.0.0.1:{server.port}"]
    command += ["--seconds", str(setting.seconds), "--server-pids", str(server.process.pid)]
    if options[0] != "idle":
        command += ["--warmup", str(setting.warmup)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=setting.seconds + setting.warmup + GENERATOR_EXTRA_SECONDS,
            preexec_fn=lambda: os.sched_setaffinity(0, setting.generator_cpus),
        )
    except subprocess.TimeoutExpired:
        raise server.complain("the generator did not end in time") from None
    if not done.stdout.startswith("{"):
        raise server.complain(f"the generator says: {done.stderr.strip()}")
    report = json.loads(done.stdout)
    if report["errors"]:
        raise server.complain(f"{report['errors']:.0f} errors, the first: {report.get('first_error')}")
    return report


def measure_takeover(server: RunningServer, options: tuple[str, ...], setting: Setting) -> dict:
    """Two loads with one connection that sleeps: now and then ("first": 250 ms of quiet before each), then again and again.

    The server takes the times, from inside its handlers; other connections keep it busy throughout.
    """
    setting = dataclasses.replace(setting, seconds=2 * setting.seconds)
    sleeper = ("--sleeping-connections", "1", "--sleep-ms", "10")
    generate(server, ("load", *options, *sleeper, "--sleep-gap-ms", "250"), setting)
    first = fetch_takeovers(server)
    generate(server, ("load", *options, *sleeper), setting)
    repeated = fetch_takeovers(server)
    if len(first) < 3 or len(repeated) < 20:
        raise server.complain(f"too few take-overs to judge: {len(first)} and {len(repeated)}")
    return {
        "first_median_us": statistics.median(first),
        "first_max_us": max(first),
        "median_us": statistics.median(repeated),
        "p99_us": statistics.quantiles(repeated, n=100, method="inclusive")[98],
        "max_us": max(repeated),
        "count": len(repeated),
        "first_count": len(first),
        "first_takeovers_us": first,
        "errors": 0,
    }


def fetch_takeovers(server: RunningServer) -> list[float]:
    """Microseconds of each take-over since the last call."""
    answer = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(bytes([3]) + bytes(63))  # workload.REPORT
        while not answer.endswith(b"\n"):
            piece = connection.recv(65536)
            if not piece:
                raise server.complain("it closed the connection instead of reporting its take-overs")
            answer += piece
    return json.loads(answer)["takeover_us"]
