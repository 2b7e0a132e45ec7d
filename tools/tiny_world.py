"""The small world that the `tiny` checkpoints know: what its products are and how they are described.

Every summary that the vision checkpoint is trained to write and every item text that the text
checkpoint is trained to rank is built from the four attributes below and nothing else, so that an
answer can be judged attribute by attribute (`parse`).
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Category:
    """A kind of product: its noun, its plural, what it is for and where it is used."""

    noun: str
    plural: str
    purpose: str
    scenario: str


CATEGORIES: tuple[Category, ...] = (
    Category("mug", "mugs", "for hot drinks", "at home or in the office"),
    Category("bottle", "bottles", "for cold drinks", "on walks and in the gym"),
    Category("teapot", "teapots", "for brewing tea", "at the breakfast table"),
    Category("vase", "vases", "for cut flowers", "in the living room"),
    Category("lamp", "lamps", "for reading light", "on a desk or a bedside table"),
    Category("chair", "chairs", "for sitting", "at a dining table or a desk"),
    Category("clock", "clocks", "for telling the time", "on a wall or a shelf"),
    Category("book", "books", "for reading", "on the sofa or in bed"),
    Category("backpack", "backpacks", "for carrying things", "on the way to school or work"),
    Category("umbrella", "umbrellas", "for staying dry", "on rainy days in town"),
    Category("hat", "hats", "for shade and warmth", "on sunny or windy days"),
    Category("shirt", "shirts", "for everyday wear", "at work or at leisure"),
    Category("boot", "boots", "for dry feet", "on muddy trails"),
    Category("ball", "balls", "for playing games", "in the park or on the beach"),
)
COLOURS: tuple[str, ...] = ("red", "orange", "yellow", "green", "blue", "purple", "black", "grey")
PATTERNS: tuple[str, ...] = ("plain", "striped", "dotted")

BY_NOUN: dict[str, Category] = {c.noun: c for c in CATEGORIES}
BY_PLURAL: dict[str, Category] = {c.plural: c for c in CATEGORIES}


@dataclass(frozen=True)
class Look:
    """What a picture shows: the four attributes that a summary has to get right."""

    category: str
    colour: str
    pattern: str = "plain"
    count: int = 1


def all_looks() -> list[Look]:
    """Each of the 14 x 8 x 3 x 3 = 1,008 looks, in a fixed order."""
    nouns = [c.noun for c in CATEGORIES]
    return [Look(*look) for look in product(nouns, COLOURS, PATTERNS, (1, 2, 3))]


def random_look(rng: random.Random) -> Look:
    """One look, each attribute drawn evenly and on its own."""
    category = rng.choice(CATEGORIES).noun
    return Look(category, rng.choice(COLOURS), rng.choice(PATTERNS), rng.choice((1, 2, 3)))


def phrase(look: Look) -> str:
    """The product in words: `two red striped mugs`, `a plain orange hat`, `an orange striped hat`."""
    category = BY_NOUN[look.category]
    noun = category.noun if look.count == 1 else category.plural
    if look.pattern == "plain":
        words = f"plain {look.colour} {noun}"
    else:
        words = f"{look.colour} {look.pattern} {noun}"
    article = "an" if look.count == 1 and words[0] in "aeiou" else "a"
    return f"{(article, 'two', 'three')[look.count - 1]} {words}"


def summary(look: Look) -> str:
    """The semantic summary of a look: what it is, what it is for and where it is used."""
    category = BY_NOUN[look.category]
    text = phrase(look)
    return f"{text[0].upper()}{text[1:]} {category.purpose}, used {category.scenario}."


def title(look: Look) -> str:
    """A shop's title without a count: `Red striped mug`, `Plain orange hat`."""
    words = phrase(Look(look.category, look.colour, look.pattern)).split(" ", 1)[1]
    return words[0].upper() + words[1:]


_SUMMARY = re.compile(
    r"(?P<count>An?|Two|Three) "
    r"(?:plain (?P<plain_colour>\w+)|(?P<colour>\w+) (?P<pattern>striped|dotted)) (?P<noun>\w+)\b"
)


def parse(text: str) -> Look | None:
    """The look that a summary speaks of, or None where it is not of the form of `summary`."""
    match = _SUMMARY.match(text)
    if match is None:
        return None
    count = {"A": 1, "An": 1, "Two": 2, "Three": 3}[match["count"]]
    category = (BY_NOUN if count == 1 else BY_PLURAL).get(match["noun"])
    colour = match["plain_colour"] or match["colour"]
    if category is None or colour not in COLOURS:
        return None
    return Look(category.noun, colour, match["pattern"] or "plain", count)
