"""Does what `fastqwen settings`, `check`, `schema` and `plan-scale` are asked."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import typer

from tgi_stack import logs
from tgi_stack.commands.actions.jobs import prepared
from tgi_stack.commands.checks import SHAPES, TAKERS, Check, EffectiveSettings, PlanScale, Schema
from tgi_stack.commands.console import print_data
from tgi_stack.declared.option import GROUPS, Declared, declared, taken_by
from tgi_stack.declared.run import Fields
from tgi_stack.errors import UsageError
from tgi_stack.jobs import check as checking
from tgi_stack.redaction import BLOT, keep_secret, redact, redact_url
from tgi_stack.rows.records import RECORDS, json_schema
from tgi_stack.settings import Settings, loading
from tgi_stack.stack.planning.scale import Job, Rates, forecast

KEY = "FASTQWEN_API_KEY"
MOST_ROWS = 10**15  # to plan for
CORES_OF_A_GPU = 8  # where nobody says how many there are
DEFAULT = "default"


def settings(given: EffectiveSettings) -> None:
    """`fastqwen settings`."""
    if unknown := [name for name in given.jobs or () if name not in TAKERS]:
        raise UsageError(f"settings {unknown[0]}: one of {', '.join(TAKERS)}")
    for name in (KEY, "HF_TOKEN"):
        keep_secret(os.environ.get(name))
    chosen = loading.load(given.flags, file=given.common.config)
    places = {name: one.place for name, one in loading.given(given.flags, file=given.common.config).items()}
    shown = [one for one in declared(Fields).values() if not given.jobs or _concerns(one, given.jobs)]
    if given.common.json:
        values = chosen.model_dump(mode="json")
        found = {
            one.name: {"value": _redacted(values[one.name]), "from": places.get(one.name, DEFAULT)}
            for one in shown
        }
        print_data(found | ({"api_key": {"value": BLOT, "from": KEY}} if KEY in os.environ else {}))
        return
    typer.echo("\n".join(logs.escaped(line) for line in _lines(chosen, shown, places)))


def _concerns(one: Declared, commands: list[str]) -> bool:
    """Whether a command takes a setting, or every command does by the file."""
    return not one.option.on or any(list(taken_by(name, [one])) for name in commands)


def _lines(chosen: Settings, shown: list[Declared], places: dict[str, str]) -> Iterator[str]:
    """As a settings file, each line with where its value came from."""
    values = chosen.model_dump(mode="json")
    for group in GROUPS:
        lines = []
        for one in (one for one in shown if one.option.group == group):
            place, value = places.get(one.name, DEFAULT), _redacted(values[one.name])
            if place == DEFAULT and (value is None or value in ("", [])):
                lines.append(f"# {one.name}: {one.default_text}")
            else:
                lines.append(f"{f'{one.name} = {json.dumps(value, ensure_ascii=False)}':44} # {place}")
        if lines:
            yield from (f"# {group}", *lines, "")
    yield f"# {KEY} is set" if KEY in os.environ else f"# {KEY} is not set"


def _redacted(value: Any) -> Any:
    if isinstance(value, list):
        return [_redacted(one) for one in value]
    if isinstance(value, str):
        return redact_url(value) if "://" in value else redact(value)
    return value


def check(given: Check) -> None:
    """`fastqwen check`."""
    spec, source = prepared(given.job, given.input, given.items or (), given.map, given.settings)
    found = asyncio.run(checking.check(spec, source))
    if given.common.json:
        print_data(found.as_dict())
    else:
        typer.echo("\n".join(map(logs.escaped, found.lines())))
    if found.status:
        raise typer.Exit(found.status)


def schema(given: Schema) -> None:
    """`fastqwen schema`."""
    if given.name not in SHAPES:
        raise UsageError(f"schema {given.name}: one of {', '.join(SHAPES)}")
    if given.only == "record" and given.name not in RECORDS:
        raise UsageError(f"schema {given.name} --only record: the record of an item is that of summarize")
    typer.echo(json.dumps(json_schema(given.name, given.only), indent=2))


def plan_scale(given: PlanScale) -> None:
    """`fastqwen plan-scale`."""
    if not 1 <= given.rows <= MOST_ROWS:
        raise UsageError(f"ROWS={str(given.rows)[:40]}: from 1 to {MOST_ROWS}")
    cores = given.cores or max(1, CORES_OF_A_GPU * given.gpus)
    job = Job(given.rows, given.gpus, cores, given.hits, given.block, price=given.price)
    found = forecast(job, Rates(gpu=given.rate, prepared=given.core_rate))
    if given.common.json:
        print_data(found.as_dict())
        return
    cost = f", {found.cost:,.2f} in all" if given.price else ""
    lines = [
        f"{given.rows:,} rows, {given.gpus:,} GPUs, {cores:,} cores, {given.hits:.0%} known: "
        f"{_time(found.seconds)}, {found.gpu_hours:,.1f} GPU hours{cost}",
        f"what limits: {found.limit}",
        *(f"  {name:6} {_time(seconds):>10}" for name, seconds in found.stages.items()),
        *found.notes,
    ]
    typer.echo("\n".join(lines))


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
