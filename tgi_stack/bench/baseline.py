"""What the optimisation guide describes, by transformers alone: everything else is compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tgi_stack.engine import caption
from tgi_stack.images.grid import Grid
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.types import CaptionRequest, ScoreRequest

Probabilities = list[tuple[float, ...]]


@torch.inference_mode()
def score(model: Any, requests: Sequence[ScoreRequest], size: int = 1) -> Probabilities:
    """Probabilities among the labels, `size` prompts at a time, padded, by the logits of every position."""
    found: Probabilities = []
    device = model.device
    for start in range(0, len(requests), size):
        part = requests[start : start + size]
        longest = max(len(request.token_ids) for request in part)
        short = [longest - len(request.token_ids) for request in part]
        rows = [[0] * n + list(r.token_ids) for n, r in zip(short, part, strict=True)]
        mask = [[0] * n + [1] * (longest - n) for n in short]
        logits = model(
            input_ids=torch.tensor(rows, device=device),
            attention_mask=torch.tensor(mask, device=device),
            use_cache=False,
        ).logits[:, -1]
        for request, row in zip(part, logits, strict=True):
            found.append(tuple(torch.softmax(row[list(request.label_ids)].float(), -1).tolist()))
    return found


def write(
    model: Any, tokenizer: Tokenizer, grid: Grid | None, requests: Sequence[CaptionRequest], size: int = 1
) -> list[str]:
    """Greedy summaries by transformers' generate, `size` at a time."""
    texts = []
    for start in range(0, len(requests), size):
        answers = caption.caption(model, tokenizer, grid, requests[start : start + size])
        texts += [answer.text for answer in answers]
    return texts
