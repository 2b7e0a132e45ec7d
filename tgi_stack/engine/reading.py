"""From the logarithms of labels to a reading."""

from __future__ import annotations

import math

from tgi_stack import scoring
from tgi_stack.errors import ScoreError
from tgi_stack.types import LabelScores, ScoreRequest

ROUTE = "torch"


def reading(request: ScoreRequest, values: tuple[float, ...]) -> LabelScores:
    """The reading of a request from natural logarithms over the full vocabulary, one a label.

    Raises:
        ScoreError: one of them is no number.
    """
    if not all(map(math.isfinite, values)):
        raise ScoreError(
            "score.not_finite", "the model's logits are not finite numbers; use --dtype bf16 or fp32"
        )
    label_mass = scoring.mass(values)
    return LabelScores(
        logprobs=values,
        normalised="vocabulary",
        label_mass=label_mass,
        exact=True,
        route=ROUTE,
        prompt_tokens=len(request.token_ids),
        flags=scoring.mass_flags(label_mass),
    )
