"""Records as what is compared of them: candidates in their order, probabilities, texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tgi_stack.errors import InputError
from tgi_stack.rows.manifest import Manifest
from tgi_stack.rows.output import records
from tgi_stack.rows.records import fault_in
from tgi_stack.scoring.ranked import fault_of_labels, fault_of_ranking

Record = dict[str, Any]

SIGNS = {"ranking": "rerank", "probabilities": "probs", "summary": "summarize"}  # of an answer, by job


class Answer(NamedTuple):
    """A record as it is compared; plain values.

    Attributes:
        number: its place in the output, from 1.
        id: None where a failed row has none.
        ok: whether there is an answer; nothing else is known without one.
        order: candidates, or labels, best first.
        probabilities: theirs in that order; None where there is no distribution, as with windows.
        exact: whether all of them are values and no bounds.
        text: a summary.
        image: the digest of the image that it is of.
    """

    number: int
    id: str | None
    ok: bool
    order: tuple[str, ...] = ()
    probabilities: tuple[float, ...] | None = None
    exact: bool = True
    text: str | None = None
    image: str | None = None


def answers_of(out: Path, job: str | None) -> Iterator[Answer]:
    """The answers in an output of a job.

    Args:
        job: see `job_of`; None where no row was answered.

    Raises:
        InputError: a record that the job does not write.
    """
    for number, record in enumerate(records(out), 1):
        try:
            yield answer_of(record, number, job)
        except InputError as error:
            raise InputError(f"{out}: {error}") from error


def answer_of(record: Record, number: int, job: str | None) -> Answer:
    """A record as it is compared.

    Raises:
        InputError: it is none of the job's.
    """
    try:
        found = _told(record, number, job)
        fault = found if isinstance(found, str) else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        fault = f"no record of a job ({error!r})"
    if fault is not None:
        raise InputError(f"record {number}: {fault}")
    assert isinstance(found, Answer)  # noqa: S101
    return found


def job_of(out: Path) -> str | None:
    """The job that an output is of, by its first answer, else by its run.json.

    None where no row was answered and none is told.

    Raises:
        InputError: an answer that is none of a job's.
    """
    for number, record in enumerate(records(out), 1):
        if record.get("status") == "ok":
            found = _job(record)
            if found is None:
                raise InputError(f"{out}: record {number}: neither `ranking`, `probabilities` nor `summary`")
            return found
    manifest = Manifest.read(out)
    return None if manifest is None else manifest.content.get("asked", {}).get("job")


def _job(record: Record) -> str | None:
    return next((job for field, job in SIGNS.items() if record.get(field) is not None), None)


def _told(record: Record, number: int, job: str | None) -> Answer | str:
    """The answer, or what is wrong with the record."""
    id, status = record.get("id"), record["status"]
    if status == "failed":
        return Answer(number, id, False)
    if status != "ok" or id is None:
        return f"`status` is {status!r}, `id` {id!r}"
    if _job(record) != job or job is None:
        return f"a record of {_job(record)}, and others are of {job}"
    fault = fault_in(job, record)
    if fault is None and job != "summarize":
        fault = fault_of_ranking(record) if job == "rerank" else fault_of_labels(record)
    if fault is not None:
        return fault
    if job == "summarize":
        image = (record.get("image") or {}).get("sha256")
        return Answer(number, id, True, text=record["summary"], image=image)
    return _of_ranking(record, number) if job == "rerank" else _of_labels(record, number)


def _of_ranking(record: Record, number: int) -> Answer:
    found = [entry.get("probability") for entry in record["ranking"]]
    known = None if None in found else tuple(map(float, found))
    order = tuple(entry["id"] for entry in record["ranking"])
    return Answer(number, record["id"], True, order, known, record.get("exact") is not False)


def _of_labels(record: Record, number: int) -> Answer:
    labels, found = record["labels"], record["probabilities"]
    places = sorted(range(len(labels)), key=lambda place: -found[place])
    order, values = tuple(labels[place] for place in places), tuple(float(found[place]) for place in places)
    return Answer(number, record["id"], True, order, values, record.get("exact") is not False)
