"""Which entries running jobs have written or read, told to whoever cleans up: a file for each job.

The file is locked as long as its job runs; one that nobody locks is of a job that died, and is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from pathlib import Path

from cache import places

_NUMBER = struct.Struct("<Q")


class User:
    """One running job."""

    def __init__(self, folder: Path) -> None:
        places._make_folder(folder)
        self._path = folder / f"{os.getpid()}-{os.urandom(4).hex()}"
        places.touch(self._path)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._new: list[str] = []

    @staticmethod
    def number_of(name: str) -> int:
        """What stands for an entry in the file: its kind and the first digits of its key."""
        return ord(name[0]) << 56 | int(name[1:15], 16)

    def used(self, name: str) -> None:
        """To be called for each entry that is written or read."""
        self._new.append(name)

    def tell(self) -> None:
        """Writes down what was used since the last time; called by one thread."""
        new, self._new = self._new, []
        if new:
            os.write(self._file, b"".join(_NUMBER.pack(self.number_of(name)) for name in new))

    def close(self) -> None:
        """The job is over."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._file)


def keys_in_use(folder: Path) -> set[int]:
    """The entries that running jobs have written or read, as `User.number_of` gives them."""
    found: set[int] = set()
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        with contextlib.suppress(OSError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                content = file.read()
                whole = len(content) - len(content) % _NUMBER.size
                found.update(number for (number,) in _NUMBER.iter_unpack(content[:whole]))
            else:
                path.unlink(missing_ok=True)
    return found
