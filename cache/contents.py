"""What the databases of a cache hold, kind by kind and entry by entry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cache import kinds
from cache.errors import DamagedError
from cache.storage import codecs
from cache.storage.database import Database


class Held(NamedTuple):
    """What a database holds of one kind: how many entries, their bytes, and when they were stored."""

    kind: str
    entries: int
    bytes: int
    oldest: float
    newest: float


def volume(databases: Sequence[Database]) -> int:
    """Bytes on disk."""
    return sum(database.volume() for database in databases)


def held(databases: Sequence[Database]) -> list[Held]:
    """What there is of each kind."""
    query = (
        "SELECT substr(key, 1, 1), COUNT(*), SUM(LENGTH(value)), MIN(store_time), MAX(store_time) "
        "FROM Cache GROUP BY 1"
    )
    rows = [row for database in databases for row in database.rows(query)]
    return [Held(kind.name, *row[1:]) for row in rows if (kind := kinds.of_letter(row[0])) is not None]


def entries(databases: Sequence[Database]) -> Iterator[tuple[str, str, bytes | None]]:
    """Kind, key and value of all entries; None for a value whose digest does not hold."""
    for database in databases:
        for name, blob in database.entries():
            kind = kinds.of_letter(str(name)[:1])
            if kind is None:
                continue
            try:
                yield kind.name, name[1:], codecs.unseal(kind.letter, blob)
            except DamagedError:
                yield kind.name, name[1:], None
