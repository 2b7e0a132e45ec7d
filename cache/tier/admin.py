"""A tier looked after: what it holds, whether that is whole, and what goes with a revision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from cache.errors import DamagedError
from cache.keys import mark_of
from cache.tier.address import Address
from cache.tier.server import Server
from cache.tier.values import NAMESPACE, OtherVersionError, Seals

TOGETHER = 256
WAIT_S = 10.0


class TierAdmin:
    """One connection to a tier, for commands; all methods raise TierError."""

    def __init__(self, address: Address, key: bytes | None = None) -> None:
        self.address = address
        self._seals = Seals(key)
        self._server = Server(address, WAIT_S)

    def about(self) -> dict[str, Any]:
        """What the server tells of itself; hits and misses are those of all machines together."""
        told = self._server.info()
        return {
            "tier": str(self.address),
            "version": str(told.get("valkey_version") or told.get("redis_version", "unknown")),
            "entries": self._server.size(),
            "bytes": int(told.get("used_memory", 0)),
            "hits": int(told.get("keyspace_hits", 0)),
            "misses": int(told.get("keyspace_misses", 0)),
            "evicted": int(told.get("evicted_keys", 0)),
        }

    def verify(self) -> Counter[str]:
        """How many values there are: `whole`, `damaged`, and of `another version`.

        A value that another key sealed counts as damaged: nobody can tell the one from the other.
        """
        found: Counter[str] = Counter(whole=0, damaged=0)
        seen: set[bytes] = set()  # a scan may give a key twice
        for keys in self._pages(f"{NAMESPACE}:?:*"):
            for key, blob in zip(keys, self._server.values(keys), strict=True):
                if blob is not None and key not in seen:
                    seen.add(key)
                    found[self._state(key, blob)] += 1
        return found

    def _state(self, key: bytes, blob: bytes) -> str:
        try:
            self._seals.check(key, blob)
        except OtherVersionError:
            return "another version"
        except DamagedError:
            return "damaged"
        return "whole"

    def purge(self, revision: str, letters: Sequence[str]) -> int:
        """Removes the values of a model's revision; how many there were."""
        patterns = [f"{NAMESPACE}:{letter}:*{mark_of(revision)}" for letter in letters]
        return sum(self._server.remove(keys) for pattern in patterns for keys in self._pages(pattern))

    def _pages(self, pattern: str) -> Iterator[list[bytes]]:
        for page in self._server.keys(pattern):
            for start in range(0, len(page), TOGETHER):
                yield page[start : start + TOGETHER]

    def close(self) -> None:
        """Ends the connection."""
        self._server.interrupt()
