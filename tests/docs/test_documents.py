"""Runs what the documents show: README.md, CONTRIBUTING.md, docs/, the examples and the docstrings.

* A ```python block is a whole program: it runs in a process of its own, warnings being errors. With the info string `python continued`
  it goes on where the page's block before it ended, and both run as one program. A block that calls `serve_forever()` is ended with Ctrl-C
  once it serves.
* In a ```console block each line after `$ ` is a command, and the lines between are output that must appear, `...` standing for anything;
  in a ```sh block each line is a command. A command that goes on to listen (`proactor serve`) serves the block's later commands, then
  Ctrl-C ends it. What sets up or tests the project itself (`make`, `pip install`) is checked against the Makefile and pyproject.toml.
* Every program must exit with 0, without a traceback; one ended with Ctrl-C may pass on the KeyboardInterrupt, as Python programs do.

Port 60001 is replaced by a free one, so that a server which runs on this machine does not matter.
"""

import ast
import doctest
import importlib
import os
import pkgutil
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import proactor
import proactor._core

pytestmark = pytest.mark.linux("a Unix shell and the project's tools: the documents are about them")

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "crates").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))
RUN = ("python", "console", "sh")
NOT_RUN = ("", "text", "toml", "rust", "json")
SECONDS = 30.0
UNCLEAN = r"Exception ignored|Exception in thread|Warning: "


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str, markdown: str) -> list[Block]:
    """The page's fenced blocks; a continued one begins with what it continues."""
    found: list[Block] = []
    for token in MarkdownIt().parse(markdown):
        if token.type == "fence" and token.map:
            language, _, flag = token.info.strip().partition(" ")
            text = token.content
            if flag == "continued":
                text = next(block.text for block in reversed(found) if block.language == language) + text
            elif flag:
                language = token.info
            found.append(Block(page, token.map[0] + 1, language, text))
    return found


BLOCKS = [block for path in DOCUMENTS if path.exists() for block in blocks_of(path.relative_to(ROOT).as_posix(), path.read_text())]


class Program:
    """A program under test in a session of its own, its output in a file."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self.arguments = arguments
        self.log = folder / f"output-{len(list(folder.iterdir()))}.txt"
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                arguments, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def ended(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def serves_or_ends(self) -> int | None:
        """Waits until a process of this program listens and its main thread is at rest: its id; or until the program has ended: None."""
        rest = None
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if self.ended(0.1):
                return None
            before, rest = rest, next(((pid, at_rest(pid)) for pid in self.processes() if listens(pid)), None)
            if rest is not None and rest == before and rest[1] is not None:
                return rest[0]
        raise self.failed(f"neither serves nor ends within {SECONDS:.0f} s")

    def expect_end(self) -> None:
        if not self.ended(SECONDS):
            raise self.failed(f"still runs after {SECONDS:.0f} s")
        if self.process.returncode != 0:
            raise self.failed(f"exit code {self.process.returncode}")
        if re.search(rf"(?m)^Traceback |{UNCLEAN}", self.output()):
            raise self.failed("a traceback or a warning")

    def interrupt(self, pid: int) -> None:
        """Ctrl-C, which must end it in order: with 0, or with the KeyboardInterrupt and nothing else."""
        os.kill(pid, signal.SIGINT)
        if self.ended(SECONDS) and re.search(r"\nKeyboardInterrupt\n\Z", self.output()) and self.output().count("Traceback ") == 1:
            by_signal = self.process.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
            if by_signal and not re.search(UNCLEAN, self.output()):
                return
        self.expect_end()

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def processes(self) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    session = (entry / "stat").read_text().rpartition(")")[2].split()[3]
                except OSError:
                    continue
                if int(session) == self.process.pid:
                    found.append(int(entry.name))
        return found

    def failed(self, what: str) -> AssertionError:
        return AssertionError(f"{shlex.join(self.arguments)}: {what}; its output:\n{self.output()}")


def listens(pid: int) -> bool:
    """Does the process hold a listening socket, TCP or Unix?"""
    try:
        held = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
        tables = [(Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:], name) for name in ("tcp", "tcp6", "unix")]
    except OSError:
        return False
    for table, name in tables:
        for row in table:
            columns = row.split()
            if name == "unix":
                listening, inode = columns[3] == "00010000", columns[6]
            else:
                listening, inode = columns[3] == "0A", columns[9]
            if listening and f"socket:[{inode}]" in held:
                return True
    return False


def at_rest(pid: int) -> str | None:
    """While the main thread sleeps: its count of context switches, which stays the same for as long as it is not woken."""
    try:
        status = Path(f"/proc/{pid}/task/{pid}/status").read_text()
    except OSError:
        return None
    return "".join(re.findall(r"ctxt_switches:\s*(\d+)\n", status)) if re.search(r"^State:\s+S", status, re.MULTILINE) else None


@pytest.fixture
def port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def with_port(text: str, port: str) -> str:
    text = re.sub(r"\b60001\b", port, text)
    return re.sub(r"\bproactor serve\b(?![^|;&\n]*--port)", f"proactor serve --port {port}", text)


def run_program(path: Path, folder: Path) -> None:
    program = Program([sys.executable, "-X", "dev", "-W", "error", str(path)], folder)
    try:
        if "serve_forever(" in path.read_text():
            pid = program.serves_or_ends()
            if pid is None:
                raise program.failed("ended, but calls serve_forever")
            program.interrupt(pid)
        else:
            program.expect_end()
    finally:
        program.kill()


def commands_of(block: Block) -> tuple[list[str], str]:
    """The commands of a console or sh block, and the output that is shown."""
    text = re.sub(r"\\\n\s*(?:> )?", "", block.text)
    lines = text.splitlines()
    if block.language == "console":
        commands = [line[2:] for line in lines if line.startswith("$ ")]
        shown = "\n".join(line for line in lines if not line.startswith("$ "))
    else:
        commands, shown = lines, ""
    return [command for command in commands if command.strip() and not command.lstrip().startswith("#")], shown


def shows(shown: str, output: str) -> bool:
    """Do the shown lines stand in the output, in this order? `...` stands for anything."""
    pattern = ".*".join(".*?".join(re.escape(part) for part in line.split("...")) for line in shown.splitlines() if line.strip())
    return re.search(pattern, output, re.DOTALL) is not None


def is_about_the_project(command: str) -> bool:
    """Set-up and tests of the project itself: checked here against what there is, not run. True if it was such a command."""
    words = shlex.split(command, comments=True)
    while words and "=" in words[0]:
        words.pop(0)
    match words:
        case ["make", *rest]:
            targets = [word for word in rest if "=" not in word and not word.startswith("-")]
            known = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert targets, f"{command}: which target?"
            assert set(targets) <= set(known), f"{command}: the Makefile has only {', '.join(known)}"
        case ["pip", "install", *rest] | ["python" | "python3", "-m", "pip", "install", *rest]:
            project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            for requirement in (word for word in rest if not word.startswith("-")):
                match = re.fullmatch(r"(\.|[\w-]+)(?:\[([\w,-]+)\])?", requirement)
                assert match, f"{command}: what is {requirement}?"
                assert match[1] in (".", project["name"]), f"{command}: installs something else"
                extras = set((match[2] or "").split(",")) - {""}
                assert extras <= set(project["optional-dependencies"]), f"{command}: no such extra"
        case (
            ["git", "clone", *_]
            | ["cd" | "source" | ".", _]
            | ["python" | "python3", "-m", "venv", *_]
            | ["cargo", "fuzz" | "fmt" | "test", *_]
        ):
            pass
        case [".ci/run" | "bash", *rest] if words[0] == ".ci/run" or rest == [".ci/run"]:
            assert os.access(ROOT / ".ci" / "run", os.X_OK)
        case _:
            return False
    return True


def ids(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


def blocks(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


@pytest.mark.parametrize("block", blocks("python"), ids=ids)
def test_the_python_block_runs(block: Block, port: str, tmp_path: Path) -> None:
    path = tmp_path / "block.py"
    path.write_text(with_port(block.text, port))
    run_program(path, tmp_path)


@pytest.mark.parametrize("block", blocks("console", "sh"), ids=ids)
def test_the_commands_work(block: Block, port: str, tmp_path: Path) -> None:
    commands, shown = commands_of(block)
    assert commands, "a console block shows commands, each after `$ `"
    run_commands([with_port(command, port) for command in commands], with_port(shown, port), tmp_path)


def run_commands(commands: list[str], shown: str, folder: Path) -> None:
    programs: list[Program] = []
    serving: list[tuple[Program, int]] = []
    try:
        for command in commands:
            if is_about_the_project(command):
                continue
            program = Program(["bash", "-o", "pipefail", "-c", command], folder)
            programs.append(program)
            pid = program.serves_or_ends()
            if pid is None:
                program.expect_end()
            else:
                serving.append((program, pid))
        for program, pid in reversed(serving):
            program.interrupt(pid)
    finally:
        for program in programs:
            program.kill()
    output = "".join(program.output() for program in programs)
    assert not programs or shows(shown, output), f"the document shows\n{shown}\nand the output was\n{output}"


@pytest.mark.parametrize("path", EXAMPLES, ids=ids)
def test_the_example_runs(path: Path, port: str, tmp_path: Path) -> None:
    copy = tmp_path / path.name
    copy.write_text(with_port(path.read_text(), port))
    run_program(copy, tmp_path)


def modules() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(proactor.__path__, "proactor.")]
    return ["proactor", *(name for name in names if not name.endswith(("__main__", "._core")))]


def docstrings(module: str) -> Iterator[doctest.DocTest]:
    yield from doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module))


def stub_docstrings(source: str) -> Iterator[doctest.DocTest]:
    """The native module's documentation stands in its stub."""
    parser = doctest.DocTestParser()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            name = getattr(node, "name", "_core")
            yield parser.get_doctest(text, {**vars(proactor._core), "proactor": proactor}, name, "_core.pyi", getattr(node, "lineno", 1))


def run_docstrings(tests: Iterator[doctest.DocTest]) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    report: list[str] = []
    for test in tests:
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize("module", modules())
def test_the_docstrings_examples_are_true(module: str) -> None:
    run_docstrings(docstrings(module))


def test_the_stubs_docstrings_examples_are_true() -> None:
    run_docstrings(stub_docstrings((ROOT / "python/proactor/_core.pyi").read_text()))


def test_every_block_has_a_language_that_is_known_here() -> None:
    unknown = [f"{block}: {block.language}" for block in BLOCKS if block.language not in (*RUN, *NOT_RUN)]
    assert not unknown, "\n".join(unknown)


def test_the_readme_shows_a_newcomer_the_way() -> None:
    commands = [command for block in blocks("console", "sh") if block.page == "README.md" for command in commands_of(block)[0]]
    assert {"make serve", "make test"} <= set(commands)
    assert any("serve_forever(" in block.text for block in blocks("python") if block.page == "README.md")


def missing_files(page: Path, markdown: str) -> list[str]:
    """Relative links, and file names in backquotes, that lead nowhere."""
    files = [
        path.relative_to(ROOT).as_posix()
        for folder in (".ci", "benches", "crates", "docs", "examples", "python", "tests", "tools")
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    ] + [path.name for path in ROOT.iterdir()]
    found = []
    for token in MarkdownIt().parse(markdown):
        for child in token.children or []:
            if child.type in ("link_open", "image"):
                target = str(child.attrGet("href" if child.type == "link_open" else "src")).partition("#")[0]
                if target and not re.match(r"[a-z]+:", target) and not (page.parent / target).exists():
                    found.append(f"{page.name}: link to {target}")
            elif child.type == "code_inline" and re.fullmatch(r"[\w./-]+\.(rs|py|pyi|md|toml)", child.content):
                name = child.content
                if not any(file == name or file.endswith(f"/{name}") for file in files):
                    found.append(f"{page.name}: `{name}`")
    return found


def test_the_documents_name_no_file_that_is_gone() -> None:
    found = [message for path in DOCUMENTS if path.exists() for message in missing_files(path, path.read_text())]
    assert not found, "\n".join(found)


# What follows tests the checks themselves.


def test_blocks_are_found_with_their_lines_and_what_they_continue() -> None:
    page = "# Page\n```python\na = 1\n```\ntext\n\n- item\n\n  ```python continued\n  b = a\n  ```\n```console\n$ make test\n```\n"
    found = [(block.line, block.language, block.text) for block in blocks_of("page", page)]
    assert found == [(2, "python", "a = 1\n"), (9, "python", "a = 1\nb = a\n"), (12, "console", "$ make test\n")]


def test_commands_and_shown_output_are_told_apart() -> None:
    block = Block("page", 1, "console", "$ one \\\n    two\nshown ... here\n# $ no\n$ three\n")
    assert commands_of(block) == (["one two", "three"], "shown ... here\n# $ no")
    assert commands_of(Block("page", 1, "sh", "# why\nls\n\nls -l\n")) == (["ls", "ls -l"], "")


def test_shown_output_must_appear_in_order() -> None:
    output = "12:00 listening on 127.0.0.1:5\n12:01 connected\n"
    assert shows("... listening on 127.0.0.1:5\n... connected", output)
    assert shows("listening\n...\nconnected\n", output)
    assert not shows("connected\nlistening", output)
    assert not shows("closed", output)


@pytest.mark.parametrize(
    "command", ["make serve", "make serve ARGS='--port 5'", "pip install .", "pip install -e '.[test]'", "git clone x"]
)
def test_commands_about_the_project_are_known(command: str) -> None:
    assert is_about_the_project(command)


@pytest.mark.parametrize("command", ["make nothing-of-the-kind", "pip install '.[nothing]'", "pip install something-else"])
def test_wrong_commands_about_the_project_fail(command: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(command)):
        is_about_the_project(command)


def test_the_default_port_is_replaced() -> None:
    assert with_port("proactor serve | cat; proactor serve --port 60001", "7") == "proactor serve --port 7 | cat; proactor serve --port 7"


SERVER = """
import signal, socket, sys
with socket.create_server(("127.0.0.1", 0)):
    print("ready", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        {end}
"""


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("print('fine')", None),
        ("1 / 0", "exit code 1"),
        ("import warnings; warnings.warn('careless')", "exit code 1"),
        ("import sys; print('Traceback (most recent call last):')", "a traceback"),
        (SERVER.format(end="pass  # serve_forever()"), None),
        (SERVER.format(end="raise  # serve_forever()"), None),
        (SERVER.format(end="print('Exception ignored'); raise  # serve_forever()"), "exit code -2"),
        (SERVER.format(end="1 / 0  # serve_forever()"), "exit code 1"),
        (SERVER.format(end="sys.exit(3)  # serve_forever()"), "exit code 3"),
        ("serve_forever = print; serve_forever()", "ended, but calls serve_forever"),
    ],
)
def test_the_runner_tells_good_programs_from_bad(text: str, error: str | None, tmp_path: Path) -> None:
    path = tmp_path / "block.py"
    path.write_text(text)
    if error is None:
        run_program(path, tmp_path)
    else:
        with pytest.raises(AssertionError, match=error):
            run_program(path, tmp_path)


def test_commands_after_a_server_run_while_it_serves(tmp_path: Path) -> None:
    server = tmp_path / "server.py"
    server.write_text(SERVER.format(end="print('ended')"))
    run_commands([f"python {server}", "echo served"], "ready\n...\nended\nserved", tmp_path)
    with pytest.raises(AssertionError, match="exit code 4"):
        run_commands([f"python {server}", "exit 4"], "", tmp_path)


def test_a_false_docstring_example_fails() -> None:
    run_docstrings(stub_docstrings('def f():\n    """\n    >>> 1 + 1\n    2\n    """'))
    with pytest.raises(AssertionError, match="Expected"):
        run_docstrings(stub_docstrings('class C:\n    """\n    >>> 1 + 1\n    3\n    """'))


def test_a_link_to_a_file_that_is_gone_is_found() -> None:
    page = ROOT / "docs" / "page.md"
    text = (
        "[a](design.md) [b](gone.md#x) ![c](pictures/calm.svg) ![d](pictures/gone.svg) `engine/mod.rs` `engine/gone.rs` `module.function`"
    )
    assert missing_files(page, text) == [
        "page.md: link to gone.md",
        "page.md: link to pictures/gone.svg",
        "page.md: `engine/gone.rs`",
    ]
