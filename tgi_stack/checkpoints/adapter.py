"""A LoRA adapter as peft saves it: what its configuration says, read strictly, before any weights load.

What is not understood would change the merged weights, so it is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Never

from tgi_stack import lfs
from tgi_stack.errors import CheckpointError, UsageError

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

# With these the base's own weights are changed where training begins, and a plain merge is another model.
_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")
# What a merge is made of.
_READ = frozenset(
    {
        "alpha_pattern", "exclude_modules", "layers_pattern", "layers_to_transform", "lora_alpha", "r",
        "rank_pattern", "target_modules", "use_dora", "use_rslora",
    }
)  # fmt: skip
# Of training, of the base, or of other software; without effect on merged weights.
_HARMLESS = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "eva_config", "inference_mode",
        "init_lora_weights", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core",
        "peft_type", "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
    }
)  # fmt: skip


def _is_rank(value: object) -> bool:
    return type(value) is int and 0 < value <= LARGEST_RANK


def _is_alpha(value: object) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST_ALPHA  # type: ignore[arg-type]


def _is_pattern(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(re.compile(value))
    except (re.error, RecursionError, OverflowError):
        return False


def _are_modules(value: object) -> bool:
    return _is_pattern(value) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _are_layers(value: object) -> bool:
    numbers = value if isinstance(value, list) else [value]
    return all(type(one) is int and one >= 0 for one in numbers)


def _by_pattern(proven: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: (
        isinstance(value, dict) and all(_is_pattern(name) and proven(one) for name, one in value.items())
    )


LARGEST_RANK, LARGEST_ALPHA = 1 << 16, 1e6
_WHOLE = f"a whole number from 1 to {LARGEST_RANK:,}"
_MODULES = "names, or one pattern of names"
# What each of these fields has to be; null is nothing said, but for the two that scale.
_KINDS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "r": (_is_rank, _WHOLE),
    "lora_alpha": (_is_alpha, f"a number up to {LARGEST_ALPHA:,.0f}"),
    "rank_pattern": (_by_pattern(_is_rank), f"patterns of names, each with {_WHOLE}"),
    "alpha_pattern": (_by_pattern(_is_alpha), "patterns of names, each with a number"),
    "use_dora": (lambda value: isinstance(value, bool), "true or false"),
    "use_rslora": (lambda value: isinstance(value, bool), "true or false"),
    "target_modules": (_are_modules, _MODULES),
    "exclude_modules": (_are_modules, _MODULES),
    "layers_pattern": (_are_modules, _MODULES),
    "layers_to_transform": (_are_layers, "numbers of layers"),
}
_NEVER_NULL = frozenset({"r", "lora_alpha"})

_CURE = (
    "merge it into its base with what trained it (peft: merge_and_unload, then save_pretrained) and name "
    "that folder"
)


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter's files, and what its configuration says.

    Attributes:
        base: the model it was trained on, a folder or an id on the hub.
        base_revision: of the base on the hub.
        digest: SHA-256 of its configuration and its weights.
        fields: those of adapter_config.json that a merge is made of.
    """

    folder: Path
    base: str
    base_revision: str | None
    digest: str
    fields: Mapping[str, Any] = field(hash=False)

    @property
    def weights(self) -> Path:
        """The file with its matrices."""
        return self.folder / WEIGHTS


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / CONFIG).is_file()


def read(folder: Path, fields: Mapping[str, Any]) -> Adapter:
    """The adapter of a folder.

    Args:
        fields: its adapter_config.json.

    Raises:
        UsageError: peft is not installed.
        CheckpointError: files that are missing or pickled, or another kind of adapter than is merged here.
    """
    if any((folder / name).exists() for name in ("model.safetensors", "model.safetensors.index.json")):
        raise CheckpointError(f"{folder} holds both an adapter and a whole model; put them apart")
    _refuse_unknown(folder, fields)
    base = fields.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CheckpointError(
            f"{folder / CONFIG}: base_model_name_or_path is {base!r}; "
            "write the base model's folder or id there"
        )
    if find_spec("peft") is None:
        raise UsageError(
            f"{folder} is an adapter, and peft is not installed: pip install 'fastqwen[torch,lora]'"
        )
    revision = fields.get("revision")
    kept = {name: fields[name] for name in sorted(_READ & fields.keys())}
    return Adapter(folder, base, revision if isinstance(revision, str) else None, _digest(folder), kept)


def _refuse_unknown(folder: Path, fields: Mapping[str, Any]) -> None:
    if fields.get("peft_type") != "LORA":
        _refuse(folder, "peft_type", fields.get("peft_type"), "only LORA is merged here")
    if fields.get("bias", "none") != "none":
        _refuse(folder, "bias", fields["bias"], "biases are not merged here")
    if fields.get("init_lora_weights", True) not in _PLAIN_BEGINNINGS:
        why = "it was trained beside a base whose own weights were changed"
        _refuse(folder, "init_lora_weights", fields["init_lora_weights"], why)
    if fields.get("modules_to_save"):
        _refuse(folder, "modules_to_save", fields["modules_to_save"], "whole modules are not merged here")
    for name, (holds, wanted) in _KINDS.items():
        value = fields.get(name)
        if name in fields and not holds(value) and (value is not None or name in _NEVER_NULL):
            _refuse(folder, name, value, f"it has to be {wanted}")
    for name, value in fields.items():
        if name not in _READ | _HARMLESS and value not in (None, False, [], {}, ""):
            _refuse(folder, name, value, "it may change the merged weights and is not merged here")


def _refuse(folder: Path, name: str, value: object, why: str) -> Never:
    shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."
    raise CheckpointError(f"{folder / CONFIG}: {name} is {shown}: {why}; {_CURE}")


def _digest(folder: Path) -> str:
    file = folder / WEIGHTS
    if not file.is_file():
        pickled = (folder / PICKLED).exists()
        why = (
            f"{PICKLED} is a pickle, which could run code" if pickled else "it is an adapter without weights"
        )
        raise CheckpointError(f"{folder} holds no {WEIGHTS} ({why}); save it with peft as safetensors")
    with file.open("rb") as opened:
        if lfs.is_pointer(opened.read(64)):
            raise CheckpointError(lfs.cure(str(file)))
        opened.seek(0)
        weights = hashlib.file_digest(opened, "sha256").hexdigest()
    config = json.loads((folder / CONFIG).read_bytes())
    said = json.dumps({name: config[name] for name in sorted(_READ & config.keys())})
    return hashlib.sha256(f"{weights}\n{said}".encode()).hexdigest()
