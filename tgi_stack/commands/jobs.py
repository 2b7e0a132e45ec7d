"""`fastqwen summarize`, `rerank` and `probs`."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tgi_stack import logs, settings
from tgi_stack.commands.app import app
from tgi_stack.commands.command import command, settings_of
from tgi_stack.commands.console import print_data
from tgi_stack.commands.options import (
    AwaitedServers,
    Common,
    Computing,
    Input,
    LlmBatchSize,
    MaxSide,
    Out,
    PromptFile,
    Reads,
    Remembering,
    Rows,
    Switches,
)
from tgi_stack.commands.progress import Progress
from tgi_stack.errors import UsageError
from tgi_stack.jobs import session
from tgi_stack.jobs.pipeline import Tally
from tgi_stack.jobs.spec import JobSpec
from tgi_stack.prompting import prompts
from tgi_stack.prompting.template_file import read_template
from tgi_stack.rows.columns import parse_map
from tgi_stack.rows.reader import Source, open_source, remove_spooled

LOG = logging.getLogger(logs.CLOSING)


@command(app)
def summarize(
    input: Input,
    out: Out = None,
    *,
    servers: AwaitedServers,
    computing: Computing,
    switches: Switches,
    semantic_summary_batch_size: Annotated[
        str | None,
        typer.Option(
            "--semantic-summary-batch-size",
            "--semantic_summary_batch_size",
            metavar="N|auto",
            help="Summaries written at once; auto: as fit.",
        ),
    ] = None,
    prompt_file: PromptFile = None,
    instruction: Annotated[
        str | None, typer.Option(help="What to ask, in place of the built-in instruction.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens of a summary at most.")
    ] = None,
    max_side: MaxSide = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    seed: Annotated[int | None, typer.Option(help="For a temperature above 0.")] = None,
    allow_text_only: Annotated[
        bool | None, typer.Option("--allow-text-only", help="Rows without an image too.")
    ] = None,
    allow_truncated: Annotated[
        bool | None, typer.Option("--allow-truncated", help="JPEGs that end early too, flagged.")
    ] = None,
    remembering: Remembering,
    rows: Rows,
    common: Common,
) -> None:
    """Semantic summaries of a folder of images or of the rows of a file.

    A row: {"id": "42", "image": "images/42.jpg", "title": "...", "text": "..."}
    """
    chosen = settings_of(common, locals())
    source = open_source(input, folders=True, columns=parse_map(rows.columns, "summarize"), kind="summarize")
    prompt = read_template(chosen, prompts.SUMMARY_PLACEHOLDERS)
    spec = JobSpec("summarize", chosen, source.base, template=prompt)
    _run(spec, source, out, common)


@command(app)
def rerank(
    input: Input,
    items: Annotated[
        list[str] | None, typer.Option(metavar="ITEMS", help="What ids stand for; several are joined by id.")
    ] = None,
    out: Out = None,
    *,
    servers: AwaitedServers,
    computing: Computing,
    switches: Switches,
    llm_batch_size: LlmBatchSize = None,
    prompt_file: PromptFile = None,
    instruction: Annotated[
        str | None, typer.Option(help="What to look for, in place of the built-in instruction.")
    ] = None,
    item_fields: Annotated[
        str | None, typer.Option(metavar="FIELD,...", help="What stands for an item.")
    ] = None,
    item_images: Annotated[
        bool | None, typer.Option("--item-images", help="Candidates' images in the prompt too.")
    ] = None,
    max_side: MaxSide = None,
    max_history: Annotated[int | None, typer.Option(metavar="N", help="The newest N of the history.")] = None,
    max_item_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens of an item at most.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option(metavar="listwise|pointwise", help="One prompt a row, or one a candidate.")
    ] = None,
    permutations: Annotated[
        int | None, typer.Option(metavar="N", help="Orders of the candidates to average over, at most.")
    ] = None,
    calibrate: Annotated[
        bool | None, typer.Option("--calibrate", help="Divide out what a prompt without content says.")
    ] = None,
    window: Annotated[
        int | None, typer.Option(metavar="N", help="Candidates in a prompt; more go in windows.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(metavar="N", help="How far a window moves; half of it by default.")
    ] = None,
    reads: Reads,
    remembering: Remembering,
    rows: Rows,
    common: Common,
) -> None:
    """Ranks each row's candidates.

    A row: {"id": "u1", "history": [ITEM, ...], "candidates": [ITEM, ...]} or "query" in place of "history".
    """
    chosen = settings_of(common, locals(), item_fields=_split(item_fields))
    columns = parse_map(rows.columns, "rerank", "item")
    source = open_source(input, columns=columns, kind="rerank")
    item_sources = tuple(open_source(name, columns=columns, kind="item") for name in items or ())
    prompt = read_template(chosen, prompts.RERANK_PLACEHOLDERS)
    spec = JobSpec("rerank", chosen, source.base, item_sources, prompt)
    _run(spec, source, out, common)


@command(app)
def probs(
    input: Input,
    out: Out = None,
    *,
    servers: AwaitedServers,
    computing: Computing,
    switches: Switches,
    llm_batch_size: LlmBatchSize = None,
    labels: Annotated[str | None, typer.Option(metavar="A,B,...", help="For rows that bring none.")] = None,
    label_prefix: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What stands before each label, such as a space.")
    ] = None,
    merging_labels: Annotated[
        str | None,
        typer.Option(metavar="refuse|read", help="Labels that are one token with the prompt's end."),
    ] = None,
    chat: Annotated[
        bool | None, typer.Option("--chat", help="The prompt as one user turn, made harmless.")
    ] = None,
    reads: Reads,
    remembering: Remembering,
    rows: Rows,
    common: Common,
) -> None:
    """Label probabilities of prompts of your own.

    A row: {"id": "p1", "prompt": "...", "labels": ["A", "B"]} or {"prompt": "...", "num_candidates": 20}
    """
    chosen = settings_of(common, locals(), labels=_split(labels))
    source = open_source(input, columns=parse_map(rows.columns, "probs"), kind="probs")
    spec = JobSpec("probs", chosen, source.base)
    _run(spec, source, out, common)


def _split(value: str | None) -> tuple[str, ...] | None:
    return None if value is None else settings.split(value)


def _run(spec: JobSpec, source: Source, out: Path | None, common: Common) -> None:
    progress = Progress(quiet=common.quiet, mode=common.progress)
    if spec.settings.dry_run:
        found = session.foretell(spec, source)
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
            ended = session.run(spec, source, out, command=sys.argv, watcher=progress, tally=tally)
    except BaseException:
        if tally.rows:
            LOG.info(tally.line())
        raise
    _close(ended, out, common)


def _close(ended: session.Session, out: Path | None, common: Common) -> None:
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
