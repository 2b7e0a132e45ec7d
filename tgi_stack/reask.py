"""Asks some questions of the cache again, to catch a model that was swapped behind its name.

Of one question in 8 the cache keeps the question too. Such are asked twice: how much the two answers differ
is the noise of the engine; a kept answer that differs by clearly more was not given by this model.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from cache.store import Store
from tgi_stack import scoring
from tgi_stack.answers import LabelTable
from tgi_stack.backends.base import Backend
from tgi_stack.errors import RowError
from tgi_stack.types import ScoreRequest

LEAST = 0.03  # of probability: what half precision and other batches make of the same model
TIMES_NOISE = 3.0


@dataclass(frozen=True, slots=True)
class Reasked:
    """How many were asked, how many of them differ, and the largest differences of probability."""

    asked: int
    failed: int
    differ: int
    noise: float
    difference: float


async def reask(store: Store, backend: Backend, share: float, rng: random.Random) -> Reasked:
    """Asks a share of the kept label reads again, by the backend's identity alone.

    Args:
        share: of all kept readings, from 0 to 1; as far as their questions were kept.
    """
    ours = json.dumps(identity_of(backend))
    tables: dict[str, LabelTable] = {}
    questions: dict[str, ScoreRequest] = {}
    for kind, key, payload in store.entries():
        if payload is None:
            continue
        if kind == "labels":
            tables[key] = LabelTable.decode(payload)
        elif kind == "question":
            asked = json.loads(payload)
            if asked["identity"] == ours:
                ids, labels, label_ids = map(tuple, (asked["token_ids"], asked["labels"], asked["label_ids"]))
                questions[key] = ScoreRequest(asked["prompt"], ids, labels, label_ids)
    known = sorted(key for key in questions if key in tables)
    chosen = rng.sample(known, min(len(known), max(1, round(share * len(tables))))) if known else []
    pairs = [await _compare(backend, questions[key], tables[key]) for key in chosen]
    found = [pair for pair in pairs if pair is not None]
    noise = max((one for one, _ in found), default=0.0)
    bound = max(LEAST, TIMES_NOISE * noise)
    return Reasked(
        asked=len(found),
        failed=len(pairs) - len(found),
        differ=sum(difference > bound for _, difference in found),
        noise=noise,
        difference=max((difference for _, difference in found), default=0.0),
    )


def identity_of(backend: Backend) -> list[str]:
    """What has to be the same for answers to be comparable."""
    identity = backend.identity
    return [identity.engine, identity.model, identity.revision, identity.dtype, identity.tokenizer]


async def _compare(backend: Backend, request: ScoreRequest, table: LabelTable) -> tuple[float, float] | None:
    """The noise of two answers, and how far the kept one is from the first."""
    try:
        first, second = [await backend.score(request) for _ in range(2)]
    except RowError:
        return None
    kept = scoring.softmax(table.scores(request.labels).logprobs)
    answers = [scoring.softmax(scores.logprobs) for scores in (first, second)]
    return _apart(*answers), _apart(kept, answers[0])


def _apart(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
