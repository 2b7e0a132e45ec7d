"""Text to token ids, by a model's own tokenizer.json and nothing else.

The `tokenizers` library alone reads it: no transformers, no code that comes with a model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from tokenizers import Encoding
from tokenizers import Tokenizer as _Tokenizer

from cache.keys import digest
from tgi_stack import lfs
from tgi_stack.errors import CheckpointError, MachineError, TextError
from tgi_stack.prompting import rules
from tgi_stack.prompting.prompts import Neutraliser

ENDING_WORDS = 3
MAX_ENDING = 64  # tokens
FRAMES = 256  # whose control tokens are remembered; images of other sizes have other frames


class Tokenizer:
    """A model's tokenizer.

    Attributes:
        size: the largest id and one.
        digest: SHA-256 of the tokenizer.json it was read from, part of every identity.
        added_tokens: the text of each added token, special or not, with its id.
        harmless: breaks the added tokens that stand in a text.
        content: the bytes of the tokenizer.json.
        longest_token: of the vocabulary, in characters.
        has_qwens_rules: whether it cuts texts into words as Qwen's do, see `rules`.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._load(path.read_bytes(), str(path))
        except OSError as error:
            raise MachineError(f"can't read the tokenizer {path}: {error.strerror}") from error

    @cached_property
    def declared(self) -> dict[str, int]:
        """The ids that the file gives its added tokens; others are read where one before them is missing."""
        text = self.content.decode("utf-8", "replace")
        start = text.find('"added_tokens"')
        opened = text.find("[", start)
        if start < 0 or opened < 0:
            return {}
        try:
            listed, _ = json.JSONDecoder().raw_decode(text, opened)  # not the megabytes behind them
            return {str(token["content"]): int(token["id"]) for token in listed}
        except (ValueError, TypeError, KeyError):
            return {}

    @classmethod
    def of(cls, content: bytes, name: str = "what was kept as a tokenizer") -> Tokenizer:
        """The tokenizer of a tokenizer.json's bytes; `name` is what errors call it."""
        made = cls.__new__(cls)
        made._load(content, name)
        return made

    def _load(self, content: bytes, name: str) -> None:
        if lfs.is_pointer(content):
            raise CheckpointError(lfs.cure(name))
        try:
            self._tokenizer = _Tokenizer.from_buffer(content)
        except Exception as error:  # tokenizers raises bare Exception
            raise MachineError(f"{name} is not a tokenizer.json: {error}") from error
        self.content = content
        # A stored truncation or padding would change prompts silently.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.digest = digest(content)
        added = self._tokenizer.get_added_tokens_decoder()
        self.added_tokens: dict[str, int] = {token.content: id for id, token in added.items()}
        self._added_ids = frozenset(added)
        self.harmless = Neutraliser(self.added_tokens)
        self.has_qwens_rules = rules.are_qwens(self._tokenizer)
        self._framed: dict[str, list[int]] = {}  # the control tokens of frames
        vocabulary = self._tokenizer.get_vocab()
        self.size = max(vocabulary.values(), default=-1) + 1
        self.longest_token = max(map(len, vocabulary), default=1)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Its tokens with their ids, added ones too."""
        found: dict[str, int] = self._tokenizer.get_vocab()
        return found

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a text, nothing added before or after it.

        Raises:
            TextError: `text.invalid_unicode` for a lone surrogate, which no UTF-8 has.
        """
        return tuple(self._encoding(text).ids)

    def _encoding(self, text: str) -> Encoding:
        try:
            return self._tokenizer.encode(text, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError) as error:
            message = "the text holds a lone surrogate; it is not Unicode"
            raise TextError("text.invalid_unicode", message) from error

    def encode_with_ending(self, text: str) -> tuple[tuple[int, ...], tuple[str, tuple[int, ...]]]:
        """The ids of a text, and its last words with theirs: all that depends on what is put behind the text.

        A tokenizer cuts a text into words from left to right, looking no further than one character ahead; so
        text put behind can change the last word, and before it nothing. Three are given; the whole text where
        it has fewer, or where they are long.
        """
        encoding = self._encoding(text)
        ids = tuple(encoding.ids)
        last = encoding.token_to_word(len(ids) - 1) if ids else None
        if last is None:
            return ids, (text, ids)
        for place in range(len(ids) - 2, max(-1, len(ids) - MAX_ENDING), -1):
            stands = encoding.token_to_chars(place + 1)
            if stands is not None and encoding.token_to_word(place) == last - ENDING_WORDS:
                return ids, (text[stands[0] :], ids[place + 1 :])
        return ids, (text, ids)

    def encode_prompt(self, prompt: str, frame: str) -> tuple[int, ...]:
        """The ids of a rendered prompt, proven to hold the control tokens of its frame and no others.

        Args:
            prompt: the prompt as sent.
            frame: the same prompt with an empty body: what the project itself wrote.
        """
        ids = self.encode(prompt)
        self.refuse_controls(ids, frame)
        return ids

    def refuse_controls(self, ids: Iterable[int], frame: str) -> None:
        """Raises TextError for ids of a prompt whose control tokens are not those of its frame."""
        wanted = self._framed.get(frame)
        if wanted is None:
            if len(self._framed) >= FRAMES:
                self._framed.clear()
            wanted = self._framed[frame] = self._controls(self.encode(frame))
        if self._controls(ids) != wanted:
            raise TextError(
                "text.control_token",
                "a control token of the model stands in the text and could not be broken",
            )

    def _controls(self, ids: Iterable[int]) -> list[int]:
        return sorted(filter(self._added_ids.__contains__, ids))

    def decode(self, ids: list[int]) -> str:
        """The text of ids, control tokens left out."""
        plain = [id for id in ids if id not in self._added_ids]
        return str(self._tokenizer.decode(plain, skip_special_tokens=True))

    def truncate(self, text: str, max_tokens: int) -> tuple[str, bool]:
        """The longest beginning of a text that is at most `max_tokens` tokens, and whether it was cut.

        The text is made harmless first, since that is how it will be counted and sent.

        Takes time in proportion to `max_tokens`, however long the text.
        """
        text = self.harmless(text)
        if self.is_within(text, max_tokens):
            return text, False
        head = text[: max_tokens * self.longest_token]
        offsets = self._encoding(head).offsets
        if len(offsets) <= max_tokens and len(head) == len(text):
            return text, False
        cut = offsets[max_tokens][0] if len(offsets) > max_tokens else len(head)
        return head[:cut].rstrip(), True

    def is_within(self, text: str, most: int) -> bool:
        """Whether a text is known to be at most so many tokens, without tokenizing it."""
        return self.has_qwens_rules and len(text) <= most and rules.most_tokens(text) <= most
