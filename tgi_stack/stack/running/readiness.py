"""Whether a server truly answers: one scored token whose answer is known, and for vision a picture."""

from __future__ import annotations

import time

from tgi_stack.backends.servers.backend import ServedBackend
from tgi_stack.backends.servers.connect import open_served
from tgi_stack.backends.servers.probes import (
    KNOWN_ANSWER,
    KNOWN_LABELS,
    KNOWN_QUESTION,
    label_request,
    picture_request,
)
from tgi_stack.errors import AbsentServerError, ServerError
from tgi_stack.logs import probing
from tgi_stack.settings import Settings

PATIENCE_S = 10.0
PICTURE_PX = 448
PICTURE_TOKENS = 16


async def prove(url: str, kind: str, model: str, revision: str) -> float:
    """Asks as a job would: the seconds it took.

    Raises:
        FastqwenError: it does not answer, or not as it must.
    """
    began = time.monotonic()
    asked = {"endpoint": (url,), "model": model, "startup_timeout": PATIENCE_S}
    if revision != "main":
        asked["revision"] = revision
    with probing():
        try:
            backend = await open_served(Settings.model_validate(asked), kind, patience_s=0.0)
        except AbsentServerError as error:  # what to do about it is said by who waits
            raise ServerError(error.why) from error
        try:
            await _read(backend, url)
            if kind == "vision":
                await _look(backend, url)
        finally:
            await backend.aclose()
    return time.monotonic() - began


async def _read(backend: ServedBackend, url: str) -> None:
    scores = await backend.score(label_request(backend.profile, KNOWN_QUESTION, KNOWN_LABELS))
    best = max(range(len(KNOWN_LABELS)), key=scores.logprobs.__getitem__)
    if best != KNOWN_ANSWER:
        wanted, found = KNOWN_LABELS[KNOWN_ANSWER], KNOWN_LABELS[best]
        raise ServerError(f"{url}: asked to write {wanted}, it would write {found}")


async def _look(backend: ServedBackend, url: str) -> None:
    request, _ = picture_request(backend.profile, PICTURE_PX, PICTURE_PX, PICTURE_PX, PICTURE_TOKENS)
    if not (await backend.caption(request)).text:
        raise ServerError(f"{url}: no word about a picture")
