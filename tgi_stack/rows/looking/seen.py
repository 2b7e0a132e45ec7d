"""What is seen of a row that is looked at, whichever process looks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from tgi_stack.errors import RowError
from tgi_stack.rows.columns import Wanted
from tgi_stack.rows.reader import RawRow, UnreadRow, id_of, read_row
from tgi_stack.rows.schema import Schema

PICTURES = frozenset({"image", "images"})  # as rows of other jobs have them


class Seen(NamedTuple):
    """A row's id, and what is wrong with it; of a row that is wrong in other ways the id that can be read."""

    number: int
    id: str | None
    error: RowError | None


@dataclass(frozen=True, slots=True)
class Looker:
    """Looks at rows.

    Attributes:
        wanted: the fields that are asked for; what of them was seen is noted there.
        left_out: names of pictures that rows have.
    """

    schema: Schema
    wanted: Wanted
    left_out: set[str] = field(default_factory=set)

    def see(self, raw: RawRow) -> Seen:
        """What there is to be seen of a row."""
        if isinstance(raw.value, dict):
            self.left_out.update(raw.value.keys() & PICTURES)
        try:
            return Seen(raw.number, self.schema.id_of(raw), None)
        except RowError as error:
            return Seen(raw.number, id_of(raw), error)

    def see_unread(self, row: UnreadRow) -> Seen:
        """The same of one that is still to be read."""
        return self.see(read_row(row, self.wanted))
