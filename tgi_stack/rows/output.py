"""`-o OUT` as a whole: its lock, its manifest and its ledger, and what a rerun of a command finds."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from cache.storage.replacing import replacing
from tgi_stack.errors import DiskError, InputError, UsageError
from tgi_stack.rows import jsonl, parquet
from tgi_stack.rows.folder import list_folder
from tgi_stack.rows.formats import form_of, opened
from tgi_stack.rows.ledger import Checked, Ledger, Record, line_of, part_path, sha256_of
from tgi_stack.rows.manifest import Manifest, manifest_path, source_of
from tgi_stack.rows.reader import Source
from tgi_stack.rows.records import without_null
from tgi_stack.settings.loading import FILE as CONFIG
from tgi_stack.text_files import as_utf_8
from tgi_stack.types import Identity
from tgi_stack.writing import Given, Lock

LOG = logging.getLogger("fastqwen")
SUFFIXES = (".jsonl", ".parquet")


class Output:
    """The sink of a run that can be resumed.

    Args:
        places: where all that is read can be read again; see `manifest.places`.

    Attributes:
        finished: the counts of an output that is there and has nothing left to do, else None.

    Raises:
        UsageError: OUT is there and is not this command's, or something that changes answers is different.
        LockedError: another run is writing it.
        DiskError: it can't be written.
    """

    def __init__(
        self,
        out: Path,
        asked: dict[str, Any],
        source: Source,
        *,
        command: list[str],
        places: Mapping[str, Any] | None = None,
        limit: int | None = None,
        overwrite: bool = False,
    ) -> None:
        refuse_suffix(out, SUFFIXES)
        if out.exists() and not out.is_file():
            raise UsageError(f"-o {out} is no file; give another name, or --unordered for a pipe")
        self._out = out
        self._asked = asked
        self._source = source
        self._command = command
        self._places = dict(places or {"input": source_of(source)})
        self._overwrite = overwrite
        self._ledger: Ledger | None = None
        self._is_new = False
        self._lock = Lock(out)
        try:
            self._manifest = None if overwrite else _manifest(out, asked, source)
            self.finished = finished_counts(self._manifest, limit)
            if self.finished is None:  # told before a model is loaded
                self._lock.refuse_full_disk()
        except DiskError as error:
            self._lock.release()
            raise self._kept(error) from error
        except BaseException:
            self._lock.release()
            raise

    def _kept(self, error: DiskError) -> DiskError:
        """The error, with what becomes of the rows."""
        resumed = part_path(self._out).exists()
        kept = "rows that were finished before are kept" if resumed else "no row was asked"
        return DiskError(f"{error}; {kept}")

    def knows_rows(self, *, strict: bool) -> bool:
        """Whether an earlier run looked at each row of the input, as strictly as now."""
        checked = self._manifest.content.get("checked") if self._manifest is not None else None
        return checked is not None and (checked["strict"] or not strict)

    def begin(self, identity: Identity, checked: Checked) -> None:
        """Opens the part file, with what an earlier run left in it; see `Manifest.set_identity`."""
        self._is_new = self._manifest is None
        if self._overwrite:
            # OUT itself stays until the new one is whole; what goes with it until the new one has a record.
            for path in self._belongings():
                if path.exists():
                    os.replace(path, _aside(path))
        manifest = self._manifest or Manifest.new(self._out, self._asked, self._command)
        manifest.set_identity(identity)
        if manifest.is_complete and self._out.exists() and not part_path(self._out).exists():
            _reopen(self._out, self._source)
        manifest.content |= {"state": "running", "checked": asdict(checked)} | self._places
        try:
            manifest.write()
        except DiskError as error:
            raise self._kept(error) from error
        self._manifest = manifest
        self._ledger = Ledger(self._out)

    def __contains__(self, number: object) -> bool:
        return number in self._opened

    def write(self, number: int, record: Record) -> None:
        self._opened.write(number, record)

    @property
    def is_full(self) -> bool:
        return False

    def write_lines(
        self, numbers: Sequence[int], lengths: Sequence[int], lines: bytes, failed: Container[int] = ()
    ) -> None:
        """See `Ledger.write_lines`."""
        self._opened.write_lines(numbers, lengths, lines, failed)

    def finish(self, counts: dict[str, Any]) -> None:
        """Puts OUT in place. Only when the manifest says so does the part file go."""
        whole = None
        with self._opened.finishing() as file:
            if form_of(self._out)[0] == ".parquet":
                parquet.write(self._asked["job"], file, self._opened.lines())
            else:
                digest = _written(file, self._opened.lines())
                whole = {"sha256": digest, "bytes": file.tell()}
        if self._manifest is not None:
            self._manifest.close("complete", counts, whole)
        self._opened.retire()

    def _belongings(self) -> tuple[Path, Path]:
        return part_path(self._out), manifest_path(self._out)

    def close(self, counts: dict[str, Any]) -> None:
        """Gives OUT free; the counts of a run that did not finish are noted."""
        try:
            if self._ledger is not None:
                self._ledger.close()
                if self._manifest is not None and not self._manifest.is_complete:
                    self._leave(self._ledger, self._manifest, counts)
                for path in self._belongings():
                    _aside(path).unlink(missing_ok=True)
        finally:  # on a full disk too
            self._lock.release()

    def _leave(self, ledger: Ledger, manifest: Manifest, counts: dict[str, Any]) -> None:
        if self._is_new and ledger.is_empty:
            # Weights that can't be loaded end a run after it began: the next may name others, and what was
            # to be written anew is what it was.
            ledger.retire()
            manifest.remove()
            for path in self._belongings():
                if _aside(path).exists():
                    os.replace(_aside(path), path)
        else:
            try:
                manifest.close("interrupted", counts)
            except DiskError as error:  # not in place of what ended the run; a rerun goes on all the same
                LOG.warning("%s; finished rows are kept in %s", error, part_path(self._out))

    @property
    def _opened(self) -> Ledger:
        if self._ledger is None:
            raise RuntimeError("an Output takes records only after `begin`")
        return self._ledger


def _written(file: IO[bytes], lines: Iterator[bytes]) -> str:
    """Writes lines; gives SHA-256 of them all, so that nobody has to read them again for it."""
    whole = hashlib.sha256()
    for line in lines:
        whole.update(line)
        file.write(line)
    return whole.hexdigest()


def refuse_suffix(out: Path, suffixes: Sequence[str]) -> None:
    """Raises UsageError for a name that does not say one of the formats."""
    if out.suffix.lower() not in suffixes:
        wrong = out.suffix or "a file without a suffix"
        raise UsageError(f"-o {out}: can't write {wrong}; give {' or '.join(suffixes)}")


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ".before")


def _manifest(out: Path, asked: dict[str, Any], source: Source) -> Manifest | None:
    """The manifest that a run goes on with; None where it begins."""
    part = part_path(out)
    manifest = Manifest.read(out)
    if manifest is None:
        for path in (out, part):
            if path.exists():
                raise UsageError(
                    f"{path} is there already, without a run.json; to write it anew: --overwrite"
                )
        return None
    manifest.take_more(asked, source)
    manifest.refuse_changes(asked)
    if manifest.is_complete and not part.exists():
        if not out.exists():
            return None
        if sha256_of(out) != manifest.content["out"]["sha256"]:
            raise UsageError(f"{out} was changed since it was written; to write it anew: --overwrite")
    return manifest


def finished_counts(manifest: Manifest | None, limit: int | None) -> dict[str, Any] | None:
    """The counts of a complete output without failures that covers what is asked for."""
    if manifest is None or not manifest.is_complete or part_path(manifest.out).exists():
        return None
    if "checked" not in manifest.content:  # there is more of the input now
        return None
    counts: dict[str, Any] = manifest.content["counts"]
    wanted = counts["input_rows"] if limit is None else min(limit, counts["input_rows"])
    return counts if counts["failed"] == 0 and counts["rows"] >= wanted else None


def _reopen(out: Path, source: Source) -> None:
    """A part file with the ok records of a complete OUT, whose other rows are to be tried again."""
    part = part_path(out)
    try:
        with replacing(part, overwrite=True, locked=True) as file:  # by the lock of OUT
            for raw, record in zip(source, records(out), strict=False):
                if record["status"] == "ok":
                    file.write(line_of(raw.number, record))
    except OSError as error:
        raise DiskError(f"{error.filename or part}: {error.strerror or error}; {out} is as it was") from error


def records(out: Path) -> Iterator[Record]:
    """The records of an output, in the order of its rows: of a file, or of all parts in a folder.

    Raises:
        InputError: there is none, a suffix that no output has, or a line that is no record.
    """
    for path in parts_of(out):
        if form_of(path)[0] == ".parquet":
            yield from parquet.read(path)
        else:
            yield from _of_lines(path)


def parts_of(out: Path) -> list[Path]:
    """The files that hold an output: itself, or the parts of a folder in the order of their names.

    Raises:
        InputError: there is none, or one that no output is.
    """
    if out.is_dir():
        found = _in_folder(out)
        if not found and not manifest_path(out).is_file():  # of no rows there are no parts
            raise InputError(f"{out} is a folder without parts of an output (.jsonl, .parquet)")
    elif out.is_file() or out.is_fifo():
        found = [out]
    else:
        what = "no file; give an output of a job" if out.exists() else "no such file"
        raise InputError(f"{out}: {what}")
    for path in found:
        suffix, compression = form_of(path)
        if suffix == ".csv" or (compression and suffix == ".parquet"):
            raise InputError(f"{path}: no output of a job; give .jsonl (also .gz, .zst) or .parquet")
    return found


def _in_folder(out: Path) -> list[Path]:
    return [out / name for name in list_folder(out).parts]


def given(option: str, out: Path | None, config: Path | None = None) -> list[Given]:
    """What a command reads of an output, and beside it; nothing where none is given.

    Args:
        config: of the settings, where it is not the one of this folder.
    """
    if out is None:
        return []
    found = parts_of(out) if out.is_dir() else [out]
    read = [Given(option, path) for path in (*found, manifest_path(out))]
    return [*read, Given("--config", config or Path(CONFIG))]


def digest_of(out: Path) -> str:
    """SHA-256 of an output: of a file's content, or of the names and contents of the parts of a folder."""
    if not out.is_dir():
        return sha256_of(out)
    parts = [[path.relative_to(out).as_posix(), sha256_of(path)] for path in _in_folder(out)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _of_lines(path: Path) -> Iterator[Record]:
    with opened(path, str(path)) as file:
        for number, line in enumerate(as_utf_8(file), 1):
            try:
                found = jsonl.loads(line, most=math.inf)  # one of our own may be long
            except jsonl.LineError as error:
                raise InputError(f"{path}:{number}:{error.column}: {error}") from error
            yield without_null(found) if b"null" in line else found
