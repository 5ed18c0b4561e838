"""What a run of `proactor dispatch` shows, in words and as JSON.

Says only what follows from the record, and what was violated as plainly as what held.
"""

import dataclasses
import json
from typing import Any

from proactor.cli.dispatch_facts import Facts, OutOfTurn
from proactor.cli.dispatch_record import Snapshot
from proactor.cli.dispatch_scene import Scene
from proactor.cli.text import counted

NAMED_LIMIT = 3
"""So many violations are named one by one."""

SHARES_LIMIT = 8
"""Of so many workers is said how much each did: the busiest."""

TOGETHER_SHARE = 0.05
"""For less of the time than this it does not matter what two that ran at once were doing."""

SHORT_BLOCK_SECONDS = 0.005
"""Blocks that are shorter than this on the average may earn extra runners: the scheduler's README."""

LEADERS_SHARE = 0.1
"""Of posted completions so many may go past somebody because of the leader; were it more, that would be the rule."""


def sentences(facts: Facts, snapshot: Snapshot, *, interrupted: bool, interpreter_lock: bool) -> list[str]:
    """The summary, a line each: what was done, who was released, how many ran, what blocked, and what the interpreter's lock did to it."""
    lines = [_handled(facts, interrupted=interrupted)]
    lines += [f"{note[:1].upper()}{note[1:]}." for note in snapshot.notes]
    if facts.handled:
        lines += [_order(facts), _cap(facts, snapshot), _blocked(facts, snapshot)]
        lines += _interpreter(facts, interpreter_lock=interpreter_lock)
    return lines


def as_json(
    scene: Scene, facts: Facts, snapshot: Snapshot, lines: list[str], statistics: Any, *, interrupted: bool, interpreter_lock: bool
) -> str:
    """One object: the plan, what follows from the record, the record, and what the port said of itself. Times in seconds from the begin."""
    return json.dumps(
        {
            "scene": dataclasses.asdict(scene),
            "interrupted": interrupted,
            "interpreter_lock": interpreter_lock,
            "summary": lines,
            "facts": {**dataclasses.asdict(facts), "by_worker": {str(worker): count for worker, count in facts.by_worker.items()}},
            "completions": [dataclasses.asdict(work) for work in snapshot.works],
            "samples": [dataclasses.asdict(sample) for sample in snapshot.samples],
            "looks": snapshot.looks,
            "statistics": dataclasses.asdict(statistics),
        },
        indent=2,
    )


def _handled(facts: Facts, *, interrupted: bool) -> str:
    start = "Interrupted: " if interrupted else ""
    left = f"; {facts.left} never taken" if facts.left else ""
    what = f"{start}{facts.handled} of {counted(facts.posted, 'completion')} handled"
    if not facts.handled:
        return f"{what}{left}."
    if len(facts.by_worker) > 1:
        shares = ", ".join(f"worker {worker}: {count}" for worker, count in list(facts.by_worker.items())[:SHARES_LIMIT])
        if len(facts.by_worker) > SHARES_LIMIT:
            shares += f" and {len(facts.by_worker) - SHARES_LIMIT} more"
        return f"{what} by {counted(len(facts.by_worker), 'worker')} ({shares}){left}."
    (worker,) = facts.by_worker
    held = facts.choices > 0 and not facts.out_of_turn and facts.handled > 1 and not left
    return f"{what} by worker {worker}{left}" + (": the last to wait is the first released." if held else ".")


def _order(facts: Facts) -> str:
    if not facts.choices:
        return "Newest first was not put to the test: nobody else waited when a completion was taken."
    exceptions = len(facts.out_of_turn)
    if not exceptions:
        rest = facts.handled - facts.choices
        every = f"{counted(facts.choices, 'time')} others waited too, and each time the last to begin to wait was released"
        return f"Newest first always held: {every}" + (
            f"; the other {counted(rest, 'time')} there was nobody else to choose." if rest else "."
        )
    times = f"{counted(facts.choices, 'time')} that others waited too"
    if all(one.leader for one in facts.out_of_turn) and (facts.received or exceptions <= LEADERS_SHARE * facts.choices):
        return (
            f"Newest first held {facts.choices - exceptions} of the {times}; otherwise {_named(facts.out_of_turn)}."
            " One worker at a time polls for I/O: it takes what it finds itself, and is interrupted when nobody else waits."
        )
    return f"Newest first was VIOLATED {exceptions} of the {times}: {_named(facts.out_of_turn)}."


def _cap(facts: Facts, snapshot: Snapshot) -> str:
    cap, most, said = snapshot.concurrency, facts.most_running, snapshot.most_running
    looks = counted(snapshot.looks, "look")
    seen = f" (the port itself counted {said} at most, in {looks})" if snapshot.looks else ""
    if most <= cap < said and facts.blocked_seconds:
        return (
            f"Never more than {most} ran at once. The port, which needs a moment to see that one blocks, counted {said} at most"
            f" (in {looks}): where those that it counts mostly block, it lets in more than {cap}."
        )
    if most <= cap < said:
        return (
            f"Never more than {most} ran at once by the record, but the port itself counted {said}, more than the cap of {cap}, in {looks}."
        )
    if most < said == cap:
        return (
            f"Never more than {most} ran at once, and the port, which needs a moment to see that one blocks,"
            f" counted {said} at most (in {looks}): the cap held."
        )
    if most <= cap:
        how = "the cap held" if most == cap else f"the cap of {cap} was not reached"
        return f"Never more than {most} ran at once: {how}{seen}."
    explained = facts.above_cap_seconds - facts.above_cap_unexplained_seconds
    back = (
        f"{counted(facts.came_back, 'handler')} that came back from a blocking call computed beside those let in meanwhile,"
        f" as on Windows, for {_milliseconds(explained)}"
    )
    unexplained = facts.above_cap_unexplained_seconds
    if unexplained == 0:
        return f"Never more than {cap} were let in at once: the cap held{seen}. {back[:1].upper()}{back[1:]}; up to {most} ran at once."
    beyond = f"up to {most} ran at once, {_milliseconds(unexplained)} of it because another was let in beside {cap} that ran"
    besides = f" Besides, {back}." if facts.came_back else ""
    if facts.blocks and facts.blocked_seconds < SHORT_BLOCK_SECONDS * facts.blocks and said > cap:
        return (
            f"The cap of {cap} was EXCEEDED: {beyond}. The port itself counted {said} at most (in {looks}):"
            f" where handlers block too briefly to be seen one by one, it lets more in.{besides}"
        )
    if facts.compensations and not facts.blocks:
        return (
            f"The cap of {cap} was EXCEEDED: {beyond}{seen}. No handler made a blocking call: one that got no processor was"
            " taken for blocked, because the machine is busy; end other processes, or give this one precedence (nice)."
        )
    return f"The cap of {cap} was VIOLATED: {beyond}{seen}.{besides}"


def _blocked(facts: Facts, snapshot: Snapshot) -> str:
    given = counted(facts.compensations, "compensation")
    if facts.blocked_seconds == 0:
        if facts.compensations:
            return f"No handler made a blocking call, and yet the port took some for blocked: {given}."
        return "Nobody blocked, and nobody was compensated for."
    if facts.most_in_handlers > snapshot.concurrency:
        return (
            f"Up to {facts.most_in_handlers} workers were in handlers at once where {snapshot.concurrency} may run:"
            f" who blocks does not count, and frees its slot for another ({given})."
        )
    return f"Handlers blocked, with at most {counted(facts.most_in_handlers, 'worker')} in one at a time ({given})."


def _interpreter(facts: Facts, *, interpreter_lock: bool) -> list[str]:
    if facts.together_seconds <= TOGETHER_SHARE * facts.seconds:
        return []
    used = f"together they used {facts.processor_seconds / facts.seconds:.1f} processors"
    if interpreter_lock:
        return [f"This Python has an interpreter lock: of those that ran at once only one could compute ({used})."]
    return [f"This Python has no interpreter lock: those that ran at once could compute at once ({used})."]


def _named(violations: tuple[OutOfTurn, ...]) -> str:
    named = [f"completion {one.number} went to worker {one.worker} past worker {one.passed_over}" for one in violations[:NAMED_LIMIT]]
    more = len(violations) - NAMED_LIMIT
    return "; ".join(named) + (f"; and {more} more" if more > 0 else "")


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds >= 0.00095 else f"{max(1, round(seconds * 1e6))} microseconds"
