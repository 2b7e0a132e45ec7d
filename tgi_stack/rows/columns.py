"""Which fields of an input are asked for, and under which names they stand there (`--map`)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tgi_stack.errors import InputError, UsageError

Kind = Literal["summarize", "rerank", "probs", "item"]
Fields = Mapping[str, Any]  # name -> None, or the fields inside

IMAGE: Fields = {"bytes": None, "path": None, "sha256": None}  # the last of a record of summarize
ITEM: Fields = {"id": None, "title": None, "text": None, "summary": None, "data": None} | {
    "image": IMAGE,
    "status": None,
}
FIELDS: dict[Kind, Fields] = {
    "summarize": {"id": None, "image": IMAGE, "title": None, "text": None},
    "rerank": {"id": None, "history": ITEM, "query": None, "candidates": ITEM, "positive": None},
    "probs": {"id": None, "prompt": None, "labels": None, "num_candidates": None},
    "item": ITEM,
}
# Without this one a table has no row that can be read.
NEEDED: dict[Kind, str] = {"summarize": "id", "rerank": "candidates", "probs": "prompt", "item": "id"}
OTHER_SEPARATORS = ";\t|"
AROUND_NAMES = " \t\r\n\xa0\ufeff"
SHOWN_NAMES = 10


def parse_map(value: str | None, *kinds: Kind) -> dict[str, str]:
    """`id=asin,title=name` as our name -> the file's.

    Args:
        kinds: whose fields our names are of.

    Raises:
        UsageError: no pairs, a field that there is none of, or a name that stands twice on one side.
    """
    if value is None:
        return {}
    known = sorted({name for kind in kinds for name in FIELDS[kind]} - {"status"})
    columns: dict[str, str] = {}
    for pair in value.split(","):
        ours, _, theirs = pair.partition("=")
        if not ours or not theirs:
            raise UsageError(f"--map {value}: give pairs such as id=asin,title=name")
        if ours not in known:
            near = difflib.get_close_matches(ours, known, n=1, cutoff=0.0)[0]
            raise UsageError(f"--map {pair}: no field `{ours}`; did you mean `{near}`?")
        if ours in columns or theirs in columns.values():
            twice = ours if ours in columns else theirs
            raise UsageError(f"--map {value}: `{twice}` stands twice; give each name once")
        columns[ours] = theirs
    return columns


class Wanted:
    """The fields that are asked of one input.

    Args:
        kind: whose fields; None for all that there are.
        columns: our name of a field -> the file's own. A pair counts where the input has its column: one
            --map serves the rows and the items beside them.

    Attributes:
        unseen: columns of the file's own that no row has had yet.
        left_out: columns of a header that are not asked for.
    """

    def __init__(self, kind: Kind | None = None, columns: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self.fields = None if kind is None else FIELDS[kind]
        self.columns = dict(columns or {})
        self.unseen = set(self.columns.values())
        self.names_seen: set[str] = set()
        self.left_out: set[str] = set()

    def of_header(self, header: Sequence[str], place: str) -> dict[int, str]:
        """Our names of the columns that are asked for, by their number.

        Raises:
            InputError: two columns are one field, or the one that every row needs is missing.
        """
        self._note(header)
        active = {theirs: ours for ours, theirs in self.columns.items() if theirs in header}
        hidden = set(active.values())
        found: dict[int, str] = {}
        for number, theirs in enumerate(header):
            ours = active.get(theirs) or (None if theirs in hidden else theirs)
            if ours is None or (self.fields is not None and ours not in self.fields):
                self.left_out.add(theirs)
                continue
            if ours in found.values():
                raise InputError(f"{place}: the column `{theirs}` stands twice; rename one of the two")
            found[number] = ours
        if self.kind is not None and header:
            self._refuse_spaces(header, place)
            if NEEDED[self.kind] not in found.values():
                raise InputError(f"{place}: {self._lacks(header)}")
        return found

    def _refuse_spaces(self, header: Sequence[str], place: str) -> None:
        asked = {*(self.fields or ()), *self.columns.values()} - {*header}
        for name in header:
            clean = name.strip(AROUND_NAMES)
            if clean != name and clean in asked and name not in self.columns.values():
                raise InputError(
                    f"{place}: the column {name!r} has spaces around its name; write `{clean}` (cells are "
                    "taken as they stand, their spaces too)"
                )

    def _lacks(self, header: Sequence[str]) -> str:
        """What a header without the column that every row needs is told."""
        ours = NEEDED[self.kind or "item"]
        named = self.columns.get(ours, ours)
        if len(header) == 1 and (separator := next((c for c in OTHER_SEPARATORS if c in header[0]), None)):
            return f"cells are parted by {separator!r}; save it as CSV with commas between them"
        there = ", ".join(f"`{name}`" for name in header[:SHOWN_NAMES])
        there += ", ..." if len(header) > SHOWN_NAMES else ""
        alike = [name for name in header if name.strip(AROUND_NAMES).casefold() == named.casefold()]
        near = alike or difflib.get_close_matches(named, header, n=1)
        advice = f"did you mean --map {ours}={near[0]}?" if near else f"name it with --map {ours}=COLUMN"
        return f"no column `{named}`; the first line names {there}; {advice}"

    def of_object(self, value: dict[str, Any]) -> dict[str, Any]:
        """An object with our names of its fields."""
        if not self.columns:
            return value
        self._note(value)
        active = {theirs: ours for ours, theirs in self.columns.items() if theirs in value}
        if not active:
            return value
        hidden = {*active.values(), *active}
        rest = {name: found for name, found in value.items() if name not in hidden}
        return {ours: value[theirs] for theirs, ours in active.items()} | rest

    def _note(self, names: Sequence[str] | dict[str, Any]) -> None:
        if self.unseen:
            self.unseen.difference_update(names)
            if len(self.names_seen) < 1000:  # enough to name the nearest
                self.names_seen.update(names)


def refuse_unseen(wanted: Sequence[Wanted]) -> None:
    """To be called when every row was read.

    Raises:
        UsageError: a column that --map names stands in no row of any input.
    """
    unseen = set[str].intersection(*(one.unseen for one in wanted)) if wanted else set()
    if not unseen:
        return
    name = min(unseen)
    ours = next(ours for ours, theirs in wanted[0].columns.items() if theirs == name)
    near = difflib.get_close_matches(name, set().union(*(one.names_seen for one in wanted)), n=1, cutoff=0.0)
    advice = f"; did you mean `{near[0]}`?" if near else ""
    raise UsageError(f"--map {ours}={name}: no row has a field `{name}`{advice}")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a value that can't be read: the row that needs it fails."""

    reason: str
