"""Files that appear when they are whole: written beside, durable, renamed into place, by one writer.

The one way to write a whole file, here and above. Nothing that came meanwhile is replaced without leave. What
stands beside the file under a name of ours is never written through. A forked child keeps no lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cache.sharing import forks
from cache.system import system

TO_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
ANEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
TO_LOCK = os.O_RDWR | os.O_CREAT | os.O_APPEND | system.NO_LINK
OUT_OF_HANDLES = (errno.EMFILE, errno.ENFILE)
SPARES = 3  # a file, its folder, and one more; fewer where a process may open few
_SPARE: list[int] = []


def reserve() -> None:
    """Keeps some handles for files that are written when connections have taken all others."""
    most = system.most_files()
    wanted = SPARES if most is None else min(SPARES, most // 16)
    with contextlib.suppress(OSError):
        while len(_SPARE) < wanted:
            _SPARE.append(os.open(os.devnull, os.O_RDONLY | system.OPEN))


def descriptor_of(path: Path | str, flags: int, mode: int = 0o666) -> int:
    """`os.open`, which takes a handle that was kept for it where no other is left.

    Raises:
        OSError: the file can't be opened, or there is no handle.
    """
    while True:
        try:
            return os.open(path, flags | system.OPEN, mode)
        except OSError as error:
            if error.errno not in OUT_OF_HANDLES or not _SPARE:
                raise
            os.close(_SPARE.pop())


class HeldError(OSError):
    """Somebody else writes the file; `holder` says who."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is being written by {holder}")
        self.holder = holder


class PresentError(FileExistsError):
    """A file is there that may not be replaced."""


def beside(path: Path, suffix: str) -> Path:
    """A name of its own beside a file."""
    return path.with_name(path.name + suffix)


def companions(path: Path) -> tuple[Path, ...]:
    """All that is written where a file is."""
    return path, beside(path, ".tmp"), beside(path, ".lock")


def regular(path: Path) -> os.stat_result | None:
    """What a regular file is, by device and inode; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def is_written(read: os.stat_result, paths: Iterable[Path]) -> bool:
    """Whether a file is one of those that are written, whatever their names."""
    return any(os.path.samestat(read, found) for path in paths if (found := regular(path)) is not None)


class FileLock:
    """`PATH.lock`: held by the one who writes PATH; names its holder; goes with the process.

    Attributes:
        unnamed: why the holder's name could not be written, as on a full disk.

    Raises:
        HeldError: another process, or another part of this one, holds it.
        OSError: it can't be made.
    """

    def __init__(self, path: Path) -> None:
        reserve()
        self._path = beside(path, ".lock")
        self._file = os.fdopen(descriptor_of(self._path, TO_LOCK), "a+")
        forks.close_in_child(self._file.fileno())
        try:
            system.lock(self._file.fileno())
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read(1000).strip() or "another run"
            self._close()
            raise HeldError(path, holder) from error
        except OSError:
            self._close()
            raise
        if not self._path.exists() or not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
            self._close()
            raise HeldError(path, "another run, which has just released it")
        self._file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        self.unnamed: OSError | None = None
        try:
            self._file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}\n")
            self._file.flush()
        except OSError as error:
            self.unnamed = error

    def release(self) -> None:
        """Gives the file free; the name goes first, so that nobody locks one that is about to vanish."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        forks.forget(self._file.fileno())
        with contextlib.suppress(OSError):  # what could not be flushed
            self._file.close()


class Replacement:
    """The content of a file that is being written; a pipe or a device is written itself.

    Args:
        overwrite: whether a file that is there may be replaced.
        locked: the caller holds its `FileLock` already.

    Attributes:
        file: takes the content.
        beside: where the content is until `commit`.

    Raises:
        PresentError: the file is there.
        HeldError: somebody else writes it.
        OSError: it can't be written.
    """

    def __init__(self, path: Path, *, overwrite: bool, locked: bool = False) -> None:
        self._path = path
        self._overwrite = overwrite
        self._lock: FileLock | None = None
        self.file: IO[bytes]
        self._in_place = path.exists() and (not stat.S_ISREG(path.stat().st_mode) or _is_descriptor(path))
        if self._in_place:
            self.beside = path
            self.file = os.fdopen(descriptor_of(path, TO_WRITE), "wb")
            return
        self._lock = None if locked else FileLock(path)
        try:
            if path.exists() and not overwrite:
                raise PresentError(f"{path} is there already")
            self.beside = beside(path, ".tmp")
            # What a killed run left may be a link, or by now another name of the file in place.
            self.beside.unlink(missing_ok=True)
            self.file = os.fdopen(descriptor_of(self.beside, ANEW), "wb")
        except BaseException:
            if self._lock is not None:
                self._lock.release()
            raise

    def commit(self) -> None:
        """Puts the content in place.

        Raises:
            PresentError: a file came meanwhile that may not be replaced.
            OSError: it can't be made durable or renamed.
        """
        self.file.flush()
        if self._in_place:
            return
        os.fsync(self.file.fileno())
        self.file.close()  # Windows renames no open file
        if self._overwrite:
            os.replace(self.beside, self._path)
        else:
            self._put_where_nothing_is()
        sync_folder(self._path.parent)

    def _put_where_nothing_is(self) -> None:
        try:
            os.link(self.beside, self._path)
        except OSError as error:
            if isinstance(error, FileExistsError) or self._path.exists():
                raise PresentError(f"{self._path} is there by now") from error
            os.replace(self.beside, self._path)  # a file system without links
        else:
            self.beside.unlink()

    def close(self, *, keep: bool = False) -> None:
        """Gives the file free, in any case; what was not committed goes, unless it is to be kept."""
        with contextlib.suppress(OSError):  # what could not be flushed
            self.file.close()
        if not keep and not self._in_place:
            with contextlib.suppress(OSError):
                self.beside.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.release()
        reserve()


def _is_descriptor(path: Path) -> bool:
    """Whether a name stands for an open file of the process (`/dev/stdout`): the name is to stay."""
    return path.is_symlink() and path.absolute().parts[1:2] in (("dev",), ("proc",))


@contextmanager
def replacing(path: Path, *, overwrite: bool, locked: bool = False) -> Iterator[IO[bytes]]:
    """The content of a file, put in place at the end of the block; see `Replacement`.

    Errors of the system that name no file (a write, a full disk) name the one that is written.
    """
    content = Replacement(path, overwrite=overwrite, locked=locked)
    try:
        yield content.file
        content.commit()
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(content.beside)) from error
        raise
    finally:
        content.close()


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable, where the file system can."""
    if system.FOLDER is None:
        return
    descriptor = descriptor_of(folder, system.FOLDER)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
