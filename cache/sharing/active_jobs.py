"""Which entries running jobs have written or read, told to whoever cleans up: a file for each job.

The file is locked as long as its job runs; one that nobody locks is of a job that died, and is removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import threading
from pathlib import Path
from typing import IO

from cache.sharing import forks
from cache.storage import paths
from cache.system import system

_NUMBER = struct.Struct("<Q")


class ActiveJob:
    """One running job; safe among its threads."""

    def __init__(self, folder: Path) -> None:
        paths.make_folder(folder)
        self._path, self._file = _registered(folder)
        self._lock = threading.Lock()
        self._new = bytearray()
        self._told = 0  # bytes of the file that hold

    @staticmethod
    def number_of(name: str) -> int:
        """What stands for an entry in the file: its kind and the first digits of its key."""
        return ord(name[0]) << 56 | int(name[1:15], 16)

    def uses(self, *names: str) -> None:
        """To be called before entries are looked up or written: others see it when it returns.

        Raises:
            OSError: not all of it could be told; the rest comes first the next time.
        """
        numbers = b"".join([_NUMBER.pack(self.number_of(name)) for name in names])
        with self._lock:
            self._new += numbers
            self._tell()

    def _tell(self) -> None:
        while self._new:
            written = system.write_at(self._file, self._new, self._told)
            written -= written % _NUMBER.size  # a part of a number is written over
            if not written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            self._told += written
            del self._new[:written]

    def close(self) -> None:
        """The job is over."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        forks.close(self._file)


def _registered(folder: Path) -> tuple[Path, int]:
    """A file of our own, locked; whoever cleans up may remove it before it is."""
    while True:
        path = folder / f"{os.getpid()}-{os.urandom(4).hex()}"
        paths.touch(path)
        try:
            file = os.open(path, os.O_WRONLY | system.OPEN)
        except FileNotFoundError:
            continue
        # Whoever cleans up holds a new file for a moment, and for ever where it is stopped then.
        with contextlib.suppress(BlockingIOError):
            system.lock(file)
            if os.fstat(file).st_nlink:
                forks.close_in_child(file)
                return path, file
        os.close(file)


class ActiveJobs:
    """The entries that running jobs have written or read, as `ActiveJob.number_of` gives them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: set[int] = set()
        self._read: dict[Path, int] = {}  # bytes of each file

    def now(self) -> set[int]:
        """Those until now; of what was read before only what is new is read."""
        for path in list(self._folder.iterdir()) if self._folder.is_dir() else []:
            # One that can't be read is an error: nobody may clean up who does not know what is in use.
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                try:
                    system.lock(file.fileno())
                except BlockingIOError:
                    self._add(path, file)
                else:
                    path.unlink(missing_ok=True)
        return self._found

    def _add(self, path: Path, file: IO[bytes]) -> None:
        known = self._read.get(path, 0)
        file.seek(known)
        content = file.read()
        whole = len(content) - len(content) % _NUMBER.size
        self._found.update(number for (number,) in _NUMBER.iter_unpack(content[:whole]))
        self._read[path] = known + whole
