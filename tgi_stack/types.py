"""The values that travel through the house: plain, frozen, without behaviour of their own."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Item:
    """A product (or document): what is known of it, each part optional but the id."""

    id: str
    title: str | None = None
    text: str | None = None
    summary: str | None = None
    image: str | None = None
