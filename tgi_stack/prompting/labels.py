"""Labels: the tokens that stand for candidates, proven to be one token in their place.

A label that is not one token can't be read from the next token's distribution; scored anyway it gets
somebody else's probability or none ("10" in a vocabulary that cuts numbers into digits). So each is proven
and a label that fails is an error, never a number.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from functools import lru_cache

from tgi_stack.errors import LabelError
from tgi_stack.prompting.tokenizer import Tokenizer

LETTERS = string.ascii_uppercase + string.ascii_lowercase
PAIRS = tuple(a + b for a in string.ascii_uppercase for b in string.ascii_uppercase)

LONGEST_REMEMBERED = 256  # characters of an ending
REMEMBERED = 10_000  # sets of labels in their places; they are few where prompts end alike

LINE_BREAK = "\n"
MERGES = "label.merges"  # of an error, and of a flag

Ending = tuple[str, tuple[int, ...]]


def default_labels(count: int, tokenizer: Tokenizer, prefix: str = "") -> tuple[str, ...]:
    """The first `count` labels: A-Z and a-z up to 52, from 53 on two-letter capitals alone.

    Only pairs that are one token of the vocabulary are taken (Qwen's has 552); behind a prefix, those that
    are one with it, as far as there are enough.

    Args:
        prefix: what stands before each.

    Raises:
        LabelError: `label.too_many` where the vocabulary has not so many.
    """
    if count < 1:
        raise LabelError("label.none", "there is no candidate to label")
    if count <= len(LETTERS):
        return tuple(prefix + letter for letter in LETTERS[:count])
    pairs = tuple(prefix + pair for pair in PAIRS if len(tokenizer.encode(prefix + pair)) == 1)
    if count > len(pairs):
        pairs = tuple(prefix + pair for pair in PAIRS if len(tokenizer.encode(pair)) == 1)
    if count > len(pairs):
        raise LabelError(
            "label.too_many",
            f"{count} candidates, but this vocabulary has {len(pairs)} two-letter labels; rank in windows",
        )
    return pairs[:count]


def trace(
    labels: Sequence[str],
    prompt: str,
    prompt_ids: Sequence[int],
    tokenizer: Tokenizer,
    *,
    merging: bool = False,
) -> tuple[tuple[int, ...], ...]:
    """The token ids of each label right after the prompt: one or more.

    Args:
        merging: whether a label that merges with the end of the prompt is read as its own tokens there.

    Raises:
        LabelError: `label.duplicate`; `label.merges` where a label is no tokens of its own there;
            `label.prefix` where one label's tokens begin another's, whose probability it would contain.
    """
    if len(set(labels)) != len(labels):
        twice = next(label for label in labels if list(labels).count(label) > 1)
        raise LabelError("label.duplicate", f"label {twice!r} stands twice")
    known = tuple(prompt_ids)
    paths = {_path(label, prompt, known, tokenizer, merging=merging): label for label in labels}
    if len(paths) != len(labels):
        raise LabelError("label.duplicate", "two labels are the same tokens of this vocabulary")
    for path, label in paths.items():
        for end in range(1, len(path)):
            if path[:end] in paths:
                raise LabelError(
                    "label.prefix",
                    f"label {paths[path[:end]]!r} is how label {label!r} begins, and would count it too; "
                    "use labels of which none begins another",
                )
    return tuple(paths)


def _path(
    label: str, prompt: str, prompt_ids: tuple[int, ...], tokenizer: Tokenizer, *, merging: bool
) -> tuple[int, ...]:
    ids = tokenizer.encode(prompt + label)
    if len(ids) > len(prompt_ids) and ids[: len(prompt_ids)] == prompt_ids:
        return ids[len(prompt_ids) :]
    if not label:
        raise LabelError(MERGES, "an empty label can't be read; give each label a text")
    if merging and (own := tokenizer.encode(label)):
        return own
    raise LabelError(MERGES, _merges(label, prompt, prompt_ids, tokenizer))


def _merges(label: str, prompt: str, prompt_ids: tuple[int, ...], tokenizer: Tokenizer) -> str:
    """What is wrong with a label that merges, and what to write instead: only what works here."""
    cures = ["--merging-labels read, which reads its own token there"]
    broken = tokenizer.encode(prompt + "\n")
    if tokenizer.encode(f"{prompt}\n{label}")[: len(broken)] == broken:
        cures.insert(0, "end the prompt with a line break (a space there merges as well)")
    if tokenizer.encode(f"{prompt} {label}")[: len(prompt_ids)] == prompt_ids:
        cures.insert(0, "put a space before each label: --label-prefix ' '")
    return (
        f"label {label!r} can't be read here: it merges with the end of the prompt, {prompt[-12:]!r}; "
        f"{', or '.join(cures)}"
    )


def refuse_several_tokens(labels: Sequence[str], paths: Sequence[Sequence[int]]) -> None:
    """Raises LabelError for a label that is not one token."""
    for label, path in zip(labels, paths, strict=True):
        if len(path) != 1:
            raise LabelError(
                "label.not_one_token",
                f"label {label!r} can't be read as one token here: it is {len(path)} tokens; use other "
                "labels, or an engine that reads several (vllm, torch)",
            )


# -- labels of several tokens --------------------------------------------------------------------------


def branches(paths: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """The prefix tree of labels: after which tokens (none at first) which ones go on."""
    tree: dict[tuple[int, ...], dict[int, None]] = {}
    for path in paths:
        for place, token in enumerate(path):
            tree.setdefault(path[:place], {})[token] = None
    return {prefix: tuple(tokens) for prefix, tokens in tree.items()}


def chained(
    paths: Sequence[tuple[int, ...]], found: Mapping[tuple[int, ...], Mapping[int, float]]
) -> tuple[float, ...]:
    """Each label's logarithm by the chain rule, from the logarithms of the tokens after each prefix."""
    return tuple(math.fsum(found[path[:place]][token] for place, token in enumerate(path)) for path in paths)


# -- TGI's grammars ------------------------------------------------------------------------------------

LADDER = (8, 16, 26, 52, 104, 208, 416, 552)  # sizes of grammars, so that a run needs few of them


def allowed(labels: Sequence[str]) -> int:
    """How many tokens at most a grammar over labels allows: those, and what they begin with."""
    whole = {label.encode() for label in labels}
    return len(whole | {label[:end] for label in whole for end in range(1, len(label))})


@lru_cache(maxsize=1024)
def grammars(labels: tuple[str, ...], alphabet: tuple[str, ...], most: int) -> list[tuple[str, ...]]:
    """The sets of labels to read, each of at most `most` tokens, that together hold `labels`.

    One set where that is possible: of default labels more than were asked for, so that rows of 5 and of 7
    candidates share a grammar. Else groups of the whole alphabet that share its first label.

    Args:
        alphabet: the labels that `labels` begin, or they themselves.

    Returns:
        None of them where `most` is too few for any.
    """
    for size in LADDER:
        if size >= len(labels) and allowed(alphabet[:size]) <= most:
            return [alphabet[:size]]
    groups = _groups(alphabet, most)
    enough = next((end for end, group in enumerate(groups, 1) if labels[-1] in group), len(groups))
    return groups[:enough]


def _groups(alphabet: tuple[str, ...], most: int) -> list[tuple[str, ...]]:
    """The whole alphabet in groups that share its first label; none where two labels are too many."""
    found = [alphabet[:1]]
    for label in alphabet[1:]:
        if allowed((*found[-1], label)) > most:
            found.append(alphabet[:1])
        if allowed((*found[-1], label)) > most:
            return []
        found[-1] += (label,)
    return found


class Prover:
    """Knows the labels of one vocabulary, and proves each set once for prompts that end alike.

    Where the last words of a prompt are cut off from what stands before them, whatever follows (see
    `Tokenizer.encode_with_ending`), the proof depends on those words alone.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[tuple[tuple[str, ...], Ending, bool], tuple[tuple[int, ...], ...]] = {}
        self._defaults: dict[tuple[int, str], tuple[str, ...]] = {}
        self._beginnings: dict[tuple[str, ...], tuple[str, ...]] = {}

    def default(self, count: int, prefix: str = "") -> tuple[str, ...]:
        """See `default_labels`."""
        key = (count, prefix)
        if key not in self._defaults:
            self._defaults[key] = default_labels(count, self._tokenizer, prefix)
        return self._defaults[key]

    def alphabet(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """All default labels of the kind that `labels` are the first of; else themselves."""
        prefix = labels[0].removesuffix(LETTERS[0])
        prefix = "" if prefix.isalnum() else prefix  # two letters are a label of their own
        letters = tuple(prefix + letter for letter in LETTERS)
        if labels == letters[: len(labels)]:
            return letters
        if labels == PAIRS[:1] + labels[1:]:
            pairs = self._pairs()
            return pairs if labels == pairs[: len(labels)] else labels
        return labels

    def _pairs(self) -> tuple[str, ...]:
        if (-1, "") not in self._defaults:
            self._defaults[-1, ""] = tuple(pair for pair in PAIRS if len(self._tokenizer.encode(pair)) == 1)
        return self._defaults[-1, ""]

    def paths(
        self, labels: tuple[str, ...], ending: Ending, whole: Ending | None = None, *, merging: bool = False
    ) -> tuple[tuple[int, ...], ...]:
        """The labels' token ids after a prompt, one or more each.

        Args:
            merging: see `trace`.
            ending: the last words of the prompt, and their ids.
            whole: the prompt itself, for a tokenizer in which its ending alone reads otherwise.

        Raises:
            LabelError: see `trace`.
        """
        key = (labels, ending, merging)
        if len(ending[0]) > LONGEST_REMEMBERED:
            return self._trace(labels, ending, whole, merging=merging)
        if key not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[key] = self._trace(labels, ending, whole, merging=merging)
        return self._known[key]

    def beginnings(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """The texts of the labels' first tokens at the start of a line, each once.

        Together they are at least as likely as the labels. None where a token is no text of its own, or where
        a label can't be read.
        """
        if labels not in self._beginnings:
            if len(self._beginnings) >= REMEMBERED:
                self._beginnings.clear()
            self._beginnings[labels] = self._begin(labels)
        return self._beginnings[labels]

    def _begin(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        start = (LINE_BREAK, self._tokenizer.encode(LINE_BREAK))
        try:
            firsts = tuple(dict.fromkeys(path[0] for path in self.paths(labels, start)))
            texts = tuple(self._tokenizer.decode([id]) for id in firsts)
            return texts if self.paths(texts, start) == tuple((id,) for id in firsts) else ()
        except LabelError:
            return ()

    def merge(self, labels: tuple[str, ...], ending: Ending, whole: Ending | None = None) -> bool:
        """Whether one of the labels merges with the end of the prompt; see `paths`.

        Raises:
            LabelError: see `paths`.
        """
        read = self.paths(labels, ending, whole, merging=True)
        try:
            return self.paths(labels, ending, whole) != read
        except LabelError as error:
            if error.type != MERGES:
                raise
            return True

    def ids(self, labels: tuple[str, ...], ending: Ending, whole: Ending | None = None) -> tuple[int, ...]:
        """The labels' token ids after a prompt, where each has to be one token; see `paths`."""
        paths = self.paths(labels, ending, whole)
        refuse_several_tokens(labels, paths)
        return tuple(path[0] for path in paths)

    def _trace(
        self, labels: tuple[str, ...], ending: Ending, whole: Ending | None, *, merging: bool
    ) -> tuple[tuple[int, ...], ...]:
        try:
            return trace(labels, *ending, self._tokenizer)
        except LabelError as error:
            if whole is None and not (merging and error.type == MERGES):
                raise
            return trace(labels, *(whole or ending), self._tokenizer, merging=merging)
