"""Rows from a file, from standard input or from a folder of images, one at a time.

A source can be read several times: `looking.check` reads it through once before the first request, so that a
torn line, a missing field or a duplicate id is refused while nothing has been spent.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tgi_stack.errors import DiskError, InputError, RowError
from tgi_stack.rows.columns import Kind, Wanted
from tgi_stack.rows.folder import ROWS, FilesOfRows, list_folder, row_of, state_of
from tgi_stack.rows.formats import (
    SPOOLED,
    STANDARD_INPUT,
    Every,
    OfPart,
    Rows,
    digest_of_file,
    first_rows,
    json_row,
    read_jsonl,
    reader_for,
    rows_of,
)
from tgi_stack.rows.looking.per_row import Digests, digest_of
from tgi_stack.rows.records import as_id


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


class Source(ABC):
    """Something with rows in it; iterating it again begins anew.

    Once all rows were looked at (`look`), each is held to what it was then: whatever reads them again gets
    the same rows, or an InputError at the first that is another, is missing or is new.

    Args:
        base: where relative paths begin.
        name: what to call it in messages.
        files: what the rows stand in.
        wanted: the fields that are asked for.

    Attributes:
        place: where it can be opened again, if not by its own path: a URL, or a pattern of names.
        is_table: whether it is one in memory, for which records are wanted as rows of a table, too.
    """

    is_table = False

    def __init__(
        self, base: Path, name: str, files: Sequence[Path] = (), wanted: Wanted | None = None
    ) -> None:
        self.base = base
        self.name = name
        self.wanted = wanted or Wanted()
        self._files = tuple(files)
        self._states = self.states()
        self._content: str | None = None
        self._noted: Digests | None = None
        self._begins = name, 0  # the file that is read, and how many rows stand before it
        self.place: str | None = None

    @abstractmethod
    def _read(self, done: Container[int]) -> Rows:
        """All rows as they are now, those whose number is in `done` without their value."""

    @abstractmethod
    def _digest(self) -> str:
        """See `digest`."""

    def digest(self) -> str:
        """SHA-256 of what it holds, as it was when that was first asked."""
        if self._content is None:
            self._content = self._digest()
        return self._content

    @property
    def columns(self) -> dict[str, str]:
        """Our names of fields -> the files' own."""
        return self.wanted.columns

    def __iter__(self) -> Iterator[RawRow]:
        return self.rows()

    def look(self, done: Container[int] = ()) -> Iterator[RawRow]:
        """All rows; their digests are noted once the last was read.

        Raises:
            InputError: what they stand in is not what the `digest` is of.
        """
        for number, value, _ in self._looked(self._read(done)):
            yield RawRow(number, value)

    def look_unread(self) -> Iterator[UnreadRow]:
        """As `look`, as `unread`."""
        return self._unread(self._looked(self._read(Every() if self._is_by_line() else ())), ())

    def look_again(self) -> int:
        """Notes the rows of an input that was looked at by an earlier run: how many there are."""
        by_line = not self._files or self._is_by_line()
        return sum(1 for _ in self.look(Every() if by_line else ()))

    def rows(self, done: Container[int] = ()) -> Iterator[RawRow]:
        """All rows, those whose number is in `done` without their value.

        Raises:
            InputError: one is not what it was when all were looked at.
        """
        for number, value, _ in self._held(done):
            yield RawRow(number, value)

    def unread(self, done: Container[int] = ()) -> Iterator[UnreadRow]:
        """As `rows`, without the cost of reading JSON lines, which can be left to another process."""
        return self._unread(self._held(Every() if self._is_by_line() else done), done)

    def line_bytes(self) -> int:
        """Of its files as they were when it was opened, where all are JSON lines; else 0."""
        return sum(state[2] for state in self._states if state) if self._is_by_line() else 0

    def _unread(self, rows: Rows, done: Container[int]) -> Iterator[UnreadRow]:
        by_line = self._is_by_line()
        for number, value, line in rows:
            if by_line and value is None and line is not None and number not in done:
                file, before = self._begins
                yield UnreadRow(number, Line(line, file, number - before))
            else:
                yield UnreadRow(number, value)

    def _looked(self, rows: Rows) -> Rows:
        """The rows of a look, which are noted as they pass."""
        noted = Digests()
        for number, value, line in rows:
            noted.note(number, digest_of(value, line))
            yield number, value, line
        now = self.states()
        if now != self._states and self._content not in (None, self._digest()):
            raise self._changed("it is not what the run began with")
        self._states, self._noted = now, noted

    def _is_by_line(self) -> bool:
        return bool(self._files) and all(reader_for(path) is read_jsonl for path in self._files)

    def _held(self, done: Container[int]) -> Rows:
        """As `_read`, each row held to what it was."""
        if self._noted is None:
            yield from self._read(done)
            return
        noted, before = self._noted, 0
        for number, value, line in self._unchanged(done):
            if number != before + 1 and noted.between(before, number):
                raise self._changed(f"a row before row {number:,} is missing")
            known = value is not None or line is not None
            if number > noted.last:
                raise self._changed(f"row {number:,} was not there")
            if known and not noted.holds(number, digest_of(value, line)):
                raise self._changed(f"row {number:,} is not what it was")
            before = number
            yield number, value, line
        if before != noted.last:
            raise self._changed(f"rows are missing after row {before:,}")

    def begins_with(self, digest: str, rows: int) -> bool:
        """Whether its first rows are all of a pipe that was read no further, by the digest of those."""
        return False

    def refuse_changed(self) -> None:
        """Raises InputError where it is not any more what was looked at, or what the `digest` is of."""
        if (now := self.states()) == self._states:
            return
        if self._noted is not None:
            for _ in self.rows():
                pass
        elif self._content is None or self._content != self._digest():
            raise self._changed("it was written to")
        self._states = now  # somebody touched it

    def takes(self, path: Path) -> bool:
        """Whether a file that is written there would be read as rows of it, beside those that it has."""
        return False

    def _unchanged(self, done: Container[int]) -> Rows:
        """As `_read`, of a file that is what it was as long as nothing is torn in it."""
        try:
            yield from self._read(done)
        except (InputError, DiskError) as error:
            if self.states() == self._states:
                raise
            raise self._changed(str(error)) from error

    def states(self) -> list[tuple[int, ...] | None]:
        """What tells whether its files were written to in between."""
        return list(map(state_of, self._files))

    def _changed(self, how: str) -> InputError:
        return InputError(
            f"{self.name}: the input changed while it was read: {how}; rows that were finished before are "
            "kept. Give a file that nobody writes to"
        )


class File(Source):
    """A file of rows in any of the formats."""

    def __init__(self, path: Path, base: Path, name: str, wanted: Wanted | None = None) -> None:
        super().__init__(base, name, [path], wanted)
        self.path = path
        self._reader = reader_for(path)

    @property
    def is_standard_input(self) -> bool:
        """Whether it is kept in a temporary file only because standard input can be read once."""
        return self.name == STANDARD_INPUT

    def begins_with(self, digest: str, rows: int) -> bool:
        if not self.path.name.startswith(SPOOLED) or self._reader is not read_jsonl:
            return False
        whole = hashlib.sha256()
        with self.path.open("rb") as file:
            for piece in first_rows(file, rows):
                whole.update(piece)
        return whole.hexdigest() == digest

    def _read(self, done: Container[int]) -> Rows:
        return rows_of(self.path, self.name, done, self.wanted)

    def _digest(self) -> str:
        return digest_of_file(self.path, self.name)


class Folder(Source):
    """The images under a folder, sorted by path; ids are paths relative to it, hidden files are left out.

    Its digest is of their names, sizes and times.

    Attributes:
        skipped: how many files are no pictures, by reason; known once it was iterated.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, str(path))
        self.skipped: Counter[str] = Counter()

    def refuse_changed(self) -> None:
        if self._noted is not None:  # names alone: what each picture holds is told in its record
            for _ in self.rows():
                pass

    def _read(self, done: Container[int]) -> Rows:
        found = list_folder(self.base)
        self.skipped = found.skipped
        if found.parts:
            self.skipped[ROWS] += len(found.parts)
        for number, name in enumerate(found.pictures, 1):
            line = os.fsencode(name)
            yield number, None if number in done else row_of(self.base, name), line

    def _digest(self) -> str:
        whole = hashlib.sha256()
        for name in list_folder(self.base).pictures:
            status = (self.base / name).stat(follow_symlinks=False)
            entry = json.dumps([name, status.st_size, status.st_mtime_ns])
            whole.update(entry.encode("utf-8", "surrogatepass") + b"\n")
        return whole.hexdigest()


class Parts(Source):
    """Files of rows under a folder, sorted by path, as one input; relative paths begin at the folder.

    Attributes:
        paths: the files, as they were when it was opened.
        skipped: how many files are none, by reason.
    """

    def __init__(
        self, meant: FilesOfRows, columns: Mapping[str, str] | None = None, kind: Kind | None = None
    ) -> None:
        found, base = meant.list(), meant.base
        self._meant = meant
        self.paths = [base / name for name in found.parts]
        super().__init__(base, str(base), self.paths, Wanted(kind, columns))
        self.skipped = found.skipped

    def takes(self, path: Path) -> bool:
        return self._meant.takes(path)

    def refuse_changed(self) -> None:
        if (joined := self._meant.joined(self.paths)) is not None:
            raise self._changed(f"{joined} came into it")
        super().refuse_changed()

    def _read(self, done: Container[int]) -> Rows:
        before = 0
        for path in self.paths:
            last = before
            self._begins = str(path), before
            for number, value, line in rows_of(path, str(path), OfPart(done, before), self.wanted):
                last = before + number
                yield last, value, line
            before = last

    def _digest(self) -> str:
        parts = [
            [path.relative_to(self.base).as_posix(), digest_of_file(path, self.name)] for path in self.paths
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_row(row: UnreadRow, wanted: Wanted) -> RawRow:
    """The row, read."""
    value = row.value
    if isinstance(value, Line):
        return RawRow(row.number, json_row(value.content, value.file, value.place, wanted))
    return RawRow(row.number, value)


def id_of(raw: RawRow) -> str | None:
    """The id of a row that may be wrong in other ways, where one can be read."""
    return as_id(raw.value.get("id")) if isinstance(raw.value, dict) else None
