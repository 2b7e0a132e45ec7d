"""Whether all rows of an input are sound, before the first question."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing

from tgi_stack.errors import InputError
from tgi_stack.rows.columns import refuse_unseen
from tgi_stack.rows.looking.crowd import how_many, seen_by_many
from tgi_stack.rows.looking.per_row import Duplicates
from tgi_stack.rows.looking.seen import PICTURES, Looker
from tgi_stack.rows.reader import Folder, Source, id_of
from tgi_stack.rows.schema import BadRows, Schema

LOG = logging.getLogger(__name__)


def check(
    source: Source,
    schema: Schema,
    *,
    skip_bad_rows: bool = False,
    others: Sequence[Source] = (),
) -> int:
    """Reads a source through: how many rows it has. Memory does not grow with their number.

    Args:
        others: what is read beside it under the same names of columns.

    Raises:
        InputError: rows that can't be parsed (unless `skip_bad_rows`, when each will fail on its own), or an
            id that stands twice.
        UsageError: a column that no row has.
    """
    bad = BadRows("rows")
    count = 0
    looker = Looker(schema, source.wanted)
    with Duplicates() as ids, closing(seen_by_many(source, looker, how_many(source))) as rows:
        for number, id, error in rows:
            count += 1
            if id is not None:
                ids.add(number, id)
            if error is not None:
                bad.add(f"row {number}", error)
        if not skip_bad_rows:
            bad.refuse()
        twice = ids.first()
    if twice is not None:
        first, second = twice
        name = next(id_of(raw) or str(raw.number) for raw in source if raw.number == first)
        raise InputError(f"id {name!r} stands in row {first} and in row {second}; ids must be unique")
    _refuse_unseen_columns([source, *others])
    if schema.job == "probs" and (names := looker.left_out | (source.wanted.left_out & PICTURES)):
        LOG.warning(
            f"{source.name}: `{min(names)}` is left out: probs reads prompts alone; summarize and "
            "rerank --item-images show pictures"
        )
    return count


def _refuse_unseen_columns(sources: Sequence[Source]) -> None:
    """Raises UsageError for a column of --map that no row has; others are read as far as need be."""
    files = [source for source in sources if not isinstance(source, Folder)]
    for file in files[1:]:
        if not set.intersection(*(one.wanted.unseen for one in files)):
            return
        for _ in file:
            if not file.wanted.unseen & files[0].wanted.unseen:
                break
    refuse_unseen([file.wanted for file in files])
