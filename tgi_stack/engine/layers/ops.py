"""Norms, rotations, activations and products of a layer: as torch operations, or as kernels on a GPU.

Both compute in fp32 and round once, at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tgi_stack.engine.kernels import hopper_launch, triton_launch
from tgi_stack.engine.layers.linear import (
    FP8,
    FP8_MAX,
    Activations,
    BlockScaledFp8,
    FusedFp8Linear,
    FusedLinear,
    LinearMap,
    Pending,
    RowScaledFp8,
)

Tables = tuple[torch.Tensor, torch.Tensor]
Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Rows = torch.Tensor | BlockScaledFp8


@dataclass(frozen=True)
class Layer:
    """The weights of one layer."""

    attention_norm: torch.Tensor
    qkv: LinearMap
    q_norm: torch.Tensor
    k_norm: torch.Tensor
    out: LinearMap
    mlp_norm: torch.Tensor
    gate_up: LinearMap
    down: LinearMap


class Ops:
    """Plain torch: on any device, and what torch.compile fuses."""

    def before_attention(
        self,
        layer: Layer,
        x: torch.Tensor,
        pending: Pending,
        tables: Tables,
        shape: tuple[int, int, int],
        eps: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The residual, and queries, keys and values with their norms and positions."""
        x, normed = self.add_norm(x, pending, layer.attention_norm, eps, fp8=layer.qkv.wants_fp8)
        q, k, v = self.rotate(layer.qkv(normed), layer.q_norm, layer.k_norm, tables, shape, eps)
        return x, q, k, v

    def after_attention(
        self, layer: Layer, x: torch.Tensor, rows: Rows, eps: float
    ) -> tuple[torch.Tensor, Pending]:
        """The residual after the layer, and what is still to be added to it."""
        attended: Activations = rows
        if layer.out.wants_fp8 and isinstance(rows, torch.Tensor):
            attended = self.rows8(rows)
        x, pending = self.add(layer.out, x, attended)
        x, normed = self.add_norm(x, pending, layer.mlp_norm, eps, fp8=layer.gate_up.wants_fp8)
        return self.add(layer.down, x, self.gated(layer.gate_up, normed, fp8=layer.down.wants_fp8))

    def add_norm(
        self, x: torch.Tensor, pending: Pending, weight: torch.Tensor, eps: float, *, fp8: bool = False
    ) -> tuple[torch.Tensor, Activations]:
        """The residual with what is pending, and its RMS norm; rows of any number, shape [tokens, hidden]."""
        if pending is not None:
            x = x + pending
        normed = _rms(x.float(), weight, eps)
        return x, self._quantised(normed) if fp8 else normed.to(x.dtype)

    def add_layer_norm(
        self, x: torch.Tensor, pending: Pending, norm: torch.nn.LayerNorm
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `add_norm` with a layer norm, shape [rows, hidden]."""
        if pending is not None:
            x = x + pending
        return x, norm(x)

    def rotate(
        self,
        qkv: torch.Tensor,
        q_norm: torch.Tensor,
        k_norm: torch.Tensor,
        tables: Tables,
        shape: tuple[int, int, int],
        eps: float,
    ) -> Triple:
        """Queries and keys normed by head and turned to their positions, and values.

        Args:
            qkv: shape [tokens, (heads + 2 * kv_heads) * head_dim].
        """
        q, k, v = _split(qkv, shape)
        return turn(_rms(q.float(), q_norm, eps), tables, q), turn(_rms(k.float(), k_norm, eps), tables, k), v

    def turned(self, qkv: torch.Tensor, tables: Tables, shape: tuple[int, int, int]) -> Triple:
        """Queries and keys turned to their positions as they are, and values; see `rotate`."""
        q, k, v = _split(qkv, shape)
        return turn(q.float(), tables, q), turn(k.float(), tables, k), v

    def swiglu(self, gate_up: torch.Tensor, *, fp8: bool = False) -> Activations:
        """silu(gate) * up of rows [gate | up]."""
        gate, up = gate_up.float().chunk(2, dim=-1)
        product = torch.nn.functional.silu(gate) * up
        return self._quantised(product) if fp8 else product.to(gate_up.dtype)

    def gated(self, matrix: LinearMap, x: Activations, *, fp8: bool = False) -> Activations:
        """silu(gate) * up of the products with [gate | up]."""
        return self.swiglu(matrix(x), fp8=fp8)

    def rows8(self, x: torch.Tensor) -> RowScaledFp8:
        """Rows in fp8, each by its own scale."""
        return self._quantised(x.float())

    def add(self, matrix: LinearMap, residual: torch.Tensor, x: Activations) -> tuple[torch.Tensor, Pending]:
        """See `Matrix.add`."""
        return matrix.add(residual, x)

    def _quantised(self, x: torch.Tensor) -> RowScaledFp8:
        scales = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / FP8_MAX
        return RowScaledFp8((x / scales).clamp(-FP8_MAX, FP8_MAX).to(FP8), scales)


class TritonOps(Ops):
    """One kernel for each step, without a pause to compile for every new number of rows.

    `add_norm`, `add_layer_norm`, `rotate` and `turned` write into what they are given.
    """

    def add_norm(
        self, x: torch.Tensor, pending: Pending, weight: torch.Tensor, eps: float, *, fp8: bool = False
    ) -> tuple[torch.Tensor, Activations]:
        return x, triton_launch.add_norm(x, pending, weight, eps, fp8=fp8)

    def add_layer_norm(
        self, x: torch.Tensor, pending: Pending, norm: torch.nn.LayerNorm
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return x, triton_launch.add_layer_norm(x, pending, norm.weight, norm.bias, norm.eps)

    def rotate(
        self,
        qkv: torch.Tensor,
        q_norm: torch.Tensor,
        k_norm: torch.Tensor,
        tables: Tables,
        shape: tuple[int, int, int],
        eps: float,
    ) -> Triple:
        triton_launch.rotate(qkv, q_norm, k_norm, tables, shape, eps)
        return _split(qkv, shape)

    def turned(self, qkv: torch.Tensor, tables: Tables, shape: tuple[int, int, int]) -> Triple:
        triton_launch.turn(qkv, tables, shape)
        return _split(qkv, shape)

    def swiglu(self, gate_up: torch.Tensor, *, fp8: bool = False) -> Activations:
        return triton_launch.swiglu(gate_up, fp8=fp8)

    def rows8(self, x: torch.Tensor) -> RowScaledFp8:
        return triton_launch.rows8(x)


class HopperOps(TritonOps):
    """Products and what follows them by one kernel: the MLP's first one where rows are many, and those that
    add to the residual what a kernel left in fp8.
    """

    def gated(self, matrix: LinearMap, x: Activations, *, fp8: bool = False) -> Activations:
        if (
            fp8
            and isinstance(matrix, FusedFp8Linear)
            and isinstance(x, RowScaledFp8)
            and hopper_launch.pays8(x, matrix.weight)
        ):
            return hopper_launch.gated8(x, matrix.weight, matrix.blocks)
        if (
            not fp8
            and isinstance(matrix, FusedLinear)
            and isinstance(x, torch.Tensor)
            and hopper_launch.pays(x, matrix.weight)
        ):
            return hopper_launch.gated(x, matrix.weight)
        return super().gated(matrix, x, fp8=fp8)

    def add(self, matrix: LinearMap, residual: torch.Tensor, x: Activations) -> tuple[torch.Tensor, Pending]:
        if isinstance(matrix, FusedFp8Linear) and isinstance(x, BlockScaledFp8):
            hopper_launch.add_product8(residual, x, matrix.weight, matrix.blocks)
            return residual, None
        return super().add(matrix, residual, x)


def _split(qkv: torch.Tensor, shape: tuple[int, int, int]) -> Triple:
    """Views of queries, keys and values, shape [tokens, heads, head_dim] each."""
    heads, kv_heads, size = shape
    q, k, v = torch.split(qkv.view(len(qkv), -1, size), [heads, kv_heads, kv_heads], dim=1)
    return q, k, v


def _rms(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()


def turn(x: torch.Tensor, tables: Tables, like: torch.Tensor) -> torch.Tensor:
    """Heads turned to their positions, shape [tokens, heads, head_dim], in the dtype of `like`."""
    cos, sin = (table[:, None] for table in tables)
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(like.dtype)
