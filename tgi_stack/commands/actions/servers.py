"""Does what `fastqwen doctor` and `stack` are asked."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import typer

from tgi_stack import logs, settings
from tgi_stack.commands.console import print_data, print_lines
from tgi_stack.commands.servers import Doctor, Down, Plan, Planning, Status, Up, Wait
from tgi_stack.doctor.servers import examine as examined
from tgi_stack.stack.files.docker_folder import locate
from tgi_stack.stack.running.commands import Stack

LOG = logging.getLogger(logs.CLOSING)
DETAIL = logging.getLogger(__name__)


def examine(given: Doctor) -> None:
    """`fastqwen doctor`."""
    lines: list[Any] = []

    async def look() -> None:
        async for line in examined(given.settings):
            lines.append(line)
            (DETAIL if line.state == "ok" else LOG).info(str(line))

    with logs.probing():
        asyncio.run(look())
    if given.common.json:
        print_data([line.as_dict() for line in lines])
    failed = [line.status for line in lines if line.state == "failure"]
    if failed:
        raise typer.Exit(max(failed))


def plan(given: Plan) -> None:
    """`fastqwen stack plan`."""
    servers = Stack(locate(given.docker_dir))
    _told(servers.plan(_request(given), given.extras, given.assume_gpus, pin=given.pin), given)


def up(given: Up) -> None:
    """`fastqwen stack up`."""
    servers = Stack(locate(given.docker_dir))
    _told(servers.up(_request(given), given.extras, given.timeout, given.beside), given)


def _told(lines: list[str], given: Planning) -> None:
    if given.common.json:
        print_data({"servers": lines})
    else:
        print_lines(*lines)


def wait(given: Wait) -> None:
    """`fastqwen stack wait`."""
    Stack(locate(given.docker_dir)).wait(given.timeout)
    if given.common.json:
        print_data({"state": "up"})


def status(given: Status) -> None:
    """`fastqwen stack status`."""
    lines = Stack(locate(given.docker_dir)).status()
    if given.common.json:
        print_data([line.as_dict() for line in lines])
    else:
        print_lines(*(logs.escaped(str(line)) for line in lines))
    failed = [line.status for line in lines if line.state == "failure"]
    if failed:
        raise typer.Exit(max(failed))


def down(given: Down) -> None:
    """`fastqwen stack down`."""
    Stack(locate(given.docker_dir)).down()
    if given.common.json:
        print_data({"state": "down"})


def _request(given: Planning) -> dict[str, Any]:
    """What was given of a stack's variables; the models may also stand in the settings."""
    models = {name: given.variables.get(name) for name in ("text_model", "vision_model")}
    named = settings.load(models, file=given.common.config)
    found = {"text_model": named.text_model, "vision_model": named.vision_model}
    return given.variables | {name: value for name, value in found.items() if value is not None}
