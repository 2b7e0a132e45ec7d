"""From label logarithms to probabilities: pure arithmetic on plain floats."""

from __future__ import annotations

import math
from collections.abc import Sequence

LOW_MASS = 0.5


def softmax(logprobs: Sequence[float]) -> tuple[float, ...]:
    """Probabilities among the labels alone, summing to 1; shape [labels] in and out."""
    peak = max(logprobs)
    weights = [math.exp(value - peak) for value in logprobs]
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)


def mass(logprobs: Sequence[float]) -> float:
    """How much of the full-vocabulary probability lies on the labels together (at most 1)."""
    return min(1.0, math.fsum(math.exp(value) for value in logprobs))


def mass_flags(label_mass: float | None) -> tuple[str, ...]:
    """`label_mass.low` where the model would rather have said something that is no label."""
    return ("label_mass.low",) if label_mass is not None and label_mass < LOW_MASS else ()


def order(scores: Sequence[float]) -> list[int]:
    """Indices from the highest score to the lowest; ties keep their order."""
    return sorted(range(len(scores)), key=lambda index: -scores[index])
