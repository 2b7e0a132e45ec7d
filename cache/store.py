"""Bytes on disk by their keys: diskcache, hardened. The only file that imports it.

What diskcache does unasked is switched off: it pickles (here bytes alone go in and come out), it evicts
(here nothing goes but by `gc`), its settings stay with the directory (here they are given at every opening),
a value it can't read is a miss without a word (here it is counted and said). Values stay inside the database,
in envelopes.

SQLite's write-ahead log can lose committed rows where several processes write (3.7.0 to 3.51.2); under those
versions a rollback journal is used.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diskcache

from cache import codecs, places
from cache.errors import CacheError, DamagedError
from cache.leases import Lease, Leases
from cache.users import User, keys_in_use
from cache.writer import Writer

KINDS = {
    "labels": "L",
    "summary": "S",
    "tokens": "T",
    "image": "I",
    "identity": "D",
    "tokenizer": "V",
    "question": "Q",
}
LARGE = frozenset({"image", "tokenizer"})  # kept apart, so that small answers stay close together
WAL_MENDED = (3, 51, 3)
BUSY_S = 2.0
TURN_S = 20.0  # that a writer waits for its turn among other processes
PATIENCE = 3  # lookups that waited too long, before the run goes on without the cache
DATABASE = "cache.db"
GC_BATCH = 64

Say = Callable[[str], None]


class PlainDisk(diskcache.Disk):  # type: ignore[misc]  # it has no types
    """Keys are text, values bytes inside the database; anything else is refused."""

    def put(self, key: object) -> tuple[object, bool]:
        if type(key) is not str:
            raise TypeError(f"a key of type {type(key).__name__}")
        return key, True

    def get(self, key: object, raw: bool) -> object:
        if not raw or not isinstance(key, str):
            raise DamagedError("a key that is no text")
        return key

    def store(self, value: object, read: bool, key: object = None) -> tuple[int, int, None, object]:
        if type(value) is not bytes:
            raise TypeError(f"a value of type {type(value).__name__}")
        return len(value), diskcache.core.MODE_RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: int, filename: object, value: object, read: bool) -> bytes:
        if mode != diskcache.core.MODE_RAW or type(value) is not bytes:
            raise DamagedError("a value that is no bytes of ours")
        return value


def journal_mode() -> str:
    """The journal that this SQLite keeps all rows with."""
    return "wal" if sqlite3.sqlite_version_info >= WAL_MENDED else "truncate"


def open_database(folder: Path) -> diskcache.Cache:
    """A database to write to, made where there is none; takes a tenth of a second.

    Raises:
        CacheError: its settings are not those that it was opened with.
    """
    cache = diskcache.Cache(
        str(folder),
        timeout=BUSY_S,
        disk=PlainDisk,
        disk_min_file_size=2**62,
        eviction_policy="none",
        cull_limit=0,
        size_limit=2**62,
        statistics=0,
        tag_index=0,
        sqlite_journal_mode=journal_mode(),
        sqlite_synchronous=1,
    )
    if (cache.eviction_policy, cache.cull_limit, cache.size_limit) != ("none", 0, 2**62):
        raise CacheError(f"{folder}: its settings can't be set; choose another --cache-dir")
    return cache


class _Shelf:
    """One database: read by a connection that only reads, written through diskcache once there is need."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reader = _connect(folder)
        self._cache: diskcache.Cache | None = None

    def get(self, key: str) -> bytes | None:
        """The blob, or None.

        Raises:
            DamagedError: what is there is none of ours; it is not looked into.
        """
        row = self._reader.execute("SELECT value, mode, raw FROM Cache WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        value, mode, raw = row
        if type(value) is not bytes or mode != diskcache.core.MODE_RAW or raw != 1:
            raise DamagedError("a value that is no bytes of ours")
        return value

    def write(self, entries: list[tuple[str, bytes]]) -> None:
        """Writes several in one transaction; by one thread."""
        with places.alone(self._folder / "writing", TURN_S):
            cache = self._opened()
            with cache.transact():
                for key, blob in entries:
                    cache.set(key, blob)

    def _opened(self) -> diskcache.Cache:
        if self._cache is None:
            _refuse_locked(self._folder)
            self._cache = open_database(self._folder)
        return self._cache

    def volume(self) -> int:
        """Bytes of the database on disk."""
        ((pages,),) = self._reader.execute("PRAGMA page_count").fetchall()
        ((size,),) = self._reader.execute("PRAGMA page_size").fetchall()
        return int(pages * size)

    def oldest(self, until: float) -> list[str]:
        """The names of entries stored before a time, the oldest first."""
        query = "SELECT key FROM Cache WHERE raw = 1 AND store_time <= ? ORDER BY store_time"
        return [name for (name,) in _all(self._folder, query, until)]

    def remove(self, names: list[str]) -> int:
        """Removes entries in one transaction; how many there were."""
        with places.alone(self._folder / "writing", TURN_S):
            cache = self._opened()
            with cache.transact():
                return sum(cache.delete(name) for name in names)

    def close(self) -> None:
        """Closes what is open."""
        self._reader.close()
        if self._cache is not None:
            self._cache.close()


def _refuse_locked(folder: Path) -> None:
    """Raises OperationalError where others hold the database; diskcache would wait for them a minute."""
    with contextlib.closing(sqlite3.connect(folder / DATABASE, timeout=BUSY_S)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()


def _connect(folder: Path) -> sqlite3.Connection:
    """A connection that only reads."""
    url = f"{(folder / DATABASE).absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(url, uri=True, timeout=BUSY_S, check_same_thread=False)
    try:
        connection.execute("SELECT 1 FROM Cache LIMIT 1").fetchone()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            return connection
        connection.close()
        # A log that nobody may write beside it: what is in the database itself is read.
        connection = sqlite3.connect(f"{url}&immutable=1", uri=True, check_same_thread=False)
        connection.execute("SELECT 1 FROM Cache LIMIT 1").fetchone()
    return connection


@dataclass(frozen=True, slots=True)
class Held:
    """What a database holds of one kind: how many entries, their bytes, and when they were stored."""

    kind: str
    entries: int
    bytes: int
    oldest: float
    newest: float


class Store:
    """Values by kind and key; safe among threads and processes of one host.

    A value that was put can be read at once by its writer, by others once it was written (0.1 s later).
    What can't be read or written for whatever reason is a miss or is not kept, and is said once.

    Attributes:
        counts: of `kind hits`, `kind misses` and `kind damaged`.
    """

    def __init__(self, directory: Path, say: Say, *, offline: bool = False, limit: int | None = None) -> None:
        self.directory = directory
        self.counts: Counter[str] = Counter()
        self._say = say
        self._said: set[str] = set()
        self._slow = 0
        self._closed = False
        self._limit = limit
        self._offline = offline
        self._root = places.prepare(directory)
        self._shelves = {name: self._open(name) for name in ("small", "large")}
        # Databases that are there are written to when the first value comes: a warm run writes nothing.
        self.writable = all(places.may_write(self._root / name, DATABASE) for name in self._shelves)
        if not self.writable and not offline:
            self._warn(f"the cache in {directory} can only be read here; nothing new is kept")
        self._leases = Leases(self._root / "leases") if self.writable and not offline else None
        self._user = self._registered() if self.writable else None
        self._writer = Writer(self._write, self._user) if self._leases is not None else None

    # -- opening -----------------------------------------------------------------------------------------

    def _registered(self) -> User | None:
        try:
            return User(self._root / "users")
        except OSError:
            return None

    def _open(self, name: str) -> _Shelf:
        folder = self._root / name
        try:
            return self._opened(folder)
        except (sqlite3.DatabaseError, DamagedError) as error:
            if self._offline:
                raise CacheError(
                    f"{folder / DATABASE} is damaged ({error}); without --offline it is set aside and rebuilt"
                ) from error
            aside = places.set_aside(folder, DATABASE)
            self._warn(f"{folder / DATABASE} was damaged ({error}); it is set aside as {aside.name}")
            return self._opened(folder)

    def _opened(self, folder: Path) -> _Shelf:
        database, made = folder / DATABASE, folder / "made"
        if made.exists():
            if not database.exists() or database.stat().st_size == 0:
                raise DamagedError("it is empty")
            return _Shelf(folder)
        try:
            places.make(folder, database)
            open_database(folder).close()
            places.touch(made)
        except OSError as error:
            raise CacheError(f"{folder}: {error.strerror}; choose another --cache-dir") from error
        except (sqlite3.OperationalError, diskcache.Timeout) as error:
            raise CacheError(f"{folder}: {error}; choose another --cache-dir") from error
        return _Shelf(folder)

    def _warn(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._say(line)

    # -- reading and writing -----------------------------------------------------------------------------

    def get(self, kind: str, key: str, *, again: bool = False) -> bytes | None:
        """The value, or None for a miss; one that is looked up `again` is not counted twice."""
        name = KINDS[kind] + key
        blob = self._writer.pending(name) if self._writer is not None else None
        if blob is None and self._slow < PATIENCE:
            blob = self._read(kind, name)
        if blob is None:
            self.counts[f"{kind} misses"] += not again
            return None
        try:
            payload = codecs.unseal(KINDS[kind], blob)
        except DamagedError as error:
            self._damaged(kind, key, error)
            return None
        self.counts[f"{kind} hits"] += 1
        if self._user is not None:
            self._user.used(name)
        return payload

    def _read(self, kind: str, name: str) -> bytes | None:
        try:
            return self._shelf(kind).get(name)
        except DamagedError as error:
            self._damaged(kind, name[1:], error)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                self._slow += 1
                self._warn(f"the cache in {self.directory} is busy; what takes too long is computed anew")
            else:
                self._lost(kind, error)
        except (OSError, diskcache.Timeout) as error:
            self._slow += 1
            self._warn(f"the cache in {self.directory} can't be read ({error}); computing instead")
        return None

    def _damaged(self, kind: str, key: str, error: DamagedError) -> None:
        self.counts[f"{kind} damaged"] += 1
        self.counts[f"{kind} misses"] += 1
        self._warn(f"the cache's entry {KINDS[kind]}{key[:12]} is damaged ({error}) and is passed over")

    def _lost(self, kind: str, error: sqlite3.DatabaseError) -> None:
        """A database that is damaged in the middle of a run."""
        if self._offline:
            raise CacheError(
                f"{self._root} is damaged ({error}); without --offline it is set aside and rebuilt"
            ) from error
        name = "large" if kind in LARGE else "small"
        aside = places.set_aside(self._root / name, DATABASE)
        self._warn(f"{self._root / name / DATABASE} was damaged ({error}); it is set aside as {aside.name}")
        with contextlib.suppress(sqlite3.Error):
            self._shelves[name].close()
        try:
            self._shelves[name] = self._opened(self._root / name)
        except (CacheError, sqlite3.Error, OSError):
            self._slow = PATIENCE

    def put(self, kind: str, key: str, payload: bytes, then: Callable[[], None] | None = None) -> None:
        """Keeps a value; `then` is called once others can read it, or it can't be written."""
        if self._writer is None:
            if then is not None:
                then()
            return
        name = KINDS[kind] + key
        self._writer.put(name, codecs.seal(KINDS[kind], payload), then)

    def _write(self, entries: dict[str, bytes]) -> None:
        """Called by the writer's thread."""
        letters = {KINDS[kind] for kind in LARGE}
        groups: dict[str, list[tuple[str, bytes]]] = {"small": [], "large": []}
        for name, blob in entries.items():
            groups["large" if name[0] in letters else "small"].append((name, blob))
        for shelf, group in groups.items():
            if not group:
                continue
            try:
                self._shelves[shelf].write(group)
            except (sqlite3.Error, OSError, CacheError, diskcache.Timeout) as error:
                self._warn(
                    f"the cache in {self.directory} can't be written ({error!s}); answers are not kept"
                )
        if self._limit is not None and self.volume() > self._limit:
            self._collect(to_bytes=int(0.9 * self._limit))

    def lease(self, kind: str, key: str) -> Lease | None:
        """The right to compute a value, unless another process has it; see `Leases`."""
        return None if self._leases is None else self._leases.take(KINDS[kind], key)

    @property
    def leases(self) -> bool:
        """Whether processes can keep out of each other's way."""
        return self._leases is not None

    def _shelf(self, kind: str) -> _Shelf:
        return self._shelves["large" if kind in LARGE else "small"]

    def flush(self) -> None:
        """Waits until all that was put is written."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Writes what is left; adds to the counts that stay."""
        if self._closed:
            return
        self._closed = True
        if self._writer is not None:
            self._writer.close()
        for shelf in self._shelves.values():
            with contextlib.suppress(sqlite3.Error):
                shelf.close()
        if self._user is not None:
            self._user.close()
            self._keep_counts()

    # -- looking after it --------------------------------------------------------------------------------

    def volume(self) -> int:
        """Bytes that the databases have on disk."""
        return sum(shelf.volume() for shelf in self._shelves.values())

    def kept(self) -> list[Held]:
        """What there is of each kind."""
        self.flush()
        names = {letter: kind for kind, letter in KINDS.items()}
        query = (
            "SELECT substr(key, 1, 1), COUNT(*), SUM(LENGTH(value)), MIN(store_time), MAX(store_time) "
            "FROM Cache GROUP BY 1"
        )
        rows = [row for folder in self._folders() for row in _all(folder, query)]
        return [Held(names[row[0]], *row[1:]) for row in rows if row[0] in names]

    def entries(self) -> Iterator[tuple[str, str, bytes | None]]:
        """Kind, key and value of all entries; None for a value whose digest does not hold."""
        self.flush()
        names = {letter: kind for kind, letter in KINDS.items()}
        for folder in self._folders():
            for name, blob in _all(folder, "SELECT key, value FROM Cache WHERE raw = 1 ORDER BY key"):
                kind = names.get(str(name)[:1])
                if kind is None:
                    continue
                try:
                    yield kind, name[1:], codecs.unseal(KINDS[kind], blob)
                except DamagedError:
                    yield kind, name[1:], None

    def all_of(self, kind: str) -> list[tuple[str, bytes]]:
        """Keys and values of all entries of a kind of which there are few."""
        self.flush()
        letter = KINDS[kind]
        folder = self._root / ("large" if kind in LARGE else "small")
        query = "SELECT key FROM Cache WHERE raw = 1 AND key >= ? AND key < ?"
        try:
            with contextlib.closing(_connect(folder)) as connection:
                names = connection.execute(query, (letter, chr(ord(letter) + 1))).fetchall()
        except sqlite3.DatabaseError as error:
            raise CacheError(f"{folder / DATABASE} can't be read ({error})") from error
        found = ((name[1:], self.get(kind, name[1:], again=True)) for (name,) in names)
        return [(key, payload) for key, payload in found if payload is not None]

    def _folders(self) -> list[Path]:
        return [self._root / name for name in ("small", "large")]

    def gc(self, *, older_than_s: float | None = None, to_bytes: int | None = None) -> tuple[int, int]:
        """Removes the oldest entries; never one that a running job has written or read.

        Args:
            older_than_s: those stored longer ago than this.
            to_bytes: as many as it takes until the databases are no larger.

        Returns:
            How many went, and how many bytes the databases are smaller.
        """
        if not self.writable:
            raise CacheError(f"the cache in {self.directory} can only be read here")
        self.flush()
        return self._collect(older_than_s, to_bytes)

    def _collect(self, older_than_s: float | None = None, to_bytes: int | None = None) -> tuple[int, int]:
        before = self.volume()
        until = time.time() - (older_than_s or 0.0)
        # Looked up before it is asked what is in use: what comes later is nobody's to remove.
        found = [(shelf, shelf.oldest(until)) for shelf in self._shelves.values()]
        in_use = keys_in_use(self._root / "users")
        removed = 0
        for shelf, names in found:
            free = [name for name in names if User.number_of(name) not in in_use]
            for place in range(0, len(free), GC_BATCH):
                if to_bytes is not None and self.volume() <= to_bytes:
                    break
                removed += shelf.remove(free[place : place + GC_BATCH])
        return removed, max(0, before - self.volume())

    def clear(self) -> int:
        """Removes all entries that no running job uses."""
        return self.gc(older_than_s=0.0)[0]

    def _keep_counts(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            places.add_counts(self._root / "counts.json", self.counts)

    def lifetime_counts(self) -> Counter[str]:
        """The counts of all runs so far."""
        try:
            return Counter(json.loads((self._root / "counts.json").read_text()))
        except (OSError, ValueError):
            return Counter()


def _all(folder: Path, query: str, *values: float) -> Iterator[tuple[Any, ...]]:
    with contextlib.closing(_connect(folder)) as connection:
        yield from connection.execute(query, values)
