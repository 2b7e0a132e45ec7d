"""Where transformers 4.57 and 5.x differ, met once; the package is imported only where it computes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import Any

import torch

from tgi_stack.engine.models.rope import settings_of

TURNED = "partial_rotary_factor"
# From 2.8 on a product of bf16 can be had in fp32.
MM_OUT_DTYPE = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 8)
# A product with its bias and GELU, which torch has under a name of its own alone.
GELU_PRODUCT = hasattr(torch, "_addmm_activation")


def transformers() -> Any:
    """The package, which takes more than a second to import."""
    return import_module("transformers")


@cache
def is_version_5() -> bool:
    """Whether the package that is installed is of the 5.x series."""
    return int(version("transformers").split(".")[0]) >= 5


def quiet() -> None:
    """Keeps transformers' own bars and advice off the terminal."""
    transformers().utils.logging.set_verbosity_error()
    transformers().utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def image_inputs(token_ids: torch.Tensor, image_token_id: int) -> dict[str, Any]:
    """What 5.x wants beside an image prompt: which tokens are visual; 4.57 finds out by itself."""
    if not is_version_5():
        return {}
    return {"mm_token_type_ids": (token_ids == image_token_id).int()}


def rotary(theta: float, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The arguments of a configuration that set its rotary positions."""
    kind = {"rope_type": "default", **(settings or {})}
    if is_version_5():
        return {"rope_parameters": {**kind, "rope_theta": theta}}
    return {"rope_theta": theta, "rope_scaling": kind if settings else None}


def respelled(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json with its rotary settings as the installed version reads them; others are ignored by it.

    Raises:
        CheckpointError: see `rope.settings_of`.
    """
    found = dict(config)
    inner = found.get("text_config")
    if isinstance(inner, dict):
        found["text_config"] = respelled(inner)
    if not any(found.get(name) is not None for name in ("rope_parameters", "rope_scaling")):
        return found
    # How much of a head turns is transformers' to compute; our own networks turn whole heads.
    turned = _turned(found)
    theta, settings = settings_of({"": found})
    if turned is not None:
        found[TURNED] = turned
        settings |= {TURNED: turned} if is_version_5() else {}
    for name in ("rope_parameters", "rope_scaling"):
        found.pop(name, None)
    if theta is None:  # stands elsewhere, or is the family's own
        return found | {"rope_parameters" if is_version_5() else "rope_scaling": settings}
    found.pop("rope_theta", None)
    return found | rotary(theta, settings)


def _turned(config: dict[str, Any]) -> Any:
    """The part of each head that rotary positions turn, taken out of a configuration; None for all."""
    said = config.pop(TURNED, None)
    for name in ("rope_parameters", "rope_scaling"):
        settings = config.get(name)
        if isinstance(settings, Mapping) and TURNED in settings:
            config[name] = {key: value for key, value in settings.items() if key != TURNED}
            said = settings[TURNED]
    return said
