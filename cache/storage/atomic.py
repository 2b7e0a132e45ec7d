"""Writes a file as a whole: it appears, or replaces another, when all of it is on the disk.

The new content is written beside the file under a lock, made durable and renamed, so that readers see the old
file or the new one. Errors of the system name the file. Whoever writes whole files may use it, also above.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from cache.sharing import forks

SUFFIX = ".tmp"


class RefusedError(Exception):
    """The file must not be written; the message says why and ends with what to do."""


@contextlib.contextmanager
def replacing(path: Path, *, force: bool, reads: Iterable[Path] = ()) -> Iterator[IO[bytes]]:
    """A file to write the new content to; it takes its place once the block ends without an error.

    Args:
        force: whether a file that is there is replaced.
        reads: the files that the content is made from: none of them is replaced, whatever its name.

    Raises:
        RefusedError: a file is there, is one that is read or no regular file, or another process writes it.
        OSError: it can't be written; `filename` names it.
    """
    target = Path(os.path.realpath(path))
    refuse(path, force=force, reads=reads)
    beside = target.with_name(target.name + SUFFIX)
    with _named(beside), _locked(beside, path) as descriptor:
        try:
            with os.fdopen(os.dup(descriptor), "wb") as file:
                yield file
                file.flush()
                os.fsync(descriptor)
            _put_in_place(beside, target, path, force=force)
        finally:
            with contextlib.suppress(OSError):  # gone, where it took its place
                if os.path.samestat(os.fstat(descriptor), beside.lstat()):
                    beside.unlink()
    _sync_folder(target.parent)


def refuse(path: Path, *, force: bool, reads: Iterable[Path] = ()) -> None:
    """Says early what `replacing` would refuse; raises as it does."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(there.st_mode):
        raise RefusedError(f"{path} is no regular file; give another name")
    for one in reads:
        with contextlib.suppress(OSError):
            if os.path.samestat(there, one.stat()):
                raise RefusedError(f"{path} is a file that is read here ({one}); give another name")
    if not force:
        raise RefusedError(f"{path} is there already; to replace it: --force")


@contextlib.contextmanager
def _named(beside: Path) -> Iterator[None]:
    """Names the file in an error of the system that names none (a write, a full disk)."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(beside)) from error
        raise


@contextlib.contextmanager
def _locked(beside: Path, path: Path) -> Iterator[int]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(beside, flags, 0o666)
    forks.close_in_child(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not beside.exists() or not os.path.samestat(os.fstat(descriptor), beside.lstat()):
            raise BlockingIOError(errno.EAGAIN, "it was just put in place")
        os.ftruncate(descriptor, 0)  # of one who was killed
        yield descriptor
    except BlockingIOError as error:
        raise RefusedError(f"another process writes {path}; wait for it or give another name") from error
    finally:
        forks.close(descriptor)


def _put_in_place(beside: Path, target: Path, path: Path, *, force: bool) -> None:
    if force:
        os.replace(beside, target)
        return
    try:
        os.link(beside, target)  # which replaces nothing that came meanwhile
    except FileExistsError as error:
        raise RefusedError(f"{path} is there by now; to replace it: --force") from error
    except OSError:  # a file system without links
        refuse(path, force=False)
        os.replace(beside, target)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems can't
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
