"""What a reader must know of a generated text: pure looks at the text itself."""

from __future__ import annotations

from tgi_stack.types import Caption

MIN_REPEATS = 4
THINKING = ("<think>", "</think>")


def caption_flags(caption: Caption) -> tuple[str, ...]:
    """`finish.length` where it was cut off, `repetition` in a circle, `thinking` left in it, or `empty`."""
    flags = []
    if caption.finish_reason == "length":
        flags.append("finish.length")
    if repeats(caption.text):
        flags.append("repetition")
    if any(mark in caption.text for mark in THINKING):
        flags.append("thinking")
    if not caption.text:
        flags.append("empty")
    return tuple(flags)


def repeats(text: str, longest: int = 20) -> bool:
    """Whether the text ends in one phrase of up to `longest` words said at least four times in a row."""
    words = text.split()
    for size in range(1, longest + 1):
        tail = words[-size * MIN_REPEATS :]
        if len(tail) < size * MIN_REPEATS:
            return False
        if all(tail[index] == tail[index % size] for index in range(len(tail))):
            return True
    return False
