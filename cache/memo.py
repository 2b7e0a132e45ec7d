"""Get or compute, once: whoever asks while a value is being computed waits for that one."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Memo(Generic[Key, Value]):
    """The values asked for last, as many as `limit` holds.

    A failure is told to the one who asked, and to those who waited where it is certain for all of them; else
    each of those asks once on their own behalf, all at the same time. Nobody is told of one that came before
    they asked. Safe among the tasks of one event loop.

    Args:
        limit: of the sizes of all values kept, in the unit of `size`.
        size: of one value; 1 unless told.
        certain: whether a failure would be the same for whoever asks.
    """

    def __init__(
        self,
        limit: int,
        size: Callable[[Value], int] = lambda value: 1,
        certain: Callable[[Exception], bool] = lambda error: False,
    ) -> None:
        self._limit = limit
        self._size = size
        self._certain = certain
        self._kept: OrderedDict[Key, Value] = OrderedDict()
        self._held = 0
        self._pending: dict[Key, asyncio.Task[Value]] = {}

    async def get(self, key: Key, compute: Callable[[], Awaitable[Value]]) -> Value:
        """The value of `key`; `compute` is called unless it is known or being computed."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        others = self._pending.get(key)
        if others is None:
            task = self._pending[key] = asyncio.create_task(self._compute(key, compute))
            # Whoever asked may have been cancelled; a failure that nobody waits for is no news.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            # One who gives up does not take the value from the others.
            return await asyncio.shield(task)
        try:
            return await asyncio.shield(others)
        except Exception as error:
            if self._certain(error):
                raise
        value = await compute()
        self._keep(key, value)
        return value

    async def _compute(self, key: Key, compute: Callable[[], Awaitable[Value]]) -> Value:
        try:
            value = await compute()
        finally:
            del self._pending[key]
        self._keep(key, value)
        return value

    def _keep(self, key: Key, value: Value) -> None:
        if key in self._kept:
            self._held -= self._size(self._kept[key])
        self._kept[key] = value
        self._held += self._size(value)
        while self._held > self._limit:
            _, oldest = self._kept.popitem(last=False)
            self._held -= self._size(oldest)

    async def aclose(self) -> None:
        """Gives up what is being computed."""
        tasks = list(self._pending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
