"""The files beside the compose file: .env and stack.json, written by a plan; pins.json; secrets.

Where a run finds a server's identity: revision, quantisation and dtype are told by no server, so stack.json
says them for the URLs that the stack publishes.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgi_stack.errors import DiskError, UsageError
from tgi_stack.stack.plan import MIB, Plan, Server
from tgi_stack.stack.request import MOST_REPLICAS, Request

COMPOSE = "compose.yml"
PROJECT = "fastqwen"
VERSION = 1
_SERVERS = ("text", "vision-vllm", "vision-tgi")
_REPLICAS = tuple(f"{kind}-{number}" for kind in _SERVERS for number in range(2, MOST_REPLICAS + 1))
ALL_PROFILES = (*_SERVERS, *_REPLICAS, "models", "gateway", "observe")
HOST_MEMORY_MIB = 12 * 1024  # beside the weights, which pass through the host's memory
OWN_TLS = "/run/tls/cert.pem /run/tls/key.pem"
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}")
_USER = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(r"[A-Za-z0-9_-]{20,256}")


@dataclass(frozen=True, slots=True)
class Pins:
    """Commits of models and digests of images, by name."""

    models: dict[str, str]
    images: dict[str, str]

    def image(self, name: str) -> str:
        """An image by its tag and, where it is pinned, by its digest."""
        digest = self.images.get(name)
        return f"{name}@{digest}" if digest else name


@dataclass(frozen=True, slots=True)
class Folder:
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
        _write(self.path / "pins.json", json.dumps(value, indent=2, sort_keys=True) + "\n")

    def write(self, plan: Plan, extras: tuple[str, ...], gateway_name: str | None = None) -> None:
        """Writes .env and stack.json; `extras` are profiles besides the servers' (`gateway`, `observe`)."""
        pins = self.pins()
        self._write_both(variables(plan, pins, extras), described(plan, pins, extras), gateway_name)

    def _write_both(self, values: dict[str, str], written: dict[str, Any], gateway_name: str | None) -> None:
        before = self.written or {}
        name = gateway_name or before.get("gateway_name") or "localhost"
        if not _HOST.fullmatch(name):
            raise UsageError(f"--gateway-name {name[:80]!r} is no name of a host")
        own = all((self.secrets / "tls" / file).is_file() for file in ("cert.pem", "key.pem"))
        values |= {"GATEWAY_NAME": name, "GATEWAY_TLS": OWN_TLS if own else "internal"}
        lines = [f"{name}={_quoted(value)}" for name, value in values.items()]
        _write(self.env, "# Written by `fastqwen stack plan`.\n" + "\n".join(lines) + "\n")
        content = json.dumps(written | {"gateway_name": name}, indent=2)
        _write(self.path / "stack.json", content + "\n")

    def add_extras(
        self, written: dict[str, Any], extras: tuple[str, ...], gateway_name: str | None = None
    ) -> None:
        """Adds profiles to a plan that stays as it is."""
        both = sorted({*written["extras"], *extras})
        if both == written["extras"] and gateway_name in (None, written.get("gateway_name")):
            return
        services = [server["service"] for server in written["servers"]]
        lines = [line.partition("=") for line in self.env.read_text().splitlines() if line[:1] != "#"]
        values = {name: value.strip("'") for name, _, value in lines}
        values["COMPOSE_PROFILES"] = ",".join([*services, *both])
        self._write_both(values, written | {"extras": both}, gateway_name)

    def refuse_closed_files(self) -> None:
        """Raises DiskError for a mounted file that a container's root without capabilities can't read."""
        mounted = [*self.path.glob("*.sh"), self.path / "fetch.py"]
        for name in ("caddy", "grafana", "prometheus"):
            mounted += [self.path / name, *(self.path / name).rglob("*")]
        closed = [path for path in mounted if not path.stat().st_mode & 0o004]
        if closed:
            raise DiskError(
                f"{closed[0]} is closed to other users, containers can't read it; chmod -R go+rX {self.path}"
            )

    def prepare_secrets(self) -> None:
        """The folder of secrets, closed to other users; its files open, to be read in containers.

        A container's root without capabilities reads no file of another user that is closed; the folder's own
        permissions keep the files from the users of this host.
        """
        try:
            (self.secrets / "tls").mkdir(parents=True, exist_ok=True)
            self.secrets.chmod(0o700)
            (self.secrets / "hf_token").touch()
            (self.secrets / "gateway.keys").touch()
            for path in self.secrets.rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o644)
        except OSError as error:
            raise DiskError(f"{self.secrets}: {error.strerror}") from error

    def write_gateway_keys(self) -> int:
        """Turns secrets/keys (a user and a key a line) into what the gateway reads: how many users have one.

        Raises:
            UsageError: no keys, or a line that is none; the message holds no key.
        """
        path = self.secrets / "keys"
        make = f"printf 'alice %s\\n' \"$(openssl rand -hex 24)\" >> {path}"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} can't be read; a user and a key a line, such as: {make}") from error
        keys: dict[str, str] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            user, _, key = line.partition(" ")
            if not _USER.fullmatch(user) or not _KEY.fullmatch(key.strip()):
                wanted = "a user and a key of 20 or more letters, digits, - or _"
                raise UsageError(f"{path}, line {number}: {wanted}; {make}")
            if key.strip() in keys:
                raise UsageError(f"{path}, line {number}: the key of another user")
            keys[key.strip()] = user
        if not keys:
            raise UsageError(f"{path} holds no key; {make}")
        said = "".join(f'"Bearer {key}" "{user}"\n' for key, user in keys.items())
        _write(self.secrets / "gateway.keys", said)
        return len(keys)


def locate(named: Path | None = None) -> Folder:
    """The folder that was named; else ./docker, else the one of the clone that this code runs from.

    Raises:
        UsageError: none of them holds a compose file.
    """
    places = (Path("docker"), Path(__file__).resolve().parents[2] / "docker") if named is None else (named,)
    for place in places:
        if (place / COMPOSE).is_file():
            return Folder(place.resolve())
    raise UsageError(
        f"no {COMPOSE} in {' or '.join(map(str, places))}; run it in a clone of fastqwen or give --docker-dir"
    )


# -- what a plan says ------------------------------------------------------------------------------------


def variables(plan: Plan, pins: Pins, extras: tuple[str, ...]) -> dict[str, str]:
    """What the compose file takes from .env."""
    text, vision = plan.of("text")[0], plan.of("vision")[0]
    values = {
        "COMPOSE_PROJECT_NAME": PROJECT,
        "COMPOSE_PROFILES": ",".join([*map(service, plan.servers), *extras]),
        "TGI_IMAGE": pins.image(text.wanted.image),
        "NUM_SHARD": str(plan.request.num_shard),
        "MAX_TOTAL_TOKENS": str(plan.request.max_total_tokens),
        "MAX_INPUT_TOKENS": str(plan.request.max_total_tokens - 1),
        "MAX_BATCH_PREFILL_TOKENS": str(plan.prefill),
        "MAX_TOP_N_TOKENS": "128",
        "PAYLOAD_LIMIT": "16000000",
        "SERVER_MEMORY": f"{_host_mib(plan)}m",
        "TEXT_PORT": str(plan.request.text_port),
        "VISION_PORT": str(plan.request.vision_port),
        "SERVER_SHM": f"{plan.request.num_shard}g",
    }
    image = "VLLM_IMAGE" if vision.wanted.engine.name == "vllm" else "VISION_TGI_IMAGE"
    values[image] = pins.image(vision.wanted.image)
    for first in (text, vision):
        prefix = first.kind.upper()
        values |= {
            f"{prefix}_MODEL": first.wanted.name,
            f"{prefix}_REVISION": pins.models.get(first.wanted.name, "main"),
            f"{prefix}_ARGUMENTS": " ".join(first.wanted.launch.arguments),
        }
    for server in plan.servers:
        prefix = server.name.upper().replace("-", "_")
        values[f"{prefix}_GPUS"] = ",".join(gpu.uuid for gpu in server.gpus)
        # An instance of MIG is its server's own, and is not measured in containers.
        divided = any(gpu.is_instance for gpu in server.gpus)
        values[f"{prefix}_MEMORY_MIB"] = "" if divided else str(server.share_mib)
    return values


def _host_mib(plan: Plan) -> int:
    largest = max(s.wanted.model.weight_bytes(16) for s in plan.servers)
    return HOST_MEMORY_MIB + largest // MIB


def service(server: Server) -> str:
    """A server's service in the compose file, and its profile."""
    if server.kind == "text":
        return server.name
    return server.name.replace("vision", f"vision-{server.wanted.engine.name}", 1)


def described(plan: Plan, pins: Pins, extras: tuple[str, ...]) -> dict[str, Any]:
    """stack.json: what was asked, and the identity of each server."""
    return {
        "version": VERSION,
        "request": plan.request.as_dict(),
        "extras": list(extras),
        "phases": [
            [service(server) for server in plan.servers if server.name in names] for names in plan.phases()
        ],
        "servers": [_described(server, pins, plan.request) for server in plan.servers],
    }


def _described(server: Server, pins: Pins, request: Request) -> dict[str, Any]:
    wanted = server.wanted
    return {
        "name": server.name,
        "service": service(server),
        "kind": server.kind,
        "engine": wanted.engine.name,
        "engine_version": wanted.engine.version if wanted.image == wanted.engine.image else "unknown",
        "image": pins.image(wanted.image),
        "model": wanted.name,
        "model_type": wanted.model.type,
        "revision": pins.models.get(wanted.name, "main"),
        "quantization": wanted.quantization,
        "dtype": wanted.launch.dtype,
        "gpus": [{"gpu": gpu.label, "name": gpu.name, "uuid": gpu.uuid} for gpu in server.gpus],
        "memory_mib": server.share_mib,
        "need_mib": server.need_mib,
        "url": f"http://127.0.0.1:{request.ports[server.kind]}",
    }


def _quoted(value: str) -> str:
    """For a file of variables, which Compose reads like a shell does."""
    return f"'{value}'" if " " in value else value


def _write(path: Path, content: str) -> None:
    """Whole or not at all."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w") as stream:
            stream.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror}") from error
