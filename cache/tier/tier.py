"""A tier as one machine uses it: it looks up in batches, writes behind, agrees with others who computes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

from cache.errors import DamagedError, TierError
from cache.tier.address import Address
from cache.tier.behind import Behind, Entry
from cache.tier.breaker import Breaker
from cache.tier.lookups import Lookups
from cache.tier.server import Keep, Server
from cache.tier.values import MOST_BYTES, Asked, OtherVersionError, Seals

LOG = logging.getLogger("cache.tier")

LEASE_MS = 10_000  # that a machine that died keeps others from computing
MOST_WAIT_S = 120.0
LOOK_EVERY_S = 0.1
MOST_WRONG = 10_000  # names of values that do not hold, which a new one may replace


class Tier(Protocol):
    """What a store asks: a tier, or the process that has the connection to it.

    Names are those of the local cache: a kind's letter and a key.

    Attributes:
        letters: the kinds that are looked for and kept there.
        fills: whether what is found is to be kept in the local cache by whoever asks.
    """

    letters: frozenset[str]
    fills: bool

    async def find(self, names: Sequence[str]) -> Mapping[str, bytes]:
        """Payloads that hold, of those that are there and came in time."""

    async def claim(self, name: str) -> bytes | None:
        """The payload that another machine computed meanwhile; None for the right to compute it."""

    def release(self, name: str) -> None:
        """Gives such a right back, whatever came of it."""

    def put(self, name: str, payload: bytes) -> None:
        """Has a new value kept, soon."""

    def refuse(self, name: str) -> None:
        """What it has under a name is no value of its kind: the next one takes its place."""

    def close(self) -> Mapping[str, int]:
        """Ends it; gives its counts."""


class SharedTier:
    """A tier over the Redis protocol. Whatever it does, values are right or absent, and soon.

    Args:
        key: of the team, see `Seals`.
        letters: of the kinds that are kept there.
        writes: whether it is written to; else it is only read.

    Attributes:
        counts: of `hits`, `misses`, `wrong`, `refused`, `failures`, `written` and `dropped`.
    """

    fills = True

    def __init__(
        self, address: Address, key: bytes | None, letters: frozenset[str], *, writes: bool = True
    ) -> None:
        self.letters = letters
        self.counts: Counter[str] = Counter()
        self._address = address
        self._seals = Seals(key)
        self._wrong: set[str] = set()
        self._claimed: set[str] = set()
        self._owner = os.urandom(8).hex().encode()
        self._said: set[str] = set()
        Server(address)  # its packages are loaded here, not in a thread
        reads = Breaker()
        self._lookups = Lookups(partial(Server, address), self._probe, reads, self._left_alone)
        self._behind: Behind | None = None
        if writes:
            self._writing = Server(address)
            self._behind = Behind(self._write, self._renew, Breaker(), reads, self._not_written)

    # -- reading -----------------------------------------------------------------------------------------

    async def find(self, names: Sequence[str]) -> Mapping[str, bytes]:
        """See `Tier`."""
        found = await self._lookups.ask(self._find, names)
        self.counts["hits"] += len(found)
        self.counts["misses"] += len(names) - len(found)
        return found

    def _find(self, server: Server, names: Sequence[str]) -> dict[str, bytes]:
        asked = [self._seals.asked(name) for name in names]
        return self._opened(names, asked, server.values([one.key for one in asked]))

    def _opened(
        self, names: Sequence[str], asked: Sequence[Asked], blobs: Sequence[bytes | None]
    ) -> dict[str, bytes]:
        found = {}
        for name, one, blob in zip(names, asked, blobs, strict=True):
            if blob is None:
                continue
            try:
                found[name] = self._seals.opened(one, blob)
            except OtherVersionError:
                continue
            except DamagedError as error:
                self.counts["wrong"] += 1
                self._say(
                    f"the tier {self._address} has values that are not what was kept ({error}); none is used"
                )
                self._replace(name)
        return found

    def _replace(self, name: str) -> None:
        if len(self._wrong) < MOST_WRONG:
            self._wrong.add(name)

    def refuse(self, name: str) -> None:
        """See `Tier`."""
        self.counts["refused"] += 1
        self._replace(name)

    def _probe(self, server: Server, names: Sequence[str]) -> dict[str, bytes]:
        """A question like all others."""
        server.values([self._seals.asked("-" * 65).key])
        return {}

    # -- who computes ------------------------------------------------------------------------------------

    async def claim(self, name: str) -> bytes | None:
        """See `Tier`. A machine that died is waited for as long as its lease lasts."""
        if self._behind is None or name in self._claimed:
            return None
        until = asyncio.get_running_loop().time() + MOST_WAIT_S
        while True:
            told = (await self._lookups.ask(self._claim, [name])).get(name)
            if isinstance(told, bytes):
                self.counts["hits"] += 1
                return told
            if told is not False or asyncio.get_running_loop().time() > until:
                return None
            await asyncio.sleep(LOOK_EVERY_S)

    def _claim(self, server: Server, names: Sequence[str]) -> dict[str, bytes | bool]:
        """Of each name its payload, True for a lease that was taken, False for one that another has."""
        asked, leases = [self._seals.asked(name) for name in names], list(map(self._seals.lease, names))
        taken, blobs = server.claim(leases, [one.key for one in asked], self._owner, LEASE_MS)
        found: dict[str, bytes | bool] = dict(self._opened(names, asked, blobs))
        for name, is_taken in zip(names, taken, strict=True):
            if is_taken:
                self._claimed.add(name)
            if name not in found and is_taken is not None:
                found[name] = is_taken
            elif is_taken:
                self.release(name)
        return found

    def release(self, name: str) -> None:
        """See `Tier`."""
        if name in self._claimed and self._behind is not None:
            self._claimed.discard(name)
            self._behind.put(Entry(name, None, releases=True))

    def _renew(self) -> None:
        leases = [self._seals.lease(name) for name in list(self._claimed)]
        if leases:
            self._writing.renew(leases, self._owner, LEASE_MS)

    # -- writing -----------------------------------------------------------------------------------------

    def put(self, name: str, payload: bytes) -> None:
        """See `Tier`."""
        if self._behind is None or len(payload) > MOST_BYTES:
            return
        releases = name in self._claimed
        self._claimed.discard(name)
        self._behind.put(Entry(name, payload, releases))

    def _write(self, entries: Sequence[Entry]) -> None:
        values = {entry.name: entry.payload for entry in entries if entry.payload is not None}
        kept = []
        for name, payload in values.items():
            asked = self._seals.asked(name)
            kept.append(Keep(asked.key, self._seals.seal(asked, payload), name in self._wrong))
        self._writing.keep(kept, [self._seals.lease(entry.name) for entry in entries if entry.releases])
        self._wrong.difference_update(values)
        self.counts["written"] += len(values)

    # -- what is said ------------------------------------------------------------------------------------

    def _left_alone(self, error: TierError) -> None:
        self.counts["failures"] += 1
        self._say(
            f"the tier {self._address} {error}; the run goes on without it and looks again now and then"
        )

    def _not_written(self, error: TierError) -> None:
        self.counts["failures"] += 1
        self._say(f"the tier {self._address} {error}; new answers are kept here alone")

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            LOG.warning(line)

    def close(self) -> Mapping[str, int]:
        """Writes what is left, within a second."""
        if self._behind is not None:
            self._behind.close()
            self._writing.interrupt()
            self.counts["dropped"] += self._behind.dropped
        self._lookups.close()
        if self.counts["dropped"]:
            self._say(f"the tier {self._address}: {self.counts['dropped']:,} answers were not written to it")
        return self.counts
