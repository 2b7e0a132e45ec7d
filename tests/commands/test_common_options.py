"""What every command takes, and where a bar is drawn."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import cli
from tests.conftest import ROOT, Fastqwen, write_rows
from tgi_stack.commands.declare import DECLARED

COMMON = {"--config", "--json", "--quiet", "--debug", "--log-json", "--progress"}


def commands(of: Any, name: str) -> Iterator[tuple[str, Any]]:
    for part, command in getattr(of, "commands", {}).items():
        yield from commands(command, f"{name} {part}")
    if not getattr(of, "commands", None):
        yield name, of


GROUP: Any = typer.main.get_command(cli.app)
LOADED = {name: GROUP.load(name) for name in GROUP.commands}
ALL = {full: one for name, of in LOADED.items() for full, one in commands(of, f"fastqwen {name}")}


@pytest.mark.parametrize("name", LOADED)
def test_the_list_says_what_a_command_says(name: str) -> None:
    assert GROUP.commands[name].get_short_help_str(1000) == LOADED[name].get_short_help_str(1000)


def test_the_list_has_every_command() -> None:
    assert {one.name.split()[0] for one in DECLARED} == GROUP.commands.keys()


def test_help_imports_only_what_it_shows() -> None:
    code = "import sys, cli; cli.app(['--help'], standalone_mode=False); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert not loaded & {
        "asyncio",
        "cache",
        "pydantic",
        "rich",
        "tgi_stack.commands.jobs",
        "tgi_stack.settings",
    }


@pytest.mark.parametrize("name", ALL)
def test_every_command_takes_the_common_options(name: str) -> None:
    options = {option for parameter in ALL[name].params for option in parameter.opts}
    assert options >= COMMON


def test_a_wrong_config_is_refused_everywhere(fastqwen: Fastqwen, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text("nonsense = 1")
    done = fastqwen("verify", tmp_path / "none.jsonl", "--config", tmp_path / "wrong.toml", check=2)
    assert "nonsense" in done.stderr


@pytest.mark.parametrize(
    ("term", "wide", "named", "columns"),
    [
        ("xterm", 80, "", 80),
        ("dumb", 80, "", 0),
        ("xterm", 39, "", 0),
        ("xterm", 80, "20", 0),
        ("xterm", 80, "1", 0),
        ("xterm", 80, "50", 50),
        ("xterm", 80, "10000", 80),
        ("xterm", 80, "wide", 80),
        ("xterm", 1, "10000", 0),
    ],
)
def test_a_bar_needs_a_terminal_that_can(term: str, wide: int, named: str, columns: int) -> None:
    ours, theirs = pty.openpty()
    code = "from tgi_stack.commands.progress import columns; print(columns())"
    sized = (
        "import fcntl, struct, termios; "
        f"fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack('HHHH', 24, {wide}, 0, 0)); "
    )
    run = [sys.executable, "-c", sized + code]
    env = os.environ | {"TERM": term, "COLUMNS": named}
    done = subprocess.run(
        run, env=env, stdout=subprocess.PIPE, stderr=theirs, cwd=ROOT, text=True, check=True
    )
    os.close(ours)
    os.close(theirs)
    assert int(done.stdout) == columns


@pytest.mark.parametrize(
    ("term", "named"), [("xterm", "1"), ("xterm", "20"), ("xterm", "39"), ("xterm", "10000"), ("dumb", "80")]
)
def test_a_table_is_whole_at_any_width(
    fastqwen: Fastqwen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, term: str, named: str
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", named)
    ranking = [{"id": "a", "rank": 1, "score": 0.7}, {"id": "b", "rank": 2, "score": 0.3}]
    record = {"id": "u", "status": "ok", "positive": ["b"], "ranking": ranking}
    shown = fastqwen("eval", write_rows(tmp_path / "r.jsonl", record), "--k", "1,2").stdout
    for figure in (
        "Recall@1",
        "0.0000 to 0.0000",
        "NDCG@2",
        "0.6309",
        "MRR",
        "0.5000 to 0.5000",
        "1 queries; ",
    ):
        assert figure in shown
    assert ("─" in shown) == (named == "10000")
