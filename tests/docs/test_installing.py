"""What the README has a newcomer type, from a fresh clone: `pip install .` in an empty environment, and `make serve`.

The clone is of the working tree's last commit, with what is not committed laid over it. What is compiled here is not optimised, which
takes most of the time and proves nothing here: the optimised build is the one that runs this. It has a folder of its own in this project's
`target`: in a common one, this core would be taken for the optimised one. `make test` cannot run here, inside itself: CI runs it from a
fresh clone.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT = 280.0
QUICKLY_COMPILED = {
    "CARGO_PROFILE_RELEASE_OPT_LEVEL": "0",
    "CARGO_PROFILE_RELEASE_LTO": "off",
    "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
    "CARGO_PROFILE_RELEASE_DEBUG": "none",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("cargo") is None, reason="needs cargo, to build"),
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git, to clone"),
]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("newcomer") / "proactor"
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone of git: nothing can be cloned from it")
    run(["git", "clone", "--quiet", str(ROOT), str(folder)], Path("/"))
    listed = ["git", "ls-files", "-z", "--modified", "--others", "--exclude-standard"]
    for name in filter(None, run(listed, ROOT).split("\0")):
        target = folder / name
        if (ROOT / name).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        else:
            target.unlink(missing_ok=True)
    return folder


def environment() -> dict[str, str]:
    """As a newcomer's: no virtual environment, no settings of the run that this is part of."""
    scripts = sysconfig.get_path("scripts")
    ours = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "PYO3_PYTHON", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTEST_ADDOPTS")
    found = {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("PROACTOR_")}
    found["PATH"] = os.pathsep.join(folder for folder in os.environ["PATH"].split(os.pathsep) if folder != scripts)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "newcomer"
    return found | QUICKLY_COMPILED | {"CARGO_TARGET_DIR": str(target), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def base_python() -> str:
    """The interpreter that this environment was made of."""
    return str(getattr(sys, "_base_executable", sys.executable))


def test_pip_installs_it_into_an_empty_environment(clone: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "environment"
    run([base_python(), "-m", "venv", str(fresh)], tmp_path)
    run([str(fresh / "bin/pip"), "install", "--quiet", "."], clone)
    # Elsewhere than in the clone, whose sources would be found first.
    source = "import proactor; print(proactor.__file__); print(proactor.ThreadPool().submit(divmod, 7, 2).result())"
    where, answer = run([str(fresh / "bin/python"), "-I", "-c", source], tmp_path).splitlines()
    assert Path(where).is_relative_to(fresh)
    assert answer == "(3, 1)"
    assert "serve" in run([str(fresh / "bin/proactor"), "--help"], tmp_path)


def test_make_serve_builds_and_listens(clone: Path) -> None:
    command = ["make", "serve", f"PYTHON={base_python()}", "ARGS=--port 0"]
    process = subprocess.Popen(
        command,
        cwd=clone,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    # All of the session have the pipe: its end is theirs.
    limit = threading.Timer(TIMEOUT, os.killpg, [process.pid, signal.SIGKILL])
    limit.start()
    try:
        assert process.stdout is not None
        told = ""
        for line in process.stdout:
            told += line
            if re.search(r"listening on 127\.0\.0\.1:\d+", line):
                break
        else:
            pytest.fail(f"it ended before it listened:\n{told}")
        os.killpg(process.pid, signal.SIGTERM)
        told += process.stdout.read()
        process.wait(30)
    finally:
        limit.cancel()
        limit.join()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
    assert "served 0 clients" in told, told
