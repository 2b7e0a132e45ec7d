"""Merges an adapter into its base's weights, by peft; what is left is a network like any other."""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.metadata import version
from typing import Any

from torch import nn

from tgi_stack.checkpoints.adapter import Adapter
from tgi_stack.engine.models import weights
from tgi_stack.errors import CheckpointError
from tgi_stack.hub import Checkpoint

# What peft writes before each name of the model that it wraps.
PREFIX = "base_model.model."
SHOWN = 5


def said_version() -> str:
    """The version of peft, for the identity of what it merged."""
    return f"peft {version('peft')}"


def applied(model: Any, checkpoint: Checkpoint) -> Any:
    """The network with its checkpoint's adapter merged into it; as it is where there is none.

    Raises:
        CheckpointError: an adapter that does not fit this network, tensor by tensor.
    """
    adapter = checkpoint.adapter
    if adapter is None:
        return model
    peft: Any = import_module("peft")
    shared = _shared(model)
    stored = weights.opened_adapter(adapter.weights)
    # No number is drawn that matters: each is replaced below, and the base stays as it is.
    config = peft.LoraConfig(**adapter.fields, lora_dropout=0.0, init_lora_weights=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = peft.LoraModel(model, config, "default")
    for name, layer in tuned.named_modules():
        if hasattr(layer, "base_layer") and id(layer.base_layer.weight) in shared:
            raise CheckpointError(
                f"{adapter.folder} adapts {name.removeprefix('model.')}, which shares its weights with "
                "another layer here (tie_word_embeddings); merge it with the software that trained it"
            )
    expected = {name: parameter for name, parameter in tuned.named_parameters() if tuned.prefix in name}
    _prove(adapter, {_plain(name): tuple(one.shape) for name, one in expected.items()}, stored)
    for name, parameter in expected.items():
        parameter.data.copy_(stored[_plain(name)])
    merged = tuned.merge_and_unload(progressbar=False, safe_merge=True)
    return merged.requires_grad_(False).eval()


def _plain(name: str) -> str:
    """A parameter's name as peft's files have it."""
    return PREFIX + name.removeprefix("model.").replace(".default", "").replace(
        "magnitude_vector.weight", "magnitude_vector"
    )


def _shared(model: nn.Module) -> set[int]:
    """The weights that two layers have in common."""
    seen: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        seen[id(parameter)] = seen.get(id(parameter), 0) + 1
    return {one for one, times in seen.items() if times > 1}


def _prove(adapter: Adapter, expected: dict[str, tuple[int, ...]], stored: dict[str, Any]) -> None:
    found = {name: tuple(one.shape) for name, one in stored.items()}
    other = [
        f"{name} {list(shape)} in place of {list(expected[name])}"
        for name, shape in found.items()
        if name in expected and shape != expected[name]
    ]
    _refuse(adapter, "lacks", sorted(expected.keys() - found.keys()))
    _refuse(
        adapter,
        "holds what its base or its configuration does not have:",
        sorted(found.keys() - expected.keys()),
    )
    _refuse(adapter, "holds other shapes than its base and its configuration:", other)


def _refuse(adapter: Adapter, what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise CheckpointError(
            f"the adapter {adapter.folder} {what} {', '.join(names[:SHOWN])}{more}; "
            f"is {adapter.base} the model it was trained on?"
        )
