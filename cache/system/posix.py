"""Locks, reads at a place, limits and signals of Linux and macOS."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import struct
import sys

OPEN = os.O_CLOEXEC  # a flag of every file that is opened
NO_LINK = os.O_NOFOLLOW
NO_WAIT = os.O_NONBLOCK
FOLDER: int | None = os.O_RDONLY | os.O_DIRECTORY  # opens a folder, to make the names in it durable
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PIPES_ARE_WATCHED = True  # an event loop reads the pipe that a process was started with

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of Linux

at_fork = os.register_at_fork
set_mode = os.fchmod
sync_data = getattr(os, "fdatasync", os.fsync)  # macOS has the second alone


def read_at(file: int, count: int, place: int) -> bytes:
    """Up to so many bytes of a file from a place."""
    return os.pread(file, count, place)


def write_at(file: int, content: bytes | bytearray, place: int) -> int:
    """Writes to a file at a place; gives how many bytes it took."""
    return os.pwrite(file, content, place)


def widen_pipe(pipe: int, size: int) -> None:
    """Has a pipe hold so many bytes, where the system lets it."""
    if (named := getattr(fcntl, "F_SETPIPE_SZ", None)) is not None:  # of Linux alone
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, named, size)


def lock(file: int) -> None:
    """Locks a file for its open handle; BlockingIOError where another handle has it."""
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def unlock(file: int) -> None:
    """Gives a file free."""
    fcntl.flock(file, fcntl.LOCK_UN)


def lock_byte(file: int, place: int) -> None:
    """Locks one byte of a file for the process; OSError where another process has it."""
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)


def unlock_byte(file: int, place: int) -> None:
    """Gives one byte of a file free."""
    fcntl.lockf(file, fcntl.LOCK_UN, 1, place)


def holder_of_byte(file: int, place: int) -> int:
    """The process that has a byte of a file; 0 or less where it can't be told."""
    if not sys.platform.startswith("linux"):  # others lay the answer out in another way
        return 0
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
    try:
        kind, *_, pid = _FLOCK.unpack(fcntl.fcntl(file, fcntl.F_GETLK, asked))
    except (OSError, struct.error):
        return 0
    return 0 if kind == fcntl.F_UNLCK else int(pid)


def most_files() -> int | None:
    """How many files this process may open; None where as many as it likes."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def allow_files(wanted: int) -> int | None:
    """Raises the limit of open files to what is wanted, as far as it may.

    Returns:
        What is allowed then, as `most_files` gives it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return most_files()


def allow_computing(more_s: int) -> bool:
    """Has the kernel end this process (SIGXCPU) after that much more computing: no decoder can evade it.

    Returns:
        Whether the process may compute for as long: `ulimit -t` may allow less.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + 1 + more_s
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if most != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_CPU, (min(limit, most), most))
        return limit <= most
    resource.setrlimit(resource.RLIMIT_CPU, (limit, most))
    return True


def leave_no_core() -> None:
    """Has a process that crashes write no image of its memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def peak_bytes() -> int:
    """The most memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def kill_session(pid: int) -> None:
    """Kills a process that began a session, with all that it started; it may have ended."""
    with contextlib.suppress(
        ProcessLookupError, PermissionError
    ):  # macOS does not permit it once it has ended
        os.killpg(pid, signal.SIGKILL)
