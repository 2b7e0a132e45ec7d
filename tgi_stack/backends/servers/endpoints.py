"""The endpoints of a run: who is alive, what each is, and how much it takes.

Work goes to the endpoint with the least of it outstanding. One that is gone is asked again until it is back;
one that refuses every request is set aside for good; when none is left the run ends.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from cache.system import system
from tgi_stack.backends.servers.protocols.reply import ForeignReplyError, Served
from tgi_stack.backends.servers.retry import pause_s, throttled_s
from tgi_stack.errors import MachineError, ServerError

CUT = 0.7
YIELD = 0.8
LOOK_EVERY_S = 1.0
REST_S = 0.25  # of an endpoint that is gone, at least, before it is asked again
GROW = 1.25
LEAST_GAIN = 1.03  # of throughput, for which more requests in flight are worth it
FIRST = 32
FAILURES_TO_STOP = 8  # in a row: it is asked something with a known answer before anything else is sent
FOREIGN_TO_STOP = 3  # answers in a row to a probe that are another request's: no waiting mends a proxy
SHORT_TO_STOP = 40  # times in a row without a file handle, though nothing was in flight

LOG = logging.getLogger(__name__)
Clock = Callable[[], float]


class Limit:
    """How many requests an endpoint takes at once: grows with throughput, is cut once for each burst.

    Only being told that it is too much cuts it: a 5xx says nothing of how much a server can take.
    """

    def __init__(self, most: int, clock: Clock, first: int = FIRST) -> None:
        self.allowed = float(min(first, most))
        self._most = most
        self._clock = clock
        self._cut_at = self._window_at = clock()
        self._done = 0
        self._best = 0.0
        self._held = 0

    def answered(self, outstanding: int) -> None:
        """An answer came while so many requests were out, itself included."""
        self._done += 1
        if self._done < self.allowed:
            return
        now = self._clock()
        rate = self._done / max(now - self._window_at, 1e-6)
        was_full = outstanding >= int(0.9 * self.allowed)
        self._window_at, self._done = now, 0
        if not was_full:
            return
        self._held += 1
        # Now and then it is seen whether more helps by now.
        if rate > LEAST_GAIN * self._best or (self._held >= 10 and self._best < float("inf")):
            self.allowed = min(float(self._most), GROW * self.allowed + 1)
            self._held = 0
        self._best = max(rate, 0.95 * self._best)  # infinite while others wait: nothing is a gain

    def yields(self) -> None:
        """Others wait: a little less, and no more for now."""
        self.allowed = max(1.0, YIELD * self.allowed)
        self._best, self._held = float("inf"), 0

    def resumes(self) -> None:
        """Nobody waits any more."""
        if self._best == float("inf"):
            self._best = 0.0

    def shortened(self, most: int) -> None:
        """No more than so many from now on: this process can't hold more."""
        self._most = max(1, min(self._most, most))
        self.allowed = min(self.allowed, float(self._most))

    def throttled(self, sent_at: float) -> None:
        """Told to send less, about a request of that time; what was out at the last cut is one burst."""
        if sent_at >= self._cut_at:
            self.allowed = max(1.0, CUT * self.allowed)
            self._cut_at, self._best, self._held = self._clock(), 0.0, 0


@dataclass(eq=False)
class Endpoint:
    """One server, under the URL that the user gave it."""

    url: str
    served: Served
    limit: Limit
    state: str = "up"  # or `down`, or `aside`
    reason: str = ""
    outstanding: int = 0
    failures: int = 0
    paused_until: float = 0.0
    down_since: float = 0.0
    throttles: int = 0  # in a row
    answers: int = 0
    misses: int = 0  # attempts without an answer, all told
    said_gone: bool = False

    def takes(self, now: float) -> bool:
        """Whether a request may go there: after refusals for too much ever fewer, until an answer comes."""
        room = max(1, int(self.limit.allowed) >> min(self.throttles, 10))
        return self.state == "up" and self.outstanding < room and self.paused_until <= now


@dataclass
class Pool:
    """Gives out endpoints; safe among the tasks of one event loop.

    Args:
        probe: asks an endpoint something whose answer is known; raises where it is not right.
        patience_s: how long all endpoints may be gone before the run ends.
        server_load: how many requests an endpoint runs and how many wait there, whosever; None where it
            can't be told; a ServerError where it is not what it was.
    """

    endpoints: list[Endpoint]
    probe: Callable[[Endpoint], Awaitable[None]]
    patience_s: float
    server_load: Callable[[Endpoint], Awaitable[tuple[float, float] | None]] | None = None
    clock: Clock = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    rng: random.Random = field(default_factory=random.Random)
    _changed: asyncio.Event | None = None  # while somebody waits for it
    _probing: set[asyncio.Task[None]] = field(default_factory=set)
    _watching: asyncio.Task[None] | None = None
    _short: int = 0  # of file handles, times in a row
    _told_short: bool = False

    async def acquire(self) -> Endpoint:
        """The endpoint to send the next request to, once one takes it; to be given to `release`.

        Raises:
            ServerError: none is left, or all have been gone for too long.
        """
        if self.server_load is not None and self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        while True:
            now = self.clock()
            ready = [endpoint for endpoint in self.endpoints if endpoint.takes(now)]
            if ready:
                chosen = min(ready, key=lambda e: e.outstanding / e.limit.allowed)
                chosen.outstanding += 1
                return chosen
            self._refuse_hopeless(now)
            await self._wait(now)

    async def _wait(self, now: float) -> None:
        pauses = [e.paused_until - now for e in self.endpoints if e.state == "up" and e.paused_until > now]
        event = self._changed = self._changed or asyncio.Event()
        try:
            await asyncio.wait_for(event.wait(), min([*pauses, 1.0]))
        except TimeoutError:
            return

    def _refuse_hopeless(self, now: float) -> None:
        if all(e.state == "aside" for e in self.endpoints):
            raise ServerError("no endpoint is left: " + self._reasons())
        gone = [e for e in self.endpoints if e.state != "aside"]
        if all(e.state == "down" and now - e.down_since > self.patience_s for e in gone):
            raise ServerError(
                f"no endpoint has answered for {self.patience_s:g} s: {self._reasons()}; "
                "the same command goes on once they are back"
            )

    def _reasons(self) -> str:
        return "; ".join(f"{e.url}: {e.reason}" for e in self.endpoints)

    def release(self, endpoint: Endpoint) -> None:
        """To be called when a request has ended, however it did."""
        endpoint.outstanding -= 1
        self._notify()

    def answered(self, endpoint: Endpoint) -> None:
        """An answer was right."""
        endpoint.failures = endpoint.throttles = self._short = 0
        before = int(endpoint.limit.allowed)
        endpoint.limit.answered(endpoint.outstanding)
        _log(endpoint, before)

    def throttled(self, endpoint: Endpoint, sent_at: float, after_s: float | None) -> None:
        """The endpoint asked for less: nothing is sent to it for a while."""
        before = int(endpoint.limit.allowed)
        endpoint.limit.throttled(sent_at)
        _log(endpoint, before)
        if self.clock() >= endpoint.paused_until:  # the rest of a burst says nothing new
            endpoint.throttles += 1
            pause = throttled_s(after_s, endpoint.throttles, self.rng)
            endpoint.paused_until = self.clock() + pause

    def short_of_handles(self, endpoint: Endpoint, detail: str) -> None:
        """This process could not open a connection: half as many from now on, which is said once.

        Raises:
            MachineError: not one can be opened any more.
        """
        self._short += 1
        most = max(1, sum(one.outstanding for one in self.endpoints) // 2)
        if not self._told_short:
            self._told_short = True
            may = f"this process may open {system.most_files()} files (ulimit -n)"
            LOG.info(f"{detail}: {may}; {most} requests at once")
        if self._short > SHORT_TO_STOP:
            raise MachineError(
                f"{detail}: this process may open {system.most_files()} files; raise it: ulimit -n 1024"
            )
        for one in self.endpoints:
            one.limit.shortened(most)
        endpoint.paused_until = self.clock() + throttled_s(None, 1, self.rng)

    def failed(self, endpoint: Endpoint, reason: str) -> None:
        """An attempt failed, whosever fault that is; after several in a row it is found out."""
        endpoint.failures += 1
        if endpoint.failures >= FAILURES_TO_STOP:
            self.gone(endpoint, reason)

    async def is_right(self, endpoint: Endpoint, reason: str) -> bool:
        """Whether the endpoint answers the probe; set aside, for `reason`, where it refuses that as well."""
        try:
            await self.probe(endpoint)
        except ServerError:
            self.set_aside(endpoint, reason)
            return False
        except Exception:  # noqa: BLE001  # whatever it is, it is no right answer
            return False
        return True

    def gone(self, endpoint: Endpoint, reason: str) -> None:
        """The endpoint does not answer: only probes are sent until it does."""
        if endpoint.state != "up":
            return
        endpoint.state, endpoint.reason, endpoint.down_since = "down", reason, self.clock()
        task = asyncio.create_task(self._revive(endpoint))
        self._probing.add(task)
        task.add_done_callback(self._probing.discard)

    def set_aside(self, endpoint: Endpoint, reason: str) -> None:
        """The endpoint refuses every request, or is not what it was: never asked again."""
        if endpoint.state != "aside":
            endpoint.state, endpoint.reason = "aside", reason
            LOG.warning(f"{endpoint.url} is set aside: {reason}")
        self._notify()

    async def _revive(self, endpoint: Endpoint) -> None:
        if await self.is_right(endpoint, endpoint.reason):
            self._up(endpoint)  # it was the rows' fault
            return
        if endpoint.state == "down":
            endpoint.said_gone = True
            LOG.warning(f"{endpoint.url} is gone ({endpoint.reason}); trying to reach it")
        times = foreign = 0
        while endpoint.state == "down":
            # Half a second to two: first success has to follow recovery at once.
            await self.sleep(REST_S + pause_s(min(times, 2), self.rng))
            times += 1
            try:
                await self.probe(endpoint)
            except ServerError as error:
                self.set_aside(endpoint, str(error))
            except Exception as error:  # noqa: BLE001  # whatever it is, it is not back
                endpoint.reason = str(error)
                foreign = foreign + 1 if isinstance(error, ForeignReplyError) else 0
                if foreign >= FOREIGN_TO_STOP:
                    self.set_aside(endpoint, f"it gives answers of other requests ({error})")
            else:
                LOG.info(f"{endpoint.url} is back")
                self._up(endpoint)

    def _up(self, endpoint: Endpoint) -> None:
        endpoint.state, endpoint.failures, endpoint.said_gone = "up", 0, False
        self._notify()

    async def _watch(self) -> None:
        """Makes room on a server where the requests of others wait."""
        telling = set(self.endpoints)
        while telling:
            await self.sleep(LOOK_EVERY_S)
            for endpoint in [e for e in telling if e.state == "up"]:
                found = await self._crowd_of(endpoint)
                if found is None:
                    telling.discard(endpoint)
                    continue
                running, waiting = found
                others = running + waiting - endpoint.outstanding
                if waiting >= 1 and others >= 1:
                    if endpoint.limit.allowed > 1:
                        LOG.info(
                            f"{endpoint.url}: {others:.0f} requests of others, {waiting:.0f} wait; yielding"
                        )
                    endpoint.limit.yields()
                else:
                    endpoint.limit.resumes()

    async def _crowd_of(self, endpoint: Endpoint) -> tuple[float, float] | None:
        if self.server_load is None:
            return None
        try:
            return await self.server_load(endpoint)
        except ServerError as error:  # it is not what it was
            self.set_aside(endpoint, str(error))
            return 0.0, 0.0
        except Exception:  # noqa: BLE001  # whoever sends requests there will see what it is
            return 0.0, 0.0

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def aclose(self) -> None:
        """Ends the probing."""
        tasks = [*self._probing, *([self._watching] if self._watching is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _log(endpoint: Endpoint, before: int) -> None:
    now = int(endpoint.limit.allowed)
    if now != before:
        LOG.debug("%s: %d requests at once, from %d", endpoint.url, now, before)
