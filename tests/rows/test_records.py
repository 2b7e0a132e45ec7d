"""One definition of records: what a job can write comes back equal from every sink."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tgi_stack.errors import AnswerError, InputError
from tgi_stack.rows import jsonl, parquet
from tgi_stack.rows.output import records
from tgi_stack.rows.records import INT64, RECORDS, REPLACED, described, written

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PLAIN = {
    "string": TEXT,
    "int64": st.integers(-INT64, INT64 - 1),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "json": st.dictionaries(
        TEXT, st.recursive(TEXT | st.integers(-9, 9) | st.booleans(), st.lists), max_size=3
    ),
}


def some(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field as a record's definition describes it."""
    if isinstance(kind, str):
        return PLAIN[kind]
    if isinstance(kind, list):
        return st.lists(some(kind[0]), max_size=3)
    return st.fixed_dictionaries({}, optional={name: st.none() | some(inner) for name, inner in kind.items()})


def without_null(value: Any) -> Any:
    """A record in which absent and null are one."""
    if isinstance(value, dict):
        return {name: without_null(inner) for name, inner in value.items() if inner is not None}
    return [without_null(inner) for inner in value] if isinstance(value, list) else value


def through(job: str, given: list[dict[str, Any]], folder: Path) -> list[list[dict[str, Any]]]:
    """The records as JSON lines and as Parquet give them back."""
    found = []
    for suffix in ("jsonl", "parquet"):
        path = folder / f"out.{suffix}"
        content = io.BytesIO()
        lines = [written(record).line for record in given]
        if suffix == "parquet":
            parquet.write(job, content, iter(lines))
        else:
            content.writelines(lines)
        path.write_bytes(content.getvalue())
        found.append([without_null(record) for record in records(path)])
    return found


@pytest.mark.parametrize("job", RECORDS)
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_record_comes_back_equal(tmp_path: Path, job: str, data: st.DataObject) -> None:
    given = data.draw(st.lists(some(described(RECORDS[job])), min_size=1, max_size=4))
    lines, table = through(job, given, tmp_path)
    assert lines == table == [without_null(record) for record in given]


@pytest.mark.parametrize("job", RECORDS)
def test_a_field_beyond_the_definition_is_refused(job: str) -> None:
    with pytest.raises(ValueError, match="surprise"):
        parquet.write(job, io.BytesIO(), iter([b'{"id":"a","status":"ok","surprise":1}\n']))


@pytest.mark.parametrize("where", ["id", "summary", "flags", "error"])
def test_a_lone_surrogate_is_replaced_and_flagged(where: str) -> None:
    bad = "a \ud800 b"
    given = {"id": "1", "status": "ok", "flags": ["x"]}
    value = {"flags": [bad], "error": {"type": "x", "message": bad, "row": 1}}.get(where, bad)
    found = written(given | {where: value}).record
    line = jsonl.dumps(found)
    assert REPLACED in found["flags"]
    assert b"\\ud800" not in line
    assert json.loads(line.decode())[where] == found[where]


@pytest.mark.parametrize("count", [INT64, 2**64, -(2**63) - 1, 10**400, float("nan"), float("inf")])
def test_numbers_that_no_sink_holds_fail_rows(count: Any) -> None:
    with pytest.raises(AnswerError) as caught:
        written({"id": "1", "status": "ok", "usage": {"prompt_tokens": count}})
    assert caught.value.type == "server.bad_response"
    assert written({"n": INT64 - 1}).record == {"n": INT64 - 1}


def test_null_is_absent_in_lines_too(tmp_path: Path) -> None:
    record = {"id": "1", "status": "ok", "window": None, "reads": [{"order": ["a"], "prior": None}]}
    path = tmp_path / "out.jsonl"
    path.write_text(json.dumps(record | {"data": {"colour": None}}))
    assert list(records(path)) == [
        {"id": "1", "status": "ok", "reads": [{"order": ["a"]}], "data": {"colour": None}}
    ]


def test_text_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    pq.write_table(pa.table({"id": ["1", "2"], "data": ["{}", "{a: 1}"]}), path)
    with pytest.raises(InputError, match="row 2: `data` is no JSON"):
        list(records(path))
