"""The least time a device can take: its operations over the rate it multiplies large matrices at."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any

import torch

from tgi_stack.bench.timing import synchronise
from tgi_stack.engine.layers.linear import FP8

SIDE = {"cuda": 8192, "cpu": 512}
COPIED = {"cuda": 4 * 2**30, "cpu": 2**28}
PRODUCTS = 10
REPEATS = 5
LASTING = 3.0  # seconds


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of products of large random matrices, the median of several rounds."""
    rounds = _rounds(device, dtype)
    return statistics.median(next(rounds) for _ in range(REPEATS))


def lasting_rate(device: torch.device, dtype: torch.dtype, seconds: float = LASTING) -> float:
    """The same at the end of so much work without a pause, when a device may have lowered its clock to keep
    within its power.
    """
    rounds = _rounds(device, dtype)
    rates = [next(rounds)]
    began = time.perf_counter()
    rates += takewhile(lambda _: time.perf_counter() - began < seconds, rounds)
    return statistics.median(rates[len(rates) // 2 :])


def _rounds(device: torch.device, dtype: torch.dtype) -> Iterator[float]:
    """Rates of one round of products after another."""
    side = SIDE.get(device.type, 1024)
    a, b = (torch.randn(side, side, device=device, dtype=torch.float32) for _ in range(2))
    multiply = _multiply8(a, b) if dtype is FP8 else _multiply(a.to(dtype), b.to(dtype))
    for _ in range(3):
        multiply()
    while True:
        synchronise(device)
        began = time.perf_counter()
        for _ in range(PRODUCTS):
            multiply()
        synchronise(device)
        yield PRODUCTS * 2 * side**3 / (time.perf_counter() - began)


def _multiply(a: torch.Tensor, b: torch.Tensor) -> Callable[[], object]:
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def _multiply8(a: torch.Tensor, b: torch.Tensor) -> Callable[[], object]:
    """With scales by rows, as `layers.linear.FusedFp8Linear` has torch multiply."""
    a8, b8 = a.to(FP8), b.to(FP8)
    ones = torch.ones(len(a), 1, device=a.device)
    scales = {"scale_a": ones, "scale_b": ones.T.contiguous()}
    return lambda: torch._scaled_mm(a8, b8.T, **scales, out_dtype=torch.bfloat16, use_fast_accum=True)


def copy_rate(device: torch.device) -> float:
    """Bytes a second that a large copy reads and writes, the median of several rounds."""
    size = COPIED.get(device.type, COPIED["cpu"])
    a = torch.ones(size, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    b.copy_(a)
    rates = []
    for _ in range(REPEATS):
        synchronise(device)
        began = time.perf_counter()
        b.copy_(a)
        synchronise(device)
        rates.append(2 * size / (time.perf_counter() - began))
    return statistics.median(rates)


def writing_seconds(
    config: Any, slots: int, prompt: int, new_tokens: int, patches: int, rate: float, bandwidth: float
) -> float:
    """The least seconds of one summary: its prompt's operations, then for each new token its share of the
    weights read once for all slots, and its own keys and values.
    """
    text, size = config.text_config, 2  # bytes of a weight in bf16
    operations = text_operations(text, [prompt]) + tower_operations(config.vision_config, patches)
    width = text.num_key_value_heads * text.head_dim
    row = text.hidden_size * text.head_dim * 2 * (text.num_attention_heads + text.num_key_value_heads)
    row += 3 * text.hidden_size * text.intermediate_size
    weights = size * (text.num_hidden_layers * row + text.vocab_size * text.hidden_size)
    keys = size * 2 * text.num_hidden_layers * width * (prompt + new_tokens / 2)
    return float(operations / rate + new_tokens * (weights / slots + keys) / bandwidth)


def text_operations(config: Any, lengths: Sequence[int]) -> float:
    """Multiplications and additions of the body over prompts, and of the head at their last places."""
    hidden, size = config.hidden_size, config.head_dim
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    row = hidden * size * (2 * heads + 2 * kv_heads) + 3 * hidden * config.intermediate_size
    total = 0.0
    for length in lengths:
        attention = 2 * heads * size * length * (length + 1) / 2
        total += config.num_hidden_layers * (row * length + attention) + hidden * config.vocab_size
    return 2 * total


def tower_operations(config: Any, patches: int) -> float:
    """The same for one image of that many patches through a vision tower and its mergers."""
    hidden, merged = config.hidden_size, config.hidden_size * config.spatial_merge_size**2
    row = 4 * hidden**2 + 2 * hidden * config.intermediate_size
    layers = config.depth * (row * patches + 2 * hidden * patches**2)
    embedded = config.in_channels * config.temporal_patch_size * config.patch_size**2 * hidden * patches
    mergers = 1 + len(config.deepstack_visual_indexes)
    tokens = patches / config.spatial_merge_size**2
    merging = mergers * tokens * merged * (merged + config.out_hidden_size)
    return float(2 * (layers + embedded + merging))
