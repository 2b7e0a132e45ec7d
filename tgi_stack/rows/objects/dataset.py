"""A `datasets.Dataset` as an input: its rows batch by batch, as Arrow has them."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from tgi_stack.errors import InputError, UsageError
from tgi_stack.rows import parquet
from tgi_stack.rows.columns import Kind, Wanted
from tgi_stack.rows.formats import Rows
from tgi_stack.rows.looking.per_row import digest_of
from tgi_stack.rows.opening import open_source
from tgi_stack.rows.reader import Source

if TYPE_CHECKING:
    from datasets import Dataset

# What Python may name as an input.
Input: TypeAlias = Union[str, Path, "Dataset"]

NAME = "the dataset"
OTHERS = ("DatasetDict", "IterableDataset", "IterableDatasetDict")


def is_dataset(given: object) -> bool:
    """Whether an object is a `datasets.Dataset`; the package is not imported for that."""
    package = sys.modules.get("datasets")
    return package is not None and isinstance(given, package.Dataset)


def open_input(given: Input, *, kind: Kind, folders: bool = False, limit: int | None = None) -> Source:
    """The source that Python names: a path (see `open_source`), or a `datasets.Dataset`.

    Raises:
        InputError: see `open_source`; a dataset without the column that every row needs.
        UsageError: an object of another type.
    """
    if isinstance(given, str | os.PathLike):
        return open_source(os.fspath(given), folders=folders, kind=kind, limit=limit)
    if is_dataset(given):
        return DatasetRows(given, Wanted(kind))
    name = type(given).__name__
    if name in OTHERS:
        raise UsageError(
            f"{name}: an input is read several times and is one table; give a `Dataset`: one split, or "
            "`Dataset.from_generator` of the stream"
        )
    raise UsageError(f"an input is a path or a `datasets.Dataset`, not of type {name}")


class DatasetRows(Source):
    """The rows of a `datasets.Dataset`; relative paths of images begin at the current folder.

    Its format and transforms don't count: columns are read as they are stored, pictures as the bytes of their
    files. Only columns that are asked for are read, and only a batch of them is held.
    """

    is_table = True

    def __init__(self, dataset: Dataset, wanted: Wanted) -> None:
        super().__init__(Path.cwd(), NAME, wanted=wanted)
        header = list(dataset.column_names)
        asked = [header[place] for place in wanted.of_header(header, NAME)]
        self._rows = dataset.with_format("arrow", columns=asked)
        holds_files = any(_holds_bytes(dataset.data.schema.field(name).type) for name in asked)
        self._batch = parquet.BATCH_OF_FILES if holds_files else parquet.BATCH
        self.place = "-"  # nobody can read it again by a name

    def look_again(self) -> int:
        return sum(1 for _ in self.look())  # a row that is not read has no digest here

    def _read(self, done: Container[int]) -> Rows:
        import pyarrow as pa

        number = 0
        try:
            for table in self._rows.iter(self._batch):
                for batch in table.to_batches():
                    numbers = range(number + 1, number + 1 + len(batch))
                    number += len(batch)
                    if all(one in done for one in numbers):
                        yield from ((one, None, None) for one in numbers)
                    else:
                        rows = parquet.rows_of(batch, self.wanted)
                        yield from ((one, row, None) for one, row in zip(numbers, rows, strict=True))
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{self.name}: unreadable after row {number:,}: {error}") from error

    def _digest(self) -> str:
        whole = hashlib.sha256()
        for number, value, _ in self._read(()):
            whole.update(f"{number} {digest_of(value)}\n".encode())
        return whole.hexdigest()


def _holds_bytes(kind: Any) -> bool:
    """Whether a column holds bytes that are no text: whole images."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return _holds_bytes(kind.storage_type)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    return any(_holds_bytes(kind.field(place).type) for place in range(kind.num_fields))
