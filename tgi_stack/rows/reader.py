"""Rows from a file, from standard input or from a folder of images, one at a time.

A source can be read several times: `check` reads it through once before the first request, so that a torn
line, a missing field or a duplicate id is refused while nothing has been spent.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tgi_stack.errors import InputError, RowError
from tgi_stack.rows.duplicates import Duplicates
from tgi_stack.rows.folder import ROWS, Listing, list_folder
from tgi_stack.rows.formats import Skip, none, reader_for

SPOOLED = "fastqwen-spooled-"
_spooled: list[Path] = []


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row before its fields are looked at: an object, or why it is none; None where it was skipped."""

    number: int
    value: dict[str, Any] | RowError | None


class Source(Protocol):
    """Something with rows in it; iterating it again begins anew.

    Attributes:
        base: where relative paths begin.
        name: what to call it in messages.
    """

    base: Path
    name: str

    def __iter__(self) -> Iterator[RawRow]: ...

    def rows(self, skip: Skip) -> Iterator[RawRow]:
        """All rows, those of which `skip` is true of the number without their value."""


def open_source(name: str, *, folders: bool = False, columns: Mapping[str, str] | None = None) -> Source:
    """The source that an INPUT argument names: `-`, a file, or a folder: of files of rows, which are
    read as one input, or (with `folders`) of images, where it holds any.

    Args:
        columns: our name of a field -> the file's own, as `--map` gives them.

    Raises:
        InputError: no such file, a folder with nothing in it that is taken, or a suffix that is not read.
    """
    if name == "-":
        return File(_spool(), Path.cwd(), "standard input", columns)
    path = Path(name)
    if path.is_dir():
        return _open_folder(path, columns, pictures=folders)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if not path.is_file():  # a named pipe can be read once only
        return File(_spool(path, "".join(path.suffixes)), path.parent, str(path), columns)
    return File(path, path.parent, str(path), columns)


def _open_folder(path: Path, columns: Mapping[str, str] | None, *, pictures: bool) -> Source:
    """Pictures, where they are taken and some are there; else the files of rows as one input."""
    found = list_folder(path)
    if pictures and (found.pictures or not found.parts):
        return Folder(path)
    if not found.parts:
        raise InputError(f"{path} is a folder without files of rows (.jsonl, .csv, .parquet); give a file")
    return Parts(path, found, columns)


def _spool(path: Path | None = None, suffix: str = ".jsonl") -> Path:
    """What can be read once only, in a temporary file that goes with the process."""
    handle, name = tempfile.mkstemp(prefix=SPOOLED, suffix=suffix or ".jsonl")
    with os.fdopen(handle, "wb") as file:
        if path is None:
            if sys.stdin is None:
                raise InputError("standard input is closed; give a file")
            shutil.copyfileobj(sys.stdin.buffer, file)
        else:
            with path.open("rb") as pipe:
                shutil.copyfileobj(pipe, file)
    _spooled.append(Path(name))
    return Path(name)


@atexit.register
def remove_spooled() -> None:
    """Removes the temporary files of inputs that can be read once only; called when the process ends."""
    while _spooled:
        _spooled.pop().unlink(missing_ok=True)


class File:
    """A file of rows in any of the formats."""

    def __init__(self, path: Path, base: Path, name: str, columns: Mapping[str, str] | None = None) -> None:
        self.base = base
        self.path = path
        self.name = name
        self.columns = dict(columns or {})
        self._read = reader_for(path)

    def __iter__(self) -> Iterator[RawRow]:
        return self.rows(none)

    def rows(self, skip: Skip) -> Iterator[RawRow]:
        for number, value in self._read(self.path, self.name, skip):
            yield RawRow(number, self._renamed(value) if self.columns else value)

    def _renamed(self, value: dict[str, Any] | RowError | None) -> dict[str, Any] | RowError | None:
        if not isinstance(value, dict):
            return value
        # A pair counts where the file has its column: one --map serves the rows and the items beside them.
        pairs = {ours: theirs for ours, theirs in self.columns.items() if theirs in value}
        taken = {*pairs, *pairs.values()}
        rest = {field: found for field, found in value.items() if field not in taken}
        return {ours: value[theirs] for ours, theirs in pairs.items()} | rest


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
        return self.rows(none)

    def rows(self, skip: Skip) -> Iterator[RawRow]:
        found = list_folder(self.base)
        self.skipped = found.skipped
        if found.parts:
            self.skipped[ROWS] += len(found.parts)
        for number, name in enumerate(found.pictures, 1):
            yield RawRow(number, None if skip(number) else {"id": name, "image": name})


class Parts:
    """Files of rows under a folder, sorted by path, as one input; relative paths begin at the folder.

    Attributes:
        paths: the files, as they were when it was opened.
        skipped: how many files are none, by reason.
    """

    def __init__(self, path: Path, found: Listing, columns: Mapping[str, str] | None = None) -> None:
        self.base = path
        self.name = str(path)
        self.paths = [path / name for name in found.parts]
        self.columns = dict(columns or {})
        self.skipped = found.skipped

    def __iter__(self) -> Iterator[RawRow]:
        return self.rows(none)

    def rows(self, skip: Skip) -> Iterator[RawRow]:
        before = 0
        for path in self.paths:
            last = before
            for raw in File(path, self.base, str(path), self.columns).rows(_after(before, skip)):
                last = before + raw.number
                yield RawRow(last, raw.value)
            before = last


def _after(before: int, skip: Skip) -> Skip:
    """What to skip of a part, whose rows are numbered anew."""
    return lambda number: skip(before + number)


def id_of(raw: RawRow) -> str | None:
    """The id of a row that may be wrong in other ways, where one can be read."""
    found = raw.value.get("id") if isinstance(raw.value, dict) else None
    return found if isinstance(found, str) and found else None


def check(source: Source, parse: Callable[[RawRow], Any], *, skip_bad_rows: bool = False) -> int:
    """Reads a source through: how many rows it has. Memory does not grow with their number.

    Raises:
        InputError: a row that can't be parsed (unless `skip_bad_rows`, when it will fail on its own), or an
            id that stands twice.
    """
    count = 0
    with Duplicates() as ids:
        for raw in source:
            count += 1
            try:
                ids.add(raw.number, parse(raw).id)
            except RowError as error:
                if skip_bad_rows:
                    # Its record will bear the id that can be read, so that one counts too.
                    if (id := id_of(raw)) is not None:
                        ids.add(raw.number, id)
                else:
                    advice = "(to record it as failed: --skip-bad-rows)"
                    raise InputError(f"row {raw.number}: {error} {advice}") from error
        twice = ids.first()
    if twice is not None:
        first, second = twice
        name = next(id_of(raw) or str(raw.number) for raw in source if raw.number == first)
        raise InputError(f"id {name!r} stands in row {first} and in row {second}; ids must be unique")
    return count
