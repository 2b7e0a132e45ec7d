"""Networks of other families, and quantised ones, as transformers loads them; held to the same proof."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from tgi_stack.engine.formats import gguf, lora
from tgi_stack.engine.models import compat
from tgi_stack.engine.placement import Placement
from tgi_stack.errors import CheckpointError
from tgi_stack.hub import Checkpoint

SHOWN = 5


def load(checkpoint: Checkpoint, *, sees: bool, placement: Placement, quantized: str = "none") -> Any:
    """The network in evaluation mode on its device.

    Args:
        sees: whether it reads images.
        quantized: `8bit` or `4bit`, by bitsandbytes.

    Raises:
        CheckpointError: tensors that are missing, too many or of another shape.
        OSError, ValueError, RuntimeError: what transformers raises for other files that it can't load.
    """
    compat.quiet()
    transformers = compat.transformers()
    fields = compat.respelled(checkpoint.config)
    kinds = transformers.CONFIG_MAPPING
    model_type = fields.get("model_type")
    if model_type not in kinds:
        raise CheckpointError(f"config.json: model_type is {model_type!r}, which transformers does not know")
    factory = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
    arguments: dict[str, Any] = {}
    if quantized != "none":
        arguments["quantization_config"] = _bitsandbytes(quantized, placement.dtype)
        arguments["device_map"] = {"": placement.device}
    config = kinds[model_type].from_dict(fields)
    if checkpoint.gguf is not None:
        gguf.proven(checkpoint.gguf)
        arguments["state_dict"] = dict(gguf.tensors(checkpoint.gguf, placement))
        factory = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    model, found = factory.from_pretrained(
        checkpoint.folder if checkpoint.gguf is None else None,
        config=config,
        dtype=placement.dtype,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # which are listed, and refused below
        output_loading_info=True,
        **arguments,
    )
    _refuse(checkpoint, "lacks", found["missing_keys"])
    _refuse(checkpoint, "holds what the network does not have:", found["unexpected_keys"])
    # Names alone, or with the two shapes: releases differ.
    shapes = [one if isinstance(one, str) else one[0] for one in found["mismatched_keys"]]
    _refuse(checkpoint, "holds other shapes than config.json says:", shapes)
    model = (model if quantized != "none" else model.to(placement.device)).eval()
    return lora.applied(model, checkpoint)


def _bitsandbytes(weights: str, dtype: torch.dtype) -> Any:
    config = compat.transformers().BitsAndBytesConfig
    if weights == "8bit":
        return config(load_in_8bit=True)
    return config(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _refuse(checkpoint: Checkpoint, what: str, names: Iterable[str]) -> None:
    listed = sorted(names)
    if listed:
        more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
        raise CheckpointError(f"{checkpoint.folder} {what} {', '.join(listed[:SHOWN])}{more}")
