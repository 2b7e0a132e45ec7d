"""Keys: SHA-256 over everything that can change a value, each part named and measured, so that none alias."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from functools import lru_cache

Part = str | bytes | int | float | bool | None
SHORT = 64  # characters
MARK = 8  # digits at the end of a key


def digest(content: bytes) -> str:
    """SHA-256 of bytes, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


class Keys:
    """Makes keys that share their first parts.

    Two questions have the same key if, and only if, all their parts have the same names and values: each is
    written with its name, its type and its length. A part that is added later changes every key.

    Args:
        kind: what is kept under the keys.
        shared: the parts that all of them have.
        mark: what their last eight digits stand for, so that those of a model's revision can be found again.
    """

    def __init__(self, kind: str, shared: Mapping[str, Part], mark: str | None = None) -> None:
        self._mark = None if mark is None else mark_of(mark)
        self._start = hashlib.sha256(_part("kind", kind))
        for name, value in sorted(shared.items()):
            self._start.update(_part(name, value))

    def key(self, **parts: Part) -> str:
        """The key of a question, 64 hexadecimal digits."""
        whole = self._start.copy()
        for name in sorted(parts):
            value = parts[name]
            # Most short texts are the same for all questions of a run.
            short = type(value) is str and len(value) < SHORT
            whole.update(_short_part(name, value) if short else _part(name, value))
        if self._mark is None:
            return whole.hexdigest()
        return whole.hexdigest()[:-MARK] + self._mark


def mark_of(said: str) -> str:
    """The digits that keys with a mark end with."""
    return digest(said.encode("utf-8", "surrogatepass"))[:MARK]


def _part(name: str, value: Part) -> bytes:
    if isinstance(value, str):
        letter, data = b"s", value.encode("utf-8", "surrogatepass")
    elif isinstance(value, bytes):
        letter, data = b"b", value
    elif value is None:
        letter, data = b"n", b""
    elif isinstance(value, bool):
        letter, data = b"t", b"1" if value else b"0"
    elif isinstance(value, int):
        letter, data = b"i", str(value).encode()
    else:
        letter, data = b"f", struct.pack(">d", value)
    return b"%s\0%s%d\0%s" % (name.encode(), letter, len(data), data)


_short_part = lru_cache(maxsize=1024)(_part)
