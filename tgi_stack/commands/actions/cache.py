"""Does what `fastqwen cache` is asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from cache.store import Store
from tgi_stack import logs
from tgi_stack.answers import cache_admin
from tgi_stack.answers.tier import admin as tier
from tgi_stack.answers.tier.opening import with_stack_tier
from tgi_stack.commands.cache import Clear, Collect, Export, Import, Info, OfCache, Purge, Verify
from tgi_stack.commands.console import print_data, print_lines
from tgi_stack.errors import UsageError
from tgi_stack.jobs import reask as reask_of
from tgi_stack.settings import FILE

LOG = logging.getLogger(logs.CLOSING)


@contextmanager
def _store(given: OfCache) -> Iterator[Store]:
    store = cache_admin.store_of(given.settings)
    try:
        yield store
    finally:
        store.close()


def _close(given: OfCache, line: str, **found: Any) -> None:
    LOG.info(line)
    if given.common.json:
        print_data(found)


def _tell_the_tier_stays(given: OfCache, why: str) -> None:
    """What a team shares is changed by `purge` alone, never by looking after a cache of one's own."""
    settings = with_stack_tier(given.settings)
    if settings.cache_tier is not None:
        LOG.info(f"the tier {tier.address(settings)} stays as it is: {why}")


def info(given: Info) -> None:
    """`fastqwen cache info`."""
    settings = with_stack_tier(given.settings)
    with _store(given) as store:
        found = cache_admin.described(store)
        if settings.cache_tier is not None:
            found["tier"] = tier.described(settings)
        if given.common.json:
            print_data(found)
        else:
            far = tier.lines(found["tier"]) if "tier" in found else ()
            print_lines(*cache_admin.lines(found), *far)


def verify(given: Verify) -> None:
    """`fastqwen cache verify`."""
    settings = with_stack_tier(given.settings)
    share = cache_admin.share_of(given.reask)
    with closing(tier.store_to_verify(settings)) as store:
        found = cache_admin.verified(store)
        if settings.cache_tier is not None:
            found["tier"] = tier.verified(settings)
        if share is not None:
            found |= asyncio.run(reask_of.reasked(settings, store, share))
        if given.common.json:
            print_data(found)
        for line in cache_admin.verdict(found):
            LOG.info(line)
        if "tier" in found:
            LOG.info(tier.verdict(found["tier"]))
        if found["damaged"] or found.get("swapped") or found.get("tier", {}).get("damaged"):
            raise typer.Exit(1)


def gc(given: Collect) -> None:
    """`fastqwen cache gc`."""
    with _store(given) as store:
        removed, smaller = cache_admin.collect(store, given.older_than, given.to_size)
        _close(given, f"{removed:,} entries removed, {smaller:,} bytes", removed=removed, bytes=smaller)
        _tell_the_tier_stays(given, "it lets the least used go by itself")


def clear(given: Clear) -> None:
    """`fastqwen cache clear`."""
    with _store(given) as store:
        removed = cache_admin.cleared(store)
        _close(given, f"{removed:,} entries removed", removed=removed)
        _tell_the_tier_stays(given, "what it has comes back; fastqwen cache purge --revision NAME reaches it")


def purge(given: Purge) -> None:
    """`fastqwen cache purge`."""
    if not given.revision:
        raise UsageError("cache purge: give --revision, as records tell it")
    with _store(given) as store:
        found = tier.purged(with_stack_tier(given.settings), store, given.revision)
        far = f", {found['tier']:,} in the tier" if "tier" in found else ""
        left = f"; {found['left']:,} are left, which running jobs use" if found["left"] else ""
        _close(given, f"{found['here']:,} entries removed{far}{left}", **found)


def export(given: Export) -> None:
    """`fastqwen cache export`."""
    with _store(given) as store:
        reads = [given.common.config or Path(FILE)]
        entries = cache_admin.export(store, given.file, force=given.force, reads=reads)
        _close(given, f"{entries:,} entries in {given.file}", entries=entries, file=str(given.file))


def take_in(given: Import) -> None:
    """`fastqwen cache import`."""
    with _store(given) as store:
        found = cache_admin.take_in(store, given.file)
        _close(given, f"{found.entries:,} entries, {found.new:,} of them new", **asdict(found))
        if found.damaged or found.forged:
            LOG.info(f"{found.damaged:,} damaged and {found.forged:,} forged entries were left out")
        _tell_the_tier_stays(given, "what is imported is for this machine")
        if found.damaged or found.forged:
            raise typer.Exit(1)
