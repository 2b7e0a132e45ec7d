"""A checkpoint's image processor, as its files describe it, read strictly: a slip would show other pixels.

transformers 4 writes `preprocessor_config.json`; transformers 5 may write it into `processor_config.json`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Never

from tgi_stack import lfs
from tgi_stack.errors import CheckpointError

OWN, SHARED, INSIDE = "preprocessor_config.json", "processor_config.json", "image_processor"
_LARGEST = 2**31
# What is computed here; absent or null means the same.
_FIXED = {"do_rescale": True, "do_normalize": True, "temporal_patch_size": 2}
_RESCALE = 1 / 255


def is_told(folder: Path) -> bool:
    """Whether a folder says how images are to be prepared."""
    if (folder / OWN).is_file():
        return True
    return (folder / SHARED).is_file() and isinstance(_json(folder / SHARED).get(INSIDE), dict)


def read(folder: Path) -> dict[str, Any]:
    """An image processor's patches, sizes, and what it normalises with, by their names in its file.

    Raises:
        CheckpointError: there is none; a field that is missing or wrong, by its name; other patches than
            config.json says.
    """
    path = folder / OWN
    if path.is_file() or not is_told(folder):
        fields = _json(path)
    else:
        path = folder / SHARED
        fields = _json(path)[INSIDE]
    found = _geometry(path, fields)
    config = _json(folder / "config.json") if (folder / "config.json").is_file() else {}
    tower = config.get("vision_config")
    for ours, theirs in (("patch_size", "patch_size"), ("merge_size", "spatial_merge_size")):
        said = tower.get(theirs) if isinstance(tower, dict) else None
        if said is not None and said != found[ours]:
            _refuse(path, ours, found[ours], f"config.json has vision_config.{theirs} {said!r}")
    return found


def _geometry(path: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    size = fields.get("size") if isinstance(fields.get("size"), dict) else {}
    found: dict[str, Any] = {
        "patch_size": fields.get("patch_size"),
        "merge_size": fields.get("merge_size"),
        "min_pixels": fields.get("min_pixels") or (size or {}).get("shortest_edge"),
        "max_pixels": fields.get("max_pixels") or (size or {}).get("longest_edge"),
    }
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _LARGEST:
            _refuse(path, name, value, "a whole number over 0 is needed; is this a Qwen-VL checkpoint?")
    if found["min_pixels"] > found["max_pixels"]:
        _refuse(path, "min_pixels", found["min_pixels"], f"it is more than max_pixels, {found['max_pixels']}")
    for name, fixed in _FIXED.items():
        if fields.get(name) not in (None, fixed):
            _refuse(path, name, fields[name], f"only {fixed!r} is computed here")
    factor = fields.get("rescale_factor")
    if factor is not None and not (_is_number(factor) and math.isclose(factor, _RESCALE, rel_tol=1e-6)):
        _refuse(path, "rescale_factor", factor, "only 1/255 is computed here")
    for name in ("image_mean", "image_std"):
        values = fields.get(name)
        if not isinstance(values, list) or len(values) != 3 or not all(map(_is_number, values)):
            _refuse(path, name, values, "three numbers are needed")
        if name == "image_std" and min(values) <= 0:
            _refuse(path, name, values, "numbers over 0 are needed")
        found[name] = tuple(map(float, values))
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e6 < value < 1e6


def _json(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
        if lfs.is_pointer(content):
            raise CheckpointError(lfs.cure(str(path)))
        found = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{path}: no image geometry in it ({why}); is this a Qwen-VL checkpoint?"
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: no image geometry in it (no object); is this a Qwen-VL checkpoint?")
    return found


def _refuse(path: Path, name: str, value: object, why: str) -> Never:
    raise CheckpointError(f"{path}: {name} is {value!r:.80}: {why}")
