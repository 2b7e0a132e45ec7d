"""Token ids of prompts, put together from those of their pieces: an item is tokenized once, not once a row.

`rules` says where a prompt may be cut. The first prompts, and some of the others, are tokenized as a whole
too; where the ids differ, all further prompts are.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Sequence
from itertools import islice

from tgi_stack.prompting.prompts import words_of
from tgi_stack.prompting.rules import may_cut, most_tokens
from tgi_stack.prompting.tokenizer import Tokenizer

LOG = logging.getLogger(__name__)

FIRST, EACH = 8, 256  # prompts that are checked, and of the others one of so many
REMEMBERED = 12 * 2**20  # bytes, in each of two generations
ID_BYTES = 4
OVERHEAD = 250  # bytes of an entry besides its text and its ids, about
LONG = 16  # characters a token that is allowed; longer lines are mostly cut, so that their ids are no use

Ids = tuple[int, ...]


class Remembered:
    """Ids of pieces, four bytes each; what was not asked for lately goes.

    Args:
        most: bytes in each of two generations.
    """

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._held = 0
        self._young: dict[str, bytes] = {}
        self._old: dict[str, bytes] = {}

    def all_of(self, pieces: Sequence[str]) -> list[bytes | None]:
        """The ids of each piece; None for one that is not known."""
        found = list(map(self._young.get, pieces))
        if self._old and None in found:
            for place, piece in enumerate(pieces):
                if found[place] is None and (ids := self._old.get(piece)) is not None:
                    self.add(piece, ids)
                    found[place] = ids
        return found

    def add(self, piece: str, ids: bytes) -> None:
        """Notes a piece."""
        if self._held >= self._most:
            self._old, self._young, self._held = self._young, {}, 0
        self._young[piece] = ids
        self._held += OVERHEAD + len(piece) + len(ids)


class Pieces:
    """Puts the ids of prompts together, for one tokenizer. Not safe among threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._trusted = tokenizer.has_qwens_rules
        self._remembered = Remembered()
        self._count = 0

    def cut(self, pieces: Sequence[str]) -> list[str]:
        """The pieces, joined where the rules don't let a prompt be cut; one or none is to be taken whole."""
        if not self._trusted:
            return []
        whole = list(filter(None, pieces))
        found = whole[:1]
        for piece in islice(whole, 1, None):
            if may_cut(found[-1], piece):
                found.append(piece)
            else:
                found[-1] += piece
        return found

    def knows(self, pieces: Sequence[str]) -> bool:
        """Whether all of a prompt's pieces are remembered."""
        return len(pieces) > 1 and None not in self._remembered.all_of(pieces)

    def encode_prompt(self, prompt: str, frame: str, pieces: Sequence[str]) -> Ids:
        """The ids of a prompt.

        Args:
            pieces: what `cut` gave, which joined are the prompt.

        Raises:
            TextError: see `Tokenizer.encode_prompt`.
        """
        if len(pieces) < 2 or not self._trusted:
            return self._tokenizer.encode_prompt(prompt, frame)
        ids = tuple(array("I", b"".join(self._ids(pieces))))
        self._count += 1
        if (self._count <= FIRST or self._count % EACH == 0) and ids != self._tokenizer.encode(prompt):
            self._trusted = False
            LOG.warning("token ids put together from pieces differ: prompts are tokenized as a whole")
            return self._tokenizer.encode_prompt(prompt, frame)
        self._tokenizer.refuse_controls(ids, frame)
        return ids

    def _ids(self, pieces: Sequence[str]) -> list[bytes]:
        found = self._remembered.all_of(pieces)
        return [
            self._tokenized(piece) if ids is None else ids for piece, ids in zip(pieces, found, strict=True)
        ]

    def _tokenized(self, piece: str) -> bytes:
        ids = array("I", self._tokenizer.encode(piece)).tobytes()
        self._remembered.add(piece, ids)
        return ids

    def truncate(self, line: str, max_tokens: int) -> tuple[str, bool]:
        """`Tokenizer.truncate` of one line, mostly told by ids that prompts with this line need anyway."""
        text = self._tokenizer.harmless(line)
        if self._trusted and len(text) <= LONG * max_tokens and self._is_within(text, max_tokens):
            return text, False
        return self._tokenizer.truncate(text, max_tokens)

    def _is_within(self, text: str, most: int) -> bool:
        """Whether a line is at most so many tokens; False where that is not certain."""
        if most_tokens(text) <= most:
            return True
        if " ".join(text.split()) != text:  # its spaces are no places to cut
            return False
        head, *last = words_of(text)
        # Behind a space the first word may be fewer tokens than it is alone.
        other = most_tokens(text.partition(" ")[0]) + sum(map(most_tokens, last))
        return len(self._ids([head])[0]) // ID_BYTES + other <= most
