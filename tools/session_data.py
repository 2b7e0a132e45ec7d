"""Draws rerank sessions of the small world: a shopper's history or query, candidates, and the one that fits.

A session has a *taste*: a category and a colour. Most history items show it in part or whole; exactly one
candidate has both. The others share one of the two with the taste or none, so that neither attribute alone
finds the answer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tgi_stack.types import Item
from tiny_world import CATEGORIES, COLOURS, PATTERNS, Look, phrase, summary, title

BRANDS: tuple[str, ...] = (
    "Nordhus", "Velora", "Kitano", "Brightside", "Oakfield", "Tamsin", "Luma", "Corvo",
    "Pellegro", "Hadley", "Sundby", "Marlow", "Arken", "Bellamy", "Quill", "Fenwick",
)  # fmt: skip
SENTENCES: tuple[str, ...] = (
    "Ships within two days.",
    "Made to last.",
    "Comes in a gift box.",
    "A favourite with our customers.",
    "Designed in a small studio.",
    "Easy to clean.",
    "New this season.",
    "Free returns within a month.",
)

# What invented brands and fillers are made of: the network has to learn to pass over words it never saw.
_SYLLABLES = """
    ka ve lo ri na tor mel fi sha du bren os til mar ja po lin gre wo hal eno sta bir qua zen ul dor pim
"""
_FILLERS = """
    ships delivered within a week days recycled cardboard door parcel shop made in small family workshop free
    returns month after wipe with damp cloth responsibly sourced materials stock ready today the of from our
    your by hand soft strong light simple gift box design studio quality long lasting easy to care warranty
    years limited edition season customers love it because every order supports local makers wrapped paper
    packed carefully sizes may vary slightly see manual included and is not for this photo on request only
"""
SYLLABLES = tuple(_SYLLABLES.split())
FILLERS = tuple(_FILLERS.split())


@dataclass(frozen=True)
class Session:
    """One question with its truth: the taste (category, colour), each item's look, the answer's index."""

    history: tuple[Item, ...]
    query: str | None
    candidates: tuple[Item, ...]
    answer: int
    taste: tuple[str, str]
    history_looks: tuple[Look, ...]
    candidate_looks: tuple[Look, ...]


def draw_session(rng: random.Random, candidates: int, history: int | None) -> Session:
    """One session of 2 to 52 candidates; with `history` items, or a query where that is None."""
    taste = (rng.choice(CATEGORIES).noun, rng.choice(COLOURS))
    writer = _Writer(rng)
    past = draw_history(rng, taste, history or 0)
    looks = [_other(rng, taste) for _ in range(candidates - 1)]
    answer = rng.randrange(candidates)
    looks.insert(answer, _look(rng, *taste))
    return Session(
        history=tuple(writer.item(f"h{i}", look) for i, look in enumerate(past)),
        query=_query(rng, taste) if history is None else None,
        candidates=tuple(writer.item(f"c{i}", look) for i, look in enumerate(looks)),
        answer=answer,
        taste=taste,
        history_looks=tuple(past),
        candidate_looks=tuple(looks),
    )


def draw_history(rng: random.Random, taste: tuple[str, str], count: int) -> list[Look]:
    """What a shopper of that taste (category, colour) looked at: both sides of it are in the majority."""
    return _settle(rng, [_near(rng, taste) for _ in range(count)], taste)


def _look(rng: random.Random, category: str, colour: str) -> Look:
    return Look(category, colour, rng.choice(PATTERNS), rng.choice((1, 1, 2, 3)))


def _near(rng: random.Random, taste: tuple[str, str]) -> Look:
    """A history item: each side of the taste kept with 80 %, drawn anew otherwise."""
    category = taste[0] if rng.random() < 0.8 else rng.choice(CATEGORIES).noun
    colour = taste[1] if rng.random() < 0.8 else rng.choice(COLOURS)
    return _look(rng, category, colour)


def _settle(rng: random.Random, past: list[Look], taste: tuple[str, str]) -> list[Look]:
    """Makes the taste the clear majority of each side, so that every session has one right answer."""
    for index in rng.sample(range(len(past)), len(past)):
        categories = sum(look.category == taste[0] for look in past)
        colours = sum(look.colour == taste[1] for look in past)
        if 2 * categories > len(past) and 2 * colours > len(past):
            break
        past[index] = _look(rng, *taste)
    return past


def _other(rng: random.Random, taste: tuple[str, str]) -> Look:
    """A candidate that does not fit: a third shares the category, a third the colour, a third neither."""
    categories = [c.noun for c in CATEGORIES if c.noun != taste[0]]
    colours = [c for c in COLOURS if c != taste[1]]
    side = rng.randrange(3)
    category = taste[0] if side == 0 else rng.choice(categories)
    colour = taste[1] if side == 1 else rng.choice(colours)
    return _look(rng, category, colour)


def _query(rng: random.Random, taste: tuple[str, str]) -> str:
    category, colour = taste
    words = phrase(Look(category, colour, rng.choice(PATTERNS), 1))
    return rng.choice((f"{colour} {category}", words, words.split(" ", 1)[1]))


def _brand(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return rng.choice(BRANDS)
    names = ("".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))).capitalize() for _ in range(2))
    return " & ".join(names) if rng.random() < 0.15 else next(names)


def _sentence(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return rng.choice(SENTENCES)
    return " ".join(rng.choices(FILLERS, k=rng.randint(3, 10))).capitalize() + "."


class _Writer:
    """Writes items as shops do: one style for all items of a session, or a style of its own for each."""

    STYLES = ("title", "summary", "both", "all")

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._style = rng.choice((*self.STYLES, None))

    def item(self, key: str, look: Look) -> Item:
        rng = self._rng
        style = self._style or rng.choice(self.STYLES)
        name = title(look)
        if style != "title" and rng.random() < 0.3:
            name = look.category
        if rng.random() < 0.4:
            name = f"{_brand(rng)} {name[0].lower()}{name[1:]}"
        return Item(
            id=key,
            title=None if style == "summary" else name[0].upper() + name[1:],
            summary=None if style == "title" else summary(look),
            text=_sentence(rng) if style == "all" or rng.random() < 0.15 else None,
        )
