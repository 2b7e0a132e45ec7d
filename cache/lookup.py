"""Get or compute, once: among the tasks of a run, among the processes of a host, and for good."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Generic, TypeVar

from cache.leases import MOST_WAIT_S, Lease
from cache.memo import Memo
from cache.store import Store

Value = TypeVar("Value")

LOOK_EVERY_S = 0.02


class Lookup(Generic[Value]):
    """Values of one kind.

    Failures are not kept; see `Memo` for who is told of them.

    Args:
        store: where values are kept for good; None to keep them in memory alone.
        memory: how many, by `size`, are kept in memory too.
        certain: see `Memo`.
    """

    def __init__(
        self,
        store: Store | None,
        kind: str,
        encode: Callable[[Value], bytes],
        decode: Callable[[bytes], Value],
        *,
        memory: int,
        size: Callable[[Value], int] = lambda value: 1,
        certain: Callable[[Exception], bool] = lambda error: False,
    ) -> None:
        self._store = store
        self._kind = kind
        self._encode = encode
        self._decode = decode
        self._memo: Memo[str, Value] = Memo(memory, size, certain)

    def known(self, key: str, *, again: bool = False) -> Value | None:
        """The value that is kept, or None; looking `again` is not counted as a miss."""
        if self._store is None:
            return None
        payload = self._store.get(self._kind, key, again=again)
        if payload is None:
            return None
        try:
            return self._decode(payload)
        except (ValueError, KeyError, TypeError, struct.error):  # whole, and not one of this version's
            self._store.not_understood(self._kind, again=again)
            return None

    def keep(self, key: str, value: Value, lease: Lease | None = None) -> None:
        """Keeps a value for good; the lease ends when others can read it."""
        release = None if lease is None else lease.release
        if self._store is not None:
            self._store.put(self._kind, key, self._encode(value), release)
        elif release is not None:
            release()

    async def get(self, key: str, compute: Callable[[], Awaitable[Value]]) -> tuple[Value, bool]:
        """The value, and whether it was kept from before; `compute` is called by one of all who ask."""
        value = self.known(key)
        if value is not None:
            return value, True
        return await self.get_as(key, key, compute), False

    async def get_as(
        self,
        key: str,
        asked: str,
        compute: Callable[[], Awaitable[Value]],
        enough: Callable[[Value], bool] = lambda value: True,
        place: Callable[[Value], str] | None = None,
    ) -> Value:
        """The value that is computed for a question, and kept under `key`, which questions may share.

        Args:
            enough: whether a value that another process has kept meanwhile answers this question.
            place: the key to keep a value under, where that depends on the value.
        """
        keys = key, asked, place or (lambda value: key)
        return await self._memo.get(asked, partial(self._computed, keys, compute, enough))

    async def _computed(
        self,
        keys: tuple[str, str, Callable[[Value], str]],
        compute: Callable[[], Awaitable[Value]],
        enough: Callable[[Value], bool],
    ) -> Value:
        key, asked, place = keys
        lease, value = await self._lease(asked, key)
        if value is not None and enough(value):
            if lease is not None:
                lease.release()
            return value
        try:
            value = await compute()
        except BaseException:
            if lease is not None:
                lease.release()
            raise
        self.keep(place(value), value, lease)
        return value

    async def _lease(self, asked: str, key: str) -> tuple[Lease | None, Value | None]:
        """The right to compute the value; or the value, where another process has computed it."""
        store = self._store
        if store is None or not store.leases:
            return None, None
        until = asyncio.get_running_loop().time() + MOST_WAIT_S
        while (lease := store.lease(self._kind, asked)) is None:
            if asyncio.get_running_loop().time() > until:
                return None, None
            await asyncio.sleep(LOOK_EVERY_S)
        return lease, self.known(key, again=True)

    async def aclose(self) -> None:
        """Gives up what is being computed."""
        await self._memo.aclose()
