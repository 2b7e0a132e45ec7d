"""Entries out to one file, and in again on another machine: each verified, none taken on trust.

A bundle is a zstd stream: a line of JSON that says what it is, then entries (kind, key, length, seal,
envelope), then an end that counts them. The seal is an HMAC-SHA256 of the entry where a team key was given,
else zeros.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import os
import re
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import zstandard

from cache import kinds
from cache.errors import BundleError, CacheError, DamagedError, RefusedBundleError
from cache.kinds import Kind
from cache.storage import codecs
from cache.storage.replacing import HeldError, PresentError, companions, is_written, regular, replacing
from cache.store import Store

NAME = "fastqwen cache bundle"
MAX_VALUE_BYTES = 2**28
FLUSH_EVERY = 1000  # new entries; more than the writer holds would be dropped
_ENTRY = struct.Struct("<1s32sQ32s")
_END = b"."
NO_SEAL = bytes(32)
_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a bundle's entries."""

    entries: int
    new: int
    damaged: int
    forged: int


def export_bundle(
    store: Store,
    path: Path,
    team_key: bytes | None,
    *,
    force: bool = False,
    reads: Sequence[Path] = (),
) -> int:
    """Writes all entries to one file; how many there were. The file appears when it is whole.

    Args:
        force: whether a file that is there is replaced.
        reads: files that are read for it, besides the cache's own: none of them is replaced.

    Raises:
        RefusedBundleError: the file is there already, or is one of those that are read.
        BundleError: it can't be written.
    """
    target = Path(os.path.realpath(path))  # a link to a bundle stays one
    _refuse_odd(path, target, (*reads, *store.files()))
    try:
        with replacing(target, overwrite=force) as file:
            return _write_entries(store, file, team_key)
    except PresentError as error:
        raise RefusedBundleError(f"{error}; to replace it: --force") from error
    except HeldError as error:
        raise RefusedBundleError(f"{error}; wait for it or give another name") from error
    except OSError as error:
        raise BundleError(f"{error.filename or path}: {error.strerror}") from error


def _refuse_odd(path: Path, target: Path, reads: Sequence[Path]) -> None:
    if path.exists() and regular(path) is None:
        raise RefusedBundleError(f"{path} is no regular file; give another name")
    written = companions(target)
    for one in reads:
        if (read := regular(one)) is not None and is_written(read, written):
            raise RefusedBundleError(f"{path} is a file that is read here ({one}); give another name")


def _write_entries(store: Store, file: IO[bytes], team_key: bytes | None) -> int:
    count = 0
    with zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False) as out:
        out.write(json.dumps(_header(team_key)).encode() + b"\n")
        for name, key, payload in store.entries():
            if payload is None or _KEY.fullmatch(key) is None:
                continue
            kind = kinds.named(name)
            letter, blob = kind.letter.encode(), codecs.seal(kind.letter, payload)
            number = bytes.fromhex(key)
            out.write(_ENTRY.pack(letter, number, len(blob), _seal(team_key, letter, number, blob)) + blob)
            count += 1
        out.write(_ENTRY.pack(_END, NO_SEAL, count, _seal(team_key, _END, NO_SEAL, str(count).encode())))
    return count


def import_bundle(store: Store, path: Path, team_key: bytes | None) -> Imported:
    """Takes in the entries of a bundle whose digests hold, and whose seals do where there is a team key.

    Raises:
        BundleError: no bundle, one of another format, one that is cut short, or one without seals where
            there is a team key.
        CacheError: the cache can't be written to, or not all could be.
    """
    if not store.keeps:
        raise CacheError(
            f"the cache in {store.directory} can only be read here; do without --offline, have its owner do "
            "this, or choose another --cache-dir"
        )
    unkept = store.unkept
    entries = new = damaged = forged = 0
    for letter, number, seal, blob in _entries(path, team_key):
        entries += 1
        if team_key is not None and not hmac.compare_digest(seal, _seal(team_key, letter, number, blob)):
            forged += 1
            continue
        try:
            kind = _kind_of(letter)
            payload = codecs.unseal(kind.letter, blob)
        except DamagedError:
            damaged += 1
            continue
        key = number.hex()
        if store.get(kind.name, key, again=True) is None:
            store.put(kind.name, key, payload)
            new += 1
            if new % FLUSH_EVERY == 0:
                store.flush()
    store.flush()
    if store.unkept > unkept:
        raise CacheError(
            f"{store.unkept - unkept:,} of {new:,} entries of {path} could not be written to the cache in "
            f"{store.directory}; make room there, then import it again"
        )
    store.counts["forged"] += forged
    return Imported(entries, new, damaged, forged)


def _header(team_key: bytes | None) -> dict[str, object]:
    return {"name": NAME, "format": codecs.FORMAT, "sealed": team_key is not None, "at": int(time.time())}


def _seal(team_key: bytes | None, letter: bytes, number: bytes, blob: bytes) -> bytes:
    if team_key is None:
        return NO_SEAL
    return hmac.new(team_key, letter + number + hashlib.sha256(blob).digest(), hashlib.sha256).digest()


def _entries(path: Path, team_key: bytes | None) -> Iterator[tuple[bytes, bytes, bytes, bytes]]:
    try:
        with path.open("rb") as file:
            stream = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file))
            _check(path, stream.readline(4096), team_key)
            count = 0
            while True:
                letter, number, length, seal = _ENTRY.unpack(_exactly(stream, _ENTRY.size))
                if letter == _END:
                    ending = _seal(team_key, _END, number, str(length).encode())
                    if length != count or (team_key is not None and not hmac.compare_digest(seal, ending)):
                        raise BundleError(f"{path} says it has {length:,} entries; there are {count:,}")
                    return
                if length > MAX_VALUE_BYTES:
                    raise BundleError(f"{path}: an entry of {length:,} bytes; is it whole?")
                yield letter, number, seal, _exactly(stream, length)
                count += 1
    except (OSError, zstandard.ZstdError) as error:
        reason = (
            error.strerror
            if isinstance(error, OSError) and error.strerror
            else "it is no bundle, or cut short"
        )
        raise BundleError(f"{path}: {reason}") from error


def _kind_of(letter: bytes) -> Kind:
    kind = kinds.of_letter(letter.decode("latin-1"))
    if kind is None:
        raise DamagedError("a kind that nobody registered")
    return kind


def _check(path: Path, line: bytes, team_key: bytes | None) -> None:
    try:
        header = json.loads(line)
        known = header["name"] == NAME
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} is no bundle of a cache") from error
    if not known or header.get("format") != codecs.FORMAT:
        raise BundleError(
            f"{path} is of format {header.get('format')!r}; this fastqwen reads {codecs.FORMAT}"
        )
    if team_key is not None and not header.get("sealed"):
        raise BundleError(
            f"{path} bears no seals, and a team key is set; have it exported with the key, or do without"
        )


def _exactly(stream: IO[bytes], count: int) -> bytes:
    found = stream.read(count)
    if len(found) != count:
        raise BundleError("the bundle ends too early")
    return found
