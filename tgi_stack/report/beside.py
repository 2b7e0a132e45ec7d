"""What a run was asked about and no record holds: titles, histories, prompts, from the files that it read.

A file is taken only where its digest is the one in run.json: what is shown beside an answer was asked
with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tgi_stack.errors import RowError, UsageError
from tgi_stack.jobs.rerank.items import join_items
from tgi_stack.report.outputs import Output
from tgi_stack.rows.opening import open_source
from tgi_stack.rows.reader import Source
from tgi_stack.rows.schema import Row, Schema
from tgi_stack.types import Item


@dataclass(frozen=True)
class Beside:
    """What stands beside the records of an output.

    Attributes:
        rows: rows of the input by their ids; those that can't be read are left out.
        items: what ids in rows of `rerank` stand for.
        base: the folder that the images of the rows begin at.
        has_input, has_items: whether files were given.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    items: dict[str, Item] = field(default_factory=dict)
    base: Path = Path()
    has_input: bool = False
    has_items: bool = False

    def is_of(self, output: Output, other: Output) -> bool:
        """Whether what was read for one output holds for another one, too."""
        return output.asked.get("input") == other.asked.get("input")


def read_beside(output: Output, input: str | None, items: Sequence[str] = ()) -> Beside:
    """Reads what was given.

    Raises:
        UsageError: a file that the run did not read, or items of a job that takes none.
        InputError: a file that can't be read.
    """
    if items and output.job != "rerank":
        raise UsageError(f"--items is for an output of rerank; {output.path} is one of {output.job}")
    columns = output.asked.get("--map") or {}
    known = [open_source(name, columns=columns, kind="item") for name in items]
    for one in known:
        _refuse_another("--items", one, output, output.asked.get("items"))
    joined = join_items(known, pictures=True, skip_bad_rows=True)
    found = {name: item for name, item in joined.items() if isinstance(item, Item)}
    if input is None:
        return Beside(items=found, has_items=bool(items))
    job: Any = output.job
    source = open_source(input, folders=job == "summarize", columns=columns, kind=job)
    before = output.asked.get("input")
    _refuse_another("--input", source, output, None if before is None else [before])
    labels = output.asked.get("--labels")
    wanted = {record["id"] for record in output.records if record.get("id") is not None}
    rows = _rows(source, Schema(job, None if labels is None else tuple(labels)), wanted)
    return Beside(rows, found, source.base, has_input=True, has_items=bool(items))


def _rows(source: Source, schema: Schema, wanted: set[str]) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for raw in source:
        try:
            row = schema.parse(raw)
        except RowError:  # its record says what is wrong with it
            continue
        if row.id in wanted:
            rows[row.id] = row
            if len(rows) == len(wanted):
                break
    return rows


def _refuse_another(option: str, source: Source, output: Output, digests: Sequence[str] | None) -> None:
    if digests is None:  # nobody noted what the run read
        return
    if source.digest() not in digests:
        raise UsageError(
            f"{option} {source.name} is not what {output.path} was made from: its digest is not the one in "
            f"run.json; give the file as the run read it, or leave {option} away"
        )
