"""Asks some questions of the cache again, for `fastqwen cache verify --reask`; see `answers.audit`."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from cache.store import Store
from tgi_stack.answers import audit
from tgi_stack.answers.audit_questions import name_of
from tgi_stack.answers.tier.admin import answers_of
from tgi_stack.backends.base import Backend
from tgi_stack.backends.open import open_backend
from tgi_stack.concurrency import fan_out
from tgi_stack.errors import FastqwenError, RowError
from tgi_stack.settings import Settings

LOG = logging.getLogger(__name__)

GIVEN = {"text": "labels", "vision": "summary"}  # what models of a kind give
AT_ONCE = 64
TOGETHER = 256  # keys that a tier is asked for

Answer = TypeVar("Answer")


async def reasked(settings: Settings, store: Store, share: float) -> dict[str, Any]:
    """Asks the text model and the vision model again, where there are answers of their kind.

    Args:
        share: of all kept readings, and of all summaries, from 0 to 1; as far as their questions were kept.

    Raises:
        FastqwenError: neither can be asked.
    """
    found: dict[str, audit.Reasked] = {}
    failures: list[tuple[str, FastqwenError]] = []
    for kind in [kind for kind, answers in GIVEN.items() if store.keys(answers)]:
        try:
            backend = await open_backend(settings, kind)
        except FastqwenError as error:
            failures.append((kind, error))
            continue
        try:
            name = name_of(backend.identity)
            found[name] = found.get(name) or await _reask(store, backend, share, random.SystemRandom())
        finally:
            await backend.aclose()
    for kind, failure in failures:
        if not found:
            raise failure
        LOG.info(f"the {kind} model is not asked: {failure}")
    return audit.totals(found.values())


async def _reask(store: Store, backend: Backend, share: float, rng: random.Random) -> audit.Reasked:
    """By the backend's identity alone: at least one question of each kind, if any was kept."""
    workers = min(backend.max_concurrency, AT_ONCE)
    labels, summaries = [await _of_tier(store, kind) for kind in GIVEN.values()]
    readings = audit.kept_readings(store, backend.identity, share, rng, labels)
    texts = audit.kept_texts(store, backend.identity, share, rng, summaries)
    scores = await _twice([partial(backend.score, kept.request) for kept in readings], workers, rng)
    captions = await _twice([partial(backend.caption, kept.request) for kept in texts], workers, rng)
    return audit.compared(readings, scores, texts, captions)


async def _of_tier(store: Store, kind: str) -> dict[str, bytes]:
    """What the tier answers to the kept questions."""
    found: dict[str, bytes] = {}
    keys = store.keys("question")
    for start in range(0, len(keys), TOGETHER):
        found |= await answers_of(store, kind, keys[start : start + TOGETHER])
    return found


async def _twice(
    asks: Sequence[Callable[[], Coroutine[Any, Any, Answer]]], workers: int, rng: random.Random
) -> list[tuple[Answer, Answer] | None]:
    """Two answers to each, asked in two orders; None where one of them failed."""
    answers: list[list[Answer]] = [[] for _ in asks]

    async def answer(place: int) -> None:
        with suppress(RowError):
            answers[place].append(await asks[place]())

    places = range(len(asks))
    for order in (places, rng.sample(places, len(places))):
        await fan_out(order, answer, workers=workers)
    return [(found[0], found[1]) if len(found) == 2 else None for found in answers]
