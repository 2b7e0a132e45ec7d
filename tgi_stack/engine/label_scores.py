"""From the logarithms of labels to a reading."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from tgi_stack.errors import ScoreError
from tgi_stack.scoring import distributions
from tgi_stack.types import LabelScores, ScoreRequest

ROUTE = "torch"


Answer = TypeVar("Answer")
Reading = LabelScores | ScoreError  # a failure is one request's own; the others of its batch have theirs


def reading(request: ScoreRequest, values: tuple[float, ...]) -> Reading:
    """The reading of a request from natural logarithms over the full vocabulary, one a label.

    A ScoreError, `score.not_finite`, where one of them is no number.
    """
    if not all(map(math.isfinite, values)):
        return not_finite()
    label_mass = distributions.mass(values)
    return LabelScores(
        logprobs=values,
        normalised="vocabulary",
        label_mass=label_mass,
        exact=True,
        route=ROUTE,
        prompt_tokens=len(request.token_ids),
        flags=distributions.mass_flags(label_mass),
    )


def not_finite() -> ScoreError:
    """What a row fails with whose logits are no numbers."""
    return ScoreError(
        "score.not_finite", "the model's logits are not finite numbers; use --dtype bf16 or fp32"
    )


def whole(answers: Sequence[Answer | ScoreError]) -> list[Answer]:
    """The answers of a batch of which none failed.

    Raises:
        ScoreError: the first that did.
    """
    found: list[Answer] = []
    for one in answers:
        if isinstance(one, ScoreError):
            raise one
        found.append(one)
    return found
