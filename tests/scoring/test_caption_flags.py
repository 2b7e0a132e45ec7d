"""What is flagged in a generated text."""

from __future__ import annotations

import pytest

from tgi_stack.scoring.caption_flags import caption_flags, repeats
from tgi_stack.types import Caption


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A red mug for hot drinks.", False),
        ("very very very good", False),
        ("good good good good", True),
        ("It is a mug. " + "for hot drinks " * 4, True),
        ("", False),
    ],
)
def test_repetition(text: str, expected: bool) -> None:
    assert repeats(text) is expected


def test_flags_of_a_caption() -> None:
    assert caption_flags(Caption("A mug.", "stop", "torch", 1, 1)) == ()
    assert caption_flags(Caption("Hm.</think> A mug.", "stop", "chat", 1, 1)) == ("thinking",)
    assert caption_flags(Caption("", "length", "torch", 1, 1)) == ("finish.length", "empty")
