"""What `proactor dispatch` is asked to do: the scenes, and what the options change in them. Knows nothing of ports."""

import argparse
import dataclasses
from typing import Any

from proactor.platform import processors

COUNT_LIMIT = 100_000
"""Completions of one run: all of them are kept, for the summary and the picture."""

WORKERS_LIMIT = 64
"""Lanes that can still be looked at."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """A run's parameters, complete."""

    name: str
    workers: int
    concurrency: int
    count: int
    rate: float
    """Completions a second, on the average."""
    burst: int
    """How many are posted at a time, every `burst / rate` seconds."""
    handler_ms: float
    blocking_share: float
    """Which share of the handlers sleeps; the others compute."""
    connect: str | None = None
    """HOST:PORT: what it sends are the completions, and nothing is posted."""
    patient: bool = False
    """No burst is posted until the one before is handled and half of its interval has passed since: however slow the machine is."""

    def blocks(self, number: int) -> bool:
        """Whether completion `number` (from 1) sleeps: the share, spread evenly, the same in every run."""
        return int(number * self.blocking_share + 1e-9) > int((number - 1) * self.blocking_share + 1e-9)

    @property
    def handlers(self) -> str:
        """In words, what the handlers do."""
        if self.blocking_share == 1:
            return f"sleep {self.handler_ms:g} ms each"
        if self.blocking_share == 0:
            return f"compute for {self.handler_ms:g} ms each"
        return f"take {self.handler_ms:g} ms each, {self.blocking_share:.0%} of them asleep"


PRESETS: dict[str, dict[str, Any]] = {
    # Slower than they are handled: nobody but the last to wait is needed.
    "calm": {
        "workers": 4,
        "concurrency": 2,
        "count": 8,
        "rate": 5.0,
        "burst": 1,
        "handler_ms": 25.0,
        "blocking_share": 0.0,
        "patient": True,
    },
    # All at once, and each needs a processor.
    "busy": {"workers": 4, "concurrency": 2, "count": 12, "rate": 100.0, "burst": 12, "handler_ms": 60.0, "blocking_share": 0.0},
    # All at once, and nobody needs a processor: the article's Sleep.
    "blocked": {"workers": 6, "concurrency": 2, "count": 12, "rate": 100.0, "burst": 12, "handler_ms": 250.0, "blocking_share": 1.0},
}

SCENES = {
    "calm": "completions come one at a time: one worker does everything",
    "busy": "more at once than may run: the cap holds",
    "blocked": "the handlers sleep: others are released in their place",
}

# As the article's client, with somebody at its server who sends a line four times a second.
_PLAIN: dict[str, Any] = {"count": 8, "rate": 4.0, "burst": 1, "handler_ms": 1000.0, "blocking_share": 1.0}


def scene_of(options: argparse.Namespace) -> Scene:
    """The scene that was named, with what the options say instead. Ends the command where they contradict each other."""
    _check_combination(options)
    values = dict(_PLAIN if options.scene is None else PRESETS[options.scene])
    if options.connect is not None:
        values["count"] = COUNT_LIMIT
    for name in ("workers", "concurrency", "count", "rate", "burst", "handler_ms"):
        if getattr(options, name) is not None:
            values[name] = getattr(options, name)
    share = _blocking_share(options)
    if share is not None:
        values["blocking_share"] = share
    values.setdefault("concurrency", min(processors(), WORKERS_LIMIT))
    # The article's rule of thumb.
    values.setdefault("workers", min(2 * values["concurrency"], WORKERS_LIMIT))
    return Scene(name=options.scene or "", connect=options.connect, **values)


def _blocking_share(options: argparse.Namespace) -> float | None:
    """What was asked for, on the command line before the environment; None if nothing was."""
    asked = {
        "--block": ("block", 1.0 if options.block else None),
        "--compute": ("compute", 0.0 if options.compute else None),
        "--mix": ("mix", options.mix),
    }
    flags = [flag for flag, (name, share) in asked.items() if share is not None and name in options.given]
    flags = flags or [flag for flag, (_, share) in asked.items() if share is not None]
    if len(flags) > 1:
        options.options.error(f"arguments {' and '.join(flags)} contradict each other: leave all but one out")
    return asked[flags[0]][1] if flags else None


def _check_combination(options: argparse.Namespace) -> None:
    """Options that would have no effect are mistakes; from the environment they may be there for another run."""
    if options.connect is not None:
        for name in ("rate", "burst"):
            if name in options.given:
                options.options.error(f"argument --{name}: with --connect the peer decides what comes and when; leave it out")
