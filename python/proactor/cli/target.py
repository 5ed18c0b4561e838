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


def load_handler(target: str) -> Any:
    """The function, `Handler` subclass or instance that `target` names, looked for in the current directory first.

    Raises `CommandError`, its exit status telling what was wrong.
    """
    module_name, separator, attribute = target.partition(":")
    if not separator or not _DOTTED.fullmatch(module_name) or not _DOTTED.fullmatch(attribute):
        hint = f"; did you mean {suggestion}?" if (suggestion := _suggestion(target)) else ""
        raise CommandError(f"{target!r} does not name a handler: write module:handler, as in app:echo{hint}", ExitCode.USAGE)
    return _checked(target, _attribute(_import(module_name), attribute))


def _import(name: str) -> Any:
    directory = os.getcwd()
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
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
    def refuse(why: str) -> CommandError:
        return CommandError(
            f"{target} {why}: a handler is a function that takes (connection, data), or a proactor.Handler", ExitCode.NOT_A_HANDLER
        )

    if isinstance(value, proactor.Handler):
        return value
    if inspect.isclass(value):
        if not issubclass(value, proactor.Handler):
            raise refuse("is a class, but not a subclass of proactor.Handler")
        _check_call(value, (), refuse("needs arguments to be made; name an instance instead"))
        return value
    if not callable(value):
        raise refuse(f"is {_article(type(value).__name__)}, which cannot be called")
    if inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value):
        raise refuse("is an async function, which nothing here would await; plain functions may block")
    _check_call(value, (None, b""), refuse("does not take (connection, data)"))
    return value


def _check_call(function: Any, arguments: tuple[Any, ...], refusal: CommandError) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Written in C, and keeps its signature to itself.
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        raise refusal from None


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


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
