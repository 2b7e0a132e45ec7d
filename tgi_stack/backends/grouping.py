"""Gathers questions that are asked one by one into requests of several, for a server that is faster so."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from tgi_stack.errors import RowError

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class Grouper(Generic[Request, Answer]):
    """Asks for up to `size` at once; a group of which one is refused is asked again one by one.

    Args:
        ask: the answers to several requests, in their order.
        key: only requests of equal key share a group.
        linger_s: how long a group that is not full waits for company.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[Request]], Awaitable[Sequence[Answer]]],
        *,
        size: int,
        key: Callable[[Request], Hashable],
        linger_s: float = 0.003,
    ) -> None:
        self._ask = ask
        self._size = size
        self._key = key
        self._linger_s = linger_s
        self._waiting: defaultdict[Hashable, list[tuple[Request, asyncio.Future[Answer]]]] = defaultdict(list)
        self._sending: set[asyncio.Task[None]] = set()

    async def ask(self, request: Request) -> Answer:
        """The answer to one request, got in some group.

        Raises:
            RowError: this very request was refused, asked alone.
        """
        if self._size == 1:
            return (await self._ask([request]))[0]
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        key = self._key(request)
        group = self._waiting[key]
        group.append((request, future))
        if len(group) == 1:
            loop.call_later(self._linger_s, self._send, key, group)
        if len(group) >= self._size:
            self._send(key, group)
        return await future

    def _send(self, key: Hashable, group: list[tuple[Request, asyncio.Future[Answer]]]) -> None:
        if self._waiting.get(key) is not group:  # went already, being full
            return
        del self._waiting[key]
        task = asyncio.create_task(self._answer([entry for entry in group if not entry[1].done()]))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _answer(self, group: list[tuple[Request, asyncio.Future[Answer]]]) -> None:
        if not group:
            return
        try:
            answers = await self._ask([request for request, _ in group])
        except RowError as error:
            if len(group) > 1:
                await asyncio.gather(*(self._answer([entry]) for entry in group))
            else:
                _fail(group, error)
        except BaseException as error:
            _fail(group, error)
            if not isinstance(error, Exception):
                raise
        else:
            for (_, future), answer in zip(group, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def aclose(self) -> None:
        """Gives up what is being asked."""
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)


def _fail(group: list[tuple[Request, asyncio.Future[Answer]]], error: BaseException) -> None:
    for _, future in group:
        if not future.done():
            if isinstance(error, Exception):
                future.set_exception(error)
            else:
                future.cancel()
