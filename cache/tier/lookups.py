"""What many tasks ask a tier at the same time, in few questions: batches, each with a deadline.

The connections are of threads, which do nothing else. A task waits for its batch, and no longer than the
deadline: it goes on without an answer then, as it does at once where the breaker is open.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from cache.errors import RefusedTierError, TierError
from cache.tier.breaker import MOST_FAILURES, Breaker
from cache.tier.server import CONNECT_S, Server

LEAST = 64  # keys that are asked for at once, where so many are wanted within LINGER_S
LINGER_S = 0.01
DEADLINE_S = 0.25
CONNECTIONS = 2

Answers = Mapping[str, Any]
Question = Callable[[Server, Sequence[str]], Answers]


class _Batch:
    """Names that are asked for together, and the tasks that wait for some of them."""

    def __init__(self, question: Question, loop: asyncio.AbstractEventLoop) -> None:
        self.question = question
        self.loop = loop
        self.names: dict[str, None] = {}
        self.waiters: list[tuple[Sequence[str], asyncio.Future[Answers]]] = []
        self.timer: asyncio.TimerHandle | None = None
        self.server: Server | None = None
        self.is_sent = False
        self.is_settled = False

    def settle(self, found: Answers) -> None:
        """Tells those that wait."""
        self.is_settled = True
        if self.timer is not None:
            self.timer.cancel()
        for names, future in self.waiters:
            if not future.done():
                future.set_result({name: found[name] for name in names if name in found})


class Lookups:
    """Asks a tier; safe among the tasks of event loops.

    Args:
        connect: a connection, which is opened at its first use.
        probe: what is asked to see whether the tier is well.
        failed: is told why, when the tier is left alone.
    """

    def __init__(
        self,
        connect: Callable[[], Server],
        probe: Question,
        breaker: Breaker,
        failed: Callable[[TierError], None],
    ) -> None:
        self._connect = connect
        self._probe = probe
        self._breaker = breaker
        self._failed = failed
        self._gathering: dict[Question, _Batch] = {}
        self._queue: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._opened_until = time.monotonic() + CONNECT_S
        self._servers: list[Server] = []
        self._threads = [
            threading.Thread(target=self._work, name="cache tier", daemon=True) for _ in range(CONNECTIONS)
        ]
        for thread in self._threads:
            thread.start()

    async def ask(self, question: Question, names: Sequence[str]) -> Answers:
        """What the tier answers of some names, with others' in one question; less where it is not well."""
        loop = asyncio.get_running_loop()
        if self._breaker.is_open:
            if self._breaker.wants_probe():
                self._send(_Batch(self._probe, loop))
            return {}
        batch = self._gathering.get(question)
        if batch is None or batch.loop is not loop:
            batch = self._gathering[question] = _Batch(question, loop)
            loop.call_later(LINGER_S, self._send, batch)
        batch.names.update(dict.fromkeys(names))
        future: asyncio.Future[Answers] = loop.create_future()
        batch.waiters.append((names, future))
        if len(batch.names) >= LEAST and batch.timer is None:
            batch.timer = loop.call_later(0, self._send, batch)  # what comes in this moment goes with it
        return await future

    def _send(self, batch: _Batch) -> None:
        if batch.is_sent:
            return
        batch.is_sent = True
        if self._gathering.get(batch.question) is batch:
            del self._gathering[batch.question]
        wait_s = max(DEADLINE_S, self._opened_until - time.monotonic())
        batch.timer = batch.loop.call_later(wait_s, self._expire, batch)
        self._queue.put(batch)

    def _expire(self, batch: _Batch) -> None:
        if batch.is_settled:
            return
        if batch.server is not None:
            batch.server.interrupt()
        self._count(TierError("does not answer in time"))
        batch.settle({})

    def _count(self, error: TierError | None) -> None:
        if error is None:
            self._breaker.succeeded()
        # One that refuses us will do so again.
        elif self._breaker.failed(MOST_FAILURES if isinstance(error, RefusedTierError) else 1):
            self._failed(error)

    def _done(self, batch: _Batch, found: Answers, error: TierError | None) -> None:
        if not batch.is_settled:  # else it has been counted as late
            self._count(error)
            batch.settle(found)

    # -- threads -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        server = self._connect()
        self._servers.append(server)
        self._begin(server)
        while (batch := self._queue.get()) is not None:
            if batch.is_settled:
                continue
            batch.server = server
            found: Answers = {}
            error = None
            try:
                found = batch.question(server, list(batch.names))
            except TierError as failure:
                error = failure
            batch.server = None
            with suppress(RuntimeError):  # its event loop is gone
                batch.loop.call_soon_threadsafe(self._done, batch, found, error)
        server.interrupt()

    def _begin(self, server: Server) -> None:
        """Connects before the first question; a tier that is not there costs the rows no time."""
        try:
            self._probe(server, [])
        except TierError as error:
            if self._breaker.failed(MOST_FAILURES):
                self._failed(error)

    def close(self) -> None:
        """Ends the threads; one that hangs at the server is left."""
        for _ in self._threads:
            self._queue.put(None)
        for server in list(self._servers):
            server.interrupt()
