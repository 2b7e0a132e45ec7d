"""`fastqwen cache`: what its commands take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tgi_stack.commands.declare import command
from tgi_stack.commands.options import Arguments, Positional, Settings
from tgi_stack.declared.option import CACHE, FILES, Option


@dataclass(frozen=True, kw_only=True)
class OfCache(Arguments):
    """What all of them take."""

    settings: Settings


@command("cache info", "cache.info")
@dataclass(frozen=True, kw_only=True)
class Info(OfCache):
    """What the cache holds: entries, bytes, hits and age by kind, and where it lies."""


@command("cache verify", "cache.verify")
@dataclass(frozen=True, kw_only=True)
class Verify(OfCache):
    """Checks the digests of all entries; with --reask, whether the model still says the same."""

    reask: Annotated[
        str | None,
        Option(
            "Ask the model again for a share of its answers, such as 1%.",
            CACHE,
            metavar="SHARE",
            unset="none",
        ),
    ] = None


@command("cache gc", "cache.gc")
@dataclass(frozen=True, kw_only=True)
class Collect(OfCache):
    """Removes the oldest entries here; never one that a running job has written or read. A tier stays."""

    older_than: Annotated[
        str | None,
        Option("What was stored before that, such as 30d.", CACHE, metavar="AGE", unset="of any age"),
    ] = None
    to_size: Annotated[
        str | None,
        Option("The oldest, down to this size, such as 20GB.", CACHE, metavar="SIZE", unset="of any size"),
    ] = None


@command("cache clear", "cache.clear")
@dataclass(frozen=True, kw_only=True)
class Clear(OfCache):
    """Removes all entries here that no running job uses. A tier stays: `purge` reaches it."""


@command("cache purge", "cache.purge")
@dataclass(frozen=True, kw_only=True)
class Purge(OfCache):
    """Removes the answers of one revision of a model, here and in the tier."""

    revision: Annotated[
        str | None, Option("The revision, as records tell it.", CACHE, metavar="NAME", unset="must be given")
    ] = None


@command("cache export", "cache.export")
@dataclass(frozen=True, kw_only=True)
class Export(OfCache):
    """All entries in one file, sealed by the key that FASTQWEN_CACHE_KEY_FILE names, if any."""

    file: Annotated[Path, Positional("FILE", "Where they go.")]
    force: Annotated[bool, Option("Replace a file that is there.", FILES)] = False


@command("cache import", "cache.take_in")
@dataclass(frozen=True, kw_only=True)
class Import(OfCache):
    """Takes in the entries of a file that `cache export` wrote; each is verified. A tier stays."""

    file: Annotated[Path, Positional("FILE", "What `cache export` wrote.")]
