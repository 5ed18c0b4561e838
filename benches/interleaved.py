"""Ours beside one other kind: a script that measures one kind, run for both in interleaved rounds."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys


def compare(script: str, kinds: tuple[str, str], metrics: tuple[str, ...], rounds: int, figure: str) -> None:
    """Runs `script KIND`, which prints metrics as JSON; prints their medians, in the format `figure`, and that of the paired ratios."""
    reports: dict[str, list[dict]] = {kind: [] for kind in kinds}
    for number in range(rounds):
        for kind in kinds if number % 2 else reversed(kinds):
            run = subprocess.run([sys.executable, script, kind], check=True, capture_output=True, text=True)
            reports[kind].append(json.loads(run.stdout))
    width = max(map(len, metrics)) + 1
    for metric in metrics:
        ours, theirs = ([report[metric] for report in reports[kind]] for kind in kinds)
        medians = [f"{kind} {statistics.median(figures):{figure}}" for kind, figures in zip(kinds, (ours, theirs), strict=True)]
        ratio = statistics.median(our / their for our, their in zip(ours, theirs, strict=True))
        print(f"{metric:{width}} {'  '.join(medians)}  ratio {ratio:.2f}")
