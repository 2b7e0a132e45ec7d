"""One run of a job: rows through the crew to the sink, counted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Generic, Protocol, TypeVar

from cache.system import system
from tgi_stack.backends.work import Span
from tgi_stack.concurrency import crew
from tgi_stack.errors import InputError, RowError
from tgi_stack.jobs.tally import Tally
from tgi_stack.rows.ledger import Sink
from tgi_stack.rows.looking.check import check
from tgi_stack.rows.reader import Line, RawRow, Source, UnreadRow, id_of, read_row
from tgi_stack.rows.records import Written, written
from tgi_stack.rows.schema import Schema
from tgi_stack.settings import Settings

LOG = logging.getLogger(__name__)


class Row(Protocol):
    """What every row has."""

    @property
    def number(self) -> int: ...

    @property
    def id(self) -> str: ...


LOOK_EVERY_S = 0.005
TURN_S = 0.05  # without a look at signals and sockets
DRAIN_S = 8.0  # a container engine kills ten seconds after it asked
MOST_AT_ONCE = 16_384
OWN_FILES = 128  # of the run itself: input, output, cache, image processes

AnyRow = TypeVar("AnyRow", bound=Row)
OneRow = TypeVar("OneRow", RawRow, UnreadRow)
Record = dict[str, Any]


async def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Job(Generic[AnyRow]):
    """What makes a job.

    `parse` gives a row or raises a RowError; `answer` gives the fields of its record; `about` those that a
    failed row's record has too; `aclose` gives back what the job holds.
    """

    parse: Callable[[RawRow], AnyRow]
    answer: Callable[[AnyRow], Awaitable[Record]]
    workers: int
    about: Callable[[RawRow], Record] = lambda raw: {}
    aclose: Callable[[], Awaitable[None]] = _nothing


class Watcher(Protocol):
    """Looks at a run while it goes."""

    def update(self, tally: Tally) -> None:
        """Called when records have come."""


class Unwatched:
    """Nobody looks."""

    def update(self, tally: Tally) -> None:
        pass


class Others(Protocol):
    """Answers rows elsewhere, but those that it leaves to the run; see `preparing.preparers`."""

    left: list[UnreadRow]

    async def run(
        self, rows: Iterator[UnreadRow], sink: Sink, tally: Tally, watcher: Watcher, stop: asyncio.Event
    ) -> None: ...


def within_limits(settings: Settings) -> Settings:
    """The settings with a --concurrency that this machine can bear: a row at work holds a socket."""
    files = system.allow_files(MOST_AT_ONCE + OWN_FILES)
    most = MOST_AT_ONCE if files is None else min(MOST_AT_ONCE, max(1, files - OWN_FILES))
    if settings.concurrency is None or settings.concurrency <= most:
        return settings
    wanted = settings.concurrency
    LOG.warning(f"--concurrency {wanted:,} is more than can be open at once here; {most:,} it is")
    return settings.model_copy(update={"concurrency": most})


def count(
    schema: Schema,
    source: Source,
    settings: Settings,
    tally: Tally,
    known: bool = False,
    items: Sequence[Source] = (),
) -> None:
    """Looks at all rows of a source before the first request, and counts them into `tally`.

    Args:
        known: whether an earlier run looked at each row of the same input.
        items: what is read beside it, under the same --map.

    Raises:
        InputError: see `looking.check`.
    """
    for one in items:
        one.digest()  # what they hold from now on
    if known:
        tally.input_rows = source.look_again()
    else:
        tally.input_rows = check(source, schema, skip_bad_rows=settings.skip_bad_rows, others=items)
    tally.rows = tally.input_rows if settings.limit is None else min(tally.input_rows, settings.limit)


async def run(
    job: Job[AnyRow],
    source: Source,
    sink: Sink,
    settings: Settings,
    tally: Tally,
    watcher: Watcher | None = None,
    stop: asyncio.Event | None = None,
    others: Others | None = None,
) -> None:
    """Answers the rows that `count` counted; `tally` stays true if the run is cut short.

    Args:
        stop: set to have no more rows begun; those in flight are finished within DRAIN_S seconds.
        others: who answers the rows in this one's place.
    """
    stop = stop or asyncio.Event()
    begun = _Run(job, source, sink, settings, tally, watcher or Unwatched(), stop, others)
    working, stopped = asyncio.create_task(begun.all()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await asyncio.wait({working}, timeout=DRAIN_S)
        if working.done():
            await working
    finally:
        stopped.cancel()
        working.cancel()
        await asyncio.wait({working})
        await job.aclose()
    if tally.pending == 0:
        source.refuse_changed()
        sink.finish(tally.noted())
    elif not stop.is_set():
        missing = f"{tally.pending:,} rows are missing"
        raise InputError(f"{source.name}: the input changed while it was read: {missing}")


@dataclass
class _Run(Generic[AnyRow]):
    """See `run`.

    Until `turn_until` rows are answered without a look at the event loop; then it is given way.
    """

    job: Job[AnyRow]
    source: Source
    sink: Sink
    settings: Settings
    tally: Tally
    watcher: Watcher
    stop: asyncio.Event
    others: Others | None
    turn_until: float = 0.0
    gives_way: bool = False

    async def all(self) -> None:
        """Answers all rows."""
        if self.others is None:
            await crew(self._workers(self._pending(self.source.rows(self.sink))))
            return
        unread = self._pending(self.source.unread(self.sink))
        await self.others.run(unread, self.sink, self.tally, self.watcher, self.stop)
        rest = chain(self.others.left, unread)  # where all processes have come to grief
        await crew(self._workers(read_row(row, self.source.wanted) for row in self._until_stop(rest)))

    def _pending(self, rows: Iterator[OneRow]) -> Iterator[OneRow]:
        """The rows without an answer, until a stop is asked for."""
        for row in self._until_stop(islice(rows, self.tally.rows)):
            # A line that is given as such has been looked up in the sink by the source.
            if type(row.value) is Line or (row.value is not None and row.number not in self.sink):
                yield row
            else:
                self.tally.ok += 1
                self.tally.kept += 1

    def _until_stop(self, rows: Iterator[OneRow]) -> Iterator[OneRow]:
        for row in rows:
            if self.stop.is_set():
                return
            yield row

    def _workers(self, rows: Iterator[RawRow]) -> list[Coroutine[Any, Any, None]]:
        return [self._work(rows) for _ in range(self.settings.concurrency or self.job.workers)]

    async def _work(self, rows: Iterator[RawRow]) -> None:
        """One of the crew: takes a row, answers it, writes its record, and takes the next."""
        for raw in rows:
            while self.sink.is_full and not self.stop.is_set():
                await asyncio.sleep(LOOK_EVERY_S)
            span = Span()
            record, _ = await answered(self.job, raw)
            self.tally.add(record, span)
            began = time.monotonic()
            self.sink.write(raw.number, record)
            self.tally.spend(written_s=time.monotonic() - began)
            self.watcher.update(self.tally)
            await self._give_way()

    async def _give_way(self) -> None:
        """Lets the event loop hear signals and sockets now and then: answers that are there never wait."""
        if time.monotonic() < self.turn_until:
            return
        if not self.gives_way:
            self.gives_way = True
            asyncio.get_running_loop().call_soon(self._next_turn)
        await asyncio.sleep(0)

    def _next_turn(self) -> None:
        self.gives_way, self.turn_until = False, time.monotonic() + TURN_S


async def answered(job: Job[AnyRow], raw: RawRow) -> Written:
    """The record of a row, failed ones included."""
    try:
        row = job.parse(raw)
    except RowError as error:
        return written(_failure(id_of(raw), raw.number, error) | job.about(raw))
    try:
        return written({"id": row.id, "status": "ok", **await job.answer(row)})
    except RowError as error:
        return written(_failure(row.id, raw.number, error) | job.about(raw))


def _failure(id: str | None, number: int, error: RowError) -> Record:
    """The record of a failed row; its id is null where none could be read."""
    record: Record = {
        "id": id,
        "status": "failed",
        "error": {"type": error.type, "message": str(error), "row": number},
        "attempts": error.attempts,
    }
    return record | ({"flags": list(error.flags)} if error.flags else {})
