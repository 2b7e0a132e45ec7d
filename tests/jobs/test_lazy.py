"""Weights load when the first row needs them: what is remembered needs none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cache.store import Store
from tests.conftest import CATALOGUE, Fastqwen, read_records, write_rows
from tgi_stack.api import Reranker
from tgi_stack.backends.lazy import LazyBackend
from tgi_stack.backends.open import open_backend
from tgi_stack.checkpoints.revision import PIECE_BYTES, PIECES
from tgi_stack.errors import MachineError
from tgi_stack.settings import Settings
from tgi_stack.tiny import TINY
from tgi_stack.types import ScoreRequest

SESSIONS = ("rerank", CATALOGUE / "sessions.jsonl", "--items", CATALOGUE / "items.jsonl")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY / "text", tmp_path / "model"))


def spoil(model: Path) -> None:
    """Weights that nobody can read, and that are as before wherever a revision looks."""
    weights = model / "model.safetensors"
    before = weights.stat()
    content, step = bytearray(weights.read_bytes()), before.st_size // PIECES
    for place in range(PIECE_BYTES, len(content) - step, step):
        content[place : place + step - PIECE_BYTES] = b"\xff" * (step - PIECE_BYTES)
    weights.write_bytes(content)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cpu:2"])
def test_a_fully_cached_run_reads_no_weights(
    cached: Fastqwen, tmp_path: Path, model: Path, device: str
) -> None:
    torch = ("--engine", "torch", "--model", model, "--device", device)
    cold = cached(*SESSIONS, "-o", tmp_path / "a.jsonl", *torch)
    assert "loaded in" in cold.stderr
    spoil(model)
    warm = cached(*SESSIONS, "-o", tmp_path / "b.jsonl", *torch)
    assert "24 ok (24 from cache)" in warm.stderr
    assert "loaded in" not in warm.stderr
    first, second = (read_records(tmp_path / name) for name in ("a.jsonl", "b.jsonl"))
    assert [record["ranking"] for record in first] == [record["ranking"] for record in second]


def test_broken_weights_stop_at_the_first_uncached_row(cached: Fastqwen, tmp_path: Path, model: Path) -> None:
    torch = ("--engine", "torch", "--model", model, "--device", "cpu", "--concurrency", "1")
    rows = [{"id": str(n), "prompt": f"Question {n}\n", "labels": ["A", "B"]} for n in range(4)]
    cached("probs", write_rows(tmp_path / "few.jsonl", *rows[:2]), "-o", tmp_path / "a.jsonl", *torch)
    spoil(model)
    all_rows, out = write_rows(tmp_path / "all.jsonl", *rows), tmp_path / "b.jsonl"
    stopped = cached("probs", all_rows, "-o", out, *torch, check=3)
    assert "can't be loaded" in stopped.stderr
    assert "4 rows: 2 ok (2 from cache), 0 failed, 2 pending" in stopped.stderr
    shutil.copy(TINY / "text" / "model.safetensors", model)
    os.utime(model / "model.safetensors", ns=(0, 0))
    assert "holds answers of revision" in cached("probs", all_rows, "-o", out, *torch, check=2).stderr


@pytest.mark.parametrize("remember", [(), ("--no-cache",)], ids=["cache", "no cache"])
def test_a_run_without_answers_leaves_no_output(
    cached: Fastqwen, tmp_path: Path, model: Path, remember: tuple[str, ...]
) -> None:
    spoil(model)
    out = tmp_path / "out" / "a.jsonl"
    failed = cached(*SESSIONS, "-o", out, "--engine", "torch", "--model", model, *remember, check=3)
    assert "can't be loaded" in failed.stderr
    assert "24 rows: 0 ok (0 from cache), 0 failed, 24 pending" in failed.stderr
    assert not out.parent.exists() or not list(out.parent.iterdir())
    cached(*SESSIONS, "-o", out, "--engine", "torch", "--model", "tiny", *remember)
    nobody = cached(*SESSIONS, "--engine", "torch", "--model", model, "--offline", *remember, check=2)
    assert "knows nobody" in nobody.stderr or "--no-cache" in nobody.stderr


def test_a_text_model_for_images_is_refused(cached: Fastqwen, model: Path) -> None:
    done = cached("summarize", CATALOGUE / "images", "--engine", "torch", "--model", model, check=2)
    assert "reads no images" in done.stderr
    assert done.stdout == ""


def test_broken_weights_are_reported_each_time(tmp_path: Path, model: Path) -> None:
    spoil(model)
    with Reranker(engine="torch", model=str(model), device="cpu", cache_dir=tmp_path / "cache") as reranker:
        for prompt in ("A or B?\n", "B or A?\n"):
            with pytest.raises(MachineError, match="can't be loaded"):
                reranker.predict_probs(prompt, 2)


def test_a_failed_overwrite_keeps_the_old_output(cached: Fastqwen, tmp_path: Path, model: Path) -> None:
    """Where the weights of the new run do not load."""
    rows = [{"id": str(n), "prompt": f"Question {n}\n", "labels": ["A", "B"]} for n in range(3)]
    command = (
        "probs",
        write_rows(tmp_path / "p.jsonl", *rows),
        "-o",
        tmp_path / "a.jsonl",
        "--engine",
        "torch",
    )
    cached(*command, "--model", "tiny")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("a.jsonl*")}
    spoil(model)
    cached(*command, "--model", model, "--overwrite", check=3)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("a.jsonl*")} == before
    assert "is finished" in cached(*command, "--model", "tiny").stderr


async def test_loading_begins_before_a_question_unless_remembered(
    tmp_path: Path, tiny_settings: Callable[..., Settings]
) -> None:
    settings, request = tiny_settings(), ScoreRequest("", (1, 2, 3), (), (32, 33))
    bare = await open_backend(settings, "text", None, for_rows=True)
    assert isinstance(bare, LazyBackend)
    bare.begin().result()
    assert bare.opening_s > 0
    alone = await bare.score(request)
    store = Store(tmp_path / "cache")
    with closing(store):
        first = await open_backend(settings, "text", store, for_rows=True)
        assert isinstance(first, LazyBackend)
        assert first.is_begun
        assert (await first.score(request)).logprobs == alone.logprobs
        again = await open_backend(settings, "text", store, for_rows=True)
        assert isinstance(again, LazyBackend)
        assert not again.is_begun
    for backend in (bare, first, again):
        await backend.aclose()


async def test_what_nobody_asked_has_opened_when_closed(tiny_settings: Callable[..., Settings]) -> None:
    """What an engine says of itself stands before the last line of a run without a question."""
    backend = await open_backend(tiny_settings(), "text", None, for_rows=True)
    assert isinstance(backend, LazyBackend)
    opening = backend.begin()
    await backend.aclose()
    assert opening.done()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["probs", "summarize"])
def test_own_networks_need_no_transformers(tmp_path: Path, command: str) -> None:
    """Its import takes seconds."""
    rows = write_rows(tmp_path / "p.jsonl", {"id": "1", "prompt": "A or B?\n", "labels": ["A", "B"]})
    code = """
import sys
import cli
try:
    cli.main()
finally:
    print({name for name in ("torch", "transformers") if name in sys.modules}, file=sys.stderr)
"""
    rest = ["-o", str(tmp_path / "out.jsonl"), "--engine", "torch", "--model", "tiny", "--no-cache"]
    source = str(rows) if command == "probs" else str(CATALOGUE / "images")
    limit = ["--limit", "1"]
    done = subprocess.run(
        [sys.executable, "-c", code, command, source, *rest, *limit], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "{'torch'}"
