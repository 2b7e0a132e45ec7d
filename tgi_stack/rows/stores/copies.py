"""Objects that are read, as files in a temporary folder that goes with the process.

An input is read three times (its digest, the look before the first question, the run), so it is fetched once
and whole: each object as it was at one moment, by its size.
"""

from __future__ import annotations

import fnmatch
import io
import logging
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tgi_stack.errors import DiskError, InputError
from tgi_stack.rows.formats import SPOOLED, forget_later
from tgi_stack.rows.stores.urls import Place, place_of, store_of, told

LOG = logging.getLogger(__name__)

AT_ONCE = 8
PIECE_BYTES = 2**20
GLOB = frozenset("*?[")
_COPIES: dict[Path, str] = {}


def origin_of(path: Path) -> str | None:
    """The URL of what a file or a folder here is the copy of; None where it is no copy."""
    return _COPIES.get(path)


def fetched(place: Place, wanted: Callable[[str], bool] | None = None) -> Path:
    """A copy of an object, or a folder of all that lie under a key or match a pattern.

    Args:
        wanted: of several objects, by their names under the key, which are fetched; None for all.

    Raises:
        InputError: there is none.
        DiskError: one can't be read or kept.
    """
    store = store_of(place)
    with told(place):
        found = list(objects(store, place))
    if not found:
        raise InputError(f"{place}: no such object, and none under that name")
    folder = Path(tempfile.mkdtemp(prefix=SPOOLED))
    forget_later(folder)
    is_one = len(found) == 1 and found[0]["path"] == place.key
    base = place.key.rpartition("/")[0] if is_one else _base(place.key)
    chosen = [(_target(folder, one["path"], base), one) for one in found]
    chosen = [(target, one) for target, one in chosen if is_one or wanted is None or wanted(target.name)]
    size = sum(one["size"] for _, one in chosen)
    LOG.info(f"{place}: {len(chosen):,} objects, {size / 1e6:,.1f} MB, are fetched to {folder.parent}")
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(
            threads.map(
                lambda pair: fetch(store, place.with_key(pair[1]["path"]), pair[0].parent, pair[1]), chosen
            )
        )
    for target, one in chosen:
        _COPIES[target] = str(place.with_key(one["path"]))
    whole = chosen[0][0] if is_one else folder
    _COPIES[whole] = str(place)
    return whole


def copied(path: Path) -> Path:
    """An output that is read: a copy of it with its run.json where it lies in a store, else itself."""
    place = place_of(path)
    if place is None:
        return path
    copy = fetched(place)
    if copy.is_file():
        beside = place.with_key(place.key + ".run.json")
        store = store_of(place)
        with told(beside):
            found = list(objects(store, beside))
        for one in found:
            fetch(store, beside, copy.parent, one)
    return copy


def objects(store: Any, place: Place) -> Iterator[Any]:
    """What a key names: the object itself, else those under it, or those that match it, by their names."""
    import obstore

    pattern = place.key if GLOB & set(place.key) else None
    if pattern is None and place.key and not place.key.endswith("/"):
        try:
            yield obstore.head(store, place.key)
            return
        except FileNotFoundError:
            pass
    listed = (one for part in obstore.list(store, _base(place.key) or None) for one in part)
    for one in sorted(listed, key=lambda found: str(found["path"])):
        matches = pattern is None or fnmatch.fnmatchcase(one["path"], pattern)
        if matches and not one["path"].endswith("/"):
            yield one


def _base(key: str) -> str:
    """The part of a key before its first pattern, up to a slash."""
    parts = PurePosixPath(key).parts
    plain = next((place for place, part in enumerate(parts) if GLOB & set(part)), len(parts))
    return "/".join(parts[:plain])


def _target(folder: Path, key: str, base: str) -> Path:
    """Where an object's copy lies: under the folder, whatever its key says."""
    inner = PurePosixPath(key.removeprefix(base).lstrip("/"))
    if ".." in inner.parts or "\0" in key or not inner.parts:
        raise InputError(f"an object is named {key!r}, as no file can be; give a pattern without it")
    return folder / inner


def fetch(store: Any, place: Place, folder: Path, known: Any) -> None:
    """Copies an object into a folder, under the last part of its key, as it was when it was listed.

    Raises:
        DiskError: it is another one by now, or can't be read or kept.
    """
    import obstore

    target = folder / place.key.rpartition("/")[2]
    with told(place):
        found = obstore.get(store, place.key, options={"if_match": known["e_tag"]})
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                for piece in found.stream():
                    file.write(piece)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DiskError(f"{target}: {error.strerror or error}") from error
    if target.stat().st_size != known["size"]:
        raise DiskError(f"{place}: {target.stat().st_size:,} of {known['size']:,} bytes came; try again")


# -- without a copy ----------------------------------------------------------------------------------------


def opened(name: str) -> IO[bytes]:
    """A file, or an object by its URL, whose pieces come as they are read.

    Raises:
        OSError: a file that can't be opened.
    """
    place = place_of(name)
    if place is None:
        return Path(name).open("rb")
    import obstore

    with told(place):
        return io.BufferedReader(_Object(place, obstore.open_reader(store_of(place), place.key)), PIECE_BYTES)


def state_of(name: str) -> tuple[int, str]:
    """What tells a file or an object, from whatever host, from itself before it was written to.

    Raises:
        InputError: it is not there.
    """
    place = place_of(name)
    if place is not None:
        import obstore

        with told(place):
            found = obstore.head(store_of(place), place.key)
        return found["size"], found["e_tag"] or str(found["last_modified"])
    try:
        status = Path(name).stat()
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}; give an input that every host can read") from error
    return status.st_size, str(status.st_mtime_ns)


class _Object(io.RawIOBase):
    """An object's bytes."""

    def __init__(self, place: Place, reader: Any) -> None:
        self._place = place
        self._reader = reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())

    def readinto(self, buffer: Any) -> int:
        with told(self._place):
            piece = bytes(self._reader.read(len(buffer)))
        buffer[: len(piece)] = piece
        return len(piece)
