"""What stands in on Windows for locks, reads at a place, limits and signals; not run on a Windows yet.

What lacks there: nobody learns which process holds a lock; a decoder's computing has no limit; an event loop
can't watch the pipe that a process was started with, so that rows are prepared in one process; names in a
folder are not made durable one by one. A lock is one byte far behind the end of its file, since Windows lets
nobody else read what is locked.
"""

from __future__ import annotations

import msvcrt
import os
import signal
import threading
from collections.abc import Callable

OPEN = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0)
NO_LINK = NO_WAIT = 0
FOLDER: int | None = None
STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name))
PIPES_ARE_WATCHED = False

# Places of locks stay below 2^31, as old C libraries want it: two that fall together cost a wait.
_BYTES = 2**30
_WHOLE = _BYTES  # the byte that stands for the whole file
_PLACES = threading.Lock()  # a handle has one place, which its threads move


def at_fork(**_: Callable[[], object]) -> None:
    """Nothing forks here."""


def read_at(file: int, count: int, place: int) -> bytes:
    """Up to so many bytes of a file from a place."""
    with _PLACES:
        os.lseek(file, place, os.SEEK_SET)
        return os.read(file, count)


def write_at(file: int, content: bytes | bytearray, place: int) -> int:
    """Writes to a file at a place; gives how many bytes it took."""
    with _PLACES:
        os.lseek(file, place, os.SEEK_SET)
        return os.write(file, content)


def set_mode(file: int, mode: int) -> None:
    """Who may read a file is its folder's affair here."""


sync_data = os.fsync


def lock(file: int) -> None:
    """Locks a file for its open handle; BlockingIOError where another handle has it."""
    _lock(file, _WHOLE)


def unlock(file: int) -> None:
    """Gives a file free."""
    _at(file, _WHOLE, msvcrt.LK_UNLCK)  # type: ignore[attr-defined]


def lock_byte(file: int, place: int) -> None:
    """Locks one byte of a file; BlockingIOError where another handle has it."""
    _lock(file, place % _BYTES)


def _lock(file: int, place: int) -> None:
    try:
        _at(file, place, msvcrt.LK_NBLCK)  # type: ignore[attr-defined]
    except PermissionError as error:
        raise BlockingIOError(error.errno, "another process has it") from error


def unlock_byte(file: int, place: int) -> None:
    """Gives one byte of a file free."""
    _at(file, place % _BYTES, msvcrt.LK_UNLCK)  # type: ignore[attr-defined]


def _at(file: int, place: int, what: int) -> None:
    with _PLACES:
        before = os.lseek(file, 0, os.SEEK_CUR)
        os.lseek(file, place, os.SEEK_SET)
        try:
            msvcrt.locking(file, what, 1)  # type: ignore[attr-defined]
        finally:
            os.lseek(file, before, os.SEEK_SET)


def holder_of_byte(file: int, place: int) -> int:
    """Not to be told here."""
    return 0


def most_files() -> int | None:
    """Sockets are no files here: as many as one likes."""
    return None


def allow_files(wanted: int) -> int | None:
    """As `most_files`."""
    return None


def allow_computing(more_s: int) -> bool:
    """There is no limit."""
    return True


def leave_no_core() -> None:
    """None is left here."""


def peak_bytes() -> int:
    """Not to be told here."""
    return 0


def kill_session(pid: int) -> None:
    """Kills a process; what it started goes on."""
    try:
        os.kill(pid, signal.SIGTERM)  # ends it at once here
    except OSError:
        return
