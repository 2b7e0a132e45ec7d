"""Recognises servers that run already: which engine each is, and that it holds what is asked for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from tgi_stack.backends.servers.access import Access, key_of
from tgi_stack.backends.servers.discovery import describe
from tgi_stack.backends.servers.protocols.numbers import ReplyError
from tgi_stack.backends.servers.protocols.reply import Served
from tgi_stack.backends.servers.transport import Transport, TransportError
from tgi_stack.errors import FastqwenError, ServerError, UsageError
from tgi_stack.stack.files.declared import is_place
from tgi_stack.stack.planning.adopted import KINDS, Adopted, parsed
from tgi_stack.stack.planning.request import Request

KEY = "FASTQWEN_ADOPT_KEY"


def access_to(request: Request, environ: Mapping[str, str] = os.environ) -> Access:
    """The key and the certificates for the servers that `ADOPT` names.

    Raises:
        SettingsError: a file that can't be read, or holds something else.
    """
    if not parsed(request.adopt):
        return Access()
    file = Path(request.adopt_key_file) if request.adopt_key_file else None
    key = key_of("ADOPT_KEY_FILE", file, environ.get(KEY))
    return Access(key, Path(request.adopt_ca_file) if request.adopt_ca_file else None)


def recognised(request: Request) -> tuple[Adopted, ...]:
    """The servers that `ADOPT` names, by kind.

    Raises:
        ServerError: nothing, or nothing that is known, answers there.
        SettingsError: see `access_to`.
        UsageError: it holds another model than is asked for, or stands where the front would.
    """
    given = parsed(request.adopt)
    if not given:
        return ()
    found = asyncio.run(_described(given, access_to(request)))
    by_kind: dict[str, list[tuple[str, Served]]] = {}
    for url, models in found.items():
        kind, served = _wanted(url, models, request, given[url])
        _refuse_own_place(url, kind, request)
        by_kind.setdefault(kind, []).append((url, served))
    return tuple(_together(kind, by_kind[kind], request) for kind in KINDS if kind in by_kind)


async def _described(urls: Iterable[str], access: Access) -> dict[str, list[Served]]:
    transport = Transport(access)
    try:
        return {url: await _one(transport, url) for url in urls}
    finally:
        await transport.aclose()


async def _one(transport: Transport, url: str) -> list[Served]:
    try:
        return await describe(transport, url)
    except (TransportError, ReplyError) as error:
        if isinstance(error, TransportError) and error.kind == "unsafe":
            raise ServerError(f"ADOPT={url}: {error}; for their own authority: ADOPT_CA_FILE=FILE") from error
        said = f"ADOPT={url}: no server answers there ({error})"
        raise ServerError(f"{said}; start it first, or leave ADOPT away to have one started") from error
    except FastqwenError as error:
        if "status 401" in str(error) or "status 403" in str(error):
            said = f"ADOPT={url}: it wants a key, or another one: ADOPT_KEY_FILE=FILE, or {KEY}"
            raise ServerError(said) from error
        raise ServerError(f"ADOPT={error}; see ADOPT") from error


def _wanted(url: str, models: list[Served], request: Request, told: str) -> tuple[str, Served]:
    """The kind that a server is for, as told or else as its model says; and that model."""
    wanted = {kind: name for kind, name in request.models.items() if told in ("", kind)}
    for kind, name in wanted.items():
        for served in models:
            if served.goes_by(name) and served.fault is None:
                return kind, served
    names = ", ".join(one.model + (f" ({one.fault})" if one.fault else "") for one in models)
    asked = " and ".join(f"{kind.upper()}_MODEL={name}" for kind, name in wanted.items())
    fix = f"name it: TEXT_MODEL={models[0].model}, or VISION_MODEL, if it is one for images"
    raise UsageError(f"ADOPT={url}: it is {models[0].dialect} with {names}; asked is {asked}; {fix}")


def _refuse_own_place(url: str, kind: str, request: Request) -> None:
    for other, port in request.ports.items():
        if is_place(url, f"http://127.0.0.1:{port}"):
            instead = f"{other.upper()}_PORT={port + 1000}"
            raise UsageError(
                f"ADOPT={url}: it holds port {port}, where the front would listen for {other}; {instead}, "
                f"jobs of this host find the {kind} server where it is"
            )


def _together(kind: str, found: list[tuple[str, Served]], request: Request) -> Adopted:
    """One entry for servers that are alike."""
    said = {
        (url.partition(":")[0], one.dialect, one.root, one.revision, one.quantization, one.dtype)
        for url, one in found
    }
    if len(said) > 1:
        shown = "; ".join(f"{url}: {one.dialect} {one.version}, {one.model}" for url, one in found)
        raise UsageError(f"ADOPT names {kind} servers that differ ({shown}); name those that are alike")
    first = found[0][1]
    return Adopted(
        kind=kind,
        urls=tuple(url for url, _ in found),
        engine=first.dialect,
        version=first.version,
        model=request.models[kind],
        revision=first.revision,
        quantization=first.quantization,
        dtype=first.dtype,
    )
