"""`proactor dispatch`: shows how a completion port schedules its threads. Owns the order of the steps: run, live view, picture, summary."""

import argparse
import contextlib
import shutil
import socket
import sys
import textwrap
from collections.abc import Callable
from typing import Any, Protocol

from proactor import pipes
from proactor.cli.dispatch_facts import facts_of
from proactor.cli.dispatch_picture import picture
from proactor.cli.dispatch_record import Snapshot
from proactor.cli.dispatch_run import Run
from proactor.cli.dispatch_scene import COUNT_LIMIT, PRESETS, SCENES, WORKERS_LIMIT, Scene, scene_of
from proactor.cli.dispatch_summary import as_json, sentences
from proactor.cli.exit_codes import CommandError, ExitCode
from proactor.cli.options import Help, Options, decimal, text, whole_number
from proactor.cli.output import write_result
from proactor.cli.signals import StopRequests
from proactor.cli.start import HOW_TO_CONNECT, not_connected, refuse_simulated_engine
from proactor.cli.terminal import can_prompt
from proactor.cli.text import counted
from proactor.listener import connect_to, parse

FRAME_SECONDS = 0.1
"""Between two frames of the live view: drawing one costs processor time that the handlers then lack."""

LIVE_WORKS = 300
"""The live view, its counters too, is about the last so many completions: each frame looks at all of them."""

CONNECT_SECONDS = 30.0


class View(Protocol):
    """What draws the run while it lasts."""

    def draw(self, snapshot: Snapshot, *, ending: bool) -> None: ...

    def give_back(self) -> None:
        """The terminal, in the middle of anything: the process ends at once."""


def add_parser(commands: Any, epilog: str) -> None:
    scenes = "\n".join(f"  {name:8} {what}" for name, what in SCENES.items())
    parser: argparse.ArgumentParser = commands.add_parser(
        "dispatch",
        help="see a completion port schedule its threads",
        description="Starts a completion port with plain threads that wait on it, feeds it completions, and shows which thread gets "
        "which: the last to wait is the first released, only so many run at once, and one that blocks does not count.\n\n"
        f"scenes:\n{scenes}",
        epilog=epilog,
        formatter_class=Help,
    )
    parser.add_argument(
        "scene", nargs="?", metavar="SCENE", choices=tuple(PRESETS), help="a preset, which the options change: calm, busy, blocked"
    )
    options = Options(parser)
    options.add("--workers", whole_number(1, WORKERS_LIMIT), None, shown="twice the concurrency", metavar="N", meaning="threads that wait")
    options.add(
        "--concurrency",
        whole_number(1, WORKERS_LIMIT),
        None,
        shown="the processors",
        metavar="N",
        meaning="how many of them may run at once",
    )
    options.add("--count", whole_number(1, COUNT_LIMIT), None, shown="8", metavar="N", meaning="completions in all")
    options.add("--rate", decimal("completions a second", 0.001, 1e6), None, shown="4", metavar="N", meaning="completions a second")
    options.add("--burst", whole_number(1, COUNT_LIMIT), None, shown="1", metavar="N", meaning="completions posted at a time")
    each_message = "each message that comes from there is a completion; also [IPV6]:PORT, unix:/path and, on Windows, pipe:name"
    options.add("--connect", text, None, shown="they are posted", metavar="HOST:PORT", meaning=each_message)
    options.add("--handler-ms", decimal("milliseconds", 0, 3.6e6), None, shown="1000", metavar="MS", meaning="how long each is handled for")
    options.add_switch(
        "--block",
        meaning="the handlers sleep (default); as an environment variable PROACTOR_DISPATCH_BLOCK, since PROACTOR_BLOCK is a size",
        variable="PROACTOR_DISPATCH_BLOCK",
    )
    options.add_switch("--compute", meaning="the handlers compute, in Python, for so much processor time")
    options.add(
        "--mix",
        decimal("a share", 0, 1),
        None,
        metavar="SHARE",
        meaning="such a share of the handlers sleeps, from 0 to 1, the others compute",
    )
    options.add("--svg", text, None, metavar="FILE", meaning="write the timeline there, as a picture")
    options.add_switch("--json", meaning="print the whole record for programs, instead of the summary")
    options.add_switch("--quiet", meaning="no live view; there is none either where standard output is no terminal")
    parser.set_defaults(run=run, options=options)


def run(options: argparse.Namespace) -> int:
    """Runs the scene to its end or until Ctrl-C, and says what was seen. A second Ctrl-C ends the process."""
    scene = scene_of(options)
    peer = None if scene.connect is None else _connected(scene.connect)
    stop = StopRequests()
    with stop.handling_signals():
        snapshot, statistics = _run(scene, peer, stop, live=can_prompt() and not options.quiet and not options.json)
    interrupted = stop.requested
    facts = facts_of(snapshot)
    lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    lines = sentences(facts, snapshot, interrupted=interrupted, interpreter_lock=lock)
    if options.json:
        result = as_json(scene, facts, snapshot, lines, statistics, interrupted=interrupted, interpreter_lock=lock)
    else:
        result = "\n".join(_wrapped(lines))
    write_result(f"{result}\n")
    if options.svg is not None:
        _write_picture(options.svg, picture(scene, snapshot, lines))
    return ExitCode.OK


def _wrapped(lines: list[str]) -> list[str]:
    """As wide as the terminal at most; for a pipe or a file a sentence stays a line, which programs can look for."""
    if sys.stdout is None or not sys.stdout.isatty():
        return lines
    columns = max(20, shutil.get_terminal_size().columns)
    return [part for line in lines for part in textwrap.wrap(line, columns, break_long_words=False, break_on_hyphens=False)]


def _run(scene: Scene, peer: socket.socket | pipes.End | None, stop: StopRequests, *, live: bool) -> tuple[Snapshot, Any]:
    """What was recorded, and what the port said at the end. Returns when everything is handled, or somebody has asked to stop."""
    run = _prepared(scene, peer, stop)
    with _view(scene, live=live) as view:
        if view is not None:
            stop.before_ending_at_once(view.give_back)
        _start(run)
        try:
            _watch(run, view, stop, lambda: run.finished() or stop.requested)
            run.stop()
            if view is None and stop.requested and not run.stopped():
                sys.stderr.write("proactor: waiting for the handlers that run; Ctrl-C once more ends at once\n")
            _watch(run, view, stop, run.stopped)
        finally:
            run.end()
        snapshot = run.recording.snapshot()
        if view is not None:
            view.draw(snapshot, ending=False)
    return snapshot, run.statistics


def _prepared(scene: Scene, peer: socket.socket | pipes.End | None, stop: StopRequests) -> Run:
    try:
        return Run(scene, peer, stop.wakeup.wake)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, ValueError):  # The options are checked: it is the engine.
            raise CommandError(f"environment variable PROACTOR_ENGINE: {reason}", ExitCode.USAGE) from error
        if peer is None:
            raise CommandError(f"cannot make a completion port: {reason}", ExitCode.FAILED) from error
        peer.close()
        raise CommandError(f"cannot receive from {scene.connect}: {reason}", ExitCode.FAILED) from error


def _start(run: Run) -> None:
    try:
        run.start()
    except RuntimeError as error:
        hint = "choose fewer --workers, or raise the limit (ulimit -u)"
        raise CommandError(f"cannot start {counted(run.scene.workers, 'worker')}: {error}; {hint}", ExitCode.FAILED) from error


def _watch(run: Run, view: View | None, stop: StopRequests, done: Callable[[], bool]) -> None:
    """Draws until it is done; without a view it only waits."""
    while not stop.wakeup.wait_until(done, FRAME_SECONDS):
        if view is not None:
            view.draw(run.recording.snapshot(last=LIVE_WORKS), ending=stop.requested)


def _view(scene: Scene, *, live: bool) -> contextlib.AbstractContextManager[View | None]:
    if not live:
        return contextlib.nullcontext()
    from proactor.cli.dispatch_live import LiveView  # A tenth of a second, which no pipe should wait for.

    return LiveView(scene)


def _connected(address: str) -> socket.socket | pipes.End:
    refuse_simulated_engine()
    try:
        target = parse(address, HOW_TO_CONNECT)
    except ValueError as error:
        raise CommandError(f"--connect: {error}", ExitCode.USAGE) from error
    try:
        peer = connect_to(address, CONNECT_SECONDS)
    except OSError as error:
        raise not_connected(target, error) from error
    peer.settimeout(None)
    return peer


def _write_picture(path: str, svg: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(svg)
    except OSError as error:
        raise CommandError(f"cannot write the picture to {path}: {error.strerror or error}; name another file", ExitCode.FAILED) from error
