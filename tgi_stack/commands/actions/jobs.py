"""Runs `fastqwen summarize`, `rerank` and `probs`."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import typer

from tgi_stack import logs
from tgi_stack.commands.console import print_data
from tgi_stack.commands.jobs import Job, Probs, Rerank, Summarize
from tgi_stack.commands.options import Common
from tgi_stack.commands.progress import Progress
from tgi_stack.errors import MissingPackageError, UsageError
from tgi_stack.jobs import session
from tgi_stack.jobs.spec import JobSpec, Name, opened
from tgi_stack.jobs.tally import Tally
from tgi_stack.rows.columns import Kind, parse_map
from tgi_stack.rows.formats import remove_spooled
from tgi_stack.rows.reader import Source
from tgi_stack.settings import Settings

LOG = logging.getLogger(logs.CLOSING)


def summarize(given: Summarize) -> None:
    """`fastqwen summarize`."""
    _run("summarize", given)


def rerank(given: Rerank) -> None:
    """`fastqwen rerank`."""
    _run("rerank", given, given.items or ())


def probs(given: Probs) -> None:
    """`fastqwen probs`."""
    _run("probs", given)


def prepared(
    name: str, input: str, items: Sequence[str], map: str | None, settings: Settings
) -> tuple[JobSpec, Source]:
    """A job, and where its rows are.

    Raises:
        UsageError: `map` or a prompt file that won't do.
        InputError: an input that can't be opened.
    """
    job: Name = next(one for one in get_args(Name) if one == name)
    kinds: tuple[Kind, ...] = ("rerank", "item") if job == "rerank" else (job,)
    return opened(job, input, items, parse_map(map, *kinds), settings)


def _run(job: str, given: Job, items: Sequence[str] = ()) -> None:
    spec, source = prepared(job, given.input, items, given.map, given.settings)
    out, common = given.out, given.common
    progress = Progress(quiet=common.quiet, mode=common.progress)
    if spec.settings.dry_run:
        found = session.run_dry(spec, source)
        if common.json:
            print_data(asdict(found))
        else:
            LOG.info(found.line())
        return
    if common.json and out is None:
        raise UsageError("--json prints its summary on stdout, where the records go; give -o OUT as well")
    tally = Tally()
    try:
        with progress:
            run = _runner(spec.settings)
            ended = run(spec, source, out, command=sys.argv, watcher=progress, tally=tally)
    except BaseException:
        if tally.rows:
            LOG.info(tally.line())
        raise
    if progress.is_drawn and ended.tally.ok + ended.tally.failed > ended.tally.kept:
        # By its name: rich costs runs without a terminal nothing.
        importlib.import_module("tgi_stack.commands.actions.closing").show(job, ended.tally, progress.took_s)
    _close(ended, out, common)


def _runner(settings: Settings) -> Any:
    """Who runs a job; Ray is loaded, by its name, for those alone who ask for it.

    Raises:
        MissingPackageError: it is not installed.
    """
    if settings.runner == "local":
        return session.run
    if importlib.util.find_spec("ray") is None:
        raise MissingPackageError("ray", "ray")
    return importlib.import_module("tgi_stack.ray.runner").run


def _close(ended: session.Counted[Any], out: Path | None, common: Common) -> None:
    tally = ended.tally
    for type, count in tally.failures.most_common():
        LOG.info(f"{count:,} x {type}")
    for note in tally.notes():
        LOG.info(note)
    LOG.info(tally.line())
    if common.json:
        print_data(tally.as_dict() | {"out": str(out)})
    if ended.signals:
        # A batch may still be computing in its thread; nobody waits for it any more.
        sys.stdout.flush()
        remove_spooled()
        os._exit(128 + ended.signals[0])
    ended.refuse_missing_rows()
    if tally.failed:
        raise typer.Exit(1)
