"""What there is, which entries are the oldest, and their removal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from cache.shelf import Shelf
from cache.users import InUse, User

BATCH = 64


class Held(NamedTuple):
    """What a database holds of one kind: how many entries, their bytes, and when they were stored."""

    kind: str
    entries: int
    bytes: int
    oldest: float
    newest: float


class Old(NamedTuple):
    """An entry, when it was stored, what it is for `User`, and where it lies."""

    at: float
    name: str
    number: int
    place: int
    shelf: Shelf


def oldest(shelves: Iterable[Shelf], until: float) -> list[Old]:
    """The entries of all shelves that were stored before a time, the oldest first."""
    query = "SELECT store_time, key FROM Cache WHERE raw = 1 AND store_time <= ?"
    found = []
    for place, shelf in enumerate(shelves):
        for at, name in shelf.rows(query, until):
            try:
                found.append(Old(at, name, User.number_of(name), place, shelf))
            except (ValueError, TypeError, IndexError):  # no key of ours
                continue
    return sorted(found, key=attrgetter("at"))


def remove(entries: Sequence[Old], enough: Callable[[], bool], in_use: InUse) -> int:
    """Removes entries that nobody uses, in order, until it is enough; how many there were."""
    removed = 0
    for start in range(0, len(entries), BATCH):
        if enough():
            break
        batch = sorted(entries[start : start + BATCH], key=attrgetter("place"))
        for _, group in groupby(batch, key=attrgetter("place")):
            here = list(group)
            removed += here[0].shelf.remove(partial(_free, here, in_use))
    return removed


def _free(entries: Sequence[Old], in_use: InUse) -> list[str]:
    taken = in_use.now()
    return [one.name for one in entries if one.number not in taken]
