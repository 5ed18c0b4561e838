"""Which Python module may import which: docs/design.md, "Layers". Nothing points backwards."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "python" / "proactor"

# What each module (or subpackage) may import of proactor. "*" is everything but cli; PUBLIC is proactor itself, with its public names only.
PUBLIC = "proactor"
LAYERS: Mapping[str, frozenset[str]] = {
    module: frozenset(allowed.split())
    for module, allowed in {
        "_core": "",
        "errors": "_core",
        "arguments": "",
        "platform": "",
        "pipes": "platform",
        "connection": "_core arguments errors",
        "handlers": "connection",
        "handles": "_core pipes platform",
        "workers": "_core errors platform connection handles",
        "futures": "_core arguments",
        "mapping": "",
        "timers": "_core platform",
        "pool": "_core arguments errors futures handles mapping platform timers workers",
        "port": "_core arguments handles platform",
        "listener": "_core errors pipes platform",
        "limits": "_core arguments connection pool",
        "client": "arguments connection handlers limits listener pipes platform pool",
        "server": "_core arguments errors connection handlers limits listener platform pool workers",
        "files": "_core arguments futures platform",
        "copying": "_core arguments files",
        "adapters": PUBLIC,
        "dashboard": "statistics",
        "testing": "*",
        "cli": "* cli proactor",
        "__init__": "*",
        "__main__": "cli",
    }.items()
}


def imports(source: str, module: str) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Each import of the package's own, anywhere in the source: the line, the module right below proactor (or PUBLIC), the names.

    `module` is the importing module's dotted name below proactor, with a last part `__init__` for a package.
    """
    package = ["proactor", *module.split(".")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [(alias.name.split("."), ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            path = [*base, *(node.module.split(".") if node.module else [])]
            names = tuple(alias.name for alias in node.names)
            # `from proactor import pool` and `from . import pool` import modules where there are such.
            modules = tuple(name for name in names if path == ["proactor"] and is_module(name))
            targets = [([*path, name], ()) for name in modules]
            if len(modules) < len(names):
                targets.append((path, tuple(name for name in names if name not in modules)))
        else:
            continue
        for path, names in targets:
            if path[:1] == ["proactor"]:
                yield node.lineno, path[1] if len(path) > 1 else PUBLIC, names


def is_module(name: str) -> bool:
    return (
        name in LAYERS or {name, f"{name}.py"} & {path.name for path in PACKAGE.iterdir()} != set()
    )  # not exists(): some file systems find Pool in pool


def violations(source: str, module: str, public: frozenset[str]) -> list[str]:
    """What breaks the layers in one module's source, as messages."""
    layer = module.split(".")[0]
    if layer not in LAYERS:
        return [f"{module}: a new module; say in LAYERS what it may import, and in docs/design.md what it is for"]
    allowed = LAYERS[layer]
    found = []
    for line, target, names in imports(source, module):
        where = f"{module}, line {line}"
        if target == layer and layer != "__init__":
            continue
        if target == PUBLIC and PUBLIC in allowed:
            private = sorted(set(names) - public)
            if private:
                found.append(f"{where}: takes {', '.join(private)} from proactor; only public names may be used here")
        elif target == "cli" and "cli" not in allowed:
            found.append(f"{where}: imports cli; nothing may")
        elif target not in allowed and not ("*" in allowed and target != PUBLIC):
            found.append(f"{where}: imports {target}; {layer} may import {', '.join(sorted(allowed)) or 'nothing of proactor'}")
    return found


def public_names() -> frozenset[str]:
    for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))):
        if isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets):
            return frozenset(ast.literal_eval(node.value))
    raise AssertionError("proactor/__init__.py has no __all__")


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path


def test_no_module_imports_what_is_above_it() -> None:
    public = public_names()
    found = [message for module, path in modules() for message in violations(path.read_text("utf-8"), module, public)]
    assert not found, "\n".join(found)


def test_importing_proactor_does_not_load_the_console_library() -> None:
    """What only the command line needs costs a library's user nothing."""
    for module, path in modules():
        if module.split(".")[0] not in ("cli", "__main__"):
            assert "prompt_toolkit" not in path.read_text("utf-8"), f"{module} names prompt_toolkit; only cli may"
            assert not re.search(r"\b(import|from) rich\b", path.read_text("utf-8")), f"{module} imports rich; only cli may"


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("pool", "from . import _core\nimport threading", None),
        ("pool", "from ._core import Worker", None),
        ("pool", "from .server import Server", "pool, line 1: imports server"),
        ("pool", "def later():\n    from proactor.server import Server", "pool, line 2: imports server"),
        ("server", "import proactor.cli.main", "imports cli; nothing may"),
        ("testing", "from .cli import main", "imports cli; nothing may"),
        ("testing", "from .server import Server", None),
        ("server", "from . import ThreadPool", "imports proactor"),
        ("adapters.wsgi", "import proactor", None),
        ("adapters.wsgi", "from . import socketserver", None),
        ("adapters.wsgi", "from .. import Server", None),
        ("adapters.wsgi", "from proactor import Server, _secret", "takes _secret from proactor"),
        ("adapters.wsgi", "from proactor import _core", "imports _core"),
        ("adapters.wsgi", "from ..pool import ThreadPool", "imports pool"),
        ("dashboard.top", "from ..pool import ThreadPool", "imports pool"),
        ("cli.serve", "from proactor.server import Server\nfrom .log import x\nimport proactor", None),
        ("unheard_of", "", "a new module"),
    ],
)
def test_the_checker_tells_good_from_bad(module: str, source: str, expected: str | None) -> None:
    found = violations(source, module, frozenset({"Server", "ThreadPool"}))
    if expected is None:
        assert found == []
    else:
        assert len(found) == 1
        assert expected in found[0]
