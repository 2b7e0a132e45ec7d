"""Text that users give, read within bounds: whole files of options, and lines of inputs.

UTF-8, with or without a byte order mark, and UTF-16 by its mark. Nothing here reads more than it was told to,
so that `/dev/zero` or a pipe without end meets a limit.
"""

from __future__ import annotations

import codecs
import io
import os
import select
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cache.system import system

OPTION_BYTES = 2**20  # of a prompt file, a settings file
KEY_BYTES = 2**16
CERTIFICATES_BYTES = 2**24
PIECE_BYTES = 2**20

WRITER_S = 10.0  # that a named pipe is waited for until somebody writes to it
SILENT_S = 60.0  # before each part of a file of options that comes through a pipe
LOOK_S = 0.02

UTF_8_MARK = codecs.BOM_UTF8
UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# What begins so is no text, whatever its name says, and how a file of rows of it is named.
OTHER_CONTENT = {
    b"\x1f\x8b\x08": "gzip data, named as text; a file of rows of it ends in .jsonl.gz",
    b"\x28\xb5\x2f\xfd": "Zstandard data, named as text; a file of rows of it ends in .jsonl.zst",
    b"PAR1": "Parquet, named as text; give it the suffix .parquet",
    b"PK\3\4": "a ZIP archive (or a spreadsheet), not text; unpack it, or save it as CSV",
}
UTF_32_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_piped: dict[str, bytes] = {}  # what pipes gave, by their names


class TextFileError(ValueError):
    """A file that is no text, or too much of it; the message does not name the file."""


def unread(option: str, path: Path, error: Exception) -> str:
    """A line for a file of a secret that can't be read; a name that no file has may be the secret."""
    if isinstance(error, OSError) and not os.path.lexists(path):
        return f"{option} names a file that is not there; it takes a file's name, never a key"
    return f"{option} {path}: {(error.strerror if isinstance(error, OSError) else None) or error}"


def opened(path: Path, *, silent_s: float | None = None) -> IO[bytes]:
    """A file to read from; a named pipe once somebody writes to it.

    Args:
        silent_s: how long the writer of a pipe may take before each part; None for as long as it likes.

    Raises:
        OSError: it can't be opened.
        TextFileError: nobody begins to write to a pipe within `WRITER_S` seconds.
    """
    if not path.is_fifo():
        return path.open("rb")
    return io.BufferedReader(_Pipe(os.open(path, os.O_RDONLY | system.NO_WAIT | system.OPEN), silent_s))


class _Pipe(io.RawIOBase):
    """A named pipe that somebody has begun to write to."""

    def __init__(self, handle: int, silent_s: float | None) -> None:
        self._handle = handle
        self._silent_s = silent_s
        try:
            self._begun = self._first()
        except BaseException:
            self.close()
            raise

    def _first(self) -> bytes:
        """What it gives first; nothing where its writer has nothing ready, or has gone."""
        end = time.monotonic() + WRITER_S
        while time.monotonic() < end:
            try:
                if piece := os.read(self._handle, PIECE_BYTES):
                    return piece
            except BlockingIOError:  # somebody writes, but has nothing to say yet
                return b""
            if self._polled(0) & select.POLLHUP:
                return b""
            time.sleep(LOOK_S)
        raise TextFileError(f"a pipe that nobody writes to ({WRITER_S:g} s); start its writer first")

    def _polled(self, wait_s: float | None) -> int:
        polling = select.poll()
        polling.register(self._handle, select.POLLIN)
        found = polling.poll(None if wait_s is None else wait_s * 1000)
        return found[0][1] if found else 0

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._handle

    def readinto(self, buffer: Any) -> int:
        piece, self._begun = self._begun, b""
        if not piece:
            if not self._polled(self._silent_s):
                raise TextFileError(f"the writer of this pipe says nothing for {self._silent_s:g} s")
            piece = os.read(self._handle, len(buffer))
        size = min(len(buffer), len(piece))
        buffer[:size], self._begun = piece[:size], piece[size:]
        return size

    def close(self) -> None:
        if not self.closed:
            os.close(self._handle)
        super().close()


def read_bytes(path: Path, most: int = OPTION_BYTES) -> bytes:
    """All of a small file, or of what a pipe gives: that is kept, as nobody can read it a second time.

    Raises:
        OSError: it can't be read.
        TextFileError: there are more than `most` bytes; a pipe that nobody writes to, or ends.
    """
    place = str(path)
    if place in _piped and path.is_fifo():
        return _piped[place]
    with opened(path, silent_s=SILENT_S) as file:
        content = file.read(most + 1)
        is_pipe = stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
    if len(content) > most:
        raise TextFileError(f"more than {most:,} bytes; is it the right file?")
    if is_pipe:
        _piped[place] = content
    return content


def read_text(path: Path, most: int = OPTION_BYTES) -> str:
    """The text of a small file; line ends become newlines.

    Raises:
        OSError: it can't be read.
        TextFileError: it is too large, or neither UTF-8 nor UTF-16.
    """
    return decoded(read_bytes(path, most)).replace("\r\n", "\n").replace("\r", "\n")


def decoded(content: bytes) -> str:
    """Text without its byte order mark.

    Raises:
        TextFileError: neither UTF-8 nor UTF-16, with the line and the byte where that shows.
    """
    refuse_other_encoding(content[:4])
    name, encoding = ("UTF-16", "utf-16") if content.startswith(UTF_16_MARKS) else ("UTF-8", "utf-8-sig")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line = before.count(b"\n") + 1
        raise TextFileError(f"line {line} is not {name} ({error.reason}); save it as UTF-8") from error


def refuse_other_encoding(head: bytes) -> None:
    """Raises TextFileError where the first four bytes tell UTF-32, UTF-16 without its mark, or no text.

    Text begins with no NUL: where one stands among the first four bytes tells the encoding (RFC 4627, 3).
    """
    for magic, said in OTHER_CONTENT.items():
        if head.startswith(magic):
            raise TextFileError(said)
    zeros = head[:4].count(0)
    if head in UTF_32_MARKS or (zeros == 3 and len(head) == 4):
        raise TextFileError("UTF-32; save it as UTF-8")
    if not head.startswith(UTF_16_MARKS) and 0 < zeros < min(len(head), 3):
        raise TextFileError("UTF-16 without a byte order mark; save it as UTF-8")


def as_utf_8(file: IO[bytes]) -> IO[bytes]:
    """The same text as UTF-8 without a byte order mark.

    What is no text in UTF-16 comes out as what is none in UTF-8: the line it stands in fails there.

    Raises:
        TextFileError: see `refuse_other_encoding`.
    """
    buffered: Any = file if hasattr(file, "peek") else io.BufferedReader(file)
    head: bytes = buffered.peek(4)[:4]
    refuse_other_encoding(head)
    if head.startswith(UTF_8_MARK):
        buffered.read(len(UTF_8_MARK))
    elif head.startswith(UTF_16_MARKS):
        return io.BufferedReader(_Transcoded(buffered))
    found: IO[bytes] = buffered
    return found


class _Transcoded(io.RawIOBase):
    """UTF-16 as UTF-8."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-16")("surrogatepass")
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            block = self._file.read(io.DEFAULT_BUFFER_SIZE)
            try:
                text = self._decoder.decode(block, final=not block)
            except UnicodeDecodeError:  # half a character at the end
                text, self._decoder = "\udcff", codecs.getincrementaldecoder("utf-16")("surrogatepass")
            self._left = text.encode("utf-8", "surrogatepass")
            if not block and not self._left:
                return 0
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size


def short_lines(file: IO[bytes], most: int) -> Iterator[bytes]:
    """The lines of a file with their ends, where none may be longer than `most` bytes.

    Raises:
        TextFileError: one is, of which no more is read: it may have no end.
    """
    while line := file.readline(most + 1):
        if len(line) > most:
            raise TextFileError(f"a line of more than {most:,} bytes; is it the right file?")
        yield line


def lines(file: IO[bytes], most: int) -> Iterator[bytes | None]:
    """The lines of a file with their ends; None for one of more than `most` bytes, which is passed over."""
    while line := file.readline(PIECE_BYTES):
        if len(line) == PIECE_BYTES and not line.endswith(b"\n"):
            yield _long_line(file, line, most)
        else:
            yield line if len(line) <= most else None


def _long_line(file: IO[bytes], start: bytes, most: int) -> bytes | None:
    """The line that `start` begins; what is beyond the limit is not kept."""
    line, piece = bytearray(start), start
    kept = len(line) <= most
    while not piece.endswith(b"\n") and (piece := file.readline(PIECE_BYTES)):
        if kept:
            line += piece
            kept = len(line) <= most
        if not kept:
            line.clear()
    return bytes(line) if kept else None
