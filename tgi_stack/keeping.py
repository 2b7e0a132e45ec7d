"""The cache as the jobs use it: opened as the settings say, its errors those of the house."""

from __future__ import annotations

from collections.abc import Callable

from cache import places
from cache.errors import CacheError
from cache.store import Store
from tgi_stack.errors import MachineError
from tgi_stack.settings import Settings

Say = Callable[[str], None]


def open_store(settings: Settings, say: Say) -> Store | None:
    """The cache of a run; None with --no-cache, and where there is no place for one.

    Raises:
        MachineError: with --offline, a cache that can't be read.
    """
    if settings.no_cache:
        return None
    try:
        return store_of(settings, say)
    except MachineError as error:
        if settings.offline:
            raise
        say(f"without a cache: {error}")
        return None


def store_of(settings: Settings, say: Say) -> Store:
    """The cache that the settings name.

    Raises:
        MachineError: it can't be used.
    """
    directory = settings.cache_dir or places.default()
    try:
        return Store(directory, say, offline=settings.offline, limit=settings.cache_size)
    except CacheError as error:
        raise MachineError(str(error)) from error
