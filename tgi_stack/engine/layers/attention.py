"""Attention over packed segments, by what the device has: own kernels, flash kernels, or plain SDPA.

A segment attends causally to its own rows and, besides, to a prefix that it shares with others. Where rows
are of pictures (`causal=False`) each attends to the whole of its segment.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from tgi_stack.engine.kernels import hopper_launch, triton_launch
from tgi_stack.engine.layers.linear import BlockScaledFp8

varlen_attn: Any = None
flash_attn_varlen_func: Any = None
with suppress(ImportError):  # torch before 2.10
    # Without a GPU it is of no use, and to import it takes a second.
    if torch.cuda.is_available():
        varlen_attn = import_module("torch.nn.attention.varlen").varlen_attn
with suppress(ImportError):
    flash_attn_varlen_func = import_module("flash_attn").flash_attn_varlen_func

LOG2_E = 1.4426950408889634
PIECE_ROWS = 128  # queries of a piece of a causal product on a CPU
TILE, KEYS = 128, 64  # rows of queries and of keys that the Triton kernel holds
HALF = (torch.bfloat16, torch.float16)
# Attention that multiplies the rows behind a segment by nothing: what is no number there is none here either.
READ_BEYOND = frozenset({"hopper"})
Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, "Segments"], torch.Tensor]


@dataclass(frozen=True)
class Segments:
    """Which rows of a pack belong together; int32, shape [segments]; see `packing.Pack`.

    Attributes:
        tiles: what the own kernels' programs do, int32 [1 + tiles, 5]; behind a row that begins with their
            number, the longest first.
        rows: those that the segments cover, from the first.
        gathered: rows of the keys that each segment sees, one behind the other, where prefixes are shared.
    """

    starts: NDArray[np.int32]
    lengths: NDArray[np.int32]
    prefix_starts: NDArray[np.int32]
    prefix_lengths: NDArray[np.int32]
    causal: bool
    query_ends: torch.Tensor
    key_ends: torch.Tensor
    tiles: torch.Tensor | None
    gathered: torch.Tensor | None
    rows: int

    @property
    def longest(self) -> tuple[int, int]:
        """The most queries, and the most keys, of one segment."""
        return int(self.lengths.max()), int((self.lengths + self.prefix_lengths).max())


def segments(
    starts: NDArray[np.int32],
    lengths: NDArray[np.int32],
    prefixes: tuple[NDArray[np.int32], NDArray[np.int32]] | None,
    device: torch.device,
    *,
    tile: int | None,
    causal: bool = True,
) -> Segments:
    """Segments with what kernels need, copied to the device behind its other work.

    Args:
        prefixes: starts and lengths of the rows that each segment sees besides its own.
        tile: positions in a tile of the kernel that computes, see `tile_positions`.
    """
    none = np.zeros_like(starts)
    prefix_starts, prefix_lengths = prefixes or (none, none)
    seen = lengths + prefix_lengths
    gathered = None
    if tile is None and prefix_lengths.any():
        parts = [
            np.arange(start, start + length)
            for pair in zip(prefix_starts, prefix_lengths, starts, lengths, strict=True)
            for start, length in (pair[:2], pair[2:])
        ]
        gathered = upload(np.concatenate(parts), device)
    tiles = None
    if tile is not None:
        tiles = upload(tiles_of(starts, lengths, prefix_starts, prefix_lengths, tile), device)
    return Segments(
        starts,
        lengths,
        prefix_starts,
        prefix_lengths,
        causal,
        query_ends=upload(_ends(lengths), device),
        key_ends=upload(_ends(seen), device),
        tiles=tiles,
        gathered=gathered,
        rows=int((starts + lengths).max()),
    )


def upload(values: NDArray[np.integer], device: torch.device) -> torch.Tensor:
    """An array on the device; on a GPU by a copy that nobody waits for."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def choose(
    device: torch.device, dtype: torch.dtype, head_dim: int, wanted: str = "auto"
) -> tuple[str, Attention]:
    """The attention for a device, with its name: `hopper`, `triton`, `torch varlen`, `flash_attn` or `sdpa`.

    Args:
        wanted: `auto`, or `flash` for flash kernels and no other.
    """
    on_gpu = device.type == "cuda" and dtype in HALF
    whole = head_dim >= 16 and head_dim & (head_dim - 1) == 0
    on_hopper = hopper_launch.usable(device, dtype) and head_dim in hopper_launch.HEAD_DIMS
    options: list[tuple[str, Attention, bool]] = [
        ("hopper", by_hopper, on_hopper and wanted == "auto"),
        ("triton", by_triton, on_gpu and triton_launch.AVAILABLE and whole and wanted == "auto"),
        ("flash_attn", by_flash_attn, on_gpu and flash_attn_varlen_func is not None),
        ("torch varlen", by_varlen, on_gpu and varlen_attn is not None),
        ("sdpa", by_sdpa, True),
    ]
    return next((name, function) for name, function, works in options if works)


def tile_positions(name: str, group: int) -> int | None:
    """Positions in a tile of the attention of that name; None where it has no tiles.

    Args:
        group: query heads of a key-value head.
    """
    if name == "hopper":
        return hopper_launch.positions(group)
    return TILE // group if name == "triton" else None


def by_hopper(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, parts: Segments) -> torch.Tensor:
    """The project's kernel for Hopper: shared prefixes and grouped heads without a copy."""
    return cast(torch.Tensor, _by_hopper(q, k, v, parts, fp8=False))


def by_hopper8(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, parts: Segments) -> BlockScaledFp8:
    """The same with its result in fp8."""
    return cast(BlockScaledFp8, _by_hopper(q, k, v, parts, fp8=True))


def _by_hopper(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, parts: Segments, *, fp8: bool
) -> torch.Tensor | BlockScaledFp8:
    if parts.tiles is None:
        raise ValueError("segments for the Hopper kernel are made with its tile")
    scale = LOG2_E * q.shape[-1] ** -0.5
    return hopper_launch.attend(q, k, v, parts.tiles, parts.rows, scale, causal=parts.causal, fp8=fp8)


def by_triton(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, parts: Segments) -> torch.Tensor:
    """The project's kernel for other chips: the same without a copy too."""
    if parts.tiles is None:
        raise ValueError("segments for the Triton kernel are made with its tile")
    tokens, heads, size = q.shape
    out = torch.empty(tokens, heads * size, dtype=q.dtype, device=q.device)
    triton_launch.launch(
        "attend", (len(parts.tiles) - 1, k.shape[1]),
        q, k, v, out, parts.tiles[1:], q.stride(0), k.stride(0), v.stride(0), LOG2_E * size**-0.5,
        GROUP=heads // k.shape[1], HEADS=heads, SIZE=size,
        BLOCK_M=TILE, BLOCK_N=KEYS, CAUSAL=parts.causal, num_warps=8, num_stages=3,
    )  # fmt: skip
    return out


def by_varlen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, parts: Segments) -> torch.Tensor:
    """torch's own flash kernels; keys that are shared are copied to all that see them."""
    k, v = _seen(k, parts), _seen(v, parts)
    arguments: dict[str, object] = {}
    if "enable_gqa" in VARLEN_ARGUMENTS:
        arguments["enable_gqa"] = q.shape[1] != k.shape[1]
    elif q.shape[1] != k.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    if "window_size" in VARLEN_ARGUMENTS:
        arguments["window_size"] = (-1, 0) if parts.causal else (-1, -1)
    else:
        arguments["is_causal"] = parts.causal
    out: torch.Tensor = varlen_attn(q, k, v, parts.query_ends, parts.key_ends, *parts.longest, **arguments)
    return out.reshape(len(q), -1)


def by_flash_attn(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, parts: Segments) -> torch.Tensor:
    """The flash_attn package."""
    k, v = _seen(k, parts), _seen(v, parts)
    out: torch.Tensor = flash_attn_varlen_func(
        q, k, v, parts.query_ends, parts.key_ends, *parts.longest, causal=parts.causal
    )
    return out.reshape(len(q), -1)


def by_sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, parts: Segments) -> torch.Tensor:
    """torch's scaled dot product, segment by segment: no row is computed that nobody reads.

    Behind a shared prefix that is shorter than the segment, the prefix's queries are computed once more: a
    causal product of the whole takes half the time of one with a mask.
    """
    out = q.new_empty(q.shape)
    out[parts.rows :] = 0
    for own, before in _pieces(parts):
        length, shared = own.stop - own.start, before.stop - before.start
        keys, values = (_behind(x, own, before) for x in (k, v))
        if not parts.causal:
            rows = _sdpa(q[own], keys, values)
        elif shared < length:
            rows = _causal(_behind(q, own, before), keys, values)[shared:]
        else:
            mask = torch.ones(length, shared + length, dtype=torch.bool, device=q.device).tril(shared)
            rows = _sdpa(q[own], keys, values, mask=mask)
        if length == len(q):
            return rows.flatten(1)
        out[own] = rows
    return out.flatten(1)


def last_by_sdpa(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, parts: Segments, last: NDArray[np.int32]
) -> torch.Tensor:
    """Attention of these rows alone, each the last one of a segment, shape [rows, heads * head_dim].

    Args:
        last: in the order of the segments.
    """
    wanted = set(last.tolist())
    found = [
        _sdpa(q[own.stop - 1 : own.stop], *(_behind(x, own, before) for x in (k, v)))
        for own, before in _pieces(parts)
        if own.stop - 1 in wanted
    ]
    return torch.cat(found).flatten(1)


def _pieces(parts: Segments) -> Iterator[tuple[slice, slice]]:
    """The rows of each segment, and those of its prefix."""
    bounds = (parts.starts, parts.lengths, parts.prefix_starts, parts.prefix_lengths)
    for start, length, prefix, shared in zip(*(bound.tolist() for bound in bounds), strict=True):
        yield slice(start, start + length), slice(prefix, prefix + shared)


def _behind(x: torch.Tensor, own: slice, before: slice) -> torch.Tensor:
    """The rows of a segment behind those of its prefix."""
    return x[own] if before.start == before.stop else torch.cat((x[before], x[own]))


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Each query with its own key and those before it; shapes as of `_sdpa`, as many keys as queries.

    On a CPU torch computes all of a causal product of middling length, half of it for nothing. There it is
    taken by some queries at a time, with the keys that they see.
    """
    middling = q.device.type == "cpu" and PIECE_ROWS * 3 // 2 < len(q) < PIECE_ROWS * 6
    if not middling or torch.get_num_threads() > 4 * q.shape[1]:  # too few blocks for so many threads
        return _sdpa(q, k, v, causal=True)
    found = [_sdpa(q[:PIECE_ROWS], k[:PIECE_ROWS], v[:PIECE_ROWS], causal=True)]
    for start in range(PIECE_ROWS, len(q), PIECE_ROWS):
        end = min(len(q), start + PIECE_ROWS)
        mask = _edge(start, q.dtype)[: end - start, :end]
        found.append(_sdpa(q[start:end], k[:end], v[:end], mask=mask))
    return torch.cat(found)


@cache
def _edge(start: int, dtype: torch.dtype) -> torch.Tensor:
    """What is added to the products of the queries from `start` on: minus infinity for later keys."""
    with torch.inference_mode(mode=False):
        shape = PIECE_ROWS, start + PIECE_ROWS
        return torch.full(shape, -torch.inf, dtype=dtype).triu(start + 1)


def _sdpa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Shapes [queries, heads, head_dim] and [keys, kv_heads, head_dim] -> that of the queries."""
    query, key, value = (x.transpose(0, 1)[None] for x in (q, k, v))
    found = torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=causal,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return found[0].transpose(0, 1)


def _seen(x: torch.Tensor, parts: Segments) -> torch.Tensor:
    return x if parts.gathered is None else x[parts.gathered]


def _ends(lengths: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)


def tiles_of(
    starts: NDArray[np.int32],
    lengths: NDArray[np.int32],
    prefix_starts: NDArray[np.int32],
    prefix_lengths: NDArray[np.int32],
    positions: int,
) -> NDArray[np.int32]:
    """`Segments.tiles`: of each segment as many as its positions fill, those with most keys first in all."""
    counts = -(-lengths // positions)
    segment = np.repeat(np.arange(len(starts)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    first = starts[segment] + within * positions
    columns = (
        first,
        (starts + lengths)[segment],
        starts[segment],
        prefix_starts[segment],
        prefix_lengths[segment],
    )
    keys = prefix_lengths[segment] + first - starts[segment]
    ordered = np.stack(columns, axis=1)[np.argsort(-keys, kind="stable")]
    return np.concatenate(([[len(ordered), 0, 0, 0, 0]], ordered)).astype(np.int32)


VARLEN_ARGUMENTS = () if varlen_attn is None else tuple(inspect.signature(varlen_attn).parameters)
