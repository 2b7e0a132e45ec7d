"""The walk for newcomers: the tutorial's commands print what it shows, and so do the notebook's cells."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "tutorial.md"
# What differs from run to run and from machine to machine: pictures, ports, times, folders, versions.
MOVING = (
    (re.compile(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+"), "PICTURE"),
    (re.compile(r"http://127\.0\.0\.1:\d+"), "URL"),
    (re.compile(r"\b\d+(\.\d+)? ?(ms|s|MB|kB)\b"), "MEASURED"),
    (re.compile(r"\btorch \d[\w.+]*"), "torch VERSION"),
    (re.compile(r"(?<=[\s(])/[^\s,)]+"), "PATH"),
    (re.compile(r"sha256 [0-9a-f]+"), "DIGEST"),
    (re.compile(r"(?<=PATH, )[0-9a-f]+"), "DIGEST"),
    (re.compile(r"[ ─━]{2,}"), " "),
)
TOLD = re.compile(r"\d[\d,]* of \d[\d,]* rows, .*")  # how far a run is, now and then


def steady(text: str) -> str:
    """A text without what moves."""
    for pattern, word in MOVING:
        text = pattern.sub(word, text)
    return text.strip()


def assert_shown(shown: str, printed: str) -> None:
    """What is shown was printed: the same lines in the same order, without a gap but where `...` stands."""
    lines = [steady(line) for line in printed.splitlines() if not TOLD.fullmatch(line)]
    at, follows = 0, True
    for line in shown.splitlines():
        wanted = steady(line)
        if wanted == "...":
            follows = False
            continue
        found = at if follows or wanted not in lines[at:] else lines.index(wanted, at)
        assert lines[found : found + 1] == [wanted], printed
        at, follows = found + 1, True
    assert not follows or not any(lines[at:]), printed


@pytest.mark.slow
def test_the_tutorial_prints_what_it_shows(tmp_path: Path) -> None:
    for name, target in ((".venv", sys.prefix), ("examples", ROOT / "examples")):
        (tmp_path / name).symlink_to(target)
    env = {name: value for name, value in os.environ.items() if not name.startswith("FASTQWEN_")}
    env["FASTQWEN_CACHE_DIR"] = str(tmp_path / "cache")
    env.pop("COLUMNS", None)
    page = PAGE.read_text(encoding="utf-8")
    parts = re.findall(r"```(sh|text)\n(.*?)```", page, re.DOTALL)
    assert [kind for kind, _ in parts] == ["sh", "text"] * 12
    for (_, command), (_, shown) in zip(parts[::2], parts[1::2], strict=True):
        asked = ["bash", "-c", f"({command.strip()}) 2>&1"]
        done = subprocess.run(asked, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True, timeout=300)
        assert done.returncode == 0, done.stdout
        assert_shown(shown, done.stdout)


@pytest.mark.slow
def test_the_notebook_shows_what_runs() -> None:
    pytest.importorskip("nbclient", reason="no nbclient: pip install nbclient nbformat ipykernel")
    import run_notebook

    path = ROOT / "examples" / "tour.ipynb"
    stored, now = (
        [[steady(text) for text in texts] for texts in run_notebook.shown(found)]
        for found in (run_notebook.read(path), run_notebook.ran(path))
    )
    assert sum(map(bool, stored)) > 8
    assert stored == now


@pytest.mark.parametrize(
    ("shown", "holds"),
    [
        ("a\nb\nc\n", True),
        ("a\n...\nc\n", True),
        ("...\nc\n", True),
        ("a\nc\n", False),
        ("a\nb\n", False),
        ("b\n...\n", False),
        ("a\n...\nd\n", False),
    ],
)
def test_what_is_shown_was_printed(shown: str, holds: bool) -> None:
    printed = "a\n3 of 9 rows, 1.2 rows/s\nb\nc\n"
    if holds:
        assert_shown(shown, printed)
    else:
        with pytest.raises(AssertionError):
            assert_shown(shown, printed)
