"""The pictures in docs/pictures are what `proactor dispatch SCENE --svg FILE` makes, but for times and for who got which completion."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.linux("a Unix shell and the project's tools: the documents are about them")

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
SVG = "{http://www.w3.org/2000/svg}"
TIMES = ("middle", "number", "muted end")
"""Classes of what differs from run to run: the axes and the completions' numbers. The summary, which has none, does too."""


def lasting(path: Path) -> list[tuple[str, str | None]]:
    root = ElementTree.parse(path).getroot()
    texts = [(text.get("class") or "", text.text) for text in root.iter(f"{SVG}text")]
    return [("style", style.text) for style in root.iter(f"{SVG}style")] + [
        (kind, text) for kind, text in texts if kind and not any(part in kind for part in TIMES)
    ]


@pytest.mark.parametrize("path", sorted(PICTURES.glob("*.svg")), ids=lambda path: path.stem)
def test_the_picture_is_the_commands(path: Path, tmp_path: Path) -> None:
    made = tmp_path / path.name
    subprocess.run(
        [sys.executable, "-m", "proactor", "dispatch", path.stem, "--svg", made], check=True, stdout=subprocess.DEVNULL, timeout=60
    )
    assert lasting(path) == lasting(made)
    words = " ".join(text or "" for kind, text in lasting(made) if kind != "style")
    assert path.stem in words
    assert "worker 4" in words


def test_there_is_one_for_each_scene() -> None:
    assert {path.stem for path in PICTURES.glob("*.svg")} == {"calm", "busy", "blocked"}
