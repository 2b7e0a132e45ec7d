"""Lists that rows of the report point into, so that what comes again and again stands in the page once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tgi_stack.report.mask import Mask
from tgi_stack.types import Item

UNKNOWN = -1


@dataclass
class Words:
    """Short words, each once: flags, types of errors, routes."""

    words: list[str] = field(default_factory=list)
    _places: dict[str, int] = field(default_factory=dict)

    def place(self, word: str) -> int:
        """Where a word stands in the list."""
        if word not in self._places:
            self._places[word] = len(self.words)
            self.words.append(word)
        return self._places[word]


class Items:
    """The items that rows name, with what is known of each.

    Args:
        known: what ids stand for.

    Attributes:
        items: in the order in which they were first named; rows hold places in this list.
        labels: places of those that are labels.
    """

    def __init__(self, known: Mapping[str, Item], mask: Mask) -> None:
        self._known = known
        self._mask = mask
        self._places: dict[Item, int] = {}
        self._by_id: dict[str, int] = {}
        self.items: list[Item] = []
        self.labels: set[int] = set()

    def place(self, entry: Item | str) -> int:
        """Where an item stands, or what an id stands for."""
        if isinstance(entry, str):
            if entry not in self._by_id:
                self._by_id[entry] = self._add(self._known.get(entry, Item(entry)))
            return self._by_id[entry]
        if entry not in self._places:
            self._places[entry] = self._add(entry)
        return self._places[entry]

    def label(self, item: Item) -> int:
        """Where a label stands; it is shown as it is, or masked already."""
        place = self.place(item)
        self.labels.add(place)
        return place

    def all_known(self) -> None:
        """Names all that ids stand for: items that no row names are shown, too."""
        for name in self._known:
            self.place(name)

    def _add(self, item: Item) -> int:
        self.items.append(item)
        return len(self.items) - 1

    def columns(self) -> dict[str, list[Any]]:
        """What the page holds of them."""
        text = self._mask.text
        return {
            "id": [
                item.id if place in self.labels else self._mask.id(item.id)
                for place, item in enumerate(self.items)
            ],
            "title": [text(item.title) for item in self.items],
            "summary": [text(item.summary) for item in self.items],
            "text": [text(item.text) for item in self.items],
        }
