"""From rounds to tables: medians, paired ratios, floors. Knows the suite's data; starts nothing.

Results are kept as results[table][workload][server] = one entry a round: the generator's report, or None when that round failed.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from suite import FLOORS, WORKLOADS, Floor, Workload

Rounds = dict[str, list[dict | None]]
Results = dict[str, dict[str, Rounds]]

# When other processes use more CPUs than this, the figures are theirs too.
DISTURBED = 0.05


@dataclass(frozen=True)
class Spread:
    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Verdict:
    floor: Floor
    # None: not measured.
    found: Spread | None

    @property
    def passed(self) -> bool | None:
        if self.found is None:
            return None
        if self.floor.at_least is not None:
            return self.found.median >= self.floor.at_least
        return self.found.median <= self.floor.at_most


def value(report: dict | None, metric: str) -> float:
    """NaN where the round failed or has no such figure."""
    found: object = report
    for name in metric.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return math.nan if found is None else float(found)


def spread(values: list[float]) -> Spread | None:
    known = [number for number in values if not math.isnan(number)]
    return Spread(statistics.median(known), min(known), max(known), len(known)) if known else None


def figures(rounds: Rounds, server: str, metric: str) -> list[float]:
    return [value(report, metric) for report in rounds.get(server, [])]


def paired_ratios(rounds: Rounds, server: str, against: tuple[str, ...], metric: str, best: object = max) -> list[float]:
    """Round by round, the server's figure over the best of the others' in the same round; only rounds that have all of them."""
    others = [figures(rounds, name, metric) for name in against]
    ratios = []
    for mine, *theirs in zip(figures(rounds, server, metric), *others, strict=True):
        if not any(math.isnan(number) for number in (mine, *theirs)):
            ratios.append(mine / best(theirs) if best(theirs) else math.inf)
    return ratios


def other_cpus(rounds: Rounds) -> float:
    """How many CPUs processes that are not part of the measurement used, in the median; 0 where unknown."""
    found = spread([value(report, "other_cpus") for reports in rounds.values() for report in reports])
    return 0.0 if found is None else found.median


def disturbed(results: Results) -> list[str]:
    tables = results.items()
    return [f"{name} ({table})" for table, workloads in tables for name, rounds in workloads.items() if other_cpus(rounds) > DISTURBED]


def judge(results: Results) -> list[Verdict]:
    verdicts = []
    for floor in FLOORS:
        rounds = results.get(floor.table, {}).get(floor.workload, {})
        if not floor.against:
            found = spread(figures(rounds, floor.server, floor.metric))
        elif floor.server in rounds and all(name in rounds for name in floor.against):
            best = max if floor.at_least is not None else min
            found = spread(paired_ratios(rounds, floor.server, floor.against, floor.metric, best))
        else:
            found = None
        verdicts.append(Verdict(floor, found))
    return verdicts


def workload_table(workload: Workload, rounds: Rounds) -> str:
    """One row a server: medians of the columns, and the ratio of the first column to the reference's."""
    headers = [column.header for column in workload.columns]
    headers.insert(1, f"/ {workload.reference} (median, min-max)")
    rows = [["server", *headers]]
    for server in rounds:
        cells = []
        for column in workload.columns:
            found = spread(figures(rounds, server, column.metric))
            cells.append("-" if found is None else column.format.format(found.median))
        cells.insert(1, ratio_cell(rounds, server, workload))
        rows.append([server, *cells])
    return align(rows)


def ratio_cell(rounds: Rounds, server: str, workload: Workload) -> str:
    if workload.reference not in rounds:
        return "-"
    found = spread(paired_ratios(rounds, server, (workload.reference,), workload.columns[0].metric))
    return "-" if found is None else f"{found.median:.2f}  {found.low:.2f}-{found.high:.2f}"


def floors_table(verdicts: list[Verdict]) -> str:
    rows = [["", "floor", "figure (median, min-max)"]]
    for verdict in verdicts:
        word = {True: "PASS", False: "MISS", None: "-"}[verdict.passed]
        rows.append([word, describe(verdict.floor), describe_found(verdict)])
    return align(rows)


def describe(floor: Floor) -> str:
    who = "" if floor.server == "proactor" else f"{floor.server}: "
    relation, bound = (">=", floor.at_least) if floor.at_least is not None else ("<=", floor.at_most)
    against = f" x the best of {' and '.join(floor.against)}" if len(floor.against) > 1 else "".join(f" x {name}" for name in floor.against)
    return f"{floor.workload} ({floor.table}): {who}{floor.metric} {relation} {bound:g}{against}"


def describe_found(verdict: Verdict) -> str:
    found = verdict.found
    if found is None:
        return "not measured"
    digits = 0 if found.median >= 100 else 2 if found.median >= 0.1 else 3
    text = f"{found.median:,.{digits}f}  {found.low:,.{digits}f}-{found.high:,.{digits}f}"
    if verdict.passed:
        return text
    bound = verdict.floor.at_least if verdict.floor.at_least is not None else verdict.floor.at_most
    return f"{text}  missed by {abs(found.median / bound - 1):.0%}"


def align(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        cells = [
            cell.ljust(width) if column < 2 or len(rows[0]) == 3 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("| " + " | ".join(cells) + " |")
        if number == 0:
            lines.append("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def verdicts_as_data(verdicts: list[Verdict]) -> list[dict]:
    data = []
    for verdict in verdicts:
        found = verdict.found
        entry = {"floor": describe(verdict.floor), "passed": verdict.passed}
        if found is not None:
            entry |= {"median": found.median, "min": found.low, "max": found.high, "rounds": found.rounds}
        data.append(entry)
    return data


def medians(results: Results) -> dict:
    """The tables as data: the medians of every column and the paired ratios to the workload's reference."""
    data: dict = {}
    for table, workloads in results.items():
        for name, rounds in workloads.items():
            workload = WORKLOADS[name]
            for server in rounds:
                entry: dict = {}
                for column in workload.columns:
                    found = spread(figures(rounds, server, column.metric))
                    entry[column.metric] = None if found is None else round(found.median, 4)
                if workload.reference in rounds:
                    found = spread(paired_ratios(rounds, server, (workload.reference,), workload.columns[0].metric))
                    entry[f"ratio_to_{workload.reference}"] = found and [
                        round(number, 4) for number in (found.median, found.low, found.high)
                    ]
                data.setdefault(table, {}).setdefault(name, {})[server] = entry
    return data
