"""Networks of other families, and quantised ones, as transformers loads them; held to the same proof."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from tgi_stack.engine.formats import gguf, lora, packed
from tgi_stack.engine.models import compat, weights
from tgi_stack.engine.models.config import architectures, refuse_other_class
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
        CheckpointError: tensors that are missing, too many or of another shape; see `packed`.
        OSError, ValueError, RuntimeError: what transformers raises for other files that it can't load.
    """
    compat.quiet()
    transformers = compat.transformers()
    fields = compat.respelled(checkpoint.config)
    kinds = transformers.CONFIG_MAPPING
    model_type = fields.get("model_type")
    if model_type not in kinds:
        code = "; the code that comes with it (auto_map) is never run" if fields.get("auto_map") else ""
        raise CheckpointError(
            f"config.json: model_type is {model_type!r}, which the installed transformers does not know{code}"
        )
    factory = _class_of(kinds[model_type], fields, sees=sees)
    arguments: dict[str, Any] = {}
    if quantized != "none":
        arguments["quantization_config"] = _bitsandbytes(quantized, placement.dtype)
    if small := quantized != "none" or packed.is_packed(fields):
        arguments["device_map"] = {"": placement.device}
    config = kinds[model_type].from_dict(fields)
    if checkpoint.gguf is not None:
        gguf.proven(checkpoint.gguf)
        arguments["state_dict"] = dict(gguf.tensors(checkpoint.gguf, placement))
    else:
        stored = {name: one.dtype for name, one in weights.listed(checkpoint.folder).items()}
        packed.prove_files(stored, checkpoint.folder)
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
    packed.prove_layers(model, checkpoint.folder)
    model = (model if small else model.to(placement.device)).eval()
    return lora.applied(model, checkpoint)


def _class_of(kind: Any, fields: Mapping[str, Any], *, sees: bool) -> Any:
    """The class that computes a family.

    transformers loads the layers of an encoder, or of the second half of a pair, as if they wrote text.

    Raises:
        CheckpointError: a family that writes no text by itself, or a checkpoint of another class.
    """
    transformers = compat.transformers()
    text, seeing = transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    known = seeing if sees else text
    model_type = fields.get("model_type")
    if kind not in known or fields.get("is_encoder_decoder") or kind().is_encoder_decoder:
        raise CheckpointError(
            f"config.json: model_type is {model_type!r}, which is no model that writes text alone"
        )
    if architectures(fields) is None:
        raise CheckpointError(
            f"config.json: architectures is missing; a {model_type} model may be of several"
        )
    found = known[kind]
    base = transformers.MODEL_MAPPING.get(kind, found)
    refuse_other_class(fields, (found.__name__, base.__name__))
    return found


def _bitsandbytes(kind: str, dtype: torch.dtype) -> Any:
    config = compat.transformers().BitsAndBytesConfig
    if kind == "8bit":
        return config(load_in_8bit=True)
    return config(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _refuse(checkpoint: Checkpoint, what: str, names: Iterable[str]) -> None:
    listed = sorted(names)
    if listed:
        more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
        raise CheckpointError(f"{checkpoint.folder} {what} {', '.join(listed[:SHOWN])}{more}")
