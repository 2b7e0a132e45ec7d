"""Collects questions that are asked one by one into batches for an engine that is fastest in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class Batcher(Generic[Request, Answer]):
    """A thread computes while the next batch gathers behind it.

    Args:
        run: a batch in, its answers in the same order out, an exception where one of its requests alone
            failed; called in the given executor.
        size: requests in a batch at most.
        key: only requests of equal key share a batch.
        linger_s: how long a batch that is not full waits for company.
        lanes: batches under way at once, no more than the executor's threads.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Request]], Sequence[Answer | Exception]],
        executor: ThreadPoolExecutor,
        *,
        size: int,
        key: Callable[[Request], Hashable] = lambda request: None,
        linger_s: float = 0.01,
        lanes: int = 1,
    ) -> None:
        self._run = run
        self._executor = executor
        self._size = size
        self._key = key
        self._linger_s = linger_s
        self._waiting: list[tuple[Request, asyncio.Future[Answer]]] = []
        self._lanes = lanes
        self._pumps: set[asyncio.Task[None]] = set()

    async def ask(self, request: Request) -> Answer:
        """The answer to one request, computed in some batch."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if len(self._pumps) < self._lanes:
            self._pumps.add(asyncio.create_task(self._drain()))
        return await future

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            if len(self._waiting) < self._size:
                await asyncio.sleep(self._linger_s)
            batch = self._take()
            if not batch:
                continue  # nobody wants one, or another lane took it
            try:
                answers = await loop.run_in_executor(
                    self._executor, self._run, [request for request, _ in batch]
                )
            except Exception as error:  # noqa: BLE001  # whatever it is, those who asked are told
                answers = [error] * len(batch)
            _settle(batch, answers)
        # With the last look at who waits, before anybody else can ask: nobody is left without a lane.
        self._pumps = {pump for pump in self._pumps if pump is not asyncio.current_task()}

    def _take(self) -> list[tuple[Request, asyncio.Future[Answer]]]:
        """The oldest request that is still wanted, and others like it."""
        self._waiting = [(request, future) for request, future in self._waiting if not future.done()]
        if not self._waiting:
            return []
        wanted = self._key(self._waiting[0][0])
        batch = [entry for entry in self._waiting if self._key(entry[0]) == wanted][: self._size]
        taken = {id(future) for _, future in batch}
        self._waiting = [entry for entry in self._waiting if id(entry[1]) not in taken]
        return batch


def _settle(
    batch: Sequence[tuple[object, asyncio.Future[Answer]]], answers: Sequence[Answer | Exception]
) -> None:
    for (_, future), answer in zip(batch, answers, strict=True):
        if future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
