"""Sizes as they are written on a command line, and shown."""

import argparse
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proactor.cli.sizes import show_size, size


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("4096", 4096),
        ("17B", 17),
        ("256K", 256 << 10),
        ("256k", 256 << 10),
        ("256 KiB", 256 << 10),
        ("1.5M", 3 << 19),
        ("10G", 10 << 30),
        ("2tib", 2 << 40),
        (" 8 ", 8),
        ("0.5K", 512),
    ],
)
def test_what_people_write(text, value):
    assert size()(text) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' is not a size: write bytes, as 4096, or with K, M, G or T for powers of 1024, as 256K"),
        ("many", "'many' is not a size"),
        ("-1", "'-1' is not a size"),
        ("1e3", "'1e3' is not a size"),
        ("1_000", "'1_000' is not a size"),
        ("٣", "'٣' is not a size"),
        ("K", "'K' is not a size"),
        ("1X", "'1X' is not a size"),
        ("9" * 5000, "is not a size"),
        ("1KB", "'1KB' may mean powers of 1000 or of 1024: write 1KiB for powers of 1024, or bytes"),
        ("1.5", "'1.5' is not a whole number of bytes"),
        ("0.0001K", "is not a whole number of bytes"),
        ("8388608T", "8388608T is out of range: at most 9223372036854775807, please"),
    ],
)
def test_what_is_no_size_is_said_with_what_to_write(text, words):
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(words)):
        size()(text)


def test_limits_are_told_as_they_are_written():
    with pytest.raises(argparse.ArgumentTypeError, match="2G is out of range: at most 1G, please"):
        size(1, 1 << 30)("2G")
    with pytest.raises(argparse.ArgumentTypeError, match="0 is out of range: at least 1, please"):
        size(1, 1 << 30)("0")
    assert size(1, 1 << 30)("1G") == 1 << 30


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (10239, "10.0 KiB"),
        (1000003, "977 KiB"),
        (1023 << 10, "1.00 MiB"),
        ((1 << 20) - 1, "1.00 MiB"),
        (3 << 29, "1.50 GiB"),
        (5000 << 40, "5000 TiB"),
    ],
)
def test_sizes_are_shown_with_three_digits(number, shown):
    assert show_size(number) == shown


@given(st.integers(0, 2**63 - 1))
def test_a_shown_size_is_near_the_number(number):
    value, unit = show_size(number).split()
    scale = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}[unit]
    assert abs(float(value) * scale - number) <= max(number * 0.03, 0.5)
