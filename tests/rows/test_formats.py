"""Every input format gives the same rows; every fault is said with the file's name and place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tgi_stack.errors import FastqwenError, InputError, RowError
from tgi_stack.rows import schema
from tgi_stack.rows.looking.check import check
from tgi_stack.rows.looking.per_row import Duplicates
from tgi_stack.rows.opening import open_source

ROWS: list[dict[str, Any]] = [
    {"id": "u1", "history": ["a", "b"], "candidates": ["c", "d"], "positive": "c"},
    {"id": "u2", "query": 'a "red", mug\nwith\u2028lines', "candidates": ["c", "é"]},
]


def as_jsonl() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def as_csv() -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["id", "history", "query", "candidates", "positive"])
    writer.writeheader()
    for row in ROWS:
        writer.writerow({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()})
    return text.getvalue().encode()


def write(path: Path, content: bytes) -> Path:
    if path.suffix == ".gz":
        content = gzip.compress(content)
    elif path.suffix == ".zst":
        content = pa.compress(content, codec="zstd", asbytes=True)
    path.write_bytes(content)
    return path


def values(path: Path, **options: Any) -> list[Any]:
    return [raw.value for raw in open_source(str(path), **options)]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_text_formats_plain_and_compressed(tmp_path: Path, suffix: str) -> None:  # D07
    assert values(write(tmp_path / f"r.jsonl{suffix}", as_jsonl())) == ROWS
    assert values(write(tmp_path / f"r.csv{suffix}", as_csv())) == ROWS


@pytest.mark.parametrize("name", ["R.JSONL", "R.Jsonl.GZ", "r.CSV", "r.csv.Zst"])
def test_suffixes_may_be_in_capitals(tmp_path: Path, name: str) -> None:
    plain = write(tmp_path / name.lower(), as_csv() if "csv" in name.lower() else as_jsonl())
    assert values(plain.rename(tmp_path / name)) == ROWS


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b"{}", mtime=0), r"\.jsonl\.gz"),
        (pa.compress(b"{}", codec="zstd", asbytes=True), r"\.jsonl\.zst"),
        (b"PAR1 and more", r"\.parquet"),
        (b"PK\3\4 and more", "ZIP"),
    ],
)
@pytest.mark.parametrize("name", ["r.jsonl", "r.csv"])
def test_what_is_no_text_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        values(tmp_path / name)


def test_parquet_with_native_lists(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    columns = ["id", "history", "query", "candidates", "positive"]
    pq.write_table(pa.table({name: [row.get(name) for row in ROWS] for name in columns}), path)
    assert values(path) == ROWS


def test_a_named_pipe_is_read(tmp_path: Path) -> None:  # D07
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(as_jsonl()))
    writer.start()
    source = open_source(str(pipe))
    writer.join()
    assert [raw.value for raw in source] == [raw.value for raw in source] == ROWS


def test_columns_are_renamed_where_the_file_has_them(tmp_path: Path) -> None:
    path = write(tmp_path / "i.csv", b"asin,id,name\nB1,7,Mug\n")
    assert values(path, columns={"id": "asin", "title": "name"}) == [{"id": "B1", "title": "Mug"}]
    assert values(write(tmp_path / "r.jsonl", as_jsonl()), columns={"id": "asin"}) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", b"id,prompt\na\n", r"r\.csv:2: 1 cells under a header of 2"),
        ("r.csv", b"id,id\na,b\n", r"r\.csv:1: the column `id` stands twice"),
        ("r.csv", b'id,prompt\na,"open\nb\n', r"r\.csv:2:3: a quote that is never closed"),
        ("r.csv", b"id,prompt,labels\na,x,[1\n", r"r\.csv:2: `labels` is not a JSON array"),
        ("r.csv", b"id,prompt\nb,x\nab\xffc,x\n", r"r\.csv:3:3: not UTF-8"),
        ("r.csv", "id,prompt\na,x\n".encode("utf-16")[:-1], r"r\.csv:\d:\d+: not UTF-8"),
        ("r.csv", b'id,prompt\n"a\nb","x"y"\n', r"r\.csv:3:6: a quote inside a quoted cell"),
        ("r.csv", b"\n\nid,prompt\na\n", r"r\.csv:4: 1 cells under a header of 2"),
        ("r.csv", b"id;prompt\na;x\n", r"r\.csv:1: cells are parted by ';'; save it as CSV with commas"),
        ("r.csv", b"id\tprompt\na\tx\n", r"r\.csv:1: cells are parted by '\\t'; save it"),
        ("r.csv", b"id|prompt\n", r"r\.csv:1: cells are parted by '\|'"),
        ("r.csv", b"sep=;\nid;prompt\na;x\n", r"r\.csv:1: cells are parted by ';'"),
        ("r.csv", b'"id";"prompt"\n"a";"x"\n', r"r\.csv:1:4: .* or are cells parted by ';'\?"),
        ("r.csv", b"id, prompt\na, x\n", r"r\.csv:1: the column ' prompt' has spaces .* write `prompt`"),
        ("r.csv", b"id,prompt,labels \na,x,[1]\n", r"the column 'labels ' has spaces"),
        ("r.csv", b"id,Prompt\na,x\n", r"r\.csv:1: no column `prompt`; .* --map prompt=Prompt\?"),
        ("r.csv", b"id,promt,prose\n", r"--map prompt=promt\?"),
        ("r.csv", b"a,x\nb,y\n", r"no column `prompt`; the first line names `a`, `x`; name it with --map"),
        ("r.csv", "id,prompt\na,x\n".encode("utf-16-le"), r"r\.csv: UTF-16 without a byte order mark"),
        ("r.csv", "id,prompt\na,x\n".encode("utf-32"), r"r\.csv: UTF-32; save it as UTF-8"),
        ("r.jsonl", b'{"id": "caf\xe9"}', r"r\.jsonl:1:12: not UTF-8"),
        ("r.parquet", b"PAR1 no more", r"r\.parquet: unreadable"),
    ],
)
def test_a_fault_is_said_with_its_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = write(tmp_path / name, content)  # D01, D02, D08
    with pytest.raises(FastqwenError, match=message):
        check(open_source(str(path), kind="probs"), schema.Schema("probs", ("A",)))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_torn_compressed_file_is_an_error(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"r.jsonl{suffix}", as_jsonl() * 1000)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="broken compressed data"):
        values(path)


def test_a_flipped_bit_in_parquet_is_found(tmp_path: Path) -> None:  # D08
    path = tmp_path / "r.parquet"
    table = pa.table({"id": [f"row {i}" for i in range(5000)]})
    pq.write_table(table, path, write_page_checksum=True, compression="none")
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"r\.parquet: unreadable"):
        values(path)


def test_a_line_longer_than_the_cap_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tgi_stack.rows.jsonl.MAX_LINE_BYTES", 100)
    path = write(tmp_path / "r.jsonl", b'{"id": "%s"}\n{"id": "b"}\n' % (b"a" * 10_000))
    first, second = values(path)
    assert isinstance(first, RowError)
    assert second == {"id": "b"}


@pytest.mark.parametrize("rows", [10, 300_000])
def test_a_duplicate_is_found_among_many_ids(rows: int) -> None:
    with Duplicates() as ids:
        for number in range(1, rows + 1):
            ids.add(number, f"id-{number}")
        assert ids.first() is None
        ids.add(rows + 1, "id-7")
        ids.add(rows + 2, "id-3")
        assert ids.first() == (7, rows + 1)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_a_row_without_its_id_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"id": ["a", None], "prompt": ["x", "y"]}), path)
    else:
        lines = {
            ".csv": "id,prompt\na,x\n,y\n",
            ".jsonl": '{"id":"a","prompt":"x"}\n{"id":null,"prompt":"y"}\n',
        }
        path.write_text(lines[suffix])
    with pytest.raises(InputError, match="row 2: `id` is null"):
        check(open_source(str(path), kind="probs"), schema.Schema("probs", ("A", "B")))
