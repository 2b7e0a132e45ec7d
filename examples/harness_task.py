"""A multiple-choice task of lm-evaluation-harness, read through `probs` in place of the harness.

    python examples/harness_task.py TASK.yaml [ENDPOINT]

The task's file and its documents are read without the package: `doc_to_text`, `doc_to_choice` and
`doc_to_target` as templates (in Jinja's sandbox) or names of fields, documents from JSON lines that
`dataset_kwargs: {data_files: FILE}` names. Tasks that call Python functions, show examples (few-shot) or
generate text are refused. Each choice is one label, its text behind `target_delimiter`; labels of several
tokens are read by the chain rule. The harness's `acc` is the share whose likeliest choice is the target.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from tgi_stack import Reranker

Document = dict[str, Any]
FIELDS = ("doc_to_text", "doc_to_choice", "doc_to_target")
JINJA = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)


def read_task(file: Path) -> dict[str, Any]:
    """The task; SystemExit with the reason where it can't be read this way."""
    task: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    if task.get("output_type") != "multiple_choice":
        raise SystemExit(f"{file}: only tasks with `output_type: multiple_choice` can be read as labels")
    if task.get("num_fewshot") or task.get("process_docs"):
        raise SystemExit(f"{file}: examples in the prompt and functions of Python are for the harness itself")
    if missing := [name for name in FIELDS if name not in task]:
        raise SystemExit(f"{file} has no {', '.join(missing)}")
    return task


def documents(task: dict[str, Any], base: Path) -> list[Document]:
    """What the task asks about."""
    lines = (base / task["dataset_kwargs"]["data_files"]).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def filled(form: Any, document: Document) -> Any:
    """A field of the task for one document: a list as it is, the name of a field, or a template."""
    if isinstance(form, str):
        return document[form] if form in document else JINJA.from_string(form).render(**document)
    return form


def row(task: dict[str, Any], document: Document, number: int) -> dict[str, Any]:
    """A row of `probs`."""
    delimiter = task.get("target_delimiter", " ")
    labels = [f"{delimiter}{choice}" for choice in filled(task["doc_to_choice"], document)]
    return {"id": str(number), "prompt": filled(task["doc_to_text"], document), "labels": labels}


def target(task: dict[str, Any], document: Document, choices: list[str]) -> int:
    """Which choice is right."""
    found = filled(task["doc_to_target"], document)
    return int(found) if str(found).isdigit() else choices.index(str(found))


def accuracy(file: Path, **options: Any) -> tuple[int, int, int]:
    """How many answers are right, how many documents there are, how many of them failed (they are wrong)."""
    task = read_task(file)
    known = documents(task, file.parent)
    rows = [row(task, document, number) for number, document in enumerate(known)]
    with tempfile.TemporaryDirectory() as folder, Reranker(**options) as reranker:
        asked = Path(folder) / "rows.jsonl"
        asked.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
        records = {record["id"]: record for record in reranker.run_probs(asked)}
    right = failed = 0
    for number, document in enumerate(known):
        record = records[str(number)]
        if record["status"] != "ok":
            failed += 1
            continue
        values = record["probabilities"]
        choices = [str(choice) for choice in filled(task["doc_to_choice"], document)]
        right += values.index(max(values)) == target(task, document, choices)
    return right, len(known), failed


if __name__ == "__main__":
    options: dict[str, Any] = {"engine": "torch", "model": "tiny"}
    if len(sys.argv) > 2:
        options = {"endpoint": [sys.argv[2]]}
    right, many, failed = accuracy(Path(sys.argv[1]), **options)
    print(f"acc {right / many:.4f}: {right} of {many} right, {failed} failed")
