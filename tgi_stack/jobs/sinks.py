"""Where a job's records go."""

from __future__ import annotations

import queue
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from tgi_stack.errors import UsageError
from tgi_stack.jobs.spec import JobSpec
from tgi_stack.rows.ledger import Discard, Sink, UnorderedFile, part_path, record_of, standard_output
from tgi_stack.rows.manifest import manifest_path, places, question
from tgi_stack.rows.output import Output, refuse_suffix
from tgi_stack.rows.reader import File, Parts, Source
from tgi_stack.rows.records import whole
from tgi_stack.writing import Given, refuse_folder, refuse_inputs


class PacedSink(Discard):
    """A queue of records for one reader; it is full while `AHEAD` of them wait. `None` ends it.

    Attributes:
        table: the job whose records are rows of a table (`records.whole`); None for records as they are.
    """

    AHEAD = 256

    def __init__(self) -> None:
        self.records: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.table: str | None = None

    @property
    def is_full(self) -> bool:
        return self.records.qsize() > self.AHEAD

    def write(self, number: int, record: dict[str, Any]) -> None:
        self.records.put(record if self.table is None else whole(self.table, record))

    def write_lines(
        self, numbers: Sequence[int], lengths: Sequence[int], lines: bytes, failed: Container[int] = ()
    ) -> None:
        for number, line in zip(numbers, lines.splitlines(keepends=True), strict=True):
            self.write(number, orjson.loads(record_of(line)))


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
    refuse_folder("-o", out)
    also = (part_path(out), manifest_path(out))
    refuse_inputs("-o", out, inputs_of(recipe, source), also)
    if among := next((one for one in (source, *recipe.items) if one.takes(out)), None):
        raise UsageError(
            f"-o {out} would be read as rows of the input {among.name}; give a place outside of it"
        )
    chosen = recipe.settings
    if chosen.unordered:
        if out.suffix.lower() == ".parquet":
            raise UsageError(f"-o {out}: --unordered streams JSON lines; give .jsonl, or leave it out")
        refuse_suffix(out, (".jsonl",))
        return UnorderedFile(out, overwrite=chosen.overwrite)
    return Output(
        out,
        question(recipe.name, chosen, source, list(recipe.items), recipe.template, recipe.form),
        source,
        command=command,
        places=places(chosen, source, recipe.items),
        limit=chosen.limit,
        overwrite=chosen.overwrite,
    )


def inputs_of(recipe: JobSpec, source: Source) -> Iterator[Given]:
    """Every file that a run reads, but the images of rows."""
    for option, one in (("INPUT", source), *(("--items", one) for one in recipe.items)):
        if isinstance(one, File):
            yield Given(option, None if one.is_standard_input else one.path)
        elif isinstance(one, Parts):
            yield from (Given(option, path) for path in one.paths)
    yield from (Given(option, path) for option, path in recipe.settings.files)
