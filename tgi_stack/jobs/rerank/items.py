"""What ids in rows of `rerank` stand for: the lines of several files, joined."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from tgi_stack.errors import ItemError, RowError
from tgi_stack.rows import schema
from tgi_stack.rows.reader import RawRow, Source, id_of
from tgi_stack.rows.schema import BadRows
from tgi_stack.types import Item, NoPicture

LOG = logging.getLogger("fastqwen")

# An error is what rows that need the item fail with.
Items = dict[str, Item | ItemError]

_OF_A_RECORD = NoPicture(
    "image.missing", "a record of summarize holds no picture; give another --items file that names it"
)


def join_items(sources: Iterable[Source], *, pictures: bool = False, skip_bad_rows: bool = False) -> Items:
    """Items of several files, joined by id: a later line fills in what an earlier one lacks.

    That holds for lines of one file too, with a warning. Failed records of `summarize` are passed over;
    pictures are kept where they are asked for.

    Raises:
        InputError: lines that are no items, unless `skip_bad_rows`.
    """
    items: Items = {}
    bad = BadRows("items")
    for source in sources:
        _join(source, items, bad, pictures=pictures)
    if not skip_bad_rows:
        bad.refuse()
    if (told := bad.told()) is not None:
        LOG.warning(f"{told}; rows that need them fail")
    return items


def _join(source: Source, items: Items, bad: BadRows, *, pictures: bool) -> None:
    rows: dict[str, int] = {}
    first, twice = "", 0
    for raw in source:
        if isinstance(raw.value, dict) and raw.value.get("status") == "failed":
            continue
        found: Item | ItemError
        try:
            found = _item(raw, source, pictures=pictures)
            name = found.id
        except RowError as error:
            place = f"--items {source.name}, row {raw.number}"
            bad.add(place, error)
            known = id_of(raw)
            if known is None:  # no row can ask for it
                continue
            name, found = known, ItemError("item.invalid", f"item {known!r} ({place}): {error}")
        if name in rows:
            twice += 1
            first = first or f"{name!r} in row {rows[name]} and in row {raw.number}"
        rows.setdefault(name, raw.number)
        items[name] = _merge(items.get(name), found)
    if twice:
        rule = "a later line only fills in what an earlier one lacks"
        LOG.warning(f"--items {source.name}: {twice:,} lines repeat an id (first {first}); {rule}")


def _item(raw: RawRow, source: Source, *, pictures: bool) -> Item:
    value = schema.fields(raw)
    found = schema.item(value)
    if not pictures:
        return replace(found, image=None)
    if isinstance(found.image, str):
        return replace(found, image=str(source.base.resolve() / found.image))
    return replace(found, image=_OF_A_RECORD) if schema.is_record(value) else found


def _merge(old: Item | ItemError | None, new: Item | ItemError) -> Item | ItemError:
    if old is None or isinstance(old, ItemError):
        return old or new
    if isinstance(new, ItemError):
        return new
    return Item(
        id=old.id,
        title=old.title or new.title,
        text=old.text or new.text,
        summary=old.summary or new.summary,
        image=_better(old.image, new.image),
        data=old.data or new.data,
    )


def _better(
    old: str | bytes | NoPicture | None, new: str | bytes | NoPicture | None
) -> str | bytes | NoPicture | None:
    """The first of two that is a picture, else the first that says why it is none."""
    return new if old is None or (isinstance(old, NoPicture) and new is not None) else old
