"""Random prompts of given lengths: what is measured where no text of one's own is."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tgi_stack.types import ScoreRequest


def prompts(
    count: int, shortest: int, longest: int, *, vocabulary: int, labels: int, seed: int = 0
) -> list[ScoreRequest]:
    """Prompts of random tokens; the shorter the more frequent (the square of an even draw)."""
    rng = random.Random(seed)  # noqa: S311  # no secrets
    label_ids = tuple(range(32, 32 + labels))
    lengths = [round(shortest + (longest - shortest) * rng.random() ** 1.5386) for _ in range(count)]
    return [
        ScoreRequest("", tuple(rng.choices(range(vocabulary), k=length)), (), label_ids) for length in lengths
    ]


def shared(
    queries: int, documents: int, prefix: int, own: tuple[int, int], *, vocabulary: int, seed: int = 0
) -> list[ScoreRequest]:
    """For each query a prefix, and documents behind it; two labels; in random order."""
    rng = random.Random(seed)  # noqa: S311  # no secrets
    requests = []
    for _ in range(queries):
        before = rng.choices(range(vocabulary), k=prefix)
        for _ in range(documents):
            ids = before + rng.choices(range(vocabulary), k=rng.randint(*own))
            requests.append(ScoreRequest("", tuple(ids), (), (32, 33)))
    rng.shuffle(requests)
    return requests


def mean_length(requests: Sequence[ScoreRequest]) -> float:
    """Tokens of a prompt on average."""
    return sum(len(request.token_ids) for request in requests) / len(requests)
