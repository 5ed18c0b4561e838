"""What `help()` shows: everything public is documented where a program sees it, the native members too, as the stub has it."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import proactor
from proactor import _core


def public() -> Iterator[tuple[str, object]]:
    """Every name of `proactor.__all__`, and every public member of its classes, inherited ones included."""
    for name in proactor.__all__:
        value = getattr(proactor, name)
        yield name, value
        if isinstance(value, type) or inspect.ismodule(value):
            for member in dir(value):
                if not member.startswith("_") and member not in _fields(value):
                    yield f"{name}.{member}", inspect.getattr_static(value, member)


def _fields(value: object) -> frozenset[str]:
    """Attributes that are data: their documentation stands beside them in the source."""
    return frozenset(getattr(value, "__dataclass_fields__", ())) | frozenset(getattr(value, "__slots__", ()))


@pytest.mark.parametrize("name", [name for name, value in public() if name not in ("__version__", "errors.annotations")])
def test_every_public_name_is_documented_at_run_time(name) -> None:
    documented = inspect.getdoc(dict(public())[name])
    assert documented, f"help({name}) would be empty"
    assert documented.strip()


@pytest.mark.parametrize(
    ("name", "some"),
    [
        ("Connection", "send receive id close"),
        ("Timer", "cancel"),
        ("Wait", "cancel"),
        ("Event", "set wait"),
        ("Handle", "send"),
        ("Operation", "cancel"),
    ],
)
def test_what_is_native_is_documented_as_its_stub_says(name, some) -> None:
    stub = ast.parse((Path(proactor.__file__).parent / "_core.pyi").read_text("utf-8"))
    [described] = [node for node in stub.body if isinstance(node, ast.ClassDef) and node.name == name]
    methods = [node for node in described.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    assert set(some.split()) <= {method.name for method in methods}
    for method in methods:
        written = inspect.getdoc(inspect.getattr_static(getattr(_core, name), method.name))
        assert written == ast.get_docstring(method), (
            f"the documentation of {name}.{method.name} differs between the extension and _core.pyi"
        )
