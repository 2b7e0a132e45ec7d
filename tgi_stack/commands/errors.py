"""From an error to what the user reads and the exit status: one table."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from cache.errors import CacheError
from tgi_stack import logs
from tgi_stack.errors import BROKEN_PIPE, DiskError, FastqwenError, MachineError

LOG = logging.getLogger(logs.CLOSING)


def described(error: BaseException) -> tuple[str | None, int]:
    """The line for an error, None for silence, and the exit status."""
    line, status = _plainly(error)
    if line is not None and "ulimit" not in line and _lacks_handles(error):
        line += "; raise how many files a process may open: ulimit -n 1024"
    return line, status


def _lacks_handles(error: BaseException | None) -> bool:
    """Whether this process or this machine could open no more files."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        error = error.__cause__
    return False


def _plainly(error: BaseException) -> tuple[str | None, int]:
    match error:
        case FastqwenError():
            return str(error), error.exit_status
        case CacheError():
            return str(error), MachineError.exit_status
        case KeyboardInterrupt():
            return "interrupted", 128 + signal.SIGINT
        case BrokenPipeError():  # whoever read stdout has enough
            return None, BROKEN_PIPE
        case OSError():
            place = f"{error.filename}: " if error.filename else ""
            return f"{place}{error.strerror or error}", DiskError.exit_status
        case _:
            reason = f"{type(error).__name__}: {error}"
            return f"{reason} (unexpected; --debug shows where)", MachineError.exit_status


@contextmanager
def reported(*, debug: bool) -> Iterator[None]:
    """Errors become one line and their exit status; a traceback comes with `debug` alone."""
    try:
        yield
    except typer.Exit:
        raise
    except (Exception, KeyboardInterrupt) as error:
        line, status = described(error)
        if isinstance(error, OSError):
            _mute()
        if line is not None:
            LOG.error(f"fastqwen: {line}", exc_info=debug)
        raise typer.Exit(status) from None


def _mute() -> None:
    """Lets what is left for stdout go nowhere, so that the interpreter does not complain about it at exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
