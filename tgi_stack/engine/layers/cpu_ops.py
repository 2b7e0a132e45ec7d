"""The steps of a layer on a CPU: some hundred rows at a time, so that what lies between products stays in the
processor's cache, and into memory that is there already: fresh pages cost more than the arithmetic.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import torch

from tgi_stack.engine.layers.linear import Activations, FusedLinear, Pending
from tgi_stack.engine.layers.ops import Layer, Ops, Rows, Tables

ROWS = 256  # for each thread


class CpuOps(Ops):
    """What `Ops` computes, in the same precision.

    Queries, keys and values that `before` gives are overwritten by the next call in the same thread.
    """

    def __init__(self) -> None:
        self._kept = threading.local()

    def before_attention(
        self,
        layer: Layer,
        x: torch.Tensor,
        pending: Pending,
        tables: Tables,
        shape: tuple[int, int, int],
        eps: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        qkv = layer.qkv
        if not isinstance(qkv, FusedLinear):
            return super().before_attention(layer, x, pending, tables, shape, eps)
        heads, kv_heads, size = shape
        x = x if pending is None else x + pending
        found = self._buffer(len(x), len(qkv.weight), x)
        head_norms = torch.cat((layer.q_norm.expand(heads, -1), layer.k_norm.expand(kv_heads, -1)))
        cos, sin = tables
        wide = torch.cat((cos, cos), dim=-1)[:, None], torch.cat((-sin, sin), dim=-1)[:, None]
        for rows in _chunks(len(x)):
            torch.mm(normed(x[rows], layer.attention_norm, eps), qkv.weight.T, out=found[rows])
            turned = found[rows].view(-1, heads + 2 * kv_heads, size)[:, : heads + kv_heads]
            _turn_in_place(turned, head_norms, (wide[0][rows], wide[1][rows]), eps)
        q, k, v = torch.split(found.view(len(x), -1, size), [heads, kv_heads, kv_heads], dim=1)
        return x, q, k, v

    def after_attention(
        self, layer: Layer, x: torch.Tensor, attended: Rows, eps: float
    ) -> tuple[torch.Tensor, Pending]:
        if not isinstance(layer.out, FusedLinear) or not isinstance(layer.down, FusedLinear):
            return super().after_attention(layer, x, attended, eps)
        for rows in _chunks(len(x)):
            super().after_attention(layer, x[rows], attended[rows], eps)
        return x, None

    def add_norm(
        self, x: torch.Tensor, pending: Pending, weight: torch.Tensor, eps: float, *, fp8: bool = False
    ) -> tuple[torch.Tensor, Activations]:
        x = x if pending is None else x + pending
        return x, normed(x, weight, eps)

    def swiglu(self, gate_up: torch.Tensor, *, fp8: bool = False) -> Activations:
        gate, up = gate_up.chunk(2, dim=-1)
        if gate_up.dtype is torch.float32:
            return torch.nn.functional.silu(gate).mul_(up)
        return torch.nn.functional.silu(gate.float()).mul_(up).to(gate_up.dtype)

    def _buffer(self, rows: int, width: int, like: torch.Tensor) -> torch.Tensor:
        """Memory of this thread, uninitialised, shape [rows, width]."""
        kept: torch.Tensor | None = getattr(self._kept, "memory", None)
        if kept is None or kept.dtype is not like.dtype or kept.numel() < rows * width:
            kept = self._kept.memory = like.new_empty(rows * width)
        return kept[: rows * width].view(rows, width)


def normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The RMS norm of rows, in their dtype."""
    return (x * _scales(x, eps)).mul_(weight).to(x.dtype)


def _scales(x: torch.Tensor, eps: float) -> torch.Tensor:
    """One over the root of the mean square, fp32."""
    length: torch.Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _turn_in_place(x: torch.Tensor, weight: torch.Tensor, wide: Tables, eps: float) -> None:
    """Norms heads and turns them to their positions, shape [tokens, heads, head_dim].

    Args:
        wide: cosines, and sines of which the first half is negative, shape [tokens, 1, head_dim].
    """
    cos, sin = wide
    scaled = (x * _scales(x, eps)).mul_(weight)
    low, high = scaled.chunk(2, dim=-1)
    swapped = torch.cat((high, low), dim=-1)
    torch.addcmul(scaled.mul_(cos), swapped, sin, out=x)


def _chunks(rows: int) -> Iterator[slice]:
    size = ROWS * torch.get_num_threads()
    return (slice(start, min(rows, start + size)) for start in range(0, rows, size))
