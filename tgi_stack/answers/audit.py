"""Asks some questions of the cache again, to catch a model that was swapped behind its name.

Each is asked twice, many at once and in two orders, since an engine's numbers depend a little on what it
computes beside: how much the two answers differ is the noise. A kept reading that differs by clearly more was
not given by this model. Texts written greedily are the same or not: where many of the kept ones are neither
of the two that are given now, this model did not write them.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from cache.store import Store
from tgi_stack.answers import questions
from tgi_stack.answers.tables import LabelTable, Summary, decode_image
from tgi_stack.backends.base import Backend
from tgi_stack.concurrency import fan_out
from tgi_stack.errors import RowError
from tgi_stack.scoring import distributions
from tgi_stack.types import CaptionRequest, LabelScores, ScoreRequest

LEAST = 0.03  # of probability: what half precision and other batches make of the same model
LEAST_TEXTS = 0.25  # of the texts: the same
TIMES_NOISE = 3.0
AT_ONCE = 64

Request = TypeVar("Request")
Answer = TypeVar("Answer")
Again = TypeVar("Again")


@dataclass(frozen=True, slots=True)
class Reasked:
    """What came of asking again.

    Attributes:
        readings: label readings that were answered, of which `differ` are further apart than the noise.
        noise: the largest difference of a probability between the two answers.
        difference: the same from the kept answer to the first.
        texts: summaries that were written, of which `changed` are neither of the two; of `wavering` the two
            are not the same.
        failed: questions of either kind that were not answered.
    """

    readings: int = 0
    differ: int = 0
    noise: float = 0.0
    difference: float = 0.0
    texts: int = 0
    changed: int = 0
    wavering: int = 0
    failed: int = 0

    @property
    def asked(self) -> int:
        """How many were answered."""
        return self.readings + self.texts

    @property
    def swapped(self) -> bool:
        """Whether another model gave the kept answers."""
        return self.differ > 0 or self.changed > max(LEAST_TEXTS * self.texts, TIMES_NOISE * self.wavering)


async def reask(store: Store, backend: Backend, share: float, rng: random.Random) -> Reasked:
    """Asks a share of the kept answers again, by the backend's identity alone: at least one of each kind.

    Args:
        share: of all kept readings, and of all summaries, from 0 to 1; as far as their questions were kept.
    """
    workers = min(backend.appetite, AT_ONCE)
    readings = _drawn(store, backend, "labels", share, rng, _reading)
    texts = _drawn(store, backend, "summary", share, rng, partial(_text, store))
    scores = await _twice(backend.score, [request for request, _ in readings], workers, rng)
    captions = await _twice(backend.caption, [request for request, _ in texts], workers, rng)
    apart = [_apart(*one, pair) for one, pair in zip(readings, scores, strict=True) if pair]
    written = [(text, pair) for (_, text), pair in zip(texts, captions, strict=True) if pair]
    noise = max((noise for noise, _ in apart), default=0.0)
    return Reasked(
        readings=len(apart),
        differ=sum(difference > max(LEAST, TIMES_NOISE * noise) for _, difference in apart),
        noise=noise,
        difference=max((difference for _, difference in apart), default=0.0),
        texts=len(written),
        changed=sum(text not in (first.text, second.text) for text, (first, second) in written),
        wavering=sum(first.text != second.text for _, (first, second) in written),
        failed=[*scores, *captions].count(None),
    )


def _drawn(
    store: Store,
    backend: Backend,
    kind: str,
    share: float,
    rng: random.Random,
    read: Callable[[dict[str, Any], bytes], Again | None],
) -> list[Again]:
    """Questions of the backend's model with their answers, as many as the share is and as were kept."""
    ours, most = questions.name_of(backend.identity), max(1, round(share * len(store.keys(kind))))
    keys, found = store.keys("question"), list[Again]()
    rng.shuffle(keys)
    for key in keys:
        content, answer = (store.get(one, key, again=True) for one in ("question", kind))
        if content is None or answer is None:
            continue
        with suppress(ValueError, KeyError, TypeError, struct.error):  # of another version
            question = json.loads(content)
            if question["identity"] == ours and (one := read(question, answer)) is not None:
                found.append(one)
        if len(found) == most:
            break
    return found


def _reading(question: dict[str, Any], answer: bytes) -> tuple[ScoreRequest, LabelTable] | None:
    request, table = questions.label_request(question), LabelTable.decode(answer)
    return (request, table) if table.exact and set(request.labels) <= set(table.labels) else None


def _text(store: Store, question: dict[str, Any], answer: bytes) -> tuple[CaptionRequest, str] | None:
    image = None
    if question["image"] is not None:
        payload = store.get("image", question["image"], again=True)
        if payload is None:  # it was cleaned up
            return None
        image = decode_image(payload)
    return questions.summary_request(question, image), Summary.decode(answer).caption.text


async def _twice(
    ask: Callable[[Request], Awaitable[Answer]], requests: Sequence[Request], workers: int, rng: random.Random
) -> list[tuple[Answer, Answer] | None]:
    """Two answers to each, asked in two orders; None where one of them failed."""
    answers: list[list[Answer]] = [[] for _ in requests]

    async def answer(place: int) -> None:
        with suppress(RowError):
            answers[place].append(await ask(requests[place]))

    places = range(len(requests))
    for order in (places, rng.sample(places, len(places))):
        await fan_out(order, answer, lambda nothing: None, workers=workers)
    return [(found[0], found[1]) if len(found) == 2 else None for found in answers]


def _apart(
    request: ScoreRequest, table: LabelTable, pair: tuple[LabelScores, LabelScores]
) -> tuple[float, float]:
    """The noise, and the difference; see `Reasked`."""
    kept = dict(zip(table.labels, table.logprobs, strict=True))
    first, second = (distributions.softmax(scores.logprobs) for scores in pair)
    known = distributions.softmax([kept[label] for label in request.labels])
    return _furthest(first, second), _furthest(known, first)


def _furthest(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
