"""Runs `fastqwen bench`."""

from __future__ import annotations

import importlib
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cache.system.signals import heeded
from tgi_stack import logs
from tgi_stack.backends.open import require_torch
from tgi_stack.bench import show
from tgi_stack.bench.checkpoint import Checkpoint
from tgi_stack.commands.bench import Bench
from tgi_stack.commands.console import print_data, print_table
from tgi_stack.plots import bars
from tgi_stack.plots.canvas import refuse_plot
from tgi_stack.settings import Settings
from tgi_stack.writing import Given

LOG = logging.getLogger(logs.CLOSING)


def bench_engine(given: Bench) -> None:
    """`fastqwen bench`."""
    order = {
        "random_weights": given.random_weights,
        "labelled": given.labelled,
        "items": tuple(given.items or ()),
        "only": tuple(given.only or ()),
        "repeats": given.repeats,
    }
    named = [("--labelled", given.labelled), *(("--items", Path(name)) for name in given.items or ())]
    files = (*named, *given.settings.files)
    inputs = [Given(option, path) for option, path in files if path is not None]
    overwrite = given.settings.overwrite
    refuse_plot(given.plot, inputs, overwrite=overwrite)
    kept = Checkpoint(given.out, overwrite=overwrite, inputs=inputs)
    with _ended_by_signals():
        try:
            for found in _measured(given.settings, order):
                kept.keep(found)
        finally:
            _show(kept.found, given.plot, as_json=given.common.json, overwrite=overwrite)


def _measured(settings: Settings, order: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """See `bench.run.bench`, which is imported here: torch costs seconds, and may not be there.

    Raises:
        MissingPackageError: torch or transformers is not installed.
    """
    require_torch()
    run = importlib.import_module("tgi_stack.bench.run")
    found: Iterator[dict[str, Any]] = run.bench(settings, run.Order(**order))
    return found


def _show(found: dict[str, Any], plot: Path | None, *, as_json: bool, overwrite: bool) -> None:
    """The table, the bars, and what is missing in them."""
    if found:
        if as_json:
            print_data(found)
        else:
            for table in show.tables(found):
                print_table(table, width=220)
        if plot is not None:
            bars.plot(found, plot, overwrite=overwrite)
    if line := show.missing(found):
        LOG.info(line)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """What asks the program to end raises SystemExit where it is, so that it ends in order."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
