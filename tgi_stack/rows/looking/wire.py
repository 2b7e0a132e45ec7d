"""What a run and a process that looks at rows tell each other, by `marshal`: rows, and what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tgi_stack.errors import RowError
from tgi_stack.rows.columns import Wanted
from tgi_stack.rows.looking.seen import Looker, Seen
from tgi_stack.rows.reader import Line, UnreadRow
from tgi_stack.rows.schema import Schema

# Of each row its number, its line, and the file and place of that.
Block = tuple[list[int], list[bytes], list[str], list[int]]
# Of each row its id; of those that are wrong the place in the block, and type and message of the error; what
# the looker has noted of all rows so far.
Answer = tuple[list[str | None], list[tuple[int, str, str]], dict[str, Any]]


def packed(rows: Sequence[UnreadRow]) -> Block:
    """A block of rows, all of which are lines."""
    lines = [row.value for row in rows if isinstance(row.value, Line)]
    contents, files, places = (list(column) for column in zip(*lines, strict=True))
    return [row.number for row in rows], contents, files, places


def looked_at(block: Block, looker: Looker) -> Answer:
    """What a looker sees of a block."""
    seen = [
        looker.see_unread(UnreadRow(number, Line(content, file, place)))
        for number, content, file, place in zip(*block, strict=True)
    ]
    errors = [(n, one.error.type, str(one.error)) for n, one in enumerate(seen) if one.error is not None]
    return [one.id for one in seen], errors, _noted(looker)


def seen_of(rows: Sequence[UnreadRow], answer: Answer, looker: Looker) -> list[Seen]:
    """The answer for a block; what was noted there is noted here, too."""
    ids, errors, noted = answer
    looker.left_out.update(noted["left_out"])
    looker.wanted.unseen &= set(noted["unseen"])
    looker.wanted.names_seen.update(noted["names_seen"])
    wrong = {place: RowError(type, message) for place, type, message in errors}
    return [
        Seen(row.number, id, wrong.get(place)) for place, (row, id) in enumerate(zip(rows, ids, strict=True))
    ]


def _noted(looker: Looker) -> dict[str, Any]:
    wanted = looker.wanted
    names = sorted(wanted.names_seen) if wanted.unseen else []
    return {"left_out": sorted(looker.left_out), "unseen": sorted(wanted.unseen), "names_seen": names}


def told(looker: Looker) -> tuple[Any, ...]:
    """What a process is told at first; see `looker_of`."""
    schema, wanted = looker.schema, looker.wanted
    return schema.job, schema.labels, wanted.kind, dict(wanted.columns)


def looker_of(given: tuple[Any, ...]) -> Looker:
    """The looker of another process, by what it was told."""
    job, labels, kind, columns = given
    return Looker(Schema(job, labels), Wanted(kind, columns))
