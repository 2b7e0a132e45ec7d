"""What an actor of the pool does: it holds one session of ours and answers blocks of rows."""

from __future__ import annotations

import logging
import os
import pickle
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import ray

from tgi_stack import __version__
from tgi_stack.errors import FastqwenError, UsageError
from tgi_stack.jobs.preparing.wire import items_of
from tgi_stack.jobs.spec import JobSpec, Name
from tgi_stack.jobs.standing import Standing
from tgi_stack.jobs.tally import Tally
from tgi_stack.ray.servers import with_living_servers
from tgi_stack.rows import jsonl
from tgi_stack.rows.columns import Kind, Wanted
from tgi_stack.rows.parts.blocks import Block, read
from tgi_stack.settings import Settings

LOG = logging.getLogger(__name__)

AT_ONCE = 2  # blocks of a worker: one begins while the last rows of another are out
PAUSES_S = (1.0, 3.0, 9.0)  # before a block that could not be answered is tried again
REPORT_EVERY_S = 1.0
RESULT = pa.schema(
    [("first", pa.int64()), ("lines", pa.large_binary()), ("counts", pa.binary()), ("error", pa.binary())]
)


@dataclass(frozen=True)
class Told:
    """What a worker is told about the job; nothing of it is shown.

    Attributes:
        cwd: where the run was started: relative paths begin there, where the host has it.
        items: what ids stand for; see `wire.of_items`.
        width: rows at work in a worker; None for as many as suit who computes.
        preparers: processes that prepare the rows of a large block.
    """

    name: Name
    settings: dict[str, Any] = field(repr=False)
    base: str
    cwd: str
    template: str | None = field(repr=False)
    form: str | None = field(repr=False)
    kind: Kind | None
    columns: dict[str, str]
    items: bytes = field(repr=False)
    images: int
    width: int | None
    preparers: int = 0
    version: str = __version__

    def spec(self) -> JobSpec:
        """The job."""
        settings = Settings.model_validate(self.settings)
        return JobSpec(self.name, settings, Path(self.base), (), self.template, self.form)


@ray.remote(num_cpus=0, max_restarts=-1)
class Desk:
    """Where workers agree on who answers, and report how far they are; on the host of the run.

    Args:
        identity: who has answered earlier parts of the output.
    """

    def __init__(self, identity: dict[str, Any] | None) -> None:
        self._identity = identity
        self._done: dict[str, int] = {}

    def claim(self, identity: dict[str, Any]) -> dict[str, Any]:
        """Who answers: the first that was claimed."""
        self._identity = self._identity or identity
        return self._identity

    def heard(self, worker: str, done: int) -> None:
        """Notes how many rows a worker has answered."""
        self._done[worker] = done

    def look(self) -> tuple[dict[str, Any] | None, int]:
        """Who answers, and how many rows have been answered."""
        return self._identity, sum(self._done.values())


class Worker:
    """One actor."""

    def __init__(self, told: Told, desk: Any) -> None:
        self._told = told
        self._desk = desk
        self._wanted = Wanted(told.kind, told.columns)
        self._standing: Standing | None = None
        self._agreed = False
        self._key = f"{os.getpid()}-{time.monotonic_ns()}"
        self._done, self._reported_at = 0, 0.0
        if told.version == __version__:
            with suppress(OSError):
                os.chdir(told.cwd)
            spec = told.spec()
            spec = replace(spec, settings=with_living_servers(spec.settings, spec.kind))
            self._standing = Standing(
                spec, items_of(told.items), told.images, told.width, told.preparers, self._wanted
            )

    def __call__(self, batch: Any) -> Any:
        """The records of a block as a table of one row; what ended it in their place."""
        block: Block = pickle.loads(batch.column("block")[0].as_py())  # noqa: S301  # the run's own
        try:
            lines, counts = self._patiently(block)
        except Exception as error:  # noqa: BLE001  # told to the run, which decides
            return _table(block, b"", b"", _told(error))
        return _table(block, lines, counts, b"")

    def _patiently(self, block: Block) -> tuple[bytes, bytes]:
        for pause in (*PAUSES_S, None):
            try:
                return self._answered(block)
            except Exception as error:
                if pause is None or is_final(error):
                    raise
                time.sleep(pause)
        raise AssertionError

    def _answered(self, block: Block) -> tuple[bytes, bytes]:
        standing = self._agree()
        tally = Tally()
        records = standing.answer(read(block, self._wanted), self._count)
        for record in records:
            tally.add(record)
        counts = tally.for_merge()
        return b"".join(map(jsonl.dumps, records)), orjson.dumps(counts)

    def _agree(self) -> Standing:
        """The session, once who answers in it is whom the others ask.

        Raises:
            UsageError: they are not the same.
        """
        if self._standing is None:
            raise UsageError(
                f"a host of the cluster has fastqwen {__version__}, not {self._told.version}; "
                "install the same everywhere"
            )
        if not self._agreed:
            mine = asdict(self._standing.identity())
            agreed = ray.get(self._desk.claim.remote(mine))
            if name := next((name for name in mine if mine[name] != agreed.get(name)), None):
                raise UsageError(
                    f"workers answer with different {name}: here {mine[name]!r}, elsewhere "
                    f"{agreed.get(name)!r}; "
                    "give all of them the same model and engine, or start anew with --overwrite"
                )
            self._agreed = True
        return self._standing

    def _count(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = now
            self._desk.heard.remote(self._key, self._done)


def is_final(error: Exception) -> bool:
    """Whether it would come again wherever the block is tried."""
    return isinstance(error, UsageError)


def _told(error: Exception) -> bytes:
    kind = type(error).__name__ if isinstance(error, FastqwenError) else "MachineError"
    text = str(error) if isinstance(error, FastqwenError) else f"{type(error).__name__}: {error}"
    return orjson.dumps({"kind": kind, "message": text, "final": is_final(error)})


def _table(block: Block, lines: bytes, counts: bytes, error: bytes) -> Any:
    columns = {"first": [block.first], "lines": [lines], "counts": [counts], "error": [error]}
    return pa.table(columns, schema=RESULT)
