"""A job that stays open: rows come in blocks, from several threads, and get their records in order.

The backend, the cache and the processes that decode images are opened once, in a thread with an event loop of
their own, and serve all blocks. What is in flight is bounded over all blocks together, so that one block
begins while the last rows of another are still out.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Container, Sequence
from concurrent.futures import Future
from typing import Any

import orjson

from cache.store import Store
from tgi_stack.answers.tier.opening import open_run_store
from tgi_stack.backends.base import Backend
from tgi_stack.backends.open import open_backend
from tgi_stack.concurrency import fan_out
from tgi_stack.jobs.pipeline import Job, Record, Unwatched, answered, within_limits
from tgi_stack.jobs.preparing.preparers import LEAST_ROWS, Preparers
from tgi_stack.jobs.rerank.items import Items
from tgi_stack.jobs.spec import JobSpec
from tgi_stack.jobs.tally import Tally
from tgi_stack.rows.columns import Wanted
from tgi_stack.rows.ledger import Discard, record_of
from tgi_stack.rows.reader import RawRow, UnreadRow
from tgi_stack.types import Identity


class _Taken(Discard):
    """Records by the numbers of their rows."""

    def __init__(self, each: Callable[[], None]) -> None:
        self.records: dict[int, Record] = {}
        self._each = each

    def write_lines(
        self, numbers: Sequence[int], lengths: Sequence[int], lines: bytes, failed: Container[int] = ()
    ) -> None:
        for number, line in zip(numbers, lines.splitlines(keepends=True), strict=True):
            self.records[number] = orjson.loads(record_of(line))
            self._each()


class Standing:
    """See above.

    Args:
        items: what ids in rows of `rerank` stand for.
        images: how many processes decode images; None for one a core.
        width: how many rows may be at work; None for as many as suit who computes.
        preparers: how many processes prepare the rows of a block that is large enough; for an engine that
            answers more than one process prepares.
        wanted: how the rows were read.
    """

    def __init__(
        self,
        spec: JobSpec,
        items: Items | None = None,
        images: int | None = None,
        width: int | None = None,
        preparers: int = 0,
        wanted: Wanted | None = None,
    ) -> None:
        self._spec = spec
        self._preparers = preparers
        self._wanted = wanted or Wanted(spec.name)
        self._items: Items = {} if items is None else items
        self._images = images
        self._width = width
        self._loop = asyncio.new_event_loop()
        self._opening = asyncio.Lock()
        self._job: Job[Any] | None = None
        self._backend: Backend | None = None
        self._store: Store | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="fastqwen", daemon=True)
        self._thread.start()

    def identity(self) -> Identity:
        """Who answers; opens the backend.

        Raises:
            FastqwenError: there is none.
        """
        opened: Future[Backend] = asyncio.run_coroutine_threadsafe(self._opened(), self._loop)
        return opened.result().identity

    def answer(self, rows: Sequence[RawRow], each: Callable[[], None] = lambda: None) -> list[Record]:
        """The records of rows, in their order.

        Args:
            each: called when a row has its record, in the loop's thread.

        Raises:
            FastqwenError: what concerns all rows.
        """
        return asyncio.run_coroutine_threadsafe(self._answer(rows, each), self._loop).result()

    def close(self) -> None:
        """Gives back what it holds."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _opened(self) -> Backend:
        async with self._opening:
            if self._backend is None:
                settings = within_limits(self._spec.settings)
                if self._store is None:
                    self._store = open_run_store(settings)
                backend = await open_backend(settings, self._spec.kind, self._store, for_rows=True)
                self._job = self._spec.job(backend, self._store, self._items, self._images)
                self._at_once = asyncio.Semaphore(max(1, self._width or self._job.workers))
                self._backend = backend
        return self._backend

    async def _answer(self, rows: Sequence[RawRow], each: Callable[[], None]) -> list[Record]:
        backend = await self._opened()
        if self._job is None:
            raise RuntimeError("opened without a job")
        job = self._job
        if self._preparers and (len(rows) >= LEAST_ROWS or self._spec.settings.preparers != "auto"):
            return await self._prepared(job, backend, rows, each)
        records: list[Record] = [{}] * len(rows)

        async def one(place: int) -> None:
            async with self._at_once:
                records[place] = (await answered(job, rows[place])).record
            each()

        await fan_out(range(len(rows)), one, workers=min(len(rows), self._width or job.workers))
        return records

    async def _prepared(
        self, job: Job[Any], backend: Backend, rows: Sequence[RawRow], each: Callable[[], None]
    ) -> list[Record]:
        """As `_answer`, by processes that prepare; what they leave is answered here."""
        width = self._width or job.workers
        taken = _Taken(each)
        others = Preparers(
            self._spec, self._wanted, self._items, backend, self._store, self._preparers, width
        )
        unread = iter([UnreadRow(row.number, row.value) for row in rows])
        await others.run(unread, taken, Tally(), Unwatched(), asyncio.Event())
        for row in others.left:
            raw = next(one for one in rows if one.number == row.number)
            taken.records[row.number] = (await answered(job, raw)).record
            each()
        return [taken.records[row.number] for row in rows]

    async def _end(self) -> None:
        if self._job is not None:
            await self._job.aclose()
        if self._backend is not None:
            await self._backend.aclose()
        if self._store is not None:
            self._store.close()
