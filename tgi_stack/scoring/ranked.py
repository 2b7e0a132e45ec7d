"""Looks at records before figures are made of them: what is no output of `rerank` never becomes a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tgi_stack.errors import InputError
from tgi_stack.rows.records import fault_in

Record = dict[str, Any]

ABOVE_ZERO = 1e-3  # of a logarithm that was normalised over a few labels


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
    found = _in_ranking(ranking)
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
    return "`ranking`: scores do not fall" if scores != sorted(scores, reverse=True) else None


def _in_read(read: Record, place: str) -> str | None:
    order, values = read["order"], read["logprobs"]
    labels = read.get("labels") or values
    if len(set(order)) != len(order):
        return f"{place}: a candidate stands twice"
    if len(labels) != len(values) or len(order) not in (1, len(labels)):
        return f"{place}: {len(order)} candidates, {len(labels)} labels and {len(values)} logarithms"
    if len(read.get("prior") or values) != len(values):
        return f"{place}: `prior` has not one logarithm a label"
    if max(values, default=0.0) > ABOVE_ZERO:
        return f"{place}: {max(values)} is no logarithm of a probability"
    return None
