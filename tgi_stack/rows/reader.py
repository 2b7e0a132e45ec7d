"""Rows from a file, from standard input or from a folder of images, one at a time.

A source can be read several times: `schema.check` reads it through once before the first request, so that a
torn line, a missing field or a duplicate id is refused while nothing has been spent.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from tgi_stack.errors import DiskError, InputError, RowError
from tgi_stack.rows.columns import Kind, Wanted
from tgi_stack.rows.folder import ROWS, Listing, list_folder
from tgi_stack.rows.formats import json_row, read_jsonl, reader_for, unread_jsonl
from tgi_stack.text_files import PIECE_BYTES

STANDARD_INPUT = "standard input"
SPOOLED = "fastqwen-spooled-"
_spooled: list[Path] = []
SURROGATE = re.compile("[\ud800-\udfff]")
MOST_LINE_BYTES = 2**28
MOST_SPOOLED_BYTES = 2**36


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row before its fields are looked at: an object, or why it is none; None where it was skipped."""

    number: int
    value: dict[str, Any] | RowError | None


class Line(NamedTuple):
    """A row of JSON lines that is not read yet, and where it stands: `place` counts from 1 in its file."""

    content: bytes
    file: str
    place: int


class UnreadRow(NamedTuple):
    """A row that another process may read: a `Line`, or what a `RawRow` holds."""

    number: int
    value: Line | dict[str, Any] | RowError | None


class Source(Protocol):
    """Something with rows in it; iterating it again begins anew.

    Attributes:
        base: where relative paths begin.
        name: what to call it in messages.
    """

    base: Path
    name: str

    def __iter__(self) -> Iterator[RawRow]: ...

    def rows(self, done: Container[int] = ()) -> Iterator[RawRow]:
        """All rows, those whose number is in `done` without their value."""

    def unread(self, done: Container[int] = ()) -> Iterator[UnreadRow]:
        """The same rows, without the cost of reading them where that can be left to another process."""


def open_source(
    name: str,
    *,
    folders: bool = False,
    columns: Mapping[str, str] | None = None,
    kind: Kind | None = None,
) -> Source:
    """The source that an INPUT argument names: `-`, a file, or a folder: of files of rows, which are
    read as one input, or (with `folders`) of images, where it holds any.

    Args:
        columns: our name of a field -> the file's own, as `--map` gives them.
        kind: whose fields are asked for; None for all that there are.

    Raises:
        InputError: no such file, a folder with nothing in it that is taken, or a suffix that is not read.
    """
    if name == "-":
        return File(_spool(), Path.cwd(), STANDARD_INPUT, Wanted(kind, columns))
    path = Path(name)
    if path.is_dir():
        return _open_folder(path, columns, kind, pictures=folders)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_fifo():  # can be read once only
        return File(_spool(path, "".join(path.suffixes)), path.parent, str(path), Wanted(kind, columns))
    if not path.is_file():
        raise InputError(f"{path} is neither a file nor a pipe; give one, or - for standard input")
    return File(path, path.parent, str(path), Wanted(kind, columns))


def _open_folder(
    path: Path, columns: Mapping[str, str] | None, kind: Kind | None, *, pictures: bool
) -> Source:
    """Pictures, where they are taken and some are there; else the files of rows as one input."""
    found = list_folder(path)
    if pictures and (found.pictures or not found.parts):
        return Folder(path)
    if not found.parts:
        raise InputError(f"{path} is a folder without files of rows (.jsonl, .csv, .parquet); give a file")
    return Parts(path, found, columns, kind)


def _spool(path: Path | None = None, suffix: str = ".jsonl") -> Path:
    """What can be read once only, in a temporary file that goes with the process."""
    reader_for(Path(f"x{suffix or '.jsonl'}"))  # before anything is read
    handle, name = tempfile.mkstemp(prefix=SPOOLED, suffix=suffix or ".jsonl")
    _spooled.append(Path(name))
    with os.fdopen(handle, "wb") as file:
        try:
            if path is None:
                if sys.stdin is None:
                    raise InputError("standard input is closed; give a file")
                _copy(sys.stdin.buffer, file, "standard input", suffix)
            else:
                with path.open("rb") as pipe:
                    _copy(pipe, file, str(path), suffix)
        except OSError as error:
            raise DiskError(f"{path or 'standard input'}, kept in {name}: {error.strerror}") from error
    return Path(name)


def _copy(pipe: IO[bytes], file: IO[bytes], name: str, suffix: str) -> None:
    """All of a pipe; one that never ends a line, or never ends, meets a limit."""
    is_text = suffix in ("", ".jsonl", ".csv")
    size = line = 0
    while piece := pipe.read(PIECE_BYTES):
        size += len(piece)
        line = line + len(piece) if b"\n" not in piece else len(piece) - piece.rindex(b"\n") - 1
        if (is_text and line > MOST_LINE_BYTES) or size > MOST_SPOOLED_BYTES:
            most = (
                f"line of more than {MOST_LINE_BYTES:,}" if is_text else f"more than {MOST_SPOOLED_BYTES:,}"
            )
            raise InputError(f"{name}: {most} bytes; give a file")
        file.write(piece)


@atexit.register
def remove_spooled() -> None:
    """Removes the temporary files of inputs that can be read once only; called when the process ends."""
    while _spooled:
        _spooled.pop().unlink(missing_ok=True)


class File:
    """A file of rows in any of the formats."""

    def __init__(self, path: Path, base: Path, name: str, wanted: Wanted | None = None) -> None:
        self.base = base
        self.path = path
        self.name = name
        self.wanted = wanted or Wanted()
        self._state = state_of(path)
        self._read = reader_for(path)

    def is_changed(self) -> bool:
        """Whether the file is not the one that was opened: another, or written to since."""
        return state_of(self.path) != self._state

    @property
    def is_standard_input(self) -> bool:
        """Whether it is kept in a temporary file only because standard input can be read once."""
        return self.name == STANDARD_INPUT

    @property
    def columns(self) -> dict[str, str]:
        """Our names of fields -> the file's own."""
        return self.wanted.columns

    def __iter__(self) -> Iterator[RawRow]:
        return self.rows()

    def rows(self, done: Container[int] = ()) -> Iterator[RawRow]:
        for number, value in self._read(self.path, self.name, done, self.wanted):
            yield RawRow(number, value)

    def unread(self, done: Container[int] = ()) -> Iterator[UnreadRow]:
        if self._read is not read_jsonl:
            yield from (UnreadRow(raw.number, raw.value) for raw in self.rows(done))
            return
        name = self.name
        for number, line in unread_jsonl(self.path, name, done):
            yield UnreadRow(number, Line(line, name, number) if isinstance(line, bytes) else line)


class Folder:
    """The images under a folder, sorted by path; ids are paths relative to it, hidden files are left out.

    Attributes:
        skipped: how many files are no pictures, by reason; known once it was iterated.
    """

    def __init__(self, path: Path) -> None:
        self.base = path
        self.name = str(path)
        self.skipped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[RawRow]:
        return self.rows()

    def rows(self, done: Container[int] = ()) -> Iterator[RawRow]:
        found = list_folder(self.base)
        self.skipped = found.skipped
        if found.parts:
            self.skipped[ROWS] += len(found.parts)
        for number, name in enumerate(found.pictures, 1):
            yield RawRow(number, None if number in done else {"id": name, "image": name})

    def unread(self, done: Container[int] = ()) -> Iterator[UnreadRow]:
        return (UnreadRow(raw.number, raw.value) for raw in self.rows(done))


@dataclass(frozen=True, slots=True)
class _OfPart:
    """Rows of one file of a folder, by their numbers there; `before` are the rows of the files before."""

    done: Container[int]
    before: int

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self.before + number in self.done


class Parts:
    """Files of rows under a folder, sorted by path, as one input; relative paths begin at the folder.

    Attributes:
        paths: the files, as they were when it was opened.
        skipped: how many files are none, by reason.
    """

    def __init__(
        self,
        path: Path,
        found: Listing,
        columns: Mapping[str, str] | None = None,
        kind: Kind | None = None,
    ) -> None:
        self.base = path
        self.name = str(path)
        self.paths = [path / name for name in found.parts]
        self.wanted = Wanted(kind, columns)
        self.skipped = found.skipped
        self._states = [state_of(one) for one in self.paths]

    def is_changed(self) -> bool:
        """Whether a file is not what it was when the folder was opened."""
        return [state_of(one) for one in self.paths] != self._states

    @property
    def columns(self) -> dict[str, str]:
        """Our names of fields -> the files' own."""
        return self.wanted.columns

    def __iter__(self) -> Iterator[RawRow]:
        return self.rows()

    def rows(self, done: Container[int] = ()) -> Iterator[RawRow]:
        before = 0
        for path in self.paths:
            last = before
            for raw in self._file(path).rows(_OfPart(done, before)):
                last = before + raw.number
                yield RawRow(last, raw.value)
            before = last

    def unread(self, done: Container[int] = ()) -> Iterator[UnreadRow]:
        before = 0
        for path in self.paths:
            last = before
            for number, value in self._file(path).unread(_OfPart(done, before)):
                last = before + number
                yield UnreadRow(last, value)
            before = last

    def _file(self, path: Path) -> File:
        return File(path, self.base, str(path), self.wanted)


def read_row(row: UnreadRow, wanted: Wanted) -> RawRow:
    """The row, read."""
    value = row.value
    if isinstance(value, Line):
        return RawRow(row.number, json_row(value.content, value.file, value.place, wanted))
    return RawRow(row.number, value)


def state_of(path: Path) -> tuple[int, ...] | None:
    """What tells a file from another one, and from itself before it was written to; None where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    # Times of content can be set back; those of the file itself can not.
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def refuse_changed(source: Source) -> None:
    """Raises InputError where an input is no longer what was checked."""
    if isinstance(source, File | Parts) and source.is_changed():
        raise InputError(
            f"{source.name}: the input changed while it was read; rows that were finished before are kept. "
            "Give a file that nobody writes to"
        )


def as_id(found: object) -> str | None:
    """An id as it stands in records: integers as their decimal digits; None for what is no id."""
    if type(found) is int:
        return str(found)
    return found if isinstance(found, str) and found and not SURROGATE.search(found) else None


def id_of(raw: RawRow) -> str | None:
    """The id of a row that may be wrong in other ways, where one can be read."""
    return as_id(raw.value.get("id")) if isinstance(raw.value, dict) else None


class BadRows:
    """The first rows that are wrong, by the type of what is wrong with them."""

    MOST = 10

    def __init__(self, what: str) -> None:
        self._what = what
        self._counts: Counter[str] = Counter()
        self._first: list[tuple[str, str]] = []

    def add(self, place: str, error: RowError) -> None:
        """Takes note of one."""
        self._counts[error.type] += 1
        if len(self._first) < self.MOST:
            self._first.append((error.type, f"{place}: {error}"))

    def refuse(self) -> None:
        """Raises InputError if there was any: one in a line, of several a list."""
        total = self._counts.total()
        advice = "to record each as failed: --skip-bad-rows"
        if total == 1:
            raise InputError(f"{self._first[0][1]} ({advice})")
        if total:
            lines = [f"{total:,} {self._what} can't be read ({advice})"]
            for type, count in self._counts.items():
                shown = [line for kind, line in self._first if kind == type]
                lines.append(f"{count:,} x {type}" + (":" if shown else ""))
                lines += [f"  {line}" for line in shown]
            raise InputError("\n".join(lines))
