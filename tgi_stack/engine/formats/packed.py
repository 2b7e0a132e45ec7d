"""Weights that a checkpoint holds quantised already: which are read here, proven part by part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from tgi_stack.engine.models.weights import FLOATS
from tgi_stack.engine.switches import PACKAGES, Switches
from tgi_stack.errors import CheckpointError, MissingPackageError, UsageError

# Where files say it: transformers', older files of compressed-tensors, MLX.
FIELDS = ("quantization_config", "compression_config", "quantization")
PARTS = ("text_config", "vision_config")
BITSANDBYTES = "bitsandbytes"
BITS = {"load_in_4bit": "4bit", "load_in_8bit": "8bit"}
OTHERWISE = (
    "give the checkpoint that it was made from (with --quantization 4bit, 8bit or fp8 it is made as small), "
    "or have a server answer that reads it: --engine vllm, sglang or tgi"
)
LAYERS = ("Linear4bit", "Linear8bitLt")  # by name: their package is an extra
BYTES = ("weight_format", "bitsandbytes__nf4", "bitsandbytes__fp4")
SHOWN = 5


def is_packed(config: Mapping[str, Any]) -> bool:
    """Whether a config.json says that the weights are quantised, in whatever way."""
    return bool(_said(config))


def bits_of(config: Mapping[str, Any]) -> str | None:
    """How the weights are quantised that `understand` lets through; None for plain ones."""
    said = config.get(FIELDS[0])
    found = [bits for name, bits in BITS.items() if isinstance(said, Mapping) and said.get(name) is True]
    return found[0] if found else None


def understand(config: Mapping[str, Any], switches: Switches) -> None:
    """Looks at what a config.json says of weights that are quantised already, before they load.

    Raises:
        CheckpointError: any way but bitsandbytes', by its name.
        UsageError: a switch that does not go with it.
        MissingPackageError: bitsandbytes or accelerate.
    """
    said = _said(config)
    if not said:
        return
    (place, value), *more = said.items()
    method = value.get("quant_method") if isinstance(value, Mapping) else value
    bits = [name for name in BITS if isinstance(value, Mapping) and value.get(name) is True]
    if method != BITSANDBYTES or place != FIELDS[0] or more or len(bits) != 1:
        shown = f"{method if isinstance(method, str) else value!r:.80}"
        raise CheckpointError(
            f"config.json: {place} says {shown}: weights quantised in a way that the torch engine does not "
            f"read; {OTHERWISE}"
        )
    given = f"--quantization {switches.weights}" if switches.weights != "none" else ""
    given = given or ("--use-torch-compile" if switches.compiled else "")
    if given:
        raise UsageError(f"{given} does not go with weights that {BITSANDBYTES} has quantised; leave it out")
    for package in PACKAGES:
        if find_spec(package) is None:
            raise MissingPackageError(package, "quant")


def prove_files(stored: Mapping[str, str], folder: object) -> None:
    """Looks at the dtypes of a checkpoint's tensors, which transformers converts in silence.

    Args:
        stored: dtypes by the tensors' names.

    Raises:
        CheckpointError: tensors of another dtype, and parts of quantised weights without the rest.
    """
    _refuse(
        folder, "holds tensors of another dtype:", [name for name in stored if not _is_typed(name, stored)]
    )
    wanted = {rest for name in stored for rest in _beside(name)}
    states = {name.rpartition(".bitsandbytes__")[0] for name in stored}
    _refuse(folder, "lacks", list(wanted - stored.keys() - states))


def prove_layers(model: Any, folder: object) -> None:
    """Looks at a loaded network: transformers does not compare the shapes of what is quantised.

    Raises:
        CheckpointError: layers whose weights are plain, or not of their shape.
    """
    layers = {name: module for name, module in model.named_modules() if type(module).__name__ in LAYERS}
    plain = [name for name, module in layers.items() if _scales(module) is None]
    _refuse(folder, f"holds plain weights where config.json says {BITSANDBYTES}:", plain)
    wrong = [name for name, module in layers.items() if not _fits(module)]
    _refuse(folder, "holds other shapes than config.json says:", wrong)


def _is_typed(name: str, stored: Mapping[str, str]) -> bool:
    base, _, end = name.rpartition(".")
    if f"{base}.SCB" in stored and end == "weight":
        return stored[name] == "I8"
    if f"{name}.absmax" in stored or end in BYTES:
        return stored[name] == "U8"
    if end == "absmax":  # bytes where the scales are quantised in turn
        return stored[name] == ("U8" if f"{base}.nested_absmax" in stored else "F32")
    return stored[name] in FLOATS


def _beside(name: str) -> list[str]:
    """What has to stand beside a part of quantised weights."""
    base, _, end = name.rpartition(".")
    if end == "SCB":
        return [f"{base}.weight"]
    if end in ("absmax", "quant_map"):
        return [base, *(f"{base}.{part}" for part in ("absmax", "quant_map", "quant_state"))]
    return [f"{base}.nested_absmax", f"{base}.nested_quant_map"] if end.startswith("nested_") else []


def _scales(module: Any) -> Any:
    """What makes quantised weights of numbers: none where they are plain."""
    weight = module.weight
    if type(module).__name__ == "Linear4bit":
        return getattr(weight, "quant_state", None)
    found = getattr(weight, "SCB", None)
    return module.state.SCB if found is None else found


def _fits(module: Any) -> bool:
    """Whether all parts of a layer's weights are as many as its shape asks for."""
    shape, weight, scales = (module.out_features, module.in_features), module.weight, _scales(module)
    if type(module).__name__ != "Linear4bit":
        return (tuple(weight.shape), tuple(scales.shape)) == (shape, shape[:1])
    parts = [(scales.absmax, math.ceil(math.prod(shape) / scales.blocksize)), (scales.code, 16)]
    if scales.nested:
        inner = scales.state2
        parts += [(inner.absmax, math.ceil(scales.absmax.numel() / inner.blocksize)), (inner.code, 256)]
    held = weight.numel() * weight.element_size() * 2
    return tuple(scales.shape) == shape and held == math.prod(shape) and all(n == a.numel() for a, n in parts)


def _refuse(folder: object, what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise CheckpointError(f"{folder} {what} {', '.join(sorted(names)[:SHOWN])}{more}; fetch it again")


def _said(config: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a quantisation, by the name of its field; null says nothing."""
    places = {"": config, **{f"{part}.": config.get(part) for part in PARTS}}
    return {
        f"{at}{field}": place[field]
        for at, place in places.items()
        if isinstance(place, Mapping)
        for field in FIELDS
        if place.get(field) is not None
    }
