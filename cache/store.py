"""Bytes on disk by their keys: what can't be read is a miss, what can't be written is not kept."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from cache import contents, kinds
from cache.contents import Held
from cache.errors import CacheError, DamagedError
from cache.eviction import Room, collect
from cache.kinds import Kind
from cache.notices import Notices
from cache.sharing.active_jobs import ActiveJob, ActiveJobs
from cache.sharing.leases import Lease, Leases
from cache.sharing.patience import Patience, StandsStillError
from cache.storage import codecs, paths, recovery
from cache.storage.database import DATABASE, Database, is_damage
from cache.storage.writer import Writer

PATIENCE = 3  # lookups that waited too long, before the run goes on without the cache for a while
PAUSE_S = 60.0

Found = TypeVar("Found")


class Store:
    """Values by kind and key; safe among threads and processes of one host.

    A value that was put can be read at once by its writer, by others once it was written (some 0.1 s later).
    What can't be read or written for whatever reason is a miss or is not kept, and is said once. Offline a
    miss would be untrue then, and is a CacheError.

    Attributes:
        counts: of `kind hits`, `kind misses` and `kind damaged`.
        unkept: how many values were put and not written.
    """

    def __init__(self, directory: Path, *, offline: bool = False, limit: int | None = None) -> None:
        self.directory = directory
        self.counts: Counter[str] = Counter()
        self.unkept = 0
        self._notices = Notices(directory)
        self._slow = 0
        self._paused_until = 0.0
        self._process = os.getpid()
        self._closed = False
        self._room = None if limit is None else Room(limit, self.volume, self._shrink)
        self._offline = offline
        self._root = paths.prepare(directory, offline=offline)
        self._patience = Patience(jobs=self._root / "users")
        self._databases: dict[str, Database] = {}
        for name in kinds.DATABASES:
            # Offline nothing is made: a cache that is not there is one that knows nothing.
            if not offline or recovery.is_made(self._root / name):
                self._databases[name] = self._open(name)
        # Databases that are there are written to when the first value comes: a warm run writes nothing.
        self.writable = all(paths.may_write(self._root / name, DATABASE) for name in kinds.DATABASES)
        if not self.writable and not offline:
            self._notices.warn(f"the cache in {directory} can only be read here; nothing new is kept")
        self._leases = self._leasing() if self.writable and not offline else None
        self._job = self._registered() if self.writable else None
        keeps = self._leases is not None
        self._writer = Writer(self._write, self._notices.not_written, self._let_go) if keeps else None

    def __reduce__(self) -> str:
        raise TypeError(f"the cache in {self.directory} can't be pickled; open it in the other process")

    def _refuse_fork(self) -> None:
        if self._process != os.getpid():
            raise CacheError(f"the cache in {self.directory} was opened before a fork; open it in the child")

    # -- opening -----------------------------------------------------------------------------------------

    def _registered(self) -> ActiveJob | None:
        try:
            return ActiveJob(self._root / "users")
        except OSError:
            return None

    def _leasing(self) -> Leases:
        try:
            return Leases(self._root / "leases", self._patience)
        except OSError as error:
            for database in self._databases.values():
                database.close()
            raise CacheError(f"{self._root}: {error.strerror}; choose another --cache-dir") from error

    def _open(self, name: str) -> Database:
        return recovery.open_database(self._root / name, self._notices, self._patience, offline=self._offline)

    # -- reading and writing -----------------------------------------------------------------------------

    def get(self, kind: str, key: str, *, again: bool = False) -> bytes | None:
        """The value, or None for a miss; one that is looked up `again` is not counted twice.

        Raises:
            CacheError: offline, it can't be told whether there is one.
        """
        return self.get_many(kind, (key,), again=again)[0]

    def get_many(self, kind: str, keys: Sequence[str], *, again: bool = False) -> list[bytes | None]:
        """As `get`, of several keys by one look at the database."""
        self._refuse_fork()
        stored = kinds.named(kind)
        names = [stored.letter + key for key in keys]
        if self._job is not None:
            with contextlib.suppress(OSError):  # told with the next one
                self._job.uses(*names)
        blobs = self._blobs(stored, names)
        return [self._unsealed(stored, name, blobs, again=again) for name in names]

    def _unsealed(self, kind: Kind, name: str, blobs: Mapping[str, object], *, again: bool) -> bytes | None:
        try:
            if name in blobs:
                payload = codecs.unseal(kind.letter, blobs[name])
                self.counts[f"{kind.name} hits"] += 1
                return payload
        except DamagedError as error:
            self.counts[f"{kind.name} damaged"] += 1
            self._notices.warn(f"the cache's entry {name[:13]} is damaged ({error}) and is passed over")
        self.counts[f"{kind.name} misses"] += not again
        return None

    def _blobs(self, kind: Kind, names: Sequence[str]) -> dict[str, object]:
        found: dict[str, object] = {} if self._writer is None else self._writer.pending(names)
        written = [name for name in names if name not in found]
        try:
            return found | (self._read(kind.database, lambda database: database.get(written)) or {})
        except StandsStillError as error:  # offline, where a miss would be untrue
            beside = {name: self._databases[kind.database].found_beside(name) for name in written}
            if None in beside.values():
                raise CacheError(f"the cache in {self.directory} can't be read: {error}") from error
            self._notices.not_waited_for(error)
            return found | beside

    def not_understood(self, kind: str, key: str, *, again: bool = False) -> None:
        """The hit that was counted last was no value of its kind to the one who asked."""
        self.counts[f"{kind} hits"] -= 1
        self.counts[f"{kind} refused"] += 1
        self.counts[f"{kind} misses"] += not again

    def _read(self, place: str, look: Callable[[Database], Found]) -> Found | None:
        """What a look into a database finds; None where it can't be told, which offline is an error."""
        if time.monotonic() < self._paused_until:
            return None
        for left in reversed(range(PATIENCE if self._offline else 1)):
            database = self._databases.get(place)
            if database is None:
                return None
            try:
                return look(database)
            except (sqlite3.Error, OSError) as error:
                if is_damage(error):
                    self._lost(place, database, error)
                    return None
                if self._offline and isinstance(error, StandsStillError):
                    raise
                if self._offline and not left:
                    raise CacheError(
                        f"the cache in {self.directory} can't be read ({error}); run it again later"
                    ) from error
                self._slowed(error)
        return None

    def _slowed(self, error: Exception) -> None:
        if self._offline:
            return
        self._notices.slow(error)
        self._slow += PATIENCE if isinstance(error, StandsStillError) else 1
        if self._slow >= PATIENCE:
            self._slow, self._paused_until = 0, time.monotonic() + PAUSE_S

    def _lost(self, name: str, database: Database, error: Exception) -> None:
        """A database that is damaged in the middle of a run."""
        try:
            self._databases[name] = recovery.rebuilt(
                self._root / name, database.inode, error, self._notices, self._patience, offline=self._offline
            )
        except (CacheError, sqlite3.Error) as failure:
            if self._offline:
                raise
            self._notices.warn(f"{failure}; what can't be read is computed anew", once=f"lost {name}")
            return
        with contextlib.suppress(sqlite3.Error):
            database.close()

    def put(self, kind: str, key: str, payload: bytes, then: Callable[[], None] | None = None) -> None:
        """Keeps a value; `then` is called once others can read it, or it can't be written."""
        self._refuse_fork()
        stored = kinds.named(kind)
        if self._writer is None or self._closed:
            self.unkept += 1
            if then is not None:
                then()
            return
        if not self._writer.put(stored.letter + key, codecs.seal(stored.letter, payload), then):
            self.unkept += 1
            self._notices.warn(
                f"the cache in {self.directory} is written too slowly; some answers are not kept"
            )

    def _write(self, entries: dict[str, bytes]) -> None:
        """Called by the writer's thread."""
        if not self._has_room():
            self.unkept += len(entries)
            return
        if self._job is not None:
            with self._not_fatal():
                self._job.uses(*entries)
        groups: dict[str, list[tuple[str, bytes]]] = {name: [] for name in kinds.DATABASES}
        for name, blob in entries.items():
            kind = kinds.of_letter(name[0])
            if kind is not None:
                groups[kind.database].append((name, blob))
        for database, group in groups.items():
            if group:
                self.unkept += len(group)
                with self._not_fatal():
                    self._databases[database].write(group)
                    self.unkept -= len(group)
        self._has_room()

    def _has_room(self) -> bool:
        if self._room is None:
            return True
        with self._not_fatal():
            if self._room.make():
                return True
            self._notices.warn(
                f"this job uses all that --cache-size allows {self.directory}; more is not kept"
            )
        return False

    @contextlib.contextmanager
    def _not_fatal(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, CacheError) as error:
            self._notices.not_written(error)

    def _let_go(self) -> None:
        """Closes what the calling thread has written with."""
        for database in list(self._databases.values()):
            with contextlib.suppress(sqlite3.Error):
                database.let_go()

    def lease(self, kind: str, key: str) -> Lease | None:
        """The right to compute a value, unless another process has it; see `Leases`.

        A process that stands still keeps nobody from it.
        """
        if self._leases is None:
            return None
        try:
            return self._leases.take(kinds.named(kind).letter, key)
        except StandsStillError as error:
            self._notices.not_waited_for(error)
            return Lease()

    @property
    def leases(self) -> bool:
        """Whether processes can keep out of each other's way."""
        return self._leases is not None

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, or is another process's."""
        return self._closed or self._process != os.getpid()

    @property
    def keeps(self) -> bool:
        """Whether what is put is written."""
        return self._writer is not None

    def takes_turns(self, writers: int) -> None:
        """One of several processes of a run, each of which writes less often: nobody reads meanwhile."""
        if self._writer is not None:
            self._writer.linger_s *= writers

    def flush(self) -> None:
        """Waits until all that was put is written."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Writes what is left; adds to the counts that stay."""
        if self.is_closed:
            return
        self._closed = True
        if self._writer is not None:
            self._writer.close()
        for database in self._databases.values():
            with contextlib.suppress(sqlite3.Error):
                database.close()
        if self._leases is not None:
            self._leases.close()
        if self._job is not None:
            self._job.close()
            self._keep_counts()

    # -- looking after it --------------------------------------------------------------------------------

    def volume(self) -> int:
        """Bytes that the databases have on disk."""
        return contents.volume(list(self._databases.values()))

    def files(self) -> list[Path]:
        """All files that the cache has."""
        return [file for file in self._root.rglob("*") if file.is_file()]

    def kept(self) -> list[Held]:
        """What there is of each kind."""
        self.flush()
        return contents.held(list(self._databases.values()))

    def entries(self) -> Iterator[tuple[str, str, bytes | None]]:
        """Kind, key and value of all entries; None for a value whose digest does not hold."""
        self.flush()
        yield from contents.entries(list(self._databases.values()))

    def keys(self, kind: str) -> list[str]:
        """The keys of all entries of a kind; raises as `get` does."""
        self.flush()
        stored = kinds.named(kind)
        query = "SELECT key FROM Cache WHERE raw = 1 AND key >= ? AND key < ?"
        bounds = stored.letter, chr(ord(stored.letter) + 1)
        try:
            names = self._read(stored.database, lambda database: database.rows(query, *bounds))
        except StandsStillError as error:
            raise CacheError(f"the cache in {self.directory} can't be read: {error}") from error
        return [name[1:] for (name,) in names or ()]

    def all_of(self, kind: str) -> list[tuple[str, bytes]]:
        """Keys and values of all entries of a kind of which there are few; raises as `keys` does."""
        found = ((key, self.get(kind, key, again=True)) for key in self.keys(kind))
        return [(key, payload) for key, payload in found if payload is not None]

    def gc(self, *, older_than_s: float | None = None, to_bytes: int | None = None) -> tuple[int, int]:
        """Removes the oldest entries; never one that a running job has written or read, nor who answered.

        Args:
            older_than_s: those stored longer ago than this.
            to_bytes: as many as it takes until the databases are no larger.

        Returns:
            How many went, and how many bytes the databases are smaller.
        """
        with self._cleaning():
            return self._collect(kinds.staying(), older_than_s, to_bytes)

    def clear(self) -> int:
        """Removes all entries that no running job uses."""
        with self._cleaning():
            return self._collect(frozenset())[0]

    def purge(self, mark: str) -> int:
        """Removes the entries whose keys end with a mark (see `Keys`) and that no running job uses."""
        with self._cleaning():
            return self._collect(kinds.staying(), ending=mark)[0]

    @contextlib.contextmanager
    def _cleaning(self) -> Iterator[None]:
        if not self.writable:
            raise CacheError(
                f"the cache in {self.directory} can only be read here; have its owner do this, or choose "
                "another --cache-dir"
            )
        self.flush()
        try:
            yield
        finally:
            self._let_go()

    def _collect(
        self,
        staying: frozenset[str],
        age_s: float | None = None,
        to_bytes: int | None = None,
        ending: str = "",
    ) -> tuple[int, int]:
        in_use, until = ActiveJobs(self._root / "users"), time.time() - (age_s or 0.0)
        return collect(list(self._databases.values()), in_use, staying, until, to_bytes, ending)

    def _shrink(self, to_bytes: int) -> None:
        self._collect(kinds.staying(), to_bytes=to_bytes)

    def _keep_counts(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            paths.add_counts(self._root / "counts.json", self.counts, self._patience)

    def lifetime_counts(self) -> Counter[str]:
        """The counts of all runs so far."""
        return paths.read_counts(self._root / "counts.json")
