"""The Gluon programs for Hopper; `hopper_launch` launches them.

A program holds one processor of the chip to its end. One warp copies tiles into shared memory, which two
groups of four warps multiply: a ring of buffers with a barrier for "filled" and one for "read" each. What
Triton does by itself for a loop, Gluon leaves to be written, and so copies for the next tile go on while the
last one is put in order and stored.
"""

# Gluon reads the functions below as a language of its own: types and names follow its custom.
# mypy: ignore-errors
# ruff: noqa: N803, N806, RUF005, SIM113

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)


@gluon.jit
def barriers(COUNT: gl.constexpr, READERS: gl.constexpr):
    """For a ring of buffers: who fills one says so on the first, who has read it on the second."""
    ready = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(COUNT):
        mbarrier.init(ready.index(i), count=1)
        mbarrier.init(empty.index(i), count=READERS)
    return ready, empty


@gluon.jit
def buffer_of(bufs, ready, entry):
    """The ring's buffer of that entry, once it is filled."""
    STAGES: gl.constexpr = bufs.shape[0]
    mbarrier.wait(ready.index(entry % STAGES), entry // STAGES & 1)
    return bufs.index(entry % STAGES)


# Products with what follows them -------------------------------------------------------------------------


@gluon.jit
def place(tile, ROWS, COLUMNS, GROUP: gl.constexpr):
    """Row and column of a tile: GROUP rows of tiles go column by column, so that what is read stays near."""
    width = GROUP * COLUMNS
    first = tile // width * GROUP
    size = gl.minimum(ROWS - first, GROUP)
    return first + tile % width % size, tile % width // size


@gluon.jit
def rings(a, b, STAGES: gl.constexpr):
    """Buffers for tiles of a, and for two parts of b each, and their barriers: see `load_tiles`."""
    COLUMNS: gl.constexpr = 2 * b.block_type.shape[0]
    a_bufs = gl.allocate_shared_memory(a.dtype, [STAGES] + a.block_type.shape, a.layout)
    b_bufs = gl.allocate_shared_memory(b.dtype, [STAGES, COLUMNS, b.block_type.shape[1]], b.layout)
    ready, empty = barriers(STAGES, 2)
    return a_bufs, b_bufs, ready, empty


@gluon.jit
def load_tiles(
    a, b, a_bufs, b_bufs, ready, empty, step, apart, row_tiles, column_tiles, k_tiles, GROUP: gl.constexpr
):  # fmt: skip
    """Fills the ring with what the tiles of this program need, in their order.

    A tile's columns are two parts of b: rows from `step` times the tile's place, and those `apart` from them.
    """
    STAGES: gl.constexpr = a_bufs.shape[0]
    BLOCK_M: gl.constexpr = a.block_type.shape[0]
    BLOCK_K: gl.constexpr = a.block_type.shape[1]
    HALF: gl.constexpr = b.block_type.shape[0]
    entry = 0
    for tile in range(gl.program_id(0), row_tiles * column_tiles, gl.num_programs(0)):
        row, column = place(tile, row_tiles, column_tiles, GROUP)
        for k in range(k_tiles):
            stage = entry % STAGES
            mbarrier.wait(empty.index(stage), (entry // STAGES & 1) ^ 1)
            filled = ready.index(stage)
            mbarrier.expect(filled, a.block_type.nbytes + 2 * b.block_type.nbytes)
            tma.async_copy_global_to_shared(a, [row * BLOCK_M, k * BLOCK_K], filled, a_bufs.index(stage))
            buffer = b_bufs.index(stage)
            first = column * step
            tma.async_copy_global_to_shared(b, [first, k * BLOCK_K], filled, buffer.slice(0, HALF))
            tma.async_copy_global_to_shared(b, [first + apart, k * BLOCK_K], filled, buffer.slice(HALF, HALF))
            entry += 1


@gluon.jit
def multiplied(
    acc, a_bufs, b_bufs, ready, empty, entry, k_tiles, WHICH: gl.constexpr, ROWS: gl.constexpr
):  # fmt: skip
    """The accumulator with the products of one tile, for this group's rows of it."""
    STAGES: gl.constexpr = a_bufs.shape[0]
    for k in range(k_tiles):
        a = buffer_of(a_bufs, ready, entry).slice(WHICH * ROWS, ROWS)
        acc = warpgroup_mma(a, b_bufs.index(entry % STAGES).permute((1, 0)), acc, is_async=True)
        # The product before is done; this one still reads.
        acc = warpgroup_mma_wait(1, deps=(acc,))
        mbarrier.arrive(empty.index((entry + STAGES - 1) % STAGES), count=1, pred=k > 0)
        entry += 1
    acc = warpgroup_mma_wait(0, deps=(acc,))
    mbarrier.arrive(empty.index((entry + STAGES - 1) % STAGES), count=1)
    return acc, entry


@gluon.jit
def gate_and_up(acc):
    """The two halves of a tile's columns, in the same registers."""
    return acc.reshape([acc.shape[0], 2, acc.shape[1] // 2]).permute(0, 2, 1).split()


@gluon.jit
def send(value, staged, out, row, column):
    """Stores a tile by way of shared memory, beside what follows."""
    tma.store_wait(0)  # of the tile before
    staged.store(value)
    fence_async_shared()
    tma.async_copy_shared_to_global(out, [row, column], staged)


@gluon.jit
def gate_tiles(
    a_bufs, b_bufs, out_bufs, ready, empty, out, row_tiles, column_tiles, k_tiles,
    WHICH: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """One of the two groups of warps: silu(gate) * up of its half of the rows of each tile."""
    BLOCK_N: gl.constexpr = b_bufs.shape[1]
    ROWS: gl.constexpr = a_bufs.shape[1] // 2
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    staged = out_bufs.index(WHICH)
    entry = 0
    for tile in range(gl.program_id(0), row_tiles * column_tiles, gl.num_programs(0)):
        acc = gl.zeros([ROWS, BLOCK_N], gl.float32, layout)
        acc, entry = multiplied(acc, a_bufs, b_bufs, ready, empty, entry, k_tiles, WHICH, ROWS)
        row, column = place(tile, row_tiles, column_tiles, GROUP)
        gate, up = gate_and_up(acc)
        value = (gate / (1.0 + gl.exp(-gate)) * up).to(out.dtype)
        send(value, staged, out, row * 2 * ROWS + WHICH * ROWS, column * (BLOCK_N // 2))
    tma.store_wait(0)


# Numbers that change from pack to pack would each time be compiled for anew, as multiples of 16 or not.
@gluon.jit(do_not_specialize=["row_tiles"])
def gated(
    a, b, out, width, row_tiles, column_tiles, k_tiles, GROUP: gl.constexpr, STAGES: gl.constexpr
):  # fmt: skip
    """silu(a @ gate.T) * (a @ up.T) for b = [gate; up], each of `width` rows.

    A tile multiplies by as many rows of the one as of the other, so that both are in the same registers.
    """
    HALF: gl.constexpr = b.block_type.shape[0]
    a_bufs, b_bufs, ready, empty = rings(a, b, STAGES)
    out_bufs = gl.allocate_shared_memory(out.dtype, [2] + out.block_type.shape, out.layout)
    gl.warp_specialize([
        (gate_tiles, (a_bufs, b_bufs, out_bufs, ready, empty, out, row_tiles, column_tiles, k_tiles,
                      0, GROUP)),
        (gate_tiles, (a_bufs, b_bufs, out_bufs, ready, empty, out, row_tiles, column_tiles, k_tiles,
                      1, GROUP)),
        (load_tiles, (a, b, a_bufs, b_bufs, ready, empty, HALF, width, row_tiles, column_tiles, k_tiles,
                      GROUP)),
    ], [4, 1], [240, 24])  # fmt: skip


# The same in fp8 -----------------------------------------------------------------------------------------


@gluon.jit
def rounded8(value):
    """Rows in fp8, each by a scale of its own, and the scales."""
    scale = gl.maximum(gl.max(gl.abs(value), 1), 1.0e-12) / 448.0  # the largest number of e4m3
    return (value / scale[:, None]).to(gl.float8e4nv), scale


@gluon.jit
def gate_tiles8(
    a_bufs, b_bufs, out_bufs, ready, empty, out, out_scales, a_scales, b_scales,
    rows, row_tiles, column_tiles, k_tiles, WHICH: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """As `gate_tiles`; what a row has in the columns of a tile is rounded by one scale."""
    BLOCK_N: gl.constexpr = b_bufs.shape[1]
    ROWS: gl.constexpr = a_bufs.shape[1] // 2
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 32])
    staged = out_bufs.index(WHICH)
    entry = 0
    for tile in range(gl.program_id(0), row_tiles * column_tiles, gl.num_programs(0)):
        row, column = place(tile, row_tiles, column_tiles, GROUP)
        first = row * 2 * ROWS + WHICH * ROWS
        each = first + gl.arange(0, ROWS, gl.SliceLayout(1, layout))
        a_scale = gl.load(a_scales + each, mask=each < rows, other=0.0)
        gate_scale = gl.load(b_scales + column)
        up_scale = gl.load(b_scales + column_tiles + column)
        acc = gl.zeros([ROWS, BLOCK_N], gl.float32, layout)
        acc, entry = multiplied(acc, a_bufs, b_bufs, ready, empty, entry, k_tiles, WHICH, ROWS)
        gate, up = gate_and_up(acc)
        of_row = gl.convert_layout(a_scale, gl.SliceLayout(1, gate.type.layout))
        gate = gate * (of_row * gate_scale)[:, None]
        up = up * (of_row * up_scale)[:, None]
        value, scale = rounded8(gate / (1.0 + gl.exp(-gate)) * up)
        send(value, staged, out, first, column * (BLOCK_N // 2))
        scale = gl.convert_layout(scale, gl.SliceLayout(1, layout))
        gl.store(out_scales + column * rows + each, scale, mask=each < rows)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["rows", "row_tiles"])
def gated8(
    a, b, out, out_scales, a_scales, b_scales, width, rows, row_tiles, column_tiles, k_tiles,
    GROUP: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """`gated` of fp8; b has a scale for each block of as many rows as a tile takes."""
    HALF: gl.constexpr = b.block_type.shape[0]
    a_bufs, b_bufs, ready, empty = rings(a, b, STAGES)
    out_bufs = gl.allocate_shared_memory(out.dtype, [2] + out.block_type.shape, out.layout)
    gl.warp_specialize([
        (gate_tiles8, (a_bufs, b_bufs, out_bufs, ready, empty, out, out_scales, a_scales, b_scales,
                       rows, row_tiles, column_tiles, k_tiles, 0, GROUP)),
        (gate_tiles8, (a_bufs, b_bufs, out_bufs, ready, empty, out, out_scales, a_scales, b_scales,
                       rows, row_tiles, column_tiles, k_tiles, 1, GROUP)),
        (load_tiles, (a, b, a_bufs, b_bufs, ready, empty, HALF, width, row_tiles, column_tiles, k_tiles,
                      GROUP)),
    ], [4, 1], [240, 24])  # fmt: skip


@gluon.jit
def add_scaled(acc, a, b, scale):
    """acc plus one block's product by its rows' scale."""
    part = warpgroup_mma(a, b.permute((1, 0)), gl.zeros_like(acc), use_acc=False, is_async=True)
    part = warpgroup_mma_wait(0, deps=(part,))
    return acc + part * scale[:, None]


@gluon.jit
def add_stored(out, acc, scale, first, column, rows, width):
    """Adds a part of a tile, times its scale, to the matrix in memory."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    down = first + gl.arange(0, acc.shape[0], gl.SliceLayout(1, layout))
    across = column + gl.arange(0, acc.shape[1], gl.SliceLayout(0, layout))
    places = out + down.to(gl.int64)[:, None] * width + across[None, :]
    inside = (down < rows)[:, None] & (across < width)[None, :]
    before = gl.convert_layout(gl.load(places, mask=inside, other=0.0), acc.type.layout)
    after = (acc * scale + before.to(gl.float32)).to(out.dtype.element_ty)
    gl.store(places, gl.convert_layout(after, layout), mask=inside)


@gluon.jit
def add_tiles8(
    a_bufs, b_bufs, ready, empty, out, a_scales, b_scales, width, rows, row_tiles, column_tiles, k_tiles,
    WHICH: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """One of the two groups of warps: its half of the rows of each tile; blocks of the inner width add up.

    The columns are two parts, as the product of a block and the sum so far both need registers.
    """
    STAGES: gl.constexpr = a_bufs.shape[0]
    HALF: gl.constexpr = b_bufs.shape[1] // 2
    ROWS: gl.constexpr = a_bufs.shape[1] // 2
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HALF, 32])
    entry = 0
    for tile in range(gl.program_id(0), row_tiles * column_tiles, gl.num_programs(0)):
        row, column = place(tile, row_tiles, column_tiles, GROUP)
        first = row * 2 * ROWS + WHICH * ROWS
        each = first + gl.arange(0, ROWS, gl.SliceLayout(1, layout))
        scale = gl.load(a_scales + each, mask=each < rows, other=0.0)
        left = gl.zeros([ROWS, HALF], gl.float32, layout)
        right = gl.zeros([ROWS, HALF], gl.float32, layout)
        for k in range(k_tiles):
            # Asked for a block ahead: the products take as long as it does to come.
            following = gl.load(
                a_scales + (k + 1) * rows + each, mask=(each < rows) & (k + 1 < k_tiles), other=0.0
            )
            a = buffer_of(a_bufs, ready, entry).slice(WHICH * ROWS, ROWS)
            b = b_bufs.index(entry % STAGES)
            left = add_scaled(left, a, b.slice(0, HALF), scale)
            right = add_scaled(right, a, b.slice(HALF, HALF), scale)
            mbarrier.arrive(empty.index(entry % STAGES), count=1)
            scale = following
            entry += 1
        blocks = b_scales + 2 * column
        add_stored(out, left, gl.load(blocks), first, 2 * column * HALF, rows, width)
        more = (2 * column + 1) * HALF < width
        add_stored(out, right, gl.load(blocks + 1, mask=more), first, (2 * column + 1) * HALF, rows, width)


@gluon.jit(do_not_specialize=["rows", "row_tiles"])
def add_product8(
    a, b, out, a_scales, b_scales, width, rows, row_tiles, column_tiles, k_tiles,
    GROUP: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """out += a @ b.T in place; a has a scale for each row and block of the inner width, b for each block of
    as many rows as a tile takes.
    """
    HALF: gl.constexpr = b.block_type.shape[0]
    a_bufs, b_bufs, ready, empty = rings(a, b, STAGES)
    gl.warp_specialize([
        (add_tiles8, (a_bufs, b_bufs, ready, empty, out, a_scales, b_scales, width, rows, row_tiles,
                      column_tiles, k_tiles, 0, GROUP)),
        (add_tiles8, (a_bufs, b_bufs, ready, empty, out, a_scales, b_scales, width, rows, row_tiles,
                      column_tiles, k_tiles, 1, GROUP)),
        (load_tiles, (a, b, a_bufs, b_bufs, ready, empty, 2 * HALF, HALF, row_tiles, column_tiles, k_tiles,
                      GROUP)),
    ], [4, 1], [240, 24])  # fmt: skip


# Attention -----------------------------------------------------------------------------------------------


@gluon.jit
def tile_of(tiles, item, PAIRS: gl.constexpr):
    """First position, end and start of the segment, start and end of its prefix: see `attention.Segments`."""
    tile = tiles + (1 + item // PAIRS) * 5
    prefix = gl.load(tile + 3)
    return gl.load(tile), gl.load(tile + 1), gl.load(tile + 2), prefix, prefix + gl.load(tile + 4)


@gluon.jit
def blocks_of(
    first, end, start, prefix, prefix_end,
    POSITIONS: gl.constexpr, BLOCK_N: gl.constexpr, CAUSAL: gl.constexpr,
):  # fmt: skip
    """How many blocks of keys a tile sees in the prefix, and in all."""
    last = end
    if CAUSAL:
        last = gl.minimum(first + POSITIONS, end)
    before = (prefix_end - prefix + BLOCK_N - 1) // BLOCK_N
    return before, before + (last - start + BLOCK_N - 1) // BLOCK_N


@gluon.jit
def load_heads(
    q, k, v, q_bufs, kv_bufs, q_ready, q_empty, kv_ready, kv_empty, tiles,
    GROUP: gl.constexpr, PAIRS: gl.constexpr, CAUSAL: gl.constexpr,
):  # fmt: skip
    """Copies, for each item of this program, two tiles of queries, and keys and values block by block."""
    ROWS: gl.constexpr = q.block_type.shape[0]
    SIZE: gl.constexpr = q.block_type.shape[1]
    BLOCK_N: gl.constexpr = k.block_type.shape[0]
    STAGES: gl.constexpr = kv_bufs.shape[0]
    EVEN: gl.constexpr = GROUP % 2 == 0
    turn = 0
    entry = 0
    for item in range(gl.program_id(0), gl.load(tiles) * PAIRS, gl.num_programs(0)):
        first, end, start, prefix, prefix_end = tile_of(tiles, item, PAIRS)
        before, blocks = blocks_of(
            first, end, start, prefix, prefix_end, ROWS if EVEN else 2 * ROWS, BLOCK_N, CAUSAL
        )
        head = item % PAIRS * (2 if EVEN else 1)
        slot = turn % 2
        mbarrier.wait(q_empty.index(slot), (turn // 2 & 1) ^ 1)
        filled = q_ready.index(slot)
        mbarrier.expect(filled, 2 * q.block_type.nbytes)
        tma.async_copy_global_to_shared(q, [first, head * SIZE], filled, q_bufs.index(2 * slot))
        if EVEN:
            tma.async_copy_global_to_shared(q, [first, (head + 1) * SIZE], filled, q_bufs.index(2 * slot + 1))
        else:
            tma.async_copy_global_to_shared(
                q, [first + ROWS, head * SIZE], filled, q_bufs.index(2 * slot + 1)
            )
        turn += 1
        column = head // GROUP * SIZE
        for block in range(blocks):
            row = gl.where(block < before, prefix + block * BLOCK_N, start + (block - before) * BLOCK_N)
            stage = entry % STAGES
            mbarrier.wait(kv_empty.index(stage), (entry // STAGES & 1) ^ 1)
            mbarrier.expect(kv_ready.index(stage), k.block_type.nbytes)
            tma.async_copy_global_to_shared(k, [row, column], kv_ready.index(stage), kv_bufs.index(stage))
            entry += 1
            stage = entry % STAGES
            mbarrier.wait(kv_empty.index(stage), (entry // STAGES & 1) ^ 1)
            mbarrier.expect(kv_ready.index(stage), v.block_type.nbytes)
            tma.async_copy_global_to_shared(v, [row, column], kv_ready.index(stage), kv_bufs.index(stage))
            entry += 1


@gluon.jit
def masked(scores, query, block, before, first, end, start, prefix, prefix_end, CAUSAL: gl.constexpr):
    """The scores with those out of sight at nothing; whole blocks in sight are left as they are."""
    BLOCK_N: gl.constexpr = scores.shape[1]
    columns = gl.arange(0, BLOCK_N, gl.SliceLayout(0, scores.type.layout))
    if block < before:
        row = prefix + block * BLOCK_N
        clear = row + BLOCK_N <= prefix_end
        most = gl.zeros_like(query) + prefix_end - 1
    else:
        row = start + (block - before) * BLOCK_N
        if CAUSAL:
            clear = row + BLOCK_N <= first + 1
            most = query
        else:
            clear = row + BLOCK_N <= end
            most = gl.zeros_like(query) + end - 1
    if not clear:
        scores = gl.where((row + columns)[None, :] <= most[:, None], scores, -1.0e30)
    return scores


@gluon.jit
def softened(scores, peak, total, scale):
    """A step of the online softmax: weights, the new peak and total, and what sums so far shrink by."""
    higher = gl.maximum(peak, gl.max(scores, 1) * scale)
    weights = gl.exp2(scores * scale - higher[:, None])
    shrink = gl.exp2(peak - higher)
    return weights, higher, total * shrink + gl.sum(weights, 1), shrink


@gluon.jit
def store_rows(acc, out, out_scales, tokens, first, end, head, HEADS: gl.constexpr, FP8: gl.constexpr):
    """Stores the rows of a tile before `end`."""
    SIZE: gl.constexpr = acc.shape[1]
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    rows = first + gl.arange(0, acc.shape[0], gl.SliceLayout(1, layout))
    d = gl.arange(0, SIZE, gl.SliceLayout(0, layout))
    places = rows.to(gl.int64)[:, None] * (HEADS * SIZE) + head * SIZE + d[None, :]
    if FP8:
        value, of_row = rounded8(acc)
        of_row = gl.convert_layout(of_row, gl.SliceLayout(1, layout))
        gl.store(out_scales + head * tokens + rows, of_row, mask=rows < end)
    else:
        value = acc.to(out.dtype.element_ty)
    gl.store(out + places, gl.convert_layout(value, layout), mask=(rows < end)[:, None])


@gluon.jit
def attend_items(
    q_bufs, kv_bufs, q_ready, q_empty, kv_ready, kv_empty, tiles, out, out_scales, tokens, scale,
    WHICH: gl.constexpr, GROUP: gl.constexpr, HEADS: gl.constexpr, CAUSAL: gl.constexpr, FP8: gl.constexpr,
):  # fmt: skip
    """One of the two groups of warps: its tile of queries of each item, by the online softmax.

    The product of a block's weights and values goes on while the next block's weights are worked out.
    """
    ROWS: gl.constexpr = q_bufs.shape[1]
    SIZE: gl.constexpr = q_bufs.shape[2]
    BLOCK_N: gl.constexpr = kv_bufs.shape[1]
    STAGES: gl.constexpr = kv_bufs.shape[0]
    EVEN: gl.constexpr = GROUP % 2 == 0
    PAIRS: gl.constexpr = HEADS // 2 if EVEN else HEADS
    scores_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, SIZE, 16])
    of_weights: gl.constexpr = gl.DotOperandLayout(0, layout, 2)
    turn = 0
    entry = 0
    for item in range(gl.program_id(0), gl.load(tiles) * PAIRS, gl.num_programs(0)):
        first, end, start, prefix, prefix_end = tile_of(tiles, item, PAIRS)
        before, blocks = blocks_of(
            first, end, start, prefix, prefix_end, ROWS if EVEN else 2 * ROWS, BLOCK_N, CAUSAL
        )
        head = item % PAIRS
        if EVEN:
            head = head * 2 + WHICH
        else:
            first += WHICH * ROWS
        query = first + gl.arange(0, ROWS, gl.SliceLayout(1, scores_layout))
        peak = gl.full([ROWS], -1.0e30, gl.float32, gl.SliceLayout(1, scores_layout))
        total = gl.full([ROWS], 0.0, gl.float32, gl.SliceLayout(1, scores_layout))
        acc = gl.zeros([ROWS, SIZE], gl.float32, layout)
        nothing = gl.zeros([ROWS, BLOCK_N], gl.float32, scores_layout)
        slot = turn % 2
        queries = q_bufs.index(2 * slot + WHICH)
        mbarrier.wait(q_ready.index(slot), turn // 2 & 1)
        keys = buffer_of(kv_bufs, kv_ready, entry).permute((1, 0))
        scores = warpgroup_mma(queries, keys, nothing, use_acc=False, is_async=True)
        scores = warpgroup_mma_wait(0, deps=(scores,))
        mbarrier.arrive(kv_empty.index(entry % STAGES), count=1)
        scores = masked(scores, query, 0, before, first, end, start, prefix, prefix_end, CAUSAL)
        weights, peak, total, shrink = softened(scores, peak, total, scale)
        rounded = gl.convert_layout(weights.to(kv_bufs.dtype), of_weights)
        for block in range(1, blocks):
            keys = buffer_of(kv_bufs, kv_ready, entry + 2).permute((1, 0))
            scores = warpgroup_mma(queries, keys, nothing, use_acc=False, is_async=True)
            values = buffer_of(kv_bufs, kv_ready, entry + 1)
            acc = warpgroup_mma(rounded, values, acc, is_async=True)
            scores = warpgroup_mma_wait(1, deps=(scores,))
            mbarrier.arrive(kv_empty.index((entry + 2) % STAGES), count=1)
            scores = masked(scores, query, block, before, first, end, start, prefix, prefix_end, CAUSAL)
            weights, peak, total, shrink = softened(scores, peak, total, scale)
            acc, rounded = warpgroup_mma_wait(0, deps=(acc, rounded))
            mbarrier.arrive(kv_empty.index((entry + 1) % STAGES), count=1)
            acc = acc * gl.convert_layout(shrink, gl.SliceLayout(1, layout))[:, None]
            rounded = gl.convert_layout(weights.to(kv_bufs.dtype), of_weights)
            entry += 2
        mbarrier.arrive(q_empty.index(slot), count=1)
        turn += 1
        acc = warpgroup_mma(rounded, buffer_of(kv_bufs, kv_ready, entry + 1), acc, is_async=True)
        acc = warpgroup_mma_wait(0, deps=(acc,))
        mbarrier.arrive(kv_empty.index((entry + 1) % STAGES), count=1)
        entry += 2
        acc = acc * gl.convert_layout(1.0 / total, gl.SliceLayout(1, layout))[:, None]
        store_rows(acc, out, out_scales, tokens, first, end, head, HEADS, FP8)


@gluon.jit(do_not_specialize=["tokens"])
def attend(
    q, k, v, out, out_scales, tokens, tiles, scale,
    GROUP: gl.constexpr, HEADS: gl.constexpr, CAUSAL: gl.constexpr, STAGES: gl.constexpr, FP8: gl.constexpr,
):  # fmt: skip
    """Attention of tiles of positions to the rows they share with others and to their own segment.

    An item is a tile for two query heads of one key-value head, or, where their number is odd, twice as many
    positions for one head: two tiles of queries that read the same keys. Rows of keys and values behind a
    segment are read too and weigh nothing, so that they have to be finite. In fp8 each head of a row has a
    scale, [heads, tokens].
    """
    PAIRS: gl.constexpr = HEADS // 2 if GROUP % 2 == 0 else HEADS
    q_bufs = gl.allocate_shared_memory(q.dtype, [4] + q.block_type.shape, q.layout)
    kv_bufs = gl.allocate_shared_memory(k.dtype, [STAGES] + k.block_type.shape, k.layout)
    q_ready, q_empty = barriers(2, 2)
    kv_ready, kv_empty = barriers(STAGES, 2)
    gl.warp_specialize([
        (attend_items, (q_bufs, kv_bufs, q_ready, q_empty, kv_ready, kv_empty, tiles, out, out_scales, tokens,
                        scale, 0, GROUP, HEADS, CAUSAL, FP8)),
        (attend_items, (q_bufs, kv_bufs, q_ready, q_empty, kv_ready, kv_empty, tiles, out, out_scales, tokens,
                        scale, 1, GROUP, HEADS, CAUSAL, FP8)),
        (load_heads, (q, k, v, q_bufs, kv_bufs, q_ready, q_empty, kv_ready, kv_empty, tiles,
                      GROUP, PAIRS, CAUSAL)),
    ], [4, 1], [240, 24])  # fmt: skip
