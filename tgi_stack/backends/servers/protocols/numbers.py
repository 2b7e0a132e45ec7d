"""The numbers that replies hold, read alike in every dialect and on every route."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

# Log-softmax rounds: a certain token may come out a little above 0, in half precision too.
ROUNDING = 1e-3
# Servers write -9999, a type's lowest value and the like for what was masked. No probability is known there:
# the exponential of less than -708 is no normal number.
NOT_SEEN = -700.0
FLOAT32 = 3.4028234663852886e38
# bf16 rounds a logarithm x by up to |x| / 512, so a sum of probabilities by the entropy / 512: 0.023 at most
# for 151,936 tokens. Twice that, since servers may round on the way too.
SUM_TOLERANCE = 0.05
MOST = 2**31 - 1  # of what is counted, and of a token's id


class ReplyError(ValueError):
    """A reply that is not what was asked for; the connection it came by is not used again."""


def logprob(value: Any) -> float | None:
    """The natural logarithm of a probability; None for one that was not seen (see `NOT_SEEN`).

    Raises:
        ReplyError: no number, NaN, an infinity, above 0, beyond float32.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ReplyError(f"{_short(value)} is no logarithm of a probability")
    if value != value or not -FLOAT32 <= value <= ROUNDING:
        raise ReplyError(f"{_short(value)} is no logarithm of a probability")
    return None if value < NOT_SEEN else min(float(value), 0.0)


def distribution(pairs: Iterable[tuple[int, Any]]) -> dict[int, float]:
    """The logarithms of tokens of one distribution by their ids, without those that were not seen.

    Raises:
        ReplyError: see `logprob`; a token that stands twice, or probabilities that add up to more than 1 (and
            `SUM_TOLERANCE`).
    """
    found: dict[int, float | None] = {}
    for token, value in pairs:
        if token in found:
            raise ReplyError(f"token {token} stands twice")
        # Nearly all are so; what else there is `logprob` judges.
        sound = type(value) is float and NOT_SEEN <= value <= 0.0
        found[token] = value if sound else logprob(value)
    seen = {token: value for token, value in found.items() if value is not None}
    refuse_excess(seen.values())
    return seen


def refuse_excess(logprobs: Iterable[float]) -> None:
    """Raises ReplyError for probabilities that add up to more than 1 can be rounded to."""
    total = math.fsum(map(math.exp, logprobs))
    if total > 1.0 + SUM_TOLERANCE:
        raise ReplyError(f"probabilities that add up to {total:.3f}")


def count(value: Any) -> int:
    """A number of tokens, or a token's id."""
    if type(value) is not int or not 0 <= value <= MOST:
        raise ReplyError(f"{_short(value)} is no number of tokens")
    return value


def limit(name: str, value: Any) -> int:
    """A number of tokens that a server takes at most.

    Raises:
        ReplyError: none, or 0, which no prompt keeps to.
    """
    found = count(value) if value is not None else 0
    if not found:
        said = "is missing" if value is None else "is 0: no prompt is short enough"
        raise ReplyError(f"{name} {said}; mend how the server was started")
    return found


def _short(value: Any) -> str:
    # An integer of more than 4,300 digits has no decimal text in Python.
    if type(value) is int and not -FLOAT32 <= value <= FLOAT32:
        return "an integer beyond float32"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
