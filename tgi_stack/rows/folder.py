"""What lies in a folder that is an input: pictures, files of rows, and what is neither, counted by reason."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cache.system import system
from tgi_stack.errors import DiskError, InputError, RowError
from tgi_stack.images.files import HEAD_BYTES, SUFFIXES, is_picture
from tgi_stack.rows.formats import SUFFIXES_OF_ROWS, form_of


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
    and devices are never opened. Marks of other programs (`_SUCCESS`) are not counted, and rows in their
    folders (`_temporary`, where Spark writes parts that are not finished) are none of the input.

    Raises:
        DiskError: a folder that can't be listed.
    """
    found = Listing()
    for entry in sorted(_entries(base), key=lambda one: one.path):
        name = Path(entry.path).relative_to(base).as_posix()
        reason = _reason(entry)
        if reason is None:
            found.pictures.append(name)
        elif reason == ROWS and _is_hidden(name):
            found.skipped[HIDDEN] += 1
        elif reason == ROWS:
            found.parts.append(name)
        elif not (entry.name.startswith("_") and reason in (EMPTY, OTHER)):
            found.skipped[reason] += 1
    found.pictures.sort()
    return found


@dataclass(frozen=True, slots=True)
class FilesOfRows:
    """Several files of rows that are one input: those under a folder, or those that a pattern names.

    Attributes:
        base: where relative paths begin.
        pattern: which paths are meant; None for all under `base`.
    """

    base: Path
    pattern: str | None = None

    @classmethod
    def matching(cls, pattern: str) -> FilesOfRows | None:
        """What a pattern of paths names; None for what is no pattern."""
        if not glob.has_magic(pattern):
            return None
        parts = Path(pattern).parts
        plain = next(place for place, part in enumerate(parts) if glob.has_magic(part))
        return cls(Path(*parts[:plain]), pattern)

    def list(self) -> Listing:
        """The files that are there now.

        Raises:
            InputError: there are none, or one that the pattern names is no file of rows.
            DiskError: a folder that can't be listed.
        """
        if self.pattern is None:
            found = list_folder(self.base)
            if not found.parts:
                raise InputError(
                    f"{self.base} is a folder without files of rows (.jsonl, .csv, .parquet); give a file"
                )
            return found
        names = [name for name in sorted(glob.glob(self.pattern, recursive=True)) if Path(name).is_file()]
        if not names:
            raise InputError(f"{self.pattern}: no file matches")
        if other := next((name for name in names if not is_rows(Path(name).name)), None):
            raise InputError(f"{self.pattern}: {other} is no file of rows (.jsonl, .csv, .parquet)")
        return Listing(parts=[Path(name).relative_to(self.base).as_posix() for name in names])

    def joined(self, paths: Iterable[Path]) -> Path | None:
        """The first file that is one of them now and was none when `paths` were."""
        try:
            now = {self.base / name for name in self.list().parts}
        except InputError:  # none is left
            return None
        return min(now.difference(paths), default=None)

    def takes(self, path: Path) -> bool:
        """Whether a file of this path would be one of them."""
        base, whole = self.base.resolve(), path.resolve()
        if base not in whole.parents or not is_rows(whole.name):
            return False
        inside = whole.relative_to(base).as_posix()
        if self.pattern is None:
            return not _is_hidden(inside)
        wanted = Path(self.pattern).relative_to(self.base).as_posix()
        levels = "**" in wanted or wanted.count("/") == inside.count("/")
        return levels and fnmatch.fnmatchcase(inside, wanted.replace("**/", "*"))


def row_of(base: Path, name: str) -> dict[str, str] | RowError:
    """The row of a picture: its path is its id, unless it is no text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        said = f"{base}: the name of {os.fsencode(name)!r} is not UTF-8; rename it"
        return RowError("schema.id", said)
    return {"id": name, "image": name}


def told(skipped: Counter[str]) -> str:
    """Reasons with their counts, as one says them: `3 no image, 1 empty`."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items()))


ROWS = "file of rows"
EMPTY = "empty"
OTHER = "no image"
HIDDEN = "in a folder whose name begins with _"


def _is_hidden(name: str) -> bool:
    """Whether a path in a folder is none of its rows: under a name of `.`, or of `_` as Spark has it."""
    *folders, last = name.split("/")
    return last.startswith(".") or any(
        one.startswith(".") or (one.startswith("_") and "=" not in one) for one in folders
    )


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
    suffix, compression = form_of(Path(name))
    if suffix not in SUFFIXES_OF_ROWS or (compression and suffix == ".parquet"):
        return False
    return not name.startswith("_")


def state_of(path: Path) -> tuple[int, ...] | None:
    """What tells a file from another one, and from itself before it was written to; None where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    # Times of content can be set back; those of the file itself can not.
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
