"""Finds what `module:handler` names and checks that it can serve. Knows nothing of servers beyond `Handler`."""

import importlib
import inspect
import os
import re
import sys
import traceback
from typing import Any

import proactor
from proactor.cli.exit_codes import CommandError, ExitCode
from proactor.handlers import check_handler


def load_handler(target: str) -> Any:
    """The function, `Handler` subclass or instance that `target` names, looked for in the current directory first.

    Raises `CommandError`, its exit status telling what was wrong.
    """
    module_name, separator, attribute = target.partition(":")
    if not separator or not _DOTTED.fullmatch(module_name) or not _DOTTED.fullmatch(attribute):
        hint = f"; did you mean {suggestion}?" if (suggestion := _suggestion(target)) else ""
        raise CommandError(f"{target!r} does not name a handler: write module:handler, as in app:echo{hint}", ExitCode.USAGE)
    return _checked(target, _attribute(_import(module_name, target), attribute))


def _import(name: str, target: str) -> Any:
    try:
        directory = os.getcwd()
    except FileNotFoundError as error:
        raise CommandError(
            f"cannot look for {name!r}: the current directory has been removed; change to another one (cd), and start again",
            ExitCode.CANNOT_START,
        ) from error
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            if name.endswith(".py"):
                raise CommandError(
                    f"{target!r} names a file, where a module is wanted: did you mean {_suggestion(target)}?", ExitCode.MISSING_MODULE
                ) from error
            raise CommandError(
                f"there is no module {error.name!r} in {directory} or among the installed packages:"
                f" run proactor where {error.name.partition('.')[0]}.py is, or correct the name",
                ExitCode.MISSING_MODULE,
            ) from error
        raise _import_failed(name, error) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _import_failed(name, error) from error


def _import_failed(name: str, error: BaseException) -> CommandError:
    where = ""
    if isinstance(error, SyntaxError):
        where = f" ({error.filename}, line {error.lineno})"
    elif frames := [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]:
        where = f" ({frames[-1].filename}, line {frames[-1].lineno})"
    what = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
    hint = f"install or correct what `python -c 'import {name}'` complains about"
    return CommandError(f"importing {name!r} failed with {what}{where}: {hint}", ExitCode.IMPORT_FAILED)


def _attribute(module: Any, path: str) -> Any:
    value = module
    for name in path.split("."):
        try:
            value = getattr(value, name)
        except AttributeError as error:
            names = ", ".join(sorted(_candidates(module))) or "none"
            raise CommandError(
                f"module {module.__name__!r} ({getattr(module, '__file__', 'built in')}) has no {path!r}: it could be one of: {names}",
                ExitCode.MISSING_ATTRIBUTE,
            ) from error
    return value


def _checked(target: str, value: Any) -> Any:
    try:
        check_handler(value, target)
    except TypeError as error:
        raise CommandError(str(error), ExitCode.NOT_A_HANDLER) from error
    return value


def _candidates(module: Any) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or (inspect.isclass(value) and issubclass(value, proactor.Handler)))
        and getattr(value, "__module__", None) == module.__name__
    ]


def _suggestion(target: str) -> str:
    path, _, attribute = target.partition(":")
    name = re.sub(r"\.py$", "", path).removeprefix("./").replace("/", ".")
    suggestion = f"{name}:{attribute or 'handler'}"
    return suggestion if suggestion != target and _DOTTED.fullmatch(name) else ""


_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
