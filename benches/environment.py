"""What must exist before anything is measured (virtual environment, release builds), and the facts a result is worthless without."""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BENCHES = ROOT / "benches"
CACHE = ROOT / ".cache" / "benches"
PACKAGES = ("proactor", "uvloop", "gevent", "greenlet", "trio")
# Seconds of pure-Python work in the workload that has some.
WORK_SECONDS = 6e-6


def cargo_target() -> Path:
    """A target folder of its own: building here does not undo what an editable installation has built."""
    return Path(os.environ.get("CARGO_TARGET_DIR", CACHE / "target")).resolve()


def prepare_python(install_proactor: bool) -> Path:
    """The interpreter of a virtual environment with the pinned peers, and proactor as `pip install .` builds it: release mode."""
    venv = CACHE / "venv"
    python = venv / "bin" / "python"
    if not python.exists():
        say(f"making {venv.relative_to(ROOT)}")
        run(sys.executable, "-m", "venv", venv)
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    requirements = BENCHES / "requirements.txt"
    installed = venv / "installed-requirements.txt"
    if not installed.exists() or installed.read_text() != requirements.read_text():
        say("installing the peers")
        run(*pip, "-r", requirements)
        installed.write_text(requirements.read_text())
    if install_proactor:
        say("building and installing proactor")
        # PYO3_PYTHON would name another interpreter than the one that is built for.
        environment = {name: value for name, value in os.environ.items() if name != "PYO3_PYTHON"}
        run(*pip, ROOT, environment=environment | {"CARGO_TARGET_DIR": str(cargo_target())})
    return python


def build_generator() -> Path:
    say("building the load generator")
    manifest = BENCHES / "load" / "Cargo.toml"
    run("cargo", "build", "--release", "--quiet", "--locked", "--manifest-path", manifest, "--target-dir", cargo_target())
    return cargo_target() / "release" / "proactor-load"


def calibrate_work(python: Path, cpus: frozenset[int]) -> int:
    """How many iterations of workload.compute take WORK_SECONDS; every server gets the same number."""
    program = (
        "import timeit, workload; "
        "print(min(timeit.repeat('workload.compute(1000)', globals=globals(), number=200, repeat=15)) / 200 / 1000)"
    )
    text = run(python, "-c", program, cpus=cpus, folder=BENCHES / "servers")
    return max(1, round(WORK_SECONDS / float(text)))


def facts(python: Path, work_iterations: int) -> dict:
    """Machine, kernel, versions, commit, command, date."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["benches/run.py", *sys.argv[1:]]),
        "commit": commit(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "distribution": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        **json.loads(run(python, "-c", VERSIONS)),
        "rust": run("rustc", "--version").strip(),
        "work_iterations": work_iterations,
        "load_average_before": os.getloadavg()[0],
    }


# Runs in the virtual environment: its interpreter and packages are the ones measured.
VERSIONS = f"""
import importlib.metadata, json, platform, sysconfig
found = {{d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}}
threading = "free-threaded" if sysconfig.get_config_var("Py_GIL_DISABLED") else "GIL"
print(json.dumps({{
    "python": f"{{platform.python_implementation()}} {{platform.python_version()}} ({{threading}})",
    "packages": {{name: found[name] for name in {PACKAGES!r} if name in found}},
}}))
"""


def commit() -> str:
    """The commit, with "+changes" when the tree differs from it; "none" outside a repository."""
    try:
        name = run("git", "-C", ROOT, "rev-parse", "--short=12", "--verify", "--quiet", "HEAD").strip()
        return name + ("+changes" if run("git", "-C", ROOT, "status", "--porcelain").strip() else "")
    except (subprocess.CalledProcessError, FileNotFoundError):
        return "none"


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def raise_descriptor_limit() -> None:
    """The servers inherit it; 10,000 connections need it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(*command: object, environment: dict[str, str] | None = None, cpus: frozenset[int] | None = None, folder: Path | None = None) -> str:
    """Standard output of a command; what it says on standard error is the user's to read."""
    pin = None if cpus is None else lambda: os.sched_setaffinity(0, cpus)
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder, preexec_fn=pin).stdout


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
