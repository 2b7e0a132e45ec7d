"""The tiny tokenizer has what code written for Qwen's relies on; the wrapper keeps its promises."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi_stack.errors import MachineError, TextError
from tgi_stack.prompting.labels import PAIRS
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.tiny import TINY

QWEN_NAMES = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
]


def test_has_qwens_added_tokens_in_qwens_order(tokenizer: Tokenizer) -> None:
    by_id = sorted(tokenizer.added_tokens, key=lambda name: tokenizer.added_tokens[name])
    assert by_id == QWEN_NAMES


def test_both_checkpoints_share_one_tokenizer(tokenizer: Tokenizer) -> None:
    assert Tokenizer(TINY / "vision" / "tokenizer.json").digest == tokenizer.digest


@pytest.mark.parametrize("text", [*string.ascii_letters, *string.digits, "yes", "no"])
def test_letters_digits_yes_and_no_are_one_token(tokenizer: Tokenizer, text: str) -> None:
    assert len(tokenizer.encode(text)) == 1


def test_128_pairs_of_capitals_are_one_token(tokenizer: Tokenizer) -> None:
    assert sum(len(tokenizer.encode(pair)) == 1 for pair in PAIRS) >= 128


def test_numbers_are_cut_into_digits(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("10")) == 2


@given(st.text())
def test_any_text_survives(text: str) -> None:
    import unicodedata

    tokenizer = Tokenizer(TINY / "text" / "tokenizer.json")
    harmless = unicodedata.normalize("NFC", tokenizer.harmless(text))
    assert tokenizer.decode(list(tokenizer.encode(harmless))) == harmless


def test_a_lone_surrogate_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(TextError) as caught:
        tokenizer.encode("a\ud800b")
    assert caught.value.type == "text.invalid_unicode"


@pytest.mark.parametrize("text", ["one two three four", "\U0001f469‍\U0001f680" * 9, "x" * 100_000])
@pytest.mark.parametrize("most", [1, 3, 7])
def test_truncation_keeps_the_longest_beginning(tokenizer: Tokenizer, text: str, most: int) -> None:
    short, cut = tokenizer.truncate(text, most)
    assert cut
    assert text.startswith(short)
    assert len(tokenizer.encode(short)) <= most


@pytest.mark.parametrize("difference", [-1, 0, 1])
def test_truncation_at_the_very_length(tokenizer: Tokenizer, difference: int) -> None:
    text = "A red striped mug for hot drinks."
    length = len(tokenizer.encode(text))
    assert tokenizer.truncate(text, length + difference)[1] == (difference < 0)


@pytest.mark.parametrize("content", [b"", b"{}", b"not json"])
def test_a_file_that_is_no_tokenizer_is_named(
    tmp_path: Path, content: bytes, tiny_settings: Callable[..., object]
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(MachineError, match=r"tokenizer\.json"):
        Tokenizer(path)
