"""The envelope that every value is kept in: version, kind, length, digest. Never pickle, in or out."""

from __future__ import annotations

import hashlib
import struct

from cache.errors import DamagedError

FORMAT = 1
MAGIC = b"FQ"
_HEAD = struct.Struct("<2sB1sQ32s")


def seal(kind: str, payload: bytes) -> bytes:
    """The payload in its envelope; `kind` is one ASCII letter."""
    letter = kind.encode("ascii")
    return _HEAD.pack(MAGIC, FORMAT, letter, len(payload), _digest(letter, payload)) + payload


def unseal(kind: str, blob: object) -> bytes:
    """What an envelope holds.

    Raises:
        DamagedError: it is cut short, changed, of another kind or of another version.
    """
    if not isinstance(blob, bytes) or len(blob) < _HEAD.size:
        raise DamagedError("no envelope")
    magic, version, letter, length, digest = _HEAD.unpack_from(blob)
    payload = blob[_HEAD.size :]
    if (magic, version, letter) != (MAGIC, FORMAT, kind.encode("ascii")):
        raise DamagedError("an envelope of another kind or version")
    if len(payload) != length or _digest(letter, payload) != digest:
        raise DamagedError("its digest does not hold")
    return payload


def _digest(letter: bytes, payload: bytes) -> bytes:
    return hashlib.sha256(letter + payload).digest()
