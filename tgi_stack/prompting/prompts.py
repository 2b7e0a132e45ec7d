"""From an item to the exact string a model reads.

Prompts are ChatML strings that this module writes itself; no template that comes with a model is ever
run. Everything that a user, a data set or a prompt file contributes is the *body* of one user turn and is
made harmless (`harmless`) before it is wrapped, so that the only control tokens in a prompt are the ones
written here.

`VERSION` is part of every cache key: raise it with any change that alters a rendered prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any

from tgi_stack.errors import PromptFileError, TextError
from tgi_stack.types import Item

VERSION = 3

Words = tuple[str, ...]  # of a line, in pieces; see `words_of` and `in_list`

TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
IMAGE_PAD = "<|image_pad|>"
VIDEO_PAD = "<|video_pad|>"
CLOSED_THINKING = "<think>\n\n</think>\n\n"

ZERO_WIDTH_SPACE = "\u200b"
REPLACEMENT = "\ufffd"
IMAGE_MARK = "\ufdd0"  # where an image stands in a body; a code point that no text may hold

SUMMARY_INSTRUCTION = (
    "Summarise this product in one sentence: what it is, what it is for, where it is used and "
    "what its buyer wants. Leave out low-level visual detail."
)
RERANK_INSTRUCTION = "Find the candidate that this shopper is most likely to want next."

NO_CONTENT = "N/A"  # what stands where content would, to see what a prompt alone makes likely

SUMMARY_PLACEHOLDERS = frozenset({"title", "text"})
RERANK_PLACEHOLDERS = frozenset({"history", "candidates"})

_PLACEHOLDER = re.compile(r"\{\{\s*(.*?)\s*\}\}", re.DOTALL)


# -- making text harmless ------------------------------------------------------------------------------


class Neutraliser:
    """Breaks every added token of a vocabulary that stands in a text, so that it is read as plain bytes.

    Tokenizers match added tokens (`<|im_end|>`, but also `<think>` and `<tool_call>`, which are not flagged
    special) anywhere in a string, on the servers too. A zero-width space after the first character keeps the
    text readable and takes the match away. A token of one character can't be broken and is replaced by
    U+FFFD. Markdown images are broken alike: TGI fetches the address in `![](address)`.
    """

    def __init__(self, added_tokens: Iterable[str]) -> None:
        tokens = sorted({t for t in added_tokens if t}, key=lambda t: (-len(t), t))
        self._match = re.compile("|".join(map(re.escape, tokens))) if tokens else None
        self._first = {token[0] for token in tokens}

    def __call__(self, text: str) -> str:
        """The text with no added token left in it; unchanged where there was none."""
        text = text.replace("![", f"!{ZERO_WIDTH_SPACE}[")
        if self._match is None or not any(first in text for first in self._first):  # most texts
            return text
        # Breaking one token can expose another that overlapped it, so look again until none is left.
        while self._match.search(text):
            text = self._match.sub(_break_token, text)
        return text


def _break_token(match: re.Match[str]) -> str:
    token = match[0]
    return REPLACEMENT if len(token) == 1 else token[0] + ZERO_WIDTH_SPACE + token[1:]


# -- the frame: ChatML ---------------------------------------------------------------------------------


def user_turn(body: str, *, close_thinking: bool, system: str = "") -> str:
    """One user turn and the opening of the answer; `body` must be harmless already.

    `close_thinking` writes the empty thinking block that hybrid Qwen3 models expect where they are not to
    think, so that the next token is the answer's first.
    """
    answer = CLOSED_THINKING if close_thinking else ""
    before = f"{TURN_START}system\n{system}{TURN_END}\n" if system else ""
    return f"{before}{TURN_START}user\n{body}{TURN_END}\n{TURN_START}assistant\n{answer}"


def image_turn(body: str, *, image_tokens: int, close_thinking: bool) -> str:
    """A user turn that begins with one image of `image_tokens` visual tokens."""
    return user_turn(place_images(IMAGE_MARK + body, [image_tokens]), close_thinking=close_thinking)


def place_images(body: str, visual: Sequence[int]) -> str:
    """A harmless body with its image marks replaced, each by so many visual tokens (as Qwen-VL renders it).

    Raises:
        ValueError: not as many marks as images.
    """
    texts = body.split(IMAGE_MARK)
    if len(texts) != len(visual) + 1:
        raise ValueError(f"{len(texts) - 1} places for {len(visual)} images")
    images = [f"{VISION_START}{IMAGE_PAD * tokens}{VISION_END}" for tokens in visual]
    return texts[0] + "".join(image + text for image, text in zip(images, texts[1:], strict=True))


# -- bodies --------------------------------------------------------------------------------------------


def summary_body(
    title: str | None, text: str | None, *, instruction: str | None = None, template: str | None = None
) -> str:
    """What is asked about an image: what is known of the item, then the instruction."""
    title, text = one_line(title), one_line(text)
    if template is not None:
        return "".join(fill(template, {"title": [title], "text": [text]}))
    known = [f"{name}: {line}" for name, line in (("Title", title), ("Description", text)) if line]
    return "\n".join([*known, instruction or SUMMARY_INSTRUCTION])


def item_text(item: Item, fields: Sequence[str], *, alone: bool = False) -> str:
    """An item in one line: its fields in the order asked for, missing ones skipped, each a sentence.

    Args:
        alone: whether the only field that is there stays as it is, without a full stop of ours.
    """
    data = json.loads(item.data) if item.data and any(map(is_of_data, fields)) else {}
    found = (_in_words(_at(data, field)) if is_of_data(field) else getattr(item, field) for field in fields)
    sentences = [line for line in map(one_line, found) if line]
    if alone and len(sentences) == 1:
        return sentences[0]
    return " ".join(s if s.endswith((".", "!", "?")) else s + "." for s in sentences)


def is_of_data(field: str) -> bool:
    """Whether a field names a place in an item's `data`, such as `data.category`."""
    return field.startswith("data.")


def _at(data: Any, field: str) -> Any:
    """The value at a place, or None."""
    for name in field.split(".")[1:]:
        data = data.get(name) if isinstance(data, dict) else None
    return data


def _in_words(value: Any) -> str | None:
    """A value as it is read in a line: of lists and objects what they hold, between commas."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list | dict):
        inner = value.values() if isinstance(value, dict) else value
        return ", ".join(filter(None, map(_in_words, inner)))
    return json.dumps(value)


def listed(marks: Iterable[str], lines: Sequence[str | Words]) -> list[str]:
    """Lines behind their marks (`- ...`, `A. ...`), in pieces: a mark, a line without its last word, that.

    The last word stands apart because what follows a line may change its ids, and those of no other word.

    Args:
        lines: texts, or what `in_list` gave of them.
    """
    pieces = [
        piece
        for mark, line in zip(marks, lines, strict=False)
        for piece in (mark, *(in_list(line) if isinstance(line, str) else line))
    ]
    if pieces:
        pieces[-1] = pieces[-1][:-1]
    return pieces


def in_list(line: str) -> Words:
    """The words of a line with its end: what stands in a list behind the mark."""
    *words, last = words_of(line)
    return (*words, f"{last}\n")


def words_of(line: str) -> Words:
    """A line behind a space, in two pieces: all but its last word, and that; in one where it is one word."""
    head, space, last = line.rpartition(" ")
    return (f" {head}", f" {last}") if space else (f" {line}",)


def history_block(lines: Sequence[str | Words]) -> list[str]:
    """The shopper's past items, oldest first, as a list, in pieces; see `listed`."""
    return listed(repeat("-"), lines)


def candidates_block(labels: Sequence[str], lines: Sequence[str | Words]) -> list[str]:
    """The candidates, each behind its label: `A. ...`; in pieces; see `listed`."""
    if len(labels) != len(lines):
        raise ValueError(f"{len(labels)} labels for {len(lines)} candidates")
    return listed([f"{label}." for label in labels], lines)


def listwise_body(
    labels: Sequence[str],
    candidates: Sequence[str | Words],
    *,
    history: Sequence[str | Words] = (),
    query: str | None = None,
    instruction: str | None = None,
    template: str | None = None,
) -> list[str]:
    """The question of a listwise read, in pieces: history or query, candidates, what to answer with."""
    past = [one_line(query)] if query is not None else history_block(history)
    shown = candidates_block(labels, candidates)
    if template is not None:
        return fill(template, {"history": past, "candidates": shown})
    heading = "The shopper searches for:" if query is not None else "The shopper's history, oldest first:"
    answer = "one letter" if max(map(len, labels)) == 1 else "its letters"
    return [
        f"{without_marks(instruction or RERANK_INSTRUCTION)}\n\n{heading}\n",
        *past,
        "\n\nCandidates:\n",
        *shown,
        "\n\n",
        f"Which candidate fits best? Answer with {answer}.",
    ]


def one_line(text: str | None) -> str:
    """White space folded to single spaces, so that data can't pass for a line of the prompt's own."""
    return " ".join(without_marks(text).split()) if text else ""


def without_marks(text: str) -> str:
    """Text in which no image has a place."""
    return text.replace(IMAGE_MARK, REPLACEMENT)


def without_links(prompt: str) -> str:
    """A prompt of the user's own, in which no server finds an image to fetch: see `Neutraliser`."""
    return prompt.replace("![](", f"!{ZERO_WIDTH_SPACE}[](")


def refuse_image_marks(prompt: str) -> None:
    """Raises TextError for a prompt that says that images stand in it: none come with it."""
    for mark in (IMAGE_PAD, VIDEO_PAD):
        if mark in prompt:
            raise TextError(
                "text.image_marks", f"the prompt holds {mark}, and no image comes with it; leave it out"
            )


# -- prompt files --------------------------------------------------------------------------------------


def check_template(template: str | None, instruction: str | None, allowed: frozenset[str]) -> None:
    """Looks at a prompt file before the first row.

    Raises:
        PromptFileError: a placeholder that is not in `allowed`, or an instruction beside a prompt file.
    """
    if template is None:
        return
    if instruction is not None:
        raise PromptFileError(
            "--instruction is for the built-in prompt; with --prompt-file write it into the file"
        )
    for match in _PLACEHOLDER.finditer(template):
        if match[1] not in allowed:
            names = ", ".join(f"{{{{{name}}}}}" for name in sorted(allowed))
            raise PromptFileError(f"unknown placeholder {match[0]} in the prompt file; use {names}")
    if "candidates" in allowed and not any(m[1] == "candidates" for m in _PLACEHOLDER.finditer(template)):
        raise PromptFileError("the prompt file has no {{candidates}}; without them there is nothing to rank")


def times(template: str, name: str) -> int:
    """How often a placeholder stands in a template."""
    return sum(match[1] == name for match in _PLACEHOLDER.finditer(template))


def fill(template: str, values: Mapping[str, Sequence[str]]) -> list[str]:
    """The template with its placeholders replaced, in one pass: what data contains is never expanded.

    Args:
        values: in pieces, as what is returned.
    """
    texts = _PLACEHOLDER.split(without_marks(template))
    pieces = texts[:1]
    for name, text in zip(texts[1::2], texts[2::2], strict=True):
        pieces += [*values[name], text]
    return pieces
