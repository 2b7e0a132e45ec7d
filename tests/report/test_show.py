"""`fastqwen show`: one record in the terminal."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import CATALOGUE, Fastqwen, write_rows
from tests.report.written import failed, ranking, rankings, summary, written

SESSIONS, ITEMS = CATALOGUE / "sessions.jsonl", CATALOGUE / "items.jsonl"


def test_a_ranking_is_shown_with_bars(fastqwen: Fastqwen, tmp_path: Path) -> None:
    record = rankings(4)[3]
    shown = fastqwen("show", written(tmp_path / "r.jsonl", *rankings(4)), "u3", COLUMNS="140").stdout
    lines = [line for line in shown.splitlines() if "item" in line]
    assert [entry["id"] in line for entry, line in zip(record["ranking"], lines, strict=True)] == [True] * 6
    assert [line for line in lines if "*" in line] == [
        line for line in lines if record["positive"][0] in line
    ]
    assert lines[0].count("\N{FULL BLOCK}") == 24
    assert f"{record['ranking'][0]['probability']:.4f}" in lines[0]


def test_narrow_terminals_keep_numbers_and_bars(fastqwen: Fastqwen, tmp_path: Path) -> None:
    known = {f"{'a long name ' * 9}{place}": [float(place), 0.5] for place in range(12)}
    record = ranking("u", known, "none")
    shown = fastqwen("show", written(tmp_path / "r.jsonl", record), "u", COLUMNS="80").stdout
    lines = [line.split() for line in shown.splitlines() if "a long" in line]
    assert [line[0] for line in lines] == [str(entry["rank"]) for entry in record["ranking"]]
    for line, entry in zip(lines, record["ranking"], strict=True):
        assert f"{entry['probability']:.4f}" in line
    assert lines[0][-2].count("\N{FULL BLOCK}") == 24


def test_failures_and_summaries_are_told(fastqwen: Fastqwen, tmp_path: Path) -> None:
    out = written(tmp_path / "s.jsonl", summary("a", "A \x1b[31mmug."), failed("b", message="too slow; wait"))
    assert "A \\x1b[31mmug." in fastqwen("show", out, "a").stdout
    assert "server.slow: too slow; wait (row 1)" in fastqwen("show", out, "b").stdout
    assert "no record of 'c'" in fastqwen("show", out, "c", check=2).stderr


def test_values_pass_for_no_lines_of_ours(fastqwen: Fastqwen, tmp_path: Path) -> None:
    out = written(tmp_path / "s.jsonl", summary("a\nb: failed", "mug\nflags: none"))
    shown = fastqwen("show", out, "a\nb: failed").stdout.splitlines()
    assert shown[:4] == ["a", "    b: failed: ok", "summary: mug", "    flags: none"]


def test_histories_come_from_the_input(fastqwen: Fastqwen, tmp_path: Path) -> None:
    fastqwen("rerank", SESSIONS, "--items", ITEMS, "-o", "r.jsonl", "--engine", "scripted", "--limit", "3")
    shown = fastqwen("show", "r.jsonl", "u1", "--input", SESSIONS, "--items", ITEMS, COLUMNS="140").stdout
    assert "history 5: h5: Plain grey backpack" in shown
    assert "backpack-03.jpg: " in shown


def test_the_prompt_is_the_one_that_was_sent(fastqwen: Fastqwen, tmp_path: Path) -> None:
    prompts = write_rows(
        tmp_path / "p.jsonl", {"id": "p", "prompt": "Which, A or B?\n", "labels": ["A", "B"]}
    )
    fastqwen("probs", prompts, "-o", "o.jsonl", "--engine", "torch", "--model", "tiny", "--chat")
    shown = json.loads(fastqwen("show", "o.jsonl", "p", "--prompt", "--json").stdout)
    assert len(shown["prompts"]) == 1
    assert shown["prompts"][0].startswith("<|im_start|>user\nWhich, A or B?\n<|im_end|>")
