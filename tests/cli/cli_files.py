"""Files that the tests of `proactor read` and `copy` use, and how a failed command looks. Knows nothing of processes."""

import os
import random
from pathlib import Path
from typing import Any

SIZES = (0, 1, 255, 256, 257, 1000, 1024, 100_000, 1_000_003)

MARKS = {0: b"the first bytes", (4 << 30) - 3: b"across four gigabytes", (10 << 30) - 17: b"the last of all.\n"}
"""What stands where in a sparse file of ten gigabytes."""

SPARSE_SIZE = 10 << 30

ZEROS = bytes(1 << 20)

WITHOUT_OVERRIDE = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-dac_override,-dac_read_search"]
"""Before a command: takes away what lets root read and write every file."""


def random_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def make_sparse_file(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(SPARSE_SIZE)
        for offset, data in MARKS.items():
            file.seek(offset)
            file.write(data)
    return path


def part_of_sparse_file(start: int, size: int) -> bytes:
    """What stands there: the marks, and the nothing between. At most a megabyte."""
    part = ZEROS[:size]
    assert len(part) == size
    for offset, data in MARKS.items():
        first, last = max(start, offset), min(start + size, offset + len(data))
        if first < last:
            part = part[: first - start] + data[first - offset : last - offset] + part[last - start :]
    return part


def one_line(result: Any) -> str:
    """The one line on standard error of a command that failed, without the program's name."""
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("proactor: ")
    return lines[0].removeprefix("proactor: ")


def may_override() -> list[str]:
    return WITHOUT_OVERRIDE if os.getuid() == 0 else []
