"""Kinds of values: whoever stores values registers their kind first."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cache.errors import CacheError

DATABASES = ("small", "large")  # kept apart, so that small values stay close together


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of values.

    Attributes:
        name: what callers say.
        letter: what stands for it on disk, one ASCII letter; it is never given to another kind.
        database: `small`, or `large` for values of many kilobytes.
        stays: whether only `clear` removes its values, not their age.
    """

    name: str
    letter: str
    database: str = "small"
    stays: bool = False

    def __post_init__(self) -> None:
        if re.fullmatch("[A-Za-z]", self.letter) is None or self.database not in DATABASES:
            raise ValueError(f"a kind has one letter, and one of {', '.join(DATABASES)}: {self}")


_by_name: dict[str, Kind] = {}
_by_letter: dict[str, Kind] = {}


def register(*kinds: Kind) -> None:
    """Makes kinds known; the same kind may be registered again.

    Raises:
        ValueError: another kind has its name or its letter.
    """
    for kind in kinds:
        if _by_name.get(kind.name, kind) != kind or _by_letter.get(kind.letter, kind) != kind:
            raise ValueError(f"another kind is registered by this name or letter: {kind}")
        _by_name[kind.name] = _by_letter[kind.letter] = kind


def named(name: str) -> Kind:
    """The kind of a name.

    Raises:
        CacheError: nobody registered it.
    """
    try:
        return _by_name[name]
    except KeyError:
        raise CacheError(
            f"no kind {name!r} is registered; call cache.register(Kind({name!r}, ...)) first"
        ) from None


def of_letter(letter: str) -> Kind | None:
    """The kind that a letter stands for; None where nobody registered it."""
    return _by_letter.get(letter)


def staying() -> frozenset[str]:
    """The letters of the kinds that stay."""
    return frozenset(kind.letter for kind in _by_name.values() if kind.stays)
