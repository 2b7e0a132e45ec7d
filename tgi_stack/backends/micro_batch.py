"""Collects questions that are asked one by one into batches, for whoever is fastest in batches."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

from tgi_stack.backends.work import Work
from tgi_stack.errors import RowError

Request = TypeVar("Request")
Answer = TypeVar("Answer")
Run = Callable[[Sequence[Request]], Awaitable[Sequence[Answer | Exception]]]


def in_threads(
    executor: Executor, compute: Callable[[Sequence[Request]], Sequence[Answer | Exception]]
) -> Run[Request, Answer]:
    """A computation of batches as a coroutine; each batch is computed in one of the executor's threads."""

    async def run(batch: Sequence[Request]) -> Sequence[Answer | Exception]:
        return await asyncio.get_running_loop().run_in_executor(executor, compute, batch)

    return run


class _Batch(Generic[Request, Answer]):
    """Requests that are to be answered together, and who waits for each."""

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.entries: list[tuple[Request, asyncio.Future[Answer]]] = []
        self.since: list[float] = []  # when each began to wait
        self.full = asyncio.Event()


class MicroBatcher(Generic[Request, Answer]):
    """While some batches are computed, the next gather behind them.

    A batch that is refused as a whole is asked again one by one, so that what is wrong with one request is
    told to no other; what else goes wrong is told to all of it.

    Args:
        run: a batch in, its answers in the same order out, an exception where one of its requests failed.
        size: requests in a batch at most.
        linger_s: how long a batch that is not full waits for company.
        lanes: batches under way at once; None for as many as there are.
        work: where it is counted what the batches are at.
    """

    def __init__(
        self,
        run: Run[Request, Answer],
        *,
        size: int,
        linger_s: float = 0.01,
        lanes: int | None = 1,
        work: Work | None = None,
    ) -> None:
        self._run = run
        self._work_done = work or Work()
        self.size = size
        self._linger_s = linger_s
        self._lanes = lanes
        self._open: dict[Hashable, _Batch[Request, Answer]] = {}
        self._waiting: deque[_Batch[Request, Answer]] = deque()
        self._busy: set[asyncio.Task[None]] = set()

    async def ask(self, request: Request, key: Hashable = None) -> Answer:
        """The answer to one request, got in some batch.

        Args:
            key: only requests of equal key share a batch.

        Raises:
            RowError: this very request was refused.
        """
        if self.size == 1 and self._lanes is None:  # nobody to wait for, neither company nor a lane
            return await self._alone(request)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        batch = self._open.get(key)
        if batch is None:
            batch = self._open[key] = _Batch(key)
            self._waiting.append(batch)
            if self._lanes is None or len(self._busy) < self._lanes:
                self._busy.add(asyncio.create_task(self._work()))
        batch.entries.append((request, future))
        batch.since.append(time.monotonic())
        if len(batch.entries) >= self.size:
            self._close(batch)
            batch.full.set()
        return await future

    async def _alone(self, request: Request) -> Answer:
        with self._work_done.computing(time.monotonic()):
            (answer,) = await self._run([request])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _close(self, batch: _Batch[Request, Answer]) -> None:
        if self._open.get(batch.key) is batch:
            del self._open[batch.key]

    async def _work(self) -> None:
        """A lane: answers the oldest batches, one after another."""
        try:
            while self._waiting:
                batch = self._waiting.popleft()
                if not batch.full.is_set():
                    await self._linger(batch)
                self._close(batch)
                with self._work_done.computing(*batch.since):
                    await self._answer([entry for entry in batch.entries if not entry[1].done()])
        finally:
            # With the last look at who waits, before anybody else can ask: nobody is left without a lane.
            self._busy.discard(asyncio.current_task())

    async def _linger(self, batch: _Batch[Request, Answer]) -> None:
        try:
            async with asyncio.timeout(self._linger_s):
                await batch.full.wait()
        except TimeoutError:
            return

    async def _answer(self, entries: list[tuple[Request, asyncio.Future[Answer]]]) -> None:
        if not entries:  # nobody waits any more
            return
        try:
            answers = await self._run([request for request, _ in entries])
        except RowError as error:
            if len(entries) > 1:
                await asyncio.gather(*(self._answer([entry]) for entry in entries))
                return
            answers = [error]
        except Exception as error:  # noqa: BLE001  # whatever it is, those who asked are told
            answers = [error] * len(entries)
        except BaseException:  # this is the end
            for _, future in entries:
                future.cancel()
            raise
        for (_, future), answer in zip(entries, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    async def aclose(self) -> None:
        """Gives up what is being asked."""
        lanes = list(self._busy)
        for lane in lanes:
            lane.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)
