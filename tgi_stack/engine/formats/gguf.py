"""The numbers of a GGUF file: each tensor is turned back into floating-point numbers while it loads.

The package `gguf` knows ggml's packings; which tensors a network has is proven here, before any is read.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from tgi_stack.checkpoints.gguf.header import Header, Tensor
from tgi_stack.checkpoints.gguf.model import names
from tgi_stack.engine.models import weights
from tgi_stack.engine.placement import Placement
from tgi_stack.errors import CheckpointError

FLOATS = {"F32": np.float32, "F16": np.float16}
WHOLE_NUMBERS = frozenset({"F64", "I8", "I16", "I32", "I64"})
Shape = tuple[int, ...]


def said_version() -> str:
    """The version of the package, for the identity of what it read."""
    return f"gguf {version('gguf')}"


def quantization(header: Header) -> str:
    """How the matrices of a file are packed, the most of its numbers first: `gguf q4_k+q6_k`."""
    sizes: dict[str, int] = {}
    for tensor in header.tensors.values():
        if len(tensor.shape) > 1:
            kind = _kind(header, tensor).name.lower()
            sizes[kind] = sizes.get(kind, 0) + _count(tensor.shape)
    return "gguf " + "+".join(sorted(sizes, key=lambda kind: (-sizes[kind], kind)))


def proven(header: Header, expected: Mapping[str, Shape] | None = None) -> None:
    """Looks at where the tensors lie, and what they are, before any is read.

    Args:
        expected: those of the network, by the names of a checkpoint; None leaves that to transformers.

    Raises:
        CheckpointError: tensors that lie outside the file or on each other, of kinds that are not read,
            that are missing, too many or of another shape.
    """
    end = 0
    for name, tensor in sorted(header.tensors.items(), key=lambda one: one[1].start):
        if tensor.start < end:
            raise CheckpointError(
                f"{header.path} is damaged: {name} lies on the tensor before it; fetch it again"
            )
        end = tensor.start + _size(header, name, tensor)
        if end > header.size:
            raise CheckpointError(
                f"{header.path} is cut short: {name} ends at byte {end:,} of {header.size:,}; fetch it again"
            )
    if expected is not None:
        found = {name: shape for one, tensor in header.tensors.items() for name, shape in _named(one, tensor)}
        weights.refuse_others(header.path, found, expected)


def tensors(header: Header, placement: Placement) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors on a device, by the names of a checkpoint, each a copy.

    Raises:
        CheckpointError: a file that can't be read, a packing that the package does not know.
    """
    quants: Any = import_module("gguf.quants")
    with header.path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for one, tensor in header.tensors.items():
            size = _size(header, one, tensor)
            packed = np.frombuffer(content[tensor.start : tensor.start + size], np.uint8)
            whole = torch.from_numpy(_numbers(quants, header, one, tensor, packed)).reshape(tensor.shape)
            whole = whole.to(placement.device, placement.dtype)
            called = names(one, tensor.shape)
            yield from zip(called, whole if len(called) > 1 else [whole], strict=True)


def _numbers(quants: Any, header: Header, name: str, tensor: Tensor, packed: Any) -> Any:
    kind = _kind(header, tensor)
    if kind.name in FLOATS:
        return packed.view(FLOATS[kind.name]).copy()
    try:
        return quants.dequantize(packed.reshape(*tensor.shape[:-1], -1), kind)
    except (NotImplementedError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{header.path}: {name} is {kind.name}, which can't be unpacked: {error}"
        ) from error


def _named(name: str, tensor: Tensor) -> Iterator[tuple[str, Shape]]:
    called = names(name, tensor.shape)
    for one in called:
        yield one, tensor.shape if len(called) == 1 else tensor.shape[1:]


def _kind(header: Header, tensor: Tensor) -> Any:
    kinds: Any = import_module("gguf.constants").GGMLQuantizationType
    try:
        return kinds(tensor.kind)
    except ValueError as error:
        why = "a newer gguf may read it: pip install -U gguf"
        raise CheckpointError(
            f"{header.path} holds tensors of kind {tensor.kind}, which is not known; {why}"
        ) from error


def _size(header: Header, name: str, tensor: Tensor) -> int:
    """Bytes of a tensor."""
    kind = _kind(header, tensor)
    if kind.name in WHOLE_NUMBERS:
        raise CheckpointError(f"{header.path}: {name} is {kind.name}; weights are no such numbers")
    block, size = import_module("gguf.constants").GGML_QUANT_SIZES[kind]
    if not tensor.shape[-1] or tensor.shape[-1] % block:
        raise CheckpointError(
            f"{header.path} is damaged: {name} has rows of {tensor.shape[-1]}, in blocks of {block}"
        )
    return int(_count(tensor.shape) // block * size)


def _count(shape: Shape) -> int:
    count = 1
    for axis in shape:
        count *= axis
    return count
