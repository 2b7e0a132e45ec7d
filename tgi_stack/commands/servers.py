"""`fastqwen doctor` and `stack`: the servers, and what works here."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any

import typer

from tgi_stack import logs, settings
from tgi_stack.commands.app import app, stack
from tgi_stack.commands.command import command, settings_of
from tgi_stack.commands.console import print_data
from tgi_stack.commands.options import (
    Common,
    DockerDir,
    Gateway,
    Model,
    Observe,
    Servers,
    StackVariables,
    Timeout,
    TokenizerOption,
)
from tgi_stack.doctor.servers import examine as examined
from tgi_stack.errors import ServerError
from tgi_stack.stack.files.docker_folder import locate
from tgi_stack.stack.running.commands import Stack

LOG = logging.getLogger(logs.CLOSING)
DETAIL = logging.getLogger(__name__)


@command(app, "doctor")
def examine(
    *,
    servers: Servers,
    model: Model = None,
    tokenizer: TokenizerOption = None,
    common: Common,
) -> None:
    """What works here; each line ok, a warning, or a failure with the fix."""
    chosen = settings_of(common, locals())
    lines: list[Any] = []

    async def look() -> None:
        async for line in examined(chosen):
            lines.append(line)
            (DETAIL if line.state == "ok" else LOG).info(str(line))

    with logs.probing():
        asyncio.run(look())
    if common.json:
        print_data([line.as_dict() for line in lines])
    failed = [line.status for line in lines if line.state == "failure"]
    if failed:
        raise typer.Exit(max(failed))


@command(stack, "plan")
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
    common: Common,
) -> None:
    """Reads the GPUs and writes docker/.env and docker/stack.json: what runs where."""
    given = _stack_variables(variables, common)
    lines = Stack(locate(docker_dir)).plan(given, _extras(gateway, observe), assume_gpus, pin=pin)
    if common.json:
        print_data({"servers": lines})
    else:
        typer.echo("\n".join(lines))


@command(stack, "up")
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
    common: Common,
) -> None:
    """Brings the servers up and waits until they answer."""
    given = _stack_variables(variables, common)
    lines = Stack(locate(docker_dir)).up(given, _extras(gateway, observe), timeout, gateway_name)
    if common.json:
        print_data({"servers": lines})
    else:
        typer.echo("\n".join(lines))


@command(stack, "wait")
def stack_wait(timeout: Timeout = 1800.0, docker_dir: DockerDir = None, *, common: Common) -> None:
    """Waits until every server of the plan answers."""
    Stack(locate(docker_dir)).wait(timeout)
    if common.json:
        print_data({"state": "up"})


@command(stack, "status")
def stack_status(docker_dir: DockerDir = None, *, common: Common) -> None:
    """Each server: its container, and whether it answers."""
    lines = Stack(locate(docker_dir)).status()
    if common.json:
        print_data([line.as_dict() for line in lines])
    else:
        typer.echo("\n".join(logs.escaped(str(line)) for line in lines))
    if any(line.state == "failure" for line in lines):
        raise typer.Exit(ServerError.exit_status)


@command(stack, "down")
def stack_down(docker_dir: DockerDir = None, *, common: Common) -> None:
    """Stops the servers; weights and compile caches stay."""
    Stack(locate(docker_dir)).down()
    if common.json:
        print_data({"state": "down"})


def _stack_variables(variables: StackVariables, common: Common) -> dict[str, Any]:
    """What was given of a stack's variables; the models may also stand in the settings."""
    given = vars(variables)
    models = {name: given[name] for name in ("text_model", "vision_model")}
    named = settings.load(models, file=common.config)
    given = given | {"text_model": named.text_model, "vision_model": named.vision_model}
    return {name: value for name, value in given.items() if value is not None}


def _extras(gateway: bool, observe: bool) -> tuple[str, ...]:
    return tuple(name for name, on in (("gateway", gateway), ("observe", observe)) if on)
