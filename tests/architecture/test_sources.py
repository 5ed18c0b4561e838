"""What the sources may contain and where: platforms, unsafe code, the scheduler's purity, the length of a file."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CRATES = ROOT / "crates"

# Where `unsafe` may stand: what talks to the kernel, owns raw memory, or talks to the interpreter.
UNSAFE_ALLOWED = (
    "crates/proactor-core/src/engine/",
    "crates/proactor-core/src/files/",
    "crates/proactor-core/src/buffer.rs",
    "crates/proactor-core/tests/",
    "crates/proactor-python/",
)

# Where the platform may be named: where an engine is chosen, what numbers its errors have, and where the contract suite makes peers for it.
PLATFORM_ALLOWED = (
    "crates/proactor-core/src/engine/mod.rs",
    "crates/proactor-core/src/files/mod.rs",
    "crates/proactor-core/src/numbers.rs",
    "crates/proactor-core/tests/files_contract/",
    "crates/proactor-core/tests/engine_contract/",
    "crates/proactor-core/tests/direct_gathers.rs",
    "crates/proactor-core/tests/loom_epoll.rs",
    "crates/proactor-core/tests/shuttle_direct.rs",
    "crates/proactor-core/tests/shuttle_files.rs",
    "crates/proactor-python/src/platform.rs",
)

LONGEST_FILE = 600
# Files that may be longer, each with its reason.
LONGER_FILES: dict[str, str] = {
    "python/proactor/_core.pyi": "the stub of one extension module, mostly its documentation, cannot be in two files"
}


def blanked(source: str) -> str:
    """Rust source with comments and the contents of literals blanked out; every line keeps its number."""
    pattern = r"""
        //[^\n]* | /\*(?:[^*]|\*(?!/))*\*/                      # comments (nested ones are not used here)
        | b?r(?P<hashes>\#*)"(?:.|\n)*?"(?P=hashes)             # raw strings
        | [bc]?"(?:\\(?:.|\n)|[^"\\])*"                         # strings
        | b?'(?:\\[^\n]+?|[^'\\\n])'                            # characters, not lifetimes
    """
    return re.sub(pattern, lambda match: re.sub(r"[^\n]", " ", match[0]), source, flags=re.VERBOSE)


def lines_with(pattern: str, source: str) -> list[int]:
    """The numbers of the lines whose code (not comments, not strings) has a match."""
    return [number for number, line in enumerate(blanked(source).splitlines(), 1) if re.search(pattern, line)]


def platform_lines(source: str) -> list[int]:
    return lines_with(r"cfg(_attr)?!?\s*\(.*\b(target_os|target_family|unix|windows)\b", re.sub(r'"[^"\n]*"', '""', source))


def unsafe_lines(source: str) -> list[int]:
    return lines_with(r"\bunsafe\b", source)


def unexplained_unsafe(source: str) -> list[int]:
    """Lines with `unsafe` that no SAFETY comment stands above (an `unsafe fn` or trait may have a `# Safety` section instead)."""
    lines = source.splitlines()
    code = blanked(source).splitlines()
    found = []
    for number in unsafe_lines(source):
        if re.search(r"unsafe_op_in_unsafe_fn|unsafe_code|unsafe\s+(extern\b[^{]*)?fn\s*\(", code[number - 1]):
            continue  # a lint's name; a function pointer's type
        above = number - 1
        # Up through the statement's own earlier lines, attributes and comments.
        while above > 0 and lines[above - 1].strip() and belongs_to_next(code[above - 1].strip()):
            above -= 1
        if not re.search(r"// SAFETY: \S|/// # Safety", "\n".join(lines[above:number])):
            found.append(number)
    return found


def belongs_to_next(code: str) -> bool:
    """Is this line (a comment is blank here) an attribute, a comment or the beginning of a statement that goes on?"""
    return code.startswith("#") or not code.endswith((";", "{", "}", ","))


IMPURE = r"\blibc\b|\bpyo3\b|std::(os|net|fs|process|io|env)\b|\bInstant\b|\bSystemTime\b|thread::(spawn|Builder|sleep|park|scope)\b"


def rust_files(folder: Path = CRATES) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*.rs")):
        name = path.relative_to(ROOT).as_posix()
        if "/target/" not in name:
            yield name, path.read_text("utf-8")


def report(found: list[str], rule: str) -> None:
    assert not found, f"{rule}:\n" + "\n".join(found)


def test_the_core_knows_nothing_of_python() -> None:
    manifest = tomllib.loads((CRATES / "proactor-core" / "Cargo.toml").read_text())
    assert "pyo3" not in str(manifest)
    python = r"(?i)\bpy_?(o3|thon|any|object)"
    found = [f"{name}:{line}" for name, source in rust_files(CRATES / "proactor-core") for line in lines_with(python, source)]
    report(found, "proactor-core names Python")


def test_the_scheduler_makes_no_system_call() -> None:
    found = [f"{name}:{line}" for name, source in rust_files(CRATES / "proactor-core/src/scheduler") for line in lines_with(IMPURE, source)]
    report(found, "the scheduler runs under model checkers and on simulated time; give it what it needs from the port")


def test_only_the_engine_module_knows_the_platform() -> None:
    found = [f"{name}:{line}" for name, source in rust_files() if not name.startswith(PLATFORM_ALLOWED) for line in platform_lines(source)]
    report(found, "platform cfg outside engine/mod.rs; ask engine.supports(...)")


def test_unsafe_code_stands_only_where_it_must() -> None:
    found = [f"{name}:{line}" for name, source in rust_files() if not name.startswith(UNSAFE_ALLOWED) for line in unsafe_lines(source)]
    report(found, "unsafe code outside the engines, the buffers and the binding")


def test_every_unsafe_says_why_it_is_sound() -> None:
    found = [f"{name}:{line}" for name, source in rust_files() for line in unexplained_unsafe(source)]
    report(found, "unsafe without a `// SAFETY:` comment above it")


def test_no_file_is_too_long_to_be_one_thing() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines())
        for folder in ("crates", "python", "tests", "benches", "examples")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".rs", ".py", ".pyi") and "target" not in path.parts
    }
    found = [f"{name}: {length} lines" for name, length in lengths.items() if length > LONGEST_FILE and name not in LONGER_FILES]
    report(found, f"longer than {LONGEST_FILE} lines: split it along its ideas, or give LONGER_FILES the reason")
    stale = [name for name in LONGER_FILES if lengths.get(name, 0) <= LONGEST_FILE]
    report(stale, "no longer too long; take it off LONGER_FILES")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('let x = 1; // unsafe\n/* unsafe */ let s = "unsafe { }"; let r = r#"unsafe "quoted" "#; let c = \'"\';', []),
        ("fn longer<'a>(x: &'a str) -> &'a str { x }\nunsafe { go() }", [2]),
        ("// SAFETY: it is ours.\nunsafe { go() }", []),
        ("// SAFETY: it is ours.\nlet x =\n    unsafe { go() };", []),
        ("// SAFETY:\nunsafe { go() }", [2]),
        ("// SAFETY: the first only.\nunsafe { go() };\nunsafe { go() };", [3]),
        ("// SAFETY: far away.\n\nunsafe { go() }", [3]),
        ("/// Goes.\n/// # Safety\n/// Only once.\n#[inline]\npub unsafe fn go() {}", []),
        ("/// Goes.\npub unsafe fn go() {}", [2]),
        ("unsafe impl Send for X {}", [1]),
        ("#![deny(unsafe_op_in_unsafe_fn)]\ntype F = unsafe extern fn(i32);", []),
        ("call(\n    // SAFETY: open.\n    unsafe { fd() },\n)", []),
    ],
)
def test_the_unsafe_checker_tells_good_from_bad(source: str, expected: list[int]) -> None:
    assert unexplained_unsafe(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('#[cfg(target_os = "linux")]', [1]),
        ("#[cfg(all(test, unix))]", [1]),
        ("if cfg!(windows) {}", [1]),
        ("#[cfg_attr(not(unix), allow(dead_code))]", [1]),
        ('#[cfg(feature = "unix")]\n// #[cfg(unix)]\nlet unix = 1;', []),
        ("#[cfg(test)]", []),
    ],
)
def test_the_platform_checker_tells_good_from_bad(source: str, expected: list[int]) -> None:
    assert platform_lines(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("use std::time::{Duration, Instant};", [1]),
        ("unsafe { libc::read(0, p, 1) };", [1]),
        ("use std::os::fd::RawFd;\nstd::thread::spawn(f);", [1, 2]),
        ("use std::time::Duration;\n// libc is not for us\nuse crate::sync::Mutex;", []),
    ],
)
def test_the_purity_checker_tells_good_from_bad(source: str, expected: list[int]) -> None:
    assert lines_with(IMPURE, source) == expected
