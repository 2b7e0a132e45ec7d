"""Folders as inputs: pictures by content, parts as one input, the rest counted by reason."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import socket
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from PIL import Image

from tests.conftest import Fastqwen, read_records, write_rows
from tgi_stack.errors import InputError
from tgi_stack.images.files import is_picture
from tgi_stack.rows import folder
from tgi_stack.rows.folder import list_folder
from tgi_stack.rows.opening import open_source
from tgi_stack.rows.reader import Source

SCRIPTED = ("--engine", "scripted")


def encoded(format: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, format)
    return buffer.getvalue()


def ids(source: Source) -> list[str]:
    return [raw.value["id"] for raw in source if isinstance(raw.value, dict)]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("name", ["x", "x.jfif", "x.jpe", "x.dat", "x.123", "x.txt"])
def test_a_picture_is_one_by_content(tmp_path: Path, format: str, name: str) -> None:
    if format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    (tmp_path / name).write_bytes(encoded(format))
    assert ids(open_source(str(tmp_path), folders=True)) == [name]


@pytest.mark.parametrize("big", [b"II+\0\x08\0\0\0" + bytes(8), b"MM\0+\0\x08\0\0" + bytes(8)])
def test_a_big_tiff_is_a_picture(big: bytes) -> None:
    assert is_picture(big)


@pytest.mark.parametrize(
    "content",
    [b"BMW builds cars, and this is a text", b"\0\0\0\x18ftypmp42" + bytes(40), b"RIFF\0\0\0\0WAVEfmt ",
     b"%PDF-1.7", b"II", b"{}", b"GIF", b"\xff\xd8"],
)  # fmt: skip
def test_other_content_is_no_picture(content: bytes) -> None:
    assert not is_picture(content)


def test_what_is_no_picture_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(encoded("PNG"))
    (tmp_path / "broken.jpg").write_bytes(b"<html>")  # by its name a picture: a row, which fails
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "readme").write_text("read me")
    (tmp_path / "nothing").touch()
    (tmp_path / "meta.jsonl").write_text("{}")
    (tmp_path / ".hidden").write_bytes(encoded("PNG"))
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "lost").symlink_to("nowhere")
    (tmp_path / "linked.png").symlink_to("a")
    (tmp_path / "again").symlink_to(".", target_is_directory=True)
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        source = open_source(str(tmp_path), folders=True)
        assert ids(source) == ["a", "broken.jpg", "linked.png"]
    skipped = source.skipped  # type: ignore[attr-defined]
    assert folder.told(skipped) == (
        "1 broken link, 1 empty, 1 file of rows, 1 linked folder, 2 no image, 2 pipe, socket or device"
    )


def test_files_that_can_not_be_read_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").write_bytes(encoded("PNG"))

    def refusing(*_: object) -> int:  # root, as tests often run, may read any file
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refusing)
    assert list_folder(tmp_path).skipped == {"not readable": 1}


def parts(base: Path) -> Path:
    """The same kind of row in each format, in an order that is not the one of writing."""
    (base / "b").mkdir(parents=True)
    line = json.dumps({"id": "3", "prompt": "c", "labels": ["A", "B"]}).encode() + b"\n"
    (base / "part-2.jsonl.gz").write_bytes(gzip.compress(line))
    (base / "part-3.jsonl.zst").write_bytes(zstandard.compress(line.replace(b'"3"', b'"4"')))
    write_rows(base / "part-1.jsonl", *({"id": i, "prompt": "p", "labels": ["A", "B"]} for i in "12"))
    pq.write_table(pa.table({"id": ["0"], "prompt": ["x"], "labels": [["A", "B"]]}), base / "b" / "p.parquet")
    (base / "_SUCCESS").touch()
    (base / "_metadata").write_bytes(b"PAR1")
    (base / ".part-1.jsonl.crc").write_bytes(b"crc")
    return base


def test_a_folder_of_parts_is_one_input(tmp_path: Path) -> None:
    source = open_source(str(parts(tmp_path / "rows.parquet")))
    assert ids(source) == ["0", "1", "2", "3", "4"]
    assert [raw.number for raw in source] == [1, 2, 3, 4, 5]
    left = [raw.number for raw in source.rows((2, 4)) if raw.value is not None]
    assert left == [1, 3, 5]
    assert source.skipped == {}  # type: ignore[attr-defined]


def test_parts_that_are_not_finished_are_none(tmp_path: Path) -> None:
    base = parts(tmp_path / "rows")
    before = ids(open_source(str(base)))
    for name in ("_temporary/0", "_x"):
        shutil.copytree(base / "b", base / name)
    source = open_source(str(base))
    assert ids(source) == before
    assert sum(source.skipped.values()) == 2  # type: ignore[attr-defined]
    (base / "b").rename(base / "_day=1")  # a column
    assert sorted(ids(open_source(str(base)))) == sorted(before)


@pytest.mark.skipif(sys.platform != "linux", reason="file systems elsewhere refuse such names")
def test_a_name_of_no_text_fails_its_row(fastqwen: Fastqwen, tmp_path: Path) -> None:
    base = tmp_path / "pictures"
    base.mkdir()
    for name in (b"a.png", b"\xff.png"):
        Path(os.fsdecode(os.fsencode(base) + b"/" + name)).write_bytes(encoded("PNG"))
    assert r"b'\xff.png' is not UTF-8" in fastqwen("summarize", base, *SCRIPTED, check=2).stderr
    fastqwen("summarize", base, "-o", "o.jsonl", "--skip-bad-rows", *SCRIPTED, check=1)
    assert [record["status"] for record in read_records(tmp_path / "o.jsonl")] == ["ok", "failed"]


def test_each_job_reads_a_folder_of_parts(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = parts(tmp_path / "prompts")
    fastqwen("probs", rows, "-o", "p.jsonl", *SCRIPTED)
    assert [record["id"] for record in read_records(tmp_path / "p.jsonl")] == ["0", "1", "2", "3", "4"]
    fastqwen("probs", rows, "-o", "p.jsonl", *SCRIPTED)  # nothing to do
    fastqwen("verify", "p.jsonl")
    items = tmp_path / "items"
    items.mkdir()
    for id in "ab":
        write_rows(items / f"part-{id}.jsonl", {"id": id, "title": id})
    sessions = tmp_path / "sessions"
    sessions.mkdir()
    write_rows(sessions / "part-0.jsonl", {"id": "s", "query": "q", "candidates": ["a", "b"]})
    fastqwen("rerank", sessions, "--items", items, "-o", "r.jsonl", *SCRIPTED)
    assert len(read_records(tmp_path / "r.jsonl")) == 1
    shop = tmp_path / "shop"
    (shop / "images").mkdir(parents=True)
    write_rows(shop / "part-0.jsonl", {"id": "m", "title": "A mug"})
    fastqwen("summarize", shop, "--allow-text-only", "-o", "s.jsonl", *SCRIPTED)
    assert [record["id"] for record in read_records(tmp_path / "s.jsonl")] == ["m"]


def test_changed_parts_are_a_changed_input(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = parts(tmp_path / "prompts")
    fastqwen("probs", rows, "-o", "p.jsonl", *SCRIPTED)
    write_rows(rows / "part-9.jsonl", {"id": "9", "prompt": "p", "labels": ["A", "B"]})
    assert "input" in fastqwen("probs", rows, "-o", "p.jsonl", *SCRIPTED, check=2).stderr


def test_ids_are_unique_over_all_parts(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = parts(tmp_path / "prompts")
    write_rows(rows / "part-9.jsonl", {"id": "1", "prompt": "p", "labels": ["A", "B"]})
    assert "row 2 and in row 6" in fastqwen("probs", rows, *SCRIPTED, check=2).stderr


def test_pictures_win_over_files_of_rows(fastqwen: Fastqwen, tmp_path: Path) -> None:
    base = tmp_path / "mixed"
    base.mkdir()
    (base / "a.jfif").write_bytes(encoded("JPEG"))
    write_rows(base / "rows.jsonl", {"id": "1", "image": "a.jfif"})
    done = fastqwen("summarize", base, "-o", "s.jsonl", *SCRIPTED)
    assert [record["id"] for record in read_records(tmp_path / "s.jsonl")] == ["a.jfif"]
    assert "skipped: 1 file of rows" in done.stderr


def test_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    with pytest.raises(InputError, match="without files of rows"):
        open_source(str(tmp_path))
