"""Who computes: of several processes that want the same value one does, and the others wait for it.

A lease is a lock on a byte of a file that stands for the key: taking one writes nothing, and it ends with its
process. Two keys may share a byte; then one waits without need, and not for ever (`MOST_WAIT_S`).
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from cache import paths

MOST_WAIT_S = 120.0
BYTES_A_KIND = 2**32


class Lease:
    """The right to compute one value, until it is given back."""

    def __init__(self, leases: Leases, offset: int) -> None:
        self._leases = leases
        self._offset = offset

    def release(self) -> None:
        """Gives it back; safe from any thread."""
        self._leases._release(self._offset)


class Leases:
    """The leases of one cache; safe among the threads of a process."""

    def __init__(self, path: Path) -> None:
        paths.touch(path)
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def take(self, letter: str, key: str) -> Lease | None:
        """A lease, or None while another process has it."""
        if self._file is None:
            return None
        offset = ord(letter) * BYTES_A_KIND + int(key[:8], 16)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
        except OSError:
            return None
        return Lease(self, offset)

    def _release(self, offset: int) -> None:
        if self._file is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, offset)

    def close(self) -> None:
        """Gives all back."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
