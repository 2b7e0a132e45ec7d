"""What lies in a folder that is an input: pictures, files of rows, and what is neither, counted by reason."""

from __future__ import annotations

import glob
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cache.system import system
from tgi_stack.errors import DiskError, InputError
from tgi_stack.images.files import HEAD_BYTES, SUFFIXES, is_picture
from tgi_stack.rows.formats import COMPRESSED, SUFFIXES_OF_ROWS


@dataclass(slots=True)
class Listing:
    """The files under a folder, sorted by path.

    Attributes:
        pictures: paths relative to the folder.
        parts: files of rows, relative to the folder.
        skipped: how many files are neither, by reason.
    """

    pictures: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def list_folder(base: Path) -> Listing:
    """All files under a folder, hidden ones left out; links to folders are not followed.

    A file is a picture by its content or by its suffix, by which it is a broken one at worst. Pipes, sockets
    and devices are never opened. Marks of other programs (`_SUCCESS`) are not counted.

    Raises:
        DiskError: a folder that can't be listed.
    """
    found = Listing()
    for entry in sorted(_entries(base), key=lambda one: one.path):
        name = Path(entry.path).relative_to(base).as_posix()
        reason = _reason(entry)
        if reason is None:
            found.pictures.append(name)
        elif reason == ROWS:
            found.parts.append(name)
        elif not (entry.name.startswith("_") and reason in (EMPTY, OTHER)):
            found.skipped[reason] += 1
    found.pictures.sort()
    return found


def list_matching(pattern: str) -> tuple[Path, Listing] | None:
    """The files of rows whose paths match a pattern, and the folder before it; None for what is no pattern.

    Raises:
        InputError: nothing matches, or what does is no file of rows.
    """
    if not glob.has_magic(pattern):
        return None
    parts = Path(pattern).parts
    plain = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:plain])
    names = sorted(glob.glob(pattern, recursive=True))
    found = [name for name in names if Path(name).is_file()]
    if not found:
        raise InputError(f"{pattern}: no file matches")
    if other := next((name for name in found if not is_rows(Path(name).name)), None):
        raise InputError(f"{pattern}: {other} is no file of rows (.jsonl, .csv, .parquet)")
    return base, Listing(parts=[Path(name).relative_to(base).as_posix() for name in found])


def told(skipped: Counter[str]) -> str:
    """Reasons with their counts, as one says them: `3 no image, 1 empty`."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items()))


ROWS = "file of rows"
EMPTY = "empty"
OTHER = "no image"


def _entries(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """All that lies under a folder but folders themselves; a linked folder stands for itself."""
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise DiskError(f"{error.filename}: {error.strerror}") from error
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(entry.path)
        else:
            yield entry


def _reason(entry: os.DirEntry[str]) -> str | None:
    """Why a file is no picture; None where it is one."""
    suffix = Path(entry.name).suffix.lower()
    try:
        status = entry.stat()
    except OSError:  # a link to nowhere: a row that fails, where its name is a picture's
        return None if suffix in SUFFIXES else "broken link"
    if stat.S_ISDIR(status.st_mode):
        return "linked folder"
    if not stat.S_ISREG(status.st_mode):
        return "pipe, socket or device"
    if suffix in SUFFIXES:
        return None
    if is_rows(entry.name):
        return ROWS
    if status.st_size == 0:
        return EMPTY
    try:
        descriptor = os.open(entry.path, os.O_RDONLY | system.NO_WAIT | system.OPEN)
        try:
            return None if is_picture(os.read(descriptor, HEAD_BYTES)) else OTHER
        finally:
            os.close(descriptor)
    except OSError:
        return "not readable"


def is_rows(name: str) -> bool:
    """Whether a file's name says that rows stand in it."""
    path = Path(name.lower())
    if path.suffix in COMPRESSED:
        path = Path(path.stem)
        return path.suffix in SUFFIXES_OF_ROWS and path.suffix != ".parquet"
    return path.suffix in SUFFIXES_OF_ROWS and not name.startswith("_")
