"""Tables in, tables out: summaries and rankings of Hugging Face datasets.

    pip install datasets
    python examples/from_datasets.py [ENDPOINT]

A `datasets.Dataset` is an input as a file is one: `Summarizer.run`, `Reranker.run` and `run_probs` take it,
and give records that `Dataset.from_generator` takes. The summaries are then the items of the rankings.
Without an endpoint the tiny checkpoints that ship answer, in this process.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, disable_progress_bars

from tgi_stack import Reranker, Summarizer, record_schema

CATALOGUE = Path(__file__).resolve().parent / "catalogue"


def pictures() -> Dataset:
    """The catalogue's pictures: ids, and a column of images."""
    files = sorted((CATALOGUE / "images").iterdir())
    named = {"id": [path.name for path in files], "image": list(map(str, files))}
    return Dataset.from_dict(named).cast_column("image", Image())


def sessions() -> Dataset:
    """The catalogue's sessions; a table has the columns of its first row, so that each row names all."""
    lines = (CATALOGUE / "sessions.jsonl").read_text(encoding="utf-8").splitlines()
    return Dataset.from_list([{"history": None, "query": None, **json.loads(line)} for line in lines])


def table(job: str, records: partial[Iterator[dict[str, Any]]], folder: str) -> Dataset:
    """Records as a dataset, with the columns of a Parquet output.

    The package knows a generator by a hash of what it closes over, and gives what it has kept of an equal
    one: a folder of its own has the rows asked.
    """
    features = Features.from_arrow_schema(record_schema(job))
    return Dataset.from_generator(records, features=features, cache_dir=folder)


def answered(folder: str, limit: int | None = None, **options: Any) -> tuple[Dataset, Dataset]:
    """Summaries of the pictures, and the sessions ranked with them as items."""
    with Summarizer(**options) as summarizer:
        summaries = table("summarize", partial(summarizer.run, pictures()), folder)
    with Reranker(limit=limit, **options) as reranker:
        ranked = table("rerank", partial(reranker.run, sessions(), items=summaries), folder)
    return summaries, ranked


if __name__ == "__main__":
    disable_progress_bars()
    asked = {"endpoint": [sys.argv[1]]} if len(sys.argv) > 1 else {"engine": "torch", "model": "tiny"}
    with tempfile.TemporaryDirectory() as kept:
        found, rankings = answered(kept, **asked)
        print(found.select_columns(["id", "status", "summary"]).to_pandas().head().to_string())
        ok = [row for row in rankings if row["status"] == "ok"]
        first = sum(row["ranking"][0]["id"] in row["positive"] for row in ok)
        print(f"{first} of {len(rankings)} sessions rank the item first that the shopper took")
