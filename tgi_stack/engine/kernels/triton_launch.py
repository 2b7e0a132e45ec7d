"""Launches the Triton programs of norms, rotations and activations."""

from __future__ import annotations

from typing import Any

import torch

from tgi_stack.engine.layers.linear import FP8, FP8_MAX, Pending, RowScaledFp8

try:
    import triton

    from tgi_stack.engine.kernels import triton_kernels

    AVAILABLE = True
except ImportError:  # Triton comes with the CUDA builds of torch alone
    AVAILABLE = False


def launch(name: str, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Starts a program of `triton_kernels` on the current device."""
    getattr(triton_kernels, name)[grid](*arguments, **constants)


def add_norm(
    x: torch.Tensor, pending: Pending, weight: torch.Tensor, eps: float, *, fp8: bool
) -> torch.Tensor | RowScaledFp8:
    """Adds what is pending to x, in place, and gives the RMS norm of its rows."""
    out, scales = _output(x, x.shape[-1], fp8)
    block = triton.next_power_of_2(x.shape[-1])
    launch(
        "add_norm", (len(x),),
        x, x if pending is None else pending, weight, out, scales, x.shape[-1], eps,
        BLOCK=block, ADD=pending is not None, FP8_MAX=FP8_MAX, FP8=fp8, num_warps=_warps(block),
    )  # fmt: skip
    return RowScaledFp8(out, scales) if fp8 else out


def add_layer_norm(
    x: torch.Tensor, pending: Pending, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """Adds what is pending to x, in place, and gives the layer norm of its rows."""
    out = torch.empty_like(x)
    block = triton.next_power_of_2(x.shape[-1])
    launch(
        "add_layer_norm", (len(x),),
        x, x if pending is None else pending, weight, bias, out, x.shape[-1], eps,
        BLOCK=block, ADD=pending is not None, num_warps=_warps(block),
    )  # fmt: skip
    return out


def keep_rows(
    k: torch.Tensor, v: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, places: torch.Tensor
) -> None:
    """Copies rows of keys and values, shape [rows, kv_heads, head_dim], to their places in a cache whose rows
    lie behind each other.
    """
    width = keys.shape[-1]
    block = triton.next_power_of_2(width)
    launch(
        "keep_rows", (len(k),),
        k, v, keys, values, places, k.stride(0), v.stride(0), width, BLOCK=block, num_warps=_warps(block),
    )  # fmt: skip


def forbid(logits: torch.Tensor, masks: torch.Tensor, rows: torch.Tensor) -> None:
    """Leaves of some rows of logits what their masks allow; all else becomes minus infinity.

    Args:
        logits: shape [all rows, vocabulary].
        masks: int32, shape [all rows, words]: a bit a token.
        rows: which of them.
    """
    block = 4_096
    launch(
        "forbid", (len(rows), triton.cdiv(logits.shape[1], block)),
        logits, masks, rows, logits.shape[1], masks.shape[1], logits.stride(0), BLOCK=block,
    )  # fmt: skip


def rotate(
    qkv: torch.Tensor,
    q_norm: torch.Tensor,
    k_norm: torch.Tensor,
    tables: tuple[torch.Tensor, torch.Tensor],
    shape: tuple[int, int, int],
    eps: float,
) -> None:
    """Norms and turns queries and keys in place."""
    _rotate(qkv, (q_norm, k_norm), tables, shape, eps)


def turn(qkv: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor], shape: tuple[int, int, int]) -> None:
    """Turns queries and keys in place, without a norm."""
    _rotate(qkv, None, tables, shape, 0.0)


def _rotate(
    qkv: torch.Tensor,
    norms: tuple[torch.Tensor, torch.Tensor] | None,
    tables: tuple[torch.Tensor, torch.Tensor],
    shape: tuple[int, int, int],
    eps: float,
) -> None:
    heads, kv_heads, size = shape
    launch(
        "rotate", (len(qkv),),
        qkv, *(norms or (qkv, qkv)), *tables, qkv.shape[-1], eps,
        HEADS=heads, KV_HEADS=kv_heads, HALF=size // 2, BLOCK=triton.next_power_of_2(heads + kv_heads),
        NORM=norms is not None,
    )  # fmt: skip


def swiglu(gate_up: torch.Tensor, *, fp8: bool) -> torch.Tensor | RowScaledFp8:
    """silu(gate) * up of rows [gate | up]."""
    width = gate_up.shape[-1] // 2
    out, scales = _output(gate_up, width, fp8)
    block = triton.next_power_of_2(width)
    launch(
        "swiglu",
        (len(gate_up),),
        gate_up,
        out,
        scales,
        width,
        BLOCK=block,
        FP8_MAX=FP8_MAX,
        FP8=fp8,
        num_warps=_warps(block),
    )
    return RowScaledFp8(out, scales) if fp8 else out


def rows8(x: torch.Tensor) -> RowScaledFp8:
    """Rows in fp8, each by its own scale."""
    out, scales = _output(x, x.shape[-1], fp8=True)
    block = triton.next_power_of_2(x.shape[-1])
    launch(
        "rows8",
        (len(x),),
        x,
        out,
        scales,
        x.shape[-1],
        BLOCK=block,
        FP8_MAX=FP8_MAX,
        FP8=True,
        num_warps=_warps(block),
    )
    return RowScaledFp8(out, scales)


def _output(like: torch.Tensor, width: int, fp8: bool) -> tuple[torch.Tensor, torch.Tensor]:
    out = torch.empty(len(like), width, dtype=FP8 if fp8 else like.dtype, device=like.device)
    return out, torch.empty(len(like) if fp8 else 1, 1, dtype=torch.float32, device=like.device)


def _warps(block: int) -> int:
    return max(1, min(8, block // 512))
