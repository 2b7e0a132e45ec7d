"""Outputs in a store: made on this host, put there when they are whole.

A store can't append, so a file's ledger is a local one, in the user's state folder under a name made from the
URL: a run that ended goes on with the same command on the same host, and nothing of an unfinished file is
ever seen in the store. A folder of parts is written there part by part, and goes on from any host. An
upload of several pieces becomes an object with its last one; one that breaks off leaves none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tgi_stack.errors import DiskError, UsageError
from tgi_stack.rows.stores.copies import fetch, objects
from tgi_stack.rows.stores.urls import Place, place_of, store_of, told

LOG = logging.getLogger(__name__)


@contextmanager
def staged(out: Path | None, *, overwrite: bool) -> Iterator[Path | None]:
    """Where an output is made: OUT itself, or for a URL a file here, put into the store once it is whole.

    Raises:
        UsageError: an object is there that no run.json belongs to.
        DiskError: it can't be read or written; what is finished is kept here.
    """
    place = None if out is None else place_of(out)
    if place is None:
        yield out
        return
    if not place.key or place.key.endswith("/"):
        raise UsageError(f"-o {place}: give the name of an object, such as {place.scheme}://bucket/out.jsonl")
    mirror = Mirror(place.with_key(place.key.rpartition("/")[0]), _folder(place))
    name = place.key.rpartition("/")[2]
    local = mirror.local / name
    beside = [local.with_name(name + suffix) for suffix in (".part.jsonl", ".run.json")]
    if not any(path.exists() for path in beside):
        mirror.fetch_file(name, overwrite=overwrite)
    before = _stamp(local)
    yield local
    if local.exists() and not beside[0].exists():
        if _stamp(local) != before:
            for path in (local, beside[1]):
                if path.exists():
                    mirror.put(path)
            LOG.info(f"{place}: {local.stat().st_size / 1e6:,.1f} MB were written")
        shutil.rmtree(mirror.local, ignore_errors=True)


class Mirror:
    """A folder here whose files are objects under a key.

    Args:
        place: the key, without a slash at its end.
    """

    def __init__(self, place: Place, local: Path) -> None:
        self.place = place
        self.local = local
        self._store = store_of(place)
        try:
            local.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise DiskError(f"{local}: {error.strerror}; XDG_STATE_HOME names another place") from error

    def fetch_file(self, name: str, *, overwrite: bool) -> None:
        """Brings a file and its run.json here, where they are in the store."""
        if overwrite:
            return
        with told(self.place):
            found = list(objects(self._store, self._at(name)))
            noted = list(objects(self._store, self._at(name + ".run.json")))
        if found and not noted:
            raise UsageError(
                f"{self._at(name)} is there already, without a run.json; to write it anew: --overwrite"
            )
        for one in (*found, *noted):
            fetch(self._store, self._at(one["path"].rpartition("/")[2]), self.local, one)

    def fetch_all(self) -> None:
        """Has the folder hold what is in the store, and nothing else."""
        shutil.rmtree(self.local, ignore_errors=True)
        self.local.mkdir(parents=True, mode=0o700)
        with told(self.place):
            found = list(objects(self._store, self._at("")))
        for one in found:
            if "/" not in one["path"].removeprefix(self.place.key + "/"):
                fetch(self._store, self.place.with_key(one["path"]), self.local, one)

    def put(self, path: Path) -> None:
        """Makes an object of a file, whole or not at all.

        Raises:
            DiskError: it could not be written.
        """
        import obstore

        place = self._at(path.name)
        with told(place):
            obstore.put(self._store, place.key, path, use_multipart=path.stat().st_size > 2**23)

    def begin(self, success: str, *, anew: bool) -> None:
        """Takes the mark of a whole output away; `anew` all that is there."""
        import obstore

        with told(self.place):
            found = [one["path"] for one in objects(self._store, self._at(""))]
            for key in found:
                if anew or key == self._at(success).key:
                    obstore.delete(self._store, key)

    def _at(self, name: str) -> Place:
        return self.place.with_key(f"{self.place.key}/{name}".lstrip("/"))


def mirror_of(out: Path) -> Mirror | None:
    """What an output of parts is mirrored by; None for one on this host."""
    place = place_of(out)
    if place is None:
        return None
    return Mirror(place.with_key(place.key.strip("/")), _folder(place))


def _folder(place: Place) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    name = hashlib.sha256(json.dumps(str(place).rstrip("/")).encode()).hexdigest()[:16]
    return Path(state) / "fastqwen" / "outputs" / name


def _stamp(path: Path) -> Any:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
