"""One run of a job, for the command line, Python, benchmarks and tests alike.

A run is put together here: what this machine can bear, the rows counted, the cache, the backend, where
records go, processes that prepare rows, a stop, the speed that is noted for `--dry-run`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

from cache.store import Store
from cache.system.signals import heeded
from cache.tier.store import TieredStore
from tgi_stack import logs
from tgi_stack.answers.cache_admin import open_store
from tgi_stack.answers.tier.opening import open_run_store
from tgi_stack.backends.ahead import ahead
from tgi_stack.backends.base import Backend
from tgi_stack.backends.open import open_backend
from tgi_stack.backends.work import busy
from tgi_stack.errors import InputError, MachineError
from tgi_stack.jobs import dry_run, pipeline
from tgi_stack.jobs.pipeline import Unwatched, Watcher
from tgi_stack.jobs.preparing.preparers import Preparers, how_many
from tgi_stack.jobs.sinks import open_sink
from tgi_stack.jobs.spec import JobSpec
from tgi_stack.jobs.tally import Tally, Timeline
from tgi_stack.rows import folder
from tgi_stack.rows.ledger import Checked, Sink
from tgi_stack.rows.output import Output
from tgi_stack.rows.parts.output import PartsOutput
from tgi_stack.rows.reader import Folder, Parts, Source
from tgi_stack.rows.stores.staging import staged

LOG = logging.getLogger(__name__)
CLOSING = logging.getLogger(logs.CLOSING)
HANDLES_OF_A_RUN = 6  # of its event loop, the ledger and the cache


AnySink = TypeVar("AnySink", bound="Sink | PartsOutput")


@dataclass
class Counted(Generic[AnySink]):
    """A run that is ready to begin, whoever schedules its rows.

    Attributes:
        sink: where records go; whoever made the run closes it.
        tally: what became of the rows; true at any time.
        signals: those that asked the run to end.
    """

    spec: JobSpec
    source: Source
    sink: AnySink
    watcher: Watcher = field(default_factory=Unwatched)
    tally: Tally = field(default_factory=Tally)
    signals: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spec = replace(self.spec, settings=pipeline.within_limits(self.spec.settings))

    @property
    def finished(self) -> bool:
        """Whether an earlier run has written all of it; `tally` holds its counts then."""
        if not isinstance(self.sink, Output | PartsOutput) or self.sink.finished is None:
            return False
        self.tally = Tally.of(self.sink.finished)
        return True

    def count(self) -> None:
        """Looks at all rows before the first question.

        Raises:
            InputError: see `looking.check`.
        """
        settings = self.spec.settings
        strict = not settings.skip_bad_rows
        known = isinstance(self.sink, Output | PartsOutput) and self.sink.knows_rows(strict=strict)
        pipeline.count(self.spec.schema, self.source, settings, self.tally, known, self.spec.items)

    def say_skipped(self) -> None:
        """Says which files of the inputs were left out."""
        for source in (self.source, *self.spec.items):
            if isinstance(source, Folder | Parts) and source.skipped:
                LOG.info(f"{source.base}: skipped: {folder.told(source.skipped)}")

    def refuse_missing_rows(self) -> None:
        """Raises InputError for rows that were counted and did not come."""
        if self.tally.pending and not self.signals:
            raise InputError(f"the input changed while it was read: {self.tally.pending:,} rows are missing")


@dataclass
class Session(Counted[Sink]):
    """A run in this process.

    Attributes:
        stop: set to have no more rows begun; made in the event loop of the run.
    """

    stop: asyncio.Event | None = None

    async def answer(self, backend: Backend, store: Store | None) -> None:
        """Answers the counted rows by a backend that stays open; the speed is noted in the cache."""
        settings = self.spec.settings
        self.stop = self.stop or asyncio.Event()
        items = self.spec.joined()
        if isinstance(store, TieredStore):  # its answers come in batches, for which many rows have to wait
            backend = ahead(backend, self.spec.kind, settings.concurrency)
            settings = settings.model_copy(update={"concurrency": None})
        job = self.spec.job(backend, store, items)
        self.sink.begin(backend.identity, Checked(self.tally.input_rows, not settings.skip_bad_rows))
        others = None
        if many := how_many(settings, self.tally.rows):
            width = settings.concurrency or job.workers
            others = Preparers(self.spec, self.source.wanted, items, backend, store, many, width)
        self.tally.timeline, self.tally.backend = Timeline(), busy(backend)
        began = time.monotonic()
        await pipeline.run(job, self.source, self.sink, settings, self.tally, self.watcher, self.stop, others)
        dry_run.note_speed(store, self.spec.kind, backend, self.tally, time.monotonic() - began)

    async def answer_once(self, store: Store | None) -> None:
        """As `answer`, by a backend of its own; signals end it in order."""
        with _ended_at_once():
            backend = await open_backend(self.spec.settings, self.spec.kind, store, for_rows=True)
        try:
            with self._ended_by_signals():
                await self.answer(backend, store)
        finally:
            await backend.aclose()

    @contextmanager
    def _ended_by_signals(self) -> Iterator[None]:
        loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        for number in heeded():
            try:
                loop.add_signal_handler(number, self._interrupted, number)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda n, _: loop.call_soon_threadsafe(self._interrupted, n))
        yield
        # The handlers stay: whoever asks a second time, while the run closes, means it.

    def _interrupted(self, number: int) -> None:
        if self.signals:  # asked twice: every record written so far is whole
            os._exit(128 + number)
        self.signals.append(number)
        if self.stop is not None:
            self.stop.set()
        CLOSING.info("fastqwen: finishing what is in flight; once more to stop at once")


@contextmanager
def _ended_at_once() -> Iterator[None]:
    """Has Ctrl-C end what runs now: an event loop hears of it only when a model has been loaded."""
    before = signal.getsignal(signal.SIGINT)
    mine = threading.current_thread() is threading.main_thread() and callable(before)
    if mine:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if mine:
            signal.signal(signal.SIGINT, before)


def _refuse_few_handles() -> None:
    """An event loop that finds no handle complains in ways of its own.

    Raises:
        MachineError: too few files may be opened for a run.
    """
    spare: list[int] = []
    try:
        while len(spare) < HANDLES_OF_A_RUN:
            spare.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        raise MachineError(f"this process may open too few files for a run: {error.strerror}") from error
    finally:
        for handle in spare:
            os.close(handle)


def run(
    spec: JobSpec,
    source: Source,
    out: Path | None,
    *,
    command: list[str],
    watcher: Watcher | None = None,
    tally: Tally | None = None,
) -> Session:
    """Runs a job from its rows to its output, as `fastqwen` does, in an event loop of its own.

    Args:
        out: the file to write, or its URL in a store; None for standard output.
        command: what was typed, kept beside the output.
        tally: counts the rows, also where the run ends in an error.

    Returns:
        The session after its end: its tally, and the signals that stopped it.

    Raises:
        FastqwenError: what concerns the whole run.
    """
    with staged(out, overwrite=spec.settings.overwrite) as here:
        return _run(spec, source, here, command, watcher or Unwatched(), tally or Tally())


def _run(
    spec: JobSpec, source: Source, out: Path | None, command: list[str], watcher: Watcher, tally: Tally
) -> Session:
    sink = open_sink(spec, source, out, command)
    session = Session(spec, source, sink, watcher, tally)
    store = None
    try:
        if session.finished:
            LOG.info(f"{out} is finished; to write it anew: --overwrite")
        else:
            session.count()
            store = open_run_store(session.spec.settings)
            _refuse_few_handles()
            asyncio.run(session.answer_once(store))
    finally:
        sink.close(session.tally.noted())
        if store is not None:
            store.close()
    session.say_skipped()
    return session


def run_dry(spec: JobSpec, source: Source) -> dry_run.DryRun:
    """What a run would find in the cache and have to ask for; sends and writes nothing.

    Raises:
        FastqwenError: a bad input; nobody is known whose answers could be looked for.
    """
    tally = Tally()
    pipeline.count(spec.schema, source, spec.settings, tally, items=spec.items)
    store = open_store(spec.settings)
    try:
        return asyncio.run(dry_run.run_dry(spec, source, tally, store))
    finally:
        if store is not None:
            store.close()
