"""Trains the byte-level BPE tokenizer that both `tiny` checkpoints share.

It has what code written for Qwen's tokenizer relies on: the same pre-tokenizer, the same added tokens
in the same order (special or not, as Qwen flags them), single tokens for each letter, digit, `yes`, `no`
and 208 two-letter capitals, and, since numbers are cut into digits, no token "10".
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from session_data import BRANDS, SENTENCES
from tgi_stack.prompting import prompts
from tiny_world import all_looks, summary, title

# Names and flags as in Qwen3's tokenizer: (text, special).
ADDED_TOKENS: tuple[tuple[str, bool], ...] = (
    ("<|endoftext|>", True),
    ("<|im_start|>", True),
    ("<|im_end|>", True),
    ("<|object_ref_start|>", True),
    ("<|object_ref_end|>", True),
    ("<|box_start|>", True),
    ("<|box_end|>", True),
    ("<|quad_start|>", True),
    ("<|quad_end|>", True),
    ("<|vision_start|>", True),
    ("<|vision_end|>", True),
    ("<|vision_pad|>", True),
    ("<|image_pad|>", True),
    ("<|video_pad|>", True),
    ("<tool_call>", False),
    ("</tool_call>", False),
    ("<|fim_prefix|>", False),
    ("<|fim_middle|>", False),
    ("<|fim_suffix|>", False),
    ("<|fim_pad|>", False),
    ("<|repo_name|>", False),
    ("<|file_sep|>", False),
    ("<tool_response>", False),
    ("</tool_response>", False),
    ("<think>", False),
    ("</think>", False),
)
PAIRS: tuple[str, ...] = tuple(a + b for a in "ABCDEFGH" for b in string.ascii_uppercase)
MAX_MERGES = 1024

# Cuts before letters, single digits and punctuation, as Qwen2 and later do.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build() -> Tokenizer:
    """The trained tokenizer; the same bytes each time."""
    tokenizer = _bare()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + MAX_MERGES,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer = Tokenizer.from_str(json.dumps(_with_pairs(json.loads(tokenizer.to_str()))))
    for text, special in ADDED_TOKENS:
        token = AddedToken(text, special=special, normalized=False)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
    return tokenizer


def _bare() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _corpus() -> list[str]:
    """What the checkpoints read and write: summaries, titles, sentences, prompts; yes and no."""
    texts = [text for look in all_looks() for text in (summary(look), title(look))]
    texts += [f"{brand} {title(look)}" for brand in BRANDS for look in all_looks()[::9]]
    texts += SENTENCES * 50
    bodies = [
        prompts.listwise_body(["A"], ["x"], history=["y"]),
        prompts.listwise_body(["A"], ["x"], query="y"),
    ]
    texts += [*map("".join, bodies), prompts.summary_body("a", "b")] * 200
    texts += ["user", "assistant", "system"] * 200
    return texts + ["yes", "no", " yes", " no", "Yes", "No"] * 200


def _with_pairs(state: dict[str, Any]) -> dict[str, Any]:
    """Adds the two-letter capitals as the last merges, so that they change no other word."""
    model = state["model"]
    for pair in PAIRS:
        if pair not in model["vocab"]:
            model["vocab"][pair] = len(model["vocab"])
            model["merges"].append([pair[0], pair[1]])
    return state


def save(folder: Path) -> Tokenizer:
    """Writes tokenizer.json into `folder` and gives the tokenizer back."""
    tokenizer = build()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def id_of(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that the vocabulary holds."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise SystemExit(f"the vocabulary lacks {token!r}")
    return int(found)
