"""From an error to what the user reads and the exit status: one table."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from cache.errors import CacheError
from cache.system.signals import heeded
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
            return "interrupted", 128 + getattr(error, "number", signal.SIGINT)
        case BrokenPipeError():  # whoever read stdout has enough
            return None, BROKEN_PIPE
        case OSError():
            place = f"{error.filename}: " if error.filename else ""
            return f"{place}{error.strerror or error}", DiskError.exit_status
        case _:
            reason = f"{type(error).__name__}: {error}"
            return f"{reason} (unexpected; --debug shows where)", MachineError.exit_status


class Interrupted(KeyboardInterrupt):
    """A signal asks the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Stops:
    """What the signals do that ask a command to end: the first ends it in order, the next one at once."""

    def __init__(self) -> None:
        self.came: Interrupted | None = None

    def __call__(self, number: int, frame: object) -> None:
        """Raises Interrupted where the main thread stands."""
        if self.came is not None:
            os._exit(128 + number)
        self.came = Interrupted(number)
        raise self.came

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hears signals while a command runs; those that the process was started to ignore stay so."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in heeded()}
        try:
            for number in before:
                signal.signal(number, self)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def reported(*, debug: bool) -> Iterator[None]:
    """Errors become one line and their exit status; a traceback comes with `debug` alone."""
    stops = Stops()
    try:
        with stops.heard():
            yield
    except typer.Exit:
        raise
    except (Exception, KeyboardInterrupt) as caught:
        error = stops.came or caught  # an import that is broken off says something else
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
