"""Where records go: standard output as they finish, or a file in the order of the input.

A file's records are appended to `OUT.part.jsonl` in whole lines, each by one write, while the run goes on; at
the end OUT is written in input order beside it, made durable and renamed into place.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Protocol

from tgi_stack.errors import DiskError, UsageError
from tgi_stack.rows import jsonl


class Sink(Protocol):
    """Takes records; `finish` is called once, after the last one of a run that was not interrupted."""

    def write(self, number: int, record: dict[str, Any]) -> None: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...


def open_sink(out: Path | None, *, overwrite: bool = False, unordered: bool = False) -> Sink:
    """The sink for `-o OUT`; None is standard output.

    Raises:
        UsageError: OUT is there already, or its suffix is not one that is written.
        DiskError: OUT can't be written.
    """
    if out is None:
        return Stream(sys.stdout.fileno(), "standard output", owned=False)
    if out.suffix != ".jsonl":
        raise UsageError(f"-o {out}: can't write {out.suffix or 'a file without a suffix'}; give .jsonl")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} is there already; to write it anew: --overwrite")
    try:
        if unordered:
            return Stream(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666), str(out))
        return OrderedFile(out)
    except OSError as error:
        raise DiskError(f"{out}: {error.strerror}") from error


class Stream:
    """Records in the order in which they finish."""

    def __init__(self, descriptor: int, name: str, *, owned: bool = True) -> None:
        self._descriptor = descriptor
        self._name = name
        self._owned = owned

    def write(self, number: int, record: dict[str, Any]) -> None:
        _write(self._descriptor, jsonl.dumps(record), self._name)

    def finish(self) -> None:
        pass

    def close(self) -> None:
        if self._owned:
            os.close(self._descriptor)


class OrderedFile:
    """Records in input order; the part file holds them until the run is over."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._part = out.with_name(out.name.removesuffix(".jsonl") + ".part.jsonl")
        out.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        self._lines: list[tuple[int, int, int]] = []  # row number, offset, length
        self._end = 0

    def write(self, number: int, record: dict[str, Any]) -> None:
        line = jsonl.dumps(record)
        _write(self._descriptor, line, str(self._part))
        self._lines.append((number, self._end, len(line)))
        self._end += len(line)

    def finish(self) -> None:
        """Writes OUT in input order and renames it into place."""
        temporary = self._out.with_name(self._out.name + ".tmp")
        try:
            with temporary.open("wb") as file:
                for _, offset, length in sorted(self._lines):
                    file.write(os.pread(self._descriptor, length, offset))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._out)
            self._part.unlink()
        except OSError as error:
            raise DiskError(f"{self._out}: {error.strerror}") from error

    def close(self) -> None:
        os.close(self._descriptor)


def _write(descriptor: int, line: bytes, name: str) -> None:
    try:
        while line:
            line = line[os.write(descriptor, line) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DiskError(f"{name}: {error.strerror}") from error
