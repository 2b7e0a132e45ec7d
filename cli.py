"""The `fastqwen` command line: parse, make Settings, call one job, print.

The only module that prints or exits. What goes wrong arrives here as one tree of errors (`tgi_stack.errors`),
each of which knows its exit status.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cache.errors import CacheError
from cache.store import Store
from tgi_stack import __version__, settings
from tgi_stack.answers import cache_admin
from tgi_stack.answers.cache_admin import open_store, store_of
from tgi_stack.backends.open import bench, draw_bench, examine_endpoints, open_backend, open_stack
from tgi_stack.bench import show
from tgi_stack.bench.checkpoint import Checkpoint
from tgi_stack.commands.options import (
    AwaitedServers,
    CacheDir,
    Computing,
    ConfigFile,
    Debug,
    DockerDir,
    Gateway,
    Group,
    Input,
    Json,
    LlmBatchSize,
    MaxSide,
    Model,
    Observe,
    Out,
    PromptFile,
    Quiet,
    Reads,
    Remembering,
    Rows,
    Servers,
    StackVariables,
    Switches,
    Timeout,
    TokenizerOption,
    grouped,
)
from tgi_stack.commands.progress import Progress
from tgi_stack.errors import (
    DiskError,
    FastqwenError,
    InputError,
    MachineError,
    ServerError,
    UsageError,
)
from tgi_stack.jobs import dry_run
from tgi_stack.jobs import pipeline as runner
from tgi_stack.jobs import reask as reask_of
from tgi_stack.jobs.parallel_replay import Ahead
from tgi_stack.jobs.sinks import open_sink
from tgi_stack.jobs.spec import JobSpec
from tgi_stack.prompting import prompts
from tgi_stack.prompting.template_file import read_template
from tgi_stack.rows import folder
from tgi_stack.rows.ledger import Checked, Sink
from tgi_stack.rows.output import Output
from tgi_stack.rows.reader import Folder, Parts, Source, open_source
from tgi_stack.rows.verify import verify
from tgi_stack.scoring import evaluation
from tgi_stack.settings import Settings

app = typer.Typer(
    name="fastqwen",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: drawing boxes costs a tenth of a second
    context_settings={"help_option_names": ["-h", "--help"]},
)
talk = Console(stderr=True, highlight=False, soft_wrap=True)

stack = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The servers of this host; `make up` calls it."
)
app.add_typer(stack, name="stack")


def _version(show: bool) -> None:
    if show:
        typer.echo(f"fastqwen {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Semantic summaries of images with Qwen3-VL, and rankings read from Qwen3's next-token distribution."""


@app.command()
@grouped
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
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Semantic summaries of a folder of images or of the rows of a file.

    A row: {"id": "42", "image": "images/42.jpg", "title": "...", "text": "..."}
    """
    flags = _flags(locals())
    with _reporting(debug):
        chosen = settings.load(flags, file=config)
        source = open_source(input, folders=True, columns=_columns(rows.columns))
        prompt = read_template(chosen, prompts.SUMMARY_PLACEHOLDERS)
        recipe = JobSpec("summarize", chosen, source.base, template=prompt)
        _run_job(recipe, source, out, as_json=as_json, quiet=quiet)


@app.command()
@grouped
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
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Ranks each row's candidates.

    A row: {"id": "u1", "history": [ITEM, ...], "candidates": [ITEM, ...]} or "query" in place of "history".
    """
    flags = _flags(locals()) | {"item_fields": _split(item_fields)}
    with _reporting(debug):
        chosen = settings.load(flags, file=config)
        source = open_source(input, columns=_columns(rows.columns))
        item_sources = tuple(open_source(name, columns=_columns(rows.columns)) for name in items or ())
        prompt = read_template(chosen, prompts.RERANK_PLACEHOLDERS)
        recipe = JobSpec("rerank", chosen, source.base, item_sources, prompt)
        _run_job(recipe, source, out, as_json=as_json, quiet=quiet)


@app.command()
@grouped
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
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Label probabilities of prompts of your own.

    A row: {"id": "p1", "prompt": "...", "labels": ["A", "B"]} or {"prompt": "...", "num_candidates": 20}
    """
    flags = _flags(locals()) | {"labels": _split(labels)}
    with _reporting(debug):
        chosen = settings.load(flags, file=config)
        source = open_source(input, columns=_columns(rows.columns))
        recipe = JobSpec("probs", chosen, source.base)
        _run_job(recipe, source, out, as_json=as_json, quiet=quiet)


@app.command(name="verify")
def verify_output(
    out: Annotated[Path, typer.Argument(metavar="OUT", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON on stdout.")] = False,
    debug: Debug = False,
) -> None:
    """Proves an output: every input row exactly once, digests hold, counts add up."""
    with _reporting(debug):
        findings = verify(out)
    for finding in findings:
        sign = {True: "ok", False: "FAILED", None: "not checked"}[finding.holds]
        talk.print(_escaped(f"{sign}: {finding.what} ({finding.detail})"), markup=False)
    if as_json:
        _print_data([asdict(finding) for finding in findings])
    if any(finding.holds is False for finding in findings):
        raise typer.Exit(1)


@app.command(name="eval")
def evaluate(
    ranked: Annotated[Path, typer.Argument(metavar="RANKED", show_default=False)],
    k: Annotated[str, typer.Option("--k", metavar="K,...", help="Cutoffs of Recall and NDCG.")] = "1,5,10,20",
    trec: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a TREC run too.")] = None,
    qrels: Annotated[Path | None, typer.Option(metavar="FILE", help="In place of `positive`.")] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="OTHER", help="Another output to compare with.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=1e-6, help="Rank anew from the raw reads.")] = None,
    drop: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Leave a candidate out and renormalise.")
    ] = None,
    exclude_failed: Annotated[
        bool, typer.Option("--exclude-failed", help="Leave failed rows out, else they count as 0.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The figures as JSON on stdout.")] = False,
    debug: Debug = False,
) -> None:
    """Recall@k, NDCG@k and MRR of a rerank output, with bootstrap 95 % intervals."""
    with _reporting(debug):
        cutoffs = _cutoffs(k)
        options: dict[str, Any] = {
            "qrels": qrels,
            "exclude_failed": exclude_failed,
            "temperature": temperature,
            "drop": drop or [],
        }
        figures = evaluation.evaluate(ranked, cutoffs, trec=trec, against=against, **options)
    if as_json:
        _print_data(figures.as_dict())
    else:
        for part in figures.printed():
            Console(highlight=False).print(part)


@app.command(name="doctor")
@grouped
def examine(
    *,
    servers: Servers,
    model: Model = None,
    tokenizer: TokenizerOption = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="The lines as JSON on stdout.")] = False,
    debug: Debug = False,
) -> None:
    """What works here; each line ok, a warning, or a failure with the fix."""
    flags = _flags(locals())
    lines: list[Any] = []

    async def look() -> None:
        async for line in examine_endpoints(chosen, _say):
            lines.append(line)
            _say(str(line))

    with _reporting(debug):
        chosen = settings.load(flags, file=config)
        asyncio.run(look())
    if as_json:
        _print_data([line.as_dict() for line in lines])
    failed = [line.status for line in lines if line.state == "failure"]
    if failed:
        raise typer.Exit(max(failed))


@stack.command(name="plan")
@grouped
def stack_plan(
    *,
    variables: StackVariables,
    gateway: Gateway = False,
    observe: Observe = False,
    pin: Annotated[bool, typer.Option("--pin", help="Ask for the newest commits and digests.")] = False,
    assume_gpus: Annotated[
        str | None, typer.Option(metavar="GIB,...", help="GPUs that are not here; writes nothing.")
    ] = None,
    docker_dir: DockerDir = None,
    debug: Debug = False,
) -> None:
    """Reads the GPUs and writes docker/.env and docker/stack.json: what runs where."""
    with _reporting(debug):
        given = _stack_variables(variables)
        lines = open_stack(docker_dir, _say).plan(given, _extras(gateway, observe), assume_gpus, pin=pin)
    typer.echo("\n".join(lines))


@stack.command(name="up")
@grouped
def stack_up(
    *,
    variables: StackVariables,
    gateway: Gateway = False,
    observe: Observe = False,
    gateway_name: Annotated[
        str | None, typer.Option(metavar="HOST", help="What the gateway's certificate bears.")
    ] = None,
    timeout: Timeout = 1800.0,
    docker_dir: DockerDir = None,
    debug: Debug = False,
) -> None:
    """Brings the servers up and waits until they answer."""
    with _reporting(debug):
        given = _stack_variables(variables)
        lines = open_stack(docker_dir, _say).up(given, _extras(gateway, observe), timeout, gateway_name)
    typer.echo("\n".join(lines))


@stack.command(name="wait")
def stack_wait(timeout: Timeout = 1800.0, docker_dir: DockerDir = None, debug: Debug = False) -> None:
    """Waits until every server of the plan answers."""
    with _reporting(debug):
        open_stack(docker_dir, _say).wait(timeout)


@stack.command(name="status")
def stack_status(docker_dir: DockerDir = None, debug: Debug = False) -> None:
    """Each server: its container, and whether it answers."""
    with _reporting(debug):
        lines = open_stack(docker_dir, _say).status()
    typer.echo("\n".join(_escaped(str(line)) for line in lines))
    if any(line.state == "failure" for line in lines):
        raise typer.Exit(ServerError.exit_status)


@app.command(name="bench")
@grouped
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
    config: ConfigFile = None,
    debug: Debug = False,
) -> None:
    """The speed-up table of the optimisations, measured on this machine, with what each costs in accuracy.

    Figures are written and told as they come: a benchmark that is stopped keeps those it has.
    """
    flags = _flags(locals())
    order = {
        "random_weights": random_weights,
        "labelled": labelled,
        "items": tuple(items or ()),
        "only": tuple(only or ()),
        "repeats": repeats,
    }
    with _reporting(debug):
        chosen = settings.load(flags, file=config)
        kept = Checkpoint(out)
        with _ended_by_signals():
            try:
                bench(chosen, order, _say, kept)
            finally:
                _show_bench(kept.found, plot)


def _show_bench(found: dict[str, Any], plot: Path | None) -> None:
    """The table, the bars, and what is missing in them."""
    if found:
        for table in show.tables(found):
            Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)
        if plot is not None:
            draw_bench(found, plot)
    if line := show.missing(found):
        _say(line)


@contextmanager
def _ended_by_signals() -> Any:
    """What asks the program to end raises SystemExit where it is, so that it ends in order."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@stack.command(name="down")
def stack_down(docker_dir: DockerDir = None, debug: Debug = False) -> None:
    """Stops the servers; weights and compile caches stay."""
    with _reporting(debug):
        open_stack(docker_dir, _say).down()


def _stack_variables(variables: StackVariables) -> dict[str, Any]:
    """What was given of a stack's variables; the models may also stand in the settings."""
    given = vars(variables)
    named = settings.load({name: given[name] for name in ("text_model", "vision_model")})
    given = given | {"text_model": named.text_model, "vision_model": named.vision_model}
    return {name: value for name, value in given.items() if value is not None}


def _extras(gateway: bool, observe: bool) -> tuple[str, ...]:
    return tuple(name for name, on in (("gateway", gateway), ("observe", observe)) if on)


def _say(line: str) -> None:
    talk.print(_escaped(line), markup=False)


cache_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What was computed before.")
app.add_typer(cache_app, name="cache")


@contextmanager
def _store(cache_dir: Path | None, config: Path | None, debug: bool) -> Any:
    with _reporting(debug):
        chosen = settings.load({"cache_dir": cache_dir}, file=config)
        store = store_of(chosen, lambda line: talk.print(_escaped(line), markup=False))
        try:
            yield store
        finally:
            store.close()


@cache_app.command(name="info")
def cache_info(
    cache_dir: CacheDir = None, config: ConfigFile = None, as_json: Json = False, debug: Debug = False
) -> None:
    """What the cache holds: entries, bytes, hits and age by kind, and where it lies."""
    with _store(cache_dir, config, debug) as store:
        found = cache_admin.described(store)
        if as_json:
            _print_data(found)
        else:
            for line in cache_admin.lines(found):
                typer.echo(line)


@cache_app.command(name="verify")
@grouped
def cache_verify(
    *,
    reask: Annotated[
        str | None, typer.Option(metavar="1%", help="Ask the model again for this share of its answers.")
    ] = None,
    servers: Servers,
    computing: Computing,
    cache_dir: CacheDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Checks the digests of all entries; with --reask, whether the model still says the same."""
    flags = _flags(locals())
    with _store(cache_dir, config, debug) as store:
        share = cache_admin.share_of(reask)
        found = cache_admin.verified(store)
        if share is not None:
            chosen = settings.load(flags, file=config)
            found |= asyncio.run(reask_of.reasked(chosen, store, share, lambda line: talk.print(line)))
        if as_json:
            _print_data(found)
        for line in cache_admin.verdict(found):
            talk.print(line, markup=False)
        if found["damaged"] or found.get("swapped"):
            raise typer.Exit(1)


@cache_app.command(name="gc")
def cache_gc(
    older_than: Annotated[
        str | None, typer.Option(metavar="30d", help="What was stored before that.")
    ] = None,
    to_size: Annotated[
        str | None, typer.Option(metavar="20GB", help="The oldest, down to this size.")
    ] = None,
    cache_dir: CacheDir = None,
    config: ConfigFile = None,
    debug: Debug = False,
) -> None:
    """Removes the oldest entries; never one that a running job has written or read."""
    with _store(cache_dir, config, debug) as store:
        removed, smaller = cache_admin.collect(store, older_than, to_size)
        talk.print(f"{removed:,} entries removed, {smaller:,} bytes")


@cache_app.command(name="clear")
def cache_clear(cache_dir: CacheDir = None, config: ConfigFile = None, debug: Debug = False) -> None:
    """Removes all entries that no running job uses."""
    with _store(cache_dir, config, debug) as store:
        talk.print(f"{cache_admin.cleared(store):,} entries removed")


@cache_app.command(name="export")
def cache_export(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    cache_dir: CacheDir = None,
    config: ConfigFile = None,
    debug: Debug = False,
) -> None:
    """All entries in one file, sealed by the key that FASTQWEN_CACHE_KEY_FILE names, if any."""
    with _store(cache_dir, config, debug) as store:
        reads = [config or Path(settings.FILE)]
        count = cache_admin.export(store, file, force=force, reads=reads)
        talk.print(f"{count:,} entries in {file}", markup=False)


@cache_app.command(name="import")
def cache_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    cache_dir: CacheDir = None,
    config: ConfigFile = None,
    debug: Debug = False,
) -> None:
    """Takes in the entries of a file that `cache export` wrote; each is verified."""
    with _store(cache_dir, config, debug) as store:
        found = cache_admin.take_in(store, file)
        talk.print(f"{found.entries:,} entries, {found.new:,} of them new", markup=False)
        if found.damaged or found.forged:
            talk.print(f"{found.damaged:,} damaged and {found.forged:,} forged entries were left out")
            raise typer.Exit(1)


def _cutoffs(value: str) -> list[int]:
    try:
        cutoffs = [int(part) for part in value.split(",")]
    except ValueError as error:
        raise UsageError(f"--k {value}: give numbers such as 1,5,10") from error
    if min(cutoffs) < 1:
        raise UsageError(f"--k {value}: cutoffs are at least 1")
    return cutoffs


# -- running ---------------------------------------------------------------------------------------------


def _flags(given: dict[str, Any]) -> dict[str, Any]:
    """The options among a command's arguments, in groups or alone, that are settings."""
    alone: dict[str, Any] = {}
    for name, value in given.items():
        alone |= vars(value) if isinstance(value, Group) else {name: value}
    return {name: value for name, value in alone.items() if name in Settings.model_fields}


def _columns(value: str | None) -> dict[str, str]:
    """`id=asin,title=name` as a table of our names and the file's."""
    pairs = dict(pair.partition("=")[::2] for pair in _split(value) or ())
    if not all(ours and theirs for ours, theirs in pairs.items()):
        raise UsageError(f"--map {value}: give pairs such as id=asin,title=name")
    return pairs


def _split(value: str | None) -> tuple[str, ...] | None:
    return None if value is None else settings.split(value)


def _run_job(recipe: JobSpec, source: Source, out: Path | None, *, as_json: bool, quiet: bool) -> None:
    if recipe.settings.dry_run:
        _foretell(recipe, source, as_json=as_json)
        return
    if as_json and out is None:
        raise UsageError("--json prints its summary on stdout, where the records go; give -o OUT as well")

    def say(line: str) -> None:
        if not quiet:
            _say(line)

    recipe = replace(recipe, settings=runner.within_limits(recipe.settings, say))
    sink = open_sink(recipe, source, out, sys.argv)
    tally = runner.Tally()
    stopped, store = None, None
    try:
        if isinstance(sink, Output) and sink.finished is not None:
            tally = runner.Tally.of(sink.finished)
            say(f"{out} is finished; to write it anew: --overwrite")
        else:
            strict = not recipe.settings.skip_bad_rows
            known = sink.known_rows(strict=strict) if isinstance(sink, Output) else None
            runner.count(recipe.parse, source, recipe.settings, tally, known)
            store = open_store(recipe.settings, say)
            checked = Checked(tally.input_rows, strict)
            stopped = asyncio.run(_answered(recipe, source, sink, checked, tally, store, say, quiet=quiet))
    except BaseException:
        if tally.rows:
            talk.print(tally.line(), markup=False)
        raise
    finally:
        sink.close(tally.as_dict())
        if store is not None:
            store.close()
    _say_skipped((source, *recipe.items), say)
    _close(tally, out, as_json, stopped)


async def _answered(
    recipe: JobSpec,
    source: Source,
    sink: Sink,
    checked: Checked,
    tally: runner.Tally,
    store: Store | None,
    say: Callable[[str], None],
    *,
    quiet: bool,
) -> int | None:
    """Answers the rows: the number of the signal that stopped it, or None."""
    settings, kind = recipe.settings, recipe.kind
    backend = await open_backend(settings, kind, say, store)
    try:
        job = recipe.job(backend, store)
        sink.begin(backend.identity, checked)
        ahead = None
        if isinstance(sink, Output) and store is not None:
            ahead = Ahead.of(recipe, source, sink, store, backend)
        began = time.monotonic()
        ended = await _work(job, source, sink, settings, tally, ahead, quiet)
        dry_run.note_speed(store, kind, backend, tally, time.monotonic() - began)
        return ended
    finally:
        await backend.aclose()


def _say_skipped(sources: Iterable[Source], say: Callable[[str], None]) -> None:
    for source in sources:
        if isinstance(source, Folder | Parts) and source.skipped:
            say(f"{source.base}: skipped: {folder.told(source.skipped)}")


def _foretell(recipe: JobSpec, source: Source, *, as_json: bool) -> None:
    """What a run would find in the cache and have to ask for; sends and writes nothing."""
    tally = runner.Tally()
    runner.count(recipe.parse, source, recipe.settings, tally)
    store = open_store(recipe.settings, lambda line: talk.print(_escaped(line), markup=False))
    try:
        found = asyncio.run(dry_run.foretell(recipe, source, tally, store))
    finally:
        if store is not None:
            store.close()
    if as_json:
        _print_data(asdict(found))
    else:
        talk.print(found.line(), markup=False)


async def _work(
    job: runner.Job[Any],
    source: Source,
    sink: Sink,
    chosen: Settings,
    tally: runner.Tally,
    ahead: Ahead | None,
    quiet: bool,
) -> int | None:
    """Runs the job: the number of the signal that stopped it, or None."""
    stop = asyncio.Event()
    signals: list[int] = []

    def interrupt(number: int) -> None:
        if signals:  # asked twice: every record written so far is whole
            os._exit(128 + number)
        signals.append(number)
        stop.set()
        talk.print("fastqwen: finishing what is in flight; once more to stop at once", markup=False)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, interrupt, number)
    with Progress(talk, quiet=quiet) as progress:
        await runner.run(job, source, sink, chosen, tally, progress.update, stop, ahead)
    return signals[0] if signals else None


def _close(tally: runner.Tally, out: Path | None, as_json: bool, stopped: int | None) -> None:
    for type, count in tally.failures.most_common():
        talk.print(f"{count:,} x {type}", markup=False)
    for note in tally.notes():
        talk.print(note, markup=False)
    talk.print(tally.line(), markup=False)
    if as_json:
        _print_data(tally.as_dict() | {"out": str(out)})
    if stopped is not None:
        # A batch may still be computing in its thread; nobody waits for it any more.
        sys.stdout.flush()
        atexit._run_exitfuncs()  # spooled input goes all the same
        os._exit(128 + stopped)
    if tally.pending:
        raise InputError(f"the input changed while it was read: {tally.pending:,} rows are missing")
    if tally.failed:
        raise typer.Exit(1)


@contextmanager
def _reporting(debug: bool) -> Any:
    """Errors of the tree become one line and their exit status; a traceback comes with --debug alone."""
    if debug:
        logging.basicConfig(format="fastqwen: %(message)s")
        logging.getLogger("fastqwen").setLevel(logging.INFO)
    try:
        yield
    except (FastqwenError, CacheError) as error:
        if debug:
            traceback.print_exc()
        talk.print(f"fastqwen: {_escaped(str(error))}", markup=False)
        status = error.exit_status if isinstance(error, FastqwenError) else MachineError.exit_status
        raise typer.Exit(status) from None
    except KeyboardInterrupt:
        talk.print("fastqwen: interrupted", markup=False)
        raise typer.Exit(128 + signal.SIGINT) from None
    except BrokenPipeError:
        _mute()
        raise typer.Exit(128 + signal.SIGPIPE) from None
    except typer.Exit:
        raise
    except OSError as error:
        _mute()
        place = f"{error.filename}: " if error.filename else ""
        talk.print(f"fastqwen: {_escaped(place + str(error.strerror or error))}", markup=False)
        raise typer.Exit(DiskError.exit_status) from None
    except Exception as error:  # noqa: BLE001  # the last line of defence: users get a line, not a traceback
        if debug:
            traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
        talk.print(f"fastqwen: {_escaped(reason)} (unexpected; --debug shows where)", markup=False)
        raise typer.Exit(MachineError.exit_status) from None


def _mute() -> None:
    """Lets what is left for stdout go nowhere, so that the interpreter does not complain about it at exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_data(value: Any) -> None:
    """JSON on stdout, written out at once: a full disk is noticed here."""
    typer.echo(json.dumps(value))
    sys.stdout.flush()


def _escaped(text: str) -> str:
    """Control characters made visible, so that data can't drive the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
