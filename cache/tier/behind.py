"""What is written to a tier: behind everybody's back, as much as it takes, in one thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cache.errors import RefusedTierError, TierError
from cache.tier.breaker import MOST_FAILURES, Breaker

MOST_WAITING = 20_000  # values
MOST_BYTES = 2**26  # of all that wait
MOST_IN_ONE = 256
MOST_BYTES_IN_ONE = 2**21
LINGER_S = 0.05
RENEW_S = 3.0
CLOSE_S = 1.0  # that the end of a run waits for what is left


class Entry(NamedTuple):
    """A value to be written (None for none), and whether the lease to compute it ends with that."""

    name: str
    payload: bytes | None = None
    releases: bool = False

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return len(self.payload or b"")


class Behind:
    """Takes values from any thread and waits for nobody.

    Args:
        write: writes several at once; raises TierError.
        renew: has leases last on; the same.
        breaker: of the writes alone: a tier that is full can still be read.
        reads: of the reads; where it is open nothing is written either.
        failed: is told why, when the tier is left alone.

    Attributes:
        dropped: how many values were not written.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Entry]], None],
        renew: Callable[[], None],
        breaker: Breaker,
        reads: Breaker,
        failed: Callable[[TierError], None],
    ) -> None:
        self.dropped = 0
        self._write = write
        self._renew = renew
        self._breaker = breaker
        self._reads = reads
        self._failed = failed
        self._queue: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = self._bytes = 0
        self._renewed_at = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="cache tier behind", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Has a value written soon, unless too much waits."""
        with self._lock:
            full = self._waiting >= MOST_WAITING or self._bytes + entry.size > MOST_BYTES
            if full and entry.payload is not None:
                self.dropped += 1
                entry = Entry(entry.name, None, entry.releases)
            self._waiting += 1
            self._bytes += entry.size
        self._queue.put(entry)

    def close(self) -> None:
        """Writes what is left, as far as a second suffices; the rest is dropped and counted.

        Nobody waits for a tier that can't be read.
        """
        self._queue.put(None)
        self._thread.join(0.0 if self._reads.is_open else CLOSE_S)
        if self._thread.is_alive():
            with self._lock:
                self.dropped += self._waiting

    def _work(self) -> None:
        more = True
        while more:
            batch, more = self._gather()
            values = sum(entry.payload is not None for entry in batch)
            try:
                if batch and self._may_write():
                    self._write(batch)
                    self._breaker.succeeded()
                    values = 0
                elif not self._breaker.is_open and time.monotonic() > self._renewed_at + RENEW_S:
                    self._renewed_at = time.monotonic()
                    self._renew()
            except TierError as error:
                if self._breaker.failed(MOST_FAILURES if isinstance(error, RefusedTierError) else 1):
                    self._failed(error)
            with self._lock:
                self.dropped += values
                self._waiting -= len(batch)
                self._bytes -= sum(entry.size for entry in batch)

    def _may_write(self) -> bool:
        return not self._reads.is_open and (not self._breaker.is_open or self._breaker.wants_probe())

    def _gather(self) -> tuple[list[Entry], bool]:
        """What came within a while; and whether more can come."""
        batch: list[Entry] = []
        size = 0
        until = time.monotonic() + LINGER_S
        while len(batch) < MOST_IN_ONE and size < MOST_BYTES_IN_ONE:
            try:
                entry = self._queue.get(timeout=max(0.0, until - time.monotonic()) if batch else RENEW_S)
            except queue.Empty:
                return batch, True
            if entry is None:
                return batch, False
            if not batch:
                until = time.monotonic() + LINGER_S
            batch.append(entry)
            size += entry.size
        return batch, True
