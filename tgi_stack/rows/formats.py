"""How the bytes of each input format become rows: JSON lines, CSV, Parquet, gzip and Zstandard around text.

Every reader yields one row at a time and holds no more than a block of the file.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tgi_stack.errors import DiskError, InputError, RowError
from tgi_stack.rows import csv_rows, jsonl, parquet
from tgi_stack.rows.columns import Wanted
from tgi_stack.text_files import TextFileError, as_utf_8, lines

# A row before its fields are looked at: its number, and an object or the reason why it is none.
# None for one that the caller needs no more of than that it is there.
Rows = Iterator[tuple[int, "dict[str, Any] | RowError | None"]]
Reader = Callable[[Path, str, Container[int], Wanted], Rows]

COMPRESSED = (".gz", ".zst")
SUFFIXES_OF_ROWS = (".jsonl", ".csv", ".parquet")


def reader_for(path: Path) -> Reader:
    """The reader that a file's suffixes ask for.

    Raises:
        InputError: a suffix that is not read.
    """
    suffix = path.suffix
    if suffix in COMPRESSED:
        suffix = Path(path.stem).suffix
        if suffix == ".parquet":
            raise InputError(f"{path}: Parquet is compressed inside; give the .parquet itself")
    readers: dict[str, Reader] = {".jsonl": read_jsonl, ".csv": read_csv, ".parquet": parquet.read_rows}
    if suffix not in readers:
        known = ".jsonl, .csv, .parquet (the first two also .gz, .zst)"
        raise InputError(f"{path}: can't read {suffix or 'a file without a suffix'}; give {known}")
    return readers[suffix]


@contextmanager
def opened(path: Path, name: str) -> Iterator[IO[bytes]]:
    """The decompressed bytes of a text file; what goes wrong while reading is said with the file's name."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as unzipped:
                yield unzipped  # type: ignore[misc]  # GzipFile reads like any binary file
        elif path.suffix == ".zst":
            import pyarrow as pa

            with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
                yield io.BufferedReader(stream)
        else:
            with path.open("rb") as file:
                yield file
    except TextFileError as error:
        raise InputError(f"{name}: {error}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{name}: broken compressed data: {error}") from error
    except OSError as error:
        if error.errno is None:  # how pyarrow reports bad Zstandard data
            raise InputError(f"{name}: broken compressed data: {error}") from error
        raise DiskError(f"{name}: {error.strerror}") from error


def read_jsonl(path: Path, name: str, done: Container[int], wanted: Wanted) -> Rows:
    """Rows of JSON lines; blank lines are no rows but keep their number."""
    for number, line in unread_jsonl(path, name, done):
        yield number, json_row(line, name, number, wanted) if isinstance(line, bytes) else line


def unread_jsonl(
    path: Path, name: str, done: Container[int]
) -> Iterator[tuple[int, bytes | RowError | None]]:
    """The rows of `read_jsonl` as lines, which `json_row` reads: here or in another process."""
    with opened(path, name) as file:
        for number, line in enumerate(lines(as_utf_8(file), jsonl.MAX_LINE_BYTES), 1):
            if line is None:
                yield number, _long(name, number)
            elif line.strip():
                yield number, None if number in done else line


def _long(name: str, number: int) -> RowError:
    most = jsonl.MAX_LINE_BYTES
    return RowError("input.malformed", f"{name}:{number}: the line has more than {most:,} bytes")


def json_row(line: bytes, name: str, number: int, wanted: Wanted) -> dict[str, Any] | RowError:
    """The row that a line holds, with our names of its fields, or why it is none."""
    try:
        return wanted.of_object(jsonl.loads(line))
    except jsonl.LineError as error:
        return RowError("input.malformed", f"{name}:{number}:{error.column}: {error}")


def read_csv(path: Path, name: str, done: Container[int], wanted: Wanted) -> Rows:
    """Rows of a CSV file with a header; row 1 is the first after it.

    Empty cells are fields that are not there; `history`, `candidates` and `labels` (and `positive` where it
    begins with a bracket) hold JSON arrays.
    """
    with opened(path, name) as file:
        table = csv_rows.CsvFile(file, name)
        names = wanted.of_header(table.header, table.place)
        for number, cells in enumerate(table, 1):
            if cells:
                found = None if number in done else csv_rows.record(names, table.header, cells, table.place)
                yield number, found
