"""What of an unfinished JSON text decides how it may go on: its outline, by the schema that it is of.

A string whose schema bounds its length alone goes on by how long it is, whatever it says; once it is over, it
does not count at all. So texts that say different things often have one outline, and what may follow one of
them may follow all.
"""

from __future__ import annotations

from typing import Any

Key = tuple[bytes, int]
Schema = dict[str, Any]
QUOTE, BACKSLASH = ord('"'), ord("\\")
# Beside these a string's schema asks something of its words.
LENGTHS = frozenset({"type", "minLength", "maxLength", "title", "description", "default", "examples"})


def plain_characters(piece: bytes) -> int | None:
    """Characters that a piece of text adds to a string that it is all inside of; None where it may not be, or
    where that needs a closer look.
    """
    if QUOTE in piece or BACKSLASH in piece:
        return None
    try:
        return len(piece.decode())
    except UnicodeDecodeError:
        return None


class Outline:
    """The outline of a text that grows by pieces.

    Args:
        schema: of the stated subset; see `forms`.
    """

    __slots__ = ("_containers", "_count", "_done", "_escaped", "_exact", "_name", "_next", "_open", "_tail")

    def __init__(self, schema: Schema) -> None:
        self._done = bytearray()  # the text without the words that do not matter
        self._containers: list[Schema | None] = []
        self._next: Schema | None = schema  # of the value that comes
        self._open = ""  # the string that is open: `name`, `words`, or `exact`, whose words matter
        self._name = bytearray()
        self._count = 0  # characters of the open string
        self._exact = True  # whether those were counted
        self._escaped = False
        self._tail = 0  # bytes that a character still lacks

    @property
    def key(self) -> Key | None:
        """Equal for texts that may go on alike; None where that is not known."""
        if self._open == "words":
            return (bytes(self._done), self._count) if self._exact and not self._tail else None
        return bytes(self._done), -1

    def add(self, piece: bytes, plain: int | None) -> None:
        """What comes next of the text.

        Args:
            plain: see `plain_characters`.
        """
        if plain is not None and self._open == "words" and not self._escaped and not self._tail:
            self._count += plain
            return
        for byte in piece:
            (self._within if self._open else self._between)(byte)

    def _within(self, byte: int) -> None:
        """A byte of a string."""
        if self._open != "words":
            self._done.append(byte)
        if self._escaped:
            self._escaped = False
        elif byte == BACKSLASH:
            self._escaped, self._exact = True, False
        elif byte == QUOTE:
            if self._open == "words":
                self._done.append(byte)
            self._open = ""
            return
        elif byte >= 0xC0:
            self._tail = 1 + (byte >= 0xE0) + (byte >= 0xF0)
            self._count += 1
        elif byte >= 0x80:
            self._tail -= 1
        else:
            self._count += 1
        if self._open == "name":
            self._name.append(byte)

    def _between(self, byte: int) -> None:
        """A byte outside of strings."""
        self._done.append(byte)
        inside = self._containers[-1] if self._containers else None
        if byte == QUOTE:
            self._begin()
        elif byte in b"{[":
            self._containers.append(self._next)
            self._next = self._item(self._next)
        elif byte in b"}]":
            self._containers = self._containers[:-1]
            self._next = None
        elif byte == ord(","):
            self._next = self._item(inside)
        elif byte == ord(":"):
            named = {} if inside is None or BACKSLASH in self._name else inside.get("properties", {})
            self._next = named.get(self._name.decode(errors="replace"))

    def _begin(self) -> None:
        """A string opens: a name where an object's next value is not known yet."""
        schema = self._next
        self._count, self._exact, self._escaped, self._tail = 0, True, False, 0
        if schema is None:
            self._open, self._name = "name", bytearray()
        else:
            self._open = "words" if schema.get("type") == "string" and schema.keys() <= LENGTHS else "exact"

    @staticmethod
    def _item(container: Schema | None) -> Schema | None:
        """The schema of an array's items; None in an object, where a name comes first."""
        return None if container is None else container.get("items")
