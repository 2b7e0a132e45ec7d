"""`summarize --schema`: data in the record, held to the schema here, whoever answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CATALOGUE, Fastqwen, read_records, write_rows
from tests.loopback import TOKENIZER, serve
from tgi_stack.prompting.forms import new_tokens, read_form
from tgi_stack.rows.output import records

SCRIPTED = ("--engine", "scripted")
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["mug", "hat"]},
        "uses": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
    },
    "required": ["kind", "uses"],
}


@pytest.fixture
def job(tmp_path: Path) -> tuple[str, ...]:
    """Two pictures to be summarized as data."""
    (tmp_path / "images").mkdir()
    for name in ("mug-02.jpg", "shirt-01.jpg"):
        shutil.copy(CATALOGUE / "images" / name, tmp_path / "images")
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    return ("summarize", "images", "--schema", "s.json")


def check(out: Path, count: int = 2) -> list[dict[str, Any]]:
    """The records, each with data that is its summary."""
    found = list(records(out))
    assert len(found) == count
    for record in found:
        assert record["status"] == "ok"
        assert json.loads(record["summary"]) == record["data"]
        assert record["data"]["kind"] in ("mug", "hat")
        assert " " not in record["summary"]
    return found


def test_torch_writes_data(fastqwen: Fastqwen, tmp_path: Path, job: tuple[str, ...]) -> None:
    fastqwen(*job, "--engine", "torch", "--model", "tiny", "-o", "o.jsonl")
    check(tmp_path / "o.jsonl")
    fastqwen("verify", "o.jsonl")


@pytest.mark.parametrize(("given", "wanted"), [((), None), (("--max-new-tokens", "200"), 200)])
def test_runs_ask_for_the_budget_of_a_schema(
    cached: Fastqwen, job: tuple[str, ...], given: tuple[str, ...], wanted: int | None
) -> None:
    cached("summarize", "images", *SCRIPTED, "-o", "text.jsonl")  # so that somebody is known
    told = json.loads(cached(*job, *SCRIPTED, *given, "--dry-run", "--json").stdout)
    budget = wanted or new_tokens(read_form(json.dumps(SCHEMA)), TOKENIZER)
    assert told["new_tokens"] == 2 * budget


@pytest.mark.parametrize("dialect", ["vllm", "tgi", "sglang"])
def test_servers_are_told_the_schema(
    fastqwen: Fastqwen, tmp_path: Path, job: tuple[str, ...], dialect: str
) -> None:
    with serve(dialect, spoils=lambda text: text.replace(":", " : ")) as server:  # white space of its own
        fastqwen(*job, "--endpoint", server.url, "--model", "tiny", "-o", "o.jsonl")
    check(tmp_path / "o.jsonl")


@pytest.mark.parametrize("spoils", [lambda text: f"Sure! {text}", lambda text: text.replace("kind", "sort")])
def test_what_servers_invent_fails_its_row(
    fastqwen: Fastqwen, tmp_path: Path, job: tuple[str, ...], spoils: Callable[[str], str]
) -> None:
    with serve("vllm", spoils=spoils) as server:
        fastqwen(*job, "--endpoint", server.url, "--model", "tiny", "-o", "o.jsonl", check=1)
    for record in read_records(tmp_path / "o.jsonl"):
        assert record["error"]["type"] == "schema.invalid"
        assert "data" not in record
        assert "summary" not in record


def test_cut_answers_fail_their_row(fastqwen: Fastqwen, tmp_path: Path, job: tuple[str, ...]) -> None:
    short = ("--engine", "torch", "--model", "tiny", "--max-new-tokens", "3")
    done = fastqwen(*job, *short, "-o", "o.jsonl", check=1)
    assert "--max-new-tokens 3: the longest answer" in done.stderr
    assert {r["error"]["type"] for r in read_records(tmp_path / "o.jsonl")} == {"schema.truncated"}


def test_parquet_holds_data_as_text(fastqwen: Fastqwen, tmp_path: Path, job: tuple[str, ...]) -> None:
    import pyarrow.parquet as pq

    for name in ("o.jsonl", "o.parquet"):
        fastqwen(*job, *SCRIPTED, "-o", name)
    table = pq.read_table(tmp_path / "o.parquet").to_pylist()
    assert [json.loads(row["data"]) for row in table] == [r["data"] for r in check(tmp_path / "o.jsonl")]
    assert check(tmp_path / "o.parquet") == check(tmp_path / "o.jsonl")
    fastqwen("compare", "o.jsonl", "o.parquet", "--limit", "0")


def test_answers_are_kept_by_their_schema(cached: Fastqwen, tmp_path: Path, job: tuple[str, ...]) -> None:
    cached(*job, *SCRIPTED, "-o", "a.jsonl")
    cached(*job, *SCRIPTED, "-o", "b.jsonl", "--offline")
    assert [r["from_cache"] for r in check(tmp_path / "b.jsonl")] == [True, True]
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA | {"required": ["kind"]}))
    assert "--schema" in cached(*job, *SCRIPTED, "-o", "a.jsonl", check=2).stderr  # another question
    cached(*job, *SCRIPTED, "-o", "c.jsonl", "--offline", check=1)
    assert "2" in cached(*job, *SCRIPTED, "--dry-run").stderr


def test_a_bad_schema_is_refused_first(fastqwen: Fastqwen, tmp_path: Path, job: tuple[str, ...]) -> None:
    (tmp_path / "s.json").write_text('{"type": "object", "properties": {"a": {"$ref": "#"}}}')
    assert "`type` at `a`" in fastqwen(*job, *SCRIPTED, check=2).stderr


def test_data_ranks_items(fastqwen: Fastqwen, tmp_path: Path, job: tuple[str, ...]) -> None:
    rows = write_rows(
        tmp_path / "r.jsonl", {"id": "1", "query": "a mug", "candidates": ["mug-02.jpg", "shirt-01.jpg"]}
    )
    rankings = []
    for name in ("o.jsonl", "o.parquet"):
        fastqwen(*job, *SCRIPTED, "-o", name)
        asked = ("rerank", rows, "--items", name, "--item-fields", "data.kind,data.uses", *SCRIPTED)
        rankings.append(json.loads(fastqwen(*asked).stdout)["ranking"])
    assert rankings[0] == rankings[1]
    done = fastqwen("rerank", rows, "--items", "o.jsonl", "--item-fields", "data.other", *SCRIPTED, check=1)
    assert "none of the fields data.other" in done.stdout
    assert (
        "--item-fields" in fastqwen("rerank", rows, "--item-fields", "date.kind", *SCRIPTED, check=2).stderr
    )
