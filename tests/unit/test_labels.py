"""Labels are one token in their place, or an error; never a number for one that is not."""

from __future__ import annotations

import pytest

from tgi_stack.errors import LabelError
from tgi_stack.labels import Prover, default_labels, prove
from tgi_stack.tokens import Tokenizer


@pytest.mark.parametrize("count", [1, 2, 9, 10, 20, 26, 27, 52, 53, 100])
def test_as_many_labels_as_candidates_each_one_token(tokenizer: Tokenizer, count: int) -> None:
    labels = default_labels(count, tokenizer.encode)
    prompt = "Answer:\n\n"
    ids = prove(labels, prompt, tokenizer.encode(prompt), tokenizer.encode)
    assert len(set(ids)) == len(labels) == count


def test_up_to_52_are_letters_and_from_53_on_pairs_alone(tokenizer: Tokenizer) -> None:
    assert default_labels(52, tokenizer.encode)[25:28] == ("Z", "a", "b")
    assert {len(label) for label in default_labels(53, tokenizer.encode)} == {2}


@pytest.mark.parametrize(("count", "type"), [(0, "label.none"), (600, "label.too_many")])
def test_counts_that_have_no_labels(tokenizer: Tokenizer, count: int, type: str) -> None:
    with pytest.raises(LabelError) as caught:
        default_labels(count, tokenizer.encode)
    assert caught.value.type == type


@pytest.mark.parametrize(
    ("labels", "prompt", "type"),
    [
        (("1", "10"), "Answer: ", "label.not_one_token"),  # numbers are cut into digits
        (("A", "A"), "x\n", "label.duplicate"),
        (("B",), "A", "label.not_one_token"),  # AB is a token of its own
        (("nonsense",), "x\n", "label.not_one_token"),
        (("",), "x\n", "label.not_one_token"),
    ],
)
def test_what_can_not_be_read_is_refused(
    tokenizer: Tokenizer, labels: tuple[str, ...], prompt: str, type: str
) -> None:
    with pytest.raises(LabelError) as caught:
        prove(labels, prompt, tokenizer.encode(prompt), tokenizer.encode)
    assert caught.value.type == type


def test_labels_are_literal(tokenizer: Tokenizer) -> None:
    spaced, plain = prove((" yes", "yes"), "x\n", tokenizer.encode("x\n"), tokenizer.encode)
    assert spaced != plain


def test_a_prover_proves_a_set_of_labels_once(tokenizer: Tokenizer) -> None:
    asked: list[str] = []

    def encode(text: str) -> tuple[int, ...]:
        asked.append(text)
        return tokenizer.encode(text)

    prover = Prover("<|im_end|>\n", encode)
    first = prover.ids(("A", "B"))
    count = len(asked)
    assert prover.ids(("A", "B")) == first
    assert len(asked) == count
