"""One database: diskcache, hardened. The only file that imports it.

What diskcache does unasked is switched off: it pickles (here bytes alone go in and come out), it evicts
(here nothing goes but by `gc`), its settings stay with the directory (here they are given at every
opening), it maps the file into memory (here it is read), a value it can't read is a miss without a word
(here it is counted and said). Values stay inside the database, in envelopes.

SQLite's write-ahead log can lose committed rows where several processes write (3.7.0 to 3.51.2); under those
versions a rollback journal is used. With that a reader keeps writers out, so that nothing here reads long.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import diskcache

from cache.errors import CacheError, DamagedError
from cache.sharing import forks
from cache.sharing.patience import Patience
from cache.storage import paths

WAL_MENDED = (3, 51, 3)
BUSY_S = 2.5  # that a lookup waits for processes that run
ASK_S = 0.1  # that SQLite waits, before those are looked at
TURN_S = 20.0  # that a writer waits for its turn among other processes
TRIES = 3  # times BUSY_S, of a transaction that others' readers keep from its end
PAGE = 64  # entries read at a time
DATABASE = "cache.db"
# SQLITE_ERROR too: the queries here are fixed, so that it is the tables that are not as they were made.
DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


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


def is_damage(error: Exception) -> bool:
    """Whether the database itself is not what was written; else it can't be reached just now, or by us."""
    return isinstance(error, DamagedError) or _code(error) in DAMAGE


def is_full(error: Exception) -> bool:
    """Whether there is no room on the disk."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return _code(error) == sqlite3.SQLITE_FULL or getattr(error, "errno", None) in full


def _is_busy(error: Exception) -> bool:
    return isinstance(error, TimeoutError) or _code(error) in BUSY


def _code(error: Exception) -> int:
    return int(getattr(error, "sqlite_errorcode", -1)) & 0xFF


def open_for_writing(folder: Path) -> diskcache.Cache:
    """A database to write to, made where there is none; takes a tenth of a second.

    Raises:
        CacheError: its settings are not those that it was opened with.
        TimeoutError: others hold it.
    """
    try:
        cache = diskcache.Cache(
            str(folder),
            timeout=ASK_S,
            disk=PlainDisk,
            disk_min_file_size=2**62,
            eviction_policy="none",
            cull_limit=0,
            size_limit=2**62,
            statistics=0,
            tag_index=0,
            sqlite_journal_mode=journal_mode(),
            sqlite_synchronous=1,
            sqlite_mmap_size=0,  # a file cut short by somebody else would end the process
        )
    except diskcache.Timeout as error:
        raise TimeoutError("another program holds the database") from error
    if (cache.eviction_policy, cache.cull_limit, cache.size_limit) != ("none", 0, 2**62):
        raise CacheError(f"{folder}: its settings can't be set; choose another --cache-dir")
    return cache


class Database:
    """One database: read by a connection that only reads, written through diskcache once there is need.

    All methods raise sqlite3.Error or OSError where it can't be read or written.

    Attributes:
        inode: of the file that was opened; another one is there once the database was rebuilt.
    """

    def __init__(self, folder: Path, patience: Patience | None = None) -> None:
        self.inode = inode_of(folder)
        self._folder = folder
        self._file = folder / DATABASE
        self._patience = patience or Patience()
        self._reader = _connect(folder)
        self._mine = threading.local()  # diskcache closes a connection in the thread that opened it alone

    def get(self, keys: Sequence[str]) -> dict[str, object]:
        """The blobs that are there; None for a value that is no bytes of ours: it is not looked into."""
        marks, ours = ",".join("?" * len(keys)), diskcache.core.MODE_RAW
        # Of a key that stands twice the last one counts, which is ours.
        query = f"SELECT key, value, mode, raw FROM Cache WHERE key IN ({marks}) ORDER BY key, raw = 1"  # noqa: S608
        return {
            key: value if type(value) is bytes and mode == ours and raw == 1 else None
            for key, value, mode, raw in self._looked(query, tuple(keys)).fetchall()
        }

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a query, read at once."""
        return self._looked(query, values).fetchall()

    def _looked(self, query: str, values: tuple[object, ...]) -> sqlite3.Cursor:
        try:
            return self._reader.execute(query, values)
        except sqlite3.OperationalError as error:
            if not _is_busy(error) and not _takes_back(self._folder, error):
                raise
            return self._looked_again(query, values)

    def _looked_again(self, query: str, values: tuple[object, ...]) -> sqlite3.Cursor:
        until = time.monotonic() + BUSY_S
        while True:
            try:
                found = self._reader.execute(query, values)
            except sqlite3.OperationalError as error:
                if not _is_busy(error):
                    raise
                self._patience.check(self._file)
                if time.monotonic() > until:
                    raise
            else:
                self._patience.over(self._file)
                return found

    def found_beside(self, key: str) -> bytes | None:
        """The blob as the file has it, whoever holds a lock; None where it can't be told.

        For readers who can't wait for a writer that stands still. A part of its change may be there: so the
        row is looked up again by its number, and must be of this key. Who asks checks the digest.
        """
        url = f"{self._file.absolute().as_uri()}?mode=ro&immutable=1"
        found = None
        with (
            contextlib.suppress(sqlite3.Error, OSError),
            contextlib.closing(sqlite3.connect(url, uri=True)) as connection,
        ):
            row = connection.execute("SELECT rowid FROM Cache WHERE key = ?", (key,)).fetchone()
            query = "SELECT key, value, raw FROM Cache WHERE rowid = ?"
            found = None if row is None else connection.execute(query, row).fetchone()
        if found is None or found[0] != key or found[2] != 1 or type(found[1]) is not bytes:
            return None
        return found[1]

    def entries(self) -> Iterator[tuple[str, object]]:
        """All keys and blobs; between pages the database is free for writers."""
        query = "SELECT key, value FROM Cache WHERE raw = 1 AND key > ? ORDER BY key LIMIT ?"
        last: object = ""
        while page := self.rows(query, last, PAGE):
            yield from page
            last = page[-1][0]

    def volume(self) -> int:
        """Bytes of the database on disk."""
        ((pages,),) = self.rows("PRAGMA page_count")
        ((size,),) = self.rows("PRAGMA page_size")
        return int(pages * size)

    def write(self, entries: list[tuple[str, bytes]]) -> None:
        """Writes several in one transaction."""
        self._change(lambda cache: sum(cache.set(key, blob) for key, blob in entries))

    def remove(self, names: Callable[[], list[str]]) -> int:
        """Removes entries in one transaction, which asks for their names; how many there were."""
        return self._change(lambda cache: sum(cache.delete(name) for name in names()))

    def _change(self, change: Callable[[diskcache.Cache], int]) -> int:
        self._patience.refuse(self._file)
        with paths.alone(self._folder / "writing", TURN_S, self._patience):
            until = time.monotonic() + TRIES * BUSY_S
            while True:
                try:
                    with forks.CHANGING:
                        found = self._changed(change)
                except (sqlite3.Error, TimeoutError) as error:
                    if not _is_busy(error) or time.monotonic() > until:
                        raise
                    self._patience.check(self._file)
                else:
                    self._patience.over(self._file)
                    return found

    def _changed(self, change: Callable[[diskcache.Cache], int]) -> int:
        try:
            cache = self._opened()
            with cache.transact():
                return change(cache)
        except BaseException as error:
            # diskcache leaves a transaction open, and locked, when its COMMIT fails; closing takes it back.
            self.let_go()
            if isinstance(error, diskcache.Timeout):
                raise TimeoutError("another program holds the database") from error
            raise

    def _opened(self) -> diskcache.Cache:
        cache = getattr(self._mine, "cache", None)
        if cache is None:
            refuse_locked(self._folder)
            cache = self._mine.cache = open_for_writing(self._folder)
        return cache

    def let_go(self) -> None:
        """Closes what the calling thread has written with."""
        cache = getattr(self._mine, "cache", None)
        self._mine.cache = None
        if cache is not None:
            cache.close()

    def close(self) -> None:
        """Closes what is read with."""
        self._left = 0
        self._reader.close()


def inode_of(folder: Path) -> int | None:
    """Which file the database is; None where there is none."""
    try:
        return (folder / DATABASE).stat().st_ino
    except FileNotFoundError:
        return None


def _takes_back(folder: Path, error: sqlite3.OperationalError) -> bool:
    """Whether a read failed for what a killed writer left half written, and that could be taken back.

    Who only reads can't do that, and must not read what is there until it is done.
    """
    if _code(error) != sqlite3.SQLITE_READONLY or not paths.may_write(folder, DATABASE):
        return False
    with contextlib.closing(sqlite3.connect(folder / DATABASE, timeout=ASK_S)) as connection:
        connection.execute("SELECT 1 FROM Cache LIMIT 1").fetchone()
    return True


def refuse_locked(folder: Path) -> None:
    """Raises OperationalError where others use the database; diskcache would wait for them a minute."""
    with contextlib.closing(sqlite3.connect(folder / DATABASE, timeout=ASK_S)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        connection.rollback()


def _connect(folder: Path) -> sqlite3.Connection:
    """A connection that only reads."""
    url = f"{(folder / DATABASE).absolute().as_uri()}?mode=ro"
    if (folder / DATABASE).exists() and not os.access(folder / DATABASE, os.R_OK):
        raise PermissionError(
            errno.EACCES, os.strerror(errno.EACCES), str(folder / DATABASE)
        )  # which SQLite would not say
    connection = sqlite3.connect(url, uri=True, timeout=ASK_S, check_same_thread=False)
    try:
        connection.execute("SELECT 1 FROM Cache LIMIT 1").fetchone()
    except sqlite3.OperationalError as error:
        if _is_busy(error) or _takes_back(folder, error):
            return connection
        connection.close()
        # A log that nobody may write beside it: what is in the database itself is read.
        connection = sqlite3.connect(f"{url}&immutable=1", uri=True, check_same_thread=False)
        connection.execute("SELECT 1 FROM Cache LIMIT 1").fetchone()
    return connection
