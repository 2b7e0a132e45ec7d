"""What is told before a run: settings and their places, what would fail, the schemas."""

from __future__ import annotations

import json
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import CATALOGUE, Fastqwen, read_records, write_rows
from tgi_stack.errors import RowError
from tgi_stack.rows import schema
from tgi_stack.rows.columns import FIELDS
from tgi_stack.rows.reader import RawRow
from tgi_stack.rows.records import ROWS, json_schema
from tgi_stack.settings import load

# -- settings ------------------------------------------------------------------------------------------------


def test_each_setting_says_where_it_came_from(fastqwen: Fastqwen, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('max-side = 224\nmode = "pointwise"\nlimit = 3\n')
    asked = ("settings", "rerank", "--config", tmp_path / "s.toml", "--limit", "5")
    variables = {"FASTQWEN_MODE": "listwise", "FASTQWEN_API_KEY": "hush-hush-hush"}
    found = json.loads(fastqwen(*asked, "--json", **variables).stdout)
    assert found["limit"] == {"value": 5, "from": "--limit"}
    assert found["mode"] == {"value": "listwise", "from": "FASTQWEN_MODE"}
    assert found["max_side"] == {"value": 224, "from": str(tmp_path / "s.toml")}
    assert found["permutations"] == {"value": 1, "from": "default"}
    assert "text_endpoints" in found
    assert "labels" not in found
    shown = fastqwen(*asked, **variables).stdout
    assert "hush" not in shown
    assert "FASTQWEN_API_KEY is set" in shown


def test_printed_settings_are_a_settings_file(fastqwen: Fastqwen, tmp_path: Path) -> None:
    given = ("--labels", "A,B", "--item-fields", "title", "--instruction", 'say "A"\tor ü', "--seed", "4")
    shown = fastqwen("settings", *given).stdout
    (tmp_path / "s.toml").write_text(shown)
    again = load({}, {}, tmp_path / "s.toml")
    assert (again.labels, again.item_fields, again.seed) == (("A", "B"), ("title",), 4)
    assert again.instruction == 'say "A"\tor ü'
    assert tomllib.loads(shown)["max_side"] == 448


def test_urls_are_shown_without_passwords(fastqwen: Fastqwen) -> None:
    shown = fastqwen("settings", "probs", "--endpoint", "http://me:hunter2@gpu:8080").stdout
    assert "hunter2" not in shown
    assert "gpu:8080" in shown


def test_settings_of_no_command_are_refused(fastqwen: Fastqwen) -> None:
    assert "one of summarize" in fastqwen("settings", "rank", check=2).stderr
    assert "--max-side" in fastqwen("settings", "--max-side", "wide", check=2).stderr


# -- check ---------------------------------------------------------------------------------------------------

ITEM = {"id": "b", "text": "A mug"}
GOOD = {"id": "u1", "query": "mug", "candidates": ["a", ITEM]}
CASES: dict[str, tuple[int, str, list[dict[str, Any]], tuple[str, ...]]] = {
    "good": (0, "rerank", [GOOD], ()),
    "unknown item": (1, "rerank", [GOOD, GOOD | {"id": "u2", "candidates": ["x", ITEM]}], ()),
    "no candidates": (2, "rerank", [GOOD, {"id": "u2", "query": "x"}], ()),
    "no candidates, skipped": (1, "rerank", [GOOD, {"id": "u2", "query": "x"}], ("--skip-bad-rows",)),
    "id twice": (2, "rerank", [GOOD, GOOD], ()),
    "beyond the limit": (0, "rerank", [GOOD, GOOD | {"id": "u2", "candidates": ["x"]}], ("--limit", "1")),
    "no such column": (2, "rerank", [GOOD], ("--map", "id=asin")),
    "label begins another": (1, "probs", [{"prompt": "x\n", "labels": ["1", "10"]}], ()),
    "no image": (1, "summarize", [{"id": "1", "image": "gone.jpg"}, {"id": "2", "title": "x"}], ()),
    "text alone": (0, "summarize", [{"id": "2", "title": "x"}], ("--allow-text-only",)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_check_ends_as_the_job_does(fastqwen: Fastqwen, tmp_path: Path, name: str) -> None:
    status, job, rows, options = CASES[name]
    written = write_rows(tmp_path / "rows.jsonl", *rows)
    items = ("--items", write_rows(tmp_path / "items.jsonl", {"id": "a", "title": "A cup"}))
    given = (written, *(items if job == "rerank" else ()), *options)
    ran = fastqwen(job, *given, "--engine", "scripted", check=status)
    checked = fastqwen("check", *given, "--job", job, "--model", "tiny", "--json", check=status)
    found = json.loads(checked.stdout)
    assert found["status"] == status
    if status < 2:
        records = map(json.loads, ran.stdout.splitlines())
        assert found["types"].keys() == {one["error"]["type"] for one in records if "error" in one}


def test_the_first_rows_of_each_type_are_named(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = [GOOD | {"id": f"u{n}", "candidates": [f"x{n}", ITEM]} for n in range(7)]
    given = (write_rows(tmp_path / "r.jsonl", *rows), "--job", "rerank")
    shown = fastqwen("check", *given, check=1).stdout
    assert "7 x item.unknown\n  row 1 (u0): item 'x0' is in no --items file\n  row 2 (u1)" in shown
    assert "u4" not in shown
    assert shown.endswith("7 rows: 0 could be asked, 7 would fail\n")


def test_without_a_tokenizer_labels_are_not_judged(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "p.jsonl", {"prompt": "x\n", "labels": ["1", "10"]})
    shown = fastqwen("check", rows, "--job", "probs", "--model", "nobody/knows").stdout
    assert "not checked: labels and lengths, for want of nobody/knows's tokenizer" in shown
    assert "label.prefix" in fastqwen("check", rows, "--job", "probs", "--model", "tiny", check=1).stdout


# -- schemas -------------------------------------------------------------------------------------------------


@cache
def validator(name: str, only: str | None = None) -> Any:
    made = json_schema(name, only)
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


def test_rows_and_records_of_the_catalogue_are_valid(fastqwen: Fastqwen, tmp_path: Path) -> None:
    sessions, items = CATALOGUE / "sessions.jsonl", CATALOGUE / "items.jsonl"
    prompts = write_rows(tmp_path / "p.jsonl", {"prompt": "x\n", "num_candidates": 3}, {"id": 4, "prompt": 1})
    made = {name: tmp_path / f"{name}.jsonl" for name in ("summarize", "rerank", "probs")}
    scripted = ("--engine", "scripted", "--skip-bad-rows")
    fastqwen("summarize", items, "-o", made["summarize"], *scripted)
    fastqwen("rerank", sessions, "--items", items, "-o", made["rerank"], "--permutations", "2", *scripted)
    fastqwen("probs", prompts, "-o", made["probs"], *scripted, check=1)
    for name, rows in {"summarize": items, "rerank": sessions, "item": items}.items():
        for row in read_records(rows):
            validator(name, "row").validate(row)
    for name, out in made.items():
        records = read_records(out)
        assert records
        for record in records:
            validator(name, "record").validate(record)
            validator(name).validate(record)
    for record in read_records(made["summarize"]):
        validator("item").validate(record)


def test_the_command_prints_the_schema(fastqwen: Fastqwen) -> None:
    assert json.loads(fastqwen("schema", "rerank").stdout) == json_schema("rerank")
    assert json.loads(fastqwen("schema", "probs", "--only", "row").stdout) == json_schema("probs", "row")
    assert "one of summarize" in fastqwen("schema", "rows", check=2).stderr


@pytest.mark.parametrize("name", ROWS)
def test_schemas_and_readers_know_the_same_fields(name: Any) -> None:
    assert ROWS[name].model_fields.keys() == FIELDS[name].keys()


VALUE = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 10**20), st.floats(0.1, 0.9), st.sampled_from(["", "a", "b"]),
)  # fmt: skip
# What is no image is a fault of rows that show it, not of the item, wherever it stands.
IMAGES = st.sampled_from([None, "", "a"])
ITEMS = st.fixed_dictionaries({"id": VALUE}, optional={"title": VALUE, "text": VALUE, "image": IMAGES})
MANY = st.one_of(VALUE, st.lists(st.one_of(VALUE, ITEMS), max_size=2))
DRAWN: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "summarize": st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS["summarize"], VALUE)),
    "item": st.fixed_dictionaries(
        {}, optional=dict.fromkeys(FIELDS["item"], VALUE) | {"status": st.just("ok"), "image": IMAGES}
    ),
    "rerank": st.fixed_dictionaries(
        {"id": st.just("u"), "candidates": MANY},
        optional={"history": MANY, "query": VALUE, "positive": st.one_of(VALUE, st.lists(VALUE, max_size=2))},
    ),
    "probs": st.fixed_dictionaries(
        {"prompt": VALUE},
        optional={
            "id": VALUE,
            "labels": st.one_of(VALUE, st.lists(VALUE, max_size=2)),
            "num_candidates": VALUE,
        },
    ),
}


def is_read(name: str, row: dict[str, Any]) -> bool:
    """Whether the job's own reader takes a row; labels may come from the command line."""
    raw = RawRow(1, row)
    try:
        if name == "item":
            schema.item(row)
        elif name == "probs":
            schema.probs_row(raw, ("A",))
        else:
            getattr(schema, f"{name}_row")(raw)
    except RowError as error:
        return "stands twice" in str(error)  # which no JSON schema says
    return True


@pytest.mark.parametrize("name", DRAWN)
@given(data=st.data())
@settings(deadline=None)
def test_a_schema_takes_what_the_job_reads(name: str, data: st.DataObject) -> None:
    row = data.draw(DRAWN[name])
    if name == "probs" and row.get("labels") is not None:
        row.pop("num_candidates", None)  # then nobody looks at it
    assert validator(name, "row").is_valid(row) == is_read(name, row)
