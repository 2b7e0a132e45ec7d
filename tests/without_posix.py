"""The command line where Python has nothing of POSIX's, as on Windows: `python -m tests.without_posix`.

What Windows lacks is hidden once the standard library and the packages have been imported. A `msvcrt` with
Windows' manner of locks stands in.
"""

from __future__ import annotations

import asyncio
import fcntl
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import types

import aiohttp
import diskcache
import numpy
import PIL.Image
import rich.console
import tokenizers
import typer

IMPORTED = (asyncio, multiprocessing, sqlite3, subprocess, tempfile)
PACKAGES = (aiohttp, diskcache, numpy, PIL.Image, rich.console, tokenizers, typer)
OF_OS = [
    "fork",
    "register_at_fork",
    "pread",
    "pwrite",
    "killpg",
    "fchmod",
    "O_NOFOLLOW",
    "O_DIRECTORY",
    "O_CLOEXEC",
    "O_NONBLOCK",
    "fdatasync",
    "sched_getaffinity",
    "setpriority",
    "getpriority",
    "getuid",
    "geteuid",
    "getgid",
    "uname",
    "mkfifo",
    "statvfs",
]


def _locking(file: int, what: int, count: int) -> None:
    place = os.lseek(file, 0, os.SEEK_CUR)
    kind = fcntl.LOCK_UN if what == 0 else fcntl.LOCK_EX | fcntl.LOCK_NB
    try:
        fcntl.lockf(file, kind, count, place)
    except OSError as error:
        raise PermissionError(error.errno, "Permission denied") from error


def hide() -> None:
    """Takes away what is POSIX's."""
    kill, most = os.kill, signal.SIGKILL
    os.kill = lambda pid, number: kill(
        pid, most if number == signal.SIGTERM else number
    )  # nobody can ignore it
    msvcrt = types.ModuleType("msvcrt")
    vars(msvcrt).update(locking=_locking, LK_UNLCK=0, LK_NBLCK=2)
    for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty"):
        sys.modules[name] = None  # type: ignore[assignment]
    sys.modules["msvcrt"] = msvcrt
    for name in OF_OS:
        delattr(os, name)
    for name in ("SIGHUP", "SIGPIPE", "SIGKILL", "SIGXCPU"):
        delattr(signal, name)
    asyncio.SelectorEventLoop.add_signal_handler = (  # type: ignore[method-assign]
        asyncio.AbstractEventLoop.add_signal_handler  # raises NotImplementedError
    )


if __name__ == "__main__":
    hide()
    import cli

    cli.main()
