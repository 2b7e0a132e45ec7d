"""Values of one kind as they are kept: encoded, looked up, and passed over where they are not understood."""

from __future__ import annotations

import struct
from typing import Any, Generic, Protocol, TypeVar

from cache.store import Store
from tgi_stack.answers.turns import Turn

Value = TypeVar("Value")


class Codec(Protocol[Value]):
    """How a value is written."""

    def encode(self, value: Value) -> bytes:
        """As bytes; `decode` gives it back."""

    def decode(self, payload: bytes) -> Value:
        """Raises ValueError, KeyError, TypeError or struct.error for what is none."""


class Kept(Generic[Value]):
    """The values of one kind in a store.

    Args:
        store: where they are kept; None to keep none.
    """

    def __init__(self, store: Store | None, kind: str, codec: Codec[Value]) -> None:
        self._store = store
        self._kind = kind
        self._codec = codec

    def known(self, key: str, *, again: bool = False) -> Value | None:
        """The value that is kept, or None; looking `again` is not counted as a miss."""
        if self._store is None:
            return None
        payload = self._store.get(self._kind, key, again=again)
        if payload is None:
            return None
        try:
            return self._codec.decode(payload)
        except (ValueError, KeyError, TypeError, struct.error):  # whole, and not one of this version's
            self._store.not_understood(self._kind, again=again)
            return None

    def keep(self, key: str, value: Value, turn: Turn[Any] | None = None) -> None:
        """Keeps a value for good; whoever waits in other processes goes on once it can be read."""
        if self._store is not None:
            release = None if turn is None else turn.handed_over()
            self._store.put(self._kind, key, self._codec.encode(value), release)
