"""`fastqwen doctor` and `stack`: what they take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tgi_stack.commands.declare import OptionsOf, command
from tgi_stack.commands.options import Arguments, Settings
from tgi_stack.declared.option import FILES, RUN, SERVERS, Option
from tgi_stack.stack.planning.beside import Beside
from tgi_stack.stack.planning.request import Request

Timeout = Annotated[
    float, Option("How long each server may take to come up.", RUN, unit="seconds", least=0.0)
]


@command("doctor", "servers.examine")
@dataclass(frozen=True, kw_only=True)
class Doctor(Arguments):
    """What works here. Each line is ok, a warning, or a failure with the fix."""

    settings: Settings


@dataclass(frozen=True, kw_only=True)
class OfStack(Arguments):
    """What all commands of `stack` take."""

    docker_dir: Annotated[
        Path | None, Option("Where compose.yml is.", FILES, metavar="DIR", unset="./docker")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Planning(OfStack):
    """What is asked of the servers of this host."""

    variables: Annotated[dict[str, Any], OptionsOf(Request)]
    gateway: Annotated[bool, Option("TLS and keys, for other machines.", SERVERS)] = False
    observe: Annotated[bool, Option("Prometheus and Grafana.", SERVERS)] = False
    tier: Annotated[bool, Option("A tier of the cache (Valkey) for the users of this host.", SERVERS)] = False

    @property
    def extras(self) -> tuple[str, ...]:
        """What comes up beside the servers."""
        return tuple(name for name in ("gateway", "observe", "tier") if getattr(self, name))


@command("stack plan", "servers.plan")
@dataclass(frozen=True, kw_only=True)
class Plan(Planning):
    """Reads the GPUs and writes docker/.env and docker/stack.json: what runs where."""

    pin: Annotated[bool, Option("Ask for the newest commits and digests.", RUN)] = False
    assume_gpus: Annotated[
        str | None,
        Option(
            "Plan for GPUs that are not here; writes nothing.", RUN, metavar="GIB,...", unset="those here"
        ),
    ] = None


@command("stack up", "servers.up")
@dataclass(frozen=True, kw_only=True)
class Up(Planning):
    """Brings the servers up and waits until they answer."""

    beside: Annotated[dict[str, Any], OptionsOf(Beside)]
    timeout: Timeout = 1800.0


@command("stack wait", "servers.wait")
@dataclass(frozen=True, kw_only=True)
class Wait(OfStack):
    """Waits until every server of the plan answers."""

    timeout: Timeout = 1800.0


@command("stack status", "servers.status")
@dataclass(frozen=True, kw_only=True)
class Status(OfStack):
    """Each server: its container, and whether it answers."""


@command("stack down", "servers.down")
@dataclass(frozen=True, kw_only=True)
class Down(OfStack):
    """Stops the servers; weights and compile caches stay."""
