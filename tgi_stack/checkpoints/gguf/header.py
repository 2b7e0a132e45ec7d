"""The header of a GGUF file: its fields, and where each tensor lies.

Source: the GGUF specification of ggml (versions 2 and 3, little-endian). Each length is held to the file's
before anything is read by it, so that a damaged file costs an error and neither time nor memory.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tgi_stack import lfs
from tgi_stack.errors import CheckpointError

SUFFIX = ".gguf"
MAGIC, VERSIONS = b"GGUF", (2, 3)
ALIGNMENT = 32  # where a file names none
STRING, ARRAY, BOOL = 8, 9, 7
NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", BOOL: "|b1", 10: "<u8", 11: "<i8",
    12: "<f8",
}  # fmt: skip
MOST_AXES = 4


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies.

    Attributes:
        kind: of its numbers, by ggml's count of kinds.
        shape: in the order of torch: rows before columns.
        start: its first byte in the file.
    """

    kind: int
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class Header:
    """What a file says before its numbers."""

    path: Path
    size: int
    fields: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def architecture(self) -> str:
        """The family, as llama.cpp names it."""
        return str(self.fields.get("general.architecture"))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the whole file."""
        with self.path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()


def read(path: Path) -> Header:
    """The header of a file.

    Raises:
        CheckpointError: no GGUF file, a part of one, or one that is cut short or damaged.
    """
    try:
        with path.open("rb") as opened:
            beginning = opened.read(64)
            if lfs.is_pointer(beginning):
                raise CheckpointError(lfs.cure(str(path)))
            if beginning[:4] != MAGIC:
                raise CheckpointError(f"{path} is no GGUF file: it begins with {beginning[:4]!r}")
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _Reader(content).header(path)
    except (OSError, ValueError, struct.error, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CheckpointError(f"{path} is cut short or damaged ({reason}); fetch it again") from error


class _Reader:
    """Takes values from a file, one behind the other."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._at = len(MAGIC)

    def header(self, path: Path) -> Header:
        version = self._number("<I")
        if version not in VERSIONS:
            swapped = " (it may be big-endian)" if version & 0xFFFF == 0 else ""
            raise CheckpointError(f"{path}: version {version} of GGUF is not read, only 2 and 3{swapped}")
        tensors, fields = self._number("<Q"), self._number("<Q")
        said: dict[str, Any] = {}
        for _ in range(fields):
            name = self._string()
            if name in said:
                raise ValueError(f"{name} stands twice")
            said[name] = self._value(self._number("<I"))
        alignment = said.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
            raise ValueError(f"general.alignment is {alignment!r}")
        listed = [(self._string(), self._tensor()) for _ in range(tensors)]
        found = dict(listed)
        if len(found) != len(listed):
            raise ValueError("a tensor's name stands twice")
        begin = -(-self._at // alignment) * alignment
        placed = {name: Tensor(one.kind, one.shape, one.start + begin) for name, one in found.items()}
        for name, one in placed.items():
            if one.start % alignment or one.start > len(self._content):
                raise ValueError(f"{name} begins at byte {one.start:,} of {len(self._content):,}")
        return Header(path, len(self._content), said, placed)

    def _bytes(self, count: int) -> bytes:
        if count > len(self._content) - self._at:
            raise ValueError(f"it ends after {len(self._content):,} bytes, within its header")
        self._at += count
        return self._content[self._at - count : self._at]

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._bytes(struct.calcsize(form)))[0])

    def _string(self) -> str:
        return self._bytes(self._number("<Q")).decode("utf-8")

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            kind, count = self._number("<I"), self._number("<Q")
            return [self._string() for _ in range(count)] if kind == STRING else self._numbers(kind, count)
        return self._numbers(kind, 1)[0]

    def _numbers(self, kind: int, count: int) -> list[Any]:
        if kind not in NUMBERS:
            raise ValueError(f"a field of kind {kind}")
        form = np.dtype(NUMBERS[kind])
        found: list[Any] = np.frombuffer(self._bytes(form.itemsize * count), form).tolist()
        return found

    def _tensor(self) -> Tensor:
        axes = self._number("<I")
        if not 1 <= axes <= MOST_AXES:
            raise ValueError(f"a tensor of {axes} axes")
        shape = tuple(self._numbers(10, axes)[::-1])
        return Tensor(self._number("<I"), shape, self._number("<Q"))
