"""The progress bar's line, in terminals of any width. How it looks at a real one is in test_read.py and test_copy.py."""

import os

import pytest
from rich.cells import cell_len

from proactor.cli import progress
from proactor.cli.progress import ProgressBar


@pytest.fixture
def lines(monkeypatch):
    """What is written to standard error, which is a terminal for the bar."""
    written = []
    monkeypatch.setattr(progress, "_write", written.append)
    monkeypatch.setattr(progress, "in_foreground_of", lambda _: True)
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0)
    return written


def in_columns(monkeypatch, columns):
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((columns, 24)))


def shown(line):
    assert line.startswith("\r")
    assert line.endswith("\x1b[K")
    return line.removeprefix("\r").removesuffix("\x1b[K")


@pytest.mark.parametrize("columns", [1, 2, 3, 5, 10, 20, 40, 60, 80, 200])
def test_the_line_never_wraps(lines, monkeypatch, columns):
    in_columns(monkeypatch, columns)
    bar = ProgressBar("/some/[bold]na{me}漢字" + "y" * 50, 1000)
    bar.update(0)
    bar.update(500)
    bar.close()
    assert lines.pop() == "\n"
    for line in lines:
        assert "\n" not in line
        assert cell_len(shown(line)) < columns


def test_a_terminal_that_does_not_tell_its_width(lines, monkeypatch):
    in_columns(monkeypatch, 0)
    bar = ProgressBar("name", 1000)
    bar.update(500)
    assert "name" in lines[-1]
    assert " 50% 500 B of 1000 B" in lines[-1]
    bar.close()


def test_control_characters_of_a_name_do_not_reach_the_terminal(lines, monkeypatch):
    in_columns(monkeypatch, 200)
    bar = ProgressBar("\x1b[31mred\nname", 1000)
    bar.update(1)
    assert "\\x1b[31mred\\nname" in lines[-1]
    bar.close()


@pytest.mark.parametrize(
    ("total", "done", "words"), [(0, 0, "100% 0 B of 0 B"), (1000, 2000, "100% 1.95 KiB of 1000 B"), (None, 2000, "  1.95 KiB")]
)
def test_sizes_that_are_nothing_that_grow_and_that_are_unknown(lines, monkeypatch, total, done, words):
    in_columns(monkeypatch, 100)
    bar = ProgressBar("name", total)
    bar.update(done)
    bar.close()
    assert words in lines[-2]


def test_closing_twice_writes_once_and_closing_what_never_began_nothing(lines, monkeypatch):
    in_columns(monkeypatch, 80)
    ProgressBar("name", 1).close()
    assert lines == []
    bar = ProgressBar("name", 1)
    bar.update(1)
    bar.close()
    bar.close()
    assert lines.count("\n") == 1
