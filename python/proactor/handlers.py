"""What may be a handler: checks it when it is given, not when the first client comes, and finds its methods. Knows nothing of servers."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

from proactor.connection import Connection, Handler

__all__ = ["HandlerLike", "check_handler", "handler_methods"]

HandlerLike: TypeAlias = "Handler | type[Handler] | Callable[[Connection, bytes], object]"

# What each method of a Handler is called with, besides itself.
_METHODS = {
    "connected": ("connection",),
    "received": ("connection", "data"),
    "ended": ("connection",),
    "sent": ("connection", "count"),
    "closed": ("connection", "error"),
}
_REMEDY = "a handler is a function that takes (connection, data), or a subclass or an instance of proactor.Handler"


def check_handler(handler: object, name: str | None = None) -> None:
    """Whether `handler` can serve. `name`: what the user calls it.

    Raises:
        TypeError: it cannot; the text says why and what to write.
    """
    shown = repr(handler) if name is None else name
    if handler is Handler or type(handler) is Handler:
        raise TypeError(
            "Handler overrides none of proactor.Handler's methods (it is that class), so nothing would happen: "
            "write a subclass that overrides received(self, connection, data), say"
        )
    if isinstance(handler, Handler):
        _check_methods(handler, type(handler), f"{type(handler).__qualname__}" if name is None else name)
    elif isinstance(handler, type):
        if not issubclass(handler, Handler):
            raise TypeError(f"{shown} is a class, but not a subclass of proactor.Handler: {_REMEDY}")
        shown = handler.__qualname__ if name is None else name
        if not _takes(handler, 0):
            raise TypeError(f"{shown} needs arguments to be made: name an instance instead of the class")
        _check_methods(handler, handler, shown)
    elif not callable(handler):
        what = "" if name is None else f" is of type {type(handler).__name__}, which"
        raise TypeError(f"{shown}{what} cannot be called: {_REMEDY}")
    else:
        _check_plain(handler, shown)
        if not _takes(handler, 2):
            raise TypeError(f"{shown} does not take (connection, data): {_REMEDY}")


def handler_methods(handler: HandlerLike) -> dict[str, Any]:
    """What the core calls, by name; None for those methods that a `Handler` does not override, so that they cost nothing.

    A class is made into its one instance here.

    Raises:
        TypeError: it is no handler.
    """
    check_handler(handler)
    if isinstance(handler, type):
        handler = handler()
        check_handler(handler)
    if not isinstance(handler, Handler):
        return {"received": handler, **{name: None for name in _METHODS if name != "received"}}
    methods = {name: getattr(handler, name) if _overrides(handler, type(handler), name) else None for name in _METHODS}
    return {**methods, "received": handler.received}


def _check_methods(owner: Any, kind: type[Handler], shown: str) -> None:
    """`owner` is the instance, or the class that is going to have one."""
    overridden = [name for name in _METHODS if _overrides(owner, kind, name)]
    # An instance may get its methods in its __init__: then nothing is known of a class before there is one.
    if not overridden and (owner is not kind or kind.__init__ is object.__init__):
        names = ", ".join(_METHODS)
        raise TypeError(f"{shown} overrides none of proactor.Handler's methods ({names}), so nothing would happen{_misspelt(kind)}")
    for name in overridden:
        method = getattr(owner, name)
        _check_plain(method, f"{shown}.{name}")
        arguments = _METHODS[name]
        itself = owner is kind and not isinstance(inspect.getattr_static(kind, name), staticmethod | classmethod)
        if not _takes(method, len(arguments) + itself):
            raise TypeError(f"{shown}.{name} does not take ({', '.join(arguments)}): write def {name}(self, {', '.join(arguments)})")


def _overrides(owner: Any, kind: type[Handler], name: str) -> bool:
    return (owner is not kind and name in vars(owner)) or getattr(kind, name) is not getattr(Handler, name)


def _misspelt(kind: type[Handler]) -> str:
    """A hint at a method whose name is nearly one that is called."""
    for name in vars(kind):
        if not name.startswith("_") and (meant := difflib.get_close_matches(name.removeprefix("on_"), _METHODS, 1)):
            return f"; is {name} meant to be {meant[0]}?"
    return ""


def _check_plain(function: Any, shown: str) -> None:
    """A call of it has to run it: what these answer would have to be awaited or iterated over."""
    for candidate in (function, type(function).__call__):
        if inspect.iscoroutinefunction(candidate) or inspect.isasyncgenfunction(candidate):
            raise TypeError(f"{shown} is an async function, which nothing here would await: write a plain function, which may block")
        if inspect.isgeneratorfunction(candidate):
            raise TypeError(f"{shown} is a generator function, so a call would run nothing of it: write it without yield")


def _takes(function: Any, count: int) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C, and keeps its signature to itself
        return True
    try:
        signature.bind(*(None,) * count)
    except TypeError:
        return False
    return True
