"""Machines of a team: each has a cache of its own, and may have the tier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.conftest import write_rows
from tgi_stack import Reranker
from tgi_stack.rows.ledger import Record

NOT_COMPARED = ("from_cache", "attempts")


def asked(path: Path, numbers: range) -> Path:
    """Rows of `probs` by their numbers."""
    rows = [{"id": str(n), "prompt": f"Secret plan {n}\n", "labels": ["A", "B", "C"]} for n in numbers]
    return write_rows(path, *rows)


def records(rows: Path, cache: Path, **options: Any) -> list[Record]:
    """What a machine with this cache answers, in the order of the rows."""
    told = {"engine": "scripted", "no_cache": False, "cache_dir": cache} | options
    with Reranker(**told) as reranker:
        found = list(reranker.run_probs(rows))
    return sorted(found, key=lambda record: int(record["id"]))


def plain(found: list[Record]) -> list[Record]:
    """Records without what says where they came from."""
    return [{k: v for k, v in record.items() if k not in NOT_COMPARED} for record in found]


def from_cache(found: list[Record]) -> int:
    """How many were not asked for."""
    return sum(record["from_cache"] for record in found)
