"""The Gluon programs against torch, on a Hopper GPU and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tgi_stack.bench import workload
from tgi_stack.engine.kernels import hopper_launch
from tgi_stack.engine.kernels.kernel_check import trial_on_hopper
from tgi_stack.engine.layers import attention
from tgi_stack.engine.layers.linear import BLOCK, FP8, BlockScaledFp8, FusedFp8Linear
from tgi_stack.engine.layers.ops import HopperOps, Ops
from tgi_stack.engine.models.network import Network
from tgi_stack.engine.models.shapes import random_model
from tgi_stack.engine.placement import Placement
from tgi_stack.engine.runtime import ops_for
from tgi_stack.engine.scorer import Options, Scorer

DEVICE = torch.device("cuda:0")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() != hopper_launch.CAPABILITY,
        reason="no Hopper GPU here",
    ),
]
SHAPES = [(16, 8, 128), (32, 8, 128), (16, 16, 64), (14, 2, 64)]


def draw(*sizes: int) -> torch.Tensor:
    return torch.randn(sizes, device=DEVICE).to(torch.bfloat16)


def off(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The norm of the difference over the norm; NaN where anything is."""
    return float((found.float() - exact).norm() / exact.norm())


def test_a_hopper_gpu_gets_its_kernels() -> None:
    assert isinstance(ops_for(DEVICE), HopperOps)
    assert attention.choose(DEVICE, torch.bfloat16, 128)[0] == "hopper"
    assert attention.choose(DEVICE, torch.float16, 128)[0] == "triton"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("fp8", [False, True])
def test_the_trial_finds_no_fault(shape: tuple[int, int, int], fp8: bool) -> None:
    assert trial_on_hopper(DEVICE, shape, 1024, fp8=fp8) is None


@pytest.mark.parametrize("rows", [1, 130, 4_225])
@pytest.mark.parametrize(("inner", "outer"), [(1024, 3072), (2560, 1000), (96, 200)])
def test_products_are_those_of_torch(rows: int, inner: int, outer: int) -> None:
    x, weight = draw(rows, inner), draw(2 * outer, inner) / inner**0.5
    gate, up = (x.float() @ weight.float().T).chunk(2, dim=1)
    assert off(hopper_launch.gated(x, weight), torch.nn.functional.silu(gate) * up) < 5e-3


def values_of(x: BlockScaledFp8) -> torch.Tensor:
    blocks = x.values.float().view(len(x.values), -1, BLOCK) * x.scales.T[:, :, None]
    return blocks.flatten(1)


@pytest.mark.parametrize("rows", [1, 130, 4_225])
@pytest.mark.parametrize(("inner", "outer"), [(1024, 3072), (2560, 1024), (96, 256)])
def test_products_in_fp8_are_those_of_torch(rows: int, inner: int, outer: int) -> None:
    x, matrix = Ops().rows8(draw(rows, inner)), FusedFp8Linear(draw(2 * outer, inner) / inner**0.5)
    exact = (x.values.float() * x.scales) @ (matrix.weight.float() * matrix.scales.T).T
    gate, up = exact.chunk(2, dim=1)
    found = values_of(hopper_launch.gated8(x, matrix.weight, matrix.blocks))
    assert off(found, torch.nn.functional.silu(gate) * up) < 3e-2  # e4m3 rounds to 2^-4 of a value


@pytest.mark.parametrize("rows", [1, 130, 4_225])
@pytest.mark.parametrize(("inner", "outer"), [(3072, 1024), (256, 136), (2048, 2560)])
def test_products_are_added_to_the_residual(rows: int, inner: int, outer: int) -> None:
    x = BlockScaledFp8(draw(rows, inner).to(FP8), draw(inner // BLOCK, rows).abs().float())
    matrix, residual = FusedFp8Linear(draw(outer, inner) / inner**0.5), draw(rows, outer)
    exact = residual.float() + values_of(x) @ (matrix.weight.float() * matrix.scales.T).T
    hopper_launch.add_product8(residual, x, matrix.weight, matrix.blocks)
    assert off(residual, exact) < 5e-3


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention_is_that_of_torch(shape: tuple[int, int, int], causal: bool) -> None:
    heads, kv_heads, size = shape
    lengths = np.array([40, 97, 63, 1, 500, 1301, 64, 128], dtype=np.int32)
    starts = (np.cumsum(lengths) - lengths).astype(np.int32)
    prefixes = np.zeros_like(starts), np.where(np.arange(len(starts)) % 2, 137 * causal, 0).astype(np.int32)
    prefixes[1][1] = 40 * causal
    rows = draw(int(lengths.sum()), heads + 2 * kv_heads, size)
    q, k, v = torch.split(rows, [heads, kv_heads, kv_heads], dim=1)
    tile = attention.tile_positions("hopper", heads // kv_heads)
    plain, tiled = (
        attention.segments(starts, lengths, prefixes, DEVICE, tile=one, causal=causal) for one in (None, tile)
    )
    exact = attention.by_sdpa(q, k, v, plain).float()
    assert off(attention.by_hopper(q, k, v, tiled), exact) < 5e-3
    if size == BLOCK:
        assert off(values_of(attention.by_hopper8(q, k, v, tiled)), exact) < 3e-2


@pytest.mark.parametrize("fp8", [False, True])
def test_recorded_packs_give_what_others_give(fp8: bool) -> None:
    model = random_model("qwen3-0.6b", Placement(DEVICE, torch.bfloat16))
    network = Network(model, ops_for(DEVICE), fp8=fp8)
    requests = workload.prompts(40, 20, 700, vocabulary=1000, labels=5)
    recorded, pieces = (Scorer(network, Options(2_048, replay=replay)) for replay in (True, False))
    for one, other in zip(recorded.score(requests), pieces.score(requests), strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=0.2 if fp8 else 0.02)
    assert recorded.replay is not None
    assert recorded.replay.is_recorded
    assert pieces.replay is None


def test_rows_that_no_segment_covers_are_not_seen() -> None:
    rows = draw(300, 32, 128)
    rows[200:] = torch.nan
    q, k, v = torch.split(rows, [16, 8, 8], dim=1)
    lengths = np.array([150, 50], dtype=np.int32)
    starts = np.array([0, 150], dtype=np.int32)
    parts = attention.segments(starts, lengths, None, DEVICE, tile=hopper_launch.positions(2))
    assert attention.by_hopper(q, k, v, parts)[:200].isfinite().all()
