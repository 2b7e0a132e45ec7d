"""What stands in a tier: keys of one length, and values that prove themselves and tell nothing.

A key is a digest of the local key, which is one of all that the value depends on. The value is masked by
a stream that only the local key gives, so that whoever can read the tier and does not know a question learns
neither it nor its answer. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from typing import NamedTuple

from cache.errors import DamagedError
from cache.keys import MARK

NAMESPACE = "fq1"
VERSION = 1
MAGIC = b"FT"
MOST_BYTES = 2**22  # of a value
_KEY, _PREIMAGE = 28, 16  # bytes of a digest of 64; the rest is secret
_HEAD = struct.Struct(
    f"<2sB1sI16s{_PREIMAGE}s"
)  # magic, version, kind, length, nonce, digest of the preimage
_SEAL = 32  # bytes of the seal, after the head


class OtherVersionError(DamagedError):
    """A value of another version: no fault of anybody's."""


class Asked(NamedTuple):
    """A question as a tier knows it: its key, and what its value proves itself and is masked by."""

    key: bytes
    letter: bytes
    preimage: bytes
    secret: bytes


class Seals:
    """Names and seals values; a team's key goes into all of it, so that another team's values are not there.

    Args:
        key: the team's; None for plain digests, which show damage and no forger who knows the question.
    """

    def __init__(self, key: bytes | None = None) -> None:
        of_names, self._of_seals = (
            b"" if key is None else hashlib.blake2b(key, digest_size=32, person=use).digest()
            for use in (b"fastqwen names", b"fastqwen seals")
        )
        self._named = hashlib.blake2b(key=of_names, person=b"fastqwen asked")

    def asked(self, name: str) -> Asked:
        """Parts of one digest, none of which tells another.

        Args:
            name: the value's kind and local key, as the cache has it.
        """
        whole = self._named.copy()
        whole.update(name.encode())
        digest = whole.digest()
        key = f"{NAMESPACE}:{name[0]}:{digest[:_KEY].hex()}{name[-MARK:]}".encode()
        return Asked(key, name[:1].encode(), digest[_KEY : _KEY + _PREIMAGE], digest[_KEY + _PREIMAGE :])

    def lease(self, name: str) -> bytes:
        """The key of the lease to compute a value."""
        return self.asked(name).key.replace(b":", b":lease:", 1)

    def seal(self, asked: Asked, payload: bytes) -> bytes:
        """A payload as it is kept under `asked.key`."""
        nonce = os.urandom(16)
        head = _HEAD.pack(MAGIC, VERSION, asked.letter, len(payload), nonce, asked.preimage)
        body = _masked(asked.secret, nonce, payload)
        return head + self._seal(asked.key, head, body) + body

    def opened(self, asked: Asked, blob: bytes) -> bytes:
        """The payload of a value.

        Raises:
            OtherVersionError: it is of another version.
            DamagedError: it is not what was kept for this question.
        """
        letter, nonce, preimage, body = self._parts(asked.key, blob)
        if letter != asked.letter or preimage != asked.preimage:
            raise DamagedError("another question's value")
        return _masked(asked.secret, nonce, body)

    def check(self, key: bytes, blob: bytes) -> None:
        """What can be told of a value without its question: see `opened`."""
        self._parts(key, blob)

    def _parts(self, key: bytes, blob: object) -> tuple[bytes, bytes, bytes, bytes]:
        if not isinstance(blob, bytes) or not _HEAD.size + _SEAL <= len(blob) <= MOST_BYTES + 1024:
            raise DamagedError("no value of ours")
        magic, version, letter, length, nonce, preimage = _HEAD.unpack_from(blob)
        if magic != MAGIC:
            raise DamagedError("no value of ours")
        if version != VERSION:
            raise OtherVersionError("a value of another version")
        body_at = _HEAD.size + _SEAL
        head, seal, body = blob[: _HEAD.size], blob[_HEAD.size : body_at], blob[body_at:]
        if len(body) != length or not hmac.compare_digest(seal, self._seal(key, head, body)):
            raise DamagedError("its seal does not hold")
        return letter, nonce, preimage, body

    def _seal(self, key: bytes, head: bytes, body: bytes) -> bytes:
        told = b"%d:%b%b%b" % (len(key), key, head, body)
        if not self._of_seals:
            return hashlib.sha256(told).digest()
        return hmac.digest(self._of_seals, told, "sha256")


def _masked(secret: bytes, nonce: bytes, body: bytes) -> bytes:
    """The body masked, or a masked one as it was."""
    stream = hashlib.shake_256(secret + nonce).digest(len(body))
    return (int.from_bytes(body, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(body), "big")
