"""Spoilt replies, some thousands of them: `tools/fuzz_wire.py` makes a million."""

from __future__ import annotations

import asyncio

from fuzz_wire import fuzz


def test_spoilt_replies_are_answers_or_errors() -> None:
    outcomes = asyncio.run(fuzz(4_000, seed=2))
    assert sum(outcomes.values()) == 4_000
    assert outcomes["answer: LabelScores"] > 100
    assert outcomes["answer: Caption"] > 100
    assert outcomes["server.bad_response"] > 1_000
