"""`-o OUT` as a folder: parts that are whole or absent, `run.json`, and `_SUCCESS` once all are there.

A part holds the records of the rows that its name says, in their order, such as
`part-000000000001-000000000500.jsonl`. The parts alone say what is done, so nothing else has to be kept in
step with them: whoever starts the same command again reads them, passes over their rows and asks the
others and those that failed.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cache.storage.replacing import TO_WRITE, descriptor_of, replacing
from tgi_stack.errors import DiskError, InputError, UsageError
from tgi_stack.rows.ledger import Checked
from tgi_stack.rows.manifest import Manifest, manifest_path
from tgi_stack.rows.output import digest_of, finished_counts, records
from tgi_stack.rows.parts.blocks import Block
from tgi_stack.rows.stores.staging import Mirror
from tgi_stack.types import Identity
from tgi_stack.writing import Lock

LOG = logging.getLogger("fastqwen")
NAME = re.compile(r"part-(\d{12,})-(\d{12,})\.jsonl")
SUCCESS = "_SUCCESS"
FILE_SUFFIXES = (".jsonl", ".parquet", ".json", ".csv", ".gz", ".zst")


@dataclass(frozen=True, slots=True)
class Part:
    """The records of some rows.

    Attributes:
        count: how many records it holds.
        failed: the places, from 0, of those that are not ok.
    """

    path: Path
    first: int
    last: int
    count: int
    failed: frozenset[int]


class PartsOutput:
    """An output of parts that can be resumed.

    Args:
        mirror: the store that has all of OUT, too, each file as soon as it is whole.

    Attributes:
        finished: the counts of an output that is there and has nothing left to do, else None.
        parts: those of an earlier run, in the order of their rows; known after `begin`.

    Raises:
        UsageError: OUT is there and is not this command's, or something that changes answers is different.
        LockedError: another run is writing it.
        DiskError: it can't be written.
    """

    def __init__(
        self,
        out: Path,
        asked: dict[str, Any],
        *,
        command: list[str],
        places: Mapping[str, Any],
        limit: int | None = None,
        overwrite: bool = False,
        mirror: Mirror | None = None,
    ) -> None:
        if out.suffix.lower() in FILE_SUFFIXES or (out.exists() and not out.is_dir()):
            raise UsageError(f"-o {out}: --runner ray writes a folder of parts; give the name of one")
        self._out = out
        self._asked = asked
        self._command = command
        self._places = dict(places)
        self._limit = limit
        self._overwrite = overwrite
        self._aside = out.with_name(out.name + ".before")
        self._began = self._wrote = False
        self._mirror = mirror
        self.parts: list[Part] = []
        self._lock = Lock(out)
        try:
            _refuse_others(out)
            self._manifest = None if overwrite else self._known()
            self.finished = finished_counts(self._manifest, limit)
        except BaseException:
            self._lock.release()
            raise

    def _known(self) -> Manifest | None:
        """The manifest that a run goes on with; None where it begins."""
        manifest = Manifest.read(self._out) if self._out.is_dir() else None
        if manifest is None:
            if self._out.is_dir() and next(_names(self._out), None) is not None:
                raise UsageError(f"{self._out} holds parts without a run.json; to write it anew: --overwrite")
            return None
        manifest.refuse_changes(self._asked)
        if manifest.is_complete and digest_of(self._out) != manifest.content["out"]["sha256"]:
            raise UsageError(f"{self._out} was changed since it was written; to write it anew: --overwrite")
        return manifest

    def knows_rows(self, *, strict: bool) -> bool:
        """Whether an earlier run looked at each row of the input, as strictly as now."""
        checked = self._manifest.content.get("checked") if self._manifest is not None else None
        return checked is not None and (checked["strict"] or not strict)

    def begin(self, checked: Checked) -> None:
        """Makes the folder, or reads what an earlier run left in it.

        Raises:
            UsageError: it has records of more rows than are asked for.
        """
        try:
            if self._overwrite and self._out.exists():
                _remove(self._aside)
                os.replace(self._out, self._aside)
            if self._mirror is not None:
                self._mirror.begin(SUCCESS, anew=self._overwrite)
            self._out.mkdir(parents=True, exist_ok=True)
            (self._out / SUCCESS).unlink(missing_ok=True)
        except OSError as error:
            raise DiskError(f"{self._out}: {error.strerror}; no row was asked") from error
        self.parts = list(_parts(self._out))
        rows = checked.rows if self._limit is None else min(self._limit, checked.rows)
        if sum(part.count for part in self.parts) > rows:
            raise UsageError(f"{self._out} has records of more than {rows:,} rows; give a larger --limit")
        self._manifest = self._manifest or Manifest.new(self._out, self._asked, self._command)
        self._manifest.content |= {"state": "running", "checked": asdict(checked)} | self._places
        self._manifest.content.pop("out", None)
        self._began = True
        self._noted()

    @property
    def identity(self) -> dict[str, Any] | None:
        """Who answers, once that is known."""
        found: dict[str, Any] | None = self._opened.content.get("identity")
        return found

    def set_identity(self, identity: Identity) -> None:
        """See `Manifest.set_identity`."""
        if self.identity != asdict(identity):
            self._opened.set_identity(identity)
            self._noted()

    def write(self, block: Block, lines: bytes) -> None:
        """Puts the records of a block in place, as a part; of one that was there those of its failed rows.

        Raises:
            InputError: they are not as many as rows were asked.
            DiskError: they can't be written.
        """
        path = self._out / f"part-{block.first:012d}-{block.last:012d}.jsonl"
        found = lines.splitlines(keepends=True)
        wanted = block.count if block.only is None else len(block.only)
        if len(found) != wanted:
            raise InputError(f"{path.name}: {len(found):,} records of {wanted:,} rows; nothing was written")
        if block.only is not None:
            kept = path.read_bytes().splitlines(keepends=True)
            for place, line in zip(sorted(block.only), found, strict=True):
                kept[place] = line
            lines = b"".join(kept)
        try:
            with replacing(path, overwrite=True, locked=True) as file:  # by the lock of OUT
                file.write(lines)
        except OSError as error:
            kept_too = "the parts before are kept: the same command goes on with the others"
            raise DiskError(f"{path}: {error.strerror or error}; {kept_too}") from error
        self._wrote = True
        if self._mirror is not None:
            self._mirror.put(path)

    def _noted(self) -> None:
        self._opened.write()
        if self._mirror is not None:
            self._mirror.put(manifest_path(self._out))

    def finish(self, counts: dict[str, Any]) -> None:
        """To be called once, when each row has its record."""
        sizes = [path.stat().st_size for path in _names(self._out)]
        whole = {"sha256": digest_of(self._out), "bytes": sum(sizes), "parts": len(sizes)}
        self._opened.close("complete", counts, whole)
        try:
            os.close(descriptor_of(self._out / SUCCESS, TO_WRITE))
        except OSError as error:
            raise DiskError(f"{self._out / SUCCESS}: {error.strerror}") from error
        if self._mirror is not None:
            self._mirror.put(manifest_path(self._out))
            self._mirror.put(self._out / SUCCESS)

    def close(self, counts: dict[str, Any]) -> None:
        """Gives OUT free; the counts of a run that did not finish are noted."""
        try:
            if self._began and not self._opened.is_complete:
                self._leave(counts)
            elif self._began:
                _remove(self._aside)
        finally:
            self._lock.release()

    def _leave(self, counts: dict[str, Any]) -> None:
        if self.parts or self._wrote:
            self._opened.close("interrupted", counts)
            if self._mirror is not None:
                self._mirror.put(manifest_path(self._out))
            _remove(self._aside)
            return
        _remove(self._out)  # nothing was done: what was to be written anew is what it was
        if self._aside.exists():
            os.replace(self._aside, self._out)

    @property
    def _opened(self) -> Manifest:
        if self._manifest is None:
            raise RuntimeError("an output takes records only after `begin`")
        return self._manifest


def _names(out: Path) -> Iterator[Path]:
    return (path for path in sorted(out.iterdir()) if NAME.fullmatch(path.name))


def _refuse_others(out: Path) -> None:
    """Raises UsageError where a folder holds what no run of this kind writes: it is somebody's own."""
    if not out.is_dir():
        return
    for path in sorted(out.iterdir()):
        name = path.name.removesuffix(".tmp").removesuffix(".lock")
        if not name.startswith(".") and not NAME.fullmatch(name) and name not in (SUCCESS, "run.json"):
            raise UsageError(f"-o {out} holds {path.name}, which is no part of an output; give a new folder")


def _parts(out: Path) -> Iterator[Part]:
    """The parts that are there, in the order of their rows.

    Raises:
        UsageError: two hold the same row.
    """
    end = 0
    for path in _names(out):
        found = NAME.fullmatch(path.name)
        first, last = (int(found[1]), int(found[2])) if found else (0, 0)
        if not end < first <= last:
            raise UsageError(f"{path} holds rows that another part has; to write it anew: --overwrite")
        end, count, failed = last, 0, set()
        for record in records(path):
            if record["status"] != "ok":
                failed.add(count)
            count += 1
        yield Part(path, first, last, count, frozenset(failed))


def _remove(folder: Path) -> None:
    """Takes a folder of parts away, run.json last: what a crash leaves still says what it is."""
    if not folder.is_dir():
        return
    for path in _names(folder):
        path.unlink()
    (folder / SUCCESS).unlink(missing_ok=True)
    manifest_path(folder).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
