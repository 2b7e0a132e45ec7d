"""Label logarithms from any causal language model, by transformers' own forward (see `scorer` for Qwen3).

The network's body runs over the batch; only each prompt's last position meets the output head, and only
there are logits taken to fp32 and normalised, so that full logits never exist. Prompts are padded on the
right: in a causal network what follows a position can't change it, so no mask is needed and a prompt gets
the same numbers alone and in any batch (to rounding).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tgi_stack.engine.label_scores import Reading, reading, whole
from tgi_stack.types import LabelScores, ScoreRequest


def score(model: Any, requests: Sequence[ScoreRequest], pad_id: int = 0) -> list[LabelScores]:
    """`readings` of which none failed.

    Raises:
        ScoreError: see `reading.reading`.
    """
    return whole(readings(model, requests, pad_id))


@torch.inference_mode()
def readings(model: Any, requests: Sequence[ScoreRequest], pad_id: int = 0) -> list[Reading]:
    """One reading a request, in order: natural logarithms over the full vocabulary, in fp32.

    The label mass is the sum of their exponentials.
    """
    lengths = [len(request.token_ids) for request in requests]
    longest = max(lengths)
    rows = [[*r.token_ids, *[pad_id] * (longest - len(r.token_ids))] for r in requests]
    ids = torch.tensor(rows, device=model.device)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    last = hidden[torch.arange(len(rows), device=ids.device), torch.tensor(lengths, device=ids.device) - 1]
    logprobs = torch.log_softmax(model.lm_head(last).float(), dim=-1)
    return [read(request, row) for request, row in zip(requests, logprobs, strict=True)]


def read(request: ScoreRequest, logprobs: torch.Tensor) -> Reading:
    """The labels' reading from one distribution; shape [vocabulary], fp32; see `reading.reading`."""
    return reading(request, tuple(logprobs[list(request.label_ids)].tolist()))
