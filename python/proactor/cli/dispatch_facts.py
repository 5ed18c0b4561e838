"""What follows from a recording: who was released in which order, how many ran at once. Owns the arithmetic; knows nothing of words.

Nothing here is taken from the plan of a run: the same function judges a recording that was made up with every rule broken.
"""

import dataclasses
from collections.abc import Iterable, Iterator

from proactor.cli.dispatch_record import Snapshot, Work

BEGINS_TO_WAIT_SECONDS = 0.001
"""A worker writes down that it waits, and then calls: for so long it need not have arrived yet, and others may overtake it."""

RELEASE_SECONDS = 0.02
"""So long it may take from the port's choice of a worker to what that one writes down: it needs a processor and the interpreter."""

TOGETHER_SECONDS = 0.001
"""Two that are released within so short a time may write that down the other way round."""


@dataclasses.dataclass(frozen=True)
class OutOfTurn:
    """A completion that went to a worker although another one had begun to wait later."""

    number: int
    worker: int
    passed_over: int
    """Of those the one that had begun to wait last."""
    leader: bool
    """It can be explained by the leader, the one worker that polls for I/O: it takes what it finds, and posts wake the others first."""


@dataclasses.dataclass(frozen=True)
class Facts:
    posted: int
    handled: int
    left: int
    """Posted, and never taken."""
    received: bool
    """They came from a peer: nobody posted them."""
    seconds: float
    """From the first completion's posting (or taking) to the last handler's end."""
    by_worker: dict[int, int]
    """Of those that handled any, how many; the busiest first."""
    choices: int
    """How many completions were taken while another worker waited, so that there was a choice."""
    out_of_turn: tuple[OutOfTurn, ...]
    most_running: int
    """How many were in handlers and not blocked, at most."""
    above_cap_seconds: float
    """For how long more ran than the cap allows."""
    above_cap_unexplained_seconds: float
    """Of that, how long without one among them that had come back from a blocking call."""
    most_in_handlers: int
    blocked_seconds: float
    processor_seconds: float
    together_seconds: float
    """For how long two or more ran."""
    compensations: int


def facts_of(snapshot: Snapshot) -> Facts:
    works = snapshot.works
    handled = [work for work in works if work.ended is not None]
    counts: dict[int, int] = {}
    for work in handled:
        counts[work.worker] = counts.get(work.worker, 0) + 1
    steps = list(running_steps(works, snapshot.at))
    taken = list(takings(snapshot))
    above = [(end - start, excused) for start, end, running, _, excused in steps if running > snapshot.concurrency]
    began = min((work.taken if work.posted is None else work.posted for work in works), default=0.0)
    ended = max((end_of(work, snapshot.at) for work in works), default=0.0)
    return Facts(
        posted=snapshot.posted,
        handled=len(handled),
        left=snapshot.posted - len(works),
        received=any(work.posted is None for work in works),
        seconds=max(0.0, ended - began),
        by_worker=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        choices=sum(bool(taking.others) for taking in taken),
        out_of_turn=tuple(one for taking in taken if (one := taking.out_of_turn) is not None),
        most_running=max((running for _, _, running, _, _ in steps), default=0),
        above_cap_seconds=sum(length for length, _ in above),
        above_cap_unexplained_seconds=sum(length for length, excused in above if not excused),
        most_in_handlers=max((inside for _, _, _, inside, _ in steps), default=0),
        blocked_seconds=sum((snapshot.at if end is None else end) - start for work in works for start, end in work.blocked),
        processor_seconds=sum(work.processor_seconds for work in works),
        together_seconds=sum(end - start for start, end, running, _, _ in steps if running > 1),
        compensations=snapshot.samples[-1].compensations if snapshot.samples else 0,
    )


def end_of(work: Work, now: float) -> float:
    return now if work.ended is None else work.ended


def running_steps(works: Iterable[Work], now: float) -> Iterator[tuple[float, float, int, int, bool]]:
    """The numbers over time, without empty steps: `(from, to, running, in handlers, whether one of them has come back from a block)`."""
    changes: list[tuple[float, int, int, int]] = []
    for work in works:
        end = end_of(work, now)
        changes += [(work.taken, 1, 1, 0), (end, -1, -1, 0)]
        returned = False
        for start, stop in work.blocked:
            changes.append((start, -1, 0, -1 if returned else 0))
            if stop is not None:
                changes.append((stop, 1, 0, 1))
                returned = True
            else:
                changes.append((end, 1, 0, 0))
                returned = False
        if returned:
            changes.append((end, 0, 0, -1))
    changes.sort()  # What ends at an instant comes before what begins.
    running = inside = returned_ones = 0
    for index, (at, runs, enters, returns) in enumerate(changes):
        running, inside, returned_ones = running + runs, inside + enters, returned_ones + returns
        until = changes[index + 1][0] if index + 1 < len(changes) else at
        if until > at:
            yield at, until, running, inside, returned_ones > 0


@dataclasses.dataclass(frozen=True, slots=True)
class Taking:
    """One completion's taking, and which other workers waited at that moment: since when, and when each took something next."""

    work: Work
    others: tuple[tuple[int, float, float | None], ...]

    @property
    def out_of_turn(self) -> OutOfTurn | None:
        """Whether it went past workers that waited too, and had begun to wait later, for certain.

        Two clock readings on two threads do not tell the order of what lies between them: whoever began to wait at about the same time,
        or just before the completion was there, or was released at the same moment, is not held against the port.
        """
        work = self.work
        passed = []
        for worker, since, next_taken in self.others:
            later = since > work.waiting_since + BEGINS_TO_WAIT_SECONDS
            there = work.posted is not None and since + BEGINS_TO_WAIT_SECONDS <= work.posted
            there = there or since + RELEASE_SECONDS <= work.taken
            together = next_taken is not None and next_taken - work.taken <= TOGETHER_SECONDS
            if later and there and not together:
                passed.append((since, worker))
        if not passed:
            return None
        oldest = all(since > work.waiting_since for _, since, _ in self.others)
        return OutOfTurn(work.number, work.worker, max(passed)[1], leader=work.posted is None or oldest or len(passed) == 1)


def takings(snapshot: Snapshot) -> Iterator[Taking]:
    """In the order in which they were taken."""
    waits: dict[int, list[tuple[float, float | None]]] = {}
    works = sorted(snapshot.works, key=lambda work: work.taken)
    for work in works:
        waits.setdefault(work.worker, []).append((work.waiting_since, work.taken))
    for worker, since in snapshot.waiting.items():
        waits.setdefault(worker, []).append((since, None))
    position = dict.fromkeys(waits, 0)
    for work in works:
        others = []
        for worker, spans in waits.items():
            # Each worker's waits are looked at once, whatever the number of completions.
            while position[worker] < len(spans) and (until := spans[position[worker]][1]) is not None and until <= work.taken:
                position[worker] += 1
            if worker != work.worker and position[worker] < len(spans) and spans[position[worker]][0] < work.taken:
                others.append((worker, *spans[position[worker]]))
        yield Taking(work, tuple(others))
