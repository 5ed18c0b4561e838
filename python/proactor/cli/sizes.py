"""Sizes as people write and read them: `256K` is 256 KiB, 262,144 bytes. Knows nothing of files."""

import argparse
import math
import re
from collections.abc import Callable

UNITS = "KMGT"
"""Each is 1,024 of the one before."""


def size(minimum: int = 0, maximum: int = 2**63 - 1) -> Callable[[str], int]:
    """A parser of numbers of bytes, with K, M, G or T (or KiB and so on) for powers of 1,024."""
    how = "write bytes, as 4096, or with K, M, G or T for powers of 1024, as 256K"

    def parse(text: str) -> int:
        match = re.fullmatch(rf"([0-9]{{1,20}}(?:\.[0-9]{{1,20}})?) *(?:([{UNITS}])(i?B)?|B)?", text.strip(), re.IGNORECASE | re.ASCII)
        if match is None:
            raise argparse.ArgumentTypeError(f"{text!r} is not a size: {how}")
        number, unit, tail = match.groups()
        if tail is not None and len(tail) == 1:
            raise argparse.ArgumentTypeError(
                f"{text!r} may mean powers of 1000 or of 1024: write {number}{unit}iB for powers of 1024, or bytes"
            )
        whole, _, fraction = number.partition(".")
        scale: int = 1 << 10 * (UNITS.index(unit.upper()) + 1 if unit else 0)
        divisor: int = 10 ** len(fraction)
        value, rest = divmod(int(whole + fraction) * scale, divisor)
        if rest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of bytes: {how}")
        if not minimum <= value <= maximum:
            limits = f"at least {minimum}" if value < minimum else f"at most {show_limit(maximum)}"
            raise argparse.ArgumentTypeError(f"{text} is out of range: {limits}, please")
        return value

    return parse


def show_limit(number: int) -> str:
    """Exact, and as short as it can be: `1G`, `1000`."""
    for power in range(len(UNITS), 0, -1):
        if number and number % (1 << 10 * power) == 0:
            return f"{number >> 10 * power}{UNITS[power - 1]}"
    return str(number)


def show_size(number: float) -> str:
    """Three digits or so: `17 B`, `1.50 MiB`, `977 KiB`."""
    if number < 1024:
        return f"{number:.0f} B"
    power = min(int(math.log2(number)) // 10, len(UNITS))
    value = number / (1 << 10 * power)
    if value >= 999.5 and power < len(UNITS):
        power, value = power + 1, value / 1024
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {UNITS[power - 1]}iB"
