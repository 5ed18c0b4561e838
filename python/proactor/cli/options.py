"""The options' values: parsed, checked, and taken from the environment where the command line is silent; and how their help is set."""

import argparse
import math
import os
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

PREFIX = "PROACTOR_"


class Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of descriptions and tables, and wraps those that are too long for the terminal; of a table the right column."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = []
        for line in text.splitlines():
            left = re.match(r"\s+\S+\s{2,}|\s*", line)
            hanging = " " * (left.end() if left else 0)
            lines.append(textwrap.fill(line, width, initial_indent=indent, subsequent_indent=indent + hanging, replace_whitespace=False))
        return "\n".join(lines)


def whole_number(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """A parser of whole numbers within the limits."""
    limits = f"from {minimum} to {maximum}" if maximum is not None else f"of at least {minimum}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {limits}") from None
        if value < minimum or (maximum is not None and value > maximum):
            raise argparse.ArgumentTypeError(f"{value} is out of range: a whole number {limits}, please")
        return value

    return parse


def seconds(*, zero: bool = True, maximum: float | None = None, unit_hint: str = "") -> Callable[[str], float]:
    """A parser of seconds: a decimal number, not negative (without `zero` not 0 either), at most `maximum`."""
    least = "not negative" if zero else "more than 0"
    limits = f", at most {maximum:g}" if maximum is not None else ""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds{unit_hint}") from None
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero) or (maximum is not None and value > maximum):
            raise argparse.ArgumentTypeError(f"{text} is out of range: seconds, {least}{limits}{unit_hint}")
        return value

    return parse


def decimal(what: str, minimum: float, maximum: float) -> Callable[[str], float]:
    """A parser of decimal numbers from `minimum` to `maximum`; `what` they are, for the messages."""
    limits = f"{what}, from {minimum:g} to {maximum:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number: {limits}") from None
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"{text} is out of range: {limits}")
        return value

    return parse


def one_of(*names: str) -> Callable[[str], str]:
    """A parser of one of a few words, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(names)}")
        return text.lower()

    return parse


def text(value: str) -> str:
    """Any text but none at all."""
    if not value.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return value


def yes_or_no(value: str) -> bool:
    """A switch's value in the environment."""
    if value.lower() in ("1", "yes", "true", "on"):
        return True
    if value.lower() in ("", "0", "no", "false", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{value!r} is neither 1 nor 0")


class Options:
    """Options of one command, each also an environment variable: `--idle-timeout` and `PROACTOR_IDLE_TIMEOUT`."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parser = parser
        self._options: dict[str, tuple[str, Callable[[str], Any], Any]] = {}
        self._variables: dict[str, str] = {}

    def add(self, flag: str, parse: Callable[[str], Any], default: Any, *, metavar: str, meaning: str, shown: str | None = None) -> None:
        name = flag.removeprefix("--").replace("-", "_")
        if shown is None:
            shown = "off" if default is None else f"{default:g}" if isinstance(default, float) else str(default)
        self._parser.add_argument(flag, type=parse, metavar=metavar, help=f"{meaning} (default: {shown})", default=None)
        self._options[name] = (flag, parse, default)

    def add_switch(self, flag: str, *, meaning: str, variable: str | None = None) -> None:
        """`variable`: its environment variable's name, where the usual one means something else to another command."""
        self._parser.add_argument(flag, action="store_true", help=meaning, default=None)
        name = flag.removeprefix("--").replace("-", "_")
        self._options[name] = (flag, yes_or_no, False)
        if variable is not None:
            self._variables[name] = variable

    def error(self, message: str) -> NoReturn:
        """Ends the command: its line is wrong."""
        self._parser.error(message)

    def complete(self, namespace: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> None:
        """Fills in what the command line left out: from the environment, else the default. `given`: what it did not leave out."""
        namespace.given = frozenset(name for name in self._options if getattr(namespace, name) is not None)
        for name, (_, parse, default) in self._options.items():
            if getattr(namespace, name) is not None:
                continue
            variable = self._variables.get(name, PREFIX + name.upper())
            value = default
            if variable in environment and (environment[variable] or parse is yes_or_no):
                try:
                    value = parse(environment[variable])
                except argparse.ArgumentTypeError as error:
                    self._parser.error(f"environment variable {variable}: {error}{_service_hint(environment[variable])}")
            setattr(namespace, name, value)


def _service_hint(value: str) -> str:
    """Kubernetes puts such a variable into every container beside a service of the name `proactor`."""
    return "; unset it: it seems to be Kubernetes', for a service named proactor" if re.match(r"tcp://", value) else ""
