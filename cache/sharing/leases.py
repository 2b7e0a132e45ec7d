"""Who computes: of several processes that want the same value one does, and the others wait for it.

A lease is a lock on a byte of a file that stands for the key: taking one writes nothing, and it ends with its
process. Two keys may share a byte; then one waits without need, and not for ever (`MOST_WAIT_S`). A process
that stands still keeps nobody waiting for long (`Patience`).
"""

from __future__ import annotations

import os
from pathlib import Path

from cache.sharing.patience import Patience
from cache.storage import paths
from cache.system import system

MOST_WAIT_S = 120.0
BYTES_A_KIND = 2**32


class Lease:
    """The right to compute one value, until it is given back.

    Args:
        leases: where it was taken; None for one that keeps nobody out.
    """

    def __init__(self, leases: Leases | None = None, offset: int = 0) -> None:
        self._leases = leases
        self._offset = offset

    def release(self) -> None:
        """Gives it back; safe from any thread."""
        if self._leases is not None:
            self._leases._release(self._offset)


class Leases:
    """The leases of one cache; safe among the threads of a process."""

    def __init__(self, path: Path, patience: Patience | None = None) -> None:
        paths.touch(path)
        self._path = path
        self._patience = patience or Patience()
        self._file: int | None = os.open(path, os.O_RDWR | system.OPEN)

    def take(self, letter: str, key: str) -> Lease | None:
        """A lease, or None while another process has it.

        Raises:
            StandsStillError: that process stands still.
        """
        if self._file is None:
            return None
        offset = ord(letter) * BYTES_A_KIND + int(key[:8], 16)
        try:
            system.lock_byte(self._file, offset)
        except OSError:
            pid = system.holder_of_byte(self._file, offset)
            if pid > 0:
                self._patience.check_process(pid, self._path)
            return None
        return Lease(self, offset)

    def _release(self, offset: int) -> None:
        if self._file is not None:
            system.unlock_byte(self._file, offset)

    def close(self) -> None:
        """Gives all back."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
