"""`fastqwen bench`: the speed-up table."""

from __future__ import annotations

import importlib
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from tgi_stack import logs
from tgi_stack.backends.open import require_torch
from tgi_stack.bench import chart, show
from tgi_stack.bench.checkpoint import Checkpoint
from tgi_stack.commands.app import app
from tgi_stack.commands.command import command, settings_of
from tgi_stack.commands.console import print_data, print_table
from tgi_stack.commands.options import AwaitedServers, Common, Computing
from tgi_stack.settings import Settings
from tgi_stack.writing import Given, refuse_present

LOG = logging.getLogger(logs.CLOSING)


@command(app, "bench")
def bench_engine(
    *,
    servers: AwaitedServers,
    computing: Computing,
    random_weights: Annotated[
        str | None, typer.Option(metavar="SHAPE", help="qwen3-0.6b, qwen3-vl-2b, ...: nothing is downloaded.")
    ] = None,
    labelled: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A rerank file with `positive`, for accuracy.")
    ] = None,
    items: Annotated[list[str] | None, typer.Option(metavar="ITEMS", help="Its items.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Rows whose name contains this.")
    ] = None,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Timed passes of a row.")] = 3,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Figures as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Bars of the speed-ups, PNG.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write files that are there already anew.")
    ] = False,
    common: Common,
) -> None:
    """The speed-up table of the optimisations, measured on this machine, with what each costs in accuracy.

    Figures are written and told as they come: a benchmark that is stopped keeps those it has.
    """
    chosen = settings_of(common, locals())
    order = {
        "random_weights": random_weights,
        "labelled": labelled,
        "items": tuple(items or ()),
        "only": tuple(only or ()),
        "repeats": repeats,
    }
    named = [("--labelled", labelled), *(("--items", Path(name)) for name in items or ())]
    inputs = [Given(option, path) for option, path in (*named, *chosen.files.items()) if path is not None]
    if plot is not None:
        refuse_present("--plot", plot, inputs, overwrite=overwrite)
    kept = Checkpoint(out, overwrite=overwrite, inputs=inputs)
    with _ended_by_signals():
        try:
            for found in _measured(chosen, order):
                kept.keep(found)
        finally:
            _show(kept.found, plot, as_json=common.json, overwrite=overwrite)


def _measured(chosen: Settings, order: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """See `bench.run.bench`, which is imported here: torch costs seconds that `--help` is not to take.

    Raises:
        MissingPackageError: torch or transformers is not installed.
    """
    require_torch()
    run = importlib.import_module("tgi_stack.bench.run")
    found: Iterator[dict[str, Any]] = run.bench(chosen, run.Order(**order))
    return found


def _show(found: dict[str, Any], plot: Path | None, *, as_json: bool, overwrite: bool) -> None:
    """The table, the bars, and what is missing in them."""
    if found:
        if as_json:
            print_data(found)
        else:
            for table in show.tables(found):
                print_table(table, width=200)
        if plot is not None:
            chart.plot(found, plot, overwrite=overwrite)
    if line := show.missing(found):
        LOG.info(line)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """What asks the program to end raises SystemExit where it is, so that it ends in order."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
