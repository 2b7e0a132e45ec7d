"""Where records go, so that a run can be killed at any moment and nothing is lost, repeated or invented.

With `-o OUT` every finished record is appended to `OUT.part.jsonl` in one write, its row's number before it.
At the end OUT is written in input order, made durable and renamed into place; then the part file goes. So
whoever starts the same command again finds no part file (nothing was done, or all of it), or one whose last
line may be torn and is cut off.

Without `-o`, and with `--unordered`, records are streamed as they finish and there is nothing to resume.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from cache.storage.replacing import PresentError, Replacement, descriptor_of
from cache.system import system
from tgi_stack.errors import DiskError, UsageError
from tgi_stack.rows import jsonl
from tgi_stack.rows.looking.per_row import Numbers
from tgi_stack.types import Identity
from tgi_stack.writing import opened

LOG = logging.getLogger("fastqwen")
SYNC_EVERY_S = 1.0
BLOCK_BYTES = 2**20

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checked:
    """That all rows of the input were looked at; `strict`: and none was malformed."""

    rows: int
    strict: bool


class Sink(Protocol):
    """Takes records. `counts` are those of `Tally.noted`."""

    def begin(self, identity: Identity, checked: Checked) -> None:
        """To be called when all that can be refused has been: nothing is written before."""

    def __contains__(self, number: object) -> bool:
        """Whether a row, by its number, needs no answer any more: it has an ok record from an earlier run."""

    @property
    def is_full(self) -> bool:
        """Whether no more rows are to be begun for now."""

    def write(self, number: int, record: Record) -> None:
        """Takes the record of a row."""

    def write_lines(
        self, numbers: Sequence[int], lengths: Sequence[int], lines: bytes, failed: Container[int] = ()
    ) -> None:
        """Takes records as `line_of` writes them, one behind another; of rows in `failed` they are not ok."""

    def finish(self, counts: dict[str, Any]) -> None:
        """To be called once, after the last record of a run that was not interrupted."""

    def close(self, counts: dict[str, Any]) -> None:
        """To be called at the end of every run."""


class Discard:
    """A sink that keeps nothing: for records that nobody wants, and for those who override `write`."""

    def begin(self, identity: Identity, checked: Checked) -> None:
        pass

    def __contains__(self, number: object) -> bool:
        return False

    @property
    def is_full(self) -> bool:
        return False

    def write(self, number: int, record: Record) -> None:
        pass

    def write_lines(
        self, numbers: Sequence[int], lengths: Sequence[int], lines: bytes, failed: Container[int] = ()
    ) -> None:
        pass

    def finish(self, counts: dict[str, Any]) -> None:
        pass

    def close(self, counts: dict[str, Any]) -> None:
        pass


class Stream(Discard):
    """Records in the order in which they finish."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name

    def write(self, number: int, record: Record) -> None:
        _write(self._descriptor, jsonl.dumps(record), self._name)

    def write_lines(
        self, numbers: Sequence[int], lengths: Sequence[int], lines: bytes, failed: Container[int] = ()
    ) -> None:
        records = map(record_of, lines.splitlines(keepends=True))
        _write(self._descriptor, b"".join(records), self._name)


def standard_output() -> Stream:
    """Records on stdout.

    Raises:
        DiskError: there is none (`>&-`).
    """
    try:
        return Stream(sys.stdout.fileno(), "standard output")
    except (AttributeError, OSError, ValueError) as error:
        raise DiskError("standard output is closed; give -o OUT") from error


class UnorderedFile(Stream):
    """Records in `OUT.tmp` as they finish, which becomes OUT when all are there.

    Raises:
        UsageError: the file is there already and `overwrite` is not given.
        LockedError: another run writes it.
    """

    def __init__(self, out: Path, *, overwrite: bool) -> None:
        super().__init__(-1, str(out))
        self._content = opened("-o", out, overwrite=overwrite)
        self._written = self._whole = False

    def begin(self, identity: Identity, checked: Checked) -> None:
        self._descriptor = self._content.file.fileno()

    def write(self, number: int, record: Record) -> None:
        super().write(number, record)
        self._written = True

    def write_lines(
        self, numbers: Sequence[int], lengths: Sequence[int], lines: bytes, failed: Container[int] = ()
    ) -> None:
        super().write_lines(numbers, lengths, lines, failed)
        self._written = True

    def finish(self, counts: dict[str, Any]) -> None:
        try:
            self._content.commit()
        except PresentError as error:
            raise UsageError(f"-o {error}; move it away, then rename {self._content.beside}") from error
        except OSError as error:
            raise DiskError(
                f"{self._name}: {error.strerror}; records are in {self._content.beside}"
            ) from error
        self._whole = True

    def close(self, counts: dict[str, Any]) -> None:
        """Records of a run that did not finish stay where they are."""
        keep = self._written and not self._whole
        self._content.close(keep=keep)
        if keep:
            LOG.warning("%s was not finished; its records are in %s", self._name, self._content.beside)


# -- the part file ---------------------------------------------------------------------------------------


def part_path(out: Path) -> Path:
    """Where the records of an unfinished OUT are."""
    return out.with_name(out.name + ".part.jsonl")


class Ledger:
    """The records of an OUT that is being made; open it only while holding the lock of OUT."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._part = part_path(out)
        self._index = Numbers()  # offset + 1 of an ok record, -(offset + 1) of a failed one
        self._synced_at = time.monotonic()
        self._rows = self._written = 0
        self._torn: str | None = None  # why a line may have been cut
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = descriptor_of(self._part, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            self._end = self._recover()
        except OSError as error:
            raise DiskError(f"{self._part}: {error.strerror}") from error

    def __contains__(self, number: object) -> bool:
        """Whether a row has an ok record, by its number."""
        return isinstance(number, int) and self._index.get(number) > 0

    def write(self, number: int, record: Record) -> None:
        """Appends a record; whole once this returns, durable within a second or at the end."""
        line = line_of(number, record)
        self.write_lines((number,), (len(line),), line, () if record["status"] == "ok" else (number,))

    def write_lines(
        self, numbers: Sequence[int], lengths: Sequence[int], lines: bytes, failed: Container[int] = ()
    ) -> None:
        """Appends records as `line_of` writes them, one behind the other.

        Args:
            failed: the rows among them whose records are not ok.

        Raises:
            DiskError: they can't be written, or some before were not: nothing follows a torn line. The reason
                is that of the first, since of several who write any may be the one that is heard.
        """
        if self._torn is not None:
            raise DiskError(self._torn)
        self._torn = f"{self._part}: a line before was not written whole"
        try:
            _write(self._descriptor, lines, str(self._part))
        except DiskError as error:
            self._torn = f"{error}; the rows before are kept: the same command goes on with the others"
            raise DiskError(self._torn) from error
        self._torn = None
        for number, length in zip(numbers, lengths, strict=True):
            self._note(number, self._end, ok=number not in failed)
            self._end += length
        now = time.monotonic()
        if now - self._synced_at >= SYNC_EVERY_S:
            self._synced_at = now
            self._sync()

    @contextmanager
    def finishing(self) -> Iterator[IO[bytes]]:
        """A file that becomes OUT, for the content that is made of `lines`; `retire` removes the part file
        after that.

        Raises:
            DiskError: it can't be written, or not every row's record was found again.
        """
        self._sync()
        content = None
        try:
            content = Replacement(self._out, overwrite=True, locked=True)
            yield content.file
            if self._written != self._rows:
                raise DiskError(f"{self._part}: {self._written:,} of {self._rows:,} records found again")
            content.commit()
        except OSError as error:
            kept = f"the finished rows are in {self._part}"
            raise DiskError(f"{self._out}: {error.strerror or error}; {kept}") from error
        finally:
            if content is not None:
                content.close()

    @property
    def is_empty(self) -> bool:
        """Whether no row has a record."""
        return self._rows == 0

    def retire(self) -> None:
        """Removes the part file, once whatever speaks of OUT has been written."""
        self._part.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._descriptor)
        self._index.close()

    def lines(self) -> Iterator[bytes]:
        """The record of each row that has one, in input order, each with its newline."""
        self._written = 0
        # Rows finish nearly in input order, so one block serves many of them.
        start, block = 0, b""
        for offset in (abs(value) - 1 for value in self._index.values()):
            end = block.find(b"\n", offset - start) if start <= offset < start + len(block) else -1
            if end < 0:
                start, block = offset, self._block_with_line(offset)
                end = block.index(b"\n")
            self._written += 1
            yield record_of(block[offset - start : end + 1])

    def _block_with_line(self, offset: int) -> bytes:
        block = system.read_at(self._descriptor, BLOCK_BYTES, offset)
        while b"\n" not in block:
            block += system.read_at(self._descriptor, BLOCK_BYTES, offset + len(block))
        return block

    def _note(self, number: int, offset: int, *, ok: bool) -> None:
        self._rows += self._index.swap(number, offset + 1 if ok else -(offset + 1)) == 0

    def _sync(self) -> None:
        try:
            system.sync_data(self._descriptor)
        except OSError as error:  # what was not made durable may be gone: trying again would hide that
            raise DiskError(f"{self._part}: {error.strerror}") from error

    def _recover(self) -> int:
        """Reads what an earlier run left and cuts a torn last line off: where the file ends."""
        end = 0
        with os.fdopen(os.dup(self._descriptor), "rb", buffering=BLOCK_BYTES) as file:
            file.seek(0)
            for line in file:
                number = _number_of(line)
                if number is None:
                    break
                self._note(number, end, ok=_is_ok(line))
                end += len(line)
        if end == 0 and os.fstat(self._descriptor).st_size > BLOCK_BYTES:
            raise UsageError(f"{self._part} was not written by fastqwen; move it away")
        if end != os.fstat(self._descriptor).st_size:
            os.ftruncate(self._descriptor, end)
        return end


_START = b'{"row":'
_OK = b',"status":"ok","record":'
_FAILED = b',"status":"failed","record":'


def line_of(number: int, record: Record, line: bytes | None = None) -> bytes:
    """A record as it stands in a part file; `line` is what `jsonl.dumps` makes of it, where that is known."""
    kind = _OK if record["status"] == "ok" else _FAILED
    written = jsonl.dumps(record) if line is None else line
    return _START + str(number).encode() + kind + written[:-1] + b"}\n"


def _number_of(line: bytes) -> int | None:
    """The row that a whole line is of; None for a torn one."""
    comma = line.find(b",", len(_START))
    if not line.startswith(_START) or not line.endswith(b"}}\n"):
        return None
    if not (line.startswith(_OK, comma) or line.startswith(_FAILED, comma)):
        return None
    return int(line[len(_START) : comma])


def _is_ok(line: bytes) -> bool:
    comma = line.index(b",", len(_START))
    return line.startswith(_OK, comma)


def record_of(line: bytes) -> bytes:
    """The record that a line of a part file holds, with its newline."""
    comma = line.index(b",", len(_START))
    start = comma + (len(_OK) if line.startswith(_OK, comma) else len(_FAILED))
    return line[start:-2] + b"\n"


# -- small things ----------------------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content."""
    try:
        with open(path, "rb", opener=descriptor_of) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror}") from error


def _write(descriptor: int, line: bytes, name: str) -> None:
    try:
        while line:
            line = line[os.write(descriptor, line) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DiskError(f"{name}: {error.strerror}") from error
