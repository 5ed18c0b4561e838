"""CPython's own cases of the thread pool, run against ours. They come from Debian's package of them; nothing of it is kept here."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = "libpython3.11-testsuite"
CACHE = Path(__file__).parents[2] / ".cache" / "foreign"
WITHIN = "usr/lib/python3.11/test"
CASES = 44

# What does not pass, and why: each reads how the standard library's pool is made, not what it does.
MISSES = {
    "ThreadPoolExecutorTest.test_default_workers": "the default is another one, as documented: threads are made when others block",
    "ThreadPoolExecutorTest.test_idle_thread_reuse": "counts threads: beside the one that works there is a spare to take over",
    "ThreadPoolShutdownTest.test_thread_names_assigned": "the private format of a thread's name; ours is prefix-1, prefix-2, ...",
    "ThreadPoolShutdownTest.test_thread_names_default": "the same, and the name of the standard library's class",
}
# They count threads right after submit, where the standard library makes them, and then wait for ever for calls that they did not release.
HANG = {
    "ThreadPoolExecutorTest.test_saturation": "ours are made when the first ones are found blocked, a moment later",
    "ThreadPoolShutdownTest.test_threads_terminate": "the same",
}


@pytest.fixture(scope="module")
def directory() -> Path:
    """Where the cases lie: installed, or unpacked into a cache."""
    for place in (Path("/") / WITHIN, CACHE / WITHIN):
        if (place / "test_concurrent_futures.py").exists():
            return place
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip(f"needs Debian's {PACKAGE}, and this is no Debian")
    CACHE.mkdir(parents=True, exist_ok=True)
    download = subprocess.run(["apt-get", "download", PACKAGE], cwd=CACHE, capture_output=True, text=True, timeout=50)
    packages = sorted(CACHE.glob(f"{PACKAGE}_*.deb"))
    if not packages:
        pytest.skip(f"{PACKAGE} cannot be downloaded: {download.stderr.strip()[-200:]}")
    subprocess.run(["dpkg-deb", "-x", packages[-1], CACHE], check=True, timeout=50)
    return CACHE / WITHIN


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="Debian 12 has the cases of CPython 3.11, which use its test.support")
def test_cpythons_own_cases_pass_but_for_those_that_read_its_internals(directory: Path, tmp_path: Path) -> None:
    output = tmp_path / "outcomes.json"
    program = Path(__file__).with_name("thread_pool_cases.py")
    done = subprocess.run(
        [sys.executable, program, directory, output, *HANG], capture_output=True, text=True, timeout=150, stdin=subprocess.DEVNULL
    )
    assert output.exists(), done.stderr[-2000:]
    outcomes = json.loads(output.read_text())
    assert len(outcomes) == CASES
    failed = {name: text for name, text in outcomes.items() if text and name not in MISSES and name not in HANG}
    assert not failed, "\n".join(f"{name}: {text}" for name, text in failed.items())
    assert {name for name, text in outcomes.items() if text == "not run"} == set(HANG)
    # A miss that passes now is no miss any more.
    assert {name for name in MISSES if not outcomes[name]} == set()
