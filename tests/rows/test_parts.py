"""Rows cut into blocks and read again are the rows; a folder of parts is whole, and goes on."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tgi_stack.errors import InputError, UsageError
from tgi_stack.rows.ledger import Checked
from tgi_stack.rows.opening import open_source
from tgi_stack.rows.output import records
from tgi_stack.rows.parts.blocks import Block, Place, cut, read
from tgi_stack.rows.parts.output import SUCCESS, Part, PartsOutput
from tgi_stack.rows.reader import Source
from tgi_stack.rows.verify import verify
from tgi_stack.types import Identity

IDENTITY = Identity("torch", "tiny", "shipped", "none", "fp32", "d1", "v")
LINES = st.lists(
    st.sampled_from([b'{"id":"a","prompt":"x"}', b"", b"  ", b'{"id":"\xc3\xa9"}', b"torn {", b'{"id":2}'])
)


def rows_of(source: Source) -> list[Any]:
    return [(row.number, str(row.value)) for row in source]


def read_all(source: Source, rows: int, size: int, done: tuple[Part, ...] = ()) -> list[Any]:
    blocks = list(cut(source, rows, size, done))
    assert all(0 < block.count <= size for block in blocks if block.only is None)
    return [(row.number, str(row.value)) for block in blocks for row in read(block, source.wanted)]


@given(files=st.lists(LINES, min_size=1, max_size=3), size=st.integers(1, 4), bom=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_blocks_of_lines_are_the_rows(tmp_path: Path, files: list[list[bytes]], size: int, bom: bool) -> None:
    folder = tmp_path / "in"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for number, lines in enumerate(files):
        mark = b"\xef\xbb\xbf" if bom else b""
        (folder / f"{number}.jsonl").write_bytes(mark + b"\n".join(lines))
    source = open_source(str(folder))
    wanted = rows_of(source)
    assert read_all(source, len(wanted), size) == wanted
    assert read_all(source, len(wanted) // 2, size) == wanted[: len(wanted) // 2]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv", "jsonl.gz"])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_every_format_gives_the_same_blocks(tmp_path: Path, kind: str, size: int) -> None:
    rows = [{"id": f"r{number}", "prompt": f"p{number}"} for number in range(50)]
    path = tmp_path / f"in.{kind}"
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=9)
    elif kind == "csv":
        path.write_text("id,prompt\n" + "".join(f"{row['id']},{row['prompt']}\n" for row in rows))
    else:
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    source = open_source(str(path), kind="probs")
    assert all(isinstance(one.rows, Place) == (kind in ("jsonl", "parquet")) for one in cut(source, 50, size))
    assert read_all(source, 50, size) == rows_of(source)


def test_rows_that_are_done_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"id":{n}}}\n' for n in range(1, 21)))
    source = open_source(str(path))
    done = (Part(path, 4, 6, 3, frozenset()), Part(path, 7, 9, 3, frozenset({0, 2})))
    found = [number for number, _ in read_all(source, 20, 5, done)]
    assert found == [1, 2, 3, 7, 9, *range(10, 21)]


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"id":1}\n{"id":2}\n')
    source = open_source(str(path))
    block = next(cut(source, 2, 5))
    path.write_text('{"id":1}\n{"id":3}\n{"id":4}\n')
    with pytest.raises(InputError, match="changed while it was read"):
        read(block, source.wanted)


# -- the folder ------------------------------------------------------------------------------------------


def source_of(tmp_path: Path, rows: int = 6) -> Source:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"id":"{n}","prompt":"p"}}\n' for n in range(1, rows + 1)))
    return open_source(str(path), kind="probs")


def output(out: Path, source: Source, **options: Any) -> PartsOutput:
    places = {"input": {"name": str(source.base / "in.jsonl"), "columns": {}}}
    asked = {"job": "probs", "input": source.digest(), "--seed": options.pop("seed", None)}
    return PartsOutput(out, asked, command=["fastqwen"], places=places, **options)


def lines_of(block: Block, failed: tuple[int, ...] = ()) -> bytes:
    numbers = range(block.first, block.last + 1)
    asked = [n for place, n in enumerate(numbers) if block.only is None or place in block.only]
    records = [{"id": str(n), "status": "failed" if n in failed else "ok"} for n in asked]
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def answered(sink: PartsOutput, source: Source, failed: tuple[int, ...] = (), most: int = 100) -> list[Block]:
    sink.begin(Checked(6, strict=True))
    sink.set_identity(IDENTITY)
    blocks = list(cut(source, 6, 2, sink.parts))
    for block in blocks[:most]:
        sink.write(block, lines_of(block, failed))
    return blocks


def counts(ok: int, failed: int = 0) -> dict[str, Any]:
    return {"rows": 6, "input_rows": 6, "ok": ok, "cached": 0, "failed": failed}


def test_a_complete_folder_verifies(tmp_path: Path) -> None:
    source, out = source_of(tmp_path), tmp_path / "out"
    sink = output(out, source)
    answered(sink, source)
    sink.finish(counts(6))
    sink.close(counts(6))
    assert (out / SUCCESS).exists()
    assert all(finding.holds for finding in verify(out)), verify(out)
    again = output(out, source)
    assert again.finished == counts(6)
    again.close({})
    (out / SUCCESS).unlink()
    assert any(finding.holds is False for finding in verify(out))


def test_a_folder_of_no_rows_is_complete(tmp_path: Path) -> None:
    out, none = tmp_path / "out", {"rows": 0, "input_rows": 0, "ok": 0, "cached": 0, "failed": 0}
    sink = output(out, source_of(tmp_path, 0))
    sink.begin(Checked(0, strict=True))
    sink.finish(none)
    sink.close(none)
    assert list(records(out)) == []
    assert all(finding.holds for finding in verify(out)), verify(out)
    (out / "run.json").unlink()
    with pytest.raises(InputError, match="without parts"):
        list(records(out))


def test_a_rerun_asks_missing_and_failed_rows(tmp_path: Path) -> None:
    source, out = source_of(tmp_path), tmp_path / "out"
    sink = output(out, source)
    answered(sink, source, failed=(2,), most=2)
    sink.close(counts(3, 1))
    assert not (out / SUCCESS).exists()
    again = output(out, source)
    blocks = answered(again, source)
    assert [(block.first, block.last, block.only) for block in blocks] == [(1, 2, {1}), (5, 6, None)]
    again.finish(counts(6))
    again.close(counts(6))
    assert all(finding.holds for finding in verify(out)), verify(out)


def test_parts_of_another_size_are_kept(tmp_path: Path) -> None:
    source, out = source_of(tmp_path), tmp_path / "out"
    sink = output(out, source)
    sink.begin(Checked(6, strict=True))
    blocks = list(cut(source, 6, 5))
    sink.write(blocks[0], lines_of(blocks[0]))
    sink.close(counts(5))
    again = output(out, source)
    assert [(block.first, block.last) for block in answered(again, source)] == [(6, 6)]
    again.close(counts(6))


def test_an_answer_of_other_rows_is_not_written(tmp_path: Path) -> None:
    source, out = source_of(tmp_path), tmp_path / "out"
    sink = output(out, source)
    sink.begin(Checked(6, strict=True))
    block = next(cut(source, 6, 4))
    with pytest.raises(InputError, match="3 records of 4 rows"):
        sink.write(block, lines_of(block).partition(b"\n")[2])
    assert not list(out.glob("part-*"))
    sink.close({})
    assert not out.exists()


def test_overwriting_keeps_the_old_until_there_is_new(tmp_path: Path) -> None:
    source, out = source_of(tmp_path), tmp_path / "out"
    sink = output(out, source)
    answered(sink, source)
    sink.finish(counts(6))
    sink.close(counts(6))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    again = output(out, source, overwrite=True, seed=3)
    again.begin(Checked(6, strict=True))
    again.close({})
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    anew = output(out, source, overwrite=True, seed=3)
    answered(anew, source, most=1)
    anew.close(counts(2))
    assert len(list(out.glob("part-*"))) == 1
    assert not out.with_name("out.before").exists()


@pytest.mark.parametrize("what", ["other question", "changed part", "foreign file", "a file", "rows twice"])
def test_what_is_not_this_output_is_refused(tmp_path: Path, what: str) -> None:
    source, out = source_of(tmp_path), tmp_path / "out"
    if what == "a file":
        with pytest.raises(UsageError, match="folder of parts"):
            output(tmp_path / "out.jsonl", source)
        return
    sink = output(out, source)
    answered(sink, source)
    sink.finish(counts(6))
    sink.close(counts(6))
    if what == "changed part":
        next(out.glob("part-*")).write_bytes(b"{}\n")
    elif what == "foreign file":
        (out / "holiday.png").touch()
    elif what == "rows twice":
        (out / "part-000000000002-000000000003.jsonl").write_bytes(b"")
    with pytest.raises(UsageError):
        output(out, source, seed=7 if what == "other question" else None)


def test_two_runs_of_one_folder_exclude_each_other(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    sink = output(tmp_path / "out", source)
    with pytest.raises(Exception, match="being written by"):
        output(tmp_path / "out", source)
    sink.close({})
