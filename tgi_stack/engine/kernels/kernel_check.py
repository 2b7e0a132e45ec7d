"""Tries the kernels against plain torch on this very device, before answers depend on them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator
from typing import cast

import numpy as np
import torch

from tgi_stack.engine.kernels import hopper_launch, triton_launch
from tgi_stack.engine.layers import attention
from tgi_stack.engine.layers.linear import BLOCK, BlockScaledFp8, FusedFp8Linear
from tgi_stack.engine.layers.ops import Ops, TritonOps

ROWS = 200
# Programs for Hopper stay for several tiles, and go round their buffers: so many rows have each do both.
MANY = 4_400
# Rounding to bf16 is 2^-8 of a value; values here are of the order of one.
TOLERANCE = 0.06
Pairs = Generator[tuple[str, torch.Tensor, torch.Tensor]]  # by torch and by a kernel


def trial(device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int], hidden: int) -> str | None:
    """What is wrong with the Triton kernels here, or None.

    Args:
        shape: heads, key-value heads, head_dim.
    """
    return _tried(_triton(device, dtype, shape, hidden))


def trial_on_hopper(
    device: torch.device, shape: tuple[int, int, int], hidden: int, *, fp8: bool = False
) -> str | None:
    """The same of the kernels for Hopper, where they run.

    Args:
        fp8: try those for fp8 too.
    """
    fault = _tried(_hopper(device, shape, hidden))
    return _tried(_hopper8(device, shape, hidden)) if fp8 and fault is None else fault


def _tried(pairs: Pairs) -> str | None:
    """What is wrong with the first of two results that differ, or with computing them; None for nothing."""
    try:
        with torch.inference_mode():
            return next(filter(None, itertools.starmap(_difference, pairs)), None)
    except Exception as error:  # noqa: BLE001  # a compiler can fail in any way, and torch computes as well
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    finally:
        pairs.close()  # with what it holds
        torch.cuda.empty_cache()  # slots are sized by the memory that is free


def _triton(device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int], hidden: int) -> Pairs:
    heads, kv_heads, size = shape
    draw = _drawer(device, dtype)
    plain, fast = Ops(), TritonOps()
    x, pending, weight = draw(ROWS, hidden), draw(ROWS, hidden), draw(hidden)
    qkv, norms = draw(ROWS, (heads + 2 * kv_heads) * size), draw(2, size)
    angles = draw(ROWS, size // 2).float()
    tables = (angles.cos(), angles.sin())
    turned = [ops.rotate(qkv.clone(), norms[0], norms[1], tables, shape, 1e-6) for ops in (plain, fast)]
    one, other = (cast(torch.Tensor, o.add_norm(x.clone(), pending, weight, 1e-6)[1]) for o in (plain, fast))
    yield "add_norm", one, other
    layer_norm = torch.nn.LayerNorm(hidden, device=device, dtype=dtype)
    layer_norm.weight.copy_(weight)
    layer_norm.bias.copy_(pending[0])
    plainly, fastly = (ops.add_layer_norm(x.clone(), pending, layer_norm) for ops in (plain, fast))
    yield "add_layer_norm", torch.cat(plainly), torch.cat(fastly)
    yield "swiglu", cast(torch.Tensor, plain.swiglu(x)), cast(torch.Tensor, fast.swiglu(x))
    one, other = (torch.cat([part.flatten(1) for part in parts], dim=1) for parts in turned)
    yield "rotate", one, other
    for one, other in zip(*(ops.turned(qkv.clone(), tables, shape) for ops in (plain, fast)), strict=True):
        yield "turned", one, other
    q, k, v = turned[0]
    simple, tiled = _parts("triton", q, k)
    yield "attend", attention.by_sdpa(q, k, v, simple), attention.by_triton(q, k, v, tiled)
    places = torch.arange(ROWS, device=device).flip(0)
    keys, values = torch.zeros(2, ROWS, kv_heads * size, dtype=dtype, device=device)
    triton_launch.keep_rows(k, v, keys, values, places)
    yield "keep_rows", torch.cat((k, v)).flatten(1), torch.cat((keys.flip(0), values.flip(0)))
    yield "forbid", *_forbidden(x)


def _forbidden(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every other row, held to a mask that ends before its columns do."""
    rows = torch.arange(0, len(logits), 2, device=logits.device)
    shape = len(logits), logits.shape[1] // 64
    masks = torch.full(shape, 0x5A5A00FF, dtype=torch.int32, device=logits.device)
    columns = torch.arange(logits.shape[1], device=logits.device)
    allowed = (columns < 32 * masks.shape[1]) & ((masks[0, 0] >> columns % 32) & 1 == 1)
    plain, fast = logits.clone(), logits.clone()
    plain[rows] = plain[rows].where(allowed, -torch.inf)
    triton_launch.forbid(fast, masks, rows)
    return plain.clamp(min=-9.0), fast.clamp(min=-9.0)


def _hopper(device: torch.device, shape: tuple[int, int, int], hidden: int) -> Pairs:
    heads, kv_heads, size = shape
    draw = _drawer(device, torch.bfloat16)
    x, wide = draw(MANY, hidden), draw(2 * hidden, hidden) / hidden**0.5
    yield "gated", cast(torch.Tensor, Ops().swiglu(x @ wide.T)), hopper_launch.gated(x, wide)
    if size in hopper_launch.HEAD_DIMS:
        q, k, v = torch.split(draw(MANY, heads + 2 * kv_heads, size), [heads, kv_heads, kv_heads], dim=1)
        plain, tiled = _parts("hopper", q, k)
        yield "attend", attention.by_sdpa(q, k, v, plain), attention.by_hopper(q, k, v, tiled)


def _hopper8(device: torch.device, shape: tuple[int, int, int], hidden: int) -> Pairs:
    """What kernels round to fp8 is compared behind the next product, where roundings have evened out."""
    heads, kv_heads, size = shape
    draw = _drawer(device, torch.bfloat16)

    def added(x: BlockScaledFp8, matrix: FusedFp8Linear) -> torch.Tensor:
        residual = torch.zeros(MANY, len(matrix.weight), dtype=torch.bfloat16, device=device)
        hopper_launch.add_product8(residual, x, matrix.weight, matrix.blocks)
        return residual

    if hopper_launch.in_blocks(hidden):
        x = Ops().rows8(draw(MANY, hidden))
        wide, narrow = (FusedFp8Linear(draw(rows, hidden) / hidden**0.5) for rows in (2 * hidden, hidden))
        gated = hopper_launch.gated8(x, wide.weight, wide.blocks)
        yield "gated8", narrow(Ops().gated(wide, x, fp8=True)), added(gated, narrow)
    if size == BLOCK:
        q, k, v = torch.split(draw(MANY, heads + 2 * kv_heads, size), [heads, kv_heads, kv_heads], dim=1)
        out = FusedFp8Linear(draw(hidden, heads * size) / (heads * size) ** 0.5)
        plain, tiled = _parts("hopper", q, k)
        attended = attention.by_sdpa(q, k, v, plain)
        yield "attend8", out(Ops().rows8(attended)), added(attention.by_hopper8(q, k, v, tiled), out)


def _drawer(device: torch.device, dtype: torch.dtype) -> Callable[..., torch.Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    return lambda *sizes: torch.randn(sizes, generator=generator, device=device).to(dtype)


def _parts(name: str, q: torch.Tensor, k: torch.Tensor) -> tuple[attention.Segments, attention.Segments]:
    """Three segments, the second and third of which see the first: for torch, and for a kernel."""
    lengths = (len(q) * np.array([0.2, 0.485, 0.315])).astype(np.int32)
    starts = (np.cumsum(lengths) - lengths).astype(np.int32)
    prefixes = (np.zeros(3, dtype=np.int32), lengths[0] * np.array([0, 1, 1], dtype=np.int32))
    tile = attention.tile_positions(name, q.shape[1] // k.shape[1])
    plain, tiled = (attention.segments(starts, lengths, prefixes, q.device, tile=t) for t in (None, tile))
    return plain, tiled


def _difference(name: str, one: torch.Tensor, other: torch.Tensor) -> str | None:
    difference = float((one.float() - other.float()).abs().max())
    # Written so that NaN is refused too.
    if not difference <= TOLERANCE * max(1.0, float(one.float().abs().max())):
        return f"{name} differs from torch by {difference:.2g}"
    return None


def refuse() -> None:
    """Has everything computed without the kernels."""
    triton_launch.AVAILABLE = False


def refuse_on_hopper() -> None:
    """Has everything computed without the kernels for Hopper."""
    hopper_launch.AVAILABLE = False
