"""Loads a checkpoint by Unsloth, where it is installed and asked for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from tgi_stack.engine.placement import Placement


def load_unsloth(folder: Path, sees: bool, placement: Placement, weights: str) -> Any:
    """The network that Unsloth's FastLanguageModel (or FastVisionModel, where it `sees`) loads."""
    # Unsloth rewrites transformers as it is imported, which must not happen to who does not ask for it.
    unsloth = import_module("unsloth")
    factory = unsloth.FastVisionModel if sees else unsloth.FastLanguageModel
    model, _ = factory.from_pretrained(
        str(folder),
        dtype=placement.dtype,
        load_in_4bit=weights == "4bit",
        load_in_8bit=weights == "8bit",
        local_files_only=True,
        device_map={"": placement.device},
    )
    factory.for_inference(model)
    return model
