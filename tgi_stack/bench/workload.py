"""Random prompts and pictures: what is measured where none of one's own are."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tgi_stack.images.grid import Grid
from tgi_stack.types import CaptionRequest, PreparedImage, ScoreRequest

WORDS = 40
GOLDEN = (5**0.5 - 1) / 2


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


def part(requests: Sequence[Any], share: float, least: int = 8) -> list[Any]:
    """A share of the requests with the lengths of all: evenly spaced in the order of length."""
    ordered = sorted(requests, key=lambda request: len(request.token_ids))
    count = min(len(ordered), max(least, round(len(ordered) * share)))
    step = len(ordered) / count
    return [ordered[int((place + 0.5) * step)] for place in range(count)]


def spread(requests: Sequence[Any]) -> list[Any]:
    """The requests in an order in which any first part has about the lengths of all."""
    ordered = iter(sorted(requests, key=lambda request: len(request.token_ids)))
    # Multiples of the golden ratio, modulo one, are spread evenly however many are taken.
    turned = sorted(range(len(requests)), key=lambda place: (0.5 + place * GOLDEN) % 1)
    return [one for _, one in sorted(zip(turned, ordered, strict=True), key=lambda pair: pair[0])]


def mean_length(requests: Sequence[ScoreRequest]) -> float:
    """Tokens of a prompt on average."""
    return sum(len(request.token_ids) for request in requests) / len(requests)


def images(count: int, side_px: int, seed: int = 0) -> list[PreparedImage]:
    """Random pictures of coarse colours, as they are sent."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((side_px, side_px)).save(buffer, "JPEG", quality=90)
        size = (side_px, side_px)
        made.append(PreparedImage(buffer.getvalue(), f"{seed}:{number}", *size, *size))
    return made


def pictures(
    count: int, side_px: int, grid: Grid, config: Mapping[str, Any], new_tokens: int, seed: int = 0
) -> list[CaptionRequest]:
    """Requests for summaries of random pictures, with random tokens behind the visual ones.

    Args:
        config: the model's, which names the tokens that stand for an image and around it.
    """
    draws = random.Random(seed)  # noqa: S311  # no secrets
    visual = [config["vision_start_token_id"], *[config["image_token_id"]] * grid.tokens(side_px, side_px)]
    requests = []
    for image in images(count, side_px, seed):
        words = [draws.randrange(500) for _ in range(WORDS)]
        ids = (*words[:4], *visual, config["vision_end_token_id"], *words[4:])
        requests.append(CaptionRequest("", "", ids, image, new_tokens))
    return requests
