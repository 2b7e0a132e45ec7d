"""One run, whoever asks for it: the command line and Python give the same records and counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CATALOGUE, Fastqwen, write_rows
from tgi_stack import Reranker, Summarizer
from tgi_stack.errors import UsageError

SCRIPTED = {"engine": "scripted", "no_cache": True}
SUMMARIES = CATALOGUE / "items.jsonl"
SESSIONS, ITEMS = CATALOGUE / "sessions.jsonl", CATALOGUE / "items.jsonl"


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("job", ["summarize", "rerank"])
def test_python_gives_what_the_command_gives(fastqwen: Fastqwen, tmp_path: Path, job: str) -> None:
    ours, theirs = tmp_path / "ours.jsonl", tmp_path / "theirs.jsonl"
    engine: Any = (Summarizer if job == "summarize" else Reranker)(**SCRIPTED)
    typed: list[Any] = [SUMMARIES] if job == "summarize" else [SESSIONS, "--items", ITEMS]
    arguments = {} if job == "summarize" else {"items": ITEMS}
    done = fastqwen(job, *typed, "-o", theirs, "--engine", "scripted", "--no-cache", "--json")
    with engine:
        counts = engine.write(typed[0], ours, **arguments)
        again = engine.write(typed[0], ours, **arguments)
        yielded = list(engine.run(typed[0], **arguments))
    expected = json.loads(done.stdout)
    assert counts == {name: value for name, value in expected.items() if name != "out"}
    assert again["kept"] == again["ok"] == counts["ok"]
    assert records(ours) == records(theirs)
    assert sorted(yielded, key=lambda one: one["id"]) == sorted(records(theirs), key=lambda one: one["id"])


def test_python_runs_a_file_of_prompts(fastqwen: Fastqwen, tmp_path: Path) -> None:
    prompts = [{"id": str(n), "prompt": f"Which {n}?\n", "labels": ["A", "B"]} for n in range(3)]
    rows = write_rows(tmp_path / "p.jsonl", *prompts)
    ours, theirs = tmp_path / "ours.jsonl", tmp_path / "theirs.jsonl"
    done = fastqwen("probs", rows, "-o", theirs, "--engine", "scripted", "--no-cache", "--json")
    with Reranker(**SCRIPTED) as reranker:
        counts = reranker.write_probs(rows, ours)
        yielded = list(reranker.run_probs(rows))
    assert counts == {name: value for name, value in json.loads(done.stdout).items() if name != "out"}
    assert records(ours) == records(theirs) == sorted(yielded, key=lambda one: one["id"])


def test_dry_runs_agree(cached: Fastqwen, tmp_path: Path) -> None:
    prompts = [{"id": str(n), "prompt": f"Which {n}?\n", "labels": ["A", "B"]} for n in range(3)]
    rows = write_rows(tmp_path / "p.jsonl", *prompts)
    model = ("--engine", "torch", "--model", "tiny")
    cached("probs", rows, "-o", tmp_path / "out.jsonl", "--limit", "2", *model)
    told = cached("probs", rows, "--dry-run", "--json", *model)
    with Reranker(engine="torch", model="tiny") as reranker:
        found = reranker.dry_run_probs(rows)
    assert found == json.loads(told.stdout)
    assert (found["hits"], found["misses"]) == (2, 1)


def test_probs_need_a_text_model(tmp_path: Path) -> None:
    with Reranker(item_images=True, **SCRIPTED) as reranker, pytest.raises(UsageError, match="text model"):
        list(reranker.run_probs(tmp_path / "p.jsonl"))
