"""What goes to stdout: data, and tables for people."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer


def print_data(value: Any) -> None:
    """JSON on stdout, written out at once: a full disk is noticed here."""
    typer.echo(json.dumps(value))
    sys.stdout.flush()


def print_table(table: Any, width: int | None = None) -> None:
    """A rich table or text on stdout; `width` is for a stdout that is no terminal."""
    from rich.console import Console

    Console(highlight=False, width=None if sys.stdout.isatty() else width).print(table)
