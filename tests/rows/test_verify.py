"""`fastqwen verify` holds for what a job wrote, and finds what anybody did to it since."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Fastqwen, read_records, write_rows

SCRIPT = ("--engine", "scripted", "--quiet")


@pytest.fixture
def written(tmp_path: Path, fastqwen: Fastqwen) -> Path:
    prompts = ({"id": f"r{i}", "prompt": f"Question {i}\n", "labels": ["A", "B"]} for i in range(20))
    rows = write_rows(tmp_path / "in.jsonl", *prompts)
    fastqwen("probs", rows, "-o", tmp_path / "out.jsonl", *SCRIPT, "--model", "fail_every=5", check=1)
    return tmp_path / "out.jsonl"


def failed(fastqwen: Fastqwen, out: Path, status: int = 1) -> list[str]:
    findings = json.loads(fastqwen("verify", out, "--json", check=status).stdout)
    return [finding["what"] for finding in findings if finding["holds"] is False]


def test_what_a_job_wrote_holds(fastqwen: Fastqwen, written: Path) -> None:
    shown = fastqwen("verify", written).stderr
    assert "every row once (20 rows in the order of the input)" in shown
    assert failed(fastqwen, written, 0) == []


def rewrite(out: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    records = read_records(out)
    change(records)
    write_rows(out, *records)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda records: records.pop(3), {"output digest", "counts add up", "every row once"}),
        (
            lambda records: records.append(records[3]),
            {"output digest", "ids are unique", "counts add up", "every row once"},
        ),
        (lambda records: records.reverse(), {"output digest", "every row once"}),
        (lambda records: records[3].update(id="r99"), {"output digest", "every row once"}),
        (lambda records: records[3].update(label_mass=1.0), {"output digest"}),
    ],
)
def test_what_was_done_to_it_is_found(
    fastqwen: Fastqwen, written: Path, change: Callable[[list[dict[str, Any]]], object], found: set[str]
) -> None:
    rewrite(written, change)
    assert set(failed(fastqwen, written)) == found


def test_a_changed_or_vanished_input_is_found(fastqwen: Fastqwen, written: Path, tmp_path: Path) -> None:
    rows = tmp_path / "in.jsonl"
    rows.write_bytes(rows.read_bytes().replace(b"Question 1\\n", b"Question one\\n"))
    assert failed(fastqwen, written) == ["input digest"]
    rows.unlink()
    assert set(failed(fastqwen, written)) == {"input", "rows"}


def test_eval_reads_what_rerank_wrote_failed_rows_included(fastqwen: Fastqwen, tmp_path: Path) -> None:
    items = [{"id": id, "text": id} for id in ("x", "y")]
    good = {"id": "a", "query": "red mug", "candidates": items, "positive": "x"}
    bad = {"id": "b", "query": "red mug", "candidates": ["gone", items[0]], "positive": ["x"]}
    rows = write_rows(tmp_path / "s.jsonl", good, bad)
    for name in ("r.jsonl", "r.parquet"):
        fastqwen("rerank", rows, "-o", tmp_path / name, *SCRIPT, check=1)
        figures = json.loads(fastqwen("eval", name, "--json", "--against", "r.jsonl").stdout)
        assert (figures["queries"], figures["failed"]) == (2, 1)
        assert figures["measures"]["Recall@5"]["mean"] == 0.5
        assert figures["against"]["kendall_tau"] == 1.0
    shown = fastqwen("eval", "r.jsonl", "--drop", "x", "--trec", "run.txt").stdout
    assert "renormalised" in shown
    assert (tmp_path / "run.txt").read_text().startswith("a Q0 y 1 1.0 fastqwen")
    wrong = {("gone.jsonl",): "no such file", ("r.jsonl", "--k", "0"): "--k", ("s.jsonl",): "s.jsonl"}
    for arguments, message in wrong.items():
        assert message in fastqwen("eval", *arguments, check=2).stderr


def test_standard_input_is_said_not_to_be_checked(fastqwen: Fastqwen, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    fastqwen("probs", "-", "-o", out, *SCRIPT, stdin='{"prompt": "x\\n", "labels": ["A"]}\n')
    assert "not checked: input digest" in fastqwen("verify", out).stderr


def test_without_a_manifest_there_is_nothing_to_verify(fastqwen: Fastqwen, tmp_path: Path) -> None:
    (tmp_path / "o.jsonl").touch()
    assert "run.json" in fastqwen("verify", tmp_path / "o.jsonl", check=2).stderr


def test_parquet_in_and_out_with_other_names(fastqwen: Fastqwen, tmp_path: Path) -> None:
    sessions = {
        "id": ["u1", "u2"],
        "query": ["red mug", "blue hat"],
        "candidates": [["B1", "B2"], ["B2", "B1"]],
    }
    pq.write_table(pa.table(sessions), tmp_path / "s.parquet")
    (tmp_path / "items.csv").write_text("asin,title\nB1,Red mug\nB2,Blue hat\n")
    out = tmp_path / "r.parquet"
    arguments = ("rerank", "s.parquet", "--items", "items.csv", "--map", "id=asin", "-o", out, *SCRIPT)
    fastqwen(*arguments)
    table = pq.read_table(out).to_pylist()
    assert [row["id"] for row in table] == ["u1", "u2"]
    assert {entry["id"] for entry in table[0]["ranking"]} == {"B1", "B2"}
    assert failed(fastqwen, out, 0) == []
    before = out.stat()
    assert "2 rows: 2 ok" in fastqwen(*arguments).stderr
    assert out.stat() == before
