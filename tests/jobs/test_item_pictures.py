"""Pictures of items: taken in each form that summarize takes; no picture fails the rows that show it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.conftest import Fastqwen, read_records, write_rows

TORCH = ("--engine", "torch", "--model", "tiny", "--device", "cpu")
SCRIPTED = ("--engine", "scripted")


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, "PNG")
    return buffer.getvalue()


def shop(folder: Path, images: Any) -> Path:
    """Items a, b, c with these pictures, in Parquet."""
    ids = ["a", "b", "c"]
    table = pa.table({"id": ids, "title": [f"Thing {id}" for id in ids], "image": images})
    pq.write_table(table, folder / "items.parquet")
    return folder / "items.parquet"


@pytest.mark.slow
def test_each_form_of_picture_is_shown(fastqwen: Fastqwen, tmp_path: Path) -> None:
    pictures = [png(colour) for colour in ("red", "green", "blue")]
    for id, content in zip("abc", pictures, strict=True):
        (tmp_path / f"{id}.png").write_bytes(content)
    paths = [f"{id}.png" for id in "abc"]
    forms = {
        "path": paths,
        "bytes": pictures,
        "struct of bytes": [{"bytes": content, "path": None} for content in pictures],
        "struct of path": [{"bytes": None, "path": path} for path in paths],
        "struct of both": [{"bytes": c, "path": "elsewhere.png"} for c in pictures],
    }
    rows = write_rows(tmp_path / "rows.jsonl", {"id": "u", "history": ["a"], "candidates": ["b", "c"]})
    found = {}
    for form, images in forms.items():
        fastqwen("rerank", rows, "--items", shop(tmp_path, images), "--item-images", "-o", "o.jsonl",
                 "--overwrite", *TORCH)  # fmt: skip
        (record,) = read_records(tmp_path / "o.jsonl")
        found[form] = (record["usage"]["prompt_tokens"], [e["probability"] for e in record["ranking"]])
    assert all(answer == found["path"] for answer in found.values())
    without = fastqwen("rerank", rows, "--items", shop(tmp_path, pictures), *TORCH)
    assert f'"prompt_tokens":{found["path"][0]}' not in without.stdout


@pytest.mark.parametrize(
    ("image", "type", "said"),
    [
        (["a.png"], "schema.image", "an array"),
        (7, "schema.image", "a number"),
        (True, "schema.image", "a boolean"),
        ({"url": "a.png"}, "schema.image", "an object"),
        ({"path": 7}, "schema.image", "a number"),
        ({"bytes": ["x"]}, "schema.image", "an array"),
        ("https://shop.example/a.png", "image.url", "download it first"),
        ("gone.png", "image.missing", "gone.png"),
        ({"sha256": "0" * 64, "width": 64}, "image.missing", "record of summarize"),
    ],
)
def test_no_picture_fails_rows_that_show_it(
    fastqwen: Fastqwen, tmp_path: Path, image: Any, type: str, said: str
) -> None:
    items = write_rows(
        tmp_path / "items.jsonl",
        {"id": "bad", "title": "A mug", "image": image},
        {"id": "x", "title": "A hat"},
        {"id": "y", "title": "A cup"},
    )
    rows = write_rows(
        tmp_path / "rows.jsonl",
        {"id": "shows", "query": "q", "candidates": ["bad", "x"]},
        {"id": "remembers", "history": ["bad"], "candidates": ["x", "y"]},
    )
    job = ("rerank", rows, "--items", items, *SCRIPTED)
    fastqwen(*job, "--item-images", "-o", "o.jsonl", check=1)
    shows, remembers = read_records(tmp_path / "o.jsonl")
    assert shows["error"]["type"] == type
    assert said in shows["error"]["message"]
    assert remembers["status"] == "ok"
    fastqwen(*job, "-o", "words.jsonl")  # nobody asked for the pictures


def test_a_later_file_brings_the_picture(fastqwen: Fastqwen, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png("red"))
    write_rows(tmp_path / "sent.jsonl", {"id": "a", "summary": "red", "image": {"sha256": "0" * 64}})
    write_rows(tmp_path / "shop.jsonl", {"id": "a", "image": "a.png"}, {"id": "b", "title": "B"})
    rows = write_rows(tmp_path / "rows.jsonl", {"id": "u", "query": "q", "candidates": ["a", "b"]})
    fastqwen("rerank", rows, "--items", "sent.jsonl", "--items", "shop.jsonl", "--item-images", *SCRIPTED)
