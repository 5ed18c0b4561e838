"""The live view of a run in a terminal: a lane for each worker, who was released for what, counters. Knows nothing of ports.

Slow to import: only for those who have a terminal.
"""

import os
import types
from collections.abc import Iterator
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from proactor.cli.dispatch_facts import Taking, end_of, facts_of, takings
from proactor.cli.dispatch_record import Snapshot, Work
from proactor.cli.dispatch_scene import Scene
from proactor.cli.text import counted

RELEASES_SHOWN = 6
OTHER_ROWS = RELEASES_SHOWN + 7
"""Rows of the screen that are not lanes."""

LABEL = 11
"""Columns before a lane."""

SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 10.0
"""How much time the lanes show: at first the shorter, growing with the run, then the last part of it; more where handlers take long."""


class LiveView:
    """Draws over itself from `with` to its end. Main thread only."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._console = Console(highlight=False)
        unicode = self._console.encoding.lower().startswith("utf")
        self._running, self._blocked, self._idle = ("\u2588", "\u2571", "\u00b7") if unicode else ("#", "/", ".")
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None) -> None:
        self._live.__exit__(kind, error, trace)

    def draw(self, snapshot: Snapshot, *, ending: bool) -> None:
        """`ending`: somebody has asked to stop, and handlers have not returned."""
        self._live.update(self.frame(snapshot, ending=ending), refresh=True)

    def give_back(self) -> None:
        """Shows the cursor again, past whatever is being drawn. For a signal handler that ends the process."""
        os.write(1, b"\x1b[?25h\r\n")

    def frame(self, snapshot: Snapshot, *, ending: bool) -> RenderableType:
        state = Text("waiting for the handlers that run; Ctrl-C once more ends at once" if ending else "", style="bold")
        return Group(*self._heading(), *self._lanes(snapshot), *self._counters(snapshot), state, *self._releases(snapshot))

    def _heading(self) -> Iterator[Text]:
        scene = self._scene
        yield Text.assemble(
            (f"proactor dispatch {scene.name}".strip(), "bold"),
            f"  {counted(scene.workers, 'worker')}, concurrency {scene.concurrency}; the handlers {scene.handlers}",
            no_wrap=True,
        )
        yield Text.assemble(
            (self._running * 2, "blue"), " running  ", (self._blocked * 2, "yellow"), " blocked  ", (self._idle * 2, "dim"), " waiting"
        )

    def _lanes(self, snapshot: Snapshot) -> Iterator[Text]:
        rows = max(1, self._console.height - OTHER_ROWS)
        first = max(1, snapshot.workers - rows + 1)
        if first > 1:
            # Who began to wait last is needed first, so that these are the ones with something to see.
            yield Text(f"({counted(first - 1, 'worker')} above, for whom there is no room)", style="dim")
        columns = max(10, self._console.width - LABEL - 1)
        handler = self._scene.handler_ms / 1000
        span = min(max(snapshot.at, SHORTEST_SECONDS, 10 * handler), max(LONGEST_SECONDS, 40 * handler))
        begin = max(snapshot.at, span) - span
        by_worker: dict[int, list[Work]] = {}
        for work in snapshot.works:
            if end_of(work, snapshot.at) >= begin:
                by_worker.setdefault(work.worker, []).append(work)
        for worker in range(first, snapshot.workers + 1):
            lane = self._lane(by_worker.get(worker, []), snapshot.at, begin, span / columns, columns)
            yield Text.assemble((f"worker {worker}".ljust(LABEL), "bold" if worker not in snapshot.waiting else ""), lane, no_wrap=True)

    def _lane(self, works: list[Work], now: float, begin: float, cell: float, columns: int) -> Text:
        """One character for each `cell` seconds: what the worker did for most of that part of it in which it had something to do."""
        in_handler, blocked = [0.0] * columns, [0.0] * columns
        labels: dict[int, str] = {}
        for work in works:
            end = end_of(work, now)
            _spread(in_handler, work.taken, end, begin, cell)
            for start, stop in work.blocked:
                _spread(blocked, start, end if stop is None else stop, begin, cell)
            first, label = int((work.taken - begin) / cell) + 1, str(work.number)
            if work.taken >= begin and first + len(label) < (end - begin) / cell:
                labels[first] = label
        lane = Text()
        passed = int((now - begin) / cell)
        for column in range(min(columns, passed + 1)):
            if in_handler[column] <= 0:
                lane.append(self._idle, "dim")
            elif blocked[column] * 2 > in_handler[column]:
                lane.append(self._blocked, "yellow")
            else:
                lane.append(self._running, "blue")
        plain = lane.plain
        for first, label in labels.items():
            if first + len(label) <= len(plain):
                lane = Text.assemble(lane[:first], (label, "bold reverse"), lane[first + len(label) :])
        return lane

    def _counters(self, snapshot: Snapshot) -> Iterator[Text]:
        facts = facts_of(snapshot)
        held = facts.choices - len(facts.out_of_turn)
        now = snapshot.samples[-1] if snapshot.samples else None
        above = facts.above_cap_unexplained_seconds > 0
        yield Text("")
        states = (now.queued, now.running, now.blocked, now.waiting) if now else (0, 0, 0, 0)
        yield Text(handled(snapshot.finished, snapshot.posted, *states, columns=self._console.width), no_wrap=True)
        turns, at_once, compensations = facts_in_brief(
            held, facts.choices, facts.most_running, snapshot.concurrency, facts.compensations, columns=self._console.width
        )
        yield Text.assemble(
            (turns, "yellow" if facts.out_of_turn else "green"),
            "   ",
            (at_once, "bold red" if above else "green"),
            "   ",
            compensations,
            no_wrap=True,
        )

    def _releases(self, snapshot: Snapshot) -> Iterator[Text]:
        latest = list(takings(snapshot))[-RELEASES_SHOWN:]
        for taking in latest:
            words = release(taking, self._console.width)
            yield Text(words, style="" if taking.out_of_turn is None else "yellow", no_wrap=True)
        yield from [Text("")] * (RELEASES_SHOWN - len(latest))


def handled(finished: int, posted: int, queued: int, running: int, blocked: int, waiting: int, *, columns: int) -> str:
    """How far it is; in fewer words where there are fewer columns."""
    states = f"{queued} queued  {running} running  {blocked} blocked  {waiting} waiting"
    choices = [f"{finished} of {posted} posted completions handled  {states}", f"{finished} of {posted} handled  {states}"]
    return next((words for words in choices if len(words) <= columns), f"{finished}/{posted} handled  {states}")


def facts_in_brief(held: int, choices: int, most: int, cap: int, compensations: int, *, columns: int) -> tuple[str, str, str]:
    """What the run shows so far, to stand in one row with three columns between them; in fewer words where there are fewer columns."""
    whole = f"newest first: {held} of {choices}", f"ran at once: at most {most}, cap {cap}", f"compensations: {compensations}"
    if sum(map(len, whole)) + 6 <= columns:
        return whole
    return f"newest first: {held}/{choices}", f"at once: {most}, cap {cap}", f"compensated: {compensations}"


def release(taking: Taking, columns: int) -> str:
    """Who was released for a completion, and why that one; in fewer words where there are fewer columns."""
    work = taking.work
    start, short = f"completion {work.number} to worker {work.worker}", f"{work.number} to worker {work.worker}"
    if (one := taking.out_of_turn) is not None:
        choices = [
            f"{start}, although worker {one.passed_over} had begun to wait later",
            f"{short}: worker {one.passed_over} waited less long",
        ]
    else:
        if work.posted is not None and work.posted < work.waiting_since:
            why = "asked when it was already queued"
        elif taking.others:
            why = f"of {len(taking.others) + 1} the last to wait"
        else:
            why = "the only one that waited"
        after = None if work.posted is None else f"{(work.taken - work.posted) * 1000:.1f} ms after"
        choices = [] if after is None else [f"{start}, {why}, {after} it was posted", f"{start}, {why}, {after}"]
        choices += [f"{start}, {why}", f"{short}: {why}"]
    return next((words for words in [*choices, start] if len(words) <= columns), short)


def _spread(cells: list[float], start: float, end: float, begin: float, cell: float) -> None:
    """Adds to each cell how much of it lies between `start` and `end`."""
    first, last = max(0, int((start - begin) / cell)), min(len(cells) - 1, int((end - begin) / cell))
    for index in range(first, last + 1):
        left = begin + index * cell
        cells[index] += max(0.0, min(end, left + cell) - max(start, left))
