"""Reading rows strictly, writing records in order."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Fastqwen, write_rows
from tgi_stack.errors import DiskError, ImageError, InputError, RowError, SchemaError
from tgi_stack.rows import jsonl, schema
from tgi_stack.rows.looking.check import check
from tgi_stack.rows.opening import open_source
from tgi_stack.rows.reader import RawRow
from tgi_stack.types import Item

# -- lines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": NaN}', "NaN is not JSON"),
        (b'{"id": -Infinity}', "-Infinity"),
        (b'{"id": "a", "id": "b"}', "'id' stands twice"),
        (b'{"id": "a"', "not JSON: expecting"),
        (b"[1]", "not a JSON object"),
        (b'{"id": "\xff"}', "not UTF-8"),
        (b'{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"id": ' + b"[" * 990 + b"]" * 990 + b"}", "nested too deeply"),
        (b'{"n": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a":1,"a" :2,"b":"\\":"}', "'a' stands twice"),
        (b'{"a":":","a":"\\u003a"}', "'a' stands twice"),
        (b'{"a":{"b":1,"b":2},"c":"::"}', "'b' stands twice"),
    ],
)
def test_what_is_no_strict_json_is_refused(line: bytes, message: str) -> None:  # D02, D04
    with pytest.raises(jsonl.LineError, match=message):
        jsonl.loads(line)


@given(st.integers(-(10**40), 10**40))
def test_an_integer_of_any_size_stays_itself(number: int) -> None:
    found = jsonl.loads(b'{"id":%d,"more":[[%d],{"x":%d}]}' % (number, number, number))
    assert found == {"id": number, "more": [[number], {"x": number}]}
    assert type(found["id"]) is type(found["more"][0][0]) is int


def json_texts() -> st.SearchStrategy[str]:
    """JSON of objects in which keys may stand twice, colons stand in strings, and integers have any size."""
    strings = st.text(alphabet='a:"\\0é', max_size=3).map(json.dumps) | st.just('"\\u003a"')
    numbers = st.sampled_from([str(2**63), str(2**64), "-" + "9" * 19, "1e19", "0." + "1" * 20, "7"])
    leaves = strings | numbers | st.sampled_from(["null", "true"])

    def inside(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        pairs = st.tuples(strings, st.sampled_from([":", " : "]), values).map("".join)
        return st.lists(values, max_size=3).map(lambda found: f"[{','.join(found)}]") | st.lists(
            pairs, max_size=3
        ).map(lambda found: f"{{{', '.join(found)}}}")

    return st.recursive(leaves, inside, max_leaves=12)


@given(json_texts())
def test_the_quick_reader_reads_as_the_strict_one(text: str) -> None:
    line = f'{{"v": {text}}}'.encode()
    found: list[Any] = []
    for read in (jsonl.loads, jsonl._strictly):
        try:
            found.append(repr(read(line)))
        except jsonl.LineError as error:
            found.append(str(error))
    assert found[0] == found[1]


@pytest.mark.parametrize("cell", ['[{"id": "a", "id": "b"}]', "[NaN]", "[" + "1" * 5000 + "]"])
def test_a_cell_of_csv_is_strict_json(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "r.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "candidates"], ["a", cell]])
    (raw,) = open_source(str(path))
    assert isinstance(raw.value, RowError)
    assert raw.value.type == "input.malformed"


@given(st.dictionaries(st.text(), st.text()))
def test_a_record_is_one_line_for_every_reader(record: dict[str, str]) -> None:  # P10
    line = jsonl.dumps(record)
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line) == record


@pytest.mark.parametrize("value", [math.nan, math.inf, [{"n": -math.inf}], (math.nan,)])
def test_what_is_no_number_is_not_written(value: Any) -> None:
    with pytest.raises(ValueError, match=r"finite|compliant"):
        jsonl.dumps({"n": value})


def test_a_lone_surrogate_message_is_still_json() -> None:
    assert json.loads(jsonl.dumps({"m": "a\ud800"}).decode()) == {"m": "a\ud800"}


# -- sources -------------------------------------------------------------------------------------------


def raw_rows(path: Path) -> list[RawRow]:
    return list(open_source(str(path)))


def test_blank_lines_crlf_and_bom(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "a"}\r\n\r\n{"id": "b"}')
    assert [(raw.number, raw.value) for raw in raw_rows(path)] == [(1, {"id": "a"}), (3, {"id": "b"})]


def test_a_bad_line_is_named_precisely(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "a", "prompt": "x", "labels": ["A"]}\n{"id" "b"}\n')
    with pytest.raises(InputError, match=rf"{path}:2:7: "):
        check(open_source(str(path)), schema.Schema("probs"))
    assert check(open_source(str(path)), schema.Schema("probs"), skip_bad_rows=True) == 2


def test_a_duplicate_id_is_refused_with_both_rows(tmp_path: Path) -> None:  # D03
    path = write_rows(tmp_path / "r.jsonl", *({"id": i, "prompt": "x", "labels": ["A"]} for i in "aba"))
    with pytest.raises(InputError, match="'a' stands in row 1 and in row 3"):
        check(open_source(str(path)), schema.Schema("probs"))


@pytest.mark.parametrize("name", ["gone.jsonl", "rows.xml", "folder"])
def test_inputs_that_can_not_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "rows.xml").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=name):
        open_source(str(tmp_path / name))


def test_a_folder_sorts_images_and_counts_others(tmp_path: Path) -> None:
    for name in ("b/2.png", "a.JPG", "b/1.webp", ".hidden.jpg", ".git/x.jpg", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    source = open_source(str(tmp_path), folders=True)
    assert [raw.value["id"] for raw in source if isinstance(raw.value, dict)] == [
        "a.JPG",
        "b/1.webp",
        "b/2.png",
    ]
    assert source.skipped == {"empty": 1}  # type: ignore[attr-defined]


def test_an_unreadable_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refusing(path: str) -> object:  # root, as tests often run, may read any folder
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refusing)
    with pytest.raises(DiskError, match="locked: Permission denied"):
        list(open_source(str(tmp_path), folders=True))


# -- schema --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", [1.0, True, None, ["x"], {"x": 1}, ""])
def test_what_is_no_id_is_refused(id: object) -> None:  # D03
    with pytest.raises(RowError, match="`id`"):
        schema.summarize_row(RawRow(1, {"id": id, "image": "x.jpg"}))


@pytest.mark.parametrize(
    ("value", "type"),
    [
        ({"id": "u"}, "schema.candidates"),
        ({"id": "u", "candidates": []}, "schema.candidates"),
        ({"id": "u", "candidates": "a"}, "schema.candidates"),
        ({"id": "u", "candidates": ["a"]}, "schema.history"),
        ({"id": "u", "candidates": ["a", {"id": "a"}], "query": "x"}, "schema.candidates"),
        ({"id": "u", "candidates": [3.0], "query": "x"}, "item.invalid"),
        ({"id": "u", "candidates": ["a"], "query": 3}, "schema.query"),
        ({"id": "u", "candidates": ["a"], "query": "x", "positive": [1.0]}, "schema.positive"),
    ],
)
def test_rerank_rows_that_lack_something(value: dict[str, Any], type: str) -> None:  # D06
    with pytest.raises(RowError) as caught:
        schema.rerank_row(RawRow(1, value))
    assert caught.value.type == type


@pytest.mark.parametrize(
    "url",
    [
        "http://x/y.jpg", "HTTPS://x", "file:///etc/passwd", "file:a.png", "data:image/png;base64,", "s3://b/y.jpg",
        "gs://b/y.jpg", "hf://d/y.jpg", " https://x/y.jpg", "sftp://h/y.jpg", "wasb+ssl://h/y.jpg",
    ],
)  # fmt: skip
def test_a_url_is_no_image(url: str) -> None:  # P08
    with pytest.raises(ImageError) as caught:
        schema.summarize_row(RawRow(1, {"id": "1", "image": url}))
    assert caught.value.type == "image.url"


@pytest.mark.parametrize(
    "path", ["a.jpg", "C:/a.jpg", "C://a.jpg", "a:b.jpg", "//host/a.jpg", "data/a.jpg", "-.jpg"]
)
def test_a_path_is_no_url(path: str) -> None:
    assert schema.summarize_row(RawRow(1, {"id": "1", "image": path})).image == path


@pytest.mark.parametrize("path", [None, "a.jpg"])
def test_bytes_are_no_text(path: str | None) -> None:
    row = RawRow(1, {"id": "1", "image": {"bytes": "iVBORw0KGgo=", "path": path}})
    with pytest.raises(SchemaError, match="bytes` is a string"):
        schema.summarize_row(row)


def test_labels_come_from_row_count_or_options() -> None:
    def labels(**fields: object) -> object:
        return schema.probs_row(RawRow(4, {"prompt": "x", **fields}), ("yes", "no")).labels

    assert labels(labels=["1", "2"]) == ("1", "2")
    assert labels(num_candidates=20) == 20
    assert labels(labels=["1", "2"], num_candidates=2) == ("1", "2")
    with pytest.raises(RowError, match="`num_candidates` is 3, and there are 2 `labels`"):
        labels(labels=["1", "2"], num_candidates=3)
    assert labels() == ("yes", "no")
    assert schema.probs_row(RawRow(4, {"prompt": "x"}), ("A",)).id == "4"
    for bad in (0, -1, 2.0, True, "3"):
        with pytest.raises(RowError):
            labels(num_candidates=bad)


def test_a_record_of_summarize_is_an_item() -> None:
    record = {"id": "m", "status": "ok", "summary": "A mug.", "image": {"sha256": "x"}, "flags": []}
    assert schema.item(record) == Item("m", summary="A mug.")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("name", ["image", "images"])
def test_pictures_that_probs_leaves_out_are_said(
    fastqwen: Fastqwen, tmp_path: Path, suffix: str, name: str
) -> None:
    row = {"id": "p", "prompt": "A or B?\n", "num_candidates": 2, name: "a.png"}
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "r.parquet")
    elif suffix == "csv":
        (tmp_path / "r.csv").write_text(",".join(row) + "\np,A or B?,2,a.png\n")
    else:
        write_rows(tmp_path / "r.jsonl", row)
    done = fastqwen("probs", tmp_path / f"r.{suffix}", "--engine", "scripted")
    assert f"`{name}` is left out: probs reads prompts alone" in done.stderr


@pytest.mark.parametrize(
    ("cell", "number"),
    [("2", 2), (" 2 ", 2), ("+2", 2), ("02", 2), ("1_0", None), ("\u0662", None), ("\uff12", None),
     ("2.0", None), ("1e1", None), ("0x2", None), ("9" * 5000, None), ("two", None)],
)  # fmt: skip
def test_a_number_in_csv_is_digits(tmp_path: Path, cell: str, number: int | None) -> None:
    (tmp_path / "r.csv").write_text(f"id,prompt,num_candidates\na,x,{cell}\n")
    (raw,) = open_source(str(tmp_path / "r.csv"), kind="probs")
    if number is None:
        assert isinstance(raw.value, RowError)
    else:
        assert schema.probs_row(raw, None).labels == number


def test_items_that_can_not_be_read_are_said(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "r.jsonl", {"id": "u", "query": "q", "candidates": ["a", "b"]})
    (tmp_path / "i.jsonl").write_text(
        '{"id":"a","title":"A"}\n{"id":\n{"title":"x"}\n{"id":"b","title":"B"}\n'
    )
    job = ("rerank", rows, "--items", tmp_path / "i.jsonl", "--engine", "scripted", "--skip-bad-rows")
    assert "2 items can't be read, first --items" in fastqwen(*job).stderr


# -- rows of which nothing but texts is asked ----------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "", "é", "\ud800", 7, True, None, 1.5])
WORDS = st.sampled_from(["x", "", None, 3, ["x"]])
ITEMS = st.dictionaries(
    st.sampled_from(["title", "text", "summary", "image", "data", "more"]), WORDS
).flatmap(lambda rest: st.one_of(st.just(rest), NAMES.map(lambda name: {"id": name, **rest}), NAMES))


@given(ITEMS)
def test_a_plain_item_is_read_as_any(value: Any) -> None:
    """With a field of no meaning it is none that is plain."""
    found: list[Any] = []
    for given_value in (value, value | {"other": 1} if isinstance(value, dict) else value):
        try:
            found.append(schema.item(given_value))
        except RowError as error:
            found.append((error.type, str(error)))
    assert found[0] == found[1]


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "id": NAMES,
            "candidates": st.lists(ITEMS, max_size=3) | WORDS,
            "history": st.lists(ITEMS, max_size=2) | WORDS,
            "query": WORDS,
            "positive": st.none() | NAMES,
            "more": WORDS,
        },
    )
)
def test_a_row_has_the_id_it_parses_to(value: dict[str, Any]) -> None:
    raw, ranking = RawRow(1, value), schema.Schema("rerank")
    found: list[Any] = []
    for read in (ranking.id_of, lambda one: ranking.parse(one).id):
        try:
            found.append(read(raw))
        except RowError as error:
            found.append((error.type, str(error)))
    assert found[0] == found[1]


PLAIN = {"id": "u", "history": [], "candidates": [{"id": "a", "text": "x"}, {"id": "b", "title": "y"}]}


def test_a_plain_row_is_not_parsed_to_look() -> None:
    assert schema._id_of_plain(PLAIN) == "u"
    assert schema._id_of_plain({"id": "u", "query": "q", "candidates": [{"id": "a"}]}) == "u"


@pytest.mark.parametrize(
    "change",
    [
        {"positive": 1.5},
        {"query": "q"},
        {"history": None},
        {"history": [{"id": "\ud800"}]},
        {"id": 7},
        {"id": ""},
        {"candidates": []},
        {"candidates": [{"id": "a"}, {"id": "a"}]},
        {"candidates": [{"id": "a", "text": None}]},
    ],
)
def test_a_row_that_may_be_wrong_is_parsed(change: dict[str, Any]) -> None:
    assert schema._id_of_plain(PLAIN | change) is None
