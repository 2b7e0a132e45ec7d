"""One run of a job: rows through the crew to the sink, counted."""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Any, Generic, Protocol, TypeVar

from tgi_stack import scoring
from tgi_stack.errors import RowError
from tgi_stack.fanout import fan_out
from tgi_stack.rows.ledger import Sink
from tgi_stack.rows.reader import RawRow, Source, check, id_of
from tgi_stack.settings import Settings


class Row(Protocol):
    """What every row has."""

    @property
    def number(self) -> int: ...

    @property
    def id(self) -> str: ...


DRAIN_S = 8.0  # a container engine kills ten seconds after it asked
MOST_AT_ONCE = 16_384
OWN_FILES = 128  # of the run itself: input, output, cache, image processes

FLAG_NOTES = {
    "labels.spaced_likelier": ": with a space before them the labels are likelier; try ' A' in place of 'A'",
}

AnyRow = TypeVar("AnyRow", bound=Row)
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
    about: Callable[[AnyRow], Record] = lambda row: {}
    aclose: Callable[[], Awaitable[None]] = _nothing


@dataclass
class Tally:
    """What became of the rows; ok + failed + pending == rows."""

    rows: int = 0
    input_rows: int = 0  # rows may be fewer, by --limit
    ok: int = 0
    kept: int = 0  # of the ok, those of an earlier run
    cached: int = 0
    failed: int = 0
    flags: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    positions: list[tuple[float, int]] = field(default_factory=list)  # sums of probabilities, and reads

    @classmethod
    def of(cls, counts: dict[str, Any]) -> Tally:
        """The tally that `as_dict` was made of, all of it kept from then."""
        numbers = {name: counts[name] for name in ("rows", "input_rows", "ok", "cached", "failed")}
        return cls(**numbers, kept=counts["ok"])

    @property
    def pending(self) -> int:
        return self.rows - self.ok - self.failed

    def add(self, record: Record) -> None:
        """Counts one record."""
        self.flags.update(record.get("flags", ()))
        if record["status"] == "ok":
            self.ok += 1
            self.cached += bool(record.get("from_cache"))
            if len(record.get("reads", ())) > 1 and "window" not in record:
                self._add_positions(record["reads"])
        else:
            self.failed += 1
            self.failures[record["error"]["type"]] += 1

    def _add_positions(self, reads: list[Record]) -> None:
        for read in reads:
            if len(read["order"]) < 2:
                continue
            for place, probability in enumerate(scoring.softmax(read["logprobs"])):
                if place == len(self.positions):
                    self.positions.append((0.0, 0))
                total, count = self.positions[place]
                self.positions[place] = (total + probability, count + 1)

    def notes(self) -> Iterator[str]:
        """What else the closing summary says: flags, and what positions have to do with probabilities."""
        for flag, count in self.flags.most_common():
            yield f"{count:,} x {flag}{FLAG_NOTES.get(flag, '')}"
        if self.positions:
            means = (
                f"{place}: {total / count:.3f}" for place, (total, count) in enumerate(self.positions, 1)
            )
            yield f"mean probability by position in the prompt: {', '.join(means)}"

    def line(self) -> str:
        """The line of conservation that ends every run."""
        return (
            f"{self.rows:,} rows: {self.ok:,} ok ({self.cached:,} from cache), "
            f"{self.failed:,} failed, {self.pending:,} pending"
        )

    def as_dict(self) -> dict[str, Any]:
        """The counts, for --json."""
        counts = {
            name: getattr(self, name)
            for name in ("rows", "input_rows", "ok", "kept", "cached", "failed", "pending")
        }
        means = [total / count for total, count in self.positions]
        return counts | {
            "flags": dict(self.flags),
            "failures": dict(self.failures),
            **({"mean_probability_by_position": means} if means else {}),
        }


def within_limits(settings: Settings, say: Callable[[str], None]) -> Settings:
    """The settings with a --concurrency that this machine can bear: a row at work holds a socket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_AT_ONCE + OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = MOST_AT_ONCE if soft == resource.RLIM_INFINITY else min(MOST_AT_ONCE, max(1, soft - OWN_FILES))
    if settings.concurrency is None or settings.concurrency <= most:
        return settings
    say(f"--concurrency {settings.concurrency:,} is more than can be open at once here; {most:,} it is")
    return settings.model_copy(update={"concurrency": most})


def count(
    parse: Callable[[RawRow], Any], source: Source, settings: Settings, tally: Tally, known: int | None = None
) -> None:
    """Looks at all rows of a source before the first request, and counts them into `tally`.

    Args:
        known: how many there are, where an earlier run looked at the same input.

    Raises:
        InputError: see `reader.check`.
    """
    if known is None:
        known = check(source, parse, skip_bad_rows=settings.skip_bad_rows)
    tally.input_rows = known
    tally.rows = tally.input_rows if settings.limit is None else min(tally.input_rows, settings.limit)


async def run(
    job: Job[AnyRow],
    source: Source,
    sink: Sink,
    settings: Settings,
    tally: Tally,
    progress: Callable[[Tally], None] = lambda tally: None,
    stop: asyncio.Event | None = None,
) -> None:
    """Answers the rows that `count` counted; `tally` stays true if the run is cut short.

    Args:
        stop: set to have no more rows begun; those in flight are finished within DRAIN_S seconds.
    """
    stop = stop or asyncio.Event()

    def pending() -> Iterator[RawRow]:
        for raw in islice(source.rows(sink.is_done), settings.limit):
            if raw.value is None or sink.is_done(raw.number):
                tally.ok += 1
                tally.kept += 1
            else:
                yield raw

    async def work(raw: RawRow) -> tuple[int, Record]:
        return raw.number, await _answer(job, raw)

    def emit(result: tuple[int, Record]) -> None:
        sink.write(*result)
        tally.add(result[1])
        progress(tally)

    workers = settings.concurrency or job.workers
    try:
        await _until(stop, fan_out(_unless(stop, pending()), work, emit, workers=workers))
    finally:
        await job.aclose()
    if tally.pending == 0:
        sink.finish(tally.as_dict())


def _unless(stop: asyncio.Event, rows: Iterator[RawRow]) -> Iterator[RawRow]:
    """The rows, until a stop is asked for."""
    return takewhile(lambda _: not stop.is_set(), rows)


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Runs the crew; once a stop is asked for, what is in flight has DRAIN_S seconds to finish."""
    crew = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({crew, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not crew.done():
        await asyncio.wait({crew}, timeout=DRAIN_S)
    if not crew.done():
        crew.cancel()
        await asyncio.wait({crew})
        return
    await crew


async def _answer(job: Job[AnyRow], raw: RawRow) -> Record:
    try:
        row = job.parse(raw)
    except RowError as error:
        return _failure(id_of(raw), raw.number, error)
    try:
        return {"id": row.id, "status": "ok", **await job.answer(row)}
    except RowError as error:
        return _failure(row.id, raw.number, error) | job.about(row)


def _failure(id: str | None, number: int, error: RowError) -> Record:
    """The record of a failed row; its id is null where none could be read."""
    record: Record = {
        "id": id,
        "status": "failed",
        "error": {"type": error.type, "message": str(error), "row": number},
        "attempts": error.attempts,
    }
    return record | ({"flags": list(error.flags)} if error.flags else {})
