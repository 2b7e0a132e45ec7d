"""`fastqwen verify` and `eval`: what stands in an output."""

from __future__ import annotations

import logging
from dataclasses import asdict

import typer

from tgi_stack import logs
from tgi_stack.commands.console import print_data, print_table
from tgi_stack.commands.outputs import Evaluate, Verify
from tgi_stack.errors import UsageError
from tgi_stack.plots import measures
from tgi_stack.plots.canvas import refuse_plot
from tgi_stack.rows import output
from tgi_stack.rows.verify import verify
from tgi_stack.scoring import evaluation, labelled
from tgi_stack.writing import Given

MOST_CUTOFF = 2**31 - 1
LOG = logging.getLogger(logs.CLOSING)
DETAIL = logging.getLogger(__name__)


def verify_output(given: Verify) -> None:
    """`fastqwen verify`."""
    findings = verify(given.out)
    for finding in findings:
        sign = {True: "ok", False: "FAILED", None: "not checked"}[finding.holds]
        (LOG if finding.holds is False else DETAIL).info(f"{sign}: {finding.what} ({finding.detail})")
    if given.common.json:
        print_data([asdict(finding) for finding in findings])
    if any(finding.holds is False for finding in findings):
        raise typer.Exit(1)


def evaluate(given: Evaluate) -> None:
    """`fastqwen eval`."""
    if given.labelled is not None:
        _refuse_misplaced(given)
        _show(labelled.against(given.ranked, given.labelled), given)
        return
    named = (("RANKED", given.ranked), ("--against", given.against), ("--noise", given.noise))
    read = [one for name, out in named for one in output.given(name, out, given.common.config)]
    read += [Given("--qrels", given.qrels)] if given.qrels is not None else []
    refuse_plot(given.plot, read, overwrite=given.overwrite)
    figures = evaluation.evaluate(
        given.ranked,
        _cutoffs(given.k),
        trec=given.trec,
        against=given.against,
        noise=given.noise,
        overwrite=given.overwrite,
        inputs=read,
        qrels=given.qrels,
        exclude_failed=given.exclude_failed,
        temperature=given.temperature,
        drop=given.drop or [],
    )
    if given.plot is not None:
        compared = figures.comparison
        differences = None if compared is None else compared.differences
        measures.plot(figures.estimates, differences, given.plot, overwrite=given.overwrite)
    _show(figures, given)


def _refuse_misplaced(given: Evaluate) -> None:
    """Raises UsageError for what says nothing of labelled data, lest it is passed over."""
    names = ("trec", "qrels", "against", "noise", "temperature", "drop", "plot")
    if name := next((name for name in names if getattr(given, name)), None):
        raise UsageError(f"--{name} is for rankings and does not go with --labelled; leave one of them out")


def _show(figures: evaluation.Figures | labelled.Labelled, given: Evaluate) -> None:
    if given.common.json:
        print_data(figures.as_dict())
    else:
        for part in figures.printed():
            print_table(part)


def _cutoffs(value: str) -> list[int]:
    try:
        cutoffs = [int(part) for part in value.split(",")]
    except ValueError as error:
        raise UsageError(f"--k {value}: give numbers such as 1,5,10") from error
    if min(cutoffs) < 1 or max(cutoffs) > MOST_CUTOFF:
        raise UsageError(f"--k {value}: cutoffs are from 1 to {MOST_CUTOFF:,}")
    return cutoffs
