"""CSV with a header, as RFC 4180 has it: rows with the line they begin in, faults with line and column."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from typing import IO, Any

from tgi_stack.errors import InputError, RowError
from tgi_stack.rows import jsonl
from tgi_stack.rows.columns import OTHER_SEPARATORS
from tgi_stack.text_files import as_utf_8

# The csv module holds four bytes a character of a cell.
MAX_ROW_CHARACTERS = 8 * 2**20
JSON_CELLS = ("history", "candidates", "labels")
WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
NOT_UTF_8 = re.compile("[\udc80-\udcff]")


class CsvFile:
    """The rows of a CSV file, with the header's names."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        # What is no UTF-8 becomes a mark that the line is looked through for, so that its place is known.
        self._text = io.TextIOWrapper(as_utf_8(file), "utf-8", "surrogateescape", newline="")
        self._name = name
        self._row = io.StringIO(newline="")  # as it stands in the file; a sum of strings costs its square
        self._size = 0  # of the row in characters
        self._first_line = self._line = 0
        csv.field_size_limit(MAX_ROW_CHARACTERS)
        self._cells = csv.reader(self._lines(), strict=True)
        self.header = next(
            (cells for cells in self if any(map(str.strip, cells))), []
        )  # blank lines are none

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        self._row, self._size, self._first_line = io.StringIO(newline=""), 0, self._line + 1
        try:
            return next(self._cells)
        except csv.Error as error:
            raise self._fault(error) from error

    @property
    def place(self) -> str:
        """Where the current row begins."""
        return f"{self._name}:{self._first_line}"

    def _lines(self) -> Iterator[str]:
        while line := self._text.readline(MAX_ROW_CHARACTERS + 1 - self._size):
            self._line += 1
            self._row.write(line)
            self._size += len(line)
            if self._size > MAX_ROW_CHARACTERS:
                at = f"{self._name}:{self._first_line}"
                cause = "a quote that is never closed?" if self._line > self._first_line else "is it CSV?"
                raise InputError(f"{at}: a row of more than {MAX_ROW_CHARACTERS:,} characters; {cause}")
            if not line.isascii() and (wrong := NOT_UTF_8.search(line)):
                place = f"{self._name}:{self._line}:{wrong.start() + 1}"
                raise InputError(f"{place}: not UTF-8; save the file as UTF-8")
            yield line

    def _fault(self, error: csv.Error) -> InputError:
        line, column, reason = fault_in(self._row.getvalue())
        return InputError(f"{self._name}:{self._first_line + line}:{column}: {reason or error}")


def fault_in(row: str) -> tuple[int, int, str | None]:
    """Where the quotes of a row that is no CSV are wrong: its line from 0, its column from 1, and why."""
    opened: int | None = None
    at, fresh = 0, True  # whether a cell begins here
    while at < len(row):
        if opened is not None:
            if row[at] == '"' and row[at + 1 : at + 2] == '"':
                at += 1
            elif row[at] == '"':
                after = row[at + 1 : at + 2]
                if after not in ("", ",", "\r", "\n"):
                    reason = 'a quote inside a quoted cell; write it twice ("")'
                    parted = f"{reason}; or are cells parted by {after!r}? Save it with commas between them"
                    return *_place(row, at), parted if after in OTHER_SEPARATORS else reason
                opened = None
        elif row[at] == '"' and fresh:
            opened = at
        fresh = opened is None and row[at] in ",\r\n"
        at += 1
    if opened is not None:
        return *_place(row, opened), "a quote that is never closed"
    return *_place(row, 0), None


def _place(row: str, at: int) -> tuple[int, int]:
    before = re.split("\r\n|\r|\n", row[:at])
    return len(before) - 1, len(before[-1]) + 1


def record(
    names: Mapping[int, str], header: list[str], cells: list[str], place: str
) -> dict[str, Any] | RowError:
    """The fields of a row; empty cells are fields that are not there, but for an id, which is null.

    Args:
        names: our names of the columns that are asked for, by their number.
    """
    if len(cells) != len(header):
        return RowError("input.malformed", f"{place}: {len(cells)} cells under a header of {len(header)}")
    try:
        found = {name: _cell(name, cells[number]) for number, name in names.items() if cells[number]}
    except ValueError as error:
        return RowError("input.malformed", f"{place}: {error}")
    return {"id": None} | found if "id" in names.values() else found


def _cell(column: str, text: str) -> Any:
    if column in JSON_CELLS or (column == "positive" and text.startswith("[")):
        try:
            return jsonl.value_of(text)
        except jsonl.LineError as error:
            raise ValueError(f"`{column}` is not a JSON array: {error}") from error
    if column == "num_candidates":
        if WHOLE.fullmatch(text.strip(" \t")) is None:  # `int` reads 1_0 as ten, and digits of all scripts
            raise ValueError(f"`{column}` is {text[:40]!r}; it is a number")
        return int(text)
    return text
