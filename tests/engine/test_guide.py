"""Answers held to a schema, token by token: one of the schema, or cut; whatever the network would say."""

from __future__ import annotations

import json
from contextlib import nullcontext, suppress
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.prompting.test_forms import SCHEMAS
from tgi_stack.engine.guide import Guides
from tgi_stack.errors import AnswerError
from tgi_stack.prompting.forms import data_of, read_form
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.tiny import TINY

pytest.importorskip("llguidance")

TOKENIZER = Tokenizer(TINY / "vision" / "tokenizer.json")
END, OTHER_END = 982, 980
GUIDES = Guides(TOKENIZER, frozenset((END, OTHER_END)))


def written(form: str, seed: int, budget: int, size: int = 1024) -> tuple[str, bool]:
    """What a network of random numbers writes, and whether it was cut."""
    guide = GUIDES.guide(form)
    ids: list[int] = []
    drawn = torch.Generator().manual_seed(seed)
    for _ in range(budget):
        logits = torch.randn(size, generator=drawn)
        GUIDES.hold(logits[None], {0: guide})
        best, token = logits.max(dim=-1)
        assert best.isfinite()  # an answer can always go on
        if int(token) in (END, OTHER_END):
            return TOKENIZER.decode(ids), False
        GUIDES.chose(token[None], {0: guide})
        ids.append(int(token))
    return TOKENIZER.decode(ids), True


@settings(deadline=None, max_examples=40)
@given(schema=SCHEMAS, seed=st.integers(0, 2**32), budget=st.sampled_from([3, 40, 400]))
def test_answers_are_of_the_schema(schema: dict[str, Any], seed: int, budget: int) -> None:
    form = read_form(json.dumps(schema))
    text, cut = written(form, seed, budget)
    with suppress(AnswerError) if cut else nullcontext():
        data_of(text, form, cut=cut)


@settings(deadline=None, max_examples=15)
@given(schema=SCHEMAS, seeds=st.lists(st.integers(0, 2**32), min_size=3, max_size=3))
def test_kept_masks_are_those_made_anew(schema: dict[str, Any], seeds: list[int]) -> None:
    """Of answers of one schema that say different things, at every token of each."""
    form = read_form(json.dumps(schema))
    for seed in seeds:
        guide, alone = GUIDES.guide(form), GUIDES.guide(form)
        drawn = torch.Generator().manual_seed(seed)
        for _ in range(40):
            kept, anew = torch.zeros(2, 1, 1024)
            GUIDES.hold(kept, {0: guide})
            GUIDES.hold(anew, {0: alone._replace(masks={})})
            assert kept.equal(anew)
            token = int(torch.randn(1024, generator=drawn).where(kept[0].isfinite(), -torch.inf).argmax())
            if token in (END, OTHER_END):
                break
            GUIDES.chose(torch.tensor([token]), {0: guide})
            GUIDES.chose(torch.tensor([token]), {0: alone})


def test_white_space_is_compact() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}}
    form = read_form(json.dumps(schema | {"required": ["a"]}))
    for seed in range(5):
        text, _ = written(form, seed, 200)
        assert not set(text) & set(" \n\t")


def test_logits_may_be_padded() -> None:
    form = read_form('{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}')
    assert written(form, 0, 50, size=1100) == ('{"a":1}', False)


def test_rows_are_held_each_by_its_own() -> None:
    """Beside llguidance's mask for one answer alone; a row without a guide goes on by any token."""
    masks = pytest.importorskip("llguidance.numpy")
    form = read_form('{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}')
    begun, written = GUIDES.guide(form), TOKENIZER.encode('{"a":1}')
    guides = {row: GUIDES.guide(form) for row in range(1, len(written) + 2)}
    for step, token in enumerate(written):  # row n has n - 1 tokens
        GUIDES.chose(
            torch.full((len(guides) + 1,), token), {row: guides[row] for row in guides if row > step + 1}
        )
    logits = torch.randn(len(guides) + 1, 1040)
    held = logits.clone()
    GUIDES.hold(held, guides)
    assert held[0].equal(logits[0])
    for row in guides:
        mask = masks.allocate_token_bitmask(1, TOKENIZER.size)
        masks.fill_next_token_bitmask(begun.matcher, mask)
        allowed = [token for token in range(TOKENIZER.size) if mask[0, token // 32] >> token % 32 & 1]
        ends = [END, OTHER_END] if row == len(guides) else []
        assert held[row].isfinite().nonzero().flatten().tolist() == sorted({*allowed, *ends})
        if row <= len(written):
            begun.matcher.consume_token(written[row - 1])
    GUIDES.chose(torch.full((len(guides) + 1,), -1), guides)  # no token: none follows
    again = logits.clone()
    GUIDES.hold(again, guides)
    assert again.equal(held)


def test_a_model_without_an_end() -> None:
    guides = Guides(TOKENIZER, frozenset())
    with pytest.raises(AnswerError, match="eos_token_id"):
        guides.guide(read_form('{"type": "object", "properties": {"a": {"const": 1}}}'))
