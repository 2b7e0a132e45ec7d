"""Rows from JSON lines, from standard input or from a folder of images, one at a time.

A source can be read several times: `check` reads it through once before the first request, so that a torn
line, a missing field or a duplicate id is refused while nothing has been spent.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tgi_stack.errors import DiskError, InputError, RowError
from tgi_stack.images import SUFFIXES
from tgi_stack.rows import jsonl


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row before its fields are looked at: an object, or the reason why it is none."""

    number: int
    value: dict[str, Any] | RowError


class Source(Protocol):
    """Something with rows in it; iterating it again begins anew. `base` is where relative paths begin."""

    base: Path

    def __iter__(self) -> Iterator[RawRow]: ...


def open_source(name: str, *, folders: bool = False) -> Source:
    """The source that an INPUT argument names: `-`, a .jsonl file, or (with `folders`) a folder of images.

    Raises:
        InputError: no such file, a folder where none is taken, or a suffix that is not read.
    """
    if name == "-":
        return JsonLines(_spool(), Path.cwd(), "standard input")
    path = Path(name)
    if path.is_dir():
        if not folders:
            raise InputError(f"{path} is a folder; give a .jsonl file")
        return Folder(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.suffix != ".jsonl":
        raise InputError(f"{path}: can't read {path.suffix or 'a file without a suffix'}; give .jsonl")
    return JsonLines(path, path.parent, str(path))


def _spool() -> Path:
    """Standard input in a temporary file, since checking and running read it twice."""
    with tempfile.NamedTemporaryFile(prefix="fastqwen-", suffix=".jsonl", delete=False) as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return Path(file.name)


class JsonLines:
    """A file of JSON lines; blank lines are no rows but keep their number."""

    def __init__(self, path: Path, base: Path, name: str) -> None:
        self.base = base
        self._path = path
        self._name = name

    def __iter__(self) -> Iterator[RawRow]:
        try:
            with self._path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if number == 1:
                        line = line.removeprefix(b"\xef\xbb\xbf")
                    if line.strip():
                        yield RawRow(number, self._parse(number, line))
        except OSError as error:
            raise DiskError(f"{self._name}: {error.strerror}") from error

    def _parse(self, number: int, line: bytes) -> dict[str, Any] | RowError:
        try:
            return jsonl.loads(line)
        except jsonl.LineError as error:
            return RowError("input.malformed", f"{self._name}:{number}:{error.column}: {error}")


class Folder:
    """The images under a folder, sorted by path; ids are paths relative to it, hidden files are left out."""

    def __init__(self, path: Path) -> None:
        self.base = path
        self.skipped = 0

    def __iter__(self) -> Iterator[RawRow]:
        self.skipped = 0
        for number, name in enumerate(sorted(self._names()), 1):
            yield RawRow(number, {"id": name, "image": name})

    def _names(self) -> Iterator[str]:
        for folder, inner, names in os.walk(self.base):
            inner[:] = [name for name in inner if not name.startswith(".")]
            for name in names:
                if name.startswith("."):
                    continue
                if Path(name).suffix.lower() in SUFFIXES:
                    yield Path(folder, name).relative_to(self.base).as_posix()
                else:
                    self.skipped += 1


def check(source: Source, parse: Callable[[RawRow], Any], *, skip_bad_rows: bool = False) -> int:
    """Reads a source through: how many rows it has.

    Raises:
        InputError: a row that can't be parsed (unless `skip_bad_rows`, when it will fail on its own), or an
            id that stands twice.
    """
    seen: dict[str, int] = {}
    count = 0
    for raw in source:
        count += 1
        try:
            row = parse(raw)
        except RowError as error:
            if not skip_bad_rows:
                raise InputError(
                    f"row {raw.number}: {error} (to record it as failed: --skip-bad-rows)"
                ) from error
            continue
        first = seen.setdefault(row.id, raw.number)
        if first != raw.number:
            raise InputError(
                f"id {row.id!r} stands in row {first} and in row {raw.number}; ids must be unique"
            )
    return count
