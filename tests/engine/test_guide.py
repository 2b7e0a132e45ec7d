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
        guide.hold(logits)
        best, token = logits.max(dim=-1)
        assert best.isfinite()  # an answer can always go on
        if int(token) in (END, OTHER_END):
            return TOKENIZER.decode(ids), False
        guide.take(int(token))
        ids.append(int(token))
    return TOKENIZER.decode(ids), True


@settings(deadline=None, max_examples=40)
@given(schema=SCHEMAS, seed=st.integers(0, 2**32), budget=st.sampled_from([3, 40, 400]))
def test_answers_are_of_the_schema(schema: dict[str, Any], seed: int, budget: int) -> None:
    form = read_form(json.dumps(schema))
    text, cut = written(form, seed, budget)
    with suppress(AnswerError) if cut else nullcontext():
        data_of(text, form, cut=cut)


def test_white_space_is_compact() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}}
    form = read_form(json.dumps(schema | {"required": ["a"]}))
    for seed in range(5):
        text, _ = written(form, seed, 200)
        assert not set(text) & set(" \n\t")


def test_logits_may_be_padded() -> None:
    form = read_form('{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}')
    assert written(form, 0, 50, size=1100) == ('{"a":1}', False)
