"""The records of an output as columns: what the page holds of each row, whole but compact.

Rankings and label probabilities of the user's own prompts have one form: candidates (labels are items, too)
with probabilities, raw reads, and what was asked. The page's script (`page/page.js`) reads these columns.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tgi_stack.report.beside import Beside
from tgi_stack.report.items import UNKNOWN, Items, Words
from tgi_stack.report.mask import Mask
from tgi_stack.report.outputs import Output, Record, candidate_order
from tgi_stack.report.pairs import Pair
from tgi_stack.scoring import distributions
from tgi_stack.types import Item, ProbsRow, RerankRow, SummarizeRow

MOST_COMPARED = 4000  # characters of a summary
DIGITS = 4  # of probabilities and logarithms that are shown
ONE_BY_ONE, TOGETHER = 1, 2  # `judged`
FROM_INPUT = 0  # `before`: each candidate's place is the one that it has
Columns = dict[str, list[Any]]

_WORD = re.compile(r"\s*\S+|\s+")


@dataclass
class Lists:
    """What rows of both outputs point into.

    Attributes:
        tags: what rows can be filtered by.
    """

    mask: Mask
    items: Items
    tags: Words = field(default_factory=Words)


def columns(output: Output, beside: Beside, lists: Lists, pairs: Sequence[Pair] = ()) -> Columns:
    """A list for each field, with a value for each record.

    Args:
        pairs: the rows that another output has, too.
    """
    make = {"summarize": _summary, "rerank": _ranking, "probs": _reading}[output.job]
    known = {pair.here: pair for pair in pairs}
    rows = []
    for place, record in enumerate(output.records):
        row = _common(record, lists) | make(record, beside, lists)
        pair = known.get(place)
        row |= {"there": pair.there if pair else None, "delta": _round(pair.delta) if pair else None}
        row["tags"] = [lists.tags.place(tag) for tag in _tags(row, pair)]
        rows.append(row)
    return {name: [row[name] for row in rows] for name in rows[0]}


def _common(record: Record, lists: Lists) -> dict[str, Any]:
    usage, error = record.get("usage") or {}, record.get("error") or {}
    name = record.get("id")
    flags = list(record.get("flags") or ())
    return {
        "id": None if name is None else lists.mask.id(name),
        "status": record["status"],
        "error": error.get("type"),
        "message": lists.mask.text(error.get("message")),
        "flags": flags,
        "doubts": len(flags),
        "cached": "yes" if record.get("from_cache") else None,
        "read": usage.get("prompt_tokens"),
        "written": usage.get("completion_tokens"),
        "route": record.get("route"),
    }


def _tags(row: dict[str, Any], pair: Pair | None) -> list[str]:
    """What a row can be filtered by."""
    tags = [
        row["status"],
        *(["from cache"] if row["cached"] else []),
        *(["with a flag"] if row["flags"] else []),
    ]
    if row.get("pos") and row.get("truth") != 1:
        tags.append("truth not first")
    if row.get("exact") == "bounded":
        tags.append("not exact")
    if pair is not None:
        tags += ["the other says otherwise"] if not pair.first else []
        tags += [] if not pair.delta else ["won"] if pair.delta > 0 else ["lost"]
    return [*tags, *row["flags"], *([row["error"]] if row["error"] else [])]


# -- summaries -------------------------------------------------------------------------------------------


def _summary(record: Record, beside: Beside, lists: Lists) -> dict[str, Any]:
    image = record.get("image") or {}
    row = beside.rows.get(record.get("id") or "")
    known = row if isinstance(row, SummarizeRow) else None
    summary = record.get("summary")
    return {
        "summary": lists.mask.text(summary),
        "length": None if summary is None else len(summary),
        "size": f"{image['width']} x {image['height']}" if image else None,
        "sent": f"{image['sent_width']} x {image['sent_height']}" if image else None,
        "pixels": image["width"] * image["height"] if image else None,
        "ended": record.get("finish_reason"),
        "title": None if known is None else lists.mask.text(known.title),
        "text": None if known is None else lists.mask.text(known.text),
    }


# -- rankings --------------------------------------------------------------------------------------------


def _ranking(record: Record, beside: Beside, lists: Lists) -> dict[str, Any]:
    row = beside.rows.get(record.get("id") or "")
    known = row if isinstance(row, RerankRow) else None
    ranking = record.get("ranking") or []
    order, is_input = candidate_order(record, known)
    places = {name: place for place, name in enumerate(order)}
    by_place = sorted(ranking, key=lambda entry: places[entry["id"]])
    best = [places[entry["id"]] for entry in ranking]
    right = [places.get(name, UNKNOWN) for name in record.get("positive") or ()]
    seen = [best.index(place) + 1 for place in right if place != UNKNOWN and best]
    return _first(lists, [lists.items.place(entry) for entry in _shown(order, known)], best, by_place) | {
        "pos": right,
        "truth": min(seen, default=None),
        "before": FROM_INPUT if is_input else None,
        "score": _unless(_values(by_place, "probability"), _values(by_place, "score")),
        "spread": _values(by_place, "spread"),
        "reads": [_read(read, places) for read in record.get("reads") or ()],
        "judged": _judged(record, len(order)),
        "mass": _round(record.get("label_mass")),
        "exact": _exact(record),
        "past": None if known is None else [lists.items.place(entry) for entry in known.history],
        "query": None if known is None else lists.mask.text(known.query),
    }


def _first(lists: Lists, cand: list[int], best: list[int], by_place: Sequence[Record]) -> dict[str, Any]:
    p = _values(by_place, "probability")
    item = lists.items.items[cand[best[0]]] if best else None
    name = (
        None
        if item is None
        else lists.mask.text(item.title or item.summary or item.text) or lists.mask.id(item.id)
    )
    return {
        "cand": cand,
        "best": best,
        "p": p,
        "first": name,
        "top": p[best[0]] if p and best else None,
        "count": len(cand),
    }


def changes(rows: Columns, other: Columns) -> None:
    """Has rows know how their summary differs from that of another output, by words: what stays, what the
    other did not say (`ins`), what it said instead (`del`)."""
    rows["change"] = [
        None if there is None else _changed(other["summary"][there] or "", own or "")
        for own, there in zip(rows["summary"], rows["there"], strict=True)
    ]


def _changed(before: str, after: str) -> list[list[str]]:
    if before == after:
        return [["", "The same words."]]
    old, new = ([*_WORD.findall(text[:MOST_COMPARED])] for text in (before, after))
    changed = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            changed.append(["", "".join(old[i:j])])
        else:
            parts = [["del", "".join(old[i:j])], ["ins", "".join(new[k:m])]]
            changed += [part for part in parts if part[1]]
    return changed


def ranks_before(rows: Columns, other: Columns, items: Columns) -> None:
    """Has the candidates of each row know the rank that they have in another output, in place of their place
    in the input."""
    for place, there in enumerate(rows["there"]):
        if there is not None and "best" in other:
            ranks = {
                items["id"][other["cand"][there][c]]: rank for rank, c in enumerate(other["best"][there], 1)
            }
            rows["before"][place] = [ranks.get(items["id"][item]) for item in rows["cand"][place]]


def _shown(order: Sequence[str], row: RerankRow | None) -> list[Item | str]:
    """The candidates as the row has them, where it writes them out."""
    if row is None:
        return list(order)
    written = {entry.id: entry for entry in row.candidates if isinstance(entry, Item)}
    return [written.get(name, name) for name in order]


def _values(entries: Sequence[Record], name: str) -> list[float | None] | None:
    values = [_round(entry.get(name)) for entry in entries]
    return None if all(value is None for value in values) else values


def _judged(record: Record, candidates: int) -> int:
    """How the page computes calibration from the reads: ONE_BY_ONE, TOGETHER, or not at all (0)."""
    reads = record.get("reads") or ()
    if not reads or not record.get("positive"):
        return 0
    if all(len(read["order"]) == 1 for read in reads):
        return ONE_BY_ONE
    return TOGETHER if candidates > 1 and all(len(read["order"]) == candidates for read in reads) else 0


def _unless(known: list[float | None] | None, values: list[float | None] | None) -> list[float | None] | None:
    """Values that are not known already."""
    return None if values == known else values


def _read(read: Record, places: dict[str, int]) -> list[Any]:
    """Places of the candidates in the order of the prompt (FROM_INPUT: each has its own), logarithms, those
    of the prior."""
    order = [places.get(name, UNKNOWN) for name in read["order"]]
    return [
        FROM_INPUT if order == [*range(len(order))] else order,
        [_round(value) for value in read["logprobs"]],
        None if read.get("prior") is None else [_round(value) for value in read["prior"]],
    ]


def _exact(record: Record) -> str | None:
    return {True: "yes", False: "bounded", None: None}[record.get("exact")]


# -- prompts of the user's own ---------------------------------------------------------------------------


def _reading(record: Record, beside: Beside, lists: Lists) -> dict[str, Any]:
    row = beside.rows.get(record.get("id") or "")
    labels = [
        Item(lists.mask.label(label, place)) for place, label in enumerate(record.get("labels") or (), 1)
    ]
    values = record.get("probabilities") or []
    logs = record.get("logprobs")
    best = distributions.order(values)
    by_place = [{"probability": value} for value in values]
    return _first(lists, [lists.items.label(label) for label in labels], best, by_place) | {
        "first": labels[best[0]].id if best else None,
        "pos": [],
        "truth": None,
        "before": None,
        "score": None,
        "spread": None,
        "reads": [[FROM_INPUT, [_round(value) for value in logs], None]] if logs else [],
        "mass": _round(record.get("label_mass")),
        "exact": _exact(record),
        "past": None,
        "query": lists.mask.text(row.prompt) if isinstance(row, ProbsRow) else None,
    }


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")
