"""The crew and the batcher: bounded, in order, and nobody is left waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from tgi_stack.backends.micro_batch import MicroBatcher, in_threads
from tgi_stack.concurrency import fan_out


@pytest.fixture
async def thread() -> AsyncIterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


async def test_rows_are_read_as_workers_need_them() -> None:
    read, done, most = count(), 0, 0

    async def work(row: int) -> None:
        nonlocal most, done
        most = max(most, row - done + 1)
        await asyncio.sleep(0)
        done += 1

    def rows() -> Iterator[int]:
        while (row := next(read)) < 1000:
            yield row

    await fan_out(rows(), work, workers=7)
    assert done == 1000
    assert most <= 7


async def test_a_bug_stops_the_crew_and_surfaces_alone() -> None:  # X13
    finished: list[int] = []

    async def work(row: int) -> None:
        if row == 3:
            raise ZeroDivisionError("a bug")
        await asyncio.sleep(0)
        finished.append(row)

    with pytest.raises(ZeroDivisionError, match="a bug"):
        await fan_out(range(1000), work, workers=4)
    assert len(finished) < 1000


async def test_answers_go_to_those_who_asked(thread: ThreadPoolExecutor) -> None:
    sizes = []

    def run(batch: Sequence[int]) -> list[int]:
        sizes.append(len(batch))
        return [number * 10 for number in batch]

    batcher = MicroBatcher(in_threads(thread, run), size=8)
    answers = await asyncio.gather(*map(batcher.ask, range(50)))
    assert answers == [number * 10 for number in range(50)]
    assert max(sizes) == 8
    assert len(sizes) <= 8


async def test_requests_of_different_kinds_share_no_batch(thread: ThreadPoolExecutor) -> None:
    batches = []

    def run(batch: Sequence[int]) -> Sequence[int]:
        batches.append(batch)
        return batch

    batcher = MicroBatcher(in_threads(thread, run), size=8)
    await asyncio.gather(*(batcher.ask(number, number % 2) for number in range(20)))
    assert all(len({number % 2 for number in batch}) == 1 for batch in batches)


async def test_a_failed_batch_fails_its_requests_alone(thread: ThreadPoolExecutor) -> None:
    def run(batch: Sequence[int]) -> Sequence[int]:
        if 3 in batch:
            raise RuntimeError("out of memory")
        return batch

    batcher = MicroBatcher(in_threads(thread, run), size=2)
    results = await asyncio.gather(*map(batcher.ask, range(6)), return_exceptions=True)
    assert [str(r) for r in results] == ["0", "1", "out of memory", "out of memory", "4", "5"]


async def test_a_failed_answer_reaches_its_own_request(thread: ThreadPoolExecutor) -> None:
    def run(batch: Sequence[int]) -> Sequence[int | Exception]:
        return [ValueError(f"row {number}") if number == 3 else number for number in batch]

    batcher = MicroBatcher(in_threads(thread, run), size=8)
    results = await asyncio.gather(*map(batcher.ask, range(6)), return_exceptions=True)
    assert [str(r) for r in results] == ["0", "1", "2", "row 3", "4", "5"]
    assert isinstance(results[3], ValueError)


async def test_requests_in_batches_of_one_run_at_once() -> None:
    together = asyncio.Barrier(6)

    async def run(batch: Sequence[int]) -> Sequence[int | Exception]:
        await together.wait()
        return [ValueError(f"row {number}") if number == 3 else number for number in batch]

    batcher: MicroBatcher[int, int] = MicroBatcher(run, size=1, linger_s=3600, lanes=None)
    asked = [asyncio.create_task(batcher.ask(number)) for number in range(6)]
    with pytest.raises(ValueError, match="row 3"):
        await asked.pop(3)
    assert await asyncio.gather(*asked) == [0, 1, 2, 4, 5]


async def test_an_abandoned_request_is_not_computed(thread: ThreadPoolExecutor) -> None:
    seen: list[int] = []

    def run(batch: Sequence[int]) -> Sequence[int]:
        seen.extend(batch)
        return batch

    batcher = MicroBatcher(in_threads(thread, run), size=4)
    gone = asyncio.create_task(batcher.ask(1))
    stays = asyncio.create_task(batcher.ask(2))
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays == 2
    assert seen == [2]
