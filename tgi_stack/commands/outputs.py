"""`fastqwen verify` and `eval`: what they take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tgi_stack.commands.app import app
from tgi_stack.commands.declare import command
from tgi_stack.commands.options import Arguments, Positional
from tgi_stack.declared.option import FILES, RUN, Option


@command(app, "verify", "outputs.verify_output")
@dataclass(frozen=True, kw_only=True)
class Verify(Arguments):
    """Proves an output: every input row exactly once, digests hold, counts add up."""

    out: Annotated[Path, Positional("OUT", "What a job wrote with -o.")]


@command(app, "eval", "outputs.evaluate")
@dataclass(frozen=True, kw_only=True)
class Evaluate(Arguments):
    """Recall@k, NDCG@k and MRR of a rerank output, with bootstrap 95 % intervals."""

    ranked: Annotated[Path, Positional("RANKED", "An output of rerank.")]
    k: Annotated[str, Option("Cutoffs of Recall and NDCG.", RUN, metavar="K,...")] = "1,5,10,20"
    trec: Annotated[Path | None, Option("Write a TREC run, too.", FILES, metavar="FILE", unset="none")] = None
    qrels: Annotated[
        Path | None, Option("What is relevant.", FILES, metavar="FILE", unset="each row's `positive`")
    ] = None
    against: Annotated[
        Path | None, Option("Another output to compare with.", FILES, metavar="OTHER", unset="none")
    ] = None
    overwrite: Annotated[bool, Option("Write a TREC run that is there already anew.", FILES)] = False
    temperature: Annotated[
        float | None,
        Option(
            "Rank anew from the raw reads.", RUN, metavar="T", unset="as it is ranked", least=1e-6, most=1e6
        ),
    ] = None
    drop: Annotated[
        list[str] | None,
        Option("Leave a candidate out and renormalise.", RUN, metavar="ID", unset="none"),
    ] = None
    exclude_failed: Annotated[bool, Option("Leave failed rows out; else they count as 0.", RUN)] = False
