"""Prompts put together from pieces have the ids of the whole, or are taken whole."""

from __future__ import annotations

import json
import logging
import sys
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from tgi_stack.prompting import prompts, rerankers, rules
from tgi_stack.prompting.pieces import FIRST, Pieces, Remembered
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.tiny import TINY

FRAME = prompts.user_turn("", close_thinking=True)
HEAD, TAIL = prompts.user_turn(prompts.IMAGE_MARK, close_thinking=True).split(prompts.IMAGE_MARK)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
ODD_WORDS = [
    *("don't", "we'LL", "'s", "1987", "3.14", "x10", "...", "!?", "--", "- ", "A."),
    *("<think>", "<|im_end|>", "<|", "|>", "{{history}}", "\n", "\r\n", "\t"),
    *("ß", "naïve", "日本語", "العربية"),
    *("\u0301", "e\u0301", "\u1100\u1161", "\u0958", "\U0001d160", "\U0001f469\u200d\U0001f680"),
    *("\u200b", "\u180e", "\xa0", "\u3000", "\x1c", "\x85", "\u2028", "\ufdd0"),
]


def trained(words: str, added: Iterable[AddedToken] = (), normalizer: Any = None, **level: bool) -> Tokenizer:
    """A vocabulary with some hundreds of merges, also of white space with what stands before it."""
    library = Library(BPE())
    library.normalizer = normalizer or normalizers.NFC()
    split = pre_tokenizers.Split(Regex(words), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(**{"add_prefix_space": False, "use_regex": False} | level)
    library.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    lines = [
        f"{mark} {word} {word}s{end}"
        for word in ODD_WORDS
        for mark in "-AB"
        for end in ("\n", ".\n\n", "\n \n")
    ]
    trainer = BpeTrainer(
        vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    library.train_from_iterator(lines * 3, trainer)
    marks = [
        AddedToken(mark, special=True, normalized=False) for mark in ("<|im_start|>", "<|im_end|>", "<think>")
    ]
    library.add_tokens([*marks, *added])
    return Tokenizer.of(library.to_str().encode())


@cache
def vocabularies() -> list[Tokenizer]:
    return [Tokenizer(TINY / "text" / "tokenizer.json"), *map(trained, rules._WORDS)]


words = st.one_of(
    st.sampled_from(ODD_WORDS), st.text(max_size=6), st.from_regex(r"[a-z]{1,8}[.,]?", fullmatch=True)
)
texts = st.lists(words, min_size=1, max_size=6).map(" ".join)
lines = texts.map(prompts.one_line).filter(bool)


def put_together(tokenizer: Tokenizer, pieces: Iterable[str]) -> tuple[int, ...]:
    """What `Pieces` gives, without its own check."""
    return tuple(chain.from_iterable(map(tokenizer.encode, Pieces(tokenizer).cut([HEAD, *pieces, TAIL]))))


def assert_whole(pieces: list[str]) -> None:
    for tokenizer in vocabularies():
        if tokenizer.harmless("".join(pieces)) == "".join(pieces):
            assert put_together(tokenizer, pieces) == tokenizer.encode(HEAD + "".join(pieces) + TAIL)


@given(
    st.lists(lines, max_size=4), st.lists(lines, min_size=1, max_size=5), st.none() | texts, st.none() | texts
)
def test_listwise_pieces_are_the_whole(
    history: list[str], shown: list[str], query: str | None, instruction: str | None
) -> None:
    labels = "ABCDE"[: len(shown)]
    assert_whole(prompts.listwise_body(labels, shown, history=history, query=query, instruction=instruction))


@given(st.lists(lines, min_size=1, max_size=3), texts, lines, st.none() | texts)
def test_pointwise_pieces_are_the_whole(
    history: list[str], query: str, document: str, instruction: str | None
) -> None:
    for wanted in (prompts.history_block(history), [prompts.one_line(query)]):
        for recipe in (rerankers.TEXT, rerankers.VISION):
            assert_whole(recipe.body(wanted, document, instruction))


@given(
    st.lists(st.sampled_from(["{{history}}", "{{candidates}}", *ODD_WORDS, " ", "\n"]) | texts),
    st.lists(lines),
)
def test_pieces_of_templates_are_the_whole(template: list[str], shown: list[str]) -> None:
    values = {
        "history": prompts.history_block(shown),
        "candidates": prompts.candidates_block("A" * len(shown), shown),
    }
    with suppress(KeyError):  # another placeholder, which is refused before the first row
        assert_whole(prompts.fill("".join(template), values))


@given(st.lists(texts | st.sampled_from([" ", "\n", ""])))
def test_any_pieces_are_the_whole(pieces: list[str]) -> None:
    assert_whole(pieces)


@pytest.mark.parametrize("vocabulary", [1, 2])
def test_rules_hold_for_every_character(vocabulary: int) -> None:
    """But letters, private and unassigned ones, of which there are a million."""
    codes = filter(lambda code: unicodedata.category(chr(code))[0] not in "LC", range(sys.maxunicode + 1))
    characters = [*map(chr, codes), *map(chr, range(32)), *"\u200b\u200d\u2060\ufeff\u180e"]
    units = [f"x{character} y\n" for character in characters if not character.isspace()]
    units += [f"\n{unit[1]}" for unit in units]
    library = Library.from_buffer(vocabularies()[vocabulary].content)
    words = library.pre_tokenizer.pre_tokenize_str("".join(units))
    starts = {start for _, (start, _) in words}
    place = 0
    for unit in units:
        assert {place + cut for cut in ((2,) if unit[0] == "x" else (1,))} <= starts, repr(unit)
        place += len(unit)


def test_pieces_are_really_cut() -> None:
    body = prompts.listwise_body("AB", ["Red mug.", "Blue hat."], history=["Red vase."])
    for tokenizer in vocabularies():
        cut = Pieces(tokenizer).cut([HEAD, *body, TAIL])
        assert {"A.", " Red", " mug.\n", "B.", " Blue", "-"} <= set(cut)


def other_rules() -> list[Tokenizer]:
    known = rules._WORDS[0]
    return [
        trained(GPT2),
        trained(known, use_regex=True),
        trained(known, add_prefix_space=True),
        trained(known, normalizer=normalizers.NFKC()),
        trained(known, [AddedToken("red mug", normalized=False)]),
        trained(known, [AddedToken("<x>", normalized=False, lstrip=True)]),
        trained(known, [AddedToken("<x>", normalized=False, rstrip=True)]),
        trained(known, [AddedToken("<x>", normalized=False, single_word=True)]),
        trained(known, [AddedToken("<x>", normalized=True)]),
    ]


@pytest.mark.parametrize("tokenizer", other_rules())
def test_unknown_rules_are_tokenized_whole(tokenizer: Tokenizer) -> None:
    assert not tokenizer.has_qwens_rules
    pieces = Pieces(tokenizer)
    body = [HEAD, *prompts.listwise_body("AB", ["a blue mug", "b"], history=["c"]), TAIL]
    assert pieces.cut(body) == []
    assert pieces.encode_prompt("".join(body), FRAME, ()) == tokenizer.encode("".join(body))


def test_a_model_with_dropout_is_tokenized_whole(tmp_path: Path) -> None:
    content = json.loads((TINY / "text" / "tokenizer.json").read_bytes())
    content["model"]["dropout"] = 0.1
    assert not Tokenizer.of(json.dumps(content).encode()).has_qwens_rules


class Odd(Tokenizer):
    """Tokenizes what is no prompt otherwise than its own rules say."""

    def encode(self, text: str) -> tuple[int, ...]:
        return super().encode(text) + (() if "<|im_end|>" in text else (5,))


def test_pieces_that_differ_end_it(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = Odd(TINY / "text" / "tokenizer.json")
    pieces = Pieces(tokenizer)
    caplog.set_level(logging.WARNING)
    for number in range(3):
        body = [HEAD, *prompts.listwise_body("A", [f"mug {number}"]), TAIL]
        prompt = "".join(body)
        assert pieces.encode_prompt(prompt, FRAME, pieces.cut(body)) == tokenizer.encode(prompt)
    assert [record.message for record in caplog.records] == [
        "token ids put together from pieces differ: prompts are tokenized as a whole"
    ]


def test_later_prompts_are_checked_too(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = Tokenizer(TINY / "text" / "tokenizer.json")
    pieces = Pieces(tokenizer)
    body = [HEAD, *prompts.listwise_body("A", ["mug"]), TAIL]
    prompt = "".join(body)
    for _ in range(FIRST):
        pieces.encode_prompt(prompt, FRAME, pieces.cut(body))
    tokenizer.__class__ = Odd
    changed = [HEAD, *prompts.listwise_body("A", ["cup"]), TAIL]
    found = [pieces.encode_prompt("".join(changed), FRAME, pieces.cut(changed)) for _ in range(256)]
    assert found[-1] == tokenizer.encode("".join(changed))
    assert len(caplog.records) == 1


@given(lines, st.integers(1, 40))
def test_a_line_is_cut_as_ever(line: str, most: int) -> None:
    for tokenizer in vocabularies():
        assert Pieces(tokenizer).truncate(line, most) == tokenizer.truncate(line, most)


@given(texts, st.integers(1, 60))
def test_within_is_never_too_much(text: str, most: int) -> None:
    for tokenizer in vocabularies():
        if tokenizer.is_within(text, most):
            assert len(tokenizer.encode(text)) <= most


@pytest.mark.parametrize("text", ["\U0001d160" * 32, "\u0958" * 60])
def test_a_text_that_nfc_lengthens_is_counted(tokenizer: Tokenizer, text: str) -> None:
    short, cut = tokenizer.truncate(text, 128)
    assert cut
    assert len(tokenizer.encode(short)) <= 128


@given(st.lists(st.integers(0, 30)), st.integers(1, 4000))
def test_what_is_remembered_stays_in_bounds(asked: list[int], most: int) -> None:
    remembered = Remembered(most)
    for number in asked:
        piece = f"piece {number}"
        (ids,) = remembered.all_of([piece])
        assert ids in (None, piece.encode())
        if ids is None:
            remembered.add(piece, piece.encode())
        assert remembered.all_of([piece]) == [piece.encode()]
    known = remembered.all_of([f"piece {number}" for number in range(31)])
    assert sum(ids is not None for ids in known) <= 2 * (most // 250 + 1)
