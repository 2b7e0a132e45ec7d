"""Which entries are the oldest, and their removal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from cache.contents import volume
from cache.sharing.active_jobs import ActiveJob, ActiveJobs
from cache.storage.database import Database

BATCH = 64


class Old(NamedTuple):
    """An entry, when it was stored, what it is for `ActiveJob`, and where it lies."""

    at: float
    name: str
    number: int
    place: int
    database: Database


class Room:
    """What a cache may take on disk. Where it takes more, the oldest go, as far as nobody uses them.

    Where those do not suffice there is no room until some are let go. To look for them takes time in
    proportion to all entries, so that it is done for an eleventh of the time at most.

    Args:
        most: bytes.
        collect: removes the oldest until so many bytes are left, as far as it can.
    """

    def __init__(
        self,
        most: int,
        volume: Callable[[], int],
        collect: Callable[[int], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._volume = volume
        self._collect = collect
        self._clock = clock
        self._again_at = 0.0

    def make(self) -> bool:
        """Whether there is any, or could be made; raises as `collect` does."""
        if self._volume() <= self._most:
            return True
        began = self._clock()
        if began < self._again_at:
            return False
        self._collect(int(0.9 * self._most))
        now = self._clock()
        self._again_at = now + 10 * (now - began)
        return self._volume() <= self._most


def collect(
    databases: Sequence[Database],
    in_use: ActiveJobs,
    staying: frozenset[str],
    until: float,
    to_bytes: int | None = None,
    ending: str = "",
) -> tuple[int, int]:
    """Removes the oldest entries that nobody uses.

    Args:
        staying: the letters of the kinds of which none goes.
        until: the time before which an entry was stored that goes.
        to_bytes: as many go as it takes until the databases are no larger; None for all.
        ending: what the keys of those end with that go.

    Returns:
        How many went, and how many bytes the databases are smaller.
    """
    before, taken = volume(databases), in_use.now()
    found = [one for one in oldest(databases, until) if one.name.endswith(ending)]
    free = [one for one in found if one.name[0] not in staying and one.number not in taken]
    enough = (lambda: False) if to_bytes is None else (lambda: volume(databases) <= to_bytes)
    return remove(free, enough, in_use), max(0, before - volume(databases))


def oldest(databases: Iterable[Database], until: float) -> list[Old]:
    """The entries of all databases that were stored before a time, the oldest first."""
    query = "SELECT store_time, key FROM Cache WHERE raw = 1 AND store_time <= ?"
    found = []
    for place, database in enumerate(databases):
        for at, name in database.rows(query, until):
            try:
                found.append(Old(at, name, ActiveJob.number_of(name), place, database))
            except (ValueError, TypeError, IndexError):  # no key of ours
                continue
    return sorted(found, key=attrgetter("at"))


def remove(entries: Sequence[Old], enough: Callable[[], bool], in_use: ActiveJobs) -> int:
    """Removes entries that nobody uses, in order, until it is enough; how many there were."""
    removed = 0
    for start in range(0, len(entries), BATCH):
        if enough():
            break
        batch = sorted(entries[start : start + BATCH], key=attrgetter("place"))
        for _, group in groupby(batch, key=attrgetter("place")):
            here = list(group)
            removed += here[0].database.remove(partial(_free, here, in_use))
    return removed


def _free(entries: Sequence[Old], in_use: ActiveJobs) -> list[str]:
    taken = in_use.now()
    return [one.name for one in entries if one.number not in taken]
