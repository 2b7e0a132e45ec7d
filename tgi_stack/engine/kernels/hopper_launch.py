"""Launches the Gluon programs for Hopper (compute capability 9.0): attention, and products with what follows.

Their constants were chosen on one H200 for Qwen3-0.6B's shape and packs of 16,896 and 33,792 rows: see
docs/design/engine.md for what was measured.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from tgi_stack.engine.layers.linear import BLOCK, FP8, BlockScaledFp8, RowScaledFp8

try:
    import triton
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    from tgi_stack.engine.kernels import hopper_kernels

    AVAILABLE = True
except (ImportError, AttributeError, TypeError):  # no Triton, or one whose experimental language is another
    AVAILABLE = False

CAPABILITY = (9, 0)
LEAST_ROWS = 1_024
HEAD_DIMS = (64, 128)
# A tile of a product: 256 columns make the most of what a group of warps reads, and four buffers of 48 KiB
# fit (724 TFLOP/s; with three 666). Groups of 4, 6, 8 and 12 rows of tiles gave the same.
# In fp8 BLOCK_K is twice that, `BLOCK`, so that buffers are as large.
BLOCK_M, BLOCK_N, BLOCK_K, STAGES, GROUP = 128, 256, 64, 4, 8
# 64 keys in eight buffers gave the same.
QUERIES, KEYS, KV_STAGES = 64, 128, 4
# 65,536 registers over three groups of 128 threads; the groups that multiply take 240 each.
WARPS = {"num_warps": 4, "maxnreg": 168}


def usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the programs run on this device."""
    if not AVAILABLE or device.type != "cuda" or dtype is not torch.bfloat16:
        return False
    return torch.cuda.get_device_capability(device) == CAPABILITY


def in_blocks(width: int) -> bool:
    """Whether a row of activations of that width has whole blocks of columns."""
    return width % BLOCK == 0


def pays8(x: RowScaledFp8, weight: torch.Tensor) -> bool:
    """`pays` for `gated8`, whose tiles are whole blocks of columns."""
    rows, width = x.values.shape
    return rows >= LEAST_ROWS and width % 16 == 0 and in_blocks(len(weight) // 2)


def pays(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether a product is one for `gated`: with few rows cuBLAS is faster, and the copy engine wants rows of
    whole 16 bytes.
    """
    whole = x.shape[1] % 8 == 0 and len(weight) % 16 == 0
    return len(x) >= LEAST_ROWS and x.dtype is torch.bfloat16 and whole


def positions(group: int) -> int:
    """Positions in a tile of attention, for so many query heads of a key-value head."""
    return QUERIES if group % 2 == 0 else 2 * QUERIES


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    tiles: torch.Tensor,
    rows: int,
    scale: float,
    *,
    causal: bool,
    fp8: bool = False,
) -> torch.Tensor | BlockScaledFp8:
    """Attention, shape [tokens, heads * head_dim]; see `attention.by_hopper`.

    Args:
        tiles: see `attention.Segments`; their number is read on the device.
        rows: of keys and values that segments cover; those behind them count as zeros.
        scale: of the scores, times the logarithm of 2 to the base e.
        fp8: give it as `add_product8` takes it, for heads of `BLOCK` columns.
    """
    tokens, heads, size = q.shape
    out = torch.empty(tokens, heads * size, dtype=FP8 if fp8 else q.dtype, device=q.device)
    scales = torch.empty(heads if fp8 else 1, tokens, dtype=torch.float32, device=q.device)
    hopper_kernels.attend[(processors(q.device),)](
        _described(_flat(q), QUERIES, size),
        _described(_flat(k)[:rows], KEYS, size),
        _described(_flat(v)[:rows], KEYS, size),
        out, scales, tokens, tiles, scale,
        GROUP=heads // k.shape[1], HEADS=heads, CAUSAL=causal, STAGES=KV_STAGES, FP8=fp8, **WARPS,
    )  # fmt: skip
    return BlockScaledFp8(out, scales) if fp8 else out


def gated(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """silu(x @ gate.T) * (x @ up.T) for weights [gate; up], shape [tokens, inner]."""
    width = len(weight) // 2
    out = torch.empty(len(x), width, dtype=x.dtype, device=x.device)
    row_tiles, column_tiles = triton.cdiv(len(x), BLOCK_M), triton.cdiv(width, BLOCK_N // 2)
    hopper_kernels.gated[(min(processors(x.device), row_tiles * column_tiles),)](
        _described(x, BLOCK_M, BLOCK_K),
        _described(weight, BLOCK_N // 2, BLOCK_K),
        _described(out, BLOCK_M // 2, BLOCK_N // 2),
        width, row_tiles, column_tiles, triton.cdiv(x.shape[1], BLOCK_K),
        GROUP=GROUP, STAGES=STAGES, **WARPS,
    )  # fmt: skip
    return out


def gated8(x: RowScaledFp8, weight: torch.Tensor, blocks: torch.Tensor) -> BlockScaledFp8:
    """`gated` of a `FusedFp8Linear` matrix [gate; up], in fp8."""
    width = len(weight) // 2
    out = torch.empty(len(x.values), width, dtype=FP8, device=weight.device)
    scales = torch.empty(width // BLOCK, len(out), dtype=torch.float32, device=weight.device)
    row_tiles, column_tiles = triton.cdiv(len(out), BLOCK_M), width // BLOCK
    hopper_kernels.gated8[(min(processors(out.device), row_tiles * column_tiles),)](
        _described(x.values, BLOCK_M, BLOCK),
        _described(weight, BLOCK, BLOCK),
        _described(out, BLOCK_M // 2, BLOCK),
        scales, x.scales, blocks,
        width, len(out), row_tiles, column_tiles, triton.cdiv(x.values.shape[1], BLOCK),
        GROUP=GROUP, STAGES=STAGES, **WARPS,
    )  # fmt: skip
    return BlockScaledFp8(out, scales)


def add_product8(
    residual: torch.Tensor, x: BlockScaledFp8, weight: torch.Tensor, blocks: torch.Tensor
) -> None:
    """Adds the product with a `FusedFp8Linear` matrix to the residual, in place."""
    rows, width = residual.shape
    row_tiles, column_tiles = triton.cdiv(rows, BLOCK_M), triton.cdiv(width, BLOCK_N)
    hopper_kernels.add_product8[(min(processors(residual.device), row_tiles * column_tiles),)](
        _described(x.values, BLOCK_M, BLOCK),
        _described(weight, BLOCK, BLOCK),
        residual, x.scales, blocks,
        width, rows, row_tiles, column_tiles, x.values.shape[1] // BLOCK,
        GROUP=GROUP, STAGES=STAGES, **WARPS,
    )  # fmt: skip


@lru_cache
def processors(device: torch.device) -> int:
    """Of the chip; a program for each."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def _flat(x: torch.Tensor) -> torch.Tensor:
    """Heads side by side: [tokens, heads, size], maybe a part of wider rows, as [tokens, heads * size]."""
    return x.as_strided((x.shape[0], x.shape[1] * x.shape[2]), (x.stride(0), 1))


def _described(x: torch.Tensor, rows: int, columns: int) -> Any:
    """A matrix for the copy engine, in tiles of that shape."""
    return TensorDescriptor(x, x.shape, x.stride(), [rows, columns], _layout(rows, columns, x.dtype))


@lru_cache
def _layout(rows: int, columns: int, dtype: torch.dtype) -> Any:
    kind = gl.float8e4nv if dtype is FP8 else gl.bfloat16
    return gl.NVMMASharedLayout.get_default_for([rows, columns], kind)
