"""Rows that are in the cache are answered ahead, on all cores: the output is what one process would write."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CATALOGUE, Fastqwen, write_rows
from tgi_stack.backends import scripted
from tgi_stack.errors import DiskError
from tgi_stack.images.pipe import kill
from tgi_stack.jobs import parallel_replay, pipeline
from tgi_stack.rows import ledger, reader
from tgi_stack.settings import Settings

ROWS = 1200
IMAGES = sorted((CATALOGUE / "images").glob("*.jpg"))[:8]
SCRIPTED = ("--engine", "scripted", "--overwrite")
WARM = ("-o", "warm.jsonl", "--engine", "scripted", "--offline")


@pytest.fixture
def teams(monkeypatch: pytest.MonkeyPatch) -> list[parallel_replay.Ahead]:
    """Has small runs be answered ahead, and keeps who answered."""
    monkeypatch.setattr(pipeline, "LEAST_ROWS", 100)
    monkeypatch.setattr(pipeline, "PROBE", 64)
    monkeypatch.setattr(parallel_replay, "processes", lambda: 2)
    made: list[parallel_replay.Ahead] = []
    plain = parallel_replay.Ahead.__init__

    def noted(self: parallel_replay.Ahead, *arguments: Any) -> None:
        plain(self, *arguments)
        made.append(self)

    monkeypatch.setattr(parallel_replay.Ahead, "__init__", noted)
    return made


def questions(path: Path, count: int = ROWS) -> Path:
    rows = ({"id": f"q{n}", "prompt": f"Question {n}\n", "num_candidates": 4} for n in range(count))
    return write_rows(path, *rows)


def known(cached: Fastqwen, tmp_path: Path) -> Path:
    """Questions that are in the cache, and `whole.jsonl`, which answers all of them from it."""
    asked = questions(tmp_path / "q.jsonl")
    for more in ((), ("--offline",)):
        cached("probs", asked, "-o", "whole.jsonl", *SCRIPTED, *more)
    return asked


def records(path: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, path.read_bytes().splitlines())
    return [{k: v for k, v in line.items() if k not in ("from_cache", "attempts")} for line in lines]


def early(team: parallel_replay.Ahead) -> int:
    """How many rows were answered ahead."""
    return sum(map(team.did, range(2 * ROWS)))


def test_the_bytes_are_those_of_one_process(
    cached: Fastqwen, tmp_path: Path, teams: list[parallel_replay.Ahead], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = questions(tmp_path / "q.jsonl")
    cached("probs", asked, "-o", "cold.jsonl", *SCRIPTED)
    assert early(teams[-1]) == 0
    done = cached("probs", asked, "-o", "ahead.jsonl", *SCRIPTED, "--offline", "--json")
    assert early(teams[-1]) == ROWS - 64
    counts = json.loads(done.stdout)
    assert (counts["ok"], counts["cached"], counts["kept"]) == (ROWS, ROWS, 0)
    monkeypatch.setattr(parallel_replay, "processes", lambda: 1)
    cached("probs", asked, "-o", "one.jsonl", *SCRIPTED, "--offline")
    assert Path("ahead.jsonl").read_bytes() == Path("one.jsonl").read_bytes()
    told = json.loads(cached("cache", "info", "--json").stdout)
    assert told["kinds"]["labels"]["hits"] == 2 * ROWS


@pytest.mark.parametrize("job", ["rerank", "summarize"])
def test_other_jobs(cached: Fastqwen, tmp_path: Path, teams: list[parallel_replay.Ahead], job: str) -> None:
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


def test_uncached_and_bad_rows_go_to_the_run(
    cached: Fastqwen, tmp_path: Path, teams: list[parallel_replay.Ahead]
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


def test_processes_that_fail_cost_only_speed(
    cached: Fastqwen, tmp_path: Path, teams: list[parallel_replay.Ahead], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = known(cached, tmp_path)
    killer = tmp_path / "python"
    killer.write_text("#!/bin/sh\nkill -9 $$\n")
    killer.chmod(0o755)
    for program in (str(killer), str(tmp_path / "none")):
        monkeypatch.setattr(sys, "executable", program)
        done = cached("probs", asked, "-o", "hurt.jsonl", *SCRIPTED, "--offline")
        assert "1,200 ok (1,200 from cache)" in done.stderr
        assert early(teams[-1]) == 0
        assert Path("hurt.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_a_run_that_broke_off_goes_on(
    cached: Fastqwen, tmp_path: Path, teams: list[parallel_replay.Ahead], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = known(cached, tmp_path)
    again = ("probs", asked, *WARM, "--json")
    with monkeypatch.context() as patch:
        patch.setattr(parallel_replay.Ahead, "_take", full_after_one(parallel_replay.Ahead._take))
        cached(*again, check=3)
    before = early(teams[-1])
    assert 0 < before < ROWS - 64
    counts = json.loads(cached(*again).stdout)
    assert (counts["ok"], counts["cached"], counts["kept"]) == (ROWS, ROWS - before - 64, before + 64)
    assert Path("warm.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def full_after_one(take: Callable[..., None]) -> Callable[..., None]:
    """Takes a batch; then the disk is full."""
    taken: list[object] = []

    def once(self: parallel_replay.Ahead, *arguments: Any) -> None:
        if taken:
            raise DiskError("No space left on device")
        take(self, *arguments)
        taken.append(self)

    return once


def test_nothing_stands_behind_a_line_that_was_cut(
    cached: Fastqwen,
    tmp_path: Path,
    teams: list[parallel_replay.Ahead],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = known(cached, tmp_path)
    again = ("probs", asked, *WARM)
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "_write", half_of_the_second(ledger._write))
        assert "No space left" in cached(*again, check=3).stderr
    gc.collect()
    assert "asyncio" not in {
        record.name for record in caplog.records
    }  # of failures that nobody heard, of processes that nobody waited for
    cached(*again)
    assert Path("warm.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_shares_that_fail_together_leave_nobody_behind(
    cached: Fastqwen,
    tmp_path: Path,
    teams: list[parallel_replay.Ahead],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each still waits for its process, which takes its time to die, when the other fails."""
    asked = known(cached, tmp_path)

    def take(self: parallel_replay.Ahead, *batch: Any) -> None:
        raise DiskError("No space left on device")

    monkeypatch.setattr(
        parallel_replay, "kill", lambda process: asyncio.get_running_loop().call_later(1, kill, process)
    )
    monkeypatch.setattr(parallel_replay.Ahead, "_take", take)
    assert "No space left" in cached("probs", asked, *WARM, check=3).stderr
    for thread in threading.enumerate():
        if "waitpid" in thread.name:
            thread.join()
    gc.collect()
    assert "asyncio" not in {record.name for record in caplog.records}


def half_of_the_second(write: Callable[..., None]) -> Callable[..., None]:
    """Writes half of the second batch, whole ones before and after it."""
    batches: list[int] = []

    def written(descriptor: int, lines: bytes, name: str) -> None:
        if lines.count(b"\n") > 1:
            batches.append(len(lines))
        if len(batches) == 2:
            batches.append(0)
            write(descriptor, lines[: len(lines) // 2], name)
            raise DiskError("No space left on device")
        write(descriptor, lines, name)

    return written


def test_a_flag_of_a_second_read_stays(
    cached: Fastqwen, tmp_path: Path, teams: list[parallel_replay.Ahead], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = questions(tmp_path / "q.jsonl", 600)
    rows = [json.loads(line) for line in asked.read_bytes().splitlines()]
    command = ("probs", asked, *SCRIPTED)
    cached(*command, "-o", "cold.jsonl")
    few = [row | {"num_candidates": 2} if number > 100 else row for number, row in enumerate(rows)]
    write_rows(asked, *few)
    cached(*command, "-o", "ahead.jsonl")
    monkeypatch.setattr(parallel_replay, "processes", lambda: 1)
    cached(*command, "-o", "one.jsonl")
    flags = [[record["flags"] for record in records(Path(name))] for name in ("ahead.jsonl", "one.jsonl")]
    assert flags[0] == flags[1]


def test_prompts_are_those_of_whoever_answers_now(
    cached: Fastqwen, tmp_path: Path, teams: list[parallel_replay.Ahead], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [json.loads(line)["id"] for line in (CATALOGUE / "items.jsonl").read_bytes().splitlines()]
    rows = [{"id": str(n), "history": items[:20], "candidates": items[n % 30 :][:5]} for n in range(300)]
    asked = write_rows(tmp_path / "rows.jsonl", *rows)
    command = ("rerank", asked, *SCRIPTED, "--items", CATALOGUE / "items.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(scripted, "open_scripted", with_context(250))
        cut = cached(*command, "-o", "short.jsonl")
    assert "300 x text.truncated" in cut.stderr
    cached(*command, "-o", "long.jsonl", "--limit", "70")
    done = cached(*command, "-o", "long.jsonl")
    assert "truncated" not in done.stderr


def with_context(tokens: int) -> Callable[..., scripted.ScriptedBackend]:
    plain = scripted.open_scripted

    def opened(settings: Settings, kind: str) -> scripted.ScriptedBackend:
        backend = plain(settings, kind)
        backend.profile = replace(backend.profile, context=tokens)
        return backend

    return opened


@pytest.mark.parametrize("change", ["folder", "replaced"])
def test_input_that_may_change_goes_to_the_run(
    cached: Fastqwen, tmp_path: Path, teams: list[parallel_replay.Ahead], change: str
) -> None:
    asked = questions(tmp_path / "q.jsonl", 10)
    source = reader.open_source(str(asked))
    told = parallel_replay._told(source)
    assert told is not None
    assert parallel_replay.opened(told) is not None
    if change == "folder":
        assert parallel_replay._told(reader.Folder(tmp_path)) is None
    else:
        os.replace(questions(tmp_path / "other.jsonl", 10), asked)
        assert parallel_replay.opened(told) is None
