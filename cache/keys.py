"""Digests by which bytes are known."""

from __future__ import annotations

import hashlib


def digest(content: bytes) -> str:
    """SHA-256 of bytes, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
