"""Messages over a pipe in batches: whatever comes while one batch is on its way goes with the next."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any


class Sender:
    """Sends from a thread of its own, so that nobody waits for a pipe that is full.

    What can't be sent since the other side is gone is dropped: whoever reads from it learns that.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._waiting: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="sender", daemon=True)
        self._thread.start()

    def put(self, message: tuple[Any, ...]) -> None:
        """Has a message sent; from any thread."""
        self._waiting.put(message)

    def close(self, wait_s: float) -> None:
        """Has what waits sent, then the end of it all; returns when that is done, or after `wait_s`."""
        self._waiting.put(None)
        self._thread.join(wait_s)

    def _work(self) -> None:
        with suppress(OSError, ValueError):  # closed at either side
            while batch := list(self._batch()):
                self._pipe.send(batch)
                if batch[-1] is None:
                    return

    def _batch(self) -> Iterator[tuple[Any, ...] | None]:
        yield (message := self._waiting.get())
        with suppress(queue.Empty):
            while message is not None:
                yield (message := self._waiting.get_nowait())


def received(pipe: Connection) -> Iterator[list[tuple[Any, ...]]]:
    """The batches that the other side's `Sender` sends, until it closes or is gone."""
    with suppress(EOFError, OSError):
        while True:
            batch = pipe.recv()
            if batch[-1] is None:
                yield batch[:-1]
                return
            yield batch
