"""A client where there is no POSIX, as on Windows: the same records."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CATALOGUE, ROOT, Fastqwen, read_records

JOBS = {
    "summarize": (CATALOGUE / "images", "--limit", "3"),
    "rerank": (CATALOGUE / "sessions.jsonl", "--items", CATALOGUE / "items.jsonl", "--preparers", "2"),
}


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.without_posix", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "FASTQWEN_NO_CACHE": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said_by(record: dict[str, Any]) -> list[Any]:
    return [record.get(name) for name in ("id", "status", "summary", "ranking", "probabilities", "flags")]


def bare(*arguments: object, check: int = 0) -> str:
    process = start(*arguments)
    out, err = process.communicate(timeout=60)
    assert process.returncode == check, err
    return out + err


@pytest.mark.slow
@pytest.mark.parametrize("job", list(JOBS))
def test_records_are_those_of_posix(job: str, fastqwen: Fastqwen, tmp_path: Path) -> None:
    given = (job, *JOBS[job], "--engine", "scripted")
    fastqwen(*given, "-o", tmp_path / "posix.jsonl")
    cached = ("--cache-dir", tmp_path / "cache")
    bare(*given, *cached, "-o", tmp_path / "bare.jsonl")
    bare(*given, *cached, "--offline", "-o", tmp_path / "again.jsonl")
    posix, first, again = (read_records(tmp_path / f"{name}.jsonl") for name in ("posix", "bare", "again"))
    assert all(record["from_cache"] for record in again)
    assert [said_by(record) for record in first] == [said_by(record) for record in posix]
    assert [said_by(record) for record in again] == [said_by(record) for record in posix]
    assert "entries" in bare("cache", "info", *cached)
    bare("verify", tmp_path / "bare.jsonl")


HOLDER = """
import sys
from pathlib import Path
from tests.without_posix import hide
hide()
from cache.storage.replacing import FileLock
lock = FileLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
lock.release()
"""


@pytest.mark.slow
def test_an_output_has_one_writer_there_too(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    job = ("rerank", *JOBS["rerank"], "--engine", "scripted", "-o", out)
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(out)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    assert f"process {first.pid}" in bare(*job, check=3)
    first.communicate("", timeout=60)
    bare(*job)
