"""One run, whoever asks for it: the command line and Python give the same records and counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CATALOGUE, Fastqwen
from tgi_stack import Reranker, Summarizer

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
