"""`fastqwen cache`: what was computed before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cache.store import Store
from tgi_stack import logs, settings
from tgi_stack.answers import cache_admin
from tgi_stack.answers.cache_admin import store_of
from tgi_stack.commands.app import cache
from tgi_stack.commands.command import command, settings_of
from tgi_stack.commands.console import print_data
from tgi_stack.commands.options import CacheDir, Common, Computing, Servers
from tgi_stack.jobs import reask as reask_of

LOG = logging.getLogger(logs.CLOSING)


@contextmanager
def _store(cache_dir: Path | None, common: Common) -> Iterator[Store]:
    store = store_of(settings.load({"cache_dir": cache_dir}, file=common.config))
    try:
        yield store
    finally:
        store.close()


def _close(common: Common, line: str, **found: Any) -> None:
    LOG.info(line)
    if common.json:
        print_data(found)


@command(cache, "info")
def cache_info(*, cache_dir: CacheDir = None, common: Common) -> None:
    """What the cache holds: entries, bytes, hits and age by kind, and where it lies."""
    with _store(cache_dir, common) as store:
        found = cache_admin.described(store)
        if common.json:
            print_data(found)
        else:
            for line in cache_admin.lines(found):
                typer.echo(line)


@command(cache, "verify")
def cache_verify(
    *,
    reask: Annotated[
        str | None, typer.Option(metavar="1%", help="Ask the model again for this share of its answers.")
    ] = None,
    servers: Servers,
    computing: Computing,
    cache_dir: CacheDir = None,
    common: Common,
) -> None:
    """Checks the digests of all entries; with --reask, whether the model still says the same."""
    chosen = settings_of(common, locals())
    with _store(cache_dir, common) as store:
        share = cache_admin.share_of(reask)
        found = cache_admin.verified(store)
        if share is not None:
            found |= asyncio.run(reask_of.reasked(chosen, store, share))
        if common.json:
            print_data(found)
        for line in cache_admin.verdict(found):
            LOG.info(line)
        if found["damaged"] or found.get("swapped"):
            raise typer.Exit(1)


@command(cache, "gc")
def cache_gc(
    older_than: Annotated[
        str | None, typer.Option(metavar="30d", help="What was stored before that.")
    ] = None,
    to_size: Annotated[
        str | None, typer.Option(metavar="20GB", help="The oldest, down to this size.")
    ] = None,
    *,
    cache_dir: CacheDir = None,
    common: Common,
) -> None:
    """Removes the oldest entries; never one that a running job has written or read."""
    with _store(cache_dir, common) as store:
        removed, smaller = cache_admin.collect(store, older_than, to_size)
        _close(common, f"{removed:,} entries removed, {smaller:,} bytes", removed=removed, bytes=smaller)


@command(cache, "clear")
def cache_clear(*, cache_dir: CacheDir = None, common: Common) -> None:
    """Removes all entries that no running job uses."""
    with _store(cache_dir, common) as store:
        removed = cache_admin.cleared(store)
        _close(common, f"{removed:,} entries removed", removed=removed)


@command(cache, "export")
def cache_export(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    cache_dir: CacheDir = None,
    common: Common,
) -> None:
    """All entries in one file, sealed by the key that FASTQWEN_CACHE_KEY_FILE names, if any."""
    with _store(cache_dir, common) as store:
        reads = [common.config or Path(settings.FILE)]
        entries = cache_admin.export(store, file, force=force, reads=reads)
        _close(common, f"{entries:,} entries in {file}", entries=entries, file=str(file))


@command(cache, "import")
def cache_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    *,
    cache_dir: CacheDir = None,
    common: Common,
) -> None:
    """Takes in the entries of a file that `cache export` wrote; each is verified."""
    with _store(cache_dir, common) as store:
        found = cache_admin.take_in(store, file)
        _close(common, f"{found.entries:,} entries, {found.new:,} of them new", **asdict(found))
        if found.damaged or found.forged:
            LOG.info(f"{found.damaged:,} damaged and {found.forged:,} forged entries were left out")
            raise typer.Exit(1)
