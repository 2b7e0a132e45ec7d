"""What is told by asking some of the kept questions again: whether a model was swapped behind its name.

`jobs.reask` asks each twice, many at once and in two orders, since an engine's numbers depend a little on
what it computes beside: how much the two answers differ is the noise. A kept reading that differs by clearly
more was not given by this model. Texts written greedily are the same or not: where many of the kept ones are
neither of the two that are given now, this model did not write them.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar

from cache.store import Store
from tgi_stack.answers.audit_questions import label_request, name_of, summary_request
from tgi_stack.answers.images import ImageCodec
from tgi_stack.answers.summaries import SummaryCodec
from tgi_stack.answers.tables import LabelTable
from tgi_stack.scoring import distributions
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, ScoreRequest

LEAST = 0.03  # of probability: what half precision and other batches make of the same model
LEAST_TEXTS = 0.25  # of the texts: the same
TIMES_NOISE = 3.0

Answer = TypeVar("Answer")


# -- what is asked again ---------------------------------------------------------------------------------


class KeptReading(NamedTuple):
    """A question for labels, and what is kept of its prompt."""

    request: ScoreRequest
    table: LabelTable


class KeptText(NamedTuple):
    """A question for a summary, and the text that is kept."""

    request: CaptionRequest
    text: str


Pair = tuple[Answer, Answer] | None  # the two answers; None where one of them failed


Far = Mapping[str, bytes]  # answers that a tier has, by their keys: they come before our own


def kept_readings(
    store: Store, identity: Identity, share: float, rng: random.Random, far: Far
) -> list[KeptReading]:
    """Of a model's kept readings the share (from 0 to 1) that is asked again: at least one, if any can be."""
    found = []
    for question, answer in _drawn(store, identity, "labels", rng, far):
        with suppress(ValueError, KeyError, TypeError, struct.error):  # of another version
            request, table = label_request(question), LabelTable.decode(answer)
            if table.exact and set(request.labels) <= set(table.labels):
                found.append(KeptReading(request, table))
        if len(found) == _most(store, "labels", share):
            break
    return found


def kept_texts(
    store: Store, identity: Identity, share: float, rng: random.Random, far: Far
) -> list[KeptText]:
    """The same of its summaries, as long as their images are kept."""
    found = []
    for question, answer in _drawn(store, identity, "summary", rng, far):
        with suppress(ValueError, KeyError, TypeError, struct.error):
            image = None
            if question["image"] is not None:
                payload = store.get("image", question["image"], again=True)
                if payload is None:  # it was cleaned up
                    continue
                image = ImageCodec.decode(payload)
            found.append(KeptText(summary_request(question, image), SummaryCodec.decode(answer).text))
        if len(found) == _most(store, "summary", share):
            break
    return found


def _most(store: Store, kind: str, share: float) -> int:
    return max(1, round(share * len(store.keys(kind))))


def _drawn(
    store: Store, identity: Identity, kind: str, rng: random.Random, far: Far
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Questions of a model with their answers, in no order."""
    ours, keys = name_of(identity), store.keys("question")
    rng.shuffle(keys)
    for key in keys:
        content = store.get("question", key, again=True)
        answer = far.get(key) or store.get(kind, key, again=True)
        if content is None or answer is None:
            continue
        with suppress(ValueError, KeyError, TypeError):
            question = json.loads(content)
            if question["identity"] == ours:
                yield question, answer


# -- what came of it -------------------------------------------------------------------------------------


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


def compared(
    readings: Sequence[KeptReading],
    scores: Sequence[Pair[LabelScores]],
    texts: Sequence[KeptText],
    captions: Sequence[Pair[Caption]],
) -> Reasked:
    """The two answers to each question, held against the kept one."""
    apart = [_apart(one, pair) for one, pair in zip(readings, scores, strict=True) if pair]
    written = [(one.text, pair) for one, pair in zip(texts, captions, strict=True) if pair]
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


def _apart(kept: KeptReading, pair: tuple[LabelScores, LabelScores]) -> tuple[float, float]:
    """The noise, and the difference; see `Reasked`."""
    logprobs = dict(zip(kept.table.labels, kept.table.logprobs, strict=True))
    first, second = (distributions.softmax(scores.logprobs) for scores in pair)
    known = distributions.softmax([logprobs[label] for label in kept.request.labels])
    return _furthest(first, second), _furthest(known, first)


def _furthest(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def totals(found: Iterable[Reasked]) -> dict[str, Any]:
    """What came of asking several models, in one."""
    every = [Reasked(), *found]
    columns = {name: [asdict(one)[name] for one in every] for name in asdict(Reasked())}
    sums = {n: max(column) if n in ("noise", "difference") else sum(column) for n, column in columns.items()}
    asked, swapped = sum(one.asked for one in every), any(one.swapped for one in every)
    return {"asked": asked} | sums | {"swapped": swapped}
