"""Labels: the tokens that stand for candidates, proven to be one token in their place.

A label that is not one token can't be read from the next token's distribution; scored anyway it gets
somebody else's probability or none ("10" in a vocabulary that cuts numbers into digits). So each is proven
and a label that fails is an error, never a number.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence

from tgi_stack.errors import LabelError

LETTERS = string.ascii_uppercase + string.ascii_lowercase
PAIRS = tuple(a + b for a in string.ascii_uppercase for b in string.ascii_uppercase)

LONGEST_REMEMBERED = 256  # characters of an ending
REMEMBERED = 10_000  # sets of labels in their places; they are few where prompts end alike

Encode = Callable[[str], tuple[int, ...]]
Ending = tuple[str, tuple[int, ...]]


def default_labels(count: int, encode: Encode) -> tuple[str, ...]:
    """The first `count` labels: A-Z and a-z up to 52, from 53 on two-letter capitals alone.

    Only pairs that are one token of the vocabulary are taken (Qwen's has 552).

    Raises:
        LabelError: `label.too_many` where the vocabulary has not so many.
    """
    if count < 1:
        raise LabelError("label.none", "there is no candidate to label")
    if count <= len(LETTERS):
        return tuple(LETTERS[:count])
    pairs = tuple(pair for pair in PAIRS if len(encode(pair)) == 1)
    if count > len(pairs):
        raise LabelError(
            "label.too_many",
            f"{count} candidates, but this vocabulary has {len(pairs)} two-letter labels; rank in windows",
        )
    return pairs[:count]


def prove(labels: Sequence[str], prompt: str, prompt_ids: Sequence[int], encode: Encode) -> tuple[int, ...]:
    """The token id of each label right after the prompt.

    Raises:
        LabelError: `label.duplicate`; `label.not_one_token` where the ids of prompt + label are not the
            ids of the prompt and one more.
    """
    if len(set(labels)) != len(labels):
        twice = next(label for label in labels if list(labels).count(label) > 1)
        raise LabelError("label.duplicate", f"label {twice!r} stands twice")
    ids = tuple(_prove_one(label, prompt, tuple(prompt_ids), encode) for label in labels)
    if len(set(ids)) != len(ids):
        raise LabelError("label.duplicate", "two labels are the same token of this vocabulary")
    return ids


def _prove_one(label: str, prompt: str, prompt_ids: tuple[int, ...], encode: Encode) -> int:
    ids = encode(prompt + label)
    if len(ids) == len(prompt_ids) + 1 and ids[:-1] == prompt_ids:
        return ids[-1]
    alone = len(encode(label))
    where = "it merges with the end of the prompt" if alone == 1 else f"it is {alone} tokens"
    raise LabelError(
        "label.not_one_token", f"label {label!r} can't be read as one token here: {where}; use other labels"
    )


class Prover:
    """Knows the labels of one vocabulary, and proves each set once for prompts that end alike.

    Where the last words of a prompt are cut off from what stands before them, whatever follows (see
    `Tokenizer.encode_with_ending`), the proof depends on those words alone.
    """

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._known: dict[tuple[tuple[str, ...], Ending], tuple[int, ...]] = {}
        self._defaults: dict[int, tuple[str, ...]] = {}

    def default(self, count: int) -> tuple[str, ...]:
        """See `default_labels`."""
        if count not in self._defaults:
            self._defaults[count] = default_labels(count, self._encode)
        return self._defaults[count]

    def ids(self, labels: tuple[str, ...], ending: Ending, whole: Ending | None = None) -> tuple[int, ...]:
        """The labels' token ids after a prompt.

        Args:
            ending: the last words of the prompt, and their ids.
            whole: the prompt itself, for a tokenizer in which its ending alone reads otherwise.

        Raises:
            LabelError: see `prove`.
        """
        key = (labels, ending)
        if len(ending[0]) > LONGEST_REMEMBERED:
            return self._prove(labels, ending, whole)
        if key not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[key] = self._prove(labels, ending, whole)
        return self._known[key]

    def _prove(self, labels: tuple[str, ...], ending: Ending, whole: Ending | None) -> tuple[int, ...]:
        try:
            return prove(labels, *ending, self._encode)
        except LabelError:
            if whole is None:
                raise
            return prove(labels, *whole, self._encode)
