"""One run of a job: rows through the crew to the sink, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from tgi_stack.errors import RowError
from tgi_stack.fanout import fan_out
from tgi_stack.rows.ledger import Sink
from tgi_stack.rows.reader import RawRow, Source, check
from tgi_stack.settings import Settings


class Row(Protocol):
    """What every row has."""

    @property
    def number(self) -> int: ...

    @property
    def id(self) -> str: ...


AnyRow = TypeVar("AnyRow", bound=Row)
Record = dict[str, Any]


@dataclass(frozen=True)
class Job(Generic[AnyRow]):
    """What makes a job: `parse` gives a row or raises a RowError; `answer` gives the fields of its record."""

    parse: Callable[[RawRow], AnyRow]
    answer: Callable[[AnyRow], Awaitable[Record]]
    workers: int


@dataclass
class Tally:
    """What became of the rows; ok + failed + pending == rows."""

    rows: int = 0
    ok: int = 0
    cached: int = 0
    failed: int = 0
    flags: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def pending(self) -> int:
        return self.rows - self.ok - self.failed

    def add(self, record: Record) -> None:
        """Counts one record."""
        self.flags.update(record.get("flags", ()))
        if record["status"] == "ok":
            self.ok += 1
            self.cached += bool(record.get("from_cache"))
        else:
            self.failed += 1
            self.failures[record["error"]["type"]] += 1

    def line(self) -> str:
        """The line of conservation that ends every run."""
        return (
            f"{self.rows:,} rows: {self.ok:,} ok ({self.cached:,} from cache), "
            f"{self.failed:,} failed, {self.pending:,} pending"
        )

    def as_dict(self) -> dict[str, Any]:
        """The counts, for --json."""
        counts = {name: getattr(self, name) for name in ("rows", "ok", "cached", "failed", "pending")}
        return counts | {"flags": dict(self.flags), "failures": dict(self.failures)}


async def run(
    job: Job[AnyRow],
    source: Source,
    sink: Sink,
    settings: Settings,
    tally: Tally,
    progress: Callable[[Tally], None] = lambda tally: None,
) -> None:
    """Answers the rows of a source and counts them into `tally`, which stays true if the run is cut short."""
    tally.rows = check(source, job.parse, skip_bad_rows=settings.skip_bad_rows)
    if settings.limit is not None:
        tally.rows = min(tally.rows, settings.limit)

    async def work(raw: RawRow) -> tuple[int, Record]:
        return raw.number, await _answer(job, raw)

    def emit(result: tuple[int, Record]) -> None:
        sink.write(*result)
        tally.add(result[1])
        progress(tally)

    await fan_out(_limited(source, settings.limit), work, emit, workers=settings.concurrency or job.workers)
    sink.finish()


def _limited(source: Source, limit: int | None) -> Iterator[RawRow]:
    return islice(source, limit)


async def _answer(job: Job[AnyRow], raw: RawRow) -> Record:
    found = raw.value.get("id") if isinstance(raw.value, dict) else None
    id = found if isinstance(found, str) else None
    try:
        row = job.parse(raw)
        id = row.id
        return {"id": id, "status": "ok", **await job.answer(row)}
    except RowError as error:
        return _failure(id, raw.number, error)


def _failure(id: str | None, number: int, error: RowError) -> Record:
    """The record of a failed row; its id is null where none could be read."""
    record: Record = {
        "id": id,
        "status": "failed",
        "error": {"type": error.type, "message": str(error), "row": number},
        "attempts": 0,
    }
    return record | ({"flags": list(error.flags)} if error.flags else {})
