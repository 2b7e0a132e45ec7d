"""What works here, a line each: ok, a warning or a failure with what to do.

So far the endpoints: what each is, its model, its way to a probability, how long an answer takes, its queue.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tgi_stack.backends.serving import METRICS_S, WORK, access, checked_url, describe, open_served
from tgi_stack.errors import FastqwenError
from tgi_stack.labels import LETTERS, Prover
from tgi_stack.settings import Settings
from tgi_stack.transport import Transport, TransportError
from tgi_stack.types import ScoreRequest
from tgi_stack.wire.reply import ReplyError, Served, gauge

READS = 5


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was looked at; `state` is `ok`, `warning` or `failure`."""

    state: str
    what: str
    detail: str


async def examine(settings: Settings) -> AsyncIterator[Line]:
    """Looks at each endpoint that the settings name, else at those where `make up` puts them."""
    named = settings.endpoint or (
        *settings.endpoints_for("text"),
        *settings.endpoints_for("vision"),
    )
    given = access(settings)
    transport = Transport(given.api_key, given.ca_file)
    try:
        for url in map(checked_url, named):
            async for line in _endpoint(transport, url, settings):
                yield line
    finally:
        await transport.aclose()


async def _endpoint(transport: Transport, url: str, settings: Settings) -> AsyncIterator[Line]:
    try:
        models = await describe(transport, url)
    except (TransportError, ReplyError, FastqwenError) as error:
        yield Line("failure", url, f"{error}; start it with: make up")
        return
    for served in models:
        detail = f"{served.dialect} {served.version}, {served.model}, context {served.context:,}"
        yield Line("ok", url, detail)
    yield await _reads(url, models[0], settings)
    yield await _queue(transport, url, models[0])


async def _reads(url: str, served: Served, settings: Settings) -> Line:
    """Twenty labels after a prompt, several times."""
    narrowed = settings.model_copy(update={"endpoint": (url,), "model": settings.model or served.model})
    try:
        backend = await open_served(narrowed, "text", lambda line: None, patience_s=0.0)
    except FastqwenError as error:
        return Line("failure", f"{url} label reads", str(error))
    try:
        tokenizer = backend.profile.tokenizer
        labels = tuple(LETTERS[:20])
        prompt, ids = backend.profile.turn("Answer with one letter.")
        ending = (backend.profile.tail(), tokenizer.encode(backend.profile.tail()))
        request = ScoreRequest(prompt, ids, labels, Prover(tokenizer.encode).ids(labels, ending))
        spent = []
        for _ in range(READS):
            began = time.perf_counter()
            scores = await backend.score(request)
            spent.append(time.perf_counter() - began)
    except FastqwenError as error:
        return Line("failure", f"{url} label reads", str(error))
    finally:
        await backend.aclose()
    mass = "unknown" if scores.label_mass is None else f"{scores.label_mass:.3f}"
    took = f"{1000 * statistics.median(spent):.0f} ms a read"
    return Line("ok", f"{url} label reads", f"route {scores.route}, 20 labels, mass {mass}, {took}")


async def _queue(transport: Transport, url: str, served: Served) -> Line:
    running, waiting = WORK[served.dialect]
    try:
        reply = await transport.get(f"{url}/metrics", METRICS_S)
    except TransportError as error:
        return Line("warning", f"{url} queue", f"/metrics: {error}")
    at_work, queued = gauge(reply.body, running), gauge(reply.body, waiting)
    if at_work is None or queued is None:
        return Line("warning", f"{url} queue", f"no {waiting} in /metrics: nobody can yield to others")
    return Line("ok", f"{url} queue", f"{at_work:.0f} requests run, {queued:.0f} wait")
