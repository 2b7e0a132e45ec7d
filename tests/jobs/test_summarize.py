"""`summarize` beside its engine: one decoding and one question for the same content, bytes from Parquet."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.conftest import CATALOGUE, Fastqwen, read_records, write_rows
from tgi_stack.backends.scripted import Script, ScriptedBackend
from tgi_stack.errors import ImageError
from tgi_stack.jobs.summarize import Summarize
from tgi_stack.settings import Settings
from tgi_stack.types import Caption, CaptionRequest, SummarizeRow

MUG = CATALOGUE / "images" / "mug-02.jpg"
SCRIPTED = ("--engine", "scripted")


class Counting(ScriptedBackend):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__(Script())
        self.asked = 0

    async def caption(self, request: CaptionRequest) -> Caption:
        self.asked += 1
        return await super().caption(request)


@pytest.fixture
async def job(tmp_path: Path, tiny_settings: Callable[..., Settings]) -> AsyncIterator[Any]:
    made = Summarize(Counting(), tiny_settings(), tmp_path)
    yield made
    await made.aclose()


async def test_the_same_content_is_decoded_and_asked_once(job: Any, tmp_path: Path) -> None:  # I25
    prepared = 0
    prepare = job._images.images._pool.prepare

    async def counting(*args: Any, **options: Any) -> Any:
        nonlocal prepared
        prepared += 1
        return await prepare(*args, **options)

    job._images.images._pool.prepare = counting
    for number in range(1000):
        shutil.copy(MUG, tmp_path / f"{number}.jpg")
    rows = [SummarizeRow(number + 1, str(number), f"{number}.jpg") for number in range(1000)]
    first = await asyncio.gather(*map(job.answer, rows[:500]))
    records = first + await asyncio.gather(*map(job.answer, rows[500:]))
    assert (prepared, job._backend._inner.asked) == (1, 1)
    assert len(records) == 1000
    assert all(record == records[0] for record in records)
    assert (await job.answer(SummarizeRow(1, "x", "1.jpg", title="Another question")))["summary"]
    assert (prepared, job._backend._inner.asked) == (1, 2)


async def test_what_fails_is_not_remembered(job: Any, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(MUG.read_bytes()[:2000])
    row = SummarizeRow(1, "x", "x.jpg")
    for _ in range(2):
        with pytest.raises(ImageError):
            await job.answer(row)
    shutil.copy(MUG, tmp_path / "x.jpg")
    assert (await job.answer(row))["summary"]


@pytest.mark.parametrize("broken", ["truncated", "aspect"])
async def test_one_decoding_names_each_rows_own_file(job: Any, tmp_path: Path, broken: str) -> None:
    decoded = 0
    prepare = job._images.images._pool.prepare

    async def counting(*args: Any, **options: Any) -> Any:
        nonlocal decoded
        decoded += 1
        return await prepare(*args, **options)

    job._images.images._pool.prepare = counting
    content = MUG.read_bytes()[:2000]
    if broken == "aspect":
        png = io.BytesIO()
        Image.new("RGB", (1000, 1)).save(png, "PNG")
        content = png.getvalue()
    names = [f"{number}.jpg" for number in range(300)]
    for name in names:
        (tmp_path / name).write_bytes(content)
    rows = [SummarizeRow(number, name, name) for number, name in enumerate(names, 1)]
    rows.append(SummarizeRow(301, "bytes", content))
    errors: list[Any] = await asyncio.gather(*map(job.answer, rows), return_exceptions=True)
    assert {error.type for error in errors} == {f"image.{broken}"}
    assert all(str(error).startswith(name) for name, error in zip(names, errors[:-1], strict=True))
    assert str(errors[-1]).startswith("the image of 'bytes'")
    assert decoded < 30  # equal ones at once are one; some come after it has failed


def test_a_changing_file_is_one_version_or_fails(  # I22
    fastqwen: Fastqwen, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    versions = [MUG.read_bytes(), (CATALOGUE / "images" / "backpack-01.jpg").read_bytes()]
    names = [f"{number:03d}.jpg" for number in range(60)]
    for name in names:
        (folder / name).write_bytes(versions[0])
    rows = write_rows(tmp_path / "i.jsonl", *({"id": n, "image": f"images/{n}", "title": n} for n in names))
    stop = threading.Event()

    def meddle() -> None:
        turn = 0
        while not stop.is_set():
            for name in names:
                turn += 1
                (folder / name).write_bytes(versions[turn % 2])
            time.sleep(0.001)

    meddler = threading.Thread(target=meddle)
    meddler.start()
    try:
        done = fastqwen("summarize", rows, *SCRIPTED, "--skip-bad-rows", check=None)
    finally:
        stop.set()
        meddler.join()
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(record["id"] for record in records) == names
    by_digest: dict[str, set[tuple[int, int]]] = {}
    for record in records:
        if record["status"] == "ok":
            image = record["image"]
            by_digest.setdefault(image["sha256"], set()).add((image["width"], image["height"]))
        else:
            assert record["error"]["type"] in ("image.truncated", "image.empty", "image.corrupt")
    assert all(len(sizes) == 1 for sizes in by_digest.values())


@pytest.mark.parametrize("form", ["path", "bytes", "bytes and path", "path alone"])
def test_parquet_holds_images_as_paths_or_as_bytes(fastqwen: Fastqwen, tmp_path: Path, form: str) -> None:
    content = MUG.read_bytes()
    shutil.copy(MUG, tmp_path / "mug.jpg")
    image = {
        "path": "mug.jpg",
        "bytes": content,
        "bytes and path": {"bytes": content, "path": "gone.jpg"},
        "path alone": {"bytes": None, "path": "mug.jpg"},
    }[form]
    pq.write_table(pa.table({"id": ["a", "b"], "image": [image, image]}), tmp_path / "in.parquet")
    done = fastqwen("summarize", tmp_path / "in.parquet", *SCRIPTED)
    plain = fastqwen(
        "summarize", write_rows(tmp_path / "i.jsonl", {"id": "a", "image": "mug.jpg"}), *SCRIPTED
    )
    records = {record["id"]: record for record in map(json.loads, done.stdout.splitlines())}
    assert records["a"] == json.loads(plain.stdout)
    assert records["b"]["status"] == "ok"


def test_bad_image_bytes_in_parquet_fail_their_row(fastqwen: Fastqwen, tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b", "c"], "image": [b"", b"<html>", MUG.read_bytes()]})
    pq.write_table(table, tmp_path / "in.parquet")
    done = fastqwen("summarize", tmp_path / "in.parquet", "-o", tmp_path / "o.jsonl", *SCRIPTED, check=1)
    records = read_records(tmp_path / "o.jsonl")
    assert [record.get("error", {}).get("type") for record in records] == [
        "image.empty",
        "image.unrecognised",
        None,
    ]
    assert "the image of 'a'" in records[0]["error"]["message"]
    assert "Traceback" not in done.stderr


def test_postscript_is_never_run(  # I18
    fastqwen: Fastqwen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("gs", "gswin32c", "gswin64c"):
        (programs / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/executed\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    eps = io.BytesIO()
    Image.new("RGB", (40, 40)).save(eps, "EPS")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(eps.getvalue())
    record = json.loads(fastqwen("summarize", folder, *SCRIPTED, check=1).stdout)
    assert record["error"]["type"] == "image.unrecognised"
    assert not (tmp_path / "executed").exists()
