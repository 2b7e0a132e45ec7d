"""Tries the Triton kernels against plain torch on this very device, before answers depend on them."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from tgi_stack.engine import attention, kernels
from tgi_stack.engine.ops import Ops, TritonOps

ROWS = 200
# Rounding to bf16 is 2^-8 of a value; values here are of the order of one.
TOLERANCE = 0.06


def trial(device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int], hidden: int) -> str | None:
    """What is wrong with the kernels here, or None.

    Args:
        shape: heads, key-value heads, head_dim.
    """
    try:
        with torch.inference_mode():
            return _differences(device, dtype, shape, hidden)
    except Exception as error:  # noqa: BLE001  # a compiler can fail in any way, and torch computes as well
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def _differences(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int], hidden: int
) -> str | None:
    heads, kv_heads, size = shape
    generator = torch.Generator(device).manual_seed(0)

    def draw(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=generator, device=device).to(dtype)

    plain, fast = Ops(), TritonOps()
    x, pending, weight = draw(ROWS, hidden), draw(ROWS, hidden), draw(hidden)
    qkv, norms = draw(ROWS, (heads + 2 * kv_heads) * size), draw(2, size)
    angles = torch.rand(ROWS, size // 2, generator=generator, device=device)
    tables = (angles.cos(), angles.sin())
    pairs = {
        "add_norm": [
            cast(torch.Tensor, o.add_norm(x.clone(), pending, weight, 1e-6)[1]) for o in (plain, fast)
        ],
        "swiglu": [cast(torch.Tensor, ops.swiglu(x)) for ops in (plain, fast)],
    }
    turned = [ops.rotate(qkv.clone(), norms[0], norms[1], tables, shape, 1e-6) for ops in (plain, fast)]
    pairs["rotate"] = [torch.cat([part.flatten(1) for part in parts], dim=1) for parts in turned]
    starts, lengths = np.array([0, 40, 137], dtype=np.int32), np.array([40, 97, 63], dtype=np.int32)
    prefixes = (np.array([0, 0, 0], dtype=np.int32), np.array([0, 40, 40], dtype=np.int32))
    parts = [
        attention.segments(starts, lengths, prefixes, device, group=group)
        for group in (None, heads // kv_heads)
    ]
    pairs["attend"] = [attention.by_sdpa(*turned[0], parts[0]), attention.by_triton(*turned[0], parts[1])]
    for name, (one, other) in pairs.items():
        difference = float((one.float() - other.float()).abs().max())
        # Written so that NaN is refused too.
        if not difference <= TOLERANCE * max(1.0, float(one.float().abs().max())):
            return f"{name} differs from torch by {difference:.2g}"
    return None


def refuse() -> None:
    """Has everything computed without the kernels."""
    kernels.AVAILABLE = False
