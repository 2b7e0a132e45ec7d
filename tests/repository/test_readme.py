"""Every command of the README runs, and its tree is the repository's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split("    #")[0].strip() for block in BLOCKS for line in block.splitlines()]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's files in a folder that commands may write to, with this environment as .venv."""
    if subprocess.run(["make", "-q", "setup"], cwd=ROOT).returncode:
        pytest.skip("make setup is due; run there, it would tie this environment to the copy")
    folder = tmp_path_factory.mktemp("clone")
    for path in ROOT.iterdir():
        if path.name not in {".venv", "out", ".git"}:
            (folder / path.name).symlink_to(path)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def test_the_readme_has_the_two_commands() -> None:
    assert COMMANDS[:2] == ["make demo", "make test"]
    assert len(COMMANDS) > 2


def test_ci_calls_the_readmes_test_command() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.slow
def test_the_commands_of_the_readme_run(clone: Path) -> None:
    """In its order, as one builds on another; `make test` is run beside this one."""
    for command in (command for command in COMMANDS if command != "make test"):
        done = subprocess.run(["bash", "-c", command], cwd=clone, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        if command == "make demo":
            assert "24 of 24 sessions rank the item first that the shopper took" in README
            assert "24 of 24 sessions rank the item first that the shopper took" in done.stdout
            assert (clone / "out" / "ranked.jsonl").exists()


@pytest.mark.parametrize("code", PYTHON)
def test_python_of_the_readme_runs(code: str, clone: Path) -> None:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert len(done.stdout.splitlines()) == 24


def test_the_tree_names_what_is_there() -> None:
    named = re.findall(r"^\| `([^`]+)` \|", README, re.MULTILINE)
    assert all((ROOT / name).exists() for name in named)
    # Nothing that git keeps at the top level is missing, but for plain documents and dot files.
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {line.split("/")[0] for line in kept.splitlines()}
    folders = {name for name in top if (ROOT / name).is_dir() and not name.startswith(".")}
    assert folders <= {name.rstrip("/").split("/")[0] for name in named}


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()
