"""Reads are bounded, marks are skipped, and only what is asked for is converted."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Fastqwen, write_rows
from tgi_stack import settings
from tgi_stack.errors import FastqwenError, InputError, RowError, SettingsError, UsageError
from tgi_stack.rows import columns, csv_rows, jsonl, schema
from tgi_stack.rows.looking.check import check
from tgi_stack.rows.opening import open_source
from tgi_stack.rows.output import records
from tgi_stack.scoring.qrels import read_qrels
from tgi_stack.text_files import TextFileError, read_text

SOUND = {"id": ["a", "b"], "prompt": ["x", "y"], "labels": [["A"], ["A"]]}
MARKS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]


def marked(text: str, encoding: str) -> bytes:
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    return (mark + text).encode(encoding)


def parsed(path: Path, **options: Any) -> list[Any]:
    rows: list[Any] = []
    for raw in open_source(str(path), kind="probs", **options):
        try:
            rows.append(schema.probs_row(raw, ("A",)).prompt)
        except RowError as error:
            rows.append(str(error))
    return rows


@pytest.mark.parametrize("encoding", ["utf-32", "utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["a", '{"id": 1}\n', "q 0 c 1\n", "[x]\r\n", "\n\n"])
def test_other_encodings_are_named(tmp_path: Path, encoding: str, text: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(text.encode(encoding))
    named = f"{encoding[:6].upper()}.*; save it as UTF-8"
    with pytest.raises(TextFileError, match=named):
        read_text(path)
    for read in (read_qrels, parsed):
        with pytest.raises(InputError, match=rf"r\.jsonl: {named}"):
            read(path)


@pytest.mark.parametrize("encoding", MARKS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_marks_and_line_ends_are_read(tmp_path: Path, encoding: str, end: str) -> None:
    lines = tmp_path / "r.jsonl"
    lines.write_bytes(marked(f'{{"id":"1","prompt":"é"}}{end}{{"id":"2","prompt":"z"}}{end}', encoding))
    table = tmp_path / "r.csv"
    table.write_bytes(marked(f"id,prompt{end}1,é{end}2,z{end}", encoding))
    assert parsed(lines) == parsed(table) == ["é", "z"]
    qrels = tmp_path / "q"
    qrels.write_bytes(marked(f"u1 0 a 1{end}u2 0 b 0{end}", encoding))
    assert read_qrels(qrels).grades == {"u1": {"a": 1}, "u2": {"b": 0}}
    (tmp_path / "s.toml").write_bytes(marked(f'model = "tiny"{end}', encoding))
    assert settings.load({}, {}, tmp_path / "s.toml").model == "tiny"
    (tmp_path / "p").write_bytes(marked(f"a{end}é", encoding))
    assert read_text(tmp_path / "p") == "a\né"


def test_a_file_without_end_meets_a_limit(tmp_path: Path) -> None:
    with pytest.raises(TextFileError, match="more than"):
        read_text(Path("/dev/zero"))
    with pytest.raises(SettingsError, match="more than"):
        settings.load({}, {}, Path("/dev/zero"))
    with pytest.raises(InputError, match="neither a file nor a pipe"):
        open_source("/dev/zero")


def test_a_pipe_without_line_ends_meets_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tgi_stack.rows.formats.MOST_LINE_BYTES", 2**21)
    os.mkfifo(tmp_path / "pipe")

    def pour() -> None:
        with contextlib.suppress(BrokenPipeError), (tmp_path / "pipe").open("wb", buffering=0) as pipe:
            while True:
                pipe.write(b"x" * 2**16)

    writer = threading.Thread(target=pour)
    writer.start()
    with pytest.raises(InputError, match="line of more than"):
        open_source(str(tmp_path / "pipe"))
    writer.join()


def test_a_huge_line_fails_without_being_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 3 * 2**20)
    path = tmp_path / "r.jsonl"
    row = b'{"id":"%s","prompt":"x"}\n'
    path.write_bytes(row % (b"a" * 2**22) + row % (b"a" * 2**21) + row % b"c")
    first, second, third = parsed(path)
    assert "more than" in first
    assert (second, third) == ("x", "x")


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_huge_csv_row_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quote: str) -> None:
    monkeypatch.setattr(csv_rows, "MAX_ROW_CHARACTERS", 1000)
    path = tmp_path / "r.csv"
    path.write_text(f"id,prompt\na,x\nb,{quote}" + "y\n" * 10 + "y" * 2000 + f"{quote}\n" if quote else "")
    if not quote:
        path.write_text("id,prompt\na,x\nb," + "y" * 2000 + "\n")
    with pytest.raises(InputError, match=r"r\.csv:3: a row of more than"):
        parsed(path)


TORN = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xff\xfe"]).buffers())
ODD = {
    "nanoseconds": pa.array([1_600_000_000_123_456_789] * 2, pa.timestamp("ns")),
    "year 20000": pa.array([600_000_000_000_000] * 2, pa.timestamp("ms", "UTC")),
    "duration": pa.array([1_234_567] * 2, pa.duration("ns")),
    "date": pa.array([10**6] * 2, pa.date32()),
    "time": pa.array([1] * 2, pa.time64("ns")),
    "decimal": pa.array([1, 2], pa.decimal128(10, 2)),
    "torn": TORN,
    "map": pa.array([[("a", 1)]] * 2, pa.map_(pa.string(), pa.int64())),
}


@pytest.mark.parametrize("kind", ODD)
def test_a_column_nobody_asked_for_is_left(tmp_path: Path, kind: str) -> None:
    inside = pa.StructArray.from_arrays([pa.array(["i", "j"]), ODD[kind]], ["id", "note"])
    lists = pa.ListArray.from_arrays([0, 1, 2], inside)
    pq.write_table(pa.table(SOUND | {"note": ODD[kind], "candidates": lists}), tmp_path / "r.parquet")
    assert parsed(tmp_path / "r.parquet") == ["x", "y"]
    rows = list(open_source(str(tmp_path / "r.parquet"), kind="rerank"))
    assert [raw.value["candidates"] for raw in rows] == [[{"id": "i"}], [{"id": "j"}]]  # type: ignore[index]


@pytest.mark.parametrize("kind", ODD)
def test_a_bad_value_fails_its_row_by_name(tmp_path: Path, kind: str) -> None:
    pq.write_table(pa.table(SOUND | {"prompt": ODD[kind]}), tmp_path / "r.parquet")
    found = parsed(tmp_path / "r.parquet")
    assert "`prompt` is " in found[1]
    assert found[0] == "ok" if kind == "torn" else "`prompt` is " in found[0]


def test_a_name_twice_is_refused_where_needed(tmp_path: Path) -> None:
    arrays = [pa.array(["a"]), pa.array(["x"]), pa.array(["y"])]
    pq.write_table(pa.Table.from_arrays(arrays, ["id", "prompt", "prompt"]), tmp_path / "r.parquet")
    (tmp_path / "r.csv").write_text("id,prompt,prompt\na,x,y\n")
    for name in ("r.parquet", "r.csv"):
        with pytest.raises(InputError, match="`prompt` stands twice"):
            parsed(tmp_path / name)
        assert len(list(open_source(str(tmp_path / name), kind="summarize"))) == 1
    both = pa.StructArray.from_arrays([pa.array(["i"]), pa.array(["j"])], ["id", "id"])
    lists = pa.ListArray.from_arrays([0, 1], both)
    pq.write_table(pa.table({"id": ["a"], "candidates": lists}), tmp_path / "n.parquet")
    with pytest.raises(InputError, match=r"`candidates\.id` stands twice"):
        list(open_source(str(tmp_path / "n.parquet"), kind="rerank"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("titel=name", "did you mean `title`"),
        ("id=sku,id=x", "`id` stands twice"),
        ("id=sku,title=sku", "`sku` stands twice"),
        ("id", "give pairs"),
        ("id=", "give pairs"),
    ],
)
def test_both_sides_of_a_map_are_checked(value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        columns.parse_map(value, "summarize")


def test_a_mapped_column_stands_in_some_row(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"asin":"1","prompt":"x"}\n')
    (tmp_path / "i.csv").write_text("asin,name\n1,mug\n")

    def checked(**names: str) -> int:
        source = open_source(str(tmp_path / "r.jsonl"), columns=names, kind="probs")
        beside = open_source(str(tmp_path / "i.csv"), columns=names, kind="item")
        return check(source, schema.Schema("probs", ("A",)), others=[beside])

    assert checked(id="asin", title="name") == 1
    with pytest.raises(UsageError, match="no row has a field `nam`; did you mean `name`"):
        checked(id="asin", title="nam")


def test_integer_ids_are_their_digits_everywhere(tmp_path: Path) -> None:
    line = '{"id":7,"history":[11],"candidates":[12,{"id":13}],"positive":[13]}\n'
    (tmp_path / "r.jsonl").write_text(line)
    table = {"id": [7], "history": [[11]], "candidates": [[12, 13]], "positive": [13]}
    pq.write_table(pa.table(table), tmp_path / "r.parquet")
    (tmp_path / "r.csv").write_text('id,history,candidates,positive\n7,[11],"[12,13]",13\n')
    for name in ("r.jsonl", "r.parquet", "r.csv"):
        (raw,) = open_source(str(tmp_path / name), kind="rerank")
        row = schema.rerank_row(raw)
        ids = [one if isinstance(one, str) else one.id for one in row.candidates]
        assert (row.id, row.history, ids, row.positive) == ("7", ("11",), ["12", "13"], ("13",))


def test_the_first_ten_bad_rows_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"id":1.5,"prompt":"x"}\n' * 8 + '{"id":"a"}\n' * 8)
    with pytest.raises(FastqwenError) as caught:
        check(open_source(str(path)), schema.Schema("probs", ("A",)))
    said = str(caught.value).splitlines()
    assert said[0].startswith("16 rows")
    assert "--skip-bad-rows" in said[0]
    assert sum(line.startswith("  row") for line in said) == 10
    assert "8 x schema.id:" in said


def test_two_grades_of_one_candidate_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "q"
    path.write_text("u 0 a 1\nu 0 a 1\nu 0 a 2\n")
    with pytest.raises(InputError, match=r"q:3: 'a' of query 'u' has the grade 2, in line 1 1"):
        read_qrels(path)


def test_an_open_quote_is_not_joined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Joined(io.StringIO):
        asked = 0

        def getvalue(self) -> str:
            Joined.asked += 1
            return super().getvalue()

    table = csv_rows.CsvFile(io.BytesIO(b'id,prompt\na,"' + b"x\n" * 1000 + b'y" z\n'), "in.csv")
    monkeypatch.setattr("tgi_stack.rows.csv_rows.io.StringIO", Joined)
    with pytest.raises(InputError, match=r"in\.csv:1002:2: a quote inside"):
        next(table)
    assert Joined.asked == 1


def test_an_option_from_a_pipe_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "settings.toml"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text('engine = "scripted"\n'))
    writer.start()
    assert [read_text(pipe), read_text(pipe)] == ['engine = "scripted"\n'] * 2
    writer.join()


@pytest.mark.parametrize("encoding", MARKS)
def test_marks_are_skipped_in_outputs(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "o.jsonl"
    path.write_bytes(marked('{"id": "a"}\n{"id": "b"}\n', encoding))
    assert [record["id"] for record in records(path)] == ["a", "b"]


ROWS = ("rows.jsonl", "-o", "out.jsonl", "--engine", "scripted")
RANKED = ("eval", "ranked.jsonl")


@pytest.mark.parametrize(
    "arguments",
    [
        ("probs", *ROWS, "--config", "/dev/zero"),
        ("probs", *ROWS[:3], "--endpoint", "http://127.0.0.1:9", "--api-key-file", "/dev/zero"),
        ("probs", *ROWS[:3], "--endpoint", "https://127.0.0.1:9", "--ca-file", "/dev/zero"),
        ("probs", *ROWS[:3], "--endpoint", "https://127.0.0.1:9", "--client-cert", "/dev/zero"),
        ("rerank", *ROWS, "--items", "/dev/zero"),
        ("rerank", *ROWS, "--prompt-file", "/dev/zero"),
        ("summarize", *ROWS, "--schema", "/dev/zero"),
        ("probs", "/dev/zero", *ROWS[1:]),
        (*RANKED, "--qrels", "/dev/zero"),
        (*RANKED, "--against", "/dev/zero"),
        ("eval", "/dev/zero"),
        ("verify", "/dev/zero"),
        ("compare", "ranked.jsonl", "/dev/zero"),
        ("report", "/dev/zero", "-o", "r.html"),
        ("report", "ranked.jsonl", "-o", "r.html", "--input", "/dev/zero"),
        ("report", "ranked.jsonl", "-o", "r.html", "--items", "/dev/zero"),
        ("show", "/dev/zero", "u1"),
        ("show", "ranked.jsonl", "u1", "--input", "/dev/zero"),
        ("cache", "import", "/dev/zero"),
        ("check", "/dev/zero", "--job", "probs"),
    ],
    ids=" ".join,
)
def test_each_file_that_is_named_has_a_limit(
    fastqwen: Fastqwen, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    row = {"id": "u", "query": "q", "candidates": ["a", "b"], "prompt": "p\n", "num_candidates": 2}
    write_rows(tmp_path / "rows.jsonl", row)
    ranking = [{"id": "a", "rank": 1, "score": 0.6}, {"id": "b", "rank": 2, "score": 0.4}]
    record = {"id": "u1", "status": "ok", "ranking": ranking, "positive": ["a"], "reads": [], "flags": []}
    write_rows(tmp_path / "ranked.jsonl", record)
    done = fastqwen(*arguments, check=2)
    assert "/dev/zero" in done.stderr
    assert "unexpected" not in done.stderr
