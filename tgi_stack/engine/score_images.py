"""Label logarithms after prompts with images, by transformers' own forward (see `scorer` for Qwen3-VL)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tgi_stack.engine.caption import image_arguments
from tgi_stack.engine.label_scores import Reading
from tgi_stack.engine.score import read
from tgi_stack.images.grid import Grid
from tgi_stack.types import ScoreRequest


@torch.inference_mode()
def score_images(
    model: Any, grid: Grid | None, requests: Sequence[ScoreRequest], pad_id: int = 0
) -> list[Reading]:
    """One reading a request, in order; see `score.readings`. Prompts are padded on the right and masked."""
    lengths = [len(request.token_ids) for request in requests]
    longest = max(lengths)
    rows = [[*r.token_ids, *[pad_id] * (longest - len(r.token_ids))] for r in requests]
    ids = torch.tensor(rows, device=model.device)
    ends = torch.tensor(lengths, device=model.device)
    images = [image for request in requests for image in request.images]
    output = model.model(
        input_ids=ids,
        attention_mask=(torch.arange(longest, device=model.device) < ends[:, None]).long(),
        use_cache=False,
        **image_arguments(model, grid, images, ids),
    )
    last = output.last_hidden_state[torch.arange(len(rows), device=model.device), ends - 1]
    logprobs = torch.log_softmax(model.lm_head(last).float(), dim=-1)
    return [read(request, row) for request, row in zip(requests, logprobs, strict=True)]
