"""Runs `fastqwen compare`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import typer

from tgi_stack import settings
from tgi_stack.commands.console import print_data, print_table
from tgi_stack.commands.outputs import Compare
from tgi_stack.errors import UsageError
from tgi_stack.jobs import asked_again
from tgi_stack.jobs.asked_again import Again, Brought, Collected
from tgi_stack.plots import agreement as agreement_plot
from tgi_stack.plots.canvas import refuse_plot
from tgi_stack.rows import output
from tgi_stack.rows.formats import remove_spooled
from tgi_stack.scoring.agreement.answers import answer_of
from tgi_stack.scoring.agreement.compare import Compared, Comparison, compare, differences
from tgi_stack.scoring.agreement.figures import agreement
from tgi_stack.scoring.agreement.pairs import Pair
from tgi_stack.writing import Given

LOG = logging.getLogger(__name__)


def outputs(given: Compare) -> None:
    """`fastqwen compare`."""
    named = [*(("OUT", out) for out in given.outputs), ("--noise", given.noise)]
    read = [one for name, out in named for one in output.given(name, out, given.common.config)]
    read += [Given("--input", Path(given.input))] if given.input else []
    read += [Given("--items", Path(name)) for name in given.items or ()]
    if given.against is not None:
        own = settings.load(given.flags, file=given.common.config)
        read += [Given(option, path) for option, path in own.files]
    refuse_plot(given.plot, read, overwrite=given.overwrite)
    if given.against is None:
        _refuse_misplaced(given)
        found = compare(given.outputs, given.limit, given.noise)
    else:
        found = _again(given, given.against)
    if given.plot is not None:
        agreement_plot.plot(found, given.plot, overwrite=given.overwrite)
    if given.common.json:
        print_data(found.as_dict())
    else:
        for part in found.printed():
            print_table(part)
    if not found.within:
        raise typer.Exit(1)


def _refuse_misplaced(given: Compare) -> None:
    if len(given.outputs) < 2 and given.noise is None:
        raise UsageError("give two outputs or more, or one with --against torch or --against URL")
    for name, value in (("--sample", given.sample), ("--input", given.input), ("--items", given.items)):
        if value is not None:
            raise UsageError(
                f"{name} is for rows that are asked again; give --against torch or --against URL"
            )


def _again(given: Compare, against: str) -> Comparison:
    """Some rows of the one output, asked again."""
    if len(given.outputs) != 1 or given.noise is not None:
        raise UsageError("--against asks the rows of one output again; give one")
    if given.sample is None:
        raise UsageError("--against: how many rows are to be asked again? --sample N")
    (out,) = given.outputs
    own = settings.load(given.flags, file=given.common.config)
    asked = asked_again.as_asked(out, against, own, given.flags)
    brought = Brought(given.input, tuple(given.items or ()))
    again = asked_again.chosen(out, given.sample, asked, brought)
    LOG.info(f"{len(again.records):,} of {again.rows:,} answered rows are asked again")
    sink, session = again.ask()
    if session.signals:
        remove_spooled()
        os._exit(128 + session.signals[0])
    session.refuse_missing_rows()
    found = agreement(_pairs(out, again, sink), given.limit, named=None)
    notes = tuple(_notes(out, again, sink))
    return Comparison(given.limit, (Compared((str(out), against), found, notes),))


def _pairs(out: Path, again: Again, sink: Collected) -> Iterator[Pair]:
    job = again.spec.name
    for number, record in again.records.items():
        yield answer_of(record, number, job), answer_of(sink.records[number], number, job)


def _notes(out: Path, again: Again, sink: Collected) -> Iterator[str]:
    yield f"{len(again.records):,} of {again.rows:,} answered rows, chosen by their ids"
    then = asked_again.manifest_of(out).content.get("identity") or {}
    now = {} if sink.identity is None else asdict(sink.identity)
    yield from (f"answered by {line}" for line in differences(then, now))
