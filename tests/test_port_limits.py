"""A port, pool or server that cannot begin says what was tried, why it failed, and what to do."""

import pytest

from peers import run_python

PROGRAM = """
import contextlib, os, resource
import proactor
resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
with contextlib.suppress(OSError):
    while True:
        os.dup(0)
try:
    {}
except OSError as error:
    print(error)
"""


@pytest.mark.linux("a limit of descriptors (setrlimit)")
@pytest.mark.parametrize("made", ["proactor.CompletionPort()", "proactor.ThreadPool().associate"])
def test_without_descriptors_it_says_what_was_tried_and_what_to_do(made: str) -> None:
    run = run_python(PROGRAM.format(made))
    assert "opening a completion port: Too many open files; close some descriptors, or raise the limit (ulimit -n)" in run.stdout, run
