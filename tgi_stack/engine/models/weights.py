"""A checkpoint's tensors, proven against the network that its config.json describes before any is read.

No tensor is left as it was made: each that the network has stands in the files once, in its shape, and the
files hold no others but those of `IGNORED`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from tgi_stack import lfs
from tgi_stack.errors import CheckpointError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = frozenset({"F32", "F16", "BF16"})
HEAD = "lm_head.weight"
# Buffers that older files hold, which follow from the configuration.
IGNORED = re.compile(r"(^|\.)(rotary_emb|rotary_pos_emb)\.inv_freq$")
SHOWN = 5  # names in a message

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as a file holds it."""

    file: Path
    name: str
    dtype: str
    shape: Shape


def proven(folder: Path, expected: Mapping[str, Shape], *, tied: str | None) -> dict[str, Stored]:
    """Where each tensor of the network stands.

    Args:
        expected: the network's tensors, by their names in the files.
        tied: the tensor that the head is a name of, where it has none of its own.

    Raises:
        CheckpointError: files that are missing or damaged; tensors that are missing, too many, of another
            shape, or no floating-point numbers.
    """
    stored = _prefixed(listed(folder))
    ignored = {name for name in stored if IGNORED.search(name)}
    if tied is not None:
        ignored.add(HEAD)  # compared when it is read
    found = {name: one for name, one in stored.items() if name not in ignored}
    refuse_others(folder, {name: one.shape for name, one in found.items()}, expected)
    _refuse(
        folder,
        "holds tensors that are not fp32, fp16 or bf16:",
        [f"{name} ({one.dtype})" for name, one in found.items() if one.dtype not in FLOATS],
    )
    return found


def refuse_others(place: Path, found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> None:
    """Raises CheckpointError for tensors that are missing, too many or of another shape."""
    _refuse(place, "lacks", sorted(expected.keys() - found.keys()))
    _refuse(place, "holds what the network does not have:", sorted(found.keys() - expected.keys()))
    other = [
        f"{name} {list(shape)} in place of {list(expected[name])}"
        for name, shape in found.items()
        if shape != expected[name]
    ]
    _refuse(place, "holds other shapes than its configuration says:", other)


def tensors(
    stored: Mapping[str, Stored], device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors on a device, each a copy: a file that changes later changes nothing.

    Raises:
        CheckpointError: a file that can't be read.
    """
    for file in dict.fromkeys(one.file for one in stored.values()):
        with _opened(file) as opened:
            for name, one in stored.items():
                if one.file == file:
                    yield name, opened.get_tensor(one.name).to(device, dtype, copy=True)


def opened_adapter(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter's file.

    Raises:
        CheckpointError: a file that can't be read, or numbers of another kind.
    """
    found = _tensors_of(file)
    others = [f"{one.name} ({one.dtype})" for one in found if one.dtype not in FLOATS]
    _refuse(file.parent, "holds tensors that are not fp32, fp16 or bf16:", others)
    with _opened(file) as opened:
        return {one.name: opened.get_tensor(one.name) for one in found}


def listed(folder: Path) -> dict[str, Stored]:
    """All tensors of a checkpoint's files: of one, or of the shards that an index names.

    Raises:
        CheckpointError: no files, or files that contradict each other.
    """
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(
            f"{folder} holds both an adapter (adapter_config.json) and a whole model; put them apart"
        )
    index = folder / INDEX
    if not index.exists():
        if not (folder / WHOLE).exists():
            raise CheckpointError(f"{folder} holds no {WHOLE}; only safetensors are read")
        return {one.name: one for one in _tensors_of(folder / WHOLE)}
    places = _index(index)
    shards = sorted(set(places.values()))
    if WHOLE not in shards and (folder / WHOLE).exists():
        raise CheckpointError(f"{folder} holds both {WHOLE} and {INDEX}; remove what is out of date")
    missing = [shard for shard in shards if not (folder / shard).exists()]
    _refuse(folder, "lacks the shards", missing)
    return _gathered(folder, places, shards)


def _gathered(folder: Path, places: Mapping[str, str], shards: list[str]) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for one in chain.from_iterable(_tensors_of(folder / shard) for shard in shards):
        if (first := found.setdefault(one.name, one)) is not one:
            pair = f"{first.file.name} and {one.file.name}"
            raise CheckpointError(f"{folder}: {one.name} stands in two shards, {pair}")
    for name, one in found.items():
        if (said := places.get(name, "no shard")) != one.file.name:
            raise CheckpointError(f"{folder / INDEX} says {said} of {name}, which stands in {one.file.name}")
    absent = [f"{name} ({places[name]})" for name in sorted(places.keys() - found.keys())]
    _refuse(folder, "has shards without tensors that the index names:", absent)
    return found


def _index(path: Path) -> dict[str, str]:
    """The shard of each tensor."""
    content = path.read_bytes()
    if lfs.is_pointer(content):
        raise CheckpointError(lfs.cure(str(path)))
    try:
        places = json.loads(content, object_pairs_hook=_once)["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is no index of shards ({_reason(error)})") from error
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{path} is no index of shards (its weight_map is {places!r:.40})")
    for name, shard in places.items():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(f"{path}: {name} is in {shard!r}, which is no file of this folder")
    return places


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for place, (name, _) in enumerate(pairs) if name in dict(pairs[:place]))
        raise ValueError(f"{twice} stands twice")
    return found


def _tensors_of(file: Path) -> list[Stored]:
    with _opened(file) as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
        return [
            Stored(file, name, one.get_dtype(), tuple(one.get_shape()))
            for name, one in sorted(slices.items())
        ]


def _opened(file: Path) -> Any:
    """An open safetensors file, whose header fits its length."""
    try:
        with file.open("rb") as begun:
            beginning = begun.read(64)
        if not beginning:
            raise CheckpointError(f"{file} is empty; fetch it again")
        if lfs.is_pointer(beginning):
            raise CheckpointError(lfs.cure(str(file)))
        return safe_open(str(file), framework="pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is cut short or damaged ({_reason(error)}); fetch it again") from error


def _prefixed(stored: dict[str, Stored]) -> dict[str, Stored]:
    """Names as a whole model's: files of the layers alone leave out what stands before each."""
    if any(name.startswith("model.") for name in stored):
        return stored
    return {name if name == HEAD else f"model.{name}": one for name, one in stored.items()}


def refuse_another_head(folder: Path, tied: str) -> None:
    """Raises CheckpointError for a head in the files that is not the tensor it is said to be."""
    stored = _prefixed(listed(folder))
    if HEAD not in stored:
        return
    head, embedding = stored[HEAD], stored[tied]
    pair = {HEAD: head, tied: embedding}
    same = head.shape == embedding.shape and head.dtype == embedding.dtype
    if not same or not torch.equal(*dict(tensors(pair, torch.device("cpu"), torch.float32)).values()):
        raise CheckpointError(
            f"{head.file} holds {HEAD}, another one than {embedding.name}, but config.json says "
            "tie_word_embeddings; one of the two is wrong"
        )


def _refuse(folder: Path, what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise CheckpointError(f"{folder} {what} {', '.join(names[:SHOWN])}{more}")


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
