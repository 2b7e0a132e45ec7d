"""Of all that ask for one answer at the same time one computes it: among tasks, and among processes."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cache.keys import digest
from cache.store import Store
from tgi_stack.answers.kept import Kept
from tgi_stack.answers.turns import Turns
from tgi_stack.errors import TextError

KEY = digest(b"key")


class Plain:
    """Bytes as they are; of three bytes none is understood."""

    @staticmethod
    def encode(value: bytes) -> bytes:
        return value

    @staticmethod
    def decode(payload: bytes) -> bytes:
        if len(payload) == 3:
            raise ValueError("of another version")
        return payload


class Work:
    """Gives the answers it is told, failures too, and counts how many are asked of it at once."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self._answers = iter(answers)
        self.calls = self.now = self.most = 0

    async def __call__(self, turns: Turns[bytes], key: str = KEY) -> bytes:
        async with turns.turn(key) as turn:
            if turn.answer is None:
                turn.answer = await self._compute()
            return turn.answer

    async def _compute(self) -> bytes:
        self.calls, self.now = self.calls + 1, self.now + 1
        self.most = max(self.most, self.now)
        answer = next(self._answers, None) or ValueError(str(self.calls))
        await asyncio.sleep(0)
        self.now -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer


async def many(work: Work, turns: Turns[bytes], count: int) -> list[Any]:
    return await asyncio.gather(*(work(turns) for _ in range(count)), return_exceptions=True)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "cache")
    yield made
    made.close()


async def test_waiting_for_a_failure_means_computing_once() -> None:
    work, turns = Work(), Turns[bytes](None, "labels", memory=10)
    found = await many(work, turns, 1500)
    assert {type(one) for one in found} == {ValueError}
    assert (work.calls, work.most) == (1500, 1499)  # not one after the other


async def test_a_certain_failure_is_shared_once() -> None:
    work = Work(TextError("text.long", "1"), TextError("text.long", "2"))
    turns = Turns[bytes](None, "labels", memory=10)
    assert [str(one) for one in await many(work, turns, 1500)] == ["1"] * 1500
    assert [str(one) for one in await many(work, turns, 1)] == ["2"]  # nobody is told of it later


async def test_answers_are_remembered_by_their_size() -> None:
    work = Work(KeyError("theirs"), b"a", b"a", b"b", b"c")
    turns = Turns[bytes](None, "labels", memory=2, size=len)
    assert (await many(work, turns, 3))[1:] == [b"a", b"a"]
    assert await work(turns) == b"a"  # counted once, so that another fits
    assert await work(turns, "b") == b"b"
    assert (await work(turns), work.calls) == (b"a", 4)
    assert await work(turns, "c") == b"c"  # b was asked for longest ago
    assert (await work(turns), work.calls) == (b"a", 5)


async def test_giving_up_hands_the_turn_on() -> None:
    work, turns = Work(b"a", b"a"), Turns[bytes](None, "labels", memory=10)
    first, *others = (asyncio.create_task(work(turns)) for _ in range(100))
    await asyncio.sleep(0)
    first.cancel()
    assert await asyncio.gather(*others) == [b"a"] * 99
    assert (work.calls, work.most) == (2, 2)
    assert first.cancelled()


async def test_waiting_in_vain_takes_nothing_from_others() -> None:
    work, turns = Work(b"a"), Turns[bytes](None, "labels", memory=10)
    first, second, third = (asyncio.create_task(work(turns)) for _ in range(3))
    await asyncio.sleep(0)
    second.cancel()
    assert [await first, await third] == [b"a", b"a"]
    assert work.calls == 1


def test_what_is_not_understood_is_no_hit(store: Store) -> None:
    kept = Kept[bytes](store, "labels", Plain)
    kept.keep(KEY, b"123")
    assert kept.known(KEY) is None
    assert (store.counts["labels hits"], store.counts["labels misses"]) == (0, 1)
    kept.keep(KEY, b"1234")
    assert kept.known(KEY) == b"1234"


def _ask_slowly(folder: Path, log: Path) -> None:
    async def ask() -> bytes:
        store = Store(folder)
        kept, turns = Kept[bytes](store, "labels", Plain), Turns[bytes](store, "labels", memory=10)
        async with turns.turn(KEY) as turn:
            assert turn.leased
            turn.answer = kept.known(KEY, again=True)
            if turn.answer is None:
                with log.open("a") as file:
                    file.write("computed\n")
                await asyncio.sleep(0.3)
                turn.answer = b"value"
                kept.keep(KEY, turn.answer, turn)
            answer = turn.answer
        store.close()
        return answer

    assert asyncio.run(ask()) == b"value"


def test_one_process_computes_what_several_ask(store: Store, tmp_path: Path) -> None:  # I25
    log = tmp_path / "log"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.starmap(_ask_slowly, [(tmp_path / "cache", log)] * 4)
    assert log.read_text() == "computed\n"
