"""How the bytes of each input format become rows: JSON lines, CSV, Parquet, gzip and Zstandard around text.

Every reader yields one row at a time and holds no more than a block of the file.
"""

from __future__ import annotations

import atexit
import gzip
import io
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tgi_stack import text_files
from tgi_stack.errors import DiskError, InputError, RowError
from tgi_stack.rows import csv_rows, jsonl, parquet
from tgi_stack.rows.columns import Wanted
from tgi_stack.rows.ledger import sha256_of
from tgi_stack.text_files import PIECE_BYTES, UTF_8_MARK, UTF_16_MARKS, TextFileError, as_utf_8, lines

# A row before its fields are looked at: its number, and an object or the reason why it is none. None for one
# that the caller needs no more of than that it is there. Last the line it stands in, where it has one.
Rows = Iterator[tuple[int, "dict[str, Any] | RowError | None", "bytes | None"]]
Reader = Callable[[Path, str, Container[int], Wanted], Rows]

STANDARD_INPUT = "standard input"
SPOOLED = "fastqwen-spooled-"
MOST_LINE_BYTES = 2**28
MOST_SPOOLED_BYTES = 2**36
LEFT_FREE_BYTES = 2**30  # of the disk that a pipe is kept on
LOOK_BYTES = 2**26  # kept between looks at the disk
_spooled: list[Path] = []

COMPRESSED = (".gz", ".zst")
SUFFIXES_OF_ROWS = (".jsonl", ".csv", ".parquet")


class Every:
    """Every number."""

    def __contains__(self, number: object) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class OfPart:
    """Rows of one file of a folder, by their numbers there; `before` are the rows of the files before."""

    done: Container[int]
    before: int

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self.before + number in self.done


def form_of(path: Path) -> tuple[str, str]:
    """What a file's name says of its content: the suffix of its format, and that of its compression or "".

    Both in lower case: there are systems on which names come in capitals.
    """
    suffix = path.suffix.lower()
    return (Path(path.stem).suffix.lower(), suffix) if suffix in COMPRESSED else (suffix, "")


def reader_for(path: Path) -> Reader:
    """The reader that a file's suffixes ask for.

    Raises:
        InputError: a suffix that is not read.
    """
    suffix, compression = form_of(path)
    if compression and suffix == ".parquet":
        raise InputError(f"{path}: Parquet is compressed inside; give the .parquet itself")
    readers: dict[str, Reader] = {".jsonl": read_jsonl, ".csv": read_csv, ".parquet": parquet.read_rows}
    if suffix not in readers:
        known = ".jsonl, .csv, .parquet (the first two also .gz, .zst)"
        raise InputError(f"{path}: can't read {path.suffix or 'a file without a suffix'}; give {known}")
    return readers[suffix]


def refuse_special(path: Path, name: str) -> None:
    """Raises InputError for a file of an input that is none by now: a device or a pipe may have no end."""
    if path.exists() and not path.is_file():
        raise InputError(f"{name}: the input changed while it was read: {path} is no file any more")


def rows_of(path: Path, name: str, done: Container[int], wanted: Wanted) -> Rows:
    """The rows of a file, by the reader that its name asks for; see `refuse_special`."""
    refuse_special(path, name)
    return reader_for(path)(path, name, done, wanted)


def digest_of_file(path: Path, name: str) -> str:
    """SHA-256 of a file of an input; see `refuse_special`."""
    refuse_special(path, name)
    return sha256_of(path)


@contextmanager
def opened(path: Path, name: str) -> Iterator[IO[bytes]]:
    """The decompressed bytes of a text file; what goes wrong while reading is said with the file's name."""
    compression = form_of(path)[1]
    try:
        if compression == ".gz":
            with gzip.open(path, "rb") as unzipped:
                yield unzipped  # type: ignore[misc]  # GzipFile reads like any binary file
        elif compression == ".zst":
            import pyarrow as pa

            with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
                yield io.BufferedReader(stream)
        else:
            with text_files.opened(path) as file:
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
    with opened(path, name) as file:
        for number, line in enumerate(lines(as_utf_8(file), jsonl.MAX_LINE_BYTES), 1):
            if line is None:
                yield number, line_row(line, name, number, wanted), None
            elif line.strip():
                yield number, None if number in done else line_row(line, name, number, wanted), line


def line_row(line: bytes | None, name: str, number: int, wanted: Wanted) -> dict[str, Any] | RowError:
    """As `json_row`; None stands for a line that is too long."""
    if line is not None:
        return json_row(line, name, number, wanted)
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
                yield number, found, None


# -- what can be read once only --------------------------------------------------------------------------


def spooled(path: Path | None = None, suffix: str = ".jsonl", rows: int | None = None) -> Path:
    """What can be read once only, in a temporary file that goes with the process; without `path` stdin.

    Args:
        rows: no more than so many of JSON lines are read, and nothing behind them.

    Raises:
        InputError: a line without end, or more than a disk should be filled with.
        DiskError: it can't be read or kept.
    """
    reader_for(Path(f"x{suffix or '.jsonl'}"))  # before anything is read
    handle, name = tempfile.mkstemp(prefix=SPOOLED, suffix=suffix or ".jsonl")
    _spooled.append(Path(name))
    said = str(path or STANDARD_INPUT)
    with os.fdopen(handle, "wb") as file:
        try:
            if path is None and sys.stdin is None:
                raise InputError("standard input is closed; give a file")
            with nullcontext(sys.stdin.buffer) if path is None else text_files.opened(path) as pipe:
                is_all = rows is None or suffix not in ("", ".jsonl")
                _copy(_pieces(pipe) if is_all else first_rows(pipe, rows or 0), file, said, suffix)
        except TextFileError as error:
            raise InputError(f"{said}: {error}") from error
        except OSError as error:
            raise DiskError(f"{said}, kept in {name}: {error.strerror}") from error
    return Path(name)


def first_rows(file: IO[bytes], rows: int) -> Iterator[bytes]:
    """The first rows of JSON lines, as they stand there; all of UTF-16, whose lines end otherwise."""
    head = file.peek(2)[:2] if rows else b""  # type: ignore[attr-defined]
    if head and any(mark.startswith(head) for mark in UTF_16_MARKS):
        yield from _pieces(file)
        return
    is_blank = True  # so far, in this line
    while rows > 0 and (piece := file.readline(PIECE_BYTES)):
        yield piece
        is_blank = is_blank and not piece.removeprefix(UTF_8_MARK).strip()
        if piece.endswith(b"\n"):
            rows -= not is_blank
            is_blank = True


def _pieces(pipe: IO[bytes]) -> Iterator[bytes]:
    while piece := pipe.read(PIECE_BYTES):
        yield piece


def _copy(pieces: Iterator[bytes], file: IO[bytes], name: str, suffix: str) -> None:
    """All of a pipe; one that never ends a line, or never ends, meets a limit."""
    is_text = suffix in ("", ".jsonl", ".csv")
    size = line = looked = 0
    for piece in pieces:
        size += len(piece)
        line = line + len(piece) if b"\n" not in piece else len(piece) - piece.rindex(b"\n") - 1
        if (is_text and line > MOST_LINE_BYTES) or size > MOST_SPOOLED_BYTES:
            whole = f"more than {MOST_SPOOLED_BYTES:,}"
            most = whole if size > MOST_SPOOLED_BYTES else f"a line of more than {MOST_LINE_BYTES:,}"
            raise InputError(f"{name}: {most} bytes; give a file")
        if size - looked > LOOK_BYTES:
            looked = size
            _refuse_full_disk(file, name, size)
        file.write(piece)


def _refuse_full_disk(file: IO[bytes], name: str, size: int) -> None:
    """Raises DiskError where a pipe would take the last of a disk, which others need too."""
    folder = tempfile.gettempdir()
    if shutil.disk_usage(folder).free < LEFT_FREE_BYTES:
        raise DiskError(
            f"{name}: {size:,} bytes are kept in {folder}, whose disk has less than {LEFT_FREE_BYTES:,} "
            "left; give a file, a --limit, or another TMPDIR"
        )


def forget_later(folder: Path) -> None:
    """Has a temporary folder go with the process, too."""
    _spooled.append(folder)


@atexit.register
def remove_spooled() -> None:
    """Removes the temporary files of inputs that can be read once only; called when the process ends."""
    while _spooled:
        path = _spooled.pop()
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
