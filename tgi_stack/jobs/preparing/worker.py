"""A process that prepares rows: it reads, renders, encodes and looks up, asks the run, and writes records.

It begins with what it is told about the job, as JSON, then follows the messages of `wire` on stdin. It ends
with its rows, or when the run does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from cache.system import system
from tgi_stack.answers.cache_admin import open_store
from tgi_stack.backends.offline import forbid_network
from tgi_stack.backends.work import Span
from tgi_stack.concurrency import collect_seldom, crew, give_way
from tgi_stack.images.pipe import next_part, stream_of
from tgi_stack.jobs.pipeline import Job, answered
from tgi_stack.jobs.preparing.asking import AskingBackend, AskingReplacedBackend, Outbox
from tgi_stack.jobs.preparing.forwarded import ForwardedTier
from tgi_stack.jobs.preparing.kept_rows import KeptRows
from tgi_stack.jobs.preparing.wire import BUFFER_BYTES, items_of, unpacked
from tgi_stack.jobs.spec import JobSpec
from tgi_stack.logs import ROOTS
from tgi_stack.prompting.profile import Profile
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.rows.columns import Wanted
from tgi_stack.rows.ledger import line_of
from tgi_stack.rows.reader import Line, UnreadRow, read_row
from tgi_stack.rows.records import Written
from tgi_stack.settings import Settings
from tgi_stack.types import Identity

LOG_LEVEL = logging.INFO


class Preparer:
    """One process: its job, the rows that wait here, and the workers that answer them.

    Args:
        told: what `Preparers` tells about the job.
        tokenizer: the bytes of the tokenizer.json of whoever answers.
        items: what ids stand for; see `wire.of_items`.
    """

    def __init__(self, told: dict[str, Any], tokenizer: bytes, items: bytes, out: IO[bytes]) -> None:
        settings = Settings.model_validate(told["settings"])
        self._outbox = Outbox(out)
        self._tier = ForwardedTier(self._outbox, told["tier"]) if told["tier"] else None
        self._store = self._outbox.store = open_store(settings, self._tier)
        profile = Profile.of(Tokenizer.of(tokenizer), told["profile"])
        kind = AskingReplacedBackend if told["replaced"] else AskingBackend
        self._width: int = told["width"]
        self._backend = kind(
            Identity(**told["identity"]),
            profile,
            takes_tokens=told["takes_tokens"],
            width=self._width,
            outbox=self._outbox,
        )
        spec = JobSpec(told["name"], settings, Path(told["base"]), (), told["template"], told["form"])
        self._job: Job[Any] = spec.job(self._backend, self._store, items_of(items), told["images"])
        self._kept = KeptRows.of(self._store, told)
        self._wanted = Wanted(told["kind"], told["columns"])
        self._rows: asyncio.Queue[UnreadRow | None] = asyncio.Queue()
        if self._store is not None:
            self._store.takes_turns(told["many"])
            self._store.counts.clear()  # what was looked at to begin with is counted by the run

    async def serve(self, stream: asyncio.StreamReader) -> None:
        """Answers rows until the run says that there are no more, or is gone."""
        said = Forwarded(self._outbox)
        for name in ROOTS:
            logging.getLogger(name).addHandler(said)
            logging.getLogger(name).setLevel(LOG_LEVEL)
        self._outbox.send("ready")
        working = crew([self._work() for _ in range(self._width)])
        tasks = [asyncio.create_task(what) for what in (working, self._follow(stream))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:  # the run is followed until it is gone, rows are worked on until there are none
                task.result()
            self._outbox.flush()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._job.aclose()
            if self._store is not None:
                self._store.counts.clear()  # counted by the run
                self._store.close()
        self._outbox.send("end")

    async def _follow(self, stream: asyncio.StreamReader) -> None:
        while True:
            kind, *rest = unpacked(await next_part(stream))
            if kind == "rows":
                self._take([_unread(*row) for row in rest[0]])
            elif kind in ("answers", "brought"):
                self._tell(kind, rest[0])
            elif kind == "stop":  # what was not begun is left
                while not self._rows.empty():
                    self._rows.get_nowait()
            if kind in ("end", "stop"):
                for _ in range(self._width):
                    self._rows.put_nowait(None)

    def _tell(self, kind: str, answers: list[tuple[int, Any]]) -> None:
        """What the backend, or the tier, answered."""
        for number, answer in answers:
            if kind == "answers":
                self._backend.tell(number, answer)
            elif self._tier is not None:
                self._tier.tell(number, answer)

    def _take(self, rows: list[UnreadRow]) -> None:
        """Sends the records that are kept of whole rows; the others wait for a worker."""
        began = time.monotonic()
        for row, known in zip(rows, self._known(rows), strict=True):
            if known is None:
                self._rows.put_nowait(row)
            else:
                self._send(row, known)
        self._outbox.spend(time.monotonic() - began)

    def _known(self, rows: list[UnreadRow]) -> Sequence[Written | None]:
        lines = [row.value for row in rows if isinstance(row.value, Line)]
        if self._kept is None or len(lines) < len(rows):  # no JSON lines
            return [None] * len(rows)
        return self._kept.known(lines)

    def _send(self, row: UnreadRow, found: Written, span: Span | None = None) -> None:
        self._outbox.record(row.number, line_of(row.number, *found), found.record, span)

    async def _work(self) -> None:
        """Takes a row, answers it, sends its record, and takes the next."""
        while (row := await self._rows.get()) is not None:
            span = Span()
            raw = read_row(row, self._wanted)
            found = await answered(self._job, raw)
            self._send(row, found, span)
            if self._kept is not None and isinstance(row.value, Line):
                self._kept.keep(row.value, raw, found.record)


def _unread(number: int, value: Any, *place: Any) -> UnreadRow:
    """A row as it came: a line with its place, or an object."""
    return UnreadRow(number, Line(value, *place) if place else value)


class Forwarded(logging.Handler):
    """What this process has to say is said by the run."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__(LOG_LEVEL)
        self._outbox = outbox

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one record."""
        with suppress(OSError, ValueError):
            self._outbox.send("log", record.name, record.levelno, record.getMessage())


async def _main() -> None:
    for stop in system.STOPS:
        signal.signal(stop, signal.SIG_IGN)  # the run hears them
    give_way()
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    stream = await stream_of(os.fdopen(0, "rb"), BUFFER_BYTES)
    forbid_network()
    told = json.loads(await next_part(stream))
    tokenizer, items = await next_part(stream), await next_part(stream)
    preparer = Preparer(told, tokenizer, items, out)
    collect_seldom()
    await preparer.serve(stream)


def main() -> None:
    """Serves one run."""
    try:
        asyncio.run(_main())
    except (BrokenPipeError, asyncio.IncompleteReadError):  # the run is gone
        sys.exit(1)


if __name__ == "__main__":
    main()
