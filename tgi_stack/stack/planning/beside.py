"""What stands beside the servers and where: the variables of `make gateway` and `make observe`."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any

from tgi_stack.declared.option import SERVERS, Option, declared
from tgi_stack.errors import UsageError

_beside = partial(Option, group=SERVERS)
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}")
_MEMORY = re.compile(r"[1-9]\d{0,5}[mg]")
_RATE = re.compile(r"off|[1-9]\d{0,6}/(s|min|h)")
FIRST: dict[str, Any] = {
    "gateway_name": "localhost",
    "gateway_port": 8443,
    "gateway_rate": "off",
    "grafana_port": 3000,
    "tier_port": 6379,
    "tier_memory": "1g",
}
# By the profile that brings them up.
SERVICES = {
    "gateway": ("gateway", "doorkeeper"),
    "observe": ("prometheus", "grafana", "dcgm-exporter"),
    "tier": ("tier", "tier-exporter"),
}
PORTS = {"gateway": "gateway_port", "observe": "grafana_port", "tier": "tier_port"}
BRINGS = {"gateway": "make gateway", "observe": "make observe", "tier": "make up TIER=1"}


@dataclass(frozen=True, slots=True)
class Beside:
    """Each field is a variable of the Makefile under its name in capitals; None is as before."""

    gateway_name: Annotated[
        str | None,
        _beside("What the gateway's certificate bears.", metavar="HOST", unset="as before, else localhost"),
    ] = None
    gateway_port: Annotated[
        int | None,
        _beside(
            "Where the gateway is published, for other machines.",
            metavar="PORT",
            unset="as before, else 8443",
            least=1,
            most=65535,
        ),
    ] = None
    gateway_rate: Annotated[
        str | None,
        _beside(
            "What each key may ask of the gateway, such as 600/min or 20/s; more is answered with 429.",
            metavar="N/s|N/min|N/h|off",
            unset="as before, else off",
        ),
    ] = None
    grafana_port: Annotated[
        int | None,
        _beside(
            "Where Grafana is, of 127.0.0.1.",
            metavar="PORT",
            unset="as before, else 3000",
            least=1024,
            most=65535,
        ),
    ] = None

    tier_port: Annotated[
        int | None,
        _beside(
            "Where the tier of the cache is, of 127.0.0.1.",
            metavar="PORT",
            unset="as before, else 6379",
            least=1024,
            most=65535,
        ),
    ] = None
    tier_memory: Annotated[
        str | None,
        _beside(
            "What the tier may hold, such as 4g or 512m; the least used goes first.",
            metavar="SIZE",
            unset="as before, else 1g",
        ),
    ] = None

    def __post_init__(self) -> None:
        for name, one in declared(Beside).items():
            one.check(name.upper(), getattr(self, name))
        if self.gateway_name is not None and not _HOST.fullmatch(self.gateway_name):
            raise UsageError(f"--gateway-name {self.gateway_name[:80]!r} is no name of a host")
        if self.gateway_rate is not None and not _RATE.fullmatch(self.gateway_rate):
            raise UsageError(
                f"GATEWAY_RATE={self.gateway_rate[:80]}: give N/s, N/min, N/h or off, such as 600/min"
            )

        if self.tier_memory is not None and not _MEMORY.fullmatch(self.tier_memory):
            raise UsageError(f"TIER_MEMORY={self.tier_memory[:80]}: give a size such as 4g or 512m")

    def after(self, before: dict[str, Any]) -> dict[str, Any]:
        """Every value: what is given, else what holds already, else the first."""
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        told = {name: before.get(name) or first for name, first in FIRST.items()}
        return told | {name: value for name, value in given.items() if value is not None}
