"""An engine that stays: a backend in a thread with an event loop of its own, used from any thread.

A forked child leaves what is its parent's alone and opens its own.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from cache.store import Store
from cache.system import system
from tgi_stack import settings as settings_of
from tgi_stack.answers.tier.opening import open_run_store
from tgi_stack.backends.base import Backend
from tgi_stack.backends.open import open_backend
from tgi_stack.errors import UsageError
from tgi_stack.jobs import session
from tgi_stack.jobs.dry_run import DryRun
from tgi_stack.jobs.sinks import PacedSink, open_sink
from tgi_stack.jobs.spec import JobSpec
from tgi_stack.rows.reader import Source
from tgi_stack.rows.stores.staging import staged
from tgi_stack.settings import Settings

CLOSED = "this engine was closed"
Value = TypeVar("Value")
Record = dict[str, Any]
Prepared = tuple[JobSpec, Source]


class Resident:
    """A backend of one kind in a thread's event loop, opened at first use.

    A forked child opens its own at its first use, unless torch computes. Pickled are the options alone, and
    with them a key that stands there: the other process opens its own too.

    Args:
        options: settings by their names in Python (`engine`, `model`, `endpoint`, ...), over variables and
            `fastqwen.toml` as on the command line.
    """

    _kind = "text"

    def __init__(self, **options: Any) -> None:
        unknown = options.keys() - Settings.model_fields.keys()
        if unknown:
            raise UsageError(f"unknown option {min(unknown)!r}; they are named as in fastqwen.toml")
        self._options = options
        self.settings = settings_of.load(options)
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fastqwen", daemon=True)
        self._thread.start()
        self._backend: Backend | None = None
        self._store: Store | None = None
        self._opening = asyncio.Lock()
        self._process = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self), self._options)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives back what the engine holds; it can't be used afterwards."""
        if self._closed or self._process != os.getpid():  # a forked child has not the thread
            return
        self._closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._backend is not None:
            await self._backend.aclose()
        if self._store is not None:
            self._store.close()

    def _submit(self, what: Coroutine[Any, Any, Value]) -> Future[Value]:
        if self._closed:
            what.close()
            raise UsageError(CLOSED)
        try:
            self._leave_parent()
        except UsageError:
            what.close()
            raise
        return asyncio.run_coroutine_threadsafe(what, self._loop)

    def _result(self, what: Coroutine[Any, Any, Value]) -> Value:
        """What a coroutine gives; it ends with whoever waits for it (Ctrl-C, an alarm's exception)."""
        asked = self._submit(what)
        try:
            return asked.result()
        except CancelledError as error:
            raise UsageError(CLOSED) from error
        finally:
            asked.cancel()  # of what is done, nothing

    async def _aresult(self, what: Coroutine[Any, Any, Value]) -> Value:
        """As `_result`, to be awaited."""
        asked = self._submit(what)
        try:
            return await asyncio.wrap_future(asked)
        except asyncio.CancelledError as error:
            waiting = asyncio.current_task()
            if waiting is not None and waiting.cancelling():
                raise
            raise UsageError(CLOSED) from error  # nobody gave up waiting

    def _leave_parent(self) -> None:
        """In a forked child: leaves what is the parent's alone, and starts anew."""
        with FORKS.lock:
            if self._process == os.getpid():
                return
            if self._backend is not None and self._backend.identity.engine == "torch":
                raise UsageError(
                    "torch does not go on in a forked child; make the engine in the child, or start "
                    'the child with multiprocessing.get_context("spawn")'
                )
            # What is collected would be closed, and its connections are the parent's too.
            FORKS.inherited.append((self._loop, self._thread, self._backend, self._store, self._opening))
            self._start()

    async def _opened(self) -> Backend:
        async with self._opening:
            if self._backend is None:
                if self._store is None:
                    self._store = open_run_store(self.settings)
                self._backend = await open_backend(self.settings, self._kind, self._store)
        return self._backend

    def _run(self, prepare: Callable[[], Prepared]) -> Iterator[Record]:
        """The records of a job, in the order in which they finish."""
        sink = PacedSink()
        stop = asyncio.Event()
        done = self._submit(self._produce(prepare, sink, stop))
        done.add_done_callback(lambda _: sink.records.put(None))
        process = os.getpid()
        try:
            while (record := FORKS.next_of(sink.records, process)) is not None:
                yield record
            done.result()
        except CancelledError as error:
            raise UsageError(CLOSED) from error
        finally:
            if not self._closed and process == os.getpid():
                self._loop.call_soon_threadsafe(stop.set)

    async def _produce(self, prepare: Callable[[], Prepared], sink: PacedSink, stop: asyncio.Event) -> None:
        spec, source = prepare()
        sink.table = spec.name if source.is_table else None
        one = session.Session(spec, source, sink, stop=stop)
        one.count()
        await one.answer(await self._opened(), self._store)
        one.say_skipped()

    def _write(self, prepare: Callable[[], Prepared], out: str | Path) -> dict[str, Any]:
        counts: dict[str, Any] = self._result(self._written(prepare, Path(out)))
        return counts

    async def _written(self, prepare: Callable[[], Prepared], out: Path) -> dict[str, Any]:
        spec, source = prepare()
        with staged(out, overwrite=spec.settings.overwrite) as here:
            one = session.Session(spec, source, open_sink(spec, source, here, sys.argv))
            try:
                if not one.finished:
                    one.count()
                    await one.answer(await self._opened(), self._store)
            finally:
                one.sink.close(one.tally.noted())
        one.say_skipped()
        one.refuse_missing_rows()
        return one.tally.as_dict()

    def _dry_run(self, prepare: Callable[[], Prepared]) -> dict[str, Any]:
        return asdict(self._result(self._run_dry(prepare)))

    async def _run_dry(self, prepare: Callable[[], Prepared]) -> DryRun:
        return await asyncio.to_thread(session.run_dry, *prepare())

    async def _arun(self, prepare: Callable[[], Prepared]) -> AsyncIterator[Record]:
        records = self._run(prepare)
        try:
            while (record := await asyncio.to_thread(next, records, None)) is not None:
                yield record
        finally:
            await asyncio.to_thread(records.close)  # type: ignore[attr-defined]  # a generator


class Forks:
    """What forked children must not use, and a lock of their own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inherited: list[tuple[Any, ...]] = []
        system.at_fork(after_in_child=self._in_child)

    def _in_child(self) -> None:
        self.lock = threading.Lock()

    @staticmethod
    def next_of(records: queue.Queue[Record | None], process: int) -> Record | None:
        """The next record of a run, which goes on in the process that began it alone."""
        if process != os.getpid():
            raise UsageError("this run was begun before a fork; begin another one in the child")
        return records.get()


FORKS = Forks()


def _made(engine: type[Resident], options: dict[str, Any]) -> Resident:
    """What was pickled, opened anew at its first use."""
    return engine(**options)
