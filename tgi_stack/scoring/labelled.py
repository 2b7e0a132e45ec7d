"""How well data that was read from pictures agrees with labelled data, field by field: `eval --labelled`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from tgi_stack.errors import InputError, RowError
from tgi_stack.rows import schema
from tgi_stack.rows.opening import open_source
from tgi_stack.rows.output import records
from tgi_stack.rows.records import fault_in


@dataclass
class Field:
    """One place of the labelled data, such as `look.colour`.

    Attributes:
        rows: labelled rows that have it; each counts, also where there is no answer.
        exact: answers that are equal; of lists, that hold the same, in any order.
        precision, recall: of lists, their sums over the rows.
        lists: rows whose label is a list.
    """

    rows: int = 0
    exact: int = 0
    lists: int = 0
    precision: float = 0.0
    recall: float = 0.0

    def add(self, label: Any, answer: Any, *, answered: bool) -> None:
        """Counts a row; `answer` is None where there is none, in data or because nothing was `answered`."""
        self.rows += 1
        if not isinstance(label, list):
            self.exact += answered and _same(label, answer)
            return
        wanted, found = _set(label), _set(answer if isinstance(answer, list) else [])
        both = len(wanted & found)
        self.lists += 1
        self.exact += wanted == found and isinstance(answer, list)
        self.precision += both / len(found) if found else float(not wanted and isinstance(answer, list))
        self.recall += both / len(wanted) if wanted else float(isinstance(answer, list))

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        measures = {"rows": self.rows, "exact": self.exact / self.rows}
        if self.lists:
            precision, recall = self.precision / self.lists, self.recall / self.lists
            total = precision + recall
            f1 = 2 * precision * recall / total if total else 0.0
            measures |= {"precision": precision, "recall": recall, "f1": f1}
        return measures


@dataclass
class Labelled:
    """The figures of an output against labelled data.

    Attributes:
        failed: labelled rows without data in the output: they count as wrong everywhere.
        without_label: rows of the output that nothing is labelled of: left out.
        without_record: labelled rows that the output has no record of: left out.
    """

    fields: dict[str, Field] = field(default_factory=dict)
    rows: int = 0
    failed: int = 0
    without_label: int = 0
    without_record: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        counts = {"rows": self.rows, "failed": self.failed, "without_label": self.without_label}
        counts |= {"without_record": self.without_record}
        return counts | {"fields": {name: one.as_dict() for name, one in self.fields.items()}}

    def printed(self) -> Iterator[Table | str]:
        """For people."""
        table = Table("field", "rows", "exact", "precision", "recall", "F1")
        for name, one in self.fields.items():
            found = one.as_dict()
            values = (found.get(measure) for measure in ("exact", "precision", "recall", "f1"))
            table.add_row(name, f"{one.rows:,}", *("" if v is None else f"{v:.4f}" for v in values))
        yield table
        yield (
            f"{self.rows:,} labelled rows; {self.failed:,} without data counted as wrong; "
            f"{self.without_label:,} rows without a label left out"
        )
        if self.without_record:
            yield f"{self.without_record:,} labelled rows without a record left out"


def against(out: Path, labels: Path) -> Labelled:
    """An output of `summarize --schema` against rows with an `id` and labelled `data`.

    Raises:
        InputError: one of them can't be read, an id stands twice, or they have no row in common.
    """
    wanted = _labels(labels)
    found = Labelled()
    answers: dict[str, Any] = {}
    seen: set[str] = set()
    for number, record in enumerate(records(out), 1):
        id = _id(record, out, number)
        if id in seen:
            raise InputError(f"{out}: record {number}: the id {id!r} stands twice; leave one of them out")
        if id not in wanted:
            found.without_label += 1
            continue
        seen.add(id)
        if record["status"] == "ok":
            answers[id] = record.get("data")
    if not any(isinstance(one, dict) for one in answers.values()):
        raise InputError(f"{out} has no `data` of a row that is labelled; summarize with --schema writes it")
    found.without_record = len(wanted.keys() - seen)
    for id, label in wanted.items():
        if id not in seen:
            continue
        answer = answers.get(id)
        found.rows += 1
        found.failed += not isinstance(answer, dict)
        for place, value in _leaves(label):
            one = found.fields.setdefault(".".join(place), Field())
            one.add(value, _at(answer, place), answered=isinstance(answer, dict))
    return found


def _id(record: dict[str, Any], out: Path, number: int) -> str | None:
    """The id of a record; raises InputError for one that `summarize` does not write."""
    fault = "no `status`" if "status" not in record else fault_in("summarize", record)
    if fault is not None:
        raise InputError(f"{out}: record {number}: {fault}; --labelled wants an output of summarize")
    return record.get("id")


def _labels(path: Path) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    for raw in open_source(str(path), kind="item"):
        try:
            item = schema.item(schema.fields(raw))
        except RowError as error:
            raise InputError(f"{path}, row {raw.number}: {error}") from error
        if item.data is None:
            raise InputError(f"{path}, row {raw.number}: no `data`, which holds the labels as an object")
        if item.id in wanted:
            raise InputError(f"{path}, row {raw.number}: the id {item.id!r} stands twice")
        wanted[item.id] = json.loads(item.data)
    return wanted


def _leaves(value: dict[str, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _leaves(inner, (*place, name))
        else:
            yield (*place, name), inner


def _at(value: Any, place: tuple[str, ...]) -> Any:
    for name in place:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _same(label: Any, answer: Any) -> bool:
    # In JSON true is no 1, to Python it is.
    return isinstance(label, bool) == isinstance(answer, bool) and bool(label == answer)


def _set(values: list[Any]) -> set[str]:
    return {json.dumps(_plain(value), sort_keys=True) for value in values}


def _plain(value: Any) -> Any:
    """A value of which equal numbers are written alike."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
