"""How the bytes of each input format become rows: JSON lines, CSV, Parquet, gzip and Zstandard around text.

Every reader yields one row at a time and holds no more than a block of the file.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tgi_stack.errors import DiskError, InputError, RowError
from tgi_stack.rows import jsonl

# A row before its fields are looked at: its number, and an object or the reason why it is none.
# None for one that the caller needs no more of than that it is there.
Rows = Iterator[tuple[int, "dict[str, Any] | RowError | None"]]
Skip = Callable[[int], bool]

COMPRESSED = (".gz", ".zst")
SUFFIXES_OF_ROWS = (".jsonl", ".csv", ".parquet")
JSON_CELLS = ("history", "candidates", "labels")
PARQUET_BATCH = 256
PARQUET_BATCH_OF_FILES = 8  # rows that hold whole images
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def none(number: int) -> bool:
    """Skips no row."""
    return False


def reader_for(path: Path) -> Callable[[Path, str, Skip], Rows]:
    """The reader that a file's suffixes ask for.

    Raises:
        InputError: a suffix that is not read.
    """
    suffix = path.suffix
    if suffix in COMPRESSED:
        suffix = Path(path.stem).suffix
        if suffix == ".parquet":
            raise InputError(f"{path}: Parquet is compressed inside; give the .parquet itself")
    readers = {".jsonl": read_jsonl, ".csv": read_csv, ".parquet": read_parquet}
    if suffix not in readers:
        known = ".jsonl, .csv, .parquet (the first two also .gz, .zst)"
        raise InputError(f"{path}: can't read {suffix or 'a file without a suffix'}; give {known}")
    return readers[suffix]


# -- text ----------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path, name: str) -> Iterator[IO[bytes]]:
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
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{name}: broken compressed data: {error}") from error
    except OSError as error:
        if error.errno is None:  # how pyarrow reports bad Zstandard data
            raise InputError(f"{name}: broken compressed data: {error}") from error
        raise DiskError(f"{name}: {error.strerror}") from error


def read_jsonl(path: Path, name: str, skip: Skip = none) -> Rows:
    """Rows of JSON lines; blank lines are no rows but keep their number."""
    with _opened(path, name) as file:
        number = 0
        while line := file.readline(jsonl.MAX_LINE_BYTES + 1):
            number += 1
            if number == 1:
                _refuse_utf_16(line, name)
                line = line.removeprefix(b"\xef\xbb\xbf")
            if len(line) > jsonl.MAX_LINE_BYTES:
                _skip_to_line_end(file)
            if line.strip():
                yield number, None if skip(number) else _json_row(line, name, number)


def _refuse_utf_16(head: bytes, name: str) -> None:
    if head.startswith(UTF_16):
        raise InputError(f"{name} is UTF-16; save it as UTF-8")


def _skip_to_line_end(file: IO[bytes]) -> None:
    while (rest := file.readline(2**20)) and not rest.endswith(b"\n"):
        pass


def _json_row(line: bytes, name: str, number: int) -> dict[str, Any] | RowError:
    try:
        return jsonl.loads(line)
    except jsonl.LineError as error:
        return RowError("input.malformed", f"{name}:{number}:{error.column}: {error}")


def read_csv(path: Path, name: str, skip: Skip = none) -> Rows:
    """Rows of a CSV file with a header; row 1 is the first after it.

    Empty cells are fields that are not there; `history`, `candidates` and `labels` (and `positive` where it
    begins with a bracket) hold JSON arrays.
    """
    csv.field_size_limit(jsonl.MAX_LINE_BYTES)
    with _opened(path, name) as file:
        text = io.TextIOWrapper(io.BufferedReader(_Peeked(file, name)), "utf-8-sig", newline="")
        try:
            lines = csv.reader(text, strict=True)
            header = next(lines, None)
            if header is None:
                return
            if len(set(header)) != len(header):
                raise InputError(f"{name}:1: a column stands twice in {', '.join(header)}")
            for number, cells in enumerate(lines, 1):
                if cells:
                    yield number, None if skip(number) else _csv_row(header, cells, name, lines.line_num)
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{name}:{lines.line_num + 1}: {error}") from error


class _Peeked(io.RawIOBase):
    """A binary file whose first bytes are looked at for UTF-16 before anything decodes them."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._head = file.read(2)
        _refuse_utf_16(self._head, name)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head or self._file.read(len(buffer))
        self._head = b""
        buffer[: len(data)] = data
        return len(data)


def _csv_row(header: list[str], cells: list[str], name: str, line: int) -> dict[str, Any] | RowError:
    if len(cells) != len(header):
        message = f"{name}:{line}: {len(cells)} cells under a header of {len(header)}"
        return RowError("input.malformed", message)
    try:
        return {column: _cell(column, text) for column, text in zip(header, cells, strict=True) if text}
    except ValueError as error:
        return RowError("input.malformed", f"{name}:{line}: {error}")


def _cell(column: str, text: str) -> Any:
    if column in JSON_CELLS or (column == "positive" and text.startswith("[")):
        try:
            return json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"`{column}` is not a JSON array: {error}") from error
    if column == "num_candidates":
        return int(text)
    return text


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


# -- Parquet -------------------------------------------------------------------------------------------


def read_parquet(path: Path, name: str, skip: Skip = none) -> Rows:
    """Rows of a Parquet file, batch by batch; page checksums are verified where the file has them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            batch_size = PARQUET_BATCH_OF_FILES if _holds_files(file.schema) else PARQUET_BATCH
            for batch in file.iter_batches(batch_size):
                if all(map(skip, range(number + 1, number + 1 + len(batch)))):
                    yield from ((number + place, None) for place in range(1, len(batch) + 1))
                else:
                    rows = batch.to_pylist()
                    yield from ((number + place, _parquet_row(row)) for place, row in enumerate(rows, 1))
                number += len(batch)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{name}: unreadable after row {number:,}: {reason}") from error


def _parquet_row(row: dict[str, Any]) -> dict[str, Any]:
    return {column: value for column, value in row.items() if value is not None}


def _holds_files(schema: Any) -> bool:
    """Whether a column holds bytes that are no text: whole images."""
    columns = map(schema.column, range(len(schema)))
    return any(c.physical_type == "BYTE_ARRAY" and c.logical_type.type == "NONE" for c in columns)
