"""What `proactor dispatch` says of a record, here of records that were made up: also of those in which every rule is broken."""

import itertools
import re
import xml.etree.ElementTree as ElementTree

import pytest

from proactor.cli.dispatch_facts import Step, facts_of, running_steps, takings
from proactor.cli.dispatch_live import facts_in_brief, handled
from proactor.cli.dispatch_picture import picture
from proactor.cli.dispatch_record import Recording, Sample, Snapshot, Work
from proactor.cli.dispatch_scene import PRESETS, Scene
from proactor.cli.dispatch_summary import sentences

SCENE = Scene(name="", workers=2, concurrency=1, count=2, rate=1.0, burst=1, handler_ms=100.0, blocking_share=0.0)


def work(number, worker, *, since, posted, taken, ended, blocked=(), processor=0.0):
    return Work(number, worker, since, posted, taken, begun=taken, ended=ended, blocked=list(blocked), processor_seconds=processor)


def record(*works, workers=2, concurrency=1, waiting=None, compensations=0, port_running=None, notes=(), posted=None):
    samples, looks = (), 0
    if port_running is not None or compensations:
        samples, looks = (Sample(0.0, 0, port_running or 0, 0, 0, compensations),), 10
    return Snapshot(
        workers=workers,
        concurrency=concurrency,
        at=10.0,
        works=works,
        waiting=waiting or {},
        posted=len(works) if posted is None else posted,
        finished=len(works),
        samples=samples,
        looks=looks,
        most_running=port_running or 0,
        notes=notes,
    )


def summary(snapshot, *, interrupted=False, interpreter_lock=True):
    return sentences(facts_of(snapshot), snapshot, interrupted=interrupted, interpreter_lock=interpreter_lock)


def calm(number=8):
    """Worker 2 does everything while worker 1, who has waited longer, waits on."""
    return [work(n, 2, since=n - 1.0, posted=n - 0.5, taken=n - 0.5, ended=n - 0.2, processor=0.3) for n in range(1, number + 1)]


def test_one_worker_that_does_everything_is_the_last_to_wait():
    lines = summary(record(*calm(), waiting={1: -1.0, 2: 7.8}))
    assert lines == [
        "8 of 8 completions handled by worker 2: the last to wait is the first released.",
        "Newest first always held: 8 times others waited too, and each time the last to begin to wait was released.",
        "Never more than 1 ran at once: the cap held.",
        "Nobody blocked, and nobody was compensated for.",
    ]


def test_one_worker_that_does_everything_out_of_turn_is_said_so():
    """Worker 1 gets it all, and worker 2 has waited less long each time."""
    works = [work(n, 1, since=n - 1.0, posted=n - 0.5, taken=n - 0.5, ended=n - 0.2) for n in range(1, 6)]
    lines = summary(record(*works, waiting={1: 4.8, 2: 4.2}))
    assert lines[0] == "5 of 5 completions handled by worker 1."
    assert lines[1] == "Newest first was VIOLATED 1 of the 1 time that others waited too: completion 5 went to worker 1 past worker 2."


def test_of_many_violations_the_first_are_named():
    works = [work(n, n, since=-10.0 + n, posted=1.0, taken=1.0 + n / 10, ended=9.0) for n in range(1, 7)]
    facts = facts_of(record(*works, workers=6, concurrency=6))
    assert [one.number for one in facts.out_of_turn] == [1, 2, 3, 4, 5]
    (line,) = [line for line in summary(record(*works, workers=6, concurrency=6)) if "VIOLATED" in line]
    assert line.startswith(
        "Newest first was VIOLATED 5 of the 5 times that others waited too: completion 1 went to worker 1 past worker 6; "
    )
    assert line.endswith("; and 2 more.")


def released(number, worker, waiting):
    """A completion to `worker`, all of `waiting` (since when each) being there."""
    return record(
        work(number, worker, since=waiting[worker], posted=5.0, taken=5.0, ended=5.1),
        workers=len(waiting),
        waiting={other: since for other, since in waiting.items() if other != worker},
    )


@pytest.mark.parametrize(
    ("worker", "leader"),
    [
        (4, None),  # The last to wait.
        (3, True),  # Worker 4 may have been polling, and is interrupted last.
        (2, False),  # Not both of 3 and 4 can have been polling.
        (1, True),  # It may have been polling itself, and found it.
    ],
)
def test_what_the_leader_can_explain_is_told_from_what_it_cannot(worker, leader):
    (one,) = facts_of(released(1, worker, {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0})).out_of_turn or (None,)
    assert (one and one.leader) == leader
    if leader is not None:
        assert one.passed_over == 4


def test_now_and_then_the_leader_is_out_of_turn_and_that_is_said():
    odd = work(99, 1, since=-1.0, posted=8.5, taken=8.5, ended=8.6)
    lines = summary(record(*calm(), odd, waiting={1: 8.6, 2: 7.8}))
    assert "VIOLATED 1 of the 9 times" in lines[1], "one of nine is too many"
    works = [work(n, 2, since=n / 10 - 0.1, posted=n / 10, taken=n / 10, ended=n / 10) for n in range(1, 31)]
    lines = summary(record(*works, odd, waiting={1: 8.6, 2: 3.0}))
    assert lines[1].startswith(
        "Newest first held 30 of the 31 times that others waited too; otherwise completion 99 went to worker 1 past worker 2."
    )
    assert "polls for I/O" in lines[1]


@pytest.mark.parametrize(
    ("since", "next_taken", "violated"),
    [
        (0.9, None, True),
        (0.9, 1.5, True),
        (0.9, 1.0005, False),  # Released together: whose clock was read first says nothing.
        (0.9995, None, False),  # It had written down that it waits, and may not have waited yet.
        (0.1, None, False),  # It has waited longer.
        (0.5005, None, False),  # They began to wait at about the same time, in whichever order.
    ],
)
def test_what_two_clock_readings_do_not_tell_is_not_held_against_the_port(since, next_taken, violated):
    works = [work(1, 1, since=0.5, posted=1.0, taken=1.0, ended=2.0)]
    waiting = {}
    if next_taken is None:
        waiting[2] = since
    else:
        works.append(work(2, 2, since=since, posted=1.0, taken=next_taken, ended=next_taken + 1))
    taking = next(takings(record(*works, waiting=waiting)))
    assert (taking.out_of_turn is not None) == violated


def test_a_worker_that_was_released_late_for_what_was_queued_is_judged_too():
    """Posted when both were busy; worker 2 came back last, and worker 1 was given it, long afterwards."""
    works = [work(1, 1, since=1.0, posted=0.5, taken=2.0, ended=3.0)]
    assert [one.passed_over for one in facts_of(record(*works, waiting={2: 1.5})).out_of_turn] == [2]


def test_without_a_choice_newest_first_was_not_tested():
    lines = summary(record(work(1, 1, since=0.0, posted=0.5, taken=0.5, ended=1.0), workers=1))
    assert lines[1].startswith("Newest first was not put to the test")
    assert lines[0] == "1 of 1 completion handled by worker 1."


def test_more_than_the_cap_at_once_is_a_violation():
    works = [work(n, n, since=0.0, posted=1.0, taken=1.0, ended=1.5) for n in (1, 2)]
    (line,) = [line for line in summary(record(*works, port_running=2)) if "cap" in line]
    assert line == (
        "The cap of 1 was VIOLATED: up to 2 ran at once, 500.0 ms of it because another was let in beside 1 that ran"
        " (the port itself counted 2 at most, in 10 looks)."
    )


def test_a_runner_without_a_processor_that_was_taken_for_blocked_is_said_with_what_to_do():
    works = [work(n, n, since=0.0, posted=1.0, taken=1.0, ended=1.5) for n in (1, 2)]
    line = summary(record(*works, port_running=2, compensations=1))[2]
    assert line.startswith("The cap of 1 was EXCEEDED: up to 2 ran at once, 500.0 ms")
    assert "got no processor was taken for blocked" in line
    assert "(nice)" in line


def test_where_there_was_no_choice_the_order_is_not_said_to_have_failed():
    works = [work(1, 2, since=0.0, posted=1.0, taken=1.0, ended=2.0), work(2, 1, since=-1.0, posted=1.0, taken=1.1, ended=2.0)]
    line = summary(record(*works, concurrency=2))[1]
    assert line == (
        "Newest first always held: 1 time others waited too, and each time the last to begin to wait was released;"
        " the other 1 time there was nobody else to choose."
    )


def test_whoever_comes_back_from_a_block_may_be_one_too_many():
    works = [
        work(1, 1, since=0.0, posted=1.0, taken=1.0, ended=2.5, blocked=[(1.0, 2.0)]),
        work(2, 2, since=0.0, posted=1.0, taken=1.1, ended=2.1),
    ]
    facts = facts_of(record(*works, compensations=1))
    assert (facts.most_running, facts.most_in_handlers, facts.compensations) == (2, 2, 1)
    assert facts.above_cap_seconds == pytest.approx(0.1)
    assert facts.above_cap_unexplained_seconds == 0
    lines = summary(record(*works, compensations=1))
    assert lines[2] == (
        "Never more than 1 were let in at once: the cap held (the port itself counted 0 at most, in 10 looks). 1 handler that came back"
        " from a blocking call computed beside those let in meanwhile, as on Windows, for 100.0 ms; up to 2 ran at once."
    )
    assert lines[3] == (
        "Up to 2 workers were in handlers at once where 1 may run: who blocks does not count,"
        " and frees its slot for another (1 compensation)."
    )


def came_back_and_let_in(at):
    """Worker 1 comes back from a block at 2.0 and computes until 4.0; worker 2 is given its second completion `at`."""
    return [
        work(1, 1, since=0.0, posted=1.0, taken=1.0, ended=4.0, blocked=[(1.0, 2.0)]),
        work(2, 2, since=0.0, posted=1.0, taken=1.1, ended=at - 0.001),
        work(3, 2, since=at - 0.001, posted=1.0, taken=at, ended=at + 1),
    ]


def test_who_is_let_in_beside_one_that_has_been_back_for_a_while_is_a_violation():
    """Though another one had come back from a block: the port could see that, and was not to let anybody in for it."""
    works = came_back_and_let_in(2.5)
    facts = facts_of(record(*works))
    assert facts.above_cap_unexplained_seconds == pytest.approx(1.0)
    assert facts.above_cap_seconds == pytest.approx(1.499)
    line = summary(record(*works, compensations=1))[2]
    assert line.startswith("The cap of 1 was VIOLATED: up to 2 ran at once, 1000.0 ms of it because another was let in beside 1 that ran")
    assert line.endswith(
        " Besides, 1 handler that came back from a blocking call computed beside those let in meanwhile, as on Windows, for 499.0 ms."
    )


def test_who_is_let_in_as_another_one_comes_back_is_none():
    """It was chosen before, and had to get a processor and the interpreter."""
    facts = facts_of(record(*came_back_and_let_in(2.015)))
    assert (facts.above_cap_unexplained_seconds, facts.came_back) == (0, 1)
    assert facts.above_cap_seconds == pytest.approx(1.014)


def test_a_handler_that_blocks_for_no_time_has_come_back_all_the_same():
    works = [work(1, 1, since=0.0, posted=1.0, taken=1.0, ended=2.0, blocked=[(1.5, 1.5)])]
    assert [(step.running, len(step.back)) for step in running_steps(works, 2.0)] == [(1, 0), (1, 1)]


def test_a_port_that_lets_more_in_where_blocks_are_short_is_said():
    works = [work(n, n, since=0.0, posted=1.0, taken=1.0, ended=1.5, blocked=[(1.497, 1.5)]) for n in (1, 2)]
    line = summary(record(*works, port_running=2))[2]
    assert line.startswith("The cap of 1 was EXCEEDED: up to 2 ran at once, 497.0 ms of it because another was let in beside 1 that ran. ")
    assert line.endswith("counted 2 at most (in 10 looks): where handlers block too briefly to be seen one by one, it lets more in.")


def test_the_record_and_the_port_may_disagree_and_that_is_said():
    works = [work(1, 1, since=0.0, posted=1.0, taken=1.0, ended=2.0)]
    assert "but the port itself counted 3, more than the cap of 1" in summary(record(*works, port_running=3))[2]
    many = [work(1, 1, since=0.0, posted=1.0, taken=1.0, ended=2.0, blocked=[(1.5, 2.0)])]
    assert (
        "counted 3 at most (in 10 looks): where those that it counts mostly block, it lets in more than 1."
        in summary(record(*many, port_running=3))[2]
    )
    asleep = [work(1, 1, since=0.0, posted=1.0, taken=1.0, ended=2.0, blocked=[(1.0, 2.0)])]
    assert summary(record(*asleep, port_running=1))[2] == (
        "Never more than 0 ran at once, and the port, which needs a moment to see that one blocks,"
        " counted 1 at most (in 10 looks): the cap held."
    )


def test_a_compensation_for_nobody_is_said():
    assert summary(record(*calm(), compensations=2))[3] == (
        "No handler made a blocking call, and yet the port took some for blocked: 2 compensations."
    )


def test_an_interrupted_run_says_what_was_left():
    works = [work(1, 1, since=0.0, posted=1.0, taken=1.0, ended=2.0)]
    assert summary(record(*works, posted=5), interrupted=True)[0] == "Interrupted: 1 of 5 completions handled by worker 1; 4 never taken."
    assert summary(record(posted=0), interrupted=True) == ["Interrupted: 0 of 0 completions handled."]


def test_of_many_workers_the_busiest_are_named():
    works = [work(n, n % 10 + 1, since=n - 1.0, posted=n - 0.5, taken=n - 0.5, ended=n - 0.2) for n in range(1, 12)]
    line = summary(record(*works, workers=10, concurrency=10))[0]
    assert line.startswith("11 of 11 completions handled by 10 workers (worker 2: 2, worker 1: 1, ")
    assert line.endswith("worker 8: 1 and 2 more).")


def test_a_note_is_a_sentence_of_its_own():
    lines = summary(record(*calm(), notes=("the peer ended the connection",)))
    assert lines[1] == "The peer ended the connection."


@pytest.mark.parametrize(("lock", "words"), [(True, "only one could compute"), (False, "could compute at once")])
def test_what_the_interpreters_lock_does_to_the_picture_is_said(lock, words):
    works = [work(n, n, since=0.0, posted=1.0, taken=1.0, ended=2.0, processor=0.5) for n in (1, 2)]
    lines = summary(record(*works, concurrency=2), interpreter_lock=lock)
    assert words in lines[-1]
    assert "together they used 1.0 processors" in lines[-1]


def test_the_numbers_over_time_are_those_of_the_record():
    works = [
        work(1, 1, since=0.0, posted=1.0, taken=1.0, ended=4.0, blocked=[(2.0, 3.0)]),
        work(2, 2, since=0.0, posted=1.0, taken=2.5, ended=None),
    ]
    nobody, one, two = frozenset[int](), frozenset({1}), frozenset({2})
    steps = list(running_steps(works, 5.0))
    assert steps == [
        Step(1.0, 2.0, not_back=one, back=nobody, inside=1),
        Step(2.0, 2.5, not_back=nobody, back=nobody, inside=1),
        Step(2.5, 3.0, not_back=two, back=nobody, inside=2),
        Step(3.0, 4.0, not_back=two, back=one, inside=2),
        Step(4.0, 5.0, not_back=two, back=nobody, inside=1),
    ]
    assert [step.running for step in steps] == [1, 0, 1, 2, 1]


@pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 0.5, 0.9, 1.0])
def test_the_share_that_blocks_is_spread_evenly(share):
    scene = Scene(**{**PRESETS["busy"], "blocking_share": share}, name="mix")
    blocking = [scene.blocks(number) for number in range(1, 1001)]
    for number in range(1, 1001):
        assert abs(sum(blocking[:number]) - share * number) <= 1


def test_a_recording_keeps_who_waits_since_when():
    recording = Recording(2, 1)
    for worker in (1, 2):
        recording.waits(worker)
    recording.begin()
    posted = recording.posts()
    taken = recording.took(2, at=recording.now(), number=1, posted=posted, size=None)
    recording.blocks(taken)
    half = recording.snapshot()
    recording.unblocked(taken)
    recording.ended(taken, 0.25)
    whole = recording.snapshot()
    assert list(half.waiting) == [1]
    assert half.waiting[1] <= taken.waiting_since <= 0 <= posted <= taken.taken <= taken.begun
    assert (half.works[0].ended, half.works[0].blocked[0][1], half.finished) == (None, None, 0), "a snapshot does not change"
    assert whole.works[0].ended is not None
    assert (whole.works[0].processor_seconds, whole.finished, recording.finished()) == (0.25, 1, 1)


# The picture.

SVG = "{http://www.w3.org/2000/svg}"


def drawn(snapshot, **changes):
    scene = Scene(
        **{**PRESETS["busy"], "workers": snapshot.workers, "concurrency": snapshot.concurrency, **changes}, name='a "scene" & <more>'
    )
    return ElementTree.fromstring(picture(scene, snapshot, summary(snapshot)))


def bars(root, kind):
    return [element for group in root.iter(f"{SVG}g") for element in group.iter(f"{SVG}rect") if element.get("class") == kind]


@pytest.mark.parametrize("workers", [1, 2, 64])
def test_the_picture_has_a_lane_for_each_worker_and_a_bar_for_each_completion(workers):
    works = [work(n, n % workers + 1, since=n - 1.0, posted=n - 0.5, taken=n - 0.5, ended=n - 0.2) for n in range(1, 6)]
    root = drawn(record(*works, workers=workers))
    lanes = [element for element in root.iter(f"{SVG}rect") if element.get("class") == "lane"]
    assert [lane.get("data-worker") for lane in lanes] == [str(number) for number in range(1, workers + 1)]
    assert len(bars(root, "running")) == 5
    inside = [lane for lane in lanes for bar in bars(root, "running") if lane.get("y") == bar.get("y")]
    assert len(inside) == 5, "each bar lies in a lane"


def test_the_picture_hatches_blocks_draws_the_cap_and_needs_nothing_from_outside():
    works = [work(1, 1, since=0.0, posted=0.0, taken=0.001, ended=0.5, blocked=[(0.002, 0.4)])]
    root = drawn(record(*works))
    assert len(bars(root, "blocked")) == 1
    assert any(element.get("class") == "cap" for element in root.iter(f"{SVG}line"))
    assert any("prefers-color-scheme: dark" in (element.text or "") for element in root.iter(f"{SVG}style"))
    text = ElementTree.tostring(root, encoding="unicode")
    assert not re.search(r"href|@import|url\((?!#)|<script|<image", text)


@pytest.mark.parametrize("seconds", [0.000003, 0.004, 0.9, 1.99, 2.0, 7.3, 86_400.0])
def test_no_text_of_the_picture_lies_on_another(seconds):
    """By a generous width of 7 units a character."""
    works = [
        work(
            n,
            n,
            since=0.0,
            posted=seconds * n / 40,
            taken=seconds * n / 30,
            ended=seconds * (n + 10) / 20,
            blocked=[(seconds * n / 25, seconds / 2)],
        )
        for n in range(1, 11)
    ]
    root = drawn(record(*works, workers=12, concurrency=3))
    rows = {}
    for element in root.iter(f"{SVG}text"):
        size, style = len(element.text) * 7.0, element.get("class", "")
        x = float(element.get("x"))
        left = x - size if "end" in style.split() else x - size / 2 if {"middle", "number"} & set(style.split()) else x
        if style != "title" and float(element.get("y")) < 700:
            rows.setdefault(float(element.get("y")), []).append((left, left + size, element.text))
    for row in rows.values():
        row.sort()
        for (_, right, first), (left, _, second) in itertools.pairwise(row):
            assert right <= left + 1, f"{first!r} and {second!r}"


def test_marks_that_would_lie_on_each_other_are_one_that_says_how_many():
    works = [work(n, n, since=-1.0, posted=n / 10_000, taken=0.1, ended=1.0) for n in range(1, 13)]
    root = drawn(record(*works, work(13, 1, since=1.0, posted=1.5, taken=1.5, ended=2.0), workers=12, concurrency=12))
    assert len([element for element in root.iter(f"{SVG}path") if element.get("class") == "posted"]) == 2
    assert [element.text for element in root.iter(f"{SVG}text") if "at once" in (element.text or "") and element.text[0].isdigit()] == [
        "12 at once"
    ]


def test_an_empty_record_is_a_picture_too():
    assert drawn(record()).tag == f"{SVG}svg"


def test_of_very_many_completions_the_picture_shows_the_first_and_says_so():
    works = [work(n, 1, since=n - 1.0, posted=None, taken=float(n), ended=n + 0.5) for n in range(1, 2101)]
    root = drawn(record(*works))
    assert len(bars(root, "running")) == 2000
    assert any("the first 2000 of 2100 completions" in (element.text or "") for element in root.iter(f"{SVG}text"))


@pytest.mark.parametrize("number", [8, 1_000, 1_000_000])
def test_the_rows_of_counters_fit_into_eighty_columns(number):
    rows = [
        handled(number, number, number, 512, 512, 512, columns=80),
        "   ".join(facts_in_brief(number, number, 512, 512, number, columns=80)),
    ]
    assert max(map(len, rows)) <= 80, rows
    assert handled(8, 8, 0, 1, 0, 3, columns=80) == "8 of 8 posted completions handled  0 queued  1 running  0 blocked  3 waiting"
    assert facts_in_brief(8, 8, 1, 1, 0, columns=80) == ("newest first: 8 of 8", "ran at once: at most 1, cap 1", "compensations: 0")
