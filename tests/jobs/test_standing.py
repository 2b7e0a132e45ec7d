"""A job that stays open answers blocks as a run answers rows: from several threads, by processes or not."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Fastqwen, read_records, write_rows
from tests.loopback import serve
from tgi_stack.jobs.spec import JobSpec, opened
from tgi_stack.jobs.standing import Standing
from tgi_stack.rows.reader import RawRow
from tgi_stack.settings import load

ROWS = [{"id": f"r{n}", "prompt": f"Is {n} even?\n", "labels": ["A", "B"]} for n in range(1, 40)]
ROWS[4] = {"id": "r5", "prompt": "no labels"}  # fails


@pytest.fixture
def job(tmp_path: Path) -> tuple[JobSpec, list[RawRow]]:
    path = write_rows(tmp_path / "in.jsonl", *ROWS)
    flags = {"engine": "scripted", "no_cache": True}
    spec, source = opened("probs", str(path), [], {}, load(flags, {}))
    return spec, list(source)


@pytest.fixture
def expected(fastqwen: Fastqwen, tmp_path: Path, job: Any) -> list[dict[str, Any]]:
    fastqwen("probs", "in.jsonl", "-o", "out.jsonl", "--engine", "scripted", "--skip-bad-rows", check=1)
    return read_records(tmp_path / "out.jsonl")


@pytest.fixture
def made() -> Iterator[list[Standing]]:
    standing: list[Standing] = []
    yield standing
    for one in standing:
        one.close()


def test_blocks_from_threads_are_the_runs_records(
    job: tuple[JobSpec, list[RawRow]], expected: list[dict[str, Any]], made: list[Standing]
) -> None:
    spec, rows = job
    made.append(Standing(spec, width=3))
    seen: list[None] = []
    blocks = [rows[start : start + 7] for start in range(0, len(rows), 7)]
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda block: made[0].answer(block, lambda: seen.append(None)), blocks))
    assert [record for block in found for record in block] == expected
    assert len(seen) == len(rows)
    assert made[0].answer([]) == []


def test_processes_prepare_a_large_block(
    job: tuple[JobSpec, list[RawRow]], expected: list[dict[str, Any]], made: list[Standing]
) -> None:
    spec, rows = job
    chosen = spec.settings.model_copy(update={"preparers": 2})
    made.append(Standing(JobSpec("probs", chosen, spec.base), preparers=2))
    assert made[0].answer(rows) == expected


def test_blocks_together_keep_to_the_width(tmp_path: Path, made: list[Standing]) -> None:
    path = write_rows(tmp_path / "in.jsonl", *(row for row in ROWS if "labels" in row))
    with serve("vllm", delay_s=0.02) as server:
        flags = {"engine": "vllm", "model": "tiny", "endpoint": (server.url,), "no_cache": True}
        spec, source = opened("probs", str(path), [], {}, load(flags | {"llm_batch_size": 1}, {}))
        rows = list(source)
        made.append(Standing(spec, width=4))
        made[0].identity()
        server.most_in_flight = 0
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(made[0].answer, [rows[start::4] for start in range(4)]))
        assert 1 <= server.most_in_flight <= 4
        made.pop().close()
