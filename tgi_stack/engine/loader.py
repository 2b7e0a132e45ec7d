"""Loads a checkpoint's network onto a device; never code that comes with it, and no tensor at random."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors import SafetensorError

from tgi_stack.checkpoints.gguf.header import Header
from tgi_stack.engine.formats import gguf, lora, packed
from tgi_stack.engine.models import by_transformers, compat, config, qwen3, weights
from tgi_stack.engine.models.qwen3 import GenerationConfig
from tgi_stack.engine.models.unsloth import load_unsloth
from tgi_stack.engine.placement import Placement
from tgi_stack.engine.switches import Switches
from tgi_stack.errors import CheckpointError, MachineError, UsageError
from tgi_stack.hub import Checkpoint

LOG = logging.getLogger(__name__)

VISION_TYPES = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"})

PLAIN = Switches()
SHOWN = 5
_BY_TOKEN = ("embed_tokens.weight", "lm_head.weight")
_PROVEN_FINITE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# While it makes a network, transformers changes what torch holds for the whole process: the default dtype.
_ONE_AT_A_TIME = threading.Lock()


def load(checkpoint: Checkpoint, kind: str, placement: Placement, switches: Switches = PLAIN) -> Any:
    """The network in evaluation mode on its device; says in one line what was loaded.

    Raises:
        UsageError: see `model_type_for`.
        MachineError: files that can't be loaded (CheckpointError), or too little memory.
    """
    model_type = model_type_for(checkpoint, kind)
    began = time.monotonic()
    try:
        with _ONE_AT_A_TIME:
            model = _load(checkpoint, model_type, placement, switches)
        _prove_finite(model)
        if checkpoint.is_changed:  # weights load when the first answer is missed, which may be hours later
            raise CheckpointError("its files were written to since the run began; start it again")
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"{checkpoint.name} does not fit on {placement.device}; use a smaller model"
        ) from error
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.name} can't be loaded: {error}") from error
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, ImportError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{checkpoint.name} can't be loaded from {checkpoint.folder}: {reason}"
        ) from error
    size = sum(math.prod(shape) for shape in _shapes(model))
    kept = "" if switches.weights == "none" else f" with {switches.weights} weights"
    LOG.info(
        f"torch: {checkpoint.name} ({model_type}, {size / 1e6:,.1f} M parameters) on {placement.device} "
        f"in {placement.dtype_name}{kept}, loaded in {time.monotonic() - began:.1f} s"
    )
    return model


def model_type_for(checkpoint: Checkpoint, kind: str) -> str:
    """What sort of network a checkpoint holds, found out before its weights load.

    Raises:
        UsageError: a text model where a vision model is needed.
        CheckpointError: a configuration that does not say it.
    """
    model_type = checkpoint.config.get("model_type")
    if not isinstance(model_type, str):
        raise CheckpointError(
            f"config.json: model_type is {model_type!r:.80}; a name such as 'qwen3' is needed"
        )
    if kind == "vision" and model_type not in VISION_TYPES:
        raise UsageError(
            f"{checkpoint.name} is a {model_type} model and reads no images; use a Qwen-VL model"
        )
    return model_type


def context_of(fields: Mapping[str, Any]) -> int:
    """How many tokens a prompt may have, as a config.json says.

    Raises:
        CheckpointError: no such number.
    """
    inner = fields.get("text_config")
    found = {**fields, **(inner if isinstance(inner, Mapping) else {})}.get("max_position_embeddings")
    found = 4096 if found is None else found
    if isinstance(found, bool) or not isinstance(found, int) or not 0 < found <= config.LARGEST:
        raise CheckpointError(
            f"config.json: max_position_embeddings is {found!r:.80}; a whole number is needed"
        )
    return found


def understand(checkpoint: Checkpoint, switches: Switches = PLAIN) -> None:
    """Looks at a configuration before the weights load.

    Raises:
        UsageError: an adapter, and weights that it can't be merged into; a GGUF file, packed once more.
        CheckpointError: see `packed.understand`, `config.read`; of other families, `rope.settings_of`.
    """
    fields = checkpoint.config
    packed.understand(fields, switches)
    if checkpoint.gguf is not None:
        _refuse_packed_twice(checkpoint, switches)
    if checkpoint.adapter is not None:
        _refuse_packed(checkpoint, switches)
    if fields.get("model_type") in config.OWN_TYPES:
        config.read(fields)
    else:
        compat.respelled(fields)


def _refuse_packed(checkpoint: Checkpoint, switches: Switches) -> None:
    quantised = checkpoint.gguf is not None or packed.is_packed(checkpoint.config)
    if quantised or switches.loader != "transformers" or switches.weights not in ("none", "fp8"):
        how = "a quantised base" if quantised else switches.weights
        how = switches.loader if switches.loader != "transformers" else how
        raise UsageError(
            f"{checkpoint.name} is an adapter, which is merged into plain weights, not with {how}; "
            "leave that out, or merge it first"
        )


def _refuse_packed_twice(checkpoint: Checkpoint, switches: Switches) -> None:
    if switches.weights != "none" or switches.loader != "transformers":
        how = switches.weights if switches.weights != "none" else switches.loader
        raise UsageError(
            f"{checkpoint.name} is a GGUF file, whose weights are packed as they are; leave {how} out, or "
            "name the checkpoint that it was made of"
        )


def quantization(checkpoint: Checkpoint, switches: Switches) -> str:
    """How the weights are packed, for the identity."""
    if checkpoint.gguf is not None:
        return gguf.quantization(checkpoint.gguf)
    return packed.bits_of(checkpoint.config) or switches.weights


def prove(checkpoint: Checkpoint) -> None:
    """Looks at the headers of the weights before any is read; transformers does so for other families.

    Raises:
        CheckpointError: see `config.read`, `weights.proven`.
    """
    fields = checkpoint.config
    if fields.get("model_type") in config.OWN_TYPES and not packed.is_packed(fields):
        model = qwen3.skeleton(config.read(fields))
        if checkpoint.gguf is not None:
            gguf.proven(checkpoint.gguf, model.shapes())
            return
        weights.proven(checkpoint.folder, model.shapes(), tied=model.tied)


def is_own(checkpoint: Checkpoint, switches: Switches) -> bool:
    """Whether the weights go into a network of our own, without transformers."""
    fields = checkpoint.config
    plain = switches.loader == "transformers" and switches.weights in ("none", "fp8")
    return fields.get("model_type") in config.OWN_TYPES and plain and not packed.is_packed(fields)


def _load(checkpoint: Checkpoint, model_type: str, placement: Placement, switches: Switches) -> Any:
    fields, sees = checkpoint.config, model_type in VISION_TYPES
    if is_own(checkpoint, switches):
        if checkpoint.gguf is not None:
            return _from_gguf(checkpoint, checkpoint.gguf, placement)
        plain = qwen3.load(checkpoint.folder, config.read(fields), _generation(checkpoint), placement)
        return lora.applied(plain, checkpoint)
    if checkpoint.adapter is not None:
        _refuse_packed(checkpoint, switches)
    prove(checkpoint)
    if switches.loader == "unsloth":
        return load_unsloth(checkpoint.folder, sees, placement, switches.weights)
    quantized = switches.weights if switches.weights in ("8bit", "4bit") else "none"
    return by_transformers.load(checkpoint, sees=sees, placement=placement, quantized=quantized)


def _from_gguf(checkpoint: Checkpoint, header: Header, placement: Placement) -> Any:
    model = qwen3.skeleton(config.read(checkpoint.config))
    gguf.proven(header, model.shapes())
    return qwen3.filled(model, gguf.tensors(header, placement), _generation(checkpoint), placement)


def _generation(checkpoint: Checkpoint) -> GenerationConfig:
    """The tokens that end a text: of generation_config.json, else of config.json."""
    fields, said = checkpoint.config, checkpoint.generation_config
    places = (said, fields, fields.get("text_config") or {})
    end, pad = (
        next((place[name] for place in places if place.get(name) is not None), None)
        for name in ("eos_token_id", "pad_token_id")
    )
    ends = end if isinstance(end, list) else [] if end is None else [end]
    if not all(type(id) is int for id in [*ends, pad or 0]):
        raise CheckpointError(f"eos_token_id is {end!r}, pad_token_id {pad!r}; whole numbers are needed")
    return GenerationConfig(ends, pad)


def _prove_finite(model: Any) -> None:
    """Refuses weights that are no numbers: attention passes over some, and the answers look like others.

    Raises:
        CheckpointError: with the names of the first.
    """
    plain = {
        name: one for name, one in model.named_parameters() if one.dtype in _PROVEN_FINITE and one.numel()
    }
    if not plain:
        return
    # The ends of each tensor tell it in one pass.
    ends = torch.stack([torch.stack(torch.aminmax(one.detach())).cpu().double() for one in plain.values()])
    # A token's row of NaN harms the prompts that hold it, which fail by themselves. An infinite one may give
    # a logit of minus infinity, which looks like a token that nothing speaks for.
    wrong = [
        name
        for name, found in zip(plain, ends, strict=True)
        if found.isinf().any() or (found.isnan().any() and not name.endswith(_BY_TOKEN))
    ]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise CheckpointError(
            f"{', '.join(wrong[:SHOWN])}{more}: infinite, or no numbers; fetch the files again, or compute "
            "in a wider type (--dtype fp32)"
        )


def _shapes(model: Any) -> Iterator[tuple[int, ...]]:
    """The shapes of all weights; packed ones are counted as what they stand for."""
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        yield tuple(parameter.shape if state is None else state.shape)
