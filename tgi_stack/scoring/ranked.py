"""Looks at records before figures are made of them: what is no output of a job never becomes a number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tgi_stack.errors import InputError
from tgi_stack.rows.records import fault_in

Record = dict[str, Any]

ABOVE_ZERO = 1e-3  # of a logarithm that was normalised over a few labels
ABOVE_ONE = 1e-6  # of a probability that was rounded


def refuse_unsound(record: Record, number: int, who: str = "eval") -> None:
    """Raises InputError for a record that `rerank` does not write; `who` is the command that reads it."""
    try:
        fault = fault_in("rerank", record) or (fault_of_ranking(record) if record["status"] == "ok" else None)
    except KeyError as error:
        fault = f"no `{error.args[0]}`"
    if fault is not None:
        raise InputError(f"record {number}: {fault}; {who} reads the output of rerank")


def fault_of_ranking(record: Record) -> str | None:
    """What of an answer of `rerank` does not fit together, with its place."""
    ranking = record["ranking"]
    if not ranking:
        return "no `ranking`"
    found = _in_ranking(ranking) or fault_of_mass(record)
    for place, read in enumerate(record.get("reads") or ()):
        found = found or _in_read(read, f"`reads.{place}`")
    return found


def _in_ranking(ranking: Sequence[Record]) -> str | None:
    ids = [entry["id"] for entry in ranking]
    if len(set(ids)) != len(ids):
        twice = next(id for id in ids if ids.count(id) > 1)
        return f"`ranking`: {twice!r} stands twice"
    if [entry.get("rank", place) for place, entry in enumerate(ranking, 1)] != [*range(1, len(ids) + 1)]:
        return "`ranking`: ranks do not count from 1"
    scores = [entry["score"] for entry in ranking]
    if scores != sorted(scores, reverse=True):
        return "`ranking`: scores do not fall"
    if not are_probabilities(entry.get("probability") for entry in ranking):
        return "`ranking`: a `probability` that is none"
    known = are_logarithms(entry.get("logprob") for entry in ranking)
    return None if known else "`ranking`: a `logprob` above 0"


def _in_read(read: Record, place: str) -> str | None:
    order, values = read["order"], read["logprobs"]
    labels = read.get("labels") or values
    if len(set(order)) != len(order):
        return f"{place}: a candidate stands twice"
    if len(labels) != len(values) or len(order) not in (1, len(labels)):
        return f"{place}: {len(order)} candidates, {len(labels)} labels and {len(values)} logarithms"
    if len(read.get("prior") or values) != len(values):
        return f"{place}: `prior` has not one logarithm a label"
    both = [*values, *(read.get("prior") or ())]
    return None if are_logarithms(both) else f"{place}: {max(both)} is no logarithm of a probability"


def fault_of_labels(record: Record) -> str | None:
    """What of an answer of `probs` does not fit together."""
    labels, found = record.get("labels") or [], record.get("probabilities") or []
    if not labels or len(labels) != len(found) or len(set(labels)) != len(labels):
        return f"{len(labels)} labels ({len(set(labels))} of them different), {len(found)} probabilities"
    if not are_probabilities(found):
        return "`probabilities`: one that is none"
    known = record.get("logprobs")
    if known is not None and (len(known) != len(labels) or not are_logarithms(known)):
        return "`logprobs` are not one logarithm of a probability for each label"
    return fault_of_mass(record)


def fault_of_mass(record: Record) -> str | None:
    """Whether what lies on the labels together is a probability."""
    return None if are_probabilities([record.get("label_mass")]) else "`label_mass` is no probability"


def are_probabilities(values: Iterable[float | None]) -> bool:
    """Whether all that are known are; rounding may take one a little above 1."""
    return all(value is None or 0.0 <= value <= 1.0 + ABOVE_ONE for value in values)


def are_logarithms(values: Iterable[float | None]) -> bool:
    """Whether all that are known are logarithms of probabilities."""
    return all(value is None or value <= ABOVE_ZERO for value in values)
