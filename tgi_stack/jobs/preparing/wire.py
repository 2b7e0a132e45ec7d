"""What a run and the processes that prepare its rows tell each other, as plain values.

A message is a tuple whose first entry says what it is, in the form of `marshal`: made of plain values alone,
and read by the same Python on the same host. Each stands behind its length (`images.pipe`).

    to a process     ("rows", rows)  ("answers", answers)  ("brought", answers)  ("end",)  ("stop",)
    from a process   ("ready",)  ("questions", questions)  ("tier", questions)  ("records", ...)
                     ("log", ...)  ("end",)
"""

from __future__ import annotations

import marshal
from array import array
from collections.abc import Mapping
from dataclasses import fields
from operator import attrgetter
from typing import Any

from tgi_stack import errors
from tgi_stack.errors import ItemError, RowError
from tgi_stack.images.pipe import framed
from tgi_stack.types import (
    Caption,
    CaptionRequest,
    Identity,
    Item,
    LabelScores,
    NoPicture,
    PreparedImage,
    ScoreRequest,
)

BUFFER_BYTES = 2**22  # of a pipe that is read

Plain = tuple[Any, ...]
Question = ScoreRequest | CaptionRequest
Answer = LabelScores | Caption | Identity | RowError | None

_identity = attrgetter(*(field.name for field in fields(Identity)))
_image = attrgetter(*(field.name for field in fields(PreparedImage)))
_scores = attrgetter(*(field.name for field in fields(LabelScores) if field.name != "stand_in"))
_of_caption = [field.name for field in fields(Caption) if field.name != "image"]
_caption = attrgetter(*_of_caption)


def packed(*message: Any) -> bytes:
    """A message with its length before it.

    Raises:
        ValueError: something in it is no plain value.
    """
    return framed(marshal.dumps(message))


def unpacked(content: bytes) -> Any:
    """What was packed; from our own processes alone, since `marshal` trusts what it reads."""
    return marshal.loads(content)  # noqa: S302


# -- items -----------------------------------------------------------------------------------------------


def of_items(items: Mapping[str, Item | ItemError]) -> bytes:
    """All that ids stand for, and why some stand for nothing."""
    return marshal.dumps({name: _of_item(item) for name, item in items.items()})


def _of_item(item: Item | ItemError) -> Plain:
    if isinstance(item, ItemError):
        return item.type, str(item)
    if isinstance(item.image, NoPicture):
        return (
            item.id,
            item.title,
            item.text,
            item.summary,
            item.data,
            (item.image.type, item.image.message),
            True,
        )
    return item.id, item.title, item.text, item.summary, item.data, item.image, False


def items_of(content: bytes) -> dict[str, Item | ItemError]:
    """The items that `of_items` made bytes of."""
    return {name: _item_of(plain) for name, plain in unpacked(content).items()}


def _item_of(plain: Plain) -> Item | ItemError:
    if len(plain) == 2:
        return ItemError(*plain)
    id, title, text, summary, data, image, no = plain
    return Item(id, title, text, summary, NoPicture(*image) if no else image, data)


# -- questions -------------------------------------------------------------------------------------------


def of_question(asked: Question) -> bytes:
    """A question by itself: equal questions have equal bytes. Its ids are packed."""
    ids = array("I", asked.token_ids).tobytes()
    if isinstance(asked, ScoreRequest):
        parts = tuple([part if isinstance(part, str) else _image(part) for part in asked.parts])
        return marshal.dumps((asked.prompt, ids, asked.labels, asked.label_ids, parts, asked.system))
    image = None if asked.image is None else _image(asked.image)
    how = asked.max_new_tokens, asked.temperature, asked.seed, asked.form
    return marshal.dumps((asked.prompt, ids, asked.body, image, *how))


def score_request(content: bytes) -> ScoreRequest:
    """The question about labels that `of_question` made bytes of."""
    prompt, ids, labels, label_ids, parts, system = unpacked(content)
    shown = tuple([part if isinstance(part, str) else PreparedImage(*part) for part in parts])
    return ScoreRequest(prompt, array("I", ids), labels, label_ids, shown, system)


def caption_request(content: bytes) -> CaptionRequest:
    """The question for a summary that `of_question` made bytes of."""
    prompt, ids, body, image, *how = unpacked(content)
    seen = None if image is None else PreparedImage(*image)
    return CaptionRequest(prompt, body, array("I", ids), seen, *how)


# -- answers ---------------------------------------------------------------------------------------------


def of_answer(answer: Answer) -> Plain:
    """An answer, or why there is none, as plain values."""
    if isinstance(answer, LabelScores):
        stand_in = None if answer.stand_in is None else _identity(answer.stand_in)
        return "scores", _scores(answer), stand_in
    if isinstance(answer, Caption):
        return "caption", _caption(answer), None if answer.image is None else _image(answer.image)
    if isinstance(answer, Identity):
        return "identity", _identity(answer)
    if isinstance(answer, RowError):
        return "error", type(answer).__name__, answer.type, str(answer), answer.flags, answer.attempts
    return ("nobody",)


def answer_of(plain: Plain) -> Answer:
    """The answer that `of_answer` made plain."""
    kind, *rest = plain
    if kind == "scores":
        return LabelScores(*(*rest[0], None if rest[1] is None else Identity(*rest[1])))
    if kind == "caption":
        known = dict(zip(_of_caption, rest[0], strict=True))
        return Caption(**known, image=None if rest[1] is None else PreparedImage(*rest[1]))
    if kind == "identity":
        return Identity(*rest[0])
    if kind == "error":
        made: RowError = getattr(errors, rest[0])(*rest[1:])
        return made
    return None
