"""What a kept value must be: whoever can write to a cache that is shared may have put anything there."""

from __future__ import annotations

from typing import Any

_MOST = 2**31  # of tokens and of pixels a side


def refuse(wrong: bool, name: str) -> None:  # reads as a sentence
    """Raises ValueError where something is wrong."""
    if wrong:
        raise ValueError(f"{name} is none")


def text(value: Any, name: str) -> str:
    """A text that can be written as UTF-8; raises ValueError for anything else."""
    refuse(type(value) is not str, name)
    value.encode()  # a UnicodeEncodeError is a ValueError
    return str(value)


def texts(values: Any, name: str) -> tuple[str, ...]:
    """A list of texts; raises ValueError for anything else."""
    refuse(type(values) is not list, name)
    return tuple([text(value, name) for value in values])


def distinct_texts(values: Any, name: str) -> tuple[str, ...]:
    """One text or more, none twice; raises ValueError for anything else."""
    found = texts(values, name)
    refuse(not found or len(set(found)) != len(found), name)
    return found


def count(value: Any, name: str, least: int = 0) -> int:
    """A whole number of tokens or pixels; raises ValueError for anything else."""
    refuse(type(value) is not int or not least <= value < _MOST, name)
    return int(value)
