"""Does what `fastqwen cache` is asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from cache.store import Store
from tgi_stack import logs
from tgi_stack.answers import cache_admin
from tgi_stack.commands.cache import Clear, Collect, Export, Import, Info, OfCache, Verify
from tgi_stack.commands.console import print_data, print_lines
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


def info(given: Info) -> None:
    """`fastqwen cache info`."""
    with _store(given) as store:
        found = cache_admin.described(store)
        if given.common.json:
            print_data(found)
        else:
            print_lines(*cache_admin.lines(found))


def verify(given: Verify) -> None:
    """`fastqwen cache verify`."""
    with _store(given) as store:
        share = cache_admin.share_of(given.reask)
        found = cache_admin.verified(store)
        if share is not None:
            found |= asyncio.run(reask_of.reasked(given.settings, store, share))
        if given.common.json:
            print_data(found)
        for line in cache_admin.verdict(found):
            LOG.info(line)
        if found["damaged"] or found.get("swapped"):
            raise typer.Exit(1)


def gc(given: Collect) -> None:
    """`fastqwen cache gc`."""
    with _store(given) as store:
        removed, smaller = cache_admin.collect(store, given.older_than, given.to_size)
        _close(given, f"{removed:,} entries removed, {smaller:,} bytes", removed=removed, bytes=smaller)


def clear(given: Clear) -> None:
    """`fastqwen cache clear`."""
    with _store(given) as store:
        removed = cache_admin.cleared(store)
        _close(given, f"{removed:,} entries removed", removed=removed)


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
            raise typer.Exit(1)
