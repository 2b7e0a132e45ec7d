"""An output as the report reads it: its records, held to what a job writes, and its run.json."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from tgi_stack.errors import InputError, UsageError
from tgi_stack.rows.manifest import Manifest
from tgi_stack.rows.output import records
from tgi_stack.rows.records import fault_in
from tgi_stack.scoring import metrics
from tgi_stack.scoring.metrics import Rankings
from tgi_stack.scoring.ranked import fault_of_labels, refuse_unsound
from tgi_stack.types import RerankRow

Record = dict[str, Any]

CUTOFF = 10
MEASURE = f"NDCG@{CUTOFF}"
CUTOFFS = (1, 5, CUTOFF)
SHOWN = ("Recall@1", "Recall@5", MEASURE, "MRR")

# A field that only records of one job have.
TELLS = {"summary": "summarize", "image": "summarize", "ranking": "rerank", "probabilities": "probs"}


@dataclass(frozen=True)
class Output:
    """An output.

    Attributes:
        job: whose records they are.
        noted: what run.json says; nothing where there is none.
        records: the first ones, at most as many as were asked for.
        is_cut: whether there are more.
    """

    path: Path
    job: str
    noted: dict[str, Any]
    records: list[Record]
    is_cut: bool

    @property
    def asked(self) -> dict[str, Any]:
        """What the run was asked: the settings that change answers, and digests of what it read."""
        found: dict[str, Any] = self.noted.get("asked") or {}
        return found

    @cached_property
    def rankings(self) -> Rankings:
        """What `eval` would measure in an output of rerank."""
        return metrics.collect(self.records)

    @cached_property
    def measured(self) -> dict[str, dict[str, float]]:
        """The measures that are shown, each row's."""
        found = metrics.per_query(self.rankings, CUTOFFS)
        return {name: found[name] for name in SHOWN}


def read_output(path: Path, limit: int | None = None) -> Output:
    """An output and what stands beside it.

    Raises:
        UsageError: it is not there, or holds no records.
        InputError: a record that no job writes; it is named.
    """
    noted = _noted(path)
    most = None if limit is None else limit + 1
    found = list(islice(records(path), most))
    kept = found if limit is None else found[:limit]
    if limit == 0 and found:
        raise UsageError("--limit 0 leaves no row to show; give 1 or more")
    if not kept:
        raise UsageError(f"{path} holds no records; give an OUT that a job wrote with -o")
    job = (noted.get("asked") or {}).get("job") or _job_of(path, found)
    for number, record in enumerate(kept, 1):
        _refuse_unsound(path, job, record, number)
    return Output(path, job, noted, kept, len(kept) < len(found))


def read_record(path: Path, id: str) -> Output:
    """An output with the one record of a row.

    Raises:
        UsageError: there is no such output, or no such row.
    """
    noted = _noted(path)
    for number, record in enumerate(records(path), 1):
        if isinstance(record, dict) and record.get("id") == id:
            job = (noted.get("asked") or {}).get("job") or _job_of(path, records(path))
            _refuse_unsound(path, job, record, number)
            return Output(path, job, noted, [record], is_cut=True)
    raise UsageError(f"{path} has no record of {id!r}; an id is written as it stands in the output")


def _noted(path: Path) -> dict[str, Any]:
    """What run.json says of an output that is there."""
    if not path.exists():
        raise UsageError(f"{path} is not there; give an OUT that a job wrote with -o")
    manifest = Manifest.read(path)
    return {} if manifest is None else manifest.content


def _job_of(path: Path, found: Iterable[Record]) -> str:
    for record in found:
        for field, job in TELLS.items():
            if isinstance(record, dict) and record.get(field) is not None:
                return job
    raise UsageError(f"{path}: no record says which job wrote it, and no run.json is beside it")


def _refuse_unsound(path: Path, job: str, record: Record, number: int) -> None:
    if not isinstance(record, dict):
        raise InputError(f"{path}: record {number} is no object; give an output of {job}")
    if job == "rerank":
        refuse_unsound(record, number, who="report")
    elif fault := fault_in(job, record) or _fault(job, record):
        raise InputError(f"{path}: record {number}: {fault}; give an output of {job}")


def _fault(job: str, record: Record) -> str | None:
    if record.get("status") != "ok":
        return None if record.get("error") else "neither ok nor with an `error`"
    if job == "summarize":
        return None if record.get("summary") is not None else "no `summary`"
    return fault_of_labels(record)


def candidate_order(record: Record, row: RerankRow | None = None) -> tuple[list[str], bool]:
    """The candidates of a ranking, and whether they stand as they did in the input."""
    ranked = [entry["id"] for entry in record.get("ranking") or ()]
    if row is not None:
        order = [entry if isinstance(entry, str) else entry.id for entry in row.candidates]
        if sorted(order) == sorted(ranked):
            return order, True
    reads = record.get("reads") or ()
    if reads and "window" not in record:
        one_by_one = all(len(read["order"]) == 1 for read in reads)
        order = [name for read in reads for name in read["order"]] if one_by_one else list(reads[0]["order"])
        if sorted(order) == sorted(ranked):
            return order, True
    return ranked, False
