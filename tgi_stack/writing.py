"""The one way in which files of the user's are written: never over an input, or over a file by accident."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from cache.storage.replacing import (
    FileLock,
    HeldError,
    PresentError,
    Replacement,
    beside,
    companions,
    is_written,
    regular,
    replacing,
)
from tgi_stack.errors import DiskError, LockedError, UsageError


class Given(NamedTuple):
    """A file that a command reads, and the option that names it; no path stands for standard input."""

    option: str
    path: Path | None


def refuse_folder(option: str, out: Path) -> None:
    """Raises UsageError where the name of a file to be written is none."""
    if not out.name or out.is_dir():
        raise UsageError(f"{option} {out} is no file; give another name")


def refuse_inputs(option: str, out: Path, inputs: Iterable[Given], also: Iterable[Path] = ()) -> None:
    """Looks by device and inode, so that links and standard input that was redirected from a file count.

    Args:
        option: what names `out`.
        also: what else is written for it.

    Raises:
        UsageError: `out`, or what is written beside it, is a file that is read; or it is a folder.
    """
    refuse_folder(option, out)
    written = [name for path in (out, *also) for name in companions(path)]
    for one in inputs:
        read = _status(one.path)
        if read is not None and is_written(read, written):
            name = one.path if one.path is not None else "standard input"
            raise UsageError(
                f"{option} {out} would write over the input {name} ({one.option}); give another name"
            )


def refuse_present(
    option: str, out: Path, inputs: Iterable[Given] = (), *, overwrite: bool, allow: str = "--overwrite"
) -> None:
    """To be called before anything is computed.

    Raises:
        UsageError: `out` is a file that is read, or there already without the leave to write it anew.
    """
    refuse_inputs(option, out, inputs)
    if out.is_file() and not overwrite:
        raise UsageError(f"{option} {out} is there already; to write it anew: {allow}")


def _status(path: Path | None) -> os.stat_result | None:
    """Of a regular file, or of standard input where it is one; else None."""
    if path is not None:
        return regular(path)
    try:
        found = os.fstat(sys.stdin.fileno())
    except (OSError, ValueError, AttributeError):  # closed, or not there
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def opened(option: str, path: Path, *, overwrite: bool, allow: str = "--overwrite") -> Replacement:
    """A file to be written; see `Replacement`.

    Args:
        option: what names it.
        allow: the option that lets it replace a file.

    Raises:
        UsageError: it is there already.
        LockedError: another run writes it.
        DiskError: it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Replacement(path, overwrite=overwrite)
    except PresentError as error:
        raise UsageError(f"{option} {error}; to write it anew: {allow}") from error
    except HeldError as error:
        raise LockedError(f"{error}; wait for it or give another name") from error
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror}") from error


@contextmanager
def replaced(
    option: str, path: Path, *, overwrite: bool, inputs: Iterable[Given] = (), allow: str = "--overwrite"
) -> Iterator[IO[bytes]]:
    """The content of a small file, put in place when the block ends; see `refuse_inputs` and `opened`."""
    refuse_inputs(option, path, inputs)
    content = opened(option, path, overwrite=overwrite, allow=allow)
    try:
        try:
            yield content.file
            content.commit()
        except PresentError as error:
            raise UsageError(f"{option} {error}; to write it anew: {allow}") from error
        except OSError as error:
            raise DiskError(
                f"{path}: {error.strerror or error}; what was there before is as it was"
            ) from error
    finally:
        content.close()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replaces a small JSON file as a whole."""
    content = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        with replacing(path, overwrite=True) as file:
            file.write(content.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror or error}") from error


class Lock:
    """`OUT.lock`: held by the one run that makes OUT.

    Raises:
        LockedError: another run holds it.
        DiskError: it can't be made.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            self._held = FileLock(out)
        except HeldError as error:
            raise LockedError(f"{error}; wait for it or give another -o") from error
        except OSError as error:
            raise DiskError(f"{beside(out, '.lock')}: {error.strerror}") from error

    def refuse_full_disk(self) -> None:
        """Raises DiskError where not even the holder's name could be written beside OUT."""
        if (error := self._held.unnamed) is not None:
            raise DiskError(f"{self._out}: {error.strerror or error}") from error

    def release(self) -> None:
        """Gives OUT free."""
        self._held.release()
