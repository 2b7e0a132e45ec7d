"""One thread that writes, many values in a transaction."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable

LINGER_S = 0.05
MOST_IN_ONE = 2048
MOST_WAITING = 20_000  # a disk that is slower than that keeps fewer answers, and nobody waits for it

Then = Callable[[], None]
Entry = tuple[str, bytes, Then | None]
NOW: Entry = ("", b"", None)  # what stands before it is written without waiting for more


class Writer:
    """Takes values from any thread.

    Args:
        write: writes several at once.
        failed: is told what `write` raised; the thread goes on.
        done: is called by the thread when it ends.

    Attributes:
        linger_s: how long it waits for more before it writes.
    """

    def __init__(
        self, write: Callable[[dict[str, bytes]], None], failed: Callable[[Exception], None], done: Then
    ) -> None:
        self.linger_s = LINGER_S
        self._write = write
        self._failed = failed
        self._done = done
        self._queue: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._pending: dict[str, bytes] = {}
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._work, name="cache", daemon=True)
        self._thread.start()

    def put(self, name: str, blob: bytes, then: Then | None) -> bool:
        """Has a value written soon, unless too many wait; `then` is called when it was, or won't be."""
        if len(self._pending) >= MOST_WAITING:
            if then is not None:
                then()
            return False
        self._pending[name] = blob
        self._idle.clear()
        self._queue.put((name, blob, then))
        return True

    def pending(self, names: Iterable[str]) -> dict[str, object]:
        """Those of some values that are not written yet."""
        pending = self._pending
        return {name: blob for name in names if (blob := pending.get(name)) is not None} if pending else {}

    def flush(self) -> None:
        """Waits until all is written that was put."""
        if self._pending:
            self._queue.put(NOW)
        while self._pending and self._thread.is_alive():
            self._idle.wait(0.1)

    def close(self) -> None:
        """Writes what is left and ends the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        more = True
        while more:
            batch, more = self._gather()
            try:
                if batch:
                    self._write({name: blob for name, blob, _ in batch})
            except Exception as error:  # noqa: BLE001  # a thread that ended would keep nothing any more
                self._failed(error)
            finally:
                self._settle(batch)
        self._done()

    def _settle(self, batch: list[Entry]) -> None:
        for name, blob, then in batch:
            if self._pending.get(name) is blob:
                del self._pending[name]
            if then is not None:
                then()
        if not self._pending:
            self._idle.set()

    def _gather(self) -> tuple[list[Entry], bool]:
        """What came within a while; and whether more can come."""
        batch: list[Entry] = []
        until = time.monotonic() + self.linger_s
        while len(batch) < MOST_IN_ONE:
            try:
                entry = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return batch, True
            if entry is None:
                return batch, False
            if entry is NOW:
                return batch, True
            batch.append(entry)
        return batch, True
