"""Finds ids that stand twice among any number of rows, with state on disk instead of in memory.

Each id is kept as a 16-byte digest with its row's number, in one of 256 files by the digest's first byte; two
different ids share a digest with a chance of 2^-128. The files are looked through one after the other.
"""

from __future__ import annotations

import hashlib
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from tgi_stack.errors import DiskError

_ENTRY = struct.Struct("<16sq")
_BUFFERED_BYTES = _ENTRY.size * 1024  # of each of the 256 buckets


class Duplicates:
    """A context: `add` every row, then ask for the `first` pair of rows with the same id."""

    def __init__(self) -> None:
        self._buckets = [bytearray() for _ in range(256)]
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Duplicates:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def add(self, number: int, id: str) -> None:
        """Takes note of a row's id."""
        key = hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        bucket = self._buckets[key[0]]
        bucket += _ENTRY.pack(key, number)
        if len(bucket) >= _BUFFERED_BYTES:
            try:
                with self._file(key[0]).open("ab") as file:
                    file.write(bucket)
            except OSError as error:
                where = tempfile.gettempdir()
                raise DiskError(
                    f"temporary files in {where}: {error.strerror}; free some or set TMPDIR"
                ) from error
            bucket.clear()

    def first(self) -> tuple[int, int] | None:
        """The two row numbers of the duplicate that comes first in the input, or None."""
        found = [pair for bucket in range(256) for pair in self._pairs(bucket)]
        return min(found, key=lambda pair: pair[1], default=None)

    def _pairs(self, bucket: int) -> Iterator[tuple[int, int]]:
        seen: dict[bytes, int] = {}
        for key, number in _ENTRY.iter_unpack(self._content(bucket)):
            earlier = seen.setdefault(key, number)
            if earlier != number:
                yield earlier, number
                return

    def _content(self, bucket: int) -> bytes:
        written = b""
        if self._folder is not None and self._file(bucket).exists():
            written = self._file(bucket).read_bytes()
        return written + bytes(self._buckets[bucket])

    def _file(self, bucket: int) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="fastqwen-ids-")
        return Path(self._folder.name, f"{bucket:02x}")
