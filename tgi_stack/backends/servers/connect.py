"""Finds out what the endpoints of a run are, and makes one backend of them."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from pathlib import Path

from cache.store import Store
from cache.system import system
from tgi_stack.backends.servers.access import access
from tgi_stack.backends.servers.backend import ServedBackend, check
from tgi_stack.backends.servers.dialects import DIALECTS, Reading
from tgi_stack.backends.servers.discovery import find, refuse_other_weights
from tgi_stack.backends.servers.endpoints import FIRST, Endpoint, Limit, Pool
from tgi_stack.backends.servers.pictures import learn_pixels
from tgi_stack.backends.servers.protocols import tgi
from tgi_stack.backends.servers.protocols.numbers import ReplyError
from tgi_stack.backends.servers.protocols.reply import Served, gauge
from tgi_stack.backends.servers.transport import Transport, TransportError
from tgi_stack.backends.servers.urls import checked_url
from tgi_stack.errors import (
    MachineError,
    ServerError,
    UsageError,
    WrongServerError,
)
from tgi_stack.hub import TOKENIZER, Checkpoint, locate_files, locate_tokenizer, read_json
from tgi_stack.images import processor
from tgi_stack.images.grid import Grid
from tgi_stack.prompting.framing import framing
from tgi_stack.prompting.profile import Profile
from tgi_stack.prompting.vocabulary import refuse_another_vocabulary, tokenizer_of
from tgi_stack.settings import Settings
from tgi_stack.stack.files.declared import UNKNOWN, declared
from tgi_stack.types import Identity

LOG = logging.getLogger(__name__)

MOST_IN_FLIGHT = 1024
GROUP = 8  # prompts in a request to vLLM
CREW = 256
METRICS_S = 5.0
FILES_TO_COME = 12  # that a run opens later: its output, the ledger, the cache, probes of the servers
COMMIT = re.compile("[0-9a-f]{7,40}")
PROOFS = 5  # attempts: a server that others use may be busy or hurt for a moment


async def open_served(
    settings: Settings, kind: str, *, patience_s: float | None = None, store: Store | None = None
) -> ServedBackend:
    """The backend of the endpoints that the settings name for `kind` (`text` or `vision`).

    Args:
        patience_s: how long to wait for them to come up; --startup-timeout unless told.
        store: where it is kept what was learnt of them.

    Raises:
        ServerError: none answers, or one is not what was asked for.
    """
    transport = Transport(access(settings))
    try:
        return await _open(transport, settings, kind, patience_s, store)
    except BaseException:
        await transport.aclose()
        raise


async def _open(
    transport: Transport, settings: Settings, kind: str, patience_s: float | None, store: Store | None
) -> ServedBackend:
    urls = list(dict.fromkeys(map(checked_url, settings.endpoints_for(kind))))
    if patience_s is None:
        patience_s = settings.startup_timeout
    wanted = settings.model_for(kind)
    found = (find(transport, url, settings.engine, wanted, patience_s) for url in urls)
    served = await asyncio.gather(*found)
    _refuse_differences(urls, served)
    first = served[0]
    profile = _profile(first, settings, kind)
    most = min(settings.concurrency or MOST_IN_FLIGHT, _bearable(settings.concurrency or FIRST))
    first_limit = min(most, settings.concurrency or FIRST)
    endpoints = [
        Endpoint(url, one, Limit(most, time.monotonic, first_limit))
        for url, one in zip(urls, served, strict=True)
    ]
    for endpoint in endpoints:
        await _prove(transport, endpoint, profile)
        if kind == "vision":
            profile = await learn_pixels(transport, endpoint, profile, settings.max_side, store)
    LOG.info(f"{first.dialect} {first.version}: {wanted or first.model} at {', '.join(urls)}")

    async def probe(endpoint: Endpoint) -> None:
        await refuse_other_weights(transport, endpoint)
        await check(transport, endpoint, profile)

    dialect = DIALECTS[first.dialect]
    grouped = dialect.groups and kind == "text"
    group_size = (settings.batch_size_for("text") or GROUP) if grouped else 1

    async def server_load(endpoint: Endpoint) -> tuple[float, float] | None:
        await refuse_other_weights(transport, endpoint)
        reply = await transport.get(f"{endpoint.url}/metrics", METRICS_S)
        running, waiting = (gauge(reply.body, name) for name in dialect.work)
        if running is None or waiting is None:  # its weights are watched all the same
            return None if endpoint.served.weights is None else (0.0, 0.0)
        return running / group_size, waiting / group_size

    pool = Pool(endpoints, probe, settings.startup_timeout, server_load)
    identity = _identity(urls, served, settings, first.model, profile.tokenizer.digest)
    crew = CREW * len(endpoints)
    return ServedBackend(
        transport, pool, identity, profile, crew, how=Reading(group_size, settings.label_mass)
    )


def _bearable(wanted: int) -> int:
    """How many connections this process may hold besides its other files.

    Raises:
        MachineError: none.
    """
    soft = system.most_files()
    if soft is None:
        return MOST_IN_FLIGHT
    room = soft - _open_files() - FILES_TO_COME
    if room < 1:
        raise MachineError(
            f"this process may open {soft} files, and none is left for a connection; raise it: ulimit -n 1024"
        )
    if room < wanted:
        LOG.warning(f"this process may open {soft} files (ulimit -n): {room} requests at once")
    return room


def _open_files() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return FILES_TO_COME


def _identity(
    urls: list[str], served: list[Served], settings: Settings, model: str, tokenizer: str
) -> Identity:
    """What the endpoints say of themselves, and what stack.json says of them.

    Raises:
        WrongServerError: endpoints that differ, or another commit than the settings name.
    """
    told = [declared(url, one) for url, one in zip(urls, served, strict=True)]
    revision = _common(
        urls, "revision", [one.revision or said.revision for one, said in zip(served, told, strict=True)]
    )
    named = settings.revision or revision
    if COMMIT.fullmatch(named) and COMMIT.fullmatch(revision) and not revision.startswith(named):
        raise WrongServerError(f"{urls[0]} holds revision {revision}, not {named}")
    pairs = list(zip(served, told, strict=True))
    quantization = _common(
        urls, "quantisation", [one.quantization or said.quantization for one, said in pairs]
    )
    expected = settings.quantization
    if expected is not None and quantization not in (UNKNOWN, expected):
        raise WrongServerError(f"{urls[0]} was started with quantisation {quantization}, not {expected}")
    return Identity(
        engine=served[0].dialect,
        model=model,
        revision=named if revision == UNKNOWN else revision,
        quantization=quantization,
        dtype=_common(urls, "dtype", [one.dtype or said.dtype for one, said in pairs]),
        tokenizer=tokenizer,
        version=served[0].version,
        root=served[0].root,
    )


def _common(urls: list[str], what: str, values: list[str]) -> str:
    """What all endpoints have; unknown where one of them is not known."""
    for url, value in zip(urls, values, strict=True):
        if UNKNOWN not in (value, values[0]) and value != values[0]:
            raise WrongServerError(
                f"{what} of {urls[0]} is {values[0]}, of {url} {value}; endpoints of a run hold the same"
            )
    return UNKNOWN if UNKNOWN in values else values[0]


def _refuse_differences(urls: list[str], served: list[Served]) -> None:
    for url, one in zip(urls, served, strict=True):
        if (one.dialect, one.root, one.version) != (served[0].dialect, served[0].root, served[0].version):
            first = served[0]
            raise WrongServerError(
                f"{urls[0]} is {first.dialect} {first.version} with {first.root}, "
                f"{url} is {one.dialect} {one.version} with {one.root}; endpoints of a run hold the same"
            )


async def _prove(transport: Transport, endpoint: Endpoint, profile: Profile) -> None:
    for left in reversed(range(PROOFS)):
        try:
            await check(transport, endpoint, profile)
            break
        except (TransportError, ReplyError) as error:
            if not left or (isinstance(error, TransportError) and error.lasting):
                raise ServerError(f"{endpoint.url} says what it is but answers nothing: {error}") from error
            await asyncio.sleep(0.5)


def _profile(served: Served, settings: Settings, kind: str) -> Profile:
    """From the small files of the model: here, in the hub's cache, or downloaded after a line."""
    files = _files(served, settings, kind)
    folder = files.folder
    given = None if settings.tokenizer is None else locate_tokenizer(settings.tokenizer, kind)
    tokenizer = tokenizer_of(files, given)
    config = files.config if files.gguf is not None else read_json(folder / "config.json") or {}
    refuse_another_vocabulary(tokenizer, str(given or files.tokenizer_file or files.name), config)
    frame = framing(files.chat_template)
    sees = files.gguf is None and processor.is_told(folder)
    return Profile(
        tokenizer=tokenizer,
        closes_thinking=frame.closes_thinking,
        always_thinks=frame.always_thinks,
        context=served.context,
        grid=Grid.from_checkpoint(folder) if sees else None,
        longest_prompt=served.longest_prompt,
        pixels_a_token=tgi.PATCH if served.dialect == "tgi" else None,
        image_quotes=tgi.QUOTES,
    )


def _files(served: Served, settings: Settings, kind: str) -> Checkpoint:
    """The model's small files.

    Where a tokenizer is given --model may be a name of the operator's, and the server's root a path of
    another machine: the tokenizer's own folder has to do then.
    """
    wanted = settings.model_for(kind)
    local = Path(served.root)
    if wanted != "tiny" and (local / TOKENIZER).is_file():
        return Checkpoint("", "", local)
    # What it was loaded from and its tokenizer's place are told by servers: --model may be an alias alone.
    names = (wanted, served.parent, served.root, served.model, served.tokenizer)
    refusals: list[UsageError | MachineError] = []
    for name in dict.fromkeys(name for name in names if name):
        try:
            return locate_files(name, kind, settings.revision)
        except (UsageError, MachineError) as error:
            refusals.append(error)
    if settings.tokenizer is None:
        raise refusals[0]
    return Checkpoint("", "", locate_tokenizer(settings.tokenizer, kind).parent)
