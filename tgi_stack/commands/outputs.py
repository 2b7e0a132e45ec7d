"""`fastqwen verify` and `eval`: what stands in an output."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tgi_stack import logs
from tgi_stack.commands.app import app
from tgi_stack.commands.command import command
from tgi_stack.commands.console import print_data, print_table
from tgi_stack.commands.options import Common
from tgi_stack.errors import UsageError
from tgi_stack.rows.verify import verify
from tgi_stack.scoring import evaluation

MOST_CUTOFF = 2**31 - 1
LOG = logging.getLogger(logs.CLOSING)
DETAIL = logging.getLogger(__name__)


@command(app, "verify")
def verify_output(
    out: Annotated[Path, typer.Argument(metavar="OUT", show_default=False)],
    common: Common,
) -> None:
    """Proves an output: every input row exactly once, digests hold, counts add up."""
    findings = verify(out)
    for finding in findings:
        sign = {True: "ok", False: "FAILED", None: "not checked"}[finding.holds]
        (LOG if finding.holds is False else DETAIL).info(f"{sign}: {finding.what} ({finding.detail})")
    if common.json:
        print_data([asdict(finding) for finding in findings])
    if any(finding.holds is False for finding in findings):
        raise typer.Exit(1)


@command(app, "eval")
def evaluate(
    ranked: Annotated[Path, typer.Argument(metavar="RANKED", show_default=False)],
    *,
    k: Annotated[str, typer.Option("--k", metavar="K,...", help="Cutoffs of Recall and NDCG.")] = "1,5,10,20",
    trec: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a TREC run too.")] = None,
    qrels: Annotated[Path | None, typer.Option(metavar="FILE", help="In place of `positive`.")] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="OTHER", help="Another output to compare with.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=1e-6, max=1e6, help="Rank anew from the raw reads.")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Leave a candidate out and renormalise.")
    ] = None,
    exclude_failed: Annotated[
        bool, typer.Option("--exclude-failed", help="Leave failed rows out, else they count as 0.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write a TREC run that is there already anew.")
    ] = False,
    common: Common,
) -> None:
    """Recall@k, NDCG@k and MRR of a rerank output, with bootstrap 95 % intervals."""
    cutoffs = _cutoffs(k)
    options: dict[str, Any] = {
        "qrels": qrels,
        "exclude_failed": exclude_failed,
        "temperature": temperature,
        "drop": drop or [],
    }
    figures = evaluation.evaluate(ranked, cutoffs, trec=trec, against=against, overwrite=overwrite, **options)
    if common.json:
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
