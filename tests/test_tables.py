"""The tables of tests/README.md name tests and files that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_every_test_and_file_named_in_the_tables_exists() -> None:
    named = set(re.findall(r"`(test_\w+|[\w/]*test_\w+\.py)`", (TESTS / "README.md").read_text("utf-8")))
    sources = {path.relative_to(TESTS).as_posix(): path.read_text("utf-8") for path in TESTS.rglob("test_*.py")}
    functions = {name for source in sources.values() for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}
    missing = sorted(name for name in named if name not in functions and name not in sources)
    assert missing == []
    assert len(named) > 60


def test_every_fault_that_has_a_file_is_in_the_table() -> None:
    table = (TESTS / "README.md").read_text("utf-8")
    assert [path.name for path in sorted((TESTS / "faults").glob("test_*.py")) if path.name not in table] == []
