"""What follows from a recording: who was released in which order, how many ran at once. Owns the arithmetic; knows nothing of words.

Nothing here is taken from the plan of a run: the same function judges a recording that was made up with every rule broken.
"""

import bisect
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
    """Of that, how long it was the port's doing: more than the cap ran that had not blocked, or one that it let in beside those that ran.

    The rest of the time is that of handlers that came back from a blocking call, and run on beside whoever was let in for them.
    """
    came_back: int
    """How many handlers came back from a blocking call and ran in the rest of that time."""
    most_in_handlers: int
    blocked_seconds: float
    blocks: int
    """How many blocking calls that were."""
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
    above = [step for step in steps if step.running > snapshot.concurrency]
    beyond = let_in_beyond(works, snapshot.concurrency, snapshot.at)
    explained: list[Step] = []
    unexplained: list[Step] = []
    for step in above:
        of_the_port = len(step.not_back) > snapshot.concurrency or step.not_back & beyond
        (unexplained if of_the_port else explained).append(step)
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
        most_running=max((step.running for step in steps), default=0),
        above_cap_seconds=sum(step.seconds for step in above),
        above_cap_unexplained_seconds=sum(step.seconds for step in unexplained),
        came_back=len(frozenset[int]().union(*(step.back for step in explained))),
        most_in_handlers=max((step.inside for step in steps), default=0),
        blocked_seconds=sum((snapshot.at if end is None else end) - start for work in works for start, end in work.blocked),
        blocks=sum(len(work.blocked) for work in works),
        processor_seconds=sum(work.processor_seconds for work in works),
        together_seconds=sum(step.seconds for step in steps if step.running > 1),
        compensations=snapshot.samples[-1].compensations if snapshot.samples else 0,
    )


def end_of(work: Work, now: float) -> float:
    return now if work.ended is None else work.ended


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """Between two changes: which handlers run, by their completions' numbers."""

    start: float
    end: float
    not_back: frozenset[int]
    """Run, and have not blocked yet."""
    back: frozenset[int]
    """Have come back from a blocking call, and run."""
    inside: int
    """How many are in handlers, running or blocked."""

    @property
    def running(self) -> int:
        return len(self.not_back) + len(self.back)

    @property
    def seconds(self) -> float:
        return self.end - self.start


def spans(work: Work, now: float) -> Iterator[tuple[float, float]]:
    """From when to when its handler ran; the first time it had not blocked yet, and each other time it had come back."""
    start: float | None = work.taken
    for begin, stop in work.blocked:
        if start is not None:
            yield start, begin
        start = stop
    if start is not None:
        yield start, end_of(work, now)


def running_steps(works: Iterable[Work], now: float) -> Iterator[Step]:
    """What ran over time, without empty steps."""
    # When, by how much the handlers become more, those that run too, and of which completion, and whether it has blocked.
    changes: list[tuple[float, int, int, int, bool]] = []
    for work in works:
        changes += [(work.taken, 1, 0, work.number, False), (end_of(work, now), -1, 0, work.number, False)]
        for index, (start, end) in enumerate(spans(work, now)):
            if start < end:
                changes += [(start, 0, 1, work.number, index > 0), (end, 0, -1, work.number, index > 0)]
    changes.sort()
    not_back: set[int] = set()
    back: set[int] = set()
    inside = 0
    for index, (at, enters, runs, number, has_blocked) in enumerate(changes):
        inside += enters
        those = back if has_blocked else not_back
        if runs > 0:
            those.add(number)
        elif runs < 0:
            those.remove(number)
        until = changes[index + 1][0] if index + 1 < len(changes) else at
        if until > at:
            yield Step(at, until, frozenset(not_back), frozenset(back), inside)


def let_in_beyond(works: Iterable[Work], concurrency: int, now: float) -> frozenset[int]:
    """Which completions a worker was given although as many others as may run had been running for a while: the port could see that."""
    works = list(works)
    long = [(start + RELEASE_SECONDS, end) for work in works for start, end in spans(work, now) if end > start + RELEASE_SECONDS]
    seen, over = sorted(start for start, _ in long), sorted(end for _, end in long)
    return frozenset(
        work.number for work in works if bisect.bisect_right(seen, work.taken) - bisect.bisect_right(over, work.taken) >= concurrency
    )


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
