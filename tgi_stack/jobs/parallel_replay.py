"""Rows that are in the cache, answered ahead of all others by processes of their own: a rerun on all cores.

Each process reads the same input and answers its share of the rows, as far as the cache alone can (see
`replay_worker`). What it leaves out, for whatever reason, the run itself answers afterwards: it finds which
rows are done as it does after it was killed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cache.store import Store
from tgi_stack.backends.base import Backend
from tgi_stack.images.pipe import framed, kill, next_part
from tgi_stack.images.pool import cores
from tgi_stack.jobs.pipeline import Tally
from tgi_stack.jobs.spec import JobSpec
from tgi_stack.rows.columns import Wanted
from tgi_stack.rows.output import Output
from tgi_stack.rows.reader import File, Source, state_of

MOST_PROCESSES = 4  # each holds 60 MB, and what ids stand for
MOST_ITEM_BYTES = 64 * 2**20
BUFFER_BYTES = 2**22


class Ahead:
    """Processes that answer rows from the cache.

    Args:
        asked: what each process is told; see `replay_worker`.
        source: whose rows are answered.
        sink: takes the records.
    """

    def __init__(self, asked: dict[str, Any], source: Source, sink: Output, store: Store) -> None:
        self._asked = asked
        self._source = source
        self._sink = sink
        self._store = store
        self._early = bytearray()  # by row number

    @classmethod
    def of(
        cls, recipe: JobSpec, source: Source, sink: Output, store: Store, backend: Backend
    ) -> Ahead | None:
        """None where processes gain nothing, or the sources can't be read by others."""
        sources = [_told(one) for one in (source, *recipe.items)]
        large = sum(one.path.stat().st_size for one in recipe.items if isinstance(one, File))
        if processes() < 2 or None in sources or large > MOST_ITEM_BYTES or recipe.settings.item_images:
            return None
        asked = {
            "name": recipe.name,
            "settings": recipe.settings.model_dump(mode="json"),
            "base": str(recipe.base),
            "template": recipe.template,
            "source": sources[0],
            "items": sources[1:],
            "identity": asdict(backend.identity),
            "profile": backend.profile.described(),
            "directory": str(store.directory),
        }
        return cls(asked, source, sink, store)

    def did(self, number: int) -> bool:
        """Whether a row was answered here."""
        return number < len(self._early) and bool(self._early[number])

    async def run(
        self, after: int, tally: Tally, progress: Callable[[Tally], None], stop: asyncio.Event
    ) -> None:
        """Answers what the cache can of the rows behind one's number; returns early once `stop` is set."""
        over = asyncio.Event()
        relay = asyncio.create_task(_pass_on(stop, over))
        asked = self._asked | {"after": after}
        many = processes()
        shares = [
            asyncio.create_task(self._share(asked | {"share": [n, many]}, tally, progress, over))
            for n in range(many)
        ]
        try:
            first, _ = await asyncio.wait(shares, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            # Shares end as their processes do. They are not cancelled here: a process that nobody has waited
            # for complains on stderr once the loop is closed.
            relay.cancel()
            over.set()
            await asyncio.gather(*shares, return_exceptions=True)
        for share in (*first, *shares):  # what the others fail of may only follow from it
            share.result()

    async def _share(
        self,
        asked: dict[str, Any],
        tally: Tally,
        progress: Callable[[Tally], None],
        over: asyncio.Event,
    ) -> None:
        """One process, until it has come to its end or `over` is set."""
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "tgi_stack.jobs.replay_worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the run
                limit=BUFFER_BYTES,
            )
        except OSError:  # no more processes are allowed: the run goes through all rows itself
            return
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("started without pipes")
        stopping = asyncio.create_task(_end_at(over, process))
        try:
            process.stdin.write(framed(json.dumps(asked).encode()))
            while not over.is_set():
                head, rows, lengths, lines = [await next_part(process.stdout) for _ in range(4)]
                self._take(json.loads(head), array("q", rows), array("Q", lengths), lines, tally)
                progress(tally)
        except (asyncio.IncompleteReadError, ConnectionError):  # it has come to its end, or to grief
            return
        finally:
            stopping.cancel()
            kill(process)
            process.stdin.close()
            await _let_go(process.stdout)
            await process.wait()

    def _take(
        self, head: dict[str, Any], rows: array[int], lengths: array[int], lines: bytes, tally: Tally
    ) -> None:
        """Takes a batch; none of whose rows may have been answered by an earlier run, which `run` sees to.

        Rows of an input that was changed are left to the run, which will say so.
        """
        numbers, digests = rows[::2], rows[1::2]
        if any(number in self._sink for number in numbers) or not all(
            map(self._source.holds, numbers, digests)
        ):
            return
        self._sink.write_lines(numbers, lengths, lines)
        missing = max(numbers) + 1 - len(self._early)
        if missing > 0:
            self._early.extend(bytes(missing))
        for number in numbers:
            self._early[number] = 1
        tally.merge(head["counts"])
        self._store.counts.update(head["hits"])


async def _pass_on(first: asyncio.Event, second: asyncio.Event) -> None:
    await first.wait()
    second.set()


async def _let_go(stream: asyncio.StreamReader) -> None:
    """Reads what is left: a pipe that is not empty is never closed."""
    with suppress(ConnectionError):
        while await stream.read(BUFFER_BYTES):
            pass


async def _end_at(over: asyncio.Event, process: asyncio.subprocess.Process) -> None:
    await over.wait()
    kill(process)


def processes() -> int:
    """How many there are to be."""
    return min(cores(), MOST_PROCESSES)


def _told(source: Source) -> dict[str, Any] | None:
    """A source as JSON; `opened` gives it back. None for a folder: its files may be others by then."""
    if not isinstance(source, File):
        return None
    known = {
        "path": str(source.path),
        "base": str(source.base),
        "columns": source.columns,
        "kind": source.wanted.kind,
    }
    return known | {"name": source.name, "state": state_of(source.path)}


def opened(told: dict[str, Any]) -> Source | None:
    """The source that was told; None where it was changed since."""
    path = Path(told["path"])
    if told["state"] is None or state_of(path) != tuple(told["state"]):
        return None
    return File(path, Path(told["base"]), told["name"], Wanted(told["kind"], told["columns"]))
