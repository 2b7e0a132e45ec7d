"""Where a job's records go."""

from __future__ import annotations

import asyncio
import queue
from dataclasses import replace
from pathlib import Path
from typing import Any

from tgi_stack.errors import UsageError
from tgi_stack.jobs.pipeline import Job
from tgi_stack.jobs.spec import JobSpec
from tgi_stack.rows.ledger import Discard, Sink, UnorderedFile, part_path, standard_output
from tgi_stack.rows.manifest import question
from tgi_stack.rows.output import Output
from tgi_stack.rows.reader import File, Source


class PacedSink(Discard):
    """A queue of records for one reader; rows wait while `AHEAD` records do. `None` ends it."""

    AHEAD = 256

    def __init__(self) -> None:
        self.records: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def write(self, number: int, record: dict[str, Any]) -> None:
        self.records.put(record)

    def paced(self, job: Job[Any], stop: asyncio.Event) -> Job[Any]:
        """The job, whose rows wait for the reader until `stop` is set."""

        async def answer(row: Any) -> dict[str, Any]:
            while self.records.qsize() > self.AHEAD and not stop.is_set():
                await asyncio.sleep(0.005)
            record: dict[str, Any] = await job.answer(row)
            return record

        return replace(job, answer=answer)


def open_sink(recipe: JobSpec, source: Source, out: Path | None, command: list[str]) -> Sink:
    """The sink that the job's settings ask for; without `out` standard output.

    Args:
        command: what was typed, kept beside the output.

    Raises:
        UsageError: `out` is one of the inputs, holds the answers to another question (unordered: anything) or
            has a suffix that can't be written.
        LockedError: another run writes it.
        DiskError: it, or a standard output that was closed, can't be written.
    """
    if out is None:
        return standard_output()
    _refuse_inputs(out, [source, *recipe.items])
    chosen = recipe.settings
    if chosen.unordered:
        return UnorderedFile(out, overwrite=chosen.overwrite)
    return Output(
        out,
        question(recipe.name, chosen, source, list(recipe.items)),
        source,
        command=command,
        limit=chosen.limit,
        overwrite=chosen.overwrite,
    )


def _refuse_inputs(out: Path, sources: list[Source]) -> None:
    """Nobody wants an input replaced by its own output."""
    written = [out, part_path(out), out.with_name(out.name + ".tmp")]
    for source in sources:
        if isinstance(source, File):
            for path in written:
                if path.exists() and path.samefile(source.path):
                    raise UsageError(f"-o {out} would write over the input {source.name}; give another name")
