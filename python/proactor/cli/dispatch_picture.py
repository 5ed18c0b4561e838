"""The timeline of a recording as an SVG that needs nothing else: lanes, what was posted, how many ran. Knows nothing of ports.

It brings its own background in both of a viewer's colour schemes, so that it reads the same wherever it is embedded.
"""

import dataclasses
import math
import textwrap
from collections.abc import Iterator, Sequence
from html import escape

from proactor.cli.dispatch_facts import end_of, running_steps
from proactor.cli.dispatch_record import Snapshot, Work
from proactor.cli.dispatch_scene import Scene
from proactor.cli.text import counted

WORKS_LIMIT = 2000
"""More bars than this nobody can tell apart: the picture shows the first of them, and says so."""

WIDTH, LEFT, RIGHT = 960, 96, 24
PLOT = WIDTH - LEFT - RIGHT
LANE, GAP = 24, 6
STEP = 14
"""Height of one in the chart of how many ran."""

MARK = 8
"""Width of the mark of a posted completion."""

CHARACTER = 7.0
"""Width that a digit may take, generously, in the font of the bars."""

CAPTION_COLUMNS = 128

STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 }
.muted { fill: #59636e }
.number { font-size: 11px; fill: #ffffff; text-anchor: middle }
.on-hatch { fill: #1f2328 }
.end { text-anchor: end }
.middle { text-anchor: middle }
.page, .plate { fill: #ffffff }
.lane { fill: #f0f3f6 }
.grid { stroke: #d1d9e0 }
.running { fill: #0969da }
.blocked { fill: url(#hatch); stroke: #bc4c00 }
.hatch-ground { fill: #fff1e5 }
.hatch-line { stroke: #bc4c00; stroke-width: 2.5 }
.posted { fill: #1a7f37 }
.inside { fill: none; stroke: #bc4c00; stroke-width: 1.5 }
.cap { stroke: #cf222e; stroke-width: 1.5; stroke-dasharray: 6 4 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.muted { fill: #9198a1 }
.number { fill: #0d1117 }
.on-hatch { fill: #e6edf3 }
.page, .plate { fill: #0d1117 }
.lane { fill: #1a212a }
.grid { stroke: #3d444d }
.running { fill: #4493f8 }
.blocked { stroke: #f0883e }
.hatch-ground { fill: #2d1f12 }
.hatch-line { stroke: #f0883e }
.posted { fill: #3fb950 }
.inside { stroke: #f0883e }
.cap { stroke: #ff7b72 }
}
"""


def picture(scene: Scene, snapshot: Snapshot, lines: Sequence[str]) -> str:
    """The whole file. `lines`, the summary, stands below."""
    shown = dataclasses.replace(snapshot, works=snapshot.works[:WORKS_LIMIT])
    return "\n".join(_Picture(scene, shown, len(snapshot.works), lines).parts())


class _Picture:
    """Draws from top to bottom: each part begins where the one before has ended."""

    def __init__(self, scene: Scene, snapshot: Snapshot, works: int, lines: Sequence[str]) -> None:
        self.scene, self.snapshot, self.works, self.lines = scene, snapshot, works, lines
        self.end = max((end_of(work, snapshot.at) for work in snapshot.works), default=0.0) or 0.001
        self.tick = _tick(self.end)
        self.end = math.ceil(self.end / self.tick * 4) / 4 * self.tick  # A little room after the last bar.
        self.steps = list(running_steps(snapshot.works, snapshot.at))
        self.y = 0.0

    def parts(self) -> Iterator[str]:
        body = [*self._heading(), *self._posted(), *self._lanes(), *self._chart(), *self._axis(), *self._legend(), *self._caption()]
        height = round(self.y + 12)
        name = escape(self._name())
        yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">'
        yield f"<title>{name}</title>"
        yield f"<desc>{escape(' '.join(self.lines))}</desc>"
        yield f"<style>{STYLE}</style>"
        yield (
            '<defs><pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
            '<rect class="hatch-ground" width="7" height="7"/><line class="hatch-line" x1="1.5" y1="0" x2="1.5" y2="7"/></pattern></defs>'
        )
        yield f'<rect class="page" width="{WIDTH}" height="{height}"/>'
        yield from body
        yield "</svg>\n"

    def _name(self) -> str:
        return f"proactor dispatch {self.scene.name}".strip()

    def _heading(self) -> Iterator[str]:
        yield _text(20, 30, self._name(), "title")
        what = f"{counted(self.scene.workers, 'worker')}, concurrency {self.scene.concurrency}; the handlers {self.scene.handlers}"
        if self.works > len(self.snapshot.works):
            what += f"; the first {len(self.snapshot.works)} of {self.works} completions"
        yield _text(20, 50, what, "muted")
        self.y = 66

    def _posted(self) -> Iterator[str]:
        """A mark for each completion that was posted; where marks would lie on each other there is one, and how many it stands for."""
        marks: list[tuple[float, int]] = []
        for at in sorted(work.posted for work in self.snapshot.works if work.posted is not None):
            if marks and self._x(at) - marks[-1][0] < MARK:
                marks[-1] = (marks[-1][0], marks[-1][1] + 1)
            else:
                marks.append((self._x(at), 1))
        if not marks:
            return
        yield _text(LEFT - 10, self.y + 12, "posted", "muted end")
        for index, (x, count) in enumerate(marks):
            yield f'<path class="posted" d="M{x - MARK / 2:.1f} {self.y + 3} h{MARK} l-{MARK / 2} 10 z"/>'
            label = f"{count} at once"
            room = (marks[index + 1][0] if index + 1 < len(marks) else WIDTH) - x - MARK
            if count > 1 and room > len(label) * CHARACTER + 4:
                yield _text(x + MARK, self.y + 12, label, "muted")
        self.y += 20

    def _lanes(self) -> Iterator[str]:
        top = self.y
        for worker in range(1, self.snapshot.workers + 1):
            y = top + (worker - 1) * (LANE + GAP)
            yield _text(LEFT - 10, y + 16, f"worker {worker}", "end")
            yield f'<rect class="lane" data-worker="{worker}" x="{LEFT}" y="{y}" width="{PLOT}" height="{LANE}" rx="2"/>'
        for work in self.snapshot.works:
            yield from self._bar(work, top + (work.worker - 1) * (LANE + GAP))
        self.y = top + self.snapshot.workers * (LANE + GAP)

    def _bar(self, work: Work, y: float) -> Iterator[str]:
        end = end_of(work, self.snapshot.at)
        x, width = self._x(work.taken), max(self._x(end) - self._x(work.taken), 0.6)
        yield f"<g><title>{escape(_told(work))}</title>"
        yield f'<rect class="running" x="{x:.1f}" y="{y}" width="{max(width - 0.8, 0.6):.1f}" height="{LANE}"/>'
        for start, stop in work.blocked:
            left, right = self._x(start), self._x(end if stop is None else stop)
            yield f'<rect class="blocked" x="{left:.1f}" y="{y + 0.5}" width="{max(right - left - 0.8, 0.6):.1f}" height="{LANE - 1}"/>'
        label = str(work.number)
        wide = len(label) * CHARACTER
        if width >= wide + 4:
            middle = x + width / 2
            if work.blocked:
                yield f'<rect class="plate" x="{middle - wide / 2 - 2:.1f}" y="{y + 5}" width="{wide + 4:.1f}" height="14" rx="3"/>'
            yield _text(middle, y + 16, label, "number on-hatch" if work.blocked else "number")
        yield "</g>"

    def _chart(self) -> Iterator[str]:
        """How many ran and how many were in handlers, the most of each pixel: a moment too many shows, a moment between two does not."""
        cap = self.snapshot.concurrency
        most = max([cap, *(step.inside for step in self.steps)])
        self.y += 8
        yield _text(LEFT, self.y + 10, "how many at once", "muted")
        top = self.y + 18
        bottom = top + most * STEP
        running, inside = [0] * (PLOT + 1), [0] * (PLOT + 1)
        for step in self.steps:
            for pixel in range(int(self._x(step.start) - LEFT), min(int(self._x(step.end) - LEFT), PLOT) + 1):
                running[pixel] = max(running[pixel], step.running)
                inside[pixel] = max(inside[pixel], step.inside)
        yield f'<path class="running" d="M{LEFT} {bottom} {_outline(running, bottom)} V{bottom} Z"/>'
        yield f'<path class="inside" d="M{LEFT} {bottom} {_outline(inside, bottom)}"/>'
        y = bottom - cap * STEP
        yield f'<line class="cap" x1="{LEFT}" y1="{y}" x2="{LEFT + PLOT}" y2="{y}"/>'
        yield _text(LEFT - 10, y + 4, f"cap {cap}", "end")
        if most >= cap + 2:
            yield _text(LEFT - 10, top + 4, str(most), "muted end")
        if cap > 1:
            yield _text(LEFT - 10, bottom + 4, "0", "muted end")
        self.y = bottom

    def _axis(self) -> Iterator[str]:
        milliseconds = self.end < 2
        yield f'<line class="grid" x1="{LEFT}" y1="{self.y}" x2="{LEFT + PLOT}" y2="{self.y}"/>'
        for index in range(int(self.end / self.tick + 1e-6) + 1):
            at = index * self.tick
            x = self._x(at)
            yield f'<line class="grid" x1="{x:.1f}" y1="{self.y}" x2="{x:.1f}" y2="{self.y + 5}"/>'
            label = f"{at * 1000:g}" if milliseconds else f"{at:g}"
            yield _text(x, self.y + 18, f"{label} {'ms' if milliseconds else 's'}" if index == 0 else label, "muted middle")
        self.y += 24

    def _legend(self) -> Iterator[str]:
        x, y = float(LEFT), self.y + 8
        blocked = any(work.blocked for work in self.snapshot.works)
        entries = [('<rect class="running" x="{x}" y="{y}" width="22" height="12"/>', "running")]
        if blocked:
            entries.append(('<rect class="blocked" x="{x}" y="{y}" width="22" height="12"/>', "blocked"))
        entries.append(('<path class="inside" d="M{x} {middle} h22"/>', "in handlers, blocked ones too"))
        entries.append(('<path class="cap" d="M{x} {middle} h22"/>', "as many may run"))
        entries.append(('<text class="number on-hatch" x="{center}" y="{base}">7</text>', "the number of the completion"))
        for shape, label in entries:
            yield shape.format(x=x, y=y, middle=y + 6, center=x + 11, base=y + 10)
            yield _text(x + 28, y + 10, label, "muted")
            x += 28 + len(label) * 6.3 + 18
        self.y = y + 18

    def _caption(self) -> Iterator[str]:
        self.y += 8
        for line in self.lines:
            for part in textwrap.wrap(line, CAPTION_COLUMNS):
                self.y += 17
                yield _text(20, self.y, part, "")

    def _x(self, at: float) -> float:
        return LEFT + at / self.end * PLOT


def _outline(heights: Sequence[int], bottom: float) -> str:
    """The path's commands from pixel to pixel, without those that would change nothing."""
    commands, before = [], None
    for pixel, height in enumerate(heights):
        if height != before:
            commands.append(f"H{LEFT + pixel} V{bottom - height * STEP}")
            before = height
    return " ".join([*commands, f"H{LEFT + len(heights) - 1}"])


def _tick(seconds: float) -> float:
    """A round distance between marks, so that there are six to fifteen."""
    power = 10.0 ** math.floor(math.log10(seconds / 8))
    return next(power * step for step in (1, 2, 5, 10) if seconds / (power * step) <= 12)


def _told(work: Work) -> str:
    """What a viewer shows of the bar under the pointer."""
    posted = "" if work.posted is None else f"posted at {work.posted * 1000:.1f} ms, "
    ended = "not ended" if work.ended is None else f"ended at {work.ended * 1000:.1f} ms"
    return f"completion {work.number}: {posted}taken by worker {work.worker} at {work.taken * 1000:.1f} ms, {ended}"


def _text(x: float, y: float, text: str, style: str) -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
