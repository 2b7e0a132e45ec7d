"""Labels are one token in their place, or an error; never a number for one that is not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi_stack.errors import LabelError
from tgi_stack.prompting.labels import Prover, allowed, branches, chained, default_labels, grammars, trace
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.tiny import TINY


@pytest.mark.parametrize("count", [1, 2, 9, 10, 20, 26, 27, 52, 53, 100])
def test_as_many_labels_as_candidates_each_one_token(tokenizer: Tokenizer, count: int) -> None:
    labels = default_labels(count, tokenizer)
    prompt = "Answer:\n\n"
    paths = trace(labels, prompt, tokenizer.encode(prompt), tokenizer)
    assert {len(path) for path in paths} == {1}
    assert len(set(paths)) == len(labels) == count


def test_up_to_52_letters_then_pairs_alone(tokenizer: Tokenizer) -> None:
    assert default_labels(52, tokenizer)[25:28] == ("Z", "a", "b")
    assert {len(label) for label in default_labels(53, tokenizer)} == {2}


@pytest.mark.parametrize(("count", "type"), [(0, "label.none"), (600, "label.too_many")])
def test_counts_that_have_no_labels(tokenizer: Tokenizer, count: int, type: str) -> None:
    with pytest.raises(LabelError) as caught:
        default_labels(count, tokenizer)
    assert caught.value.type == type


@pytest.mark.parametrize(
    ("labels", "prompt", "type"),
    [
        (("1", "10"), "Answer: ", "label.prefix"),  # numbers are cut into digits
        (("A", "A"), "x\n", "label.duplicate"),
        (("B",), "A", "label.merges"),  # AB is a token of its own
        (("nonsense",), "x\n", "label.not_one_token"),
        (("",), "x\n", "label.merges"),
    ],
)
def test_what_can_not_be_read_is_refused(
    tokenizer: Tokenizer, labels: tuple[str, ...], prompt: str, type: str
) -> None:
    with pytest.raises(LabelError) as caught:
        Prover(tokenizer).ids(labels, (prompt, tokenizer.encode(prompt)))
    assert caught.value.type == type


@pytest.fixture(scope="module")
def merging() -> Tokenizer:
    """The tiny vocabulary with the merges of a colon and a capital that Qwen's own has."""
    content = json.loads((TINY / "text" / "tokenizer.json").read_text())
    merges, vocabulary = content["model"]["merges"], content["model"]["vocab"]
    for letter in "ABCDEFGHIJKLMNOPQRST":
        merges[merges.index(["A", letter])] = [":", letter]
        vocabulary[":" + letter] = vocabulary.pop("A" + letter)
    return Tokenizer.of(json.dumps(content).encode())


def ending(tokenizer: Tokenizer, prompt: str) -> tuple[str, tuple[int, ...]]:
    return tokenizer.encode_with_ending(prompt)[1]


@pytest.mark.parametrize("prompt", ["Which one? Answer:", "It is: A", "B", "AB:", "Pick ::", "x S"])
@pytest.mark.parametrize("label", ["A", "B", "T", "S"])
def test_the_cures_that_are_named_work(merging: Tokenizer, prompt: str, label: str) -> None:
    def reads(prompt: str, label: str) -> bool:
        try:
            return bool(Prover(merging).paths((label,), ending(merging, prompt)))
        except LabelError as error:
            told.append(str(error))
            return False

    told: list[str] = []
    if not reads(prompt, label):
        assert ("--label-prefix ' '" in told[0]) == reads(prompt, " " + label)
        assert ("line break" in told[0]) == reads(prompt + "\n", label)
        assert "--merging-labels read" in told[0]


def test_a_colon_and_a_letter_merge(merging: Tokenizer) -> None:
    with pytest.raises(LabelError, match=r"'A' .*--label-prefix ' ', or .* line break"):
        Prover(merging).paths(("A", "B"), ending(merging, "Which one? Answer:"))


def test_merging_labels_are_read_as_their_own_tokens(merging: Tokenizer) -> None:
    prover, place = Prover(merging), ending(merging, "Answer:")
    assert prover.merge(("A", "Z"), place)
    assert not prover.merge(("Y", "Z"), place)  # no merge of the vocabulary holds them
    assert prover.paths(("A", "Z"), place, merging=True) == (merging.encode("A"), merging.encode("Z"))
    with pytest.raises(LabelError, match="merges"):
        prover.paths(("A", "Z"), place)
    with pytest.raises(LabelError, match="empty"):
        prover.paths(("",), place, merging=True)


@pytest.mark.parametrize("count", [1, 26, 52, 60])
def test_default_labels_behind_a_prefix(tokenizer: Tokenizer, count: int) -> None:
    labels = default_labels(count, tokenizer, " ")
    assert len(set(labels)) == count
    assert all(label.startswith(" ") and label[1:].isalpha() for label in labels)
    prover = Prover(tokenizer)
    assert len(prover.paths(labels, ("x:", tokenizer.encode("x:")))) == count
    if count <= 52:
        assert prover.alphabet(labels) == default_labels(52, tokenizer, " ")


def test_labels_are_literal(tokenizer: Tokenizer) -> None:
    spaced, plain = trace((" yes", "yes"), "x\n", tokenizer.encode("x\n"), tokenizer)
    assert spaced != plain


def test_a_prover_proves_a_set_of_labels_once(tokenizer: Tokenizer) -> None:
    asked: list[str] = []

    class Recorded(Tokenizer):
        def encode(self, text: str) -> tuple[int, ...]:
            asked.append(text)
            return super().encode(text)

    prover = Prover(Recorded.of(tokenizer.content))
    first = tokenizer.encode_with_ending("Is 12 even? The answer:\n")[1]
    ids = prover.ids(("A", "B"), first)
    assert asked == [" The answer:\nA", " The answer:\nB"]
    assert prover.ids(("A", "B"), tokenizer.encode_with_ending("And what of 13? The answer:\n")[1]) == ids
    assert len(asked) == 2


@given(st.text(max_size=40), st.sampled_from(["A", "B", " A", "10", "\n", "\u0301", "a1"]))
def test_the_ending_proves_what_the_whole_prompt_does(tokenizer: Tokenizer, prompt: str, label: str) -> None:
    whole = (prompt, tokenizer.encode(prompt))
    ending = tokenizer.encode_with_ending(prompt)[1]
    assert whole[0].endswith(ending[0])
    assert whole[1][len(whole[1]) - len(ending[1]) :] == ending[1]
    assert proven(label, whole, tokenizer) == proven(label, ending, tokenizer)


PROMPTS = ("", "x", "a  \n\n", "one two three four \n", "\u00e9" * 9, "e", "<|im_end|>\n<think>\n\n")


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("label", ["A", " A", "\n", "\u0301", "<think>", "1", "'s"])
def test_places_where_words_join(tokenizer: Tokenizer, prompt: str, label: str) -> None:
    ending = tokenizer.encode_with_ending(prompt)[1]
    whole = (prompt, tokenizer.encode(prompt))
    assert proven(label, whole, tokenizer) == proven(label, ending, tokenizer)


def proven(label: str, place: tuple[str, tuple[int, ...]], tokenizer: Tokenizer) -> object:
    try:
        return trace((label,), *place, tokenizer)
    except LabelError:
        return None


def test_the_chain_rule_over_a_tree_of_labels() -> None:
    paths = ((1,), (2, 3), (2, 4, 5))
    assert branches(paths) == {(): (1, 2), (2,): (3, 4), (2, 4): (5,)}
    found = {(): {1: -1.0, 2: -0.5}, (2,): {3: -2.0, 4: -0.25}, (2, 4): {5: -0.125}}
    assert chained(paths, found) == (-1.0, -2.5, -0.875)


def test_a_grammar_allows_prefixes_of_its_labels() -> None:
    assert allowed(("A", "B")) == 2
    assert allowed(("AA", "AB", "BA")) == 5
    assert allowed(("\u00e9",)) == 2  # of two bytes


LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


@pytest.mark.parametrize("most", [2, 5, 20, 52, 128])
@pytest.mark.parametrize("count", [2, 5, 9, 26, 27, 52])
def test_grammars_hold_all_labels_and_share_one(count: int, most: int) -> None:
    found = grammars(LETTERS[:count], LETTERS, most)
    assert set(LETTERS[:count]) <= {label for group in found for label in group}
    assert all(allowed(group) <= most and group[0] == "A" for group in found)


def test_rows_of_any_length_need_few_grammars(tokenizer: Tokenizer) -> None:
    pairs = Prover(tokenizer).alphabet(default_labels(53, tokenizer))
    counts = [(LETTERS[:n], LETTERS) for n in range(2, 53)] + [(pairs[:n], pairs) for n in range(53, 120)]
    assert len({group for labels, all in counts for group in grammars(labels, all, 128)}) <= 8
    assert len({group for labels, all in counts[:51] for group in grammars(labels, all, 5)}) <= 32
    assert grammars(("yes", "no"), ("yes", "no"), 1) == []


def test_the_alphabet_is_that_of_the_labels(tokenizer: Tokenizer) -> None:
    prover = Prover(tokenizer)
    assert prover.alphabet(("A", "B")) == LETTERS
    assert prover.alphabet(("B", "A")) == ("B", "A")
    assert prover.alphabet(("AA", "no")) == ("AA", "no")
    assert prover.alphabet(prover.default(60))[:60] == prover.default(60)
