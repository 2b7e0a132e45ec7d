"""Values of one kind as they are kept: encoded, looked up, and passed over where they are not understood."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from cache.store import Store
from cache.tier.store import TieredStore
from tgi_stack.answers.turns import Turn

Value = TypeVar("Value")


class Codec(Protocol[Value]):
    """How a value is written."""

    def encode(self, value: Value) -> bytes:
        """As bytes; `decode` gives it back."""

    def decode(self, payload: bytes) -> Value:
        """What was kept, looked at as if a stranger had written it.

        Raises:
            ValueError, KeyError, TypeError, RecursionError, struct.error: it is no value of this kind.
        """


class Kept(Generic[Value]):
    """The values of one kind in a store.

    Args:
        store: where they are kept; None to keep none.
    """

    def __init__(self, store: Store | None, kind: str, codec: Codec[Value]) -> None:
        self._store = store
        self._tiered = store if isinstance(store, TieredStore) else None
        self._kind = kind
        self._codec = codec

    def known(self, key: str, *, again: bool = False) -> Value | None:
        """The value that is kept, or None; looking `again` is not counted as a miss."""
        payload = None if self._store is None else self._store.get(self._kind, key, again=again)
        return None if payload is None else self._understood(key, payload, again=again)

    def known_of(self, keys: Sequence[str]) -> list[Value | None]:
        """As `known`, of several keys at once."""
        if self._store is None:
            return [None] * len(keys)
        found = zip(keys, self._store.get_many(self._kind, keys), strict=True)
        return [None if payload is None else self._understood(key, payload) for key, payload in found]

    def _understood(self, key: str, payload: bytes, *, again: bool = False) -> Value | None:
        try:
            return self._codec.decode(payload)
        except (ValueError, KeyError, TypeError, RecursionError, struct.error):  # whole, and none of its kind
            if self._store is not None:
                self._store.not_understood(self._kind, key, again=again)
            return None

    @property
    def has_tier(self) -> bool:
        """Whether values may be further away, too."""
        return self._tiered is not None

    async def brought(self, key: str) -> Value | None:
        """The value that the tier has, or None."""
        came = self._tiered is not None and await self._tiered.bring(self._kind, key)
        return self.known(key, again=True) if came else None

    async def claimed(self, key: str) -> Value | None:
        """The value that another machine computed while it was waited for; None: compute, then `release`."""
        came = self._tiered is not None and await self._tiered.claim(self._kind, key)
        return self.known(key, again=True) if came else None

    def release(self, key: str) -> None:
        """Ends what `claimed` began; after `keep`, if there is something to keep."""
        if self._tiered is not None:
            self._tiered.release(self._kind, key)

    def keep(self, key: str, value: Value, turn: Turn[Any] | None = None) -> None:
        """Keeps a value for good; whoever waits in other processes goes on once it can be read."""
        if self._store is not None:
            release = None if turn is None else turn.handed_over()
            self._store.put(self._kind, key, self._codec.encode(value), release)
