"""How a pack is laid out for a recorded pass: pure, so that it needs no GPU."""

from __future__ import annotations

import numpy as np
import pytest

from tgi_stack.engine.cuda_graph import MEMBERS, laid, sizes_of
from tgi_stack.engine.packing import pack

TILE = 64


@pytest.mark.parametrize("rows", [512, 640])
def test_each_row_of_a_graph_has_one_tile(rows: int) -> None:
    rng = np.random.default_rng(0)
    shared = rng.integers(1, 99, 100)
    own = [rng.integers(1, 99, length) for length in (70, 20, 130)]
    prompts = [np.concatenate((shared, ids)).astype(np.int32) for ids in own]
    one = next(iter(pack(prompts, 512)))
    assert one.tokens == 320
    parts = np.split(laid(one, rows, TILE), np.cumsum(sizes_of(rows, TILE))[:-1])
    ids, positions, tiles, last = parts
    assert ids[:320].tolist() == one.token_ids.tolist()
    assert positions[:320].tolist() == one.positions.tolist()
    assert not ids[320:].any()
    assert last[:3].tolist() == one.last.tolist()
    assert len(last) == MEMBERS
    count, *_ = tiles
    table = tiles[5:].reshape(-1, 5)
    assert not table[count:].any()
    covered = [np.arange(first, min(first + TILE, end)) for first, end, *_ in table[:count]]
    assert sorted(np.concatenate(covered).tolist()) == list(range(rows))
    prefixes = {(int(start), int(length)) for _, _, start, _, length in table[:count]}
    assert {length for _, length in prefixes} == {0, 100}


def test_a_full_pack_needs_no_filling() -> None:
    one = next(iter(pack([np.ones(256, dtype=np.int32)], 256)))
    tiles = np.split(laid(one, 256, TILE), np.cumsum(sizes_of(256, TILE))[:-1])[2]
    assert tiles[0] == 4
