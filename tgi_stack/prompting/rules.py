"""Which texts a tokenizer's rules let be cut into pieces whose ids are those of the whole.

A tokenizer with Qwen's rules brings a text into NFC, cuts it into words by one regular expression, and looks
each word up alone. The expression looks at nothing before a word and at one character behind it. By it a
space begins a word or stands among white space; a line break ends a word or stands among white space. NFC
joins nothing to either. So a text may be cut

- before a space that follows a character that is no white space, and
- behind a line break that is followed by a character that is no white space,

and the ids of the pieces are those of the whole, where no added token holds white space or takes some along.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = (
    # Qwen2, Qwen2.5, Qwen3 and their models for images.
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES,
    # Qwen3.5: a mark belongs to the letter before it.
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _SPACES,
)
MOST_LONGER = 3  # times as many bytes has a text in NFC at most (Unicode Standard Annex 15)


def are_qwens(tokenizer: Tokenizer) -> bool:
    """Whether what is said above holds for a tokenizer; each of its tokens is then a byte of NFC at least."""
    normalizer, words, model = _said(tokenizer.normalizer), _said(tokenizer.pre_tokenizer), tokenizer.model
    if normalizer not in (None, {"type": "NFC"}) or words is None or words["type"] != "Sequence":
        return False
    if not isinstance(model, BPE) or model.dropout or model.continuing_subword_prefix:
        return False
    if model.end_of_word_suffix or not _cut_words(words["pretokenizers"]):
        return False
    return all(
        token.content.split() == [token.content]
        and not (token.normalized or token.lstrip or token.rstrip or token.single_word)
        for token in tokenizer.get_added_tokens_decoder().values()
    )


def _said(part: Any) -> Any:
    """What the tokenizer.json says of a part; None where it has none."""
    return None if part is None else json.loads(part.__getstate__())


def _cut_words(parts: Sequence[Any]) -> bool:
    if [part["type"] for part in parts] != ["Split", "ByteLevel"]:
        return False
    split, level = parts
    known = split["pattern"].get("Regex") in _WORDS
    return (
        known
        and split["behavior"] == "Isolated"
        and not (split["invert"] or level["add_prefix_space"] or level["use_regex"])
    )


def may_cut(before: str, after: str) -> bool:
    """Whether a text may be cut between two of its parts, neither of them empty."""
    last, first = before[-1], after[0]
    return (first == " " and not last.isspace()) or (last == "\n" and not first.isspace())


def most_tokens(text: str) -> int:
    """How many tokens a text has at most by these rules."""
    return len(text) if text.isascii() else MOST_LONGER * len(text.encode("utf-8", "surrogatepass"))
