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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tgi_stack.errors import DiskError, InputError, RowError
from tgi_stack.images.files import SUFFIXES
from tgi_stack.rows.duplicates import Duplicates
from tgi_stack.rows.formats import Skip, none, reader_for

SPOOLED = "fastqwen-spooled-"


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
    """The source that an INPUT argument names: `-`, a file, or (with `folders`) a folder of images.

    Args:
        columns: our name of a field -> the file's own, as `--map` gives them.

    Raises:
        InputError: no such file, a folder where none is taken, or a suffix that is not read.
    """
    if name == "-":
        return File(_spool(), Path.cwd(), "standard input", columns)
    path = Path(name)
    if path.is_dir():
        if not folders:
            raise InputError(f"{path} is a folder; give a file")
        return Folder(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if not path.is_file():  # a named pipe can be read once only
        return File(_spool(path, "".join(path.suffixes)), path.parent, str(path), columns)
    return File(path, path.parent, str(path), columns)


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
    atexit.register(Path(name).unlink, missing_ok=True)
    return Path(name)


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
    """The images under a folder, sorted by path; ids are paths relative to it, hidden files are left out."""

    def __init__(self, path: Path) -> None:
        self.base = path
        self.name = str(path)
        self.skipped = 0

    def __iter__(self) -> Iterator[RawRow]:
        return self.rows(none)

    def rows(self, skip: Skip) -> Iterator[RawRow]:
        self.skipped = 0
        for number, name in enumerate(sorted(self._names()), 1):
            yield RawRow(number, None if skip(number) else {"id": name, "image": name})

    def _names(self) -> Iterator[str]:
        for folder, inner, names in os.walk(self.base, onerror=_refuse_folder):
            inner[:] = [name for name in inner if not name.startswith(".")]
            self.skipped += sum(Path(folder, name).is_symlink() for name in inner)
            for name in names:
                if name.startswith("."):
                    continue
                if Path(name).suffix.lower() in SUFFIXES:
                    yield Path(folder, name).relative_to(self.base).as_posix()
                else:
                    self.skipped += 1


def id_of(raw: RawRow) -> str | None:
    """The id of a row that may be wrong in other ways, where one can be read."""
    found = raw.value.get("id") if isinstance(raw.value, dict) else None
    return found if isinstance(found, str) and found else None


def _refuse_folder(error: OSError) -> None:
    raise DiskError(f"{error.filename}: {error.strerror}")


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
