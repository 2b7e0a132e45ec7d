"""Parquet: rows in, of which only what is asked for is read and converted, and records out.

Records have one schema a job whatever the results, Zstandard inside, a checksum on every page.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from tgi_stack.errors import InputError
from tgi_stack.rows import jsonl
from tgi_stack.rows.columns import Fields, Unreadable, Wanted
from tgi_stack.rows.records import ANY, JSON, RECORDS, described, json_text

ROW_GROUP = 4096
BATCH = 256
BATCH_OF_FILES = 8  # rows that hold whole images

# pyarrow costs 0.3 s to import: each function that needs it does so itself.


def write(job: str, file: IO[bytes], lines: Iterable[bytes]) -> None:
    """Writes the records of a job, given as JSON lines, to an open file."""
    import pyarrow.parquet as pq

    remaining = iter(lines)
    with pq.ParquetWriter(file, schema(job), compression="zstd", write_page_checksum=True) as out:
        while rows := [json.loads(line) for line in islice(remaining, ROW_GROUP)]:
            out.write_table(table(job, rows))


def table(job: str, records: list[dict[str, Any]]) -> Any:
    """Records of a job as a pyarrow.Table of the job's schema; they are used up."""
    import pyarrow as pa

    fields = described(RECORDS[job])
    as_text = {name for name, kind in fields.items() if kind == JSON}
    for row in records:
        for name in [name for name in as_text if row.get(name) is not None]:
            row[name] = json_text(row[name])
        _refuse_unknown(row, fields)
    return pa.Table.from_pylist(records, schema=schema(job))


def schema(job: str) -> Any:
    """The columns of a job's records, as a pyarrow.Schema."""
    import pyarrow as pa

    return pa.schema(list(_type(described(RECORDS[job]))))


def _refuse_unknown(value: Any, fields: Any) -> None:
    """Raises ValueError for a field that would be lost: its definition was forgotten."""
    if isinstance(value, dict):
        if unknown := value.keys() - fields.keys():
            raise ValueError(f"no column for the field {min(unknown)!r}; it belongs into `records`")
        for name, inner in value.items():
            _refuse_unknown(inner, fields[name])
    elif isinstance(value, list) and not isinstance(fields[0], str):
        for inner in value:
            _refuse_unknown(inner, fields[0])


def _type(described: Any) -> Any:
    import pyarrow as pa

    if isinstance(described, str):
        return {
            "string": pa.string(),
            JSON: pa.string(),
            "bool": pa.bool_(),
            "int64": pa.int64(),
            "double": pa.float64(),
        }[described]
    if isinstance(described, list):
        return pa.list_(_type(described[0]))
    return pa.struct([pa.field(name, _type(inner)) for name, inner in described.items()])


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a Parquet output; fields that a record did not have are left out again.

    Raises:
        InputError: it can't be read.
    """
    for number, row, _ in read_rows(path, str(path), (), Wanted()):
        if row is not None:
            for name in ANY & row.keys():
                if isinstance(row[name], str):
                    try:
                        row[name] = jsonl.value_of(row[name])
                    except jsonl.LineError as error:
                        raise InputError(f"{path}: row {number:,}: `{name}` is no JSON: {error}") from error
            yield row


# -- reading -------------------------------------------------------------------------------------------


def count(path: Path) -> int:
    """How many rows a file has.

    Raises:
        InputError: it can't be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            rows: int = file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: {_reason(error)}") from error
    return rows


def read_rows(
    path: Path | IO[bytes],
    name: str,
    done: Container[int],
    wanted: Wanted,
    first: int = 1,
    last: int | None = None,
) -> Iterator[tuple[int, dict[str, Any] | None, None]]:
    """Rows of a Parquet file, batch by batch; page checksums are verified where the file has them.

    What can't be read of a row is `Unreadable` there; columns that are not asked for are not read.

    Args:
        first, last: only the rows of these numbers, and of the groups that hold them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = first - 1
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            header = file.schema_arrow.names
            names = {header[place]: ours for place, ours in wanted.of_header(header, name).items()}
            for column, ours in names.items():
                _refuse_twice(
                    file.schema_arrow.field(column).type, _inside(wanted.fields, ours), name, column
                )
            size = BATCH_OF_FILES if _holds_files(file.schema, names) else BATCH
            for number, batch in _batches(file, size, list(names), first, last):
                numbers = range(number + 1, number + 1 + len(batch))
                if all(one in done for one in numbers):
                    yield from ((one, None, None) for one in numbers)
                else:
                    rows = _rows(batch, names, wanted.fields)
                    yield from ((one, row, None) for one, row in zip(numbers, rows, strict=True))
                number += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{name}: unreadable after row {number:,}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _batches(
    file: Any, size: int, columns: list[str], first: int, last: int | None
) -> Iterator[tuple[int, Any]]:
    """Rows from `first` to `last` in batches, each with how many rows of the file stand before it."""
    groups, before, end = [], 0, 0
    for group in range(file.num_row_groups):
        start, end = end, end + file.metadata.row_group(group).num_rows
        if end < first:
            before = end
        elif last is None or start < last:
            groups.append(group)
    for batch in file.iter_batches(size, row_groups=groups, columns=columns):
        skipped = min(len(batch), max(0, first - 1 - before))
        kept = batch.slice(skipped, None if last is None else max(0, last - before - skipped))
        if len(kept):
            yield before + skipped, kept
        before += len(batch)


def rows_of(batch: Any, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """The rows of a record batch, with our names of the fields that are asked for.

    Raises:
        InputError: two columns are one field, or the one that every row needs is missing.
    """
    header = batch.schema.names
    names = {header[place]: ours for place, ours in wanted.of_header(header, "a batch").items()}
    yield from _rows(batch, names, wanted.fields)


def _rows(batch: Any, names: dict[str, str], fields: Fields | None) -> Iterator[dict[str, Any]]:
    ours = list(names.values())
    columns = [_values(batch.column(theirs), _inside(fields, name)) for theirs, name in names.items()]
    for number in range(len(batch)):
        found = ((name, column[number]) for name, column in zip(ours, columns, strict=True))
        # Of a table with ids a row without one is refused, and not known by its number.
        kept = "id" if fields is not None else None
        yield {name: value for name, value in found if value is not None or name == kept}


def _inside(fields: Fields | None, name: str) -> Fields | None:
    return None if fields is None else fields.get(name)


def _values(array: Any, fields: Fields | None) -> Sequence[Any]:
    """An array as Python values, one an entry, without what is not asked for inside."""
    import pyarrow as pa

    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _values(array.storage, fields)
    if pa.types.is_dictionary(kind):
        return _values(array.dictionary_decode(), fields)
    if pa.types.is_struct(kind):
        return _objects(array, fields)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _lists(array, fields)
    if _is_plain(kind):
        return _plain(array)
    unreadable = Unreadable(str(kind))
    return [unreadable if one else None for one in array.is_valid().to_pylist()]


def _is_plain(kind: Any) -> bool:
    from pyarrow import types

    tests = (types.is_string, types.is_large_string, types.is_string_view, types.is_integer)
    more = (types.is_floating, types.is_boolean, types.is_binary, types.is_large_binary, types.is_null)
    return any(test(kind) for test in tests + more)


def _plain(array: Any) -> list[Any]:
    try:
        found: list[Any] = array.to_pylist()
    except UnicodeDecodeError:
        return [_text(one) for one in array]
    return found


def _text(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return Unreadable("text that is not UTF-8")


def _objects(array: Any, fields: Fields | None) -> list[dict[str, Any] | None]:
    names = [field.name for field in array.type]
    asked = _asked(names, fields)
    columns = {
        name: _values(
            array.field(names.index(name)), _inside(fields, name) if name in (fields or ()) else None
        )
        for name in asked
    }
    valid = array.is_valid().to_pylist()
    return [
        {name: column[place] for name, column in columns.items() if column[place] is not None}
        if one
        else None
        for place, one in enumerate(valid)
    ]


def _asked(names: Sequence[str], fields: Fields | None) -> list[str]:
    """The fields of a struct that are asked for; where it has none of them, all."""
    asked = [name for name in dict.fromkeys(names) if fields is None or name in fields]
    return asked or list(dict.fromkeys(names))


def _lists(array: Any, fields: Fields | None) -> list[list[Any] | None]:
    import pyarrow.compute as pc

    inner = _values(array.flatten(), fields)
    found: list[list[Any] | None] = []
    start = 0
    for length in pc.list_value_length(array).to_pylist():
        found.append(None if length is None else list(inner[start : start + length]))
        start += length or 0
    return found


def _refuse_twice(kind: Any, fields: Fields | None, name: str, column: str) -> None:
    """Raises InputError where a name that is asked for stands twice inside a column."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        _refuse_twice(kind.storage_type, fields, name, column)
    elif pa.types.is_struct(kind):
        counts = Counter(field.name for field in kind)
        for field in kind:
            if fields is None or field.name in fields:
                place = f"{column}.{field.name}"
                if counts[field.name] > 1:
                    raise InputError(f"{name}: the column `{place}` stands twice; rename one of the two")
                _refuse_twice(field.type, _inside(fields, field.name), name, place)
    elif hasattr(kind, "value_field") and not pa.types.is_dictionary(kind):
        _refuse_twice(kind.value_type, fields, name, column)


def _holds_files(schema: Any, names: Iterable[str]) -> bool:
    """Whether a column that is asked for holds bytes that are no text: whole images."""
    columns = (schema.column(number) for number in range(len(schema)))
    asked = (column for column in columns if column.path.split(".")[0] in names)
    return any(c.physical_type == "BYTE_ARRAY" and c.logical_type.type == "NONE" for c in asked)
