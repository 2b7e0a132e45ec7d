"""What a forked child must not share with its parent: locked files and half-made changes.

A lock of `flock` belongs to an open file: a child that keeps the file keeps the lock. So such files are
closed in the child. No process forks while a transaction is being written: the child could take it back too.
"""

from __future__ import annotations

import contextlib
import os
import threading

from cache.system import system

CHANGING = threading.RLock()  # held while a database is changed; whoever forks waits for it
_locked: dict[int, tuple[int, int]] = {}  # the file that each number stood for: device and inode


def close_in_child(descriptor: int) -> None:
    """Has a forked child close a file."""
    _locked[descriptor] = _file(descriptor)


def forget(descriptor: int) -> None:
    """To be called before a file is closed: its number may be another's then."""
    _locked.pop(descriptor, None)


def _file(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def close(descriptor: int) -> None:
    """Closes a file that a forked child would have closed."""
    forget(descriptor)
    os.close(descriptor)


def _in_child() -> None:
    global CHANGING
    CHANGING = threading.RLock()
    for descriptor, file in _locked.items():
        with contextlib.suppress(OSError):
            # A file that was closed unheard has left its number to another, which is the child's to keep.
            if _file(descriptor) == file:
                os.close(descriptor)
    _locked.clear()


system.at_fork(
    before=lambda: CHANGING.acquire(), after_in_parent=lambda: CHANGING.release(), after_in_child=_in_child
)
