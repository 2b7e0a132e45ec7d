"""Packs keep their budget, lose nobody and lay common beginnings down once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi_stack.engine.packing import Ints, Pack, pack

PROMPTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 120), st.integers(1, 80), st.integers(0, 2**31)), min_size=1
)


def drawn(parts: list[tuple[int, int, int, int]]) -> list[Ints]:
    """Prompts of which some begin with the same tokens."""
    made = []
    for family, common, own, seed in parts:
        begin = np.random.default_rng(family).integers(0, 50, 120)[:common]
        made.append(
            np.concatenate((begin, np.random.default_rng(seed).integers(0, 50, own))).astype(np.int32)
        )
    return made


def read_back(one: Pack) -> dict[int, list[int]]:
    """Each member's prompt: what it shares, and its own rows."""
    prompts = {}
    for member, last in zip(one.members, one.last, strict=True):
        segment = int(np.flatnonzero(one.starts <= last)[-1])
        shared = one.prefix_starts[segment] + np.arange(one.prefix_lengths[segment])
        own = one.starts[segment] + np.arange(one.lengths[segment])
        rows = np.concatenate((shared, own)).astype(int)
        assert one.positions[rows].tolist() == list(range(len(rows)))
        assert rows[-1] == last
        prompts[member] = one.token_ids[rows].tolist()
    return prompts


@given(parts=PROMPTS, budget=st.integers(50, 600), most=st.none() | st.integers(1, 5), share=st.booleans())
def test_every_prompt_stands_in_one_pack(
    parts: list[tuple[int, int, int, int]], budget: int, most: int | None, share: bool
) -> None:
    prompts = drawn(parts)
    packs = list(pack(prompts, budget, most=most, share=share))
    found = [pair for one in packs for pair in read_back(one).items()]
    assert sorted(member for member, _ in found) == list(range(len(prompts)))
    assert all(prompts[member].tolist() == ids for member, ids in found)
    assert all(one.tokens <= budget or len(one.members) == 1 for one in packs)
    assert all(len(one.members) <= (most or len(prompts)) for one in packs)


@pytest.mark.parametrize("count", [2, 7])
def test_what_prompts_share_is_laid_down_once(count: int) -> None:
    begin = np.arange(100, dtype=np.int32)
    prompts = [np.concatenate((begin, [200 + i, 5])).astype(np.int32) for i in range(count)]
    (one,) = pack(prompts, 1000)
    assert one.tokens == 100 + 2 * count
    (whole,) = pack(prompts, 1000, share=False)
    assert whole.tokens == 102 * count


def test_equal_and_nested_prompts_keep_last_tokens() -> None:
    long = np.arange(80, dtype=np.int32)
    prompts = [long, long[:50], long, long[:50]]
    found = dict(pair for one in pack(prompts, 1000) for pair in read_back(one).items())
    assert [found[member] for member in range(4)] == [prompt.tolist() for prompt in prompts]


def test_packs_are_full() -> None:
    rng = np.random.default_rng(0)
    prompts = [np.zeros(n, dtype=np.int32) + i for i, n in enumerate(rng.integers(30, 300, 400))]
    packs = list(pack(prompts, 2000, share=False))
    assert len(packs) <= 1.02 * sum(map(len, prompts)) / 2000 + 1


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="without tokens"):
        list(pack([[1, 2, 3], []], 100))


@pytest.mark.parametrize(("common", "tokens"), [(31, 66), (32, 36)])
def test_a_short_common_beginning_is_not_shared(common: int, tokens: int) -> None:
    prompts = [[7] * common + [number, 8] for number in range(2)]
    assert [one.tokens for one in pack(prompts, 100)] == [tokens]
