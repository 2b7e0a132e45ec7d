"""Processes that prepare a run's rows, seen from the run: it hands rows out, computes, and takes records.

The run owns the engine or the sockets and keeps order, ledger and tally. A process that is killed costs what
it had in hand: the run answers that itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from array import array
from collections import OrderedDict
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from cache.store import Store
from cache.system import system
from cache.tier.store import TieredStore
from tgi_stack.backends.base import Backend, Replaced
from tgi_stack.concurrency import cores, first_of
from tgi_stack.errors import RowError, is_certain
from tgi_stack.images.pipe import Watch, framed, kill, next_part, stream_of
from tgi_stack.jobs.pipeline import LOOK_EVERY_S, Watcher
from tgi_stack.jobs.preparing.forwarded import TierOf
from tgi_stack.jobs.preparing.wire import (
    BUFFER_BYTES,
    Plain,
    caption_request,
    of_answer,
    of_items,
    packed,
    score_request,
    unpacked,
)
from tgi_stack.jobs.rerank.items import Items
from tgi_stack.jobs.spec import JobSpec
from tgi_stack.jobs.tally import Tally
from tgi_stack.rows.columns import Wanted
from tgi_stack.rows.formats import form_of
from tgi_stack.rows.ledger import Sink
from tgi_stack.rows.reader import File, Line, Source, UnreadRow
from tgi_stack.settings import Settings

LOG = logging.getLogger(__name__)

MOST = 16
LEAST_ROWS = 2048  # fewer are answered sooner than other processes are started
PIPE_BYTES = 2**18  # the records of a message: whoever prepared them goes on while the run reads
BLOCK = 32  # rows that are handed out together
AHEAD = 2  # blocks that wait in a process
REMEMBERED = 4096  # answers, for equal questions of several processes
REMEMBERED_KINDS = frozenset({"scores", "caption"})
MOST_ITEM_BYTES = 2**28  # of all processes together: they are held in each


@dataclass(eq=False)
class _Process:
    """One of them: its pipes, the rows it has in hand, and the answers that wait to be sent."""

    process: asyncio.subprocess.Process
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    rows: dict[int, UnreadRow] = field(default_factory=dict)
    answers: list[tuple[int, Plain]] = field(default_factory=list)
    tier: TierOf | None = None
    is_told: bool = False  # that there are no more rows


class Preparers:
    """Answers rows by processes.

    Args:
        many: how many there are to be.
        concurrency: how many rows may be at work in all of them.

    Attributes:
        left: rows that the run has to answer itself.
    """

    def __init__(
        self,
        spec: JobSpec,
        wanted: Wanted,
        items: Items,
        backend: Backend,
        store: Store | None,
        many: int,
        concurrency: int,
    ) -> None:
        self.left: list[UnreadRow] = []
        self._backend = backend
        self._store = store
        self._items = of_items(items)
        bearable = MOST_ITEM_BYTES // max(1, len(self._items))
        self._many = max(1, min(many, concurrency, bearable))
        self._concurrency = concurrency
        self._hello = _hello(spec, wanted, backend, self._many)
        self._hello["tier"] = "".join(store.tier.letters) if isinstance(store, TieredStore) else ""
        self._known: OrderedDict[bytes, Plain] = OrderedDict()
        self._waiting: dict[bytes, list[tuple[_Process, int]]] = {}
        self._said: set[tuple[str, str]] = set()
        self._ending: list[asyncio.Task[None]] = []

    async def run(
        self, rows: Iterator[UnreadRow], sink: Sink, tally: Tally, watcher: Watcher, stop: asyncio.Event
    ) -> None:
        """Has rows answered until there are none, or `stop` is set; those in hand are finished then.

        Raises:
            Exception: what the backend raises for all rows, and what the sink can't write.
        """
        self._rows, self._sink, self._tally, self._watcher, self._stop = rows, sink, tally, watcher, stop
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for number in range(self._many):
                    width = len(range(number, self._concurrency, self._many))
                    group.create_task(self._one(width))
        except BaseExceptionGroup as several:
            raise first_of(several) from None
        finally:  # not of the group, which cancels: a process that nobody waits for complains later
            await asyncio.gather(*self._ending)

    # -- one process -------------------------------------------------------------------------------------

    async def _one(self, width: int) -> None:
        """One process from its start to its end; rows that it was given and did not answer are `left`."""
        try:
            process, stdout = await _started()
        except OSError:  # no more processes are allowed: the others go on, or the run itself
            return
        if process.stdin is None:
            raise RuntimeError("started without a pipe")
        tier = TierOf(self._store) if isinstance(self._store, TieredStore) else None
        one = _Process(process, process.stdin, stdout, tier=tier)
        stopping = asyncio.create_task(self._stopping(one))
        watch = Watch(process, "prepares rows")
        try:
            told = json.dumps(self._hello | {"width": width}).encode()
            one.stdin.write(framed(told, self._backend.profile.tokenizer.content, self._items))
            while await self._heard(one, width):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):  # it has come to grief
            LOG.debug("a process that prepares rows has ended early; the run answers what it had in hand")
        finally:
            stopping.cancel()
            watch.cancel()
            if tier is not None:
                tier.close()
            if not self._stop.is_set():
                self.left += one.rows.values()
            self._ending.append(asyncio.create_task(_end(one)))

    async def _heard(self, one: _Process, width: int) -> bool:
        """Whether there is more to hear after the next message."""
        kind, *rest = unpacked(await next_part(one.stdout))
        if kind == "questions":
            for question in rest[0]:
                self._ask(one, *question)
        elif kind == "tier" and one.tier is not None:
            for brought in one.tier.begun(rest[0]):
                self._group.create_task(self._bring(one, brought))
        elif kind == "records":
            self._take(one, *rest)
            await self._hand_out(one, width)
        elif kind == "ready":
            await self._hand_out(one, width)
        elif kind == "log":
            self._say(*rest)
        return bool(kind != "end")

    async def _hand_out(self, one: _Process, width: int) -> None:
        """Fills a process up with rows, or tells it that there are no more."""
        while len(one.rows) < width + AHEAD * BLOCK and not one.is_told:
            while self._sink.is_full and not self._stop.is_set():
                await asyncio.sleep(LOOK_EVERY_S)
            block = list(islice(self._rows, BLOCK))
            if block:
                self._hand(one, block)
            else:
                one.is_told = True
                one.stdin.write(packed("stop" if self._stop.is_set() else "end"))

    def _hand(self, one: _Process, block: list[UnreadRow]) -> None:
        rows: list[Plain] = []
        for row in block:
            if isinstance(row.value, Line):
                rows.append((row.number, *row.value))
            elif isinstance(row.value, dict):
                rows.append((row.number, row.value))
            else:
                self.left.append(row)
        try:
            message = packed("rows", rows)
        except ValueError:  # a value that is not plain: the run reads those
            self.left += [row for row in block if isinstance(row.value, dict)]
            block = [row for row in block if isinstance(row.value, Line)]
            message = packed("rows", [row for row in rows if len(row) > 2])
        one.rows.update((row.number, row) for row in block if isinstance(row.value, Line | dict))
        one.stdin.write(message)

    async def _stopping(self, one: _Process) -> None:
        await self._stop.wait()
        one.is_told = True
        one.stdin.write(packed("stop"))

    # -- what they send ----------------------------------------------------------------------------------

    def _ask(self, one: _Process, number: int, what: str, asked: bytes, content: bytes) -> None:
        """Has a question answered: by what is remembered, with an equal one that is out, or on its own."""
        if (known := self._known.get(asked)) is not None:
            self._known.move_to_end(asked)
            self._tell(one, number, known)
        elif (waiting := self._waiting.get(asked)) is not None:
            waiting.append((one, number))
        else:
            self._waiting[asked] = []
            self._group.create_task(self._answer(one, number, what, asked, content))

    async def _answer(
        self, one: _Process, number: int, what: str, asked: bytes, content: bytes, *, is_first: bool = True
    ) -> None:
        """Computes an answer, which all who wait for it are told; as in `Turns`, of a failure that is not
        certain for them they are not: each has it computed once more.
        """
        try:
            plain, is_for_all = await self._computed(what, content), True
        except RowError as error:
            plain, is_for_all = of_answer(error), is_certain(error)
        self._tell(one, number, plain)
        if plain[0] in REMEMBERED_KINDS:
            self._known[asked] = plain
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        for other, its_number in self._waiting.pop(asked) if is_first else ():
            if is_for_all:
                self._tell(other, its_number, plain)
            else:
                again = self._answer(other, its_number, what, asked, content, is_first=False)
                self._group.create_task(again)

    async def _computed(self, what: str, content: bytes) -> Plain:
        if what == "score":
            return of_answer(await self._backend.score(score_request(content)))
        if what == "caption":
            return of_answer(await self._backend.caption(caption_request(content)))
        stand_in = await self._backend.stand_in() if isinstance(self._backend, Replaced) else None
        return of_answer(stand_in)

    @staticmethod
    def _tell(one: _Process, number: int, plain: Plain) -> None:
        """Sends an answer with those that come in the same moment."""
        one.answers.append((number, plain))
        if len(one.answers) == 1:
            asyncio.get_running_loop().call_soon(Preparers._send_answers, one)

    @staticmethod
    async def _bring(one: _Process, brought: Awaitable[list[Plain]]) -> None:
        """Sends what came of asking the tier."""
        told = await brought
        if not one.stdin.is_closing():
            one.stdin.write(packed("brought", told))

    @staticmethod
    def _send_answers(one: _Process) -> None:
        answers, one.answers = one.answers, []
        if not one.stdin.is_closing():
            one.stdin.write(packed("answers", answers))

    def _take(
        self,
        one: _Process,
        numbers: list[int],
        lengths: list[int],
        lines: bytes,
        failed: list[int],
        counts: dict[str, Any],
        looked: dict[str, int],
    ) -> None:
        """Takes the records of rows that this process had in hand."""
        began = time.monotonic()
        self._sink.write_lines(array("Q", numbers), array("Q", lengths), lines, frozenset(failed))
        self._tally.spend(written_s=time.monotonic() - began)
        for number in numbers:
            del one.rows[number]
        self._tally.merge(counts)
        if self._store is not None:
            self._store.counts.update(looked)
        self._watcher.update(self._tally)

    def _say(self, name: str, level: int, message: str) -> None:
        """Says what a process has to say, once for all of them."""
        if (name, message) not in self._said:
            self._said.add((name, message))
            logging.getLogger(name).log(level, "%s", message)


def how_many(settings: Settings, rows: int) -> int:
    """How many processes are to prepare rows; 0 where the run itself is sooner done."""
    if not system.PIPES_ARE_WATCHED:
        return 0
    if settings.preparers != "auto":
        return settings.preparers
    most = min(cores(), MOST)
    return most if most > 1 and rows >= LEAST_ROWS else 0


def _hello(spec: JobSpec, wanted: Wanted, backend: Backend, many: int) -> dict[str, Any]:
    """What each process is told about the job, as JSON."""
    return {
        "name": spec.name,
        "settings": spec.settings.model_dump(mode="json", exclude={"cache_tier"}),  # the run's alone
        "base": str(spec.base),
        "template": spec.template,
        "form": spec.form,
        "kind": wanted.kind,
        "columns": wanted.columns,
        "items": [[one.digest(), _form(one), one.columns] for one in spec.items],
        "identity": asdict(backend.identity),
        "profile": backend.profile.described(),
        "takes_tokens": backend.takes_tokens,
        "replaced": isinstance(backend, Replaced),
        "images": max(1, cores() // many),
        "many": many,
    }


def _form(items: Source) -> tuple[str, str] | None:
    """How a file's bytes are read; the digest of a folder holds the names in it."""
    return form_of(items.path) if isinstance(items, File) else None


async def _started() -> tuple[asyncio.subprocess.Process, asyncio.StreamReader]:
    """A process, and what it sends; raises OSError where there may be no more."""
    ours, its = os.pipe()
    system.widen_pipe(its, PIPE_BYTES)
    with os.fdopen(its, "wb"):
        file = os.fdopen(ours, "rb")
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "tgi_stack.jobs.preparing.worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=its,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the run
            )
        except BaseException:
            file.close()
            raise
    return process, await stream_of(file, BUFFER_BYTES)


async def _end(one: _Process) -> None:
    """Kills a process, and reads what it left: a pipe that is not empty is never closed."""
    kill(one.process)
    one.stdin.close()
    with suppress(ConnectionError):
        while await one.stdout.read(BUFFER_BYTES):
            pass
    await one.process.wait()
