"""Prompts of your own from a pandas frame, and their label probabilities beside them.

    python examples/prompts_from_pandas.py [ENDPOINT]

Without an endpoint the tiny checkpoint that ships answers, in this process.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from tgi_stack import Reranker

REVIEWS = pd.DataFrame(
    {"review": ["The kettle leaks.", "Light, warm, and it packs small."], "stars": [1, 5]},
    index=["r1", "r2"],
)
QUESTION = "Review: {}\nIs the writer content, yes or no?\nAnswer:"
LABELS = [" yes", " no"]


def answered(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """The frame with a column for each label, and one that says which rows failed and why."""
    rows = pd.DataFrame({"id": frame.index.astype(str), "prompt": frame["review"].map(QUESTION.format)})
    rows["labels"] = [LABELS] * len(rows)
    with tempfile.TemporaryDirectory() as folder, Reranker(**options) as reranker:
        file = Path(folder) / "prompts.jsonl"
        rows.to_json(file, orient="records", lines=True)
        records = {record["id"]: record for record in reranker.run_probs(file)}
    found = [records[str(name)] for name in frame.index]
    told = {
        label.strip(): [one["probabilities"][place] if one["status"] == "ok" else None for one in found]
        for place, label in enumerate(LABELS)
    }
    failed = [one["error"]["message"] if one["status"] == "failed" else None for one in found]
    return frame.assign(**told, failed=failed)


if __name__ == "__main__":
    asked = {"endpoint": [sys.argv[1]]} if len(sys.argv) > 1 else {"engine": "torch", "model": "tiny"}
    print(answered(REVIEWS, **asked).to_string())
