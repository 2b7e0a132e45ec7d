"""The cache as the jobs use it: opened as the settings say, its errors those of the house."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cache.bundle import Imported, export_bundle, import_bundle
from cache.errors import BundleError, CacheError, RefusedBundleError
from cache.storage import paths
from cache.storage.database import is_damage, is_full, journal_mode
from cache.store import Store
from cache.tier.store import TieredStore
from cache.tier.tier import Tier
from tgi_stack.errors import InputError, MachineError, SettingsError, UsageError
from tgi_stack.settings import Settings, bytes_of
from tgi_stack.text_files import KEY_BYTES, TextFileError, read_bytes

LOG = logging.getLogger(__name__)


def open_store(settings: Settings, tier: Tier | None = None) -> Store | None:
    """The cache of a run; None with --no-cache, and where there is no place for one.

    Args:
        tier: what stands behind it.

    Raises:
        MachineError: with --offline, a cache that can't be read.
    """
    if settings.no_cache:
        return None
    try:
        return store_of(settings, tier)
    except MachineError as error:
        if settings.offline:
            raise
        LOG.info(f"without a cache: {error}")
        return None


def store_of(settings: Settings, tier: Tier | None = None) -> Store:
    """The cache that the settings name.

    Raises:
        MachineError: it can't be used.
    """
    directory = settings.cache_dir or paths.default()
    try:
        if tier is not None:
            return TieredStore(directory, tier, limit=settings.cache_size)
        return Store(directory, offline=settings.offline, limit=settings.cache_size)
    except CacheError as error:
        raise MachineError(str(error)) from error


# -- commands ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _usable(store: Store) -> Iterator[None]:
    """What the cache can't do, as an error of the machine's.

    Raises:
        MachineError: it is damaged, in use by others all the time, or may not be written to.
    """
    try:
        yield
    except CacheError as error:
        raise MachineError(str(error)) from error
    except (sqlite3.Error, OSError) as error:
        if is_damage(error):
            raise MachineError(
                f"the cache in {store.directory} is damaged ({error}); the next run rebuilds it"
            ) from error
        if is_full(error):
            raise MachineError(
                f"the disk of {store.directory} is full ({error}); to remove entries takes a little room: "
                "make some, or remove the folder while no job runs"
            ) from error
        raise MachineError(
            f"the cache in {store.directory} can't be used ({error}); try again when no other program uses "
            "it, and see: fastqwen cache info"
        ) from error


def described(store: Store) -> dict[str, Any]:
    """What `cache info` says."""
    counts, now = store.lifetime_counts(), time.time()
    with _usable(store):
        all_kept, volume = store.kept(), store.volume()
    kinds = {
        held.kind: {
            "entries": held.entries,
            "bytes": held.bytes,
            "hits": counts[f"{held.kind} hits"],
            "misses": counts[f"{held.kind} misses"],
            "damaged": counts[f"{held.kind} damaged"],
            "oldest_s": max(0.0, now - held.oldest),
            "newest_s": max(0.0, now - held.newest),
        }
        for held in all_kept
    }
    return {
        "directory": str(store.directory),
        "file_system": paths.file_system(store.directory),
        "bytes_on_disk": volume,
        "writable": store.writable,
        "sqlite": sqlite3.sqlite_version,
        "journal_mode": journal_mode(),
        "kinds": kinds,
    }


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """`described`, for people."""
    access = "" if found["writable"] else ", read only"
    yield (
        f"{found['directory']} ({found['file_system']}{access}): {found['bytes_on_disk']:,} bytes; "
        f"SQLite {found['sqlite']}, journal {found['journal_mode']}"
    )
    if found["file_system"] == "overlay":
        yield "it lies in a container's own layer and goes with it: mount a folder from outside there"
    for kind, held in found["kinds"].items():
        yield (
            f"{kind:10} {held['entries']:>10,} entries {held['bytes']:>14,} bytes "
            f"{held['hits']:>10,} hits {held['misses']:>10,} misses, "
            f"{_age(held['newest_s'])} to {_age(held['oldest_s'])} old"
        )
    if not found["kinds"]:
        yield "no entries"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def verified(store: Store) -> dict[str, Any]:
    """How many entries there are, and how many are not what was stored."""
    whole: Counter[str] = Counter()
    damaged = 0
    with _usable(store):
        for kind, _, payload in store.entries():
            whole[kind] += payload is not None
            damaged += payload is None
    return {"entries": dict(whole), "damaged": damaged}


def verdict(found: Mapping[str, Any]) -> Iterator[str]:
    """`verified` and `audit.totals`, for people."""
    held = ", ".join(f"{count:,} {kind}" for kind, count in found["entries"].items()) or "no entries"
    yield f"digests hold: {held}; {found['damaged']:,} damaged"
    if "asked" in found:
        yield from _comparison(found)


def _comparison(found: Mapping[str, Any]) -> Iterator[str]:
    if not found["asked"]:
        yield (
            f"nothing is known of the model: all {found['failed']:,} that were asked again failed"
            if found["failed"]
            else "nothing could be asked again: none of the kept questions are of this model"
        )
        return
    yield f"asked again: {found['asked']:,} ({found['failed']:,} failed)"
    if found["readings"]:
        yield (
            f"{found['readings']:,} readings, {found['differ']:,} differ; largest difference of probability "
            f"{found['difference']:.4f}, noise {found['noise']:.4f}"
        )
    if found["texts"]:
        yield (
            f"{found['texts']:,} summaries, {found['changed']:,} are neither of the two that were given now; "
            f"of {found['wavering']:,} those two are not the same"
        )
    if found["swapped"]:
        yield (
            "another model gave these answers than is asked now; to be rid of them: fastqwen cache purge "
            "--revision REVISION, or fastqwen cache clear"
        )


def share_of(text: str | None) -> float | None:
    """`1%` as 0.01.

    Raises:
        UsageError: it is no share.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text.strip())
    if found is None or not 0 < float(found[1]) <= 100:
        raise UsageError(f"--reask {text}: give a share such as 1%")
    return float(found[1]) / 100


def collect(store: Store, older_than: str | None, to_size: str | None) -> tuple[int, int]:
    """See `Store.gc`; ages such as `30d`, `12h`, sizes such as `20GB`.

    Raises:
        UsageError: neither is given, or one is none.
        MachineError: the cache can only be read, or others use it all the time.
    """
    if older_than is None and to_size is None:
        raise UsageError("give --older-than 30d, or --to-size 20GB, or both")
    try:
        to_bytes = None if to_size is None else bytes_of(to_size)
        older_than_s = _seconds(older_than)
    except ValueError as error:
        raise UsageError(str(error)) from error
    with _usable(store):
        return store.gc(older_than_s=older_than_s, to_bytes=to_bytes)


def cleared(store: Store) -> int:
    """See `Store.clear`.

    Raises:
        MachineError: the cache can only be read, or others use it all the time.
    """
    with _usable(store):
        return store.clear()


def purged(store: Store, mark: str) -> tuple[int, int]:
    """See `Store.purge`; how many went, and how many are left, since a running job uses them.

    Raises:
        MachineError: the cache can only be read, or others use it all the time.
    """
    with _usable(store):
        removed = store.purge(mark)
        kept = (key for kind in ("labels", "summary", "question") for key in store.keys(kind))
        return removed, sum(key.endswith(mark) for key in kept)


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h|d|w)", text.strip())
    if found is None:
        raise ValueError(f"--older-than {text}: give an age such as 30d or 12h")
    return float(found[1]) * {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604_800}[found[2]]


def export(store: Store, path: Path, *, force: bool, reads: Iterable[Path | None] = ()) -> int:
    """See `bundle.export_bundle`.

    Args:
        reads: files that were read before, such as the configuration; the team's key is added.

    Raises:
        UsageError: the file is there already, or is one of those that are read.
        MachineError: it can't be written.
    """
    named = os.environ.get("FASTQWEN_CACHE_KEY_FILE")
    all_read = [one for one in reads if one is not None] + ([] if named is None else [Path(named)])
    with _usable(store):
        try:
            return export_bundle(store, path, _team_key(), force=force, reads=all_read)
        except RefusedBundleError as error:
            raise UsageError(str(error)) from error


def take_in(store: Store, path: Path) -> Imported:
    """See `bundle.import_bundle`.

    Raises:
        InputError: it is no bundle, or not one of the team's.
        MachineError: the cache can't be written to.
    """
    if path.is_fifo():  # might be waited for without end
        raise InputError(f"{path} is a pipe; give the file itself")
    with _usable(store):
        try:
            return import_bundle(store, path, _team_key())
        except BundleError as error:
            raise InputError(str(error)) from error


def _team_key(environ: Mapping[str, str] = os.environ) -> bytes | None:
    name = environ.get("FASTQWEN_CACHE_KEY_FILE")
    if name is None:
        return None
    try:
        key = read_bytes(Path(name), KEY_BYTES).strip()
    except OSError as error:
        raise SettingsError(f"FASTQWEN_CACHE_KEY_FILE {name}: {error.strerror}") from error
    except TextFileError as error:
        raise SettingsError(f"FASTQWEN_CACHE_KEY_FILE {name}: {error}") from error
    if len(key) < 16:
        raise SettingsError(f"FASTQWEN_CACHE_KEY_FILE {name}: a key has 16 bytes at least")
    return key
