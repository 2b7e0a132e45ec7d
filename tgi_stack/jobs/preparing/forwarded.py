"""The tier as a process that prepares rows sees it: the run has the connection, and asks for all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any

from cache.tier.store import TieredStore
from tgi_stack.jobs.preparing.asking import Outbox
from tgi_stack.jobs.preparing.wire import Plain

FIND, CLAIM, PUT, RELEASE = "find", "claim", "put", "release"
REFUSE = "refuse"


class ForwardedTier:
    """See `cache.tier.tier.Tier`."""

    fills = False  # the run keeps what it finds, once for all processes

    def __init__(self, outbox: Outbox, letters: Iterable[str]) -> None:
        self.letters = frozenset(letters)
        self._outbox = outbox
        self._asked = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    async def find(self, names: Sequence[str]) -> Mapping[str, bytes]:
        found: Mapping[str, bytes] = await self._ask(FIND, tuple(names))
        return found

    async def claim(self, name: str) -> bytes | None:
        payload: bytes | None = await self._ask(CLAIM, name)
        return payload

    async def _ask(self, what: str, about: str | tuple[str, ...]) -> Any:
        self._asked += 1
        future = self._waiting[self._asked] = asyncio.get_running_loop().create_future()
        self._outbox.ask_tier(self._asked, what, about)
        return await future

    def tell(self, number: int, answer: Any) -> None:
        """What came of a question, by its number."""
        future = self._waiting.pop(number)
        if not future.done():
            future.set_result(answer)

    def put(self, name: str, payload: bytes) -> None:
        self._outbox.ask_tier(0, PUT, name, payload)

    def release(self, name: str) -> None:
        self._outbox.ask_tier(0, RELEASE, name)

    def refuse(self, name: str) -> None:
        self._outbox.ask_tier(0, REFUSE, name)

    def close(self) -> Mapping[str, int]:
        return {}


class TierOf:
    """Serves one process from the run's store."""

    def __init__(self, store: TieredStore) -> None:
        self._store = store
        self._claimed: set[str] = set()

    def begun(self, asked: Sequence[Plain]) -> list[Coroutine[Any, Any, list[Plain]]]:
        """What is still to be done for one message: each gives answers, by the numbers of their questions."""
        found: list[tuple[int, Sequence[str]]] = []
        begun = []
        for number, what, about, payload in asked:
            if what == FIND:
                found.append((number, about))
            elif what == CLAIM:
                begun.append(self._claim(number, about))
            elif what == PUT:
                self._store.tier.put(about, payload)
            elif what == REFUSE:
                self._store.tier.refuse(about)
            else:
                self._claimed.discard(about)
                self._store.tier.release(about)
        return [self._find(found), *begun] if found else begun

    async def _find(self, asked: Sequence[tuple[int, Sequence[str]]]) -> list[Plain]:
        found = await self._store.found([name for _, names in asked for name in names])
        return [(number, {name: found[name] for name in names if name in found}) for number, names in asked]

    async def _claim(self, number: int, name: str) -> list[Plain]:
        payload = await self._store.claimed(name)
        if payload is None:
            self._claimed.add(name)
        return [(number, payload)]

    def close(self) -> None:
        """Gives back what the process claimed: it may have died."""
        for name in self._claimed:
            self._store.tier.release(name)
