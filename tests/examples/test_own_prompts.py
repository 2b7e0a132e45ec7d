"""The examples with prompts of the user's own run, and give what the command line gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Fastqwen, write_rows

pytest.importorskip("pandas")
yaml = pytest.importorskip("yaml")

from examples import harness_task, prompts_from_pandas  # noqa: E402

TASK: dict[str, Any] = {
    "task": "colours",
    "output_type": "multiple_choice",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": "docs.jsonl"},
    "doc_to_text": "What colour is {{thing}}?\nAnswer:",
    "doc_to_choice": "choices",
    "doc_to_target": "{{gold}}",
}
DOCUMENTS: list[dict[str, Any]] = [
    {"thing": "snow", "choices": ["white", "black"], "gold": 0},
    {"thing": "coal", "choices": ["white", "black", "red"], "gold": "black"},
]


def test_frames_get_their_probabilities(fastqwen: Fastqwen) -> None:
    found = prompts_from_pandas.answered(prompts_from_pandas.REVIEWS, engine="scripted")
    assert list(found.index) == ["r1", "r2"]
    assert (found["yes"] + found["no"]).tolist() == pytest.approx([1.0, 1.0])
    assert found["failed"].isna().all()


def test_tasks_of_the_harness_are_read(fastqwen: Fastqwen, tmp_path: Path) -> None:
    write_rows(tmp_path / "docs.jsonl", *DOCUMENTS)
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(TASK))
    right, many, failed = harness_task.accuracy(tmp_path / "task.yaml", engine="scripted")
    rows = [harness_task.row(TASK, document, number) for number, document in enumerate(DOCUMENTS)]
    assert rows[0]["prompt"] == "What colour is snow?\nAnswer:"
    assert rows[1]["labels"] == [" white", " black", " red"]
    fastqwen("probs", write_rows(tmp_path / "p.jsonl", *rows), "-o", "o.jsonl", "--engine", "scripted")
    records = [json.loads(line) for line in Path("o.jsonl").read_text().splitlines()]
    best = [one["probabilities"].index(max(one["probabilities"])) for one in records]
    assert (right, many, failed) == (sum(a == b for a, b in zip(best, [0, 1], strict=True)), 2, 0)


@pytest.mark.parametrize("other", [{"output_type": "generate_until"}, {"num_fewshot": 5}])
def test_other_tasks_are_refused(tmp_path: Path, other: dict[str, object]) -> None:
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(TASK | other))
    with pytest.raises(SystemExit, match=r"task\.yaml"):
        harness_task.read_task(tmp_path / "task.yaml")


@pytest.mark.slow
def test_datasets_go_in_and_come_out(fastqwen: Fastqwen, tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="no datasets: pip install datasets")
    from examples import from_datasets

    summaries, ranked = from_datasets.answered(str(tmp_path / "kept"), engine="scripted")
    assert len(summaries) == 70
    assert set(summaries["status"]) == set(ranked["status"]) == {"ok"}
    fastqwen("summarize", from_datasets.CATALOGUE / "images", "-o", "s.jsonl", "--engine", "scripted")
    sessions = from_datasets.CATALOGUE / "sessions.jsonl"
    fastqwen("rerank", sessions, "--items", "s.jsonl", "-o", "r.jsonl", "--engine", "scripted")
    expected = {record["id"]: record for record in map(json.loads, Path("r.jsonl").read_text().splitlines())}
    for row in ranked:
        assert [one["id"] for one in row["ranking"]] == [one["id"] for one in expected[row["id"]]["ranking"]]
