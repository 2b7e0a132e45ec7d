"""Opens databases: makes one where there is none, sets a damaged one aside and makes it anew."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from cache import paths
from cache.database import DATABASE, TURN_S, Shelf, inode_of, is_damage, open_database
from cache.errors import CacheError, DamagedError

Warn = Callable[[str], None]


def is_made(folder: Path) -> bool:
    """Whether there is a database, or was one.

    Raises:
        CacheError: it can't be told.
    """
    try:
        return (folder / "made").exists()
    except OSError as error:
        raise CacheError(f"{folder}: {error.strerror}; choose another --cache-dir") from error


def open_shelf(folder: Path, warn: Warn, *, offline: bool) -> Shelf:
    """The database of a folder.

    Raises:
        CacheError: it can't be opened; offline, it is damaged.
    """
    try:
        damaged = inode_of(folder)
        try:
            return _opened(folder)
        except (sqlite3.Error, DamagedError) as error:
            if not is_damage(error):
                raise
            return rebuilt(folder, damaged, error, warn, offline=offline)
    except (sqlite3.Error, OSError, DamagedError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CacheError(f"{folder / DATABASE}: {reason}; choose another --cache-dir") from error


def _opened(folder: Path) -> Shelf:
    database, made = folder / DATABASE, folder / "made"
    if made.exists():
        if not database.exists() or database.stat().st_size == 0:
            raise DamagedError("it is empty")
        return Shelf(folder)
    paths.make(folder, database)
    open_database(folder).close()
    paths.touch(made)
    return Shelf(folder)


def rebuilt(folder: Path, damaged: int | None, error: Exception, warn: Warn, *, offline: bool) -> Shelf:
    """Sets a damaged database (by its inode) aside, unless another process has; and makes it anew.

    Raises:
        CacheError: it can't be set aside; offline, where nothing is.
    """
    if offline:
        raise CacheError(
            f"{folder / DATABASE} is damaged ({error}); without --offline it is set aside and rebuilt"
        ) from error
    try:
        with paths.alone(folder / "writing", TURN_S):
            if inode_of(folder) == damaged:
                aside = paths.set_aside(folder, DATABASE)
                warn(f"{folder / DATABASE} was damaged ({error}); it is set aside as {aside.name}")
            return _opened(folder)
    except OSError as failure:
        raise CacheError(
            f"{folder / DATABASE} is damaged ({error}) and can't be set aside ({failure.strerror}); "
            "have its owner run fastqwen once, or choose another --cache-dir"
        ) from failure
