"""Loads a checkpoint's network onto a device; never code that comes with it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, BitsAndBytesConfig

from tgi_stack.engine.models import compat
from tgi_stack.engine.models.unsloth import load_unsloth
from tgi_stack.engine.placement import Placement
from tgi_stack.engine.switches import Switches
from tgi_stack.errors import MachineError, UsageError
from tgi_stack.hub import Checkpoint, Say

VISION_TYPES = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"})

PLAIN = Switches()
# While it makes a network, transformers changes what torch holds for the whole process: the default dtype.
_ONE_AT_A_TIME = threading.Lock()


def load(
    checkpoint: Checkpoint, kind: str, placement: Placement, say: Say, switches: Switches = PLAIN
) -> Any:
    """The network in evaluation mode on its device; says in one line what was loaded.

    Raises:
        UsageError: see `model_type_for`.
        MachineError: files that can't be loaded, or too little memory.
    """
    model_type = model_type_for(checkpoint, kind)
    compat.quiet()
    began = time.monotonic()
    try:
        with _ONE_AT_A_TIME:
            model = _load(checkpoint, model_type, placement, switches)
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"{checkpoint.name} does not fit on {placement.device}; use a smaller model"
        ) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MachineError(f"{checkpoint.name} can't be loaded from {checkpoint.folder}: {reason}") from error
    size = sum(math.prod(shape) for shape in _shapes(model))
    weights = "" if switches.weights == "none" else f" with {switches.weights} weights"
    say(
        f"torch: {checkpoint.name} ({model_type}, {size / 1e6:,.1f} M parameters) on {placement.device} "
        f"in {placement.dtype_name}{weights}, loaded in {time.monotonic() - began:.1f} s"
    )
    return model


def model_type_for(checkpoint: Checkpoint, kind: str) -> str:
    """What sort of network a checkpoint holds, found out before its weights load.

    Raises:
        UsageError: a text model where a vision model is needed.
    """
    model_type = str(checkpoint.config.get("model_type"))
    if kind == "vision" and model_type not in VISION_TYPES:
        raise UsageError(
            f"{checkpoint.name} is a {model_type} model and reads no images; use a Qwen-VL model"
        )
    return model_type


def _load(checkpoint: Checkpoint, model_type: str, placement: Placement, switches: Switches) -> Any:
    if switches.loader == "unsloth":
        return load_unsloth(checkpoint.folder, model_type in VISION_TYPES, placement, switches.weights)
    factory = AutoModelForImageTextToText if model_type in VISION_TYPES else AutoModelForCausalLM
    common = {"dtype": placement.dtype, "local_files_only": True, "trust_remote_code": False}
    config = _bitsandbytes(switches.weights, placement.dtype)
    if config is None:
        return factory.from_pretrained(checkpoint.folder, **common).to(placement.device).eval()
    return factory.from_pretrained(
        checkpoint.folder, quantization_config=config, device_map={"": placement.device}, **common
    ).eval()


def _bitsandbytes(weights: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if weights == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    if weights == "4bit":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return None


def _shapes(model: Any) -> Iterator[tuple[int, ...]]:
    """The shapes of all weights; packed ones are counted as what they stand for."""
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        yield tuple(parameter.shape if state is None else state.shape)
