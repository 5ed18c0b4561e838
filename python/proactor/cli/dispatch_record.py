"""What a run of `proactor dispatch` wrote down as it happened: the only source of all that is shown. Knows nothing of ports.

Times are seconds since the run began, on the monotonic clock. Workers are numbered from 1, in the order in which they first waited.
"""

import dataclasses
import threading
import time
from typing import Any

SAMPLES_LIMIT = 100_000
"""Looks at the port that are kept; of later ones only the number and the maxima are."""


@dataclasses.dataclass(slots=True)
class Work:
    """One completion, from its posting to the end of its handler."""

    number: int
    """In the order in which they were posted, or, where they come from a peer, taken; from 1."""
    worker: int
    waiting_since: float
    """When the worker that took it had begun to wait."""
    posted: float | None
    """None: it came from a peer, and nobody saw when."""
    taken: float
    begun: float
    """When the handler began."""
    ended: float | None = None
    blocked: list[tuple[float, float | None]] = dataclasses.field(default_factory=list)
    """From when to when the handler was in a blocking call, by the handler's own clock."""
    processor_seconds: float = 0.0
    """What its thread used of a processor meanwhile."""
    size: int | None = None
    """Bytes received; None of what was posted."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """What `port.statistics()` said at a moment; kept where it differs from the one before."""

    at: float
    waiting: int
    running: int
    blocked: int
    queued: int
    compensations: int


class Recording:
    """Everything that was written down. Safe from any thread.

    Handlers write without a lock: whoever waits for one is blocked, and the port would release another in his place, so that what is shown
    would be the recording's doing. Each field has one writer at a time, and what is shared is only appended to.
    """

    def __init__(self, workers: int, concurrency: int) -> None:
        self.workers = workers
        self.concurrency = concurrency
        self._began = time.monotonic()
        # In the order in which they were taken; each work is changed by its worker alone.
        self._works: list[Work] = []
        # By worker, each entry written by it alone.
        self._waiting: dict[int, float] = {}
        self._finished = dict.fromkeys(range(1, workers + 1), 0)
        # By the feeder; with a peer by whoever has taken a message, before it asks for the next one.
        self._posted = 0
        self._notes: list[str] = []
        self._lock = threading.Lock()  # Guards what follows. No worker takes it.
        self._samples: list[Sample] = []
        self._looks = 0
        self._most_running = 0

    def begin(self) -> None:
        """From now on time counts: everybody waits."""
        shift = time.monotonic() - self._began
        self._began += shift
        # Who began to wait first still comes first.
        self._waiting.update({worker: since - shift for worker, since in self._waiting.items()})

    def now(self) -> float:
        return time.monotonic() - self._began

    def waits(self, worker: int) -> None:
        """It is about to wait, in the very next call."""
        self._waiting[worker] = self.now()

    def posts(self) -> float:
        """One is about to be posted; when."""
        self._posted += 1
        return self.now()

    def took(self, worker: int, *, at: float, number: int | None, posted: float | None, size: int | None) -> Work:
        """A worker has come back from waiting with a completion; one from a peer is given its `number` here."""
        if number is None:
            self._posted += 1
            number = self._posted
        work = Work(number, worker, self._waiting.pop(worker), posted, at, begun=self.now(), size=size)
        self._works.append(work)
        return work

    def blocks(self, work: Work) -> None:
        """Its handler is about to make a blocking call."""
        work.blocked.append((self.now(), None))

    def unblocked(self, work: Work) -> None:
        work.blocked[-1] = (work.blocked[-1][0], self.now())

    def ended(self, work: Work, processor_seconds: float) -> None:
        work.processor_seconds = processor_seconds
        work.ended = self.now()  # The last: who sees it sees the rest.
        self._finished[work.worker] += 1

    def look(self, statistics: Any) -> None:
        """Keeps what the port says of itself."""
        with self._lock:
            self._looks += 1
            self._most_running = max(self._most_running, statistics.running)
            sample = Sample(
                self.now(), statistics.waiting, statistics.running, statistics.blocked, statistics.queued, statistics.compensations
            )
            changed = not self._samples or dataclasses.replace(self._samples[-1], at=sample.at) != sample
            if changed and len(self._samples) < SAMPLES_LIMIT:
                self._samples.append(sample)

    def note(self, text: str) -> None:
        """Something that the summary has to say, beside what it computes: why the run ended."""
        self._notes.append(text)

    def snapshot(self, last: int | None = None) -> "Snapshot":
        """A copy that nobody changes any more; of the works only the `last` that were taken."""
        with self._lock:
            samples = tuple(self._samples if last is None else self._samples[-last:])
            looks, most_running = self._looks, self._most_running
        finished = self.finished()
        works = self._works[:] if last is None else self._works[-last:]
        return Snapshot(
            workers=self.workers,
            concurrency=self.concurrency,
            works=tuple(dataclasses.replace(work, blocked=list(work.blocked)) for work in works),
            waiting=dict(self._waiting),
            posted=self._posted,
            finished=finished,
            samples=samples,
            looks=looks,
            most_running=most_running,
            notes=tuple(self._notes),
            at=self.now(),  # The last, so that nothing in it is later.
        )

    def finished(self) -> int:
        """How many completions' handlers have ended."""
        return sum(self._finished.values())


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A recording up to a moment, `at`. `works` are in the order in which they were taken."""

    workers: int
    concurrency: int
    at: float
    works: tuple[Work, ...]
    waiting: dict[int, float]
    posted: int
    finished: int = 0
    samples: tuple[Sample, ...] = ()
    looks: int = 0
    most_running: int = 0
    """What the port itself said at most."""
    notes: tuple[str, ...] = ()
