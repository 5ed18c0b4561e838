"""Checks of what users pass: each answers the value as it is used, or raises with the parameter's name and what to write instead.

Knows nothing of what the values are for.
"""

from __future__ import annotations

import math
import operator
import os
from typing import Any

__all__ = ["duration", "flag", "path", "seconds", "seconds_left", "whole_number"]

_LARGEST = 2**63 - 1  # what the core's numbers hold
_LONGEST = 1e9  # seconds, some thirty years: what is longer is no limit


def whole_number(name: str, value: Any, *, unit: str = "", minimum: int = 1, maximum: int = _LARGEST, none: str = "") -> int:
    """A whole number within the limits. `none`: what the caller takes None for, to be told beside the rule.

    Raises:
        TypeError: it is no whole number; True and False are none.
        ValueError: it is out of range.
    """
    rule = f"{name} must be a whole number{unit and f' of {unit}'}, at least {minimum}{none and f', or None for {none}'}"
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{rule}; not {value!r}") from None
    if number < minimum:
        raise ValueError(f"{rule}; not {value!r}")
    if number > maximum:
        raise ValueError(f"{rule} and at most {maximum}; {value!r} is too large")
    return number


def seconds(name: str, value: Any, *, zero: bool = False, none: str = "no limit") -> float | None:
    """A length of time in seconds; None where there is no limit, which infinity is too. `zero`: it may be 0.
    `none`: what the caller takes None for, to be told beside the rule.

    Raises:
        TypeError: it is no number; True and False are none.
        ValueError: it is negative, not a number, or 0 where it must not be.
    """
    if value is None:
        return None
    number = _number(f"{name} must be a number of seconds, {'0 or more' if zero else 'more than 0'}, or None for {none}", value, zero)
    return number if number <= _LONGEST else None


def seconds_left(name: str, value: Any, *, none: str = "no limit") -> float | None:
    """As `seconds`, where it may be 0 or negative: there is no time left, as the standard library's futures take it."""
    if value is None:
        return None
    return _number(f"{name} must be a number of seconds, or None for {none}", value, zero=True, negative=True)


def duration(name: str, value: Any, *, zero: bool = False) -> float:
    """A length of time in seconds that ends. `zero`: it may be 0.

    Raises:
        TypeError: it is no number; True and False are none.
        ValueError: it is negative, infinite, not a number, or 0 where it must not be.
    """
    rule = f"{name} must be a number of seconds, {'0 or more' if zero else 'more than 0'}"
    number = _number(rule, value, zero)
    if number > _LONGEST:
        raise ValueError(f"{rule} and at most {_LONGEST:.0f}; not {value!r}")
    return number


def _number(rule: str, value: Any, zero: bool, negative: bool = False) -> float:
    try:
        if isinstance(value, bool | str | bytes | bytearray):
            raise TypeError
        number = float(value)
    except TypeError:
        raise TypeError(f"{rule}; not {value!r}") from None
    except OverflowError:  # an int beyond all floats
        number = math.inf if value > 0 else -math.inf
    if math.isnan(number) or (number < 0 and not negative) or (number == 0 and not zero):
        raise ValueError(f"{rule}; not {value!r}")
    return number


def path(name: str, value: Any) -> Any:
    """A path as os.open takes it.

    Raises:
        TypeError: it is none; a descriptor is none either.
    """
    try:
        return os.fspath(value)
    except TypeError:
        raise TypeError(f"{name} must be a path (str, bytes or os.PathLike), not {value!r}") from None


def flag(name: str, value: Any) -> bool:
    """True or False.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value
