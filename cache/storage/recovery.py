"""Opens databases: makes one where there is none, sets a damaged one aside and makes it anew."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from cache.errors import CacheError, DamagedError
from cache.notices import Notices
from cache.sharing.patience import Patience
from cache.storage import paths
from cache.storage.database import (
    DATABASE,
    TURN_S,
    Database,
    inode_of,
    is_damage,
    open_for_writing,
    refuse_locked,
)


def is_made(folder: Path) -> bool:
    """Whether there is a database, or was one.

    Raises:
        CacheError: it can't be told.
    """
    try:
        return (folder / "made").exists()
    except OSError as error:
        raise CacheError(f"{folder}: {error.strerror}; choose another --cache-dir") from error


def open_database(folder: Path, notices: Notices, patience: Patience, *, offline: bool) -> Database:
    """The database of a folder.

    Raises:
        CacheError: it can't be opened; offline, it is damaged.
    """
    try:
        damaged = inode_of(folder)
        try:
            return _opened(folder, patience)
        except (sqlite3.Error, DamagedError) as error:
            if not is_damage(error):
                raise
            return rebuilt(folder, damaged, error, notices, patience, offline=offline)
    except (sqlite3.Error, OSError, DamagedError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CacheError(f"{folder / DATABASE}: {reason}; choose another --cache-dir") from error


def _opened(folder: Path, patience: Patience) -> Database:
    database = folder / DATABASE
    if not (folder / "made").exists():
        paths.make(folder, database)
        with paths.alone(folder / "writing", TURN_S, patience):
            _make(folder)
    elif not database.exists() or database.stat().st_size == 0:
        raise DamagedError("it is empty")
    return Database(folder, patience)


def _make(folder: Path) -> None:
    """Makes the tables, for whoever has the turn to write."""
    if not (folder / "made").exists():
        paths.make(folder, folder / DATABASE)
        refuse_locked(folder)
        open_for_writing(folder).close()
        paths.touch(folder / "made")


def rebuilt(
    folder: Path,
    damaged: int | None,
    error: Exception,
    notices: Notices,
    patience: Patience,
    *,
    offline: bool,
) -> Database:
    """Sets a damaged database (by its inode) aside, unless another process has; and makes it anew.

    Raises:
        CacheError: it can't be set aside; offline, where nothing is.
    """
    if offline:
        raise CacheError(
            f"{folder / DATABASE} is damaged ({error}); without --offline it is set aside and rebuilt"
        ) from error
    try:
        with paths.alone(folder / "writing", TURN_S, patience):
            if inode_of(folder) == damaged:
                aside = paths.set_aside(folder, DATABASE)
                notices.warn(f"{folder / DATABASE} was damaged ({error}); it is set aside as {aside.name}")
            _make(folder)
        return _opened(folder, patience)
    except OSError as failure:
        raise CacheError(
            f"{folder / DATABASE} is damaged ({error}) and can't be set aside ({failure.strerror}); "
            "have its owner run fastqwen once, or choose another --cache-dir"
        ) from failure
