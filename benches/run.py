"""The benchmark: proactor and its peers, in interleaved rounds. `make bench` runs this; README.md says what the numbers mean.

Only the standard library, and Linux. Exit code 0: everything ran; 1: a server or the generator failed (the tables say which), or, with
--strict, a floor was missed; 2: it could not begin.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import environment
import report
from environment import say
from measure import MeasurementError, Setting, measure
from suite import BOTH, PINNED, SERVERS, WORKLOADS


def main() -> int:
    options = parse_arguments()
    try:
        cpus = check_cpus(options)
        environment.raise_descriptor_limit()
        python = options.python or environment.prepare_python(install_proactor=wants_proactor(options) and not options.skip_install)
        generator = environment.build_generator()
        iterations = environment.calibrate_work(python, frozenset({options.server_cpu}))
        facts = environment.facts(python, iterations)
    except (subprocess.CalledProcessError, OSError, ValueError) as error:
        say(f"cannot begin: {error}")
        return 2
    print_facts(facts)

    results: report.Results = {}
    failures: list[str] = []
    for table in options.tables:
        setting = Setting(
            python=python,
            generator=generator,
            server_cpus=cpus if table == BOTH else frozenset({options.server_cpu}),
            generator_cpus=frozenset({options.generator_cpu}),
            seconds=options.seconds,
            warmup=options.warmup,
            work_iterations=iterations,
        )
        describe_table(table, setting)
        for name in options.only:
            if table in WORKLOADS[name].tables:
                results.setdefault(table, {})[name] = run_workload(name, table, setting, options, failures)

    verdicts = report.judge(results)
    shown = [verdict for verdict in verdicts if verdict.found or not options.partial]
    if shown:
        print(f"\n## Floors\n\n{report.floors_table(shown)}", flush=True)
    if disturbed := report.disturbed(results):
        print(f"\nDisturbed by other processes, so that verdicts on them mean little: {', '.join(disturbed)}.", flush=True)
    for failure in failures:
        print(f"\nFAILED {failure}")
    path = write_results(options, facts, results, verdicts, failures)
    print(f"\nwritten to {os.path.relpath(path)}")
    missed = any(verdict.passed is False for verdict in verdicts)
    return 1 if failures or (missed and options.strict) else 0


def run_workload(name: str, table: str, setting: Setting, options: argparse.Namespace, failures: list[str]) -> report.Rounds:
    """Every round runs every server once, and begins with another one. Ratios are taken within a round: what drifts, drifts for all."""
    workload = WORKLOADS[name]
    servers = [server for server in workload.servers if options.peers is None or server in options.peers]
    rounds: report.Rounds = {server: [] for server in servers}
    print(f"\n### {workload.title} [{name}]\n", flush=True)
    for number in range(options.rounds):
        first = number % max(1, len(servers))
        for server in servers[first:] + servers[:first]:
            try:
                rounds[server].append(measure(SERVERS[server], workload, setting))
            except MeasurementError as error:
                rounds[server].append(None)
                failures.append(f"{name} ({table}), round {number + 1}: {error}")
                say(failures[-1])
        say(f"  {name}: round {number + 1} of {options.rounds}")
    print(report.workload_table(workload, rounds), flush=True)
    if (others := report.other_cpus(rounds)) > report.DISTURBED:
        print(f"\nDisturbed: other processes used {others:.2f} CPUs meanwhile. Repeat it on a quiet machine.", flush=True)
    return rounds


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="default: 5")
    parser.add_argument("--seconds", type=float, help="measured, a server and round; default: 2")
    parser.add_argument("--warmup", type=float, help="seconds before that; default: 0.5")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 1 s: for a first look, not for a claim")
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="WORKLOAD", help=", ".join(WORKLOADS))
    parser.add_argument("--peers", nargs="+", choices=SERVERS, metavar="SERVER", help=f"only these: {', '.join(SERVERS)}")
    parser.add_argument("--tables", nargs="+", choices=(PINNED, BOTH), default=[PINNED, BOTH])
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--generator-cpu", type=int, default=1)
    parser.add_argument("--python", type=Path, help="an interpreter that has everything already; nothing is installed then")
    parser.add_argument("--skip-install", action="store_true", help="measure the proactor installed last time")
    parser.add_argument("--output", type=Path, help="the JSON file; default: benches/results/DATE-COMMIT.json")
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a floor is missed")
    options = parser.parse_args()
    for name, usual, quick in (("rounds", 5, 3), ("seconds", 2.0, 1.0), ("warmup", 0.5, 0.3)):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else usual)
    if options.rounds < 1 or not 0.1 <= options.seconds <= 600 or not 0 <= options.warmup <= 600:
        parser.error("needs at least one round, 0.1 to 600 seconds, at most 600 seconds of warm-up")
    options.partial = len(options.only) < len(WORKLOADS) or options.peers is not None or len(options.tables) < 2
    return options


def wants_proactor(options: argparse.Namespace) -> bool:
    return options.peers is None or any(name.startswith(("proactor", "pool", "port")) for name in options.peers)


def check_cpus(options: argparse.Namespace) -> frozenset[int]:
    """The CPUs of the second table; ValueError when this process may not use them."""
    cpus = frozenset({options.server_cpu, options.generator_cpu})
    if len(cpus) < 2 or not cpus <= os.sched_getaffinity(0):
        allowed = sorted(os.sched_getaffinity(0))
        raise ValueError(f"server and generator need a CPU each, of {allowed}; choose with --server-cpu and --generator-cpu")
    return cpus


def print_facts(facts: dict) -> None:
    versions = [facts["python"], *(f"{name} {version}" for name, version in facts["packages"].items()), facts["rust"]]
    print("; ".join([f"{facts['cpu']}, {facts['cores']} cores", facts["kernel"], facts["distribution"], *versions]))
    print(f"commit {facts['commit']}, {facts['date']}: {facts['command']}", flush=True)
    if facts["load_average_before"] > 0.3:
        say(f"note: something else is running here (load average {facts['load_average_before']:.1f}); expect noise")


def describe_table(table: str, setting: Setting) -> None:
    where = " and ".join(str(cpu) for cpu in sorted(setting.server_cpus))
    print(f"\n## {table}: server on CPU {where}, generator on CPU {min(setting.generator_cpus)}", flush=True)


def write_results(options: argparse.Namespace, facts: dict, results: report.Results, verdicts: list, failures: list[str]) -> Path:
    name = f"{facts['date'][:16].replace(':', '')}-{facts['commit']}.json"
    path = options.output or environment.BENCHES / "results" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {
        "facts": facts,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "warmup": options.warmup,
        "floors": report.verdicts_as_data(verdicts),
        "disturbed": report.disturbed(results),
        "failures": failures,
        "medians": report.medians(results),
        "reports": results,
    }
    path.write_text(json.dumps(data, indent=1) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
