"""A store with a tier behind it: local first, and what the tier has comes in by the same checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cache import kinds
from cache.store import Store
from cache.tier.tier import Tier


class TieredStore(Store):
    """See `Store`, whose methods never wait for the tier; `bring` and `claim` do.

    Args:
        tier: closed with the store.
    """

    def __init__(self, directory: Path, tier: Tier, *, limit: int | None = None) -> None:
        super().__init__(directory, limit=limit)
        self.tier = tier
        self._brought: dict[str, bytes] = {}

    def get(self, kind: str, key: str, *, again: bool = False) -> bytes | None:
        """See `Store.get`; what was brought is given once, and then is in the local cache."""
        payload = self._brought.pop(kinds.named(kind).letter + key, None) if self._brought else None
        if payload is None:
            return super().get(kind, key, again=again)
        self.counts[f"{kind} hits"] += 1
        return payload

    async def bring(self, kind: str, key: str) -> bool:
        """Whether a value came from the tier: then `get` gives it."""
        name = kinds.named(kind).letter + key
        if name[0] not in self.tier.letters:
            return False
        found = (await self.found([name])).get(name)
        if found is not None:
            self._brought[name] = found
        return found is not None

    async def found(self, names: Sequence[str]) -> Mapping[str, bytes]:
        """What the tier has of some names; it is kept here from now on."""
        found = await self.tier.find(names)
        for name, payload in found.items():
            self._fill(name, payload)
        return found

    def _fill(self, name: str, payload: bytes) -> None:
        kind = kinds.of_letter(name[0])
        if self.tier.fills and kind is not None:
            super().put(kind.name, name[1:], payload)

    def not_understood(self, kind: str, key: str, *, again: bool = False) -> None:
        """See `Store.not_understood`; the tier's value may be the same, and is replaced by the next one."""
        super().not_understood(kind, key, again=again)
        name = kinds.named(kind).letter + key
        if name[0] in self.tier.letters:
            self.tier.refuse(name)

    async def claim(self, kind: str, key: str) -> bool:
        """As `bring`, where another machine computes the value; else it is one's own to compute."""
        name = kinds.named(kind).letter + key
        payload = await self.claimed(name)
        if payload is not None:
            self._brought[name] = payload
        return payload is not None

    async def claimed(self, name: str) -> bytes | None:
        """See `Tier.claim`; what came is kept here from now on."""
        if name[0] not in self.tier.letters:
            return None
        payload = await self.tier.claim(name)
        if payload is not None:
            self._fill(name, payload)
        return payload

    def release(self, kind: str, key: str) -> None:
        """Gives back the right to compute, however that ended; after `put`."""
        self.tier.release(kinds.named(kind).letter + key)

    def put(self, kind: str, key: str, payload: bytes, then: Callable[[], None] | None = None) -> None:
        """See `Store.put`; the tier comes after."""
        super().put(kind, key, payload, then)
        name = kinds.named(kind).letter + key
        if name[0] in self.tier.letters:
            self.tier.put(name, payload)

    def close(self) -> None:
        """See `Store.close`."""
        if not self.is_closed:
            for name, count in self.tier.close().items():
                self.counts[f"tier {name}"] += count
        super().close()
