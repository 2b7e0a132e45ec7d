"""The site builds without a dead link, takes nothing from outside, and its commands run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCS = ROOT / "docs"


def blocks(page: str, kind: str) -> list[str]:
    """The fenced blocks of a kind on a page."""
    return re.findall(rf"```{kind}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


LOADED = re.compile(r'<(?:script|img|iframe)[^>]* src="(?:https?:)?//|<link[^>]* href="(?:https?:)?//')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of the documents run: beside the catalogue and this environment."""
    made = tmp_path_factory.mktemp("walk")
    (made / ".venv").symlink_to(sys.prefix)
    (made / "examples").symlink_to(ROOT / "examples")
    return made


def test_pages_load_nothing_from_outside(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    assert [page.name for page in pages if LOADED.search(page.read_text(encoding="utf-8"))] == []


def run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command of the documents, with a cache of its own."""
    env = {name: value for name, value in os.environ.items() if name != "FASTQWEN_NO_CACHE"}
    env["FASTQWEN_CACHE_DIR"] = str(folder / "cache")
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_the_walk_prints_what_it_shows(folder: Path) -> None:
    said = ""
    for command in "".join(blocks("index.md", "sh")).splitlines():
        done = run("bash", "-c", command, folder=folder)
        said += done.stdout + done.stderr
    shown = "".join(blocks("index.md", "text")).splitlines()
    assert len(shown) == 3
    said = re.sub(r" +", " ", said)  # how many depends on the width of a table
    assert [line for line in shown if line not in said] == []
    quoted = re.search(r'"summary":"[^"]*"', blocks("index.md", "json")[0])
    assert quoted is not None
    assert quoted[0] in (folder / "summaries.jsonl").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python.md", "python"))
def test_python_of_the_documents_runs(code: str, folder: Path) -> None:
    assert run(sys.executable, "-c", code, folder=folder).stdout.splitlines()[0] == "(3,)"
