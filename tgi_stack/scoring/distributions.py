"""From label logarithms to probabilities: pure arithmetic on plain floats."""

from __future__ import annotations

import math
import statistics
import struct
from collections.abc import Sequence

LOW_MASS = 0.5
TOP = 3  # candidates whose order has to be settled


def softmax(logprobs: Sequence[float]) -> tuple[float, ...]:
    """Probabilities among the labels alone, summing to 1; shape [labels] in and out."""
    peak = max(logprobs)
    weights = [math.exp(value - peak) for value in logprobs]
    total = math.fsum(weights)
    return tuple([weight / total for weight in weights])


def mass(logprobs: Sequence[float], *, capped: bool = True) -> float:
    """How much of the full-vocabulary probability lies on the labels together (at most 1 where capped)."""
    total = math.fsum(map(math.exp, logprobs))
    return min(1.0, total) if capped else total


def mass_flags(label_mass: float | None) -> tuple[str, ...]:
    """`label_mass.low` where the model would rather have said something that is no label."""
    return ("label_mass.low",) if label_mass is not None and label_mass < LOW_MASS else ()


def order(scores: Sequence[float]) -> list[int]:
    """Indices from the highest score to the lowest; ties keep their order."""
    return sorted(range(len(scores)), key=scores.__getitem__, reverse=True)


def among(logprobs: Sequence[float]) -> tuple[float, ...]:
    """The logarithms normalised over the labels alone: their exponentials sum to 1."""
    peak = max(logprobs)
    total = peak + math.log(math.fsum(math.exp(value - peak) for value in logprobs))
    return tuple(value - total for value in logprobs)


# -- several reads of a row ------------------------------------------------------------------------------


def mean(reads: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Each candidate's mean probability; shape [reads][candidates] in, [candidates] out."""
    return tuple(math.fsum(values) / len(reads) for values in zip(*reads, strict=True))


def spread(reads: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Each candidate's standard deviation (of the population) over the reads."""
    return tuple(statistics.pstdev(values) for values in zip(*reads, strict=True))


def settled(reads: Sequence[Sequence[float]]) -> bool:
    """Whether two reads or more all put the same candidates first, in the same order (TOP of them)."""
    tops = {tuple(order(read)[:TOP]) for read in reads}
    return len(reads) > 1 and len(tops) == 1


def rotations(count: int, times: int) -> tuple[int, ...]:
    """By how many places `count` candidates are turned in each of at most `times` orders, evenly spread."""
    times = min(times, count)
    return tuple(turn * count // times for turn in range(times))


def calibrated(logprobs: Sequence[float], prior: Sequence[float]) -> tuple[float, ...]:
    """Probabilities with a content-free prior divided out (contextual calibration, Zhao et al. 2021).

    Both are logarithms over the same labels in the same order.
    """
    return softmax([value - bias for value, bias in zip(logprobs, prior, strict=True)])


# -- how fine the numbers are ----------------------------------------------------------------------------


def half_precision(values: Sequence[float]) -> str | None:
    """`bf16` or `fp16` where all values are ones that this type has; None where they are finer."""
    for name, holds in (("bf16", _is_bf16), ("fp16", _is_fp16)):
        if all(map(holds, values)):
            return name
    return None


def _is_bf16(value: float) -> bool:
    single = struct.pack(">f", value)
    return bool(struct.unpack(">f", single[:2] + b"\0\0")[0] == value)


def _is_fp16(value: float) -> bool:
    try:
        return bool(struct.unpack(">e", struct.pack(">e", value))[0] == value)
    except OverflowError:
        return False


def tie_flags(values: Sequence[float], dtype: str | None) -> tuple[str, ...]:
    """`resolution.bf16` or `resolution.fp16` where labels tie because logits are no finer than that."""
    ties = len(set(values)) < len(values)
    return (f"resolution.{dtype}",) if ties and dtype in ("bf16", "fp16") else ()
