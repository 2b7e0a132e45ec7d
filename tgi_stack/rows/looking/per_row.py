"""What is kept of each row, for any number of rows: on disk instead of in memory, where there are many."""

from __future__ import annotations

import hashlib
import marshal
import struct
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from cache.system import system
from tgi_stack.errors import DiskError

_ENTRY = struct.Struct("<16sq")
_BUFFERED_BYTES = _ENTRY.size * 1024  # of each of the 256 buckets


class Numbers:
    """A number of 64 bits for each row, 0 for one that has none: 8 bytes a row in an unlinked temporary file.

    Rows come nearly in order, so the few blocks touched last are all that is held; of a short input the file
    is never made.
    """

    ENTRIES = 4096  # of a block
    HELD = 8  # blocks

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._blocks: dict[int, array[int]] = {}

    def get(self, number: int) -> int:
        """The row's number; raises DiskError, as all methods do."""
        block, place = divmod(number, self.ENTRIES)
        return (self._blocks.get(block) or self._load(block))[place]

    def set(self, number: int, value: int) -> None:
        self.swap(number, value)

    def swap(self, number: int, value: int) -> int:
        """Sets the row's number: what it was before."""
        block, place = divmod(number, self.ENTRIES)
        entries = self._blocks.get(block) or self._load(block)
        before, entries[place] = entries[place], value
        return before

    def values(self) -> Iterator[int]:
        """The numbers that are not 0, in the order of their rows."""
        held = sorted(self._blocks)
        if self._file is None:
            for block in held:
                yield from filter(None, self._blocks[block])
            return
        for block in held:
            self._store(block)
        block = 0
        while content := self._stored(block):
            yield from filter(None, content)
            block += 1

    def close(self) -> None:
        """Gives the file back."""
        if self._file is not None:
            self._file.close()

    __del__ = close

    def _stored(self, block: int) -> array[int]:
        """A block as it is on disk; an empty one behind the last."""
        if self._file is None:
            return array("q")
        with on_disk():
            return array("q", system.read_at(self._file.fileno(), 8 * self.ENTRIES, block * 8 * self.ENTRIES))

    def _load(self, block: int) -> array[int]:
        if len(self._blocks) >= self.HELD:
            self._store(next(iter(self._blocks)))
        content = self._stored(block)
        content.extend([0] * (self.ENTRIES - len(content)))
        self._blocks[block] = content
        return self._blocks[block]

    def _store(self, block: int) -> None:
        with on_disk():
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="fastqwen-rows-", buffering=0)  # noqa: SIM115
            content, place = self._blocks[block].tobytes(), block * 8 * self.ENTRIES
            while content:  # a disk that is nearly full takes a part and says nothing
                written = system.write_at(self._file.fileno(), content, place)
                content, place = content[written:], place + written
        del self._blocks[block]


class Duplicates:
    """Finds ids that stand twice. A context: `add` every row, then ask for the `first` pair with one id.

    Each id is kept as a 16-byte digest with its row's number, in one of 256 files by the digest's first byte;
    two different ids share a digest with a chance of 2^-128. The files are looked through one by one.
    """

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
            with on_disk(), self._file(key[0]).open("ab") as file:
                file.write(bucket)
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


class Digests:
    """What each row was when all of them were looked at: a digest of 64 bits a row.

    Attributes:
        last: the number of the last row.
    """

    def __init__(self) -> None:
        self._numbers = Numbers()
        self.last = 0

    def note(self, number: int, digest: int) -> None:
        """Takes note of a row; they come in order."""
        self._numbers.set(number, digest)
        self.last = number

    def between(self, first: int, number: int) -> bool:
        """Whether any row stands between two, which are not counted."""
        return any(map(self._numbers.get, range(first + 1, number)))

    def holds(self, number: int, digest: int) -> bool:
        """Whether a row is what it was."""
        return number <= self.last and self._numbers.get(number) == digest


def digest_of(value: Any, line: bytes | None = None) -> int:
    """A row's digest, never 0: of the line it stands in, or else of its value."""
    if line is None:
        try:
            line = marshal.dumps(value, 2)  # version 2: equal values, equal bytes
        except ValueError:  # errors, and what can't be read
            line = repr(value).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(line, digest_size=8).digest(), "big", signed=True) or 1


@contextmanager
def on_disk() -> Iterator[None]:
    """Around work on temporary files: raises DiskError where they can't be written."""
    try:
        yield
    except OSError as error:
        where = tempfile.gettempdir()
        raise DiskError(f"temporary files in {where}: {error.strerror}; free some or set TMPDIR") from error
