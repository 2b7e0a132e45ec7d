"""How families of models open an answer: which think, which are told not to, which can't be.

A template that comes with a model is read for two marks, never run. Source: the Qwen teams' published
templates.
"""

from __future__ import annotations

from dataclasses import dataclass

from tgi_stack.prompting.prompts import CLOSED_THINKING


@dataclass(frozen=True, slots=True)
class Framing:
    """What stands before an answer.

    Attributes:
        families: who is framed so.
        mark: what only their templates hold.
        closes_thinking: whether an empty thinking block stands there.
        always_thinks: whether the model was trained to think first, whatever stands there: a label read
            behind a closed block is one that it was not trained on.
    """

    families: tuple[str, ...]
    mark: str
    closes_thinking: bool
    always_thinks: bool = False


SWITCHED = Framing(("Qwen3", "Qwen3.5", "Qwen3-Reranker"), "enable_thinking", closes_thinking=True)
ALWAYS = Framing(
    ("Qwen3-Thinking-2507", "Qwen3-VL-Thinking"),
    "assistant\\n<think>",
    closes_thinking=True,
    always_thinks=True,
)
NONE = Framing(
    ("Qwen3-Instruct-2507", "Qwen3-VL-Instruct", "Qwen3-VL-Reranker", "Qwen2.5", "Qwen2.5-VL"),
    "",
    closes_thinking=False,
)
TABLE = (SWITCHED, ALWAYS, NONE)  # the first whose mark stands in a template

FORCED = "thinking.closed"  # the flag of a label read behind a block that we closed


def framing(chat_template: str | None) -> Framing:
    """The row of the table that a model's template belongs to."""
    return next(row for row in TABLE if row.mark in (chat_template or ""))


def forced_flags(prompt: str, *, always_thinks: bool) -> tuple[str, ...]:
    """`thinking.closed` for a prompt of ours to a model that thinks before it answers."""
    return (FORCED,) if always_thinks and prompt.endswith(CLOSED_THINKING) else ()
