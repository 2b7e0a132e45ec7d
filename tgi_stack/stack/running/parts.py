"""What `make up` brings up, part by part, and how each shows that it is there."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgi_stack.errors import ServerError
from tgi_stack.stack.files.tier import USER_FILE, StackTier
from tgi_stack.stack.planning.beside import SERVICES
from tgi_stack.stack.running.containers import State
from tgi_stack.stack.running.readiness import prove

SETTLED_S = 5.0
ANSWER_S = 5.0
Entry = dict[str, Any]  # of a server in stack.json


@dataclass(frozen=True, slots=True)
class Part:
    """A container that was asked for.

    Attributes:
        title: it in a line, for those who read what is up.
        name: it in a few words, for a failure.
        prove: how it shows that it works, in words; raises FastqwenError where it does not. None where the
            container alone tells.
        fix: what to do where it does not; as its container is unless told.
    """

    service: str
    title: str
    name: str
    prove: Callable[[], Awaitable[str]] | None = None
    fix: str = ""

    async def shown(self, state: State) -> str:
        """What it shows, once it has stayed up for a moment.

        Raises:
            FastqwenError: it does not work, or has just begun to run.
        """
        if state.state == "running" and state.ran_s() < SETTLED_S:
            raise ServerError(
                f"it has run for {state.ran_s():.0f} s of the {SETTLED_S:.0f} that it has to stay up"
            )
        if self.prove is not None:
            return await self.prove()
        if state.state != "running":
            raise ServerError("it does not run")
        return "stays up"


def servers(written: Entry) -> list[Part]:
    """The servers of a plan."""
    return [_server(one) for one in written["servers"]]


def others(written: Entry, folder: Path) -> list[Part]:
    """The front, and what is on beside it; `folder` has the secrets."""
    made = [Part("front", "front", "front (Caddy, 127.0.0.1)")]
    for extra in written["extras"]:
        made += [_extra(service, written, folder) for service in SERVICES.get(extra, ())]
    return made


def only(parts: Iterable[Part], services: Iterable[str]) -> list[Part]:
    """Those of some services."""
    wanted = set(services)
    return [part for part in parts if part.service in wanted]


def entry(server: Entry) -> str:
    """A server in a line."""
    labels = ", ".join(gpu["gpu"] for gpu in server["gpus"])
    where = f"GPU {labels}, {server['url']}" if labels else server["url"]
    if "adopted" in server:
        where = f"not ours, at {', '.join(server['adopted'])}; {server['url']}"
    return f"{server['name']}: {server['model']} on {server['engine']} {server['engine_version']}, {where}"


def _server(one: Entry) -> Part:
    async def answers() -> str:
        took = await prove(one["url"], one["kind"], one["model"], one["revision"])
        return f"answers in {took:.1f} s"

    name, fix = f"{one['name']} ({one['model']} on {one['engine']})", ""
    if "adopted" in one:
        where = ", ".join(one["adopted"])
        name, fix = f"{name[:-1]}, not ours, at {where})", f"start it again at {where}: make up does not"
    return Part(one["service"], entry(one), name, answers, fix)


def _extra(service: str, written: Entry, folder: Path) -> Part:
    if service in SERVICES["gateway"]:
        name, port = written["gateway_name"], written.get("gateway_port", 8443)
        rate = written.get("gateway_rate", "off")
        title = "doorkeeper" + (f": {rate} a key" if rate != "off" else "")

        async def gateway() -> str:
            return await asyncio.to_thread(_locked, name, port)

        if service == "doorkeeper":  # it is who asks for a key
            return Part(service, title, "doorkeeper (keys of the gateway)", gateway)
        return Part(service, f"gateway: https://{name}:{port}", f"gateway (https://{name}:{port})", gateway)
    if service == "grafana":
        port = written.get("grafana_port", 3000)

        async def grafana() -> str:
            return await asyncio.to_thread(_page, port, "/api/health")

        return Part(service, f"grafana: http://127.0.0.1:{port}", "grafana", grafana)
    if service == "tier":
        there = StackTier(written.get("tier_port", 6379), folder / USER_FILE)

        async def tier() -> str:
            return await asyncio.to_thread(_keyed, there)

        return Part(service, f"tier: {there.url}", f"tier of the cache ({there.url})", tier)
    return Part(service, service, service)


def _keyed(tier: StackTier) -> str:
    """That the tier answers its user, and nobody else."""
    began = time.monotonic()
    try:
        name, password = tier.user()
        with socket.create_connection(("127.0.0.1", tier.port), ANSWER_S) as wire:
            answers = []
            for asked in ("PING", f"AUTH {name} {password}", "PING"):
                wire.sendall(f"{asked}\r\n".encode())
                answers.append(wire.recv(256).split(b" ")[0].strip())
    except OSError as error:
        raise ServerError(f"no answer at port {tier.port} ({error})") from error
    if answers != [b"-NOAUTH", b"+OK", b"+PONG"]:
        said = " ".join(one.decode("utf-8", "replace") for one in answers)
        raise ServerError(f"it answers {said or 'nothing'}, not -NOAUTH +OK +PONG")
    return f"answers its users in {time.monotonic() - began:.1f} s"


def _locked(name: str, port: int) -> str:
    """That the gateway speaks TLS under its name and lets nobody in without a key."""
    began = time.monotonic()
    context = ssl.create_default_context()
    # Whether its certificate is one to trust is for the users' machines to say.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    asked = f"GET / HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n".encode()
    try:
        with (
            socket.create_connection(("127.0.0.1", port), ANSWER_S) as wire,
            context.wrap_socket(wire, server_hostname=name) as speaking,
        ):
            speaking.sendall(asked)
            answer = speaking.recv(64).split(b" ")
    except OSError as error:
        raise ServerError(f"no answer at port {port} ({error})") from error
    if answer[1:2] != [b"401"]:
        raise ServerError(f"without a key it answers {b' '.join(answer[1:2]).decode() or 'nothing'}, not 401")
    return f"asks for a key in {time.monotonic() - began:.1f} s"


def _page(port: int, path: str) -> str:
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"no answer at port {port} ({error})") from error
    finally:
        connection.close()
    if status != 200:
        raise ServerError(f"{path} answers {status}")
    return f"answers in {time.monotonic() - began:.1f} s"
