"""`eval --labelled`: exact and set measures of each field; a row without data is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Fastqwen, write_rows
from tgi_stack.scoring.labelled import Field


def ok(id: str, **data: Any) -> dict[str, Any]:
    return {"id": id, "status": "ok", "summary": json.dumps(data), "data": data}


def test_fields_are_measured(fastqwen: Fastqwen, tmp_path: Path) -> None:
    failed = {"id": "3", "status": "failed", "error": {"type": "schema.invalid", "message": "x", "row": 3}}
    answers = [ok("1", kind="mug", uses=["tea", "work"]), ok("2", kind=1, uses=[]), failed, ok("9", kind="x")]
    write_rows(tmp_path / "o.jsonl", *answers)
    labels: list[dict[str, Any]] = [
        {"id": "1", "data": {"kind": "mug", "uses": ["work", "tea"], "look": {"hue": "red"}}},
        {"id": 2, "data": {"kind": True, "uses": ["sun"]}},
        {"id": "3", "data": {"kind": "hat", "uses": [], "none": None}},  # what is not answered is not right
        {"id": "not asked", "data": {"kind": "hat"}},
    ]
    write_rows(tmp_path / "l.jsonl", *labels)
    found = json.loads(fastqwen("eval", "o.jsonl", "--labelled", "l.jsonl", "--json").stdout)
    assert (found["rows"], found["failed"], found["without_label"], found["without_record"]) == (3, 1, 1, 1)
    assert found["fields"]["kind"] == {"rows": 3, "exact": pytest.approx(1 / 3)}
    third = pytest.approx(1 / 3)
    assert found["fields"]["uses"] == {
        "rows": 3,
        "exact": third,
        "precision": third,
        "recall": third,
        "f1": third,
    }
    assert found["fields"]["none"] == {"rows": 1, "exact": 0.0}
    assert found["fields"]["look.hue"] == {"rows": 1, "exact": 0.0}
    assert "3 labelled rows" in fastqwen("eval", "o.jsonl", "--labelled", "l.jsonl").stdout


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([{"id": "1"}], "no `data`"),
        ([{"id": "7", "data": {"a": 1}}], "no `data` of a row"),
        ([{"id": "1", "data": {"a": 1}}, {"id": 1, "data": {"a": 1}}], "stands twice"),
    ],
)
def test_bad_labels_are_refused(
    fastqwen: Fastqwen, tmp_path: Path, labels: list[dict[str, Any]], said: str
) -> None:
    write_rows(tmp_path / "o.jsonl", ok("1", a=1))
    write_rows(tmp_path / "l.jsonl", *labels)
    assert said in fastqwen("eval", "o.jsonl", "--labelled", "l.jsonl", check=2).stderr


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([ok("1", a=1), ok("1", a=2)], "stands twice"),
        ([ok("1", a=1), ok("2", a=1) | {"id": ["2"]}], "record 2: `id`"),
        ([ok("1", a=1) | {"status": "done"}], "record 1: `status`"),
        ([{"id": "1", "data": {"a": 1}}], "record 1: no `status`"),
        ([ok("1", a=1) | {"data": "a"}], "record 1: `data`"),
    ],
)
def test_other_records_are_no_answers(
    fastqwen: Fastqwen, tmp_path: Path, records: list[dict[str, Any]], said: str
) -> None:
    write_rows(tmp_path / "o.jsonl", *records)
    write_rows(tmp_path / "l.jsonl", {"id": "1", "data": {"a": 1}})
    assert said in fastqwen("eval", "o.jsonl", "--labelled", "l.jsonl", check=2).stderr


def test_numbers_in_lists_are_compared_by_value() -> None:
    one = Field()
    one.add([1, 2.5, {"n": 3}], [2.5, 1.0, {"n": 3.0}], answered=True)
    assert one.as_dict() == {"rows": 1, "exact": 1.0, "precision": 1.0, "recall": 1.0, "f1": 1.0}


@pytest.mark.parametrize("options", [["--trec", "t"], ["--temperature", "2"], ["--against", "o.jsonl"]])
def test_options_for_rankings_are_not_passed_over(
    fastqwen: Fastqwen, tmp_path: Path, options: list[str]
) -> None:
    write_rows(tmp_path / "o.jsonl", ok("1", a=1))
    write_rows(tmp_path / "l.jsonl", {"id": "1", "data": {"a": 1}})
    found = fastqwen("eval", "o.jsonl", "--labelled", "l.jsonl", *options, check=2)
    assert "does not go with --labelled" in found.stderr
