"""What goes to stdout: data, and tables for people."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from tgi_stack.errors import DiskError

STANDARD_OUTPUT = "standard output"
LEAST_COLUMNS = 40  # of a terminal on which a frame or a bar is drawn


def print_lines(*lines: str) -> None:
    """Lines on stdout, written out at once: a full disk is noticed here.

    Raises:
        DiskError: there is no stdout (`>&-`).
        OSError: it can't be written.
    """
    with _stdout() as file:
        file.writelines(f"{line}\n" for line in lines)


def print_data(value: Any) -> None:
    """JSON on stdout; see `print_lines`."""
    print_lines(json.dumps(value))


def print_table(table: Any, width: int | None = None) -> None:
    """A rich table or text on stdout; `width` is for a stdout that is no terminal. See `print_lines`.

    Where no frame fits or none can be drawn it is plain lines, whole however wide the terminal is.
    """
    from rich.console import Console

    with _stdout() as file:
        console = Console(file=file, highlight=False, width=None if file.isatty() else width)
        if console.width < LEAST_COLUMNS or os.environ.get("TERM") in ("", "dumb", "unknown"):
            file.writelines(f"{line}\n" for line in _plain(table))
        else:
            console.print(table)


def _plain(table: Any) -> Iterator[str]:
    """A line for each row, with each cell behind its column's name; a text as it is."""
    if not hasattr(table, "columns"):
        yield str(table)
        return
    if table.title:
        yield str(table.title)
    names = [str(column.header) for column in table.columns]
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        yield ", ".join(f"{name} {cell}" for name, cell in zip(names, cells, strict=True) if str(cell))


@contextmanager
def _stdout() -> Iterator[IO[str]]:
    if sys.stdout is None or sys.stdout.closed:
        raise DiskError("standard output is closed")
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        error.filename = error.filename or STANDARD_OUTPUT
        raise
