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

from cache.errors import DamagedError
from cache.keys import MARK

NAMESPACE = "fq1"
VERSION = 1
MAGIC = b"FT"
MOST_BYTES = 2**22  # of a value
_HEAD = struct.Struct("<2sB1sI16s32s")  # magic, version, kind, length, nonce, digest of the preimage
_SEAL = 32  # bytes of the seal, after the head


class OtherVersionError(DamagedError):
    """A value of another version: no fault of anybody's."""


class Seals:
    """Names and seals values; a team's key goes into all of it, so that another team's values are not there.

    Args:
        key: the team's; None for plain digests, which show damage and no forger who knows the question.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._of_names, self._of_masks, self._of_seals = (
            b"" if key is None else hashlib.blake2b(key, digest_size=32, person=use).digest()
            for use in (b"fastqwen names", b"fastqwen masks", b"fastqwen seals")
        )

    def key(self, name: str, *, lease: bool = False) -> bytes:
        """The tier's key of a value (or of the lease to compute it): `fq1:L:` and 64 digits.

        Args:
            name: the value's kind and local key, as the cache has it.
        """
        asked = hashlib.blake2b(name.encode(), digest_size=32 - MARK // 2, key=self._of_names)
        letter = f"lease:{name[0]}" if lease else name[0]
        return f"{NAMESPACE}:{letter}:{asked.hexdigest()}{name[-MARK:]}".encode()

    def seal(self, name: str, payload: bytes) -> bytes:
        """A payload as it is kept under `key(name)`."""
        nonce = os.urandom(16)
        head = _HEAD.pack(MAGIC, VERSION, name[:1].encode(), len(payload), nonce, _preimage(name))
        body = self._masked(name, nonce, payload)
        return head + self._seal(self.key(name), head, body) + body

    def opened(self, name: str, blob: bytes) -> bytes:
        """The payload of a value.

        Raises:
            OtherVersionError: it is of another version.
            DamagedError: it is not what was kept under this name.
        """
        head, nonce, preimage, body = self._parts(self.key(name), blob)
        if head[3:4] != name[:1].encode() or preimage != _preimage(name):
            raise DamagedError("another question's value")
        return self._masked(name, nonce, body)

    def check(self, key: bytes, blob: bytes) -> None:
        """What can be told of a value without its question: see `opened`."""
        self._parts(key, blob)

    def _parts(self, key: bytes, blob: object) -> tuple[bytes, bytes, bytes, bytes]:
        if not isinstance(blob, bytes) or not _HEAD.size + _SEAL <= len(blob) <= MOST_BYTES + 1024:
            raise DamagedError("no value of ours")
        magic, version, _, length, nonce, preimage = _HEAD.unpack_from(blob)
        if magic != MAGIC:
            raise DamagedError("no value of ours")
        if version != VERSION:
            raise OtherVersionError("a value of another version")
        head, seal, body = (
            blob[: _HEAD.size],
            blob[_HEAD.size : _HEAD.size + _SEAL],
            blob[_HEAD.size + _SEAL :],
        )
        if len(body) != length or not hmac.compare_digest(seal, self._seal(key, head, body)):
            raise DamagedError("its seal does not hold")
        return head, nonce, preimage, body

    def _seal(self, key: bytes, head: bytes, body: bytes) -> bytes:
        told = b"%d:" % len(key) + key + head + body
        if not self._of_seals:
            return hashlib.sha256(told).digest()
        return hmac.digest(self._of_seals, told, "sha256")

    def _masked(self, name: str, nonce: bytes, body: bytes) -> bytes:
        """The body masked, or a masked one as it was."""
        secret = hashlib.blake2b(
            name.encode(), key=self._of_masks, salt=nonce, person=b"fastqwen mask"
        ).digest()
        stream = hashlib.shake_256(secret).digest(len(body))
        return (int.from_bytes(body, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(body), "big")


def _preimage(name: str) -> bytes:
    """A digest of all that a value depends on; the local key, which is one, stays secret."""
    return hashlib.blake2b(name.encode(), digest_size=32, person=b"fastqwen asked").digest()
