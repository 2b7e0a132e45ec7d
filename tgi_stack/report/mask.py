"""What of a report is left out with `--redact`: ids become names that mean nothing, texts go."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True)
class Mask:
    """Passes ids and texts on, or hides them.

    A hash alone would give ids away to whoever can list them, so it has a key that is made anew for each
    report and kept nowhere: equal ids have equal names within one report, and in no other.
    """

    hides: bool
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def id(self, name: str) -> str:
        """What stands for an id."""
        if not self.hides:
            return name
        raw = name.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(raw, key=self._key, digest_size=6).hexdigest()

    def text(self, value: Value) -> Value | None:
        """What stands for a text, or for anything else of the user's."""
        return None if self.hides else value

    def label(self, name: str, place: int) -> str:
        """What stands for a label."""
        return f"label {place}" if self.hides else name
