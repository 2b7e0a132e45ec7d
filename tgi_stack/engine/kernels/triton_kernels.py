"""The Triton programs themselves; `triton_launch` launches the small ones, `attention` those of attention.

All arithmetic is in fp32; a value is rounded once, when it is stored.
"""

# Triton reads the functions below as a language of its own: types and names follow its custom.
# mypy: ignore-errors
# ruff: noqa: N803

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def row_of_program():
    """The last row first: what a product wrote last is still in the chip's cache, and the next product begins
    with what is written last here.
    """
    return (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)


@triton.jit
def store_row(out, scales, row, columns, inside, value, WIDTH, FP8_MAX: tl.constexpr, FP8: tl.constexpr):
    """One row in the output's dtype, or in fp8 by the row's own scale."""
    if FP8:
        scale = tl.maximum(tl.max(tl.abs(value)), 1e-12) / FP8_MAX
        tl.store(scales + row, scale)
        value = tl.minimum(tl.maximum(value / scale, -FP8_MAX), FP8_MAX)
    tl.store(out + row * WIDTH + columns, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def add_norm(
    x, pending, weight, out, scales, WIDTH, eps,
    BLOCK: tl.constexpr, ADD: tl.constexpr, FP8_MAX: tl.constexpr, FP8: tl.constexpr,
):  # fmt: skip
    """x += pending (where ADD); out = RMS norm of x. One program a row."""
    row = row_of_program()
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    value = tl.load(x + row * WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(pending + row * WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
        rounded = value.to(x.dtype.element_ty)
        tl.store(x + row * WIDTH + columns, rounded, mask=inside)
        value = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value) / WIDTH + eps)
    value = value * scale * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    store_row(out, scales, row, columns, inside, value, WIDTH, FP8_MAX, FP8)


@triton.jit
def add_layer_norm(
    x, pending, weight, bias, out, WIDTH, eps, BLOCK: tl.constexpr, ADD: tl.constexpr
):  # fmt: skip
    """x += pending (where ADD); out = layer norm of x. One program a row."""
    row = row_of_program()
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    value = tl.load(x + row * WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(pending + row * WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
        rounded = value.to(x.dtype.element_ty)
        tl.store(x + row * WIDTH + columns, rounded, mask=inside)
        value = rounded.to(tl.float32)
    value = tl.where(inside, value - tl.sum(value) / WIDTH, 0.0)
    value *= tl.rsqrt(tl.sum(value * value) / WIDTH + eps)
    value *= tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + columns, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def keep_rows(k, v, keys, values, places, k_row, v_row, WIDTH, BLOCK: tl.constexpr):
    """Copies a row of keys and one of values to its place in the cache. One program a row."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.load(places + row).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    key = tl.load(k + row * k_row + columns, mask=inside)
    value = tl.load(v + row * v_row + columns, mask=inside)
    tl.store(keys + place * WIDTH + columns, key, mask=inside)
    tl.store(values + place * WIDTH + columns, value, mask=inside)


@triton.jit
def forbid(logits, masks, rows, WIDTH, WORDS, ROW, BLOCK: tl.constexpr):
    """Minus infinity for what the bits of a row's mask do not allow, and for all that they do not reach.

    The first axis of the grid goes over `rows`, the second over pieces of their columns.
    """
    row = tl.load(rows + tl.program_id(0)).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    word = tl.load(masks + row * WORDS + columns // 32, mask=columns < 32 * WORDS, other=0)
    denied = ((word >> (columns % 32)) & 1) == 0
    nothing = tl.full([BLOCK], float("-inf"), logits.dtype.element_ty)
    tl.store(logits + row * ROW + columns, nothing, mask=denied & (columns < WIDTH))


@triton.jit
def rotate(
    qkv, q_norm, k_norm, cos, sin, ROW, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Norms (where NORM) and turns the query and key heads of one row in place; values stay as they are."""
    row = row_of_program()
    head = tl.arange(0, BLOCK)[:, None]
    low = tl.arange(0, HALF)[None, :]
    inside = head < HEADS + KV_HEADS
    place = qkv + row * ROW + head * (2 * HALF) + low
    a = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(place + HALF, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        scale = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF) + eps)[:, None]
        query = head < HEADS
        a *= scale * tl.where(query, tl.load(q_norm + low), tl.load(k_norm + low)).to(tl.float32)
        high = HALF + low
        b *= scale * tl.where(query, tl.load(q_norm + high), tl.load(k_norm + high)).to(tl.float32)
    c = tl.load(cos + row * HALF + low)
    s = tl.load(sin + row * HALF + low)
    tl.store(place, (a * c - b * s).to(qkv.dtype.element_ty), mask=inside)
    tl.store(place + HALF, (b * c + a * s).to(qkv.dtype.element_ty), mask=inside)


@triton.jit
def swiglu(
    gate_up, out, scales, WIDTH, BLOCK: tl.constexpr, FP8_MAX: tl.constexpr, FP8: tl.constexpr
):  # fmt: skip
    """out = silu(gate) * up for one row [gate | up]."""
    row = row_of_program()
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    gate = tl.load(gate_up + row * 2 * WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * WIDTH + WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    value = gate / (1.0 + tl.exp(-gate)) * up
    store_row(out, scales, row, columns, inside, value, WIDTH, FP8_MAX, FP8)


@triton.jit
def rows8(x, out, scales, WIDTH, BLOCK: tl.constexpr, FP8_MAX: tl.constexpr, FP8: tl.constexpr):
    """One row in fp8 by its own scale."""
    row = row_of_program()
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    value = tl.load(x + row * WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    store_row(out, scales, row, columns, inside, value, WIDTH, FP8_MAX, FP8)


@triton.jit
def _attend_block(
    q, acc, peak, total, k, v, k_row, v_row, first, end, query, scale,
    SIZE: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """The online softmax over one block of keys."""
    keys = first + tl.arange(0, BLOCK_N)
    d = tl.arange(0, SIZE)
    rows = keys.to(tl.int64)[:, None]
    if MASKED:
        key = tl.load(k + rows * k_row + d[None, :], mask=keys[:, None] < end, other=0.0)
    else:
        key = tl.load(k + rows * k_row + d[None, :])
    scores = tl.dot(q, tl.trans(key)) * scale
    if MASKED:
        seen = keys[None, :] < end
        if CAUSAL:
            seen = seen & (keys[None, :] <= query[:, None])
        scores = tl.where(seen, scores, -1.0e30)
    higher = tl.maximum(peak, tl.max(scores, 1))
    weights = tl.exp2(scores - higher[:, None])
    shrink = tl.exp2(peak - higher)
    total = total * shrink + tl.sum(weights, 1)
    if MASKED:
        value = tl.load(v + rows * v_row + d[None, :], mask=keys[:, None] < end, other=0.0)
    else:
        value = tl.load(v + rows * v_row + d[None, :])
    acc = tl.dot(weights.to(value.dtype), value, acc * shrink[:, None])
    return acc, higher, total


@triton.jit
def attend(
    q, k, v, out, tiles, q_row, k_row, v_row, scale,
    GROUP: tl.constexpr, HEADS: tl.constexpr, SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Attention of a tile of positions to the rows they share with others and to their own segment.

    A tile holds BLOCK_M / GROUP positions, each with all GROUP query heads of one key-value head: they read
    the same keys. A row of `tiles`: first position, end of the segment, its start, prefix start and length.
    """
    tile = tiles + tl.program_id(0) * 5
    first = tl.load(tile)
    end = tl.load(tile + 1)
    start = tl.load(tile + 2)
    prefix = tl.load(tile + 3)
    prefix_end = prefix + tl.load(tile + 4)
    kv_head = tl.program_id(1)
    m = tl.arange(0, BLOCK_M)
    query = first + m // GROUP
    head = kv_head * GROUP + m % GROUP
    d = tl.arange(0, SIZE)
    # A group that does not divide the tile leaves rows over.
    inside = ((query < end) & (m < BLOCK_M // GROUP * GROUP))[:, None]
    queries = tl.load(
        q + query.to(tl.int64)[:, None] * q_row + head[:, None] * SIZE + d[None, :], mask=inside, other=0.0
    )
    k += kv_head * SIZE
    v += kv_head * SIZE
    peak = tl.full([BLOCK_M], -1.0e30, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, SIZE], tl.float32)
    whole = prefix + (prefix_end - prefix) // BLOCK_N * BLOCK_N
    for n in range(prefix, whole, BLOCK_N):
        acc, peak, total = _attend_block(
            queries,
            acc,
            peak,
            total,
            k,
            v,
            k_row,
            v_row,
            n,
            prefix_end,
            query,
            scale,
            SIZE,
            BLOCK_N,
            False,
            False,
        )
    for n in range(whole, prefix_end, BLOCK_N):
        acc, peak, total = _attend_block(
            queries,
            acc,
            peak,
            total,
            k,
            v,
            k_row,
            v_row,
            n,
            prefix_end,
            query,
            scale,
            SIZE,
            BLOCK_N,
            True,
            False,
        )
    last = end
    clear = start + (end - start) // BLOCK_N * BLOCK_N
    if CAUSAL:
        last = tl.minimum(first + BLOCK_M // GROUP, end)
        clear = start + (first - start) // BLOCK_N * BLOCK_N
    for n in range(start, clear, BLOCK_N):
        acc, peak, total = _attend_block(
            queries, acc, peak, total, k, v, k_row, v_row, n, end, query, scale, SIZE, BLOCK_N, False, CAUSAL
        )
    for n in range(clear, last, BLOCK_N):
        acc, peak, total = _attend_block(
            queries, acc, peak, total, k, v, k_row, v_row, n, end, query, scale, SIZE, BLOCK_N, True, CAUSAL
        )
    acc = acc / total[:, None]
    place = query.to(tl.int64)[:, None] * (HEADS * SIZE) + head[:, None] * SIZE + d[None, :]
    tl.store(out + place, acc.to(out.dtype.element_ty), mask=inside)


@triton.jit
def decode(
    q, k, v, out, lengths, q_row, kv_row, slot_row, scale,
    GROUP: tl.constexpr, HEADS: tl.constexpr, SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Attention of one new token of each slot to its rows in the cache; a program a slot and kv head."""
    slot = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    end = tl.load(lengths + slot)
    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, SIZE)
    inside = (m < GROUP)[:, None]
    head = kv_head * GROUP + m
    queries = tl.load(q + slot * q_row + head[:, None] * SIZE + d[None, :], mask=inside, other=0.0)
    k += slot * slot_row + kv_head * SIZE
    v += slot * slot_row + kv_head * SIZE
    peak = tl.full([BLOCK_M], -1.0e30, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, SIZE], tl.float32)
    for n in range(0, end, BLOCK_N):
        acc, peak, total = _attend_block(
            queries, acc, peak, total, k, v, kv_row, kv_row, n, end, m, scale, SIZE, BLOCK_N, True, False
        )
    acc = acc / total[:, None]
    place = slot * (HEADS * SIZE) + head[:, None] * SIZE + d[None, :]
    tl.store(out + place, acc.to(out.dtype.element_ty), mask=inside)
