"""`--runner ray`: a job's rows in blocks through a pool of Ray Data's actors, into a folder of parts.

The run counts and checks all rows, cuts them into blocks, writes the part of each, and keeps the tally; Ray
Data hands blocks to actors, starts actors again, and moves blocks from those that died. What stays undone
because an actor could reach nobody goes round again, to any actor.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import queue
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import ray
import ray.data
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cache.system.signals import heeded
from tgi_stack import errors, logs
from tgi_stack.errors import FastqwenError, MachineError, UsageError
from tgi_stack.jobs.pipeline import Unwatched, Watcher
from tgi_stack.jobs.preparing.wire import of_items
from tgi_stack.jobs.session import Counted
from tgi_stack.jobs.sinks import inputs_of
from tgi_stack.jobs.spec import JobSpec
from tgi_stack.jobs.tally import Tally, Timeline
from tgi_stack.ray.cluster import Cluster, Crew, joined
from tgi_stack.ray.worker import AT_ONCE, Desk, Told, Worker
from tgi_stack.rows.ledger import Checked
from tgi_stack.rows.manifest import places, question
from tgi_stack.rows.parts.blocks import Block, cut
from tgi_stack.rows.parts.output import PartsOutput
from tgi_stack.rows.reader import Folder, Parts, Source
from tgi_stack.rows.stores.staging import mirror_of
from tgi_stack.settings import Settings
from tgi_stack.types import Identity

LOG = logging.getLogger(__name__)
CLOSING = logging.getLogger(logs.CLOSING)

POLL_S = 0.2
LOOK_EVERY_S = 1.0
ASK_S = 5.0
AHEAD = 2  # blocks that wait at a worker beside those it answers
END = None


@dataclass
class Scheduled(Counted[PartsOutput]):
    """A run whose rows Ray schedules.

    Attributes:
        blocks: those that have no part yet, by their first row.
        undone: why a block could not be answered, the last time one could not.
    """

    blocks: dict[int, Block] = field(default_factory=dict)
    undone: FastqwenError | None = None
    _alive: float = 0.0
    _seen: tuple[Any, int] = (None, 0)

    def answer(self) -> None:
        """Answers the counted rows; see `run`."""
        settings = self.spec.settings
        items = of_items(self.spec.joined())
        self.sink.begin(Checked(self.tally.input_rows, not settings.skip_bad_rows))
        for part in self.sink.parts:
            self.tally.ok += part.count - len(part.failed)
        self.tally.kept = self.tally.ok
        found = cut(self.source, self.tally.rows, settings.rows_per_block, self.sink.parts)
        self.blocks = {block.first: block for block in found}
        self.tally.timeline = Timeline()
        if self.blocks:
            with joined(settings), self._ended_by_signals():
                self._rounds(Cluster.now(), items)
        if self.signals:
            return
        self.source.refuse_changed()
        if self.tally.pending == 0:
            self.sink.finish(self.tally.noted())

    def _rounds(self, cluster: Cluster, items: bytes) -> None:
        crew = cluster.crew(self.spec.settings)
        LOG.info(f"Ray: {cluster.told()}; {_range(crew)} workers for {len(self.blocks):,} blocks")
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        desk = Desk.options(scheduling_strategy=here).remote(self.sink.identity)  # type: ignore[attr-defined]
        told = self._told(crew, items)
        while self.blocks and not self.signals:
            before = len(self.blocks)
            self._round(crew, told, desk)
            if len(self.blocks) == before and not self.signals:
                raise self.undone or MachineError("Ray answered no block; the same command goes on")

    def _round(self, crew: Crew, told: Told, desk: Any) -> None:
        """Every block without a part, once."""
        results: queue.Queue[Any] = queue.Queue()
        made = _dataset(self.blocks.values(), crew, told, desk)
        threading.Thread(target=_follow, args=(made, results), daemon=True).start()
        self._alive = looked = time.monotonic()
        while not self.signals:
            try:
                result = results.get(timeout=POLL_S)
            except queue.Empty:
                result = ()
            if result is END:
                return
            if isinstance(result, BaseException):
                raise result
            now = time.monotonic()
            if now - looked >= LOOK_EVERY_S:
                looked = now
                self._look(desk)
            for row in result:
                self._take(desk, row)
            self._refuse_stall()

    def _take(self, desk: Any, row: dict[str, Any]) -> None:
        """Makes a part of a block's records, or notes why there are none."""
        if row["error"]:
            told = orjson.loads(row["error"])
            self.undone = getattr(errors, told["kind"], MachineError)(told["message"])
            if told["final"]:
                raise self.undone
            LOG.warning(f"a block was not answered and goes round again: {self.undone}")
            return
        block = self.blocks.pop(row["first"], None)
        if block is None:  # Ray may run what it lost sight of twice: the first of equal parts stays
            return
        if self.sink.identity is None:
            self._look(desk)
        self.sink.write(block, row["lines"])
        self.tally.merge(orjson.loads(row["counts"]))
        self._alive = time.monotonic()
        self.watcher.update(self.tally)

    def _look(self, desk: Any) -> None:
        """Learns from the desk who answers, and whether rows are being answered."""
        try:
            identity, done = ray.get(desk.look.remote(), timeout=ASK_S)
        except RayError:  # it is being started again
            return
        if identity is not None:
            self.sink.set_identity(Identity(**identity))
        if (identity, done) != self._seen:
            self._seen, self._alive = (identity, done), time.monotonic()

    def _refuse_stall(self) -> None:
        most = self.spec.settings.stall_timeout
        if time.monotonic() - self._alive < most:
            return
        raise MachineError(
            f"no row was answered for {most:g} seconds (--stall-timeout); Ray has {Cluster.now().told()}. "
            "Finished parts are kept: the same command goes on"
        )

    def _told(self, crew: Crew, items: bytes) -> Told:
        spec, settings = self.spec, self.spec.settings
        width = None if settings.concurrency is None else math.ceil(settings.concurrency / crew.most)
        shown = settings.model_dump(mode="json")
        if settings.engine == "torch":
            shown["device"] = "cpu" if not crew.gpus else "auto" if crew.gpus <= 1 else "all"
        return Told(
            spec.name,
            shown,
            str(spec.base),
            os.getcwd(),
            spec.template,
            spec.form,
            self.source.wanted.kind,
            self.source.columns,
            items,
            crew.images,
            width,
            _preparers(settings, crew),
        )

    @contextmanager
    def _ended_by_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._interrupted) for number in heeded()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupted(self, number: int, frame: object) -> None:
        if self.signals:  # asked twice
            os._exit(128 + number)
        self.signals.append(number)
        CLOSING.info("fastqwen: finished parts are kept; once more to stop at once")


def _preparers(settings: Settings, crew: Crew) -> int:
    """Processes that prepare in each worker: one a core where a GPU outruns a process, as there it does."""
    if settings.preparers != "auto":
        return settings.preparers
    return crew.images if crew.gpus and crew.images > 1 else 0


def _range(crew: Crew) -> str:
    return f"{crew.most}" if crew.least == crew.most else f"{crew.least} to {crew.most}"


def _dataset(blocks: Any, crew: Crew, told: Told, desk: Any) -> Any:
    """What Ray Data is to do: each block one of its own, so that none waits for another."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    packed = [{"block": pickle.dumps(block)} for block in blocks]
    pool = ray.data.ActorPoolStrategy(
        min_size=crew.least,
        max_size=crew.most,
        max_tasks_in_flight_per_actor=AT_ONCE + AHEAD,
        max_concurrent_calls_per_actor=AT_ONCE,
        enable_true_multi_threading=True,
    )
    env = {} if crew.threads is None else {"env_vars": {"OMP_NUM_THREADS": str(crew.threads)}}
    return ray.data.from_items(packed, override_num_blocks=len(packed)).map_batches(
        Worker,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_args=(told, desk),
        compute=pool,
        num_cpus=crew.cpus,
        num_gpus=crew.gpus or None,
        runtime_env=env or None,
    )


def _follow(made: Any, results: queue.Queue[Any]) -> None:
    """What a thread does: puts the results of a dataset into a queue, and what ended it."""
    try:
        for batch in made.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            results.put(batch.to_pylist())
        results.put(END)
    except BaseException as error:  # noqa: BLE001  # raised by the run
        reason = str(error).strip().splitlines()
        failed = MachineError(f"Ray: {type(error).__name__}: {reason[0] if reason else ''}")
        failed.__cause__ = error
        results.put(failed)


def run(
    spec: JobSpec,
    source: Source,
    out: Path | None,
    *,
    command: list[str],
    watcher: Watcher | None = None,
    tally: Tally | None = None,
) -> Scheduled:
    """As `session.run`, by Ray; OUT is a folder of parts.

    Raises:
        FastqwenError: what concerns the whole run; finished parts are kept.
    """
    _refuse(spec)
    if out is None:
        raise UsageError("--runner ray writes a folder of parts; give -o DIR")
    mirror = mirror_of(out)
    if mirror is not None:
        mirror.fetch_all()
        out = mirror.local
    _refuse_inputs(out, spec, source)
    asked = question(spec.name, spec.settings, source, list(spec.items), spec.template, spec.form)
    sink = PartsOutput(
        out,
        asked,
        command=command,
        places=places(spec.settings, source, spec.items),
        limit=spec.settings.limit,
        overwrite=spec.settings.overwrite,
        mirror=mirror,
    )
    one = Scheduled(spec, source, sink, watcher or Unwatched(), tally or Tally())
    try:
        if one.finished:
            LOG.info(f"{out} is finished; to write it anew: --overwrite")
        else:
            one.count()
            one.answer()
    finally:
        sink.close(one.tally.noted())
    one.say_skipped()
    return one


def _refuse(spec: JobSpec) -> None:
    """Raises UsageError for options that mean nothing, or something else, on many hosts."""
    settings = spec.settings
    if settings.unordered:
        raise UsageError("--runner ray writes parts as they finish; leave out --unordered")
    if settings.offline:
        raise UsageError("--offline reads this host's cache and needs no other; leave out --runner ray")
    if settings.engine == "auto" and not settings.names_endpoints:
        raise UsageError("--runner ray looks for no servers on its hosts; give --endpoint, or --engine torch")


def _refuse_inputs(out: Path, spec: JobSpec, source: Source) -> None:
    """Raises UsageError where OUT lies in a folder that is read: its parts would be rows."""
    whole = out.resolve()
    for one in inputs_of(spec, source):
        if one.path is not None and whole in one.path.resolve().parents:
            raise UsageError(f"-o {out} holds the input {one.path} ({one.option}); give another folder")
    for folder in (read.base for read in (source, *spec.items) if isinstance(read, Folder | Parts)):
        if folder.resolve() in (whole, *whole.parents):
            raise UsageError(f"-o {out} lies in the input {folder}; give a folder elsewhere")
