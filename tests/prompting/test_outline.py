"""Which texts may go on alike."""

from __future__ import annotations

from typing import Any

import pytest

from tgi_stack.prompting.outline import Outline, plain_characters

WORDS = {"type": "string", "minLength": 0, "maxLength": 9}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": WORDS,
        "b": {"enum": ["ab", "cd"]},
        "c": {"type": "array", "items": WORDS},
        "\n": {"enum": ["ab", "cd"]},
        "\\n": WORDS,
    },
}


def key(*pieces: str) -> Any:
    outline = Outline(SCHEMA)
    for piece in pieces:
        outline.add(piece.encode(), plain_characters(piece.encode()))
    return outline.key


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (('{"a":"', "ab"), ('{"a":"c', "d"), True),
        (('{"a":"', "ab"), ('{"a":"', "abc"), False),
        (('{"a":"é',), ('{"a":"e',), True),
        (('{"a":"ab","',), ('{"a":"xyz', '","'), True),
        (('{"a":"a\\"b","',), ('{"a":"x","',), True),
        (('{"b":"a',), ('{"b":"c',), False),
        (('{"b":"ab"',), ('{"b":"cd"',), False),
        (('{"c":["a","b',), ('{"c":["ccc","d',), True),
        (('{"c":["a","b',), ('{"c":["b',), False),
        (('{"\\n":"a',), ('{"\\n":"c',), False),
        (('{"a":1',), ('{"a":2',), False),
    ],
)
def test_texts_of_one_outline(one: tuple[str, ...], other: tuple[str, ...], alike: bool) -> None:
    assert (key(*one) == key(*other)) is alike


def test_a_character_in_parts_has_none() -> None:
    outline = Outline(SCHEMA)
    for piece, known in (
        (b'{"a":"', True),
        (b"\xe2\x82", False),
        (b"\xac", True),
        (b"\\", False),
        (b'"', False),
    ):
        outline.add(piece, plain_characters(piece))
        assert (outline.key is not None) is known
