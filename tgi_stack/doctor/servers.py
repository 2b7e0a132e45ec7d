"""What works here, a line each: ok, a warning or a failure with what to do.

First this machine (`machine`), then the endpoints: what each is, its model and revision, its way to a
probability, its labels, the way of an image to it, how long an answer takes, its queue.
"""

from __future__ import annotations

import asyncio
import importlib.util
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tgi_stack.backends.servers.access import access
from tgi_stack.backends.servers.backend import ServedBackend
from tgi_stack.backends.servers.connect import METRICS_S, open_served
from tgi_stack.backends.servers.dialects import DIALECTS
from tgi_stack.backends.servers.discovery import describe
from tgi_stack.backends.servers.probes import label_request, picture_request
from tgi_stack.backends.servers.protocols.numbers import ReplyError
from tgi_stack.backends.servers.protocols.reply import Served, error_text, gauge
from tgi_stack.backends.servers.transport import Transport, TransportError
from tgi_stack.backends.servers.urls import checked_url
from tgi_stack.doctor import machine, tier
from tgi_stack.doctor.check import Check
from tgi_stack.errors import AbsentServerError, FastqwenError, ScoreError
from tgi_stack.prompting.labels import LETTERS, Prover
from tgi_stack.prompting.profile import Profile
from tgi_stack.settings import DEFAULT_ENDPOINTS, Settings
from tgi_stack.stack.planning.ports import taken
from tgi_stack.stack.running.containers import of_url
from tgi_stack.types import Identity

__all__ = ["Check", "examine"]

READS = 5
CANDIDATES = (20, 52)
PICTURE = (1500, 1000)
ANSWER_S = 60.0
GONE_S = 5.0  # for so long a server may be gone in the middle: a job waits for it, this asks how it is now
BUSY = "see whether it has too much to do (the queue, below), or refuses all with 429 or 503"
MORE_IN_SIGHT = (
    "bounds stand for them, or torch computes the row (--fallback); start TGI with grammars and "
    "--max-top-n-tokens 128, vLLM with --max-logprobs 128"
)


@dataclass(frozen=True, slots=True)
class ProbedEndpoint:
    """An endpoint and how to ask it."""

    transport: Transport
    url: str
    kind: str
    settings: Settings


async def examine(settings: Settings) -> AsyncIterator[Check]:
    """This machine, then each endpoint that the settings name, else those where `make up` puts them.

    Args:
    """
    for line in await asyncio.to_thread(lambda: list(machine.examine(settings.cache_dir))):
        yield line
    for line in await asyncio.to_thread(lambda: list(tier.examine(settings))):
        yield line
    transport = Transport(access(settings))
    told: str | None = None
    try:
        for url, kind in _endpoints(settings).items():
            async for line in _endpoint(
                ProbedEndpoint(
                    transport,
                    url,
                    kind,
                    settings,
                )
            ):
                yield line
            told = told or await _date(transport, url)
    finally:
        await transport.aclose()
    yield machine.clock_line(told)


def _endpoints(settings: Settings) -> dict[str, str]:
    """Each URL with the kind of job that it is for."""
    kinds = dict.fromkeys(map(checked_url, settings.endpoints_for("vision")), "vision")
    return dict.fromkeys(map(checked_url, settings.endpoints_for("text")), "text") | (
        {} if settings.endpoint else kinds
    )


async def _endpoint(asked: ProbedEndpoint) -> AsyncIterator[Check]:
    try:
        models = await describe(asked.transport, asked.url)
    except (TransportError, ReplyError, FastqwenError) as error:
        yield _absent(asked, error)
        return
    usable = [served for served in models if served.fault is None]
    for served in models:
        if served.fault is not None:
            fix = "" if usable else "start it with a model that generates text"
            yield Check("warning" if usable else "failure", asked.url, f"{served.model}: {served.fault}", fix)
            continue
        detail = f"{served.dialect} {served.version}, {served.model}, context {served.context:,}"
        yield Check("ok", asked.url, detail)
    for first in usable[:1]:
        async for line in _model(asked, first):
            yield line
        yield await _queue(asked, first)


def _absent(asked: ProbedEndpoint, error: Exception) -> Check:
    why = error.why if isinstance(error, AbsentServerError) else str(error)
    if (ours := of_url(asked.url)) is not None:
        return Check("failure", asked.url, f"{ours} ({why})", "make status says more; make wait, make logs")
    default = asked.url == DEFAULT_ENDPOINTS[asked.kind] and not asked.settings.names_endpoints
    if default and taken(int(asked.url.rpartition(":")[2])):
        fix = "it is no server of ours: free the port, or make up TEXT_PORT=... VISION_PORT=..."
        return Check("warning", asked.url, f"taken by another program ({error})", fix)
    if default and importlib.util.find_spec("torch") is not None:
        fix = "start servers with: make up; or compute in process: --engine torch"
        return Check("warning", asked.url, f"no server, the port is free ({error})", fix)
    return Check("failure", asked.url, str(error), "start it with: make up")


async def _model(asked: ProbedEndpoint, served: Served) -> AsyncIterator[Check]:
    """What has to be asked of the model itself."""
    chosen = {
        "endpoint": (asked.url,),
        "model": asked.settings.model_for(asked.kind) or served.model,
        "startup_timeout": GONE_S,
    }
    try:
        narrowed = asked.settings.model_copy(update=chosen)
        backend = await open_served(narrowed, asked.kind, patience_s=0.0)
    except FastqwenError as error:
        yield Check("failure", f"{asked.url} model", str(error), "docs/servers.md, What to do when")
        return
    try:
        yield _identity(asked.url, backend.identity)
        yield _labels(asked.url, backend.profile)
        yield await _reads(asked.url, backend)
        if backend.profile.grid is not None:
            yield await _image(asked, served, backend.profile)
    finally:
        await backend.aclose()


def _identity(url: str, identity: Identity) -> Check:
    said = f"revision {identity.revision}, quantisation {identity.quantization}, dtype {identity.dtype}"
    unknown = "unknown" in (identity.revision, identity.quantization, identity.dtype)
    note = "; servers don't tell, docker/stack.json does for those of make up" if unknown else ""
    return Check("ok", f"{url} identity", said + note)


def _labels(url: str, profile: Profile) -> Check:
    """The labels of 20 and of 52 candidates, proven with the served model's tokenizer."""
    what = f"{url} labels"
    tail = profile.tail()
    prover = Prover(profile.tokenizer)
    try:
        for count in CANDIDATES:
            prover.ids(prover.default(count), (tail, profile.tokenizer.encode(tail)))
    except FastqwenError as error:
        return Check("failure", what, str(error), "use --tokenizer of the served model, or other --labels")
    counts = " and ".join(map(str, CANDIDATES))
    return Check("ok", what, f"of {counts} candidates, one token each where the answer begins")


async def _reads(url: str, backend: ServedBackend) -> Check:
    """Twenty labels after a prompt, several times; then as many as there are letters."""
    what = f"{url} label reads"
    few, many = CANDIDATES
    try:
        request = label_request(backend.profile, "Answer with one letter.", tuple(LETTERS[:few]))
        spent = []
        for _ in range(READS):
            began = time.perf_counter()
            scores = await asyncio.wait_for(backend.score(request), ANSWER_S)
            spent.append(time.perf_counter() - began)
        request = label_request(backend.profile, "Answer with one letter.", tuple(LETTERS[:many]))
        whole = await asyncio.wait_for(backend.score(request), ANSWER_S)
    except ScoreError as error:
        return Check("failure", what, f"labels are out of sight: {error}", MORE_IN_SIGHT)
    except TimeoutError:
        return Check("failure", what, f"no answer within {ANSWER_S:.0f} s", BUSY)
    except FastqwenError as error:
        return Check("failure", what, str(error), "the route to probabilities is closed; see docs/servers.md")
    mass = "unknown" if scores.label_mass is None else f"{scores.label_mass:.3f}"
    took = f"{1000 * statistics.median(spent):.0f} ms a read"
    told = f"route {scores.route}, {few} labels, mass {mass}, {took}"
    bounded = [str(count) for count, read in ((few, scores), (many, whole)) if not read.exact]
    if bounded:
        return Check(
            "warning", what, f"{told}; some of {' and of '.join(bounded)} are out of sight", MORE_IN_SIGHT
        )
    return Check("ok", what, told)


async def _image(asked: ProbedEndpoint, served: Served, profile: Profile) -> Check:
    """The way of one picture: its pixels, those sent, its tokens, and whether the server counts as many."""
    what = f"{asked.url} image"
    request, image = picture_request(profile, *PICTURE, asked.settings.max_side, 1)
    tokens = profile.grid.tokens(image.sent_width, image.sent_height) if profile.grid else 0
    sent = f"{image.sent_width} x {image.sent_height}"
    way = f"{PICTURE[0]} x {PICTURE[1]} -> {sent} pixels sent -> {tokens} visual tokens"
    dialect = DIALECTS[served.dialect]
    if not dialect.tells_resizing:
        return Check("ok", what, f"{way}; TGI tells no count that would show a second resize")
    name = f"doctor-{time.time_ns():x}"
    call = dialect.caption_call(request, served, profile, name)
    try:
        reply = await asked.transport.post(asked.url, call, ANSWER_S)
        if reply.status != 200:
            raise ReplyError(f"status {reply.status}: {error_text(reply.body)}")
        dialect.parse_caption(reply, request, served, name)
    except (TransportError, ReplyError) as error:
        fix = "start the server without --mm-processor-kwargs of its own, or with a larger max_pixels"
        return Check("failure", what, f"{way}; {error}", fix)
    return Check("ok", what, f"{way}, as many as the server counts: it does not resize again")


async def _queue(asked: ProbedEndpoint, served: Served) -> Check:
    running, waiting = DIALECTS[served.dialect].work
    what = f"{asked.url} queue"
    fix = "open GET /metrics on the way to the server"
    try:
        reply = await asked.transport.get(f"{asked.url}/metrics", METRICS_S)
    except TransportError as error:
        return Check("warning", what, f"/metrics: {error}", fix)
    at_work, queued = gauge(reply.body, running), gauge(reply.body, waiting)
    if at_work is None or queued is None:
        return Check("warning", what, f"no {waiting} in /metrics: nobody can yield to others", fix)
    return Check("ok", what, f"{at_work:.0f} requests run, {queued:.0f} wait")


async def _date(transport: Transport, url: str) -> str | None:
    try:
        return (await transport.get(f"{url}/health", METRICS_S)).headers.get("Date")
    except TransportError:
        return None
