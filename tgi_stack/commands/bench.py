"""`fastqwen bench`: what it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tgi_stack.commands.declare import command
from tgi_stack.commands.options import Arguments, Settings
from tgi_stack.declared.option import FILES, RUN, SERVERS, Option


@command("bench", "bench.bench_engine")
@dataclass(frozen=True, kw_only=True)
class Bench(Arguments):
    """The speed-up table of the optimisations, measured here. What each costs in accuracy, too.

    Figures are written and told as they come: a benchmark that is stopped keeps those it has.
    """

    settings: Settings
    random_weights: Annotated[
        str | None,
        Option(
            "Random weights of a shape (qwen3-0.6b, qwen3-vl-2b, ...): nothing is downloaded.",
            SERVERS,
            metavar="SHAPE",
            unset="the model's own",
        ),
    ] = None
    labelled: Annotated[
        Path | None,
        Option("A rerank file with `positive`, for accuracy.", FILES, metavar="FILE", unset="none"),
    ] = None
    items: Annotated[list[str] | None, Option("Its items.", FILES, metavar="ITEMS", unset="none")] = None
    out: Annotated[
        Path | None, Option("Figures as JSON.", FILES, metavar="FILE", unset="none", also=("-o",))
    ] = None
    plot: Annotated[
        Path | None, Option("Bars of the speed-ups, .svg or .png.", FILES, metavar="FILE", unset="none")
    ] = None
    only: Annotated[
        list[str] | None, Option("Rows whose name contains this.", RUN, metavar="NAME", unset="all")
    ] = None
    repeats: Annotated[int, Option("Timed passes of a row.", RUN, metavar="N", least=1)] = 3
