"""Reading and copying files by one of these ways, in a process of its own; prints its figures as JSON. Without one: all, in interleaved
rounds, and the ratios.

Loads: cached (4 KiB at random offsets of a file in memory, one after the other), direct1, direct4, direct32 (4 KiB at random
offsets past the page
cache, so many outstanding), copy (a file of `--size` MiB that is in memory, deleted afterwards).

The floors: `cached` at least 4 times `threads` (ThreadPoolExecutor(4), a task with os.pread a read) and 20 times `aiofiles`;
`direct*` at least 0.85
of `fio`'s io_uring at the same depth; `copy` at least 0.9 of `cp` and `shutil`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import proactor

BLOCK = 4096
KINDS = {
    "cached": ("proactor", "threads", "aiofiles"),
    "direct1": ("proactor", "fio"),
    "direct4": ("proactor", "fio"),
    "direct32": ("proactor", "fio"),
    "copy": ("proactor", "cp", "shutil"),
}
FLOORS = {
    ("cached", "threads"): 4.0,
    ("cached", "aiofiles"): 20.0,
    ("direct1", "fio"): 0.85,
    ("direct4", "fio"): 0.85,
    ("direct32", "fio"): 0.85,
    ("copy", "cp"): 0.9,
    ("copy", "shutil"): 0.9,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted({kind for kinds in KINDS.values() for kind in kinds}), nargs="?")
    parser.add_argument("load", choices=KINDS, nargs="?")
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=1024, help="MiB of the file")
    parser.add_argument("--only", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="on a disk that knows O_DIRECT, with room for two such files")
    options = parser.parse_args()
    path = prepared(Path(options.folder), options.size)
    if options.kind is None:
        compare(options, path)
    else:
        print(json.dumps({**measure(options.kind, options.load, path, options.seconds), "errors": 0}))


def prepared(folder: Path, size: int) -> Path:
    """A file of so many MiB that is not sparse, kept for the next run."""
    path = folder / f"proactor-bench-{size}.data"
    if not path.exists() or path.stat().st_size != size << 20:
        block = random.Random(size).randbytes(1 << 20)
        with open(path, "wb") as file:
            file.writelines(number.to_bytes(8, "little") + block[8:] for number in range(size))
            file.flush()
            os.fsync(file.fileno())
    return path


def has_fio() -> bool:
    """Installs it where that can be done without asking anybody."""
    if shutil.which("fio") is None and shutil.which("apt-get") is not None and os.geteuid() == 0:
        subprocess.run(["apt-get", "install", "--yes", "--quiet", "fio"], stdout=subprocess.DEVNULL, check=False)
    if shutil.which("fio") is not None:
        return True
    print("fio is missing, and left out: install the package fio (on Debian: apt-get install fio)", file=sys.stderr)
    return False


def compare(options: argparse.Namespace, path: Path) -> None:
    if any("fio" in KINDS[load] for load in options.only) and not has_fio():
        for load in KINDS:
            KINDS[load] = tuple(kind for kind in KINDS[load] if kind != "fio")
    for load in options.only:
        rates: dict[str, list[float]] = {kind: [] for kind in KINDS[load]}
        for number in range(options.rounds):
            for kind in KINDS[load] if number % 2 else reversed(KINDS[load]):
                command = [sys.executable, __file__, kind, load, "--seconds", str(options.seconds), "--size", str(options.size)]
                run = subprocess.run([*command, "--folder", options.folder], check=True, capture_output=True, text=True)
                rates[kind].append(json.loads(run.stdout)["rate"])
        ours = rates.pop("proactor")
        print(f"{load:9} proactor {statistics.median(ours):12,.0f}/s")
        for kind, theirs in rates.items():
            ratio = statistics.median(our / their for our, their in zip(ours, theirs, strict=True))
            floor = FLOORS[load, kind]
            verdict = "PASS" if ratio >= floor else "MISS"
            print(f"{'':9} {kind:8} {statistics.median(theirs):12,.0f}/s  ratio {ratio:6.2f}  {verdict} ({floor})")


def measure(kind: str, load: str, path: Path, seconds: float) -> dict:
    if load == "copy":
        return copying(kind, path)
    if load == "cached":
        warm(path)
        return {"proactor": cached_proactor, "threads": cached_threads, "aiofiles": cached_aiofiles}[kind](path, seconds)
    depth = int(load.removeprefix("direct"))
    return direct_fio(path, depth, seconds) if kind == "fio" else direct_proactor(path, depth, seconds)


def warm(path: Path) -> None:
    with open(path, "rb") as file:
        while file.read(1 << 20):
            pass


def offsets(path: Path) -> Callable[[], int]:
    chooser, blocks = random.Random(1), path.stat().st_size // BLOCK
    chosen = [chooser.randrange(blocks) * BLOCK for _ in range(100_000)]
    numbers = iter(range(1 << 62))
    return lambda: chosen[next(numbers) % len(chosen)]


def repeat(read: Callable[[], object], seconds: float) -> dict:
    count, begun = 0, time.perf_counter()
    end = begun + seconds
    while time.perf_counter() < end:
        for _ in range(100):
            read()
        count += 100
    return {"rate": count / (time.perf_counter() - begun)}


def cached_proactor(path: Path, seconds: float) -> dict:
    following = offsets(path)
    with proactor.open(path) as file:
        return repeat(lambda: file.read_at(following(), BLOCK).result(), seconds)


def cached_threads(path: Path, seconds: float) -> dict:
    following = offsets(path)
    with open(path, "rb", buffering=0) as file, ThreadPoolExecutor(4) as executor:
        descriptor = file.fileno()
        return repeat(lambda: executor.submit(os.pread, descriptor, BLOCK, following()).result(), seconds)


def cached_aiofiles(path: Path, seconds: float) -> dict:
    import aiofiles

    async def run() -> dict:
        following, count, begun = offsets(path), 0, time.perf_counter()
        async with aiofiles.open(path, "rb", buffering=0) as file:
            while time.perf_counter() < begun + seconds:
                await file.seek(following())
                await file.read(BLOCK)
                count += 1
        return {"rate": count / (time.perf_counter() - begun)}

    return asyncio.run(run())


def direct_proactor(path: Path, depth: int, seconds: float) -> dict:
    following, window = offsets(path), deque[Future]()
    with proactor.open(path, direct=True) as file:
        window.extend(file.read_at(following(), BLOCK) for _ in range(depth - 1))

        def read() -> None:
            window.append(file.read_at(following(), BLOCK))
            window.popleft().result()

        return repeat(read, seconds)


def direct_fio(path: Path, depth: int, seconds: float) -> dict:
    command = [
        "fio",
        "--name=read",
        f"--filename={path}",
        "--rw=randread",
        f"--bs={BLOCK}",
        "--direct=1",
        "--ioengine=io_uring",
        "--time_based",
    ]
    limits = [f"--iodepth={depth}", f"--runtime={max(1, round(seconds))}", "--output-format=json"]
    run = subprocess.run([*command, *limits], check=True, capture_output=True, text=True)
    return {"rate": json.loads(run.stdout)["jobs"][0]["read"]["iops"]}


def copying(kind: str, path: Path) -> dict:
    """The rate is in MiB."""
    warm(path)
    target = path.with_suffix(".copy")
    target.unlink(missing_ok=True)
    os.sync()
    begun = time.perf_counter()
    if kind == "cp":
        subprocess.run(["cp", path, target], check=True)
    elif kind == "shutil":
        shutil.copyfile(path, target)
    else:
        proactor.copy(path, target)
    rate = path.stat().st_size / (1 << 20) / (time.perf_counter() - begun)
    target.unlink()
    return {"rate": rate}


if __name__ == "__main__":
    main()
