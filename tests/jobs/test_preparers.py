"""Rows that are prepared in other processes: the output is what one process would write."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CATALOGUE, ROOT, Fastqwen, write_rows
from tests.loopback import serve
from tgi_stack import Reranker
from tgi_stack.backends import scripted
from tgi_stack.errors import DiskError
from tgi_stack.images.pipe import kill
from tgi_stack.jobs import session
from tgi_stack.jobs.preparing import preparers, wire
from tgi_stack.jobs.preparing.preparers import Preparers as Team
from tgi_stack.rows import ledger
from tgi_stack.settings import Settings
from tgi_stack.tiny import TINY

ROWS = 1200
IMAGES = sorted((CATALOGUE / "images").glob("*.jpg"))[:8]
SCRIPTED = ("--engine", "scripted", "--overwrite")
WARM = ("-o", "warm.jsonl", "--engine", "scripted", "--offline")


@pytest.fixture
def teams(monkeypatch: pytest.MonkeyPatch) -> list[Team]:
    """Has small runs be prepared in two processes, and keeps who prepared them."""
    monkeypatch.setattr(preparers, "how_many", lambda *_: 2)
    monkeypatch.setattr(session, "how_many", lambda *_: 2)
    made: list[Team] = []

    class Noted(Team):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(session, "Preparers", Noted)
    return made


def questions(path: Path, count: int = ROWS) -> Path:
    rows = ({"id": f"q{n}", "prompt": f"Question {n}\n", "num_candidates": 4} for n in range(count))
    return write_rows(path, *rows)


@pytest.fixture(scope="module")
def first_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keeps what the first test that wants `known` made, for the others."""
    return tmp_path_factory.mktemp("known")


@pytest.fixture
def known(cached: Fastqwen, tmp_path: Path, first_made: Path) -> Path:
    """Questions that are in the cache, and `whole.jsonl`, which answers all of them from it."""
    asked = tmp_path / "q.jsonl"
    if not (first_made / "q.jsonl").exists():
        questions(asked)
        for more in ((), ("--offline",)):
            cached("probs", asked, "-o", "whole.jsonl", *SCRIPTED, *more)
        shutil.copytree(tmp_path, first_made, dirs_exist_ok=True)
    return shutil.copytree(first_made, tmp_path, dirs_exist_ok=True) / "q.jsonl"


def records(path: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, path.read_bytes().splitlines())
    return [{k: v for k, v in line.items() if k not in ("from_cache", "attempts")} for line in lines]


@pytest.mark.parametrize("more", [(), ("--no-cache",), ("--unordered",)])
def test_the_bytes_are_those_of_one_process(cached: Fastqwen, tmp_path: Path, more: tuple[str, ...]) -> None:
    asked = questions(tmp_path / "q.jsonl")
    found = []
    for many in ((), ("--preparers", "1"), ("--preparers", "3")):
        done = cached("probs", asked, "-o", "out.jsonl", *SCRIPTED, "--json", *more, *many)
        counts = json.loads(done.stdout)
        assert (counts["ok"], counts["kept"]) == (ROWS, 0)
        found.append(sorted(map(json.dumps, records(Path("out.jsonl")))))
    assert found[0] == found[1] == found[2]


def test_hits_of_the_cache_are_counted(cached: Fastqwen, known: Path, teams: list[Team]) -> None:
    before = json.loads(cached("cache", "info", "--json").stdout)["kinds"]["labels"]["hits"]
    done = cached("probs", known, "-o", "again.jsonl", *SCRIPTED, "--offline", "--json")
    counts = json.loads(done.stdout)
    assert (counts["ok"], counts["cached"]) == (ROWS, ROWS)
    assert Path("again.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    told = json.loads(cached("cache", "info", "--json").stdout)
    assert told["kinds"]["labels"]["hits"] == before + ROWS


@pytest.mark.slow
@pytest.mark.parametrize("job", ["rerank", "summarize"])
def test_other_jobs(cached: Fastqwen, tmp_path: Path, teams: list[Team], job: str) -> None:
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
    assert "300 ok (300 from cache)" in done.stderr
    cold, warm = (records(Path(name)) for name in ("cold.jsonl", "warm.jsonl"))
    assert warm == cold[:300]


def test_uncached_and_bad_rows_go_to_the_run(cached: Fastqwen, tmp_path: Path, teams: list[Team]) -> None:
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
    assert len(Path("warm.jsonl").read_bytes().splitlines()) == 602


def test_processes_that_fail_cost_only_speed(
    cached: Fastqwen, known: Path, tmp_path: Path, teams: list[Team], monkeypatch: pytest.MonkeyPatch
) -> None:
    killer = tmp_path / "python"
    killer.write_text("#!/bin/sh\nkill -9 $$\n")
    killer.chmod(0o755)
    for program in (str(killer), str(tmp_path / "none")):
        monkeypatch.setattr(sys, "executable", program)
        done = cached("probs", known, "-o", "hurt.jsonl", *SCRIPTED, "--offline")
        assert "1,200 ok (1,200 from cache)" in done.stderr
        assert Path("hurt.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_a_run_that_broke_off_goes_on(
    cached: Fastqwen, known: Path, teams: list[Team], monkeypatch: pytest.MonkeyPatch
) -> None:
    again = ("probs", known, *WARM, "--json")
    with monkeypatch.context() as patch:
        patch.setattr(Team, "_take", full_after_one(Team._take))
        cached(*again, check=3)
    counts = json.loads(cached(*again).stdout)
    assert (counts["ok"], counts["cached"] + counts["kept"]) == (ROWS, ROWS)
    assert 0 < counts["kept"] < ROWS
    assert Path("warm.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def full_after_one(take: Callable[..., None]) -> Callable[..., None]:
    """Takes a batch; then the disk is full."""
    taken: list[object] = []

    def once(self: Team, *arguments: Any) -> None:
        if taken:
            raise DiskError("No space left on device")
        take(self, *arguments)
        taken.append(self)

    return once


def test_nothing_stands_behind_a_line_that_was_cut(
    cached: Fastqwen,
    known: Path,
    teams: list[Team],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    again = ("probs", known, *WARM)
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
    known: Path,
    teams: list[Team],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each still waits for its process, which takes its time to die, when the other fails."""

    def take(self: Team, *batch: Any) -> None:
        raise DiskError("No space left on device")

    monkeypatch.setattr(
        preparers, "kill", lambda process: asyncio.get_running_loop().call_later(1, kill, process)
    )
    monkeypatch.setattr(Team, "_take", take)
    assert "No space left" in cached("probs", known, *WARM, check=3).stderr
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


@pytest.mark.slow
def test_a_flag_of_a_second_read_stays(
    cached: Fastqwen, tmp_path: Path, teams: list[Team], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = questions(tmp_path / "q.jsonl", 600)
    rows = [json.loads(line) for line in asked.read_bytes().splitlines()]
    command = ("probs", asked, *SCRIPTED)
    cached(*command, "-o", "cold.jsonl")
    few = [row | {"num_candidates": 2} if number > 100 else row for number, row in enumerate(rows)]
    write_rows(asked, *few)
    cached(*command, "-o", "ahead.jsonl")
    monkeypatch.setattr(session, "how_many", lambda *_: 0)
    cached(*command, "-o", "one.jsonl")
    flags = [[record["flags"] for record in records(Path(name))] for name in ("ahead.jsonl", "one.jsonl")]
    assert flags[0] == flags[1]


@pytest.mark.slow
def test_prompts_are_those_of_whoever_answers_now(
    cached: Fastqwen, tmp_path: Path, teams: list[Team], monkeypatch: pytest.MonkeyPatch
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


@pytest.mark.parametrize(
    "delay_s",
    [pytest.param(0.0, id="at-once"), pytest.param(0.4, id="still-out", marks=pytest.mark.slow)],
)
def test_equal_questions_are_asked_once(tmp_path: Path, fastqwen: Fastqwen, delay_s: float) -> None:
    rows = ({"id": str(n), "prompt": f"Question {n % 7}\n", "labels": ["A", "B"]} for n in range(300))
    asked = write_rows(tmp_path / "q.jsonl", *rows)
    with serve("vllm", delay_s=delay_s) as server:
        tokenizer = TINY / "vision" / "tokenizer.json"
        served = ("--endpoint", server.url, "--tokenizer", tokenizer, "--no-cache")
        options = (*served, "--preparers", "3", "--llm-batch-size", "1")  # a request each
        fastqwen("probs", asked, "-o", tmp_path / "one.jsonl", "--limit", "1", *options)
        before = server.posts  # one question, and what is asked of any server
        fastqwen("probs", asked, "-o", tmp_path / "out.jsonl", *options)
        assert server.posts - before == before - 1 + 7


@pytest.mark.parametrize(
    "ends",
    [
        kill,
        pytest.param(lambda process: process.send_signal(signal.SIGSTOP), id="stop", marks=pytest.mark.slow),
    ],
)
def test_a_killed_process_costs_what_it_had(
    cached: Fastqwen,
    known: Path,
    teams: list[Team],
    monkeypatch: pytest.MonkeyPatch,
    ends: Callable[[asyncio.subprocess.Process], None],
) -> None:
    taken: list[int] = []

    def take(self: Team, one: Any, *rest: Any) -> None:
        plain(self, one, *rest)
        if not taken:
            ends(one.process)
        taken.append(len(rest[0]))

    plain = Team._take
    monkeypatch.setattr(Team, "_take", take)
    cached("probs", known, "-o", "hurt.jsonl", *SCRIPTED, "--offline")
    assert sum(taken) < ROWS
    assert Path("hurt.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


@pytest.mark.parametrize(("times", "wanted"), [(0.5, 1), (2.5, 2), (3.0, 3)])
def test_items_bound_how_many_hold_them(
    fastqwen: Fastqwen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: float, wanted: int
) -> None:
    """Each process holds all items: together no more than the bound, but where one alone is over it."""
    items = [json.loads(line)["id"] for line in (CATALOGUE / "items.jsonl").read_bytes().splitlines()]
    rows = ({"id": str(n), "query": f"query {n}", "candidates": items[n:][:5]} for n in range(40))
    started: list[int] = []
    one = Team._one

    def measured(known: Any) -> bytes:
        held = wire.of_items(known)
        monkeypatch.setattr(preparers, "MOST_ITEM_BYTES", int(times * len(held)))
        return held

    async def noted(self: Team, width: int) -> None:
        started.append(width)
        await one(self, width)

    monkeypatch.setattr(preparers, "of_items", measured)
    monkeypatch.setattr(Team, "_one", noted)
    job = ("rerank", write_rows(tmp_path / "r.jsonl", *rows), "--items", CATALOGUE / "items.jsonl")
    fastqwen(*job, *SCRIPTED, "--preparers", "3", "-o", "out.jsonl")
    assert len(started) == wanted
    assert len(records(Path("out.jsonl"))) == 40


def test_an_api_run_is_prepared_elsewhere_too(tmp_path: Path) -> None:
    asked = questions(tmp_path / "q.jsonl", 400)
    found = []
    for many in (1, "auto"):
        with Reranker(engine="scripted", no_cache=True, preparers=many) as reranker:
            found.append(sorted(reranker.run_probs(asked), key=lambda record: str(record["id"])))
    assert json.loads(json.dumps(found[0])) == json.loads(json.dumps(found[1]))


def test_a_process_loads_what_rows_need() -> None:
    others = "{'torch', 'transformers', 'huggingface_hub', 'aiohttp', 'numpy', 'typer'}"
    code = f"import sys, tgi_stack.jobs.preparing.worker; print(sorted({others} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
