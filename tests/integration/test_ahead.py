"""Rows that are in the cache are answered ahead, on all cores: the output is what one process would write."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CATALOGUE, Fastqwen, write_rows
from tests.integration.test_caching import cached
from tgi_stack.errors import DiskError
from tgi_stack.jobs import ahead, run

__all__ = ["cached"]  # a fixture

ROWS = 1200
IMAGES = sorted((CATALOGUE / "images").glob("*.jpg"))[:8]
SCRIPTED = ("--engine", "scripted", "--overwrite")


@pytest.fixture
def teams(monkeypatch: pytest.MonkeyPatch) -> list[ahead.Ahead]:
    """Has small runs be answered ahead, and keeps who answered."""
    monkeypatch.setattr(run, "LEAST_ROWS", 100)
    monkeypatch.setattr(run, "PROBE", 64)
    monkeypatch.setattr(ahead, "processes", lambda: 2)
    made: list[ahead.Ahead] = []
    plain = ahead.Ahead.__init__

    def noted(self: ahead.Ahead, *arguments: Any) -> None:
        plain(self, *arguments)
        made.append(self)

    monkeypatch.setattr(ahead.Ahead, "__init__", noted)
    return made


def questions(path: Path, count: int = ROWS) -> Path:
    rows = ({"id": f"q{n}", "prompt": f"Question {n}\n", "num_candidates": 4} for n in range(count))
    return write_rows(path, *rows)


def records(path: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, path.read_bytes().splitlines())
    return [{k: v for k, v in line.items() if k not in ("from_cache", "attempts")} for line in lines]


def early(team: ahead.Ahead) -> int:
    """How many rows were answered ahead."""
    return sum(map(team.did, range(2 * ROWS)))


def test_the_bytes_are_those_of_one_process(
    cached: Fastqwen, tmp_path: Path, teams: list[ahead.Ahead], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = questions(tmp_path / "q.jsonl")
    cached("probs", asked, "-o", "cold.jsonl", *SCRIPTED)
    assert early(teams[-1]) == 0
    done = cached("probs", asked, "-o", "ahead.jsonl", *SCRIPTED, "--offline", "--json")
    assert early(teams[-1]) == ROWS - 64
    counts = json.loads(done.stdout)
    assert (counts["ok"], counts["cached"], counts["kept"]) == (ROWS, ROWS, 0)
    monkeypatch.setattr(ahead, "processes", lambda: 1)
    cached("probs", asked, "-o", "one.jsonl", *SCRIPTED, "--offline")
    assert Path("ahead.jsonl").read_bytes() == Path("one.jsonl").read_bytes()
    told = json.loads(cached("cache", "info", "--json").stdout)
    assert told["kinds"]["labels"]["hits"] == 2 * ROWS


@pytest.mark.parametrize("job", ["rerank", "summarize"])
def test_other_jobs(cached: Fastqwen, tmp_path: Path, teams: list[ahead.Ahead], job: str) -> None:
    items = [json.loads(line)["id"] for line in (CATALOGUE / "items.jsonl").read_bytes().splitlines()]
    rows: list[dict[str, Any]] = []
    row: dict[str, Any]
    for number in range(400):
        row = {"image": str(IMAGES[number % len(IMAGES)]), "title": f"Title {number}"}
        if job == "rerank":
            row = {"query": f"query {number}", "candidates": items[number % 30 :][:5]}
        rows.append({"id": str(number), **row})
    command = [job, write_rows(tmp_path / "rows.jsonl", *rows), *SCRIPTED]
    if job == "rerank":
        command += ["--items", CATALOGUE / "items.jsonl", "--permutations", "2"]
    cached(*command, "-o", "cold.jsonl")
    done = cached(*command, "-o", "warm.jsonl", "--offline", "--limit", "300")
    assert early(teams[-1]) == 300 - 64
    assert "300 ok (300 from cache)" in done.stderr
    cold, warm = (records(Path(name)) for name in ("cold.jsonl", "warm.jsonl"))
    assert warm == cold[:300]


def test_what_is_not_there_or_no_row_is_left_to_the_run(
    cached: Fastqwen, tmp_path: Path, teams: list[ahead.Ahead]
) -> None:
    asked = questions(tmp_path / "q.jsonl", 600)
    cached("probs", asked, "-o", "cold.jsonl", *SCRIPTED)
    lines = asked.read_bytes().splitlines(keepends=True)
    lines[300:300] = [b'{"id": "new", "prompt": "Never asked", "labels": ["A", "B"]}\n', b"{torn\n", b"\n"]
    asked.write_bytes(b"".join(lines))
    done = cached(
        "probs", asked, "-o", "warm.jsonl", *SCRIPTED, "--skip-bad-rows", "--offline", "--json", check=1
    )
    counts = json.loads(done.stdout)
    assert (counts["ok"], counts["cached"], counts["failed"]) == (600, 600, 2)
    assert counts["failures"] == {"offline.miss": 1, "input.malformed": 1}
    assert early(teams[-1]) == 600 - 64
    assert len(Path("warm.jsonl").read_bytes().splitlines()) == 602


def test_processes_that_do_not_start_or_die_cost_nothing_but_speed(
    cached: Fastqwen, tmp_path: Path, teams: list[ahead.Ahead], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = questions(tmp_path / "q.jsonl")
    cached("probs", asked, "-o", "cold.jsonl", *SCRIPTED)
    cached("probs", asked, "-o", "warm.jsonl", *SCRIPTED, "--offline")
    killer = tmp_path / "python"
    killer.write_text("#!/bin/sh\nkill -9 $$\n")
    killer.chmod(0o755)
    for program in (str(killer), str(tmp_path / "none")):
        monkeypatch.setattr(sys, "executable", program)
        done = cached("probs", asked, "-o", "hurt.jsonl", *SCRIPTED, "--offline")
        assert "1,200 ok (1,200 from cache)" in done.stderr
        assert early(teams[-1]) == 0
        assert Path("hurt.jsonl").read_bytes() == Path("warm.jsonl").read_bytes()


def test_a_run_that_broke_off_goes_on(
    cached: Fastqwen, tmp_path: Path, teams: list[ahead.Ahead], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = questions(tmp_path / "q.jsonl")
    cached("probs", asked, "-o", "whole.jsonl", *SCRIPTED)
    cached("probs", asked, "-o", "whole.jsonl", *SCRIPTED, "--offline")
    again = ("probs", asked, "-o", "warm.jsonl", "--engine", "scripted", "--offline", "--json")
    with monkeypatch.context() as patch:
        patch.setattr(ahead.Ahead, "_take", full_after_one(ahead.Ahead._take))
        cached(*again, check=3)
    before = early(teams[-1])
    assert 0 < before < ROWS - 64
    counts = json.loads(cached(*again).stdout)
    assert (counts["ok"], counts["cached"], counts["kept"]) == (ROWS, ROWS - before - 64, before + 64)
    assert Path("warm.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def full_after_one(take: Callable[..., None]) -> Callable[..., None]:
    """Takes a batch; then the disk is full."""
    taken: list[object] = []

    def once(self: ahead.Ahead, *arguments: Any) -> None:
        if taken:
            raise DiskError("No space left on device")
        take(self, *arguments)
        taken.append(self)

    return once
