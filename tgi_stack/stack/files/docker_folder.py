"""The files beside the compose file: .env and stack.json, written by a plan; pins.json.

Where a run finds a server's identity: revision, quantisation and dtype are told by no server, so stack.json
says them for the URLs that the stack publishes.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgi_stack.errors import UsageError
from tgi_stack.stack.files import adopted
from tgi_stack.stack.files.rendering import VERSION, Pins, described, variables
from tgi_stack.stack.files.tier import digest_of_users
from tgi_stack.stack.files.writing import write_whole
from tgi_stack.stack.planning.adopted import KINDS
from tgi_stack.stack.planning.beside import Beside
from tgi_stack.stack.planning.plan import Plan
from tgi_stack.stack.planning.request import MOST_REPLICAS

COMPOSE = "compose.yml"
_SERVERS = ("text", "text-vllm", "text-sglang", "vision-vllm", "vision-tgi", "vision-sglang")
_REPLICAS = tuple(f"{kind}-{number}" for kind in _SERVERS for number in range(2, MOST_REPLICAS + 1))
ADOPTED = tuple(f"{kind}-adopted" for kind in KINDS)
ALL_PROFILES = (*_SERVERS, *_REPLICAS, *ADOPTED, "models", "gateway", "observe", "tier")
OWN_TLS = "/run/tls/cert.pem /run/tls/key.pem"


@dataclass(frozen=True, slots=True)
class DockerFolder:
    """The folder of the compose file."""

    path: Path

    @property
    def compose(self) -> Path:
        return self.path / COMPOSE

    @property
    def env(self) -> Path:
        return self.path / ".env"

    @property
    def secrets(self) -> Path:
        return self.path / "secrets"

    @property
    def written(self) -> dict[str, Any] | None:
        """What the last plan wrote; None where there is none, or none of this version."""
        try:
            found = json.loads((self.path / "stack.json").read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and found.get("version") == VERSION else None

    @property
    def profiles(self) -> tuple[str, ...]:
        """Of the plan: its servers' services and its extras."""
        written = self.written
        if written is None:
            return ()
        return (*(server["service"] for server in written["servers"]), *written["extras"])

    def pins(self) -> Pins:
        """From pins.json."""
        try:
            found = json.loads((self.path / "pins.json").read_text())
            return Pins(dict(found["models"]), dict(found["images"]))
        except FileNotFoundError:
            return Pins({}, {})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{self.path / 'pins.json'}: {error!r}; restore it from the repository"
            ) from error

    def write_pins(self, pins: Pins) -> None:
        value = {"images": pins.images, "models": pins.models}
        write_whole(self.path / "pins.json", json.dumps(value, indent=2, sort_keys=True) + "\n")

    def write(self, plan: Plan, extras: tuple[str, ...], beside: Beside | None = None) -> None:
        """Writes .env and stack.json; `extras` are profiles besides the servers' (`gateway`, `observe`)."""
        pins = self.pins()
        self._write_both(variables(plan, pins, extras), described(plan, pins, extras), beside)

    def _write_both(self, values: dict[str, str], written: dict[str, Any], beside: Beside | None) -> None:
        told = (beside or Beside()).after(self.written or {})
        own = [self.secrets / "tls" / file for file in ("cert.pem", "key.pem")]
        there = all(file.is_file() for file in own)
        # Another certificate at the same place is another configuration: Compose makes the gateway anew.
        dates = "-".join(str(file.stat().st_mtime_ns) for file in own) if there else ""
        values |= {name.upper(): str(value) for name, value in told.items()}
        values |= {"GATEWAY_TLS": OWN_TLS if there else "internal", "GATEWAY_TLS_OF": dates}
        # Users that changed are a configuration that changed, too: the tier starts anew, with what it held.
        values |= {"TIER_USERS_OF": digest_of_users(self.path), "TIER_LIMIT": _limit(told["tier_memory"])}
        values |= adopted.variables(self.path)
        values |= {"SECRETS_OWNER": f"{os.getuid()}:{os.getgid()}"}
        lines = [f"{name}={_quoted(value)}" for name, value in values.items()]
        write_whole(self.env, "# Written by `fastqwen stack plan`.\n" + "\n".join(lines) + "\n")
        self._write_targets(written)
        write_whole(self.path / "stack.json", json.dumps(written | told, indent=2) + "\n")

    def _write_targets(self, written: dict[str, Any]) -> None:
        """Where Prometheus finds servers that are not containers of ours: behind the front."""
        (self.path / "prometheus").mkdir(exist_ok=True)
        behind = {one["kind"] for one in written["servers"] if "adopted" in one}
        for kind, port in zip(KINDS, (8080, 8081), strict=True):
            targets = [{"targets": [f"front:{port}"]}] if kind in behind else []
            write_whole(self.path / "prometheus" / f"adopted-{kind}.json", json.dumps(targets) + "\n")

    def add_extras(
        self, written: dict[str, Any], extras: tuple[str, ...], beside: Beside | None = None
    ) -> None:
        """Adds profiles to a plan that stays as it is."""
        both = sorted({*written["extras"], *extras})
        services = [server["service"] for server in written["servers"]]
        lines = [line.partition("=") for line in self.env.read_text().splitlines() if line[:1] != "#"]
        values = {name: value.strip("'") for name, _, value in lines}
        values["COMPOSE_PROFILES"] = ",".join([*services, *both])
        self._write_both(values, written | {"extras": both}, beside)


def _limit(memory: str) -> str:
    """Of the container: its memory may be copied while it is written to disk."""
    mib = int(memory[:-1]) * (1024 if memory.endswith("g") else 1)
    return f"{2 * mib + 256}m"


def locate(named: Path | None = None) -> DockerFolder:
    """The folder that was named; else ./docker, else the one of the clone that this code runs from.

    Raises:
        UsageError: none of them holds a compose file.
    """
    places = (Path("docker"), Path(__file__).resolve().parents[3] / "docker") if named is None else (named,)
    for place in places:
        if (place / COMPOSE).is_file():
            return DockerFolder(place.resolve())
    raise UsageError(
        f"no {COMPOSE} in {' or '.join(map(str, places))}; run it in a clone of fastqwen or give --docker-dir"
    )


def _quoted(value: str) -> str:
    """For a file of variables, which Compose reads like a shell does."""
    return f"'{value}'" if " " in value else value
