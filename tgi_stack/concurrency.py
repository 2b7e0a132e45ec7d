"""A fixed crew of workers over one iterator: bounded work in flight, whatever the input's length."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

Row = TypeVar("Row")
Result = TypeVar("Result")
NICENESS = 5  # of processes that prepare
YOUNG = 20_000  # objects, before garbage is looked for: rows hold many for a while, and few in circles


async def fan_out(
    rows: Iterable[Row],
    work: Callable[[Row], Awaitable[object]],
    *,
    workers: int,
) -> None:
    """Works on all rows, `workers` at a time.

    What `work` raises is a bug or a fault of the whole run: it stops the crew and is raised here, alone.
    """
    shared = iter(rows)

    async def worker() -> None:
        for row in shared:
            await work(row)

    await crew([worker() for _ in range(workers)])


async def crew(workers: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs workers until all have ended; what one raises stops the others and is raised here, alone."""
    try:
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker)
    except BaseExceptionGroup as several:
        raise first_of(several) from None


async def together(*questions: Awaitable[Result]) -> list[Result]:
    """All answers, in order; all are waited for, then the first failure among them is raised."""
    if len(questions) == 1:
        return [await questions[0]]
    answers = await asyncio.gather(*questions, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers  # type: ignore[return-value]  # the exceptions are gone


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure of a group, whatever groups it stands in."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first


def give_way() -> None:
    """Lets the run's own process go first where cores are short: it feeds the GPU and the sockets."""
    if hasattr(os, "setpriority") and os.getpriority(os.PRIO_PROCESS, 0) < NICENESS:
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)


def collect_seldom() -> None:
    """For processes of rows: what one began with is not looked through for garbage again and again, which
    would take a tenth of its time.
    """
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 100)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
