"""What both ends of an image process's pipes agree on: each part of a message behind its length."""

from __future__ import annotations

import struct

LENGTH = struct.Struct(">I")
READY = b"ready\n"


def framed(*parts: bytes) -> bytes:
    """Parts, each behind its length in 4 bytes, big-endian."""
    return b"".join(piece for part in parts for piece in (LENGTH.pack(len(part)), part))
