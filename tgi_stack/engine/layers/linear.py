"""A layer's matrices as they multiply fastest: fused, in fp8, or the modules of a quantised model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import nn

FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max
BLOCK = 128  # rows of a matrix, and columns of activations, that have a scale in common
Pending = torch.Tensor | None


class RowScaledFp8(NamedTuple):
    """Activations in fp8, a scale for each row: values shape [tokens, n], scales fp32 [tokens, 1]."""

    values: torch.Tensor
    scales: torch.Tensor


class BlockScaledFp8(NamedTuple):
    """Activations in fp8, a scale for each row and `BLOCK` columns: values shape [tokens, n], scales fp32
    [n / BLOCK, tokens].
    """

    values: torch.Tensor
    scales: torch.Tensor


Activations = torch.Tensor | RowScaledFp8 | BlockScaledFp8


class LinearMap(Protocol):
    """`wants_fp8`: it multiplies what `RowScaledFp8` holds."""

    wants_fp8: bool

    def __call__(self, x: Activations) -> torch.Tensor:
        """The product, shape [tokens, out]."""

    def add(self, residual: torch.Tensor, x: Activations) -> tuple[torch.Tensor, Pending]:
        """The residual with the product added to it, which may be in place, or both apart where the next step
        adds them cheaper.
        """


class FusedLinear:
    """Plain linear maps of the same input as one; their modules keep their weights as views of it."""

    wants_fp8 = False

    def __init__(self, modules: Sequence[nn.Linear]) -> None:
        self.weight = modules[0].weight.data
        if len(modules) > 1:
            self.weight = torch.cat([module.weight.data for module in modules])
            parts = torch.split(self.weight, [module.out_features for module in modules])
            for module, part in zip(modules, parts, strict=True):
                module.weight.data = part

    def __call__(self, x: Activations) -> torch.Tensor:
        return torch.nn.functional.linear(cast(torch.Tensor, x), self.weight)

    def add(self, residual: torch.Tensor, x: Activations) -> tuple[torch.Tensor, Pending]:
        if torch.compiler.is_compiling():  # which would copy what is overwritten
            return torch.addmm(residual, cast(torch.Tensor, x), self.weight.T), None
        # Into a new tensor cuBLAS would first copy the residual.
        return residual.addmm_(cast(torch.Tensor, x), self.weight.T), None


class FusedFp8Linear:
    """As `FusedLinear`, in fp8 (Hopper and later).

    Its rows have a scale for each block of `BLOCK`, so that kernels may take it once a tile. A scale for each
    row would gain nothing: numbers have an exponent, and keep their precision down to 2^-14 of the largest.

    Attributes:
        blocks: the scales, fp32 [ceil(out / BLOCK)].
    """

    wants_fp8 = True

    def __init__(self, weight: torch.Tensor) -> None:
        self.dtype = weight.dtype
        by_row = weight.float().abs().amax(dim=1).clamp(min=1e-12) / FP8_MAX
        padded = torch.nn.functional.pad(by_row, (0, -len(by_row) % BLOCK))
        self.blocks = padded.view(-1, BLOCK).amax(dim=1)
        scales = self.blocks.repeat_interleave(BLOCK)[: len(by_row)]
        self.weight = (weight.float() / scales[:, None]).to(FP8)
        self.scales = scales[None].contiguous()

    def __call__(self, x: Activations) -> torch.Tensor:
        if not isinstance(x, RowScaledFp8):
            raise TypeError("this product needs activations in fp8 with a scale for each row")
        return torch._scaled_mm(
            x.values,
            self.weight.T,
            scale_a=x.scales,
            scale_b=self.scales,
            out_dtype=self.dtype,
            use_fast_accum=True,
        )

    def add(self, residual: torch.Tensor, x: Activations) -> tuple[torch.Tensor, Pending]:
        return residual, self(x)


class SeparateLinear:
    """The modules as they are: a quantised model's have their own way to multiply."""

    wants_fp8 = False

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = tuple(modules)

    def __call__(self, x: Activations) -> torch.Tensor:
        parts = [module(x) for module in self.modules]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def add(self, residual: torch.Tensor, x: Activations) -> tuple[torch.Tensor, Pending]:
        return residual, self(x)


def matrix(modules: Sequence[nn.Linear], *, fp8: bool = False) -> LinearMap:
    """The maps of one input, side by side."""
    if any(type(module) is not nn.Linear or module.bias is not None for module in modules):
        return SeparateLinear(modules)  # bitsandbytes' are subclasses
    fused = FusedLinear(modules)
    return FusedFp8Linear(fused.weight) if fp8 else fused
