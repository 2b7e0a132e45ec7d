"""What goes to stdout: data, and tables for people."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from tgi_stack.errors import DiskError
from tgi_stack.logs import escaped

STANDARD_OUTPUT = "standard output"
LEAST_COLUMNS = 40  # of a terminal on which a frame or a bar is drawn


def print_lines(*lines: str) -> None:
    """Lines for people on stdout, written out at once: a full disk is noticed here.

    What stands in them may be of a file or a server: its control characters are made visible.

    Raises:
        DiskError: there is no stdout (`>&-`).
        OSError: it can't be written.
    """
    with _stdout() as file:
        file.writelines(f"{escaped(line)}\n" for line in lines)


def print_data(value: Any) -> None:
    """JSON on stdout; see `print_lines`."""
    with _stdout() as file:
        file.write(f"{json.dumps(value)}\n")


def print_table(table: Any, width: int | None = None) -> None:
    """A rich table or text on stdout; `width` is for a stdout that is no terminal. See `print_lines`.

    Where no frame fits or none can be drawn it is plain lines, whole however wide the terminal is. An id such
    as `[/red]` or `:smile:` is no markup.
    """
    from rich.console import Console

    table = _harmless(table)
    with _stdout() as file:
        wide = None if file.isatty() else width
        console = Console(file=file, highlight=False, markup=False, emoji=False, width=wide)
        if console.width < LEAST_COLUMNS or os.environ.get("TERM") in ("", "dumb", "unknown"):
            file.writelines(f"{line}\n" for line in _plain(table))
        else:
            console.print(table)


def _harmless(table: Any) -> Any:
    """The same, with the control characters of its texts made visible."""
    if isinstance(table, str):
        return escaped(table)
    for column in getattr(table, "columns", ()):
        column.header = escaped(str(column.header))
        column._cells = [escaped(cell) if isinstance(cell, str) else cell for cell in column.cells]
    return table


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
