"""One computes, and the others wait."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from cache.memo import Memo


def test_whoever_waited_for_a_failure_asks_once() -> None:
    asking = most = calls = 0

    async def fails() -> bytes:
        nonlocal asking, most, calls
        calls, asking = calls + 1, asking + 1
        most = max(most, asking)
        await asyncio.sleep(0)
        asking -= 1
        raise ValueError(str(calls))

    async def ask() -> list[Any]:
        memo = Memo[str, bytes](10)
        return await asyncio.gather(*(memo.get("a", fails) for _ in range(1500)), return_exceptions=True)

    assert {type(one) for one in asyncio.run(ask())} == {ValueError}
    assert (calls, most) == (1500, 1499)  # not one after the other


def test_a_certain_failure_is_told_to_all_waiting() -> None:
    calls = 0

    async def fails() -> bytes:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        raise ValueError(str(calls))

    async def ask() -> list[Any]:
        memo = Memo[str, bytes](10, certain=lambda error: isinstance(error, ValueError))
        found = await asyncio.gather(*(memo.get("a", fails) for _ in range(1500)), return_exceptions=True)
        return [*found, *await asyncio.gather(memo.get("a", fails), return_exceptions=True)]

    assert [str(one) for one in asyncio.run(ask())] == ["1"] * 1500 + ["2"]


def test_who_waited_for_a_failure_may_succeed() -> None:
    async def ask() -> None:
        memo = Memo[str, bytes](2, size=len)
        answers: Iterator[ValueError | bytes] = iter([ValueError("theirs"), b"a", b"a"])

        async def compute() -> bytes:
            answer = next(answers)
            await asyncio.sleep(0)
            if isinstance(answer, ValueError):
                raise answer
            return answer

        found = await asyncio.gather(*(memo.get("a", compute) for _ in range(3)), return_exceptions=True)
        assert found[1:] == [b"a", b"a"]
        assert await memo.get("a", compute) == b"a"  # counted once, so that another fits
        assert await memo.get("b", lambda: asyncio.sleep(0, b"b")) == b"b"
        assert await memo.get("a", compute) == b"a"

    asyncio.run(ask())
