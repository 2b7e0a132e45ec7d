"""Loads a checkpoint's network onto a device; never code that comes with it."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from tgi_stack.engine import compat
from tgi_stack.engine.checkpoint import Checkpoint, Say
from tgi_stack.engine.placement import Placement
from tgi_stack.errors import MachineError, UsageError

VISION_TYPES = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"})


def load(checkpoint: Checkpoint, kind: str, placement: Placement, say: Say) -> Any:
    """The network in evaluation mode on its device; says in one line what was loaded.

    Raises:
        UsageError: a text model where a vision model is needed.
        MachineError: files that can't be loaded, or too little memory.
    """
    model_type = str(checkpoint.config.get("model_type"))
    if kind == "vision" and model_type not in VISION_TYPES:
        raise UsageError(
            f"{checkpoint.name} is a {model_type} model and reads no images; use a Qwen-VL model"
        )
    factory = AutoModelForImageTextToText if model_type in VISION_TYPES else AutoModelForCausalLM
    compat.quiet()
    began = time.monotonic()
    try:
        model = factory.from_pretrained(
            checkpoint.folder, dtype=placement.dtype, local_files_only=True, trust_remote_code=False
        )
        model = model.to(placement.device).eval()
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"{checkpoint.name} does not fit on {placement.device}; use a smaller model"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MachineError(f"{checkpoint.name} can't be loaded from {checkpoint.folder}: {reason}") from error
    size = sum(p.numel() for p in model.parameters())
    say(
        f"torch: {checkpoint.name} ({model_type}, {size / 1e6:,.1f} M parameters) on {placement.device} "
        f"in {placement.dtype_name}, loaded in {time.monotonic() - began:.1f} s"
    )
    return model
