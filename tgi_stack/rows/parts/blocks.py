"""Rows in blocks: cut by whoever runs the job, read by whoever answers them, each in its order.

A block of a file that can be begun anywhere (JSON lines by the byte, Parquet by the row) says where its rows
stand; of all others (CSV, compressed text, standard input, a folder of images) it carries them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Protocol

from tgi_stack.errors import DiskError, InputError
from tgi_stack.rows import jsonl, parquet
from tgi_stack.rows.columns import Wanted
from tgi_stack.rows.formats import SPOOLED, form_of, line_row
from tgi_stack.rows.reader import File, Parts, RawRow, Source, UnreadRow, read_row
from tgi_stack.rows.stores.copies import opened, origin_of, state_of
from tgi_stack.text_files import UTF_16_MARKS, as_utf_8, lines


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands.

    Attributes:
        before: numbers of rows in the files before this one.
        start: the row's first byte in JSON lines; in Parquet how many rows of the file stand before it.
        path: of the file, or its URL in a store.
        state: what told the file when the block was cut; see `state_of`.
    """

    path: str
    before: int
    start: int
    state: tuple[int, str]


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that are answered together.

    Attributes:
        first, last: their numbers in the input; blank lines between them have numbers too.
        count: how many rows they are.
        rows: where the first one stands, or all of them.
        only: places in the block, from 0, of the rows that are asked; None for all.
    """

    first: int
    last: int
    count: int
    rows: Place | tuple[UnreadRow, ...]
    only: frozenset[int] | None = None


class Done(Protocol):
    """Rows that have records; `failed` are the places, from 0, of those whose records are not ok."""

    @property
    def first(self) -> int: ...

    @property
    def last(self) -> int: ...

    @property
    def failed(self) -> frozenset[int]: ...


Mark = tuple[int, Place | UnreadRow]


def cut(source: Source, rows: int, size: int, done: Sequence[Done] = ()) -> Iterator[Block]:
    """The first rows of a source that have no ok record, in blocks.

    Args:
        rows: how many rows of the source count.
        size: rows of a block at most.
        done: in the order of their rows; one with failed rows is a block again, of those rows alone.
    """
    waiting = iter([*done, None])
    held = next(waiting)

    def of_done(mark: Mark) -> tuple[Done | None, str]:
        """What holds a row, and the file that it stands in: no block has rows of two."""
        nonlocal held
        while held is not None and mark[0] > held.last:
            held = next(waiting)
        path = mark[1].path if isinstance(mark[1], Place) else ""
        return held if held is not None and mark[0] >= held.first else None, path

    for (part, _), marks in groupby(islice(_marks(source), rows), of_done):
        if part is None:
            while block := _block(islice(marks, size)):
                yield block
        elif part.failed and (block := _block(marks, part.failed)):
            yield block


def _block(marks: Iterator[Mark], only: frozenset[int] | None = None) -> Block | None:
    first = next(marks, None)
    if first is None:
        return None
    number, place = first
    last, count, carried = number, 1, [place]
    for later, one in marks:
        last, count = later, count + 1
        if not isinstance(place, Place):
            carried.append(one)
    rows = place if isinstance(place, Place) else tuple(one for one in carried if isinstance(one, UnreadRow))
    return Block(number, last, count, rows, only)


# -- where rows stand ------------------------------------------------------------------------------------


def _marks(source: Source) -> Iterator[Mark]:
    """The rows of a source by their numbers, with where each stands, or each itself."""
    files = _files_of(source)
    markers = [_marker(path) for path in files]
    if not markers or None in markers:
        yield from ((row.number, row) for row in source.unread())
        return
    before = 0
    for path, marker in zip(files, markers, strict=True):
        state, last = state_of(origin_of(path) or str(path)), before
        for number, start in marker(path) if marker else ():
            last = before + number
            yield last, Place(origin_of(path) or str(path.resolve()), before, start, state)
        before = last


def _files_of(source: Source) -> list[Path]:
    """The user's own files that a source reads, which other hosts may read, too; else none."""
    if isinstance(source, Parts):
        return source.paths
    if isinstance(source, File) and not source.path.name.startswith(SPOOLED):
        return [source.path]
    return []


def _marker(path: Path) -> Callable[[Path], Iterable[tuple[int, int]]] | None:
    """How the rows of a file are found; None where it can't be begun anywhere."""
    if form_of(path)[0] == ".parquet":
        return lambda path: ((start + 1, start) for start in range(parquet.count(path)))
    if form_of(path) != (".jsonl", ""):
        return None
    with path.open("rb") as file:
        return None if file.read(2) in UTF_16_MARKS else _lines_of


def _lines_of(path: Path) -> Iterator[tuple[int, int]]:
    with path.open("rb") as raw:
        file = as_utf_8(raw)
        start = file.tell()
        for number, line in enumerate(lines(file, jsonl.MAX_LINE_BYTES), 1):
            if line is None or line.strip():
                yield number, start
            start = file.tell()


# -- reading ---------------------------------------------------------------------------------------------


def read(block: Block, wanted: Wanted) -> list[RawRow]:
    """The rows of a block that are asked.

    Raises:
        InputError: the file is not what it was when the block was cut, or can't be read here.
    """
    if isinstance(block.rows, Place):
        found = list(_placed(block, block.rows, wanted))
        if len(found) != block.count or state_of(block.rows.path) != block.rows.state:
            raise InputError(
                f"{block.rows.path}: the input changed while it was read; rows that were finished before are "
                "kept. Give a file that nobody writes to"
            )
    else:
        found = [read_row(row, wanted) for row in block.rows]
    if block.only is None:
        return found
    return [row for place, row in enumerate(found) if place in block.only]


def _placed(block: Block, place: Place, wanted: Wanted) -> Iterator[RawRow]:
    first, last = block.first - place.before, block.last - place.before
    try:
        with opened(place.path) as file:
            if form_of(Path(place.path))[0] == ".parquet":
                for number, value, _ in parquet.read_rows(file, place.path, (), wanted, first, last):
                    yield RawRow(place.before + number, value)
                return
            file.seek(place.start)
            found = enumerate(islice(lines(file, jsonl.MAX_LINE_BYTES), last - first + 1), first)
            for number, line in found:
                if line is None or line.strip():
                    yield RawRow(place.before + number, line_row(line, place.path, number, wanted))
    except OSError as error:
        raise DiskError(f"{place.path}: {error.strerror}; give an input that every host can read") from error
