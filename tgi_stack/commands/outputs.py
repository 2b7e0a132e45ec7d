"""`fastqwen verify`, `eval` and `compare`: what they take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tgi_stack.commands.declare import OptionsOf, command
from tgi_stack.commands.options import Arguments, Items, Positional, Settings
from tgi_stack.declared.option import FILES, RUN, Option


@command("verify", "outputs.verify_output")
@dataclass(frozen=True, kw_only=True)
class Verify(Arguments):
    """Proves an output. Every input row stands once, digests hold, counts add up."""

    out: Annotated[Path, Positional("OUT", "What a job wrote with -o.")]


@command("eval", "outputs.evaluate")
@dataclass(frozen=True, kw_only=True)
class Evaluate(Arguments):
    """How good rankings are. Recall@k, NDCG@k and MRR with bootstrap 95 % intervals."""

    ranked: Annotated[Path, Positional("RANKED", "An output of rerank; with --labelled, of summarize.")]
    k: Annotated[str, Option("Cutoffs of Recall and NDCG.", RUN, metavar="K,...")] = "1,5,10,20"
    trec: Annotated[Path | None, Option("Write a TREC run, too.", FILES, metavar="FILE", unset="none")] = None
    qrels: Annotated[
        Path | None, Option("What is relevant.", FILES, metavar="FILE", unset="each row's `positive`")
    ] = None
    against: Annotated[
        Path | None, Option("Another output to compare with.", FILES, metavar="OTHER", unset="none")
    ] = None
    noise: Annotated[
        Path | None,
        Option(
            "A second output of what made RANKED: how far figures are from themselves.",
            FILES,
            metavar="AGAIN",
            unset="none",
        ),
    ] = None
    overwrite: Annotated[bool, Option("Write a TREC run or a picture that is there anew.", FILES)] = False
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
    plot: Annotated[
        Path | None, Option("The measures as a picture, .svg or .png.", FILES, metavar="FILE", unset="none")
    ] = None
    labelled: Annotated[
        Path | None,
        Option(
            "Rows with labelled `data`, which an output of summarize --schema is held against.",
            FILES,
            metavar="FILE",
            unset="none",
        ),
    ] = None
    exclude_failed: Annotated[bool, Option("Leave failed rows out; else they count as 0.", RUN)] = False


@command("compare", "compare.outputs")
@dataclass(frozen=True, kw_only=True)
class Compare(Arguments):
    """How far outputs of the same rows are apart. With --against, some rows of one are asked again elsewhere.

    Exit status 0 where all are within the limit, 1 where they are not.
    """

    outputs: Annotated[list[Path], Positional("OUT", "What jobs wrote with -o: files, folders of parts.")]
    limit: Annotated[
        float,
        Option(
            "How far probabilities may be apart; of texts, the share that may differ.",
            RUN,
            metavar="P",
            least=0.0,
            most=1.0,
        ),
    ] = 0.03
    noise: Annotated[
        Path | None,
        Option(
            "A second run of what made the first OUT: how far an engine is from itself.",
            FILES,
            metavar="OUT",
            unset="none",
        ),
    ] = None
    against: Annotated[
        str | None,
        Option("Who is asked again: torch, or a server.", RUN, metavar="torch|URL", unset="nobody"),
    ] = None
    sample: Annotated[
        int | None,
        Option("How many rows are asked again.", RUN, metavar="N", unset="none", least=1, most=10**9),
    ] = None
    input: Annotated[
        str | None,
        Option("Where the output's input is now.", FILES, metavar="INPUT", unset="where it was read from"),
    ] = None
    items: Items = None
    plot: Annotated[
        Path | None,
        Option("The differences as a picture, .svg or .png.", FILES, metavar="FILE", unset="none"),
    ] = None
    overwrite: Annotated[bool, Option("Write a picture that is there anew.", FILES)] = False
    flags: Annotated[dict[str, Any], OptionsOf(Settings)]
