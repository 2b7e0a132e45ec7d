"""Where transformers 4.57 and 5.x differ, met once."""

from __future__ import annotations

import logging
from typing import Any

import torch
import transformers

# From 2.8 on a product of bf16 can be had in fp32.
MM_OUT_DTYPE = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 8)
VERSION_5 = int(transformers.__version__.split(".")[0]) >= 5


def quiet() -> None:
    """Keeps transformers' own bars and advice off the terminal."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def image_inputs(token_ids: torch.Tensor, image_token_id: int) -> dict[str, Any]:
    """What 5.x wants beside an image prompt: which tokens are visual; 4.57 finds out by itself."""
    if not VERSION_5:
        return {}
    return {"mm_token_type_ids": (token_ids == image_token_id).int()}


def rotary(theta: float, sections: dict[str, Any] | None = None) -> dict[str, Any]:
    """The arguments of a configuration that set its rotary positions."""
    kind = {"rope_type": "default", **(sections or {})}
    if VERSION_5:
        return {"rope_parameters": {**kind, "rope_theta": theta}}
    return {"rope_theta": theta, "rope_scaling": kind if sections else None}
