"""What goes to stdout: data, and tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from tgi_stack.errors import DiskError

STANDARD_OUTPUT = "standard output"


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
    """A rich table or text on stdout; `width` is for a stdout that is no terminal. See `print_lines`."""
    from rich.console import Console

    with _stdout() as file:
        Console(file=file, highlight=False, width=None if file.isatty() else width).print(table)


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
