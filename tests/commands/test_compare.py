"""`fastqwen compare`: outputs beside each other, and rows of one asked again elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CATALOGUE, Fastqwen, read_records, write_rows
from tests.loopback import Loopback, serve

SCRIPTED = ("--engine", "scripted")
TINY = ("--model", "tiny")
ITEMS = [{"id": name, "title": f"a {name}"} for name in ("mug", "hat", "bag")]


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serve("vllm") as made:
        yield made


def rows_of(folder: Path, count: int = 12) -> Path:
    rows = ({"id": f"r{n}", "prompt": f"Which of {n}?\n", "labels": ["A", "B", "C"]} for n in range(count))
    return write_rows(folder / "rows.jsonl", *rows)


def spoil(out: Path, *ids: str) -> None:
    """Other answers in some records, as a server gives that keeps the wrong ones."""
    records = read_records(out)
    for record in records:
        if record["id"] in ids:
            record["probabilities"] = record["probabilities"][::-1]
    write_rows(out, *records)


def test_two_outputs_within_and_beyond(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    for name in ("a", "b"):
        fastqwen("probs", rows, "-o", f"{name}.jsonl", *SCRIPTED)
    assert "within 0.03" in fastqwen("compare", "a.jsonl", "b.jsonl").stdout
    spoil(tmp_path / "b.jsonl", "r3")
    done = fastqwen("compare", "a.jsonl", "b.jsonl", check=1)
    assert "NOT within 0.03" in done.stdout
    assert "r3: " in done.stdout
    found = json.loads(fastqwen("compare", "a.jsonl", "b.jsonl", "--limit", "1", "--json").stdout)
    assert found["within"]
    assert found["pairs"][0]["probabilities"]["farthest"] == "r3"


def test_other_settings_are_said(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    fastqwen("probs", rows, "-o", "a.jsonl", *SCRIPTED)
    fastqwen("probs", rows, "-o", "b.jsonl", *SCRIPTED, "--chat")
    said = fastqwen("compare", "a.jsonl", "b.jsonl", check=None).stdout
    assert "asked with --chat: false and true" in said
    (tmp_path / "b.jsonl.run.json").unlink()
    assert "b.jsonl has no run.json" in fastqwen("compare", "a.jsonl", "b.jsonl", check=None).stdout


def test_wrong_rows_are_named(fastqwen: Fastqwen, tmp_path: Path, server: Loopback) -> None:
    fastqwen("probs", rows_of(tmp_path), "-o", "o.jsonl", *SCRIPTED)
    spoil(tmp_path / "o.jsonl", "r2", "r7")
    again = ("compare", "o.jsonl", "--against", server.url, "--json", *TINY)
    found = json.loads(fastqwen(*again, "--sample", "100", check=1).stdout)["pairs"][0]
    assert found["rows"] == 12
    assert {row["id"] for row in found["apart"]} == {"r2", "r7"}
    posts = server.posts
    fastqwen(*again, "--sample", "100", check=1)
    assert server.posts > posts  # the cache is not asked


def test_the_same_rows_are_chosen(cached: Fastqwen, tmp_path: Path) -> None:
    """Of every output of an input, however it is written."""
    rows = rows_of(tmp_path)
    everything = {f"r{n}" for n in range(12)}
    chosen = []
    for name in ("a.jsonl", "b.parquet"):
        cached("probs", rows, "-o", name, *SCRIPTED)
        asked = ("compare", name, "--against", "torch", "--json", "--limit", "0", *TINY)
        found = json.loads(cached(*asked, "--sample", "4", check=1).stdout)["pairs"][0]
        assert found["rows"] == 4
        chosen.append({row["id"] for row in found["apart"]})
    assert chosen[0] == chosen[1] < everything


@pytest.mark.parametrize("job", ["summarize", "rerank"])
def test_each_job_is_asked_again(fastqwen: Fastqwen, tmp_path: Path, job: str) -> None:
    if job == "summarize":
        (tmp_path / "images").mkdir()
        for name in ("mug-02.jpg", "shirt-01.jpg"):
            shutil.copy(CATALOGUE / "images" / name, tmp_path / "images")
        asked = ["summarize", "images", "--max-new-tokens", "8"]
    else:
        (tmp_path / "prompt.txt").write_text("{{history}}\n{{candidates}}\nWhich?")
        write_rows(tmp_path / "items.jsonl", *ITEMS)
        rows = [{"sku": "1", "query": "a mug", "candidates": ["mug", "hat"]}]
        rows += [{"sku": "2", "query": "a hat", "candidates": ["bag", "gone"]}]
        write_rows(tmp_path / "r.jsonl", *rows)
        asked = ["rerank", "r.jsonl", "--items", "items.jsonl", "--map", "id=sku"]
        asked += ["--prompt-file", "prompt.txt", "--max-item-tokens", "9"]
    fastqwen(*asked, "-o", "o.jsonl", "--engine", "torch", "--model", "tiny", check=None)
    found = json.loads(fastqwen("compare", "o.jsonl", "--against", "torch", "--sample", "5", "--json").stdout)
    assert found["pairs"][0]["within"]
    assert found["pairs"][0]["rows"] == (2 if job == "summarize" else 1)  # an unknown item failed its row


def test_what_was_read_is_brought(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    fastqwen("probs", "-", "-o", "o.jsonl", *SCRIPTED, stdin=rows.read_text())
    again = ("compare", "o.jsonl", "--against", "torch", "--sample", "3", "--limit", "1", *TINY)
    assert "--input" in fastqwen(*again, check=2).stderr
    fastqwen(*again, "--input", rows)
    other = write_rows(tmp_path / "other.jsonl", *read_records(rows)[1:])
    assert "not the input" in fastqwen(*again, "--input", other, check=2).stderr


def test_a_moved_prompt_file_is_brought(fastqwen: Fastqwen, tmp_path: Path) -> None:
    write_rows(tmp_path / "r.jsonl", {"id": 1, "query": "a mug", "candidates": ITEMS})
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("{{history}}\n{{candidates}}\nWhich?")
    fastqwen("rerank", "r.jsonl", "-o", "o.jsonl", "--prompt-file", prompt, *SCRIPTED)
    moved = prompt.rename(tmp_path / "moved.txt")
    again = ("compare", "o.jsonl", "--against", "torch", "--sample", "3", "--limit", "1", *TINY)
    assert "--prompt-file" in fastqwen(*again, check=2).stderr
    fastqwen(*again, "--prompt-file", moved)
    moved.write_text("{{history}}\n{{candidates}}\nWhich one?")
    assert "not the prompt file" in fastqwen(*again, "--prompt-file", moved, check=2).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a.jsonl",), "two outputs"),
        (("a.jsonl", "a.jsonl", "--sample", "3"), "--sample"),
        (("a.jsonl", "a.jsonl", "--items", "x"), "--items"),
        (("a.jsonl", "--against", "torch"), "--sample N"),
        (("a.jsonl", "a.jsonl", "--against", "torch", "--sample", "1"), "give one"),
        (("a.jsonl", "--against", "elsewhere", "--sample", "1"), "the URL of a server"),
        (("a.jsonl", "--against", "torch", "--sample", "0"), "--sample=0"),
        (("a.jsonl", "a.jsonl", "--limit", "2"), "--limit=2"),
        (("bare.jsonl", "--against", "torch", "--sample", "1"), "run.json"),
        (("cut.jsonl", "--against", "torch", "--sample", "1"), "not finished"),
        (("a.jsonl", "none.jsonl"), "no such file"),
    ],
)
def test_what_is_refused(fastqwen: Fastqwen, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    fastqwen("probs", rows_of(tmp_path, 2), "-o", "a.jsonl", *SCRIPTED)
    for name in ("bare", "cut"):
        shutil.copy("a.jsonl", f"{name}.jsonl")
    content: dict[str, Any] = json.loads(Path("a.jsonl.run.json").read_text())
    Path("cut.jsonl.run.json").write_text(json.dumps(content | {"state": "interrupted"}))
    assert said in fastqwen("compare", *arguments, check=2).stderr


def test_verify_and_eval_read_parts(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = write_rows(
        tmp_path / "r.jsonl",
        *({"id": n, "query": "q", "candidates": ITEMS, "positive": "hat"} for n in range(4)),
    )
    fastqwen("rerank", rows, "-o", "whole.jsonl", *SCRIPTED)
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    parts = tmp_path / "parts"
    parts.mkdir()
    for number in range(2):
        (parts / f"part-{number}.jsonl").write_text("".join(lines[2 * number : 2 * number + 2]))
    shutil.copy("whole.jsonl.run.json", parts / "run.json")
    assert fastqwen("eval", parts, "--json").stdout == fastqwen("eval", "whole.jsonl", "--json").stdout
    fastqwen("compare", "whole.jsonl", parts, "--limit", "0")
    findings = json.loads(fastqwen("verify", parts, "--json", check=1).stdout)
    assert {one["what"] for one in findings if not one["holds"]} == {"output digest"}  # it is another file's
