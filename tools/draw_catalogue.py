"""Draws the example catalogue: product images as shops really store them, and the truth about them.

    python tools/draw_catalogue.py [--out examples/catalogue] [--seed 2026]

Beside the images stand `items.jsonl` (what a shop knows of them), `sessions.jsonl` (shoppers, with what they
took in the end), `looks.jsonl` (the truth, for tests) and `labels.jsonl` with `look.schema.json` (the same
truth as labelled data, and its schema). File names say nothing of colour, pattern or count, so that what a
summary of the folder says of them was seen in the picture.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from drawing import camera, cutout, draw
from session_data import draw_history
from tiny_world import CATEGORIES, COLOURS, PATTERNS, Look, title

ITEMS = 70
SESSIONS = 24
QUALITY = 85

# How many items are stored in a way other than an upright RGB JPEG.
KINDS = {"grey": 4, "rotated": 8, "png": 4, "webp": 8, "cutout": 2, "cmyk": 1}
SUFFIXES = {"png": "png", "cutout": "png", "webp": "webp"}

# The longer side in pixels. Noise makes large pictures and PNGs heavy, so these are few and small.
LARGE = (2000, 1600, 1280, 1200, 1024, 1000)
SMALL = (200, 224, 240)
USUAL = (256, 840)
PNG_LIMIT = 360
SHORTEST = 96
ASPECTS = ((1, 1), (1, 1), (4, 3), (3, 4), (3, 2), (2, 3), (16, 9), (9, 16), (2, 1), (1, 2), (5, 2))

# What turns an upright picture into the one that a viewer sets upright again by the tag's value.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}

BRANDS = ("Nordhus", "Tilleby", "Kelvara", "Ostrano", "Marlowen", "Fjellby", "Calder & Finch")
TEXTS = (
    "Ships within a week in recycled cardboard.",
    "Delivered to your door or to a parcel shop.",
    "Made in a small family workshop.",
    "Free returns within a month of delivery.",
    "Wipe clean with a damp cloth.",
    "Made from responsibly sourced materials.",
    "In stock and ready to ship today.",
)


@dataclass(frozen=True)
class Item:
    """One product of the catalogue: its id, what it shows and how its image is stored."""

    id: str
    look: Look
    kind: str
    longer: int
    orientation: int

    @property
    def image(self) -> str:
        """The image's path inside the catalogue; `summarize` of the folder gives it the same id."""
        return f"images/{self.id}"


def stream(seed: int, name: int | str) -> random.Random:
    """A random stream of the catalogue's own; training draws from streams of other names."""
    return random.Random(f"catalogue:{seed}:{name}")


def deck(values: Sequence[Any], rng: random.Random) -> list[Any]:
    """One value an item, in random order and each as often as the others."""
    cards = [values[i % len(values)] for i in range(ITEMS)]
    rng.shuffle(cards)
    return cards


def plan_looks(seed: int) -> list[Look]:
    """The looks: the categories in turn, the other attributes dealt evenly."""
    rng = stream(seed, "looks")
    nouns = [CATEGORIES[i % len(CATEGORIES)].noun for i in range(ITEMS)]
    attributes = (deck(COLOURS, rng), deck(PATTERNS, rng), deck((1, 2, 3), rng))
    return [Look(*look) for look in zip(nouns, *attributes, strict=True)]


def plan_kinds(looks: Sequence[Look], seed: int) -> list[str]:
    """How each image is stored; only black and grey products survive as greyscale."""
    order = list(range(len(looks)))
    stream(seed, "kinds").shuffle(order)
    kinds = ["jpeg"] * len(looks)
    for kind, wanted in KINDS.items():
        free = [i for i in order if kinds[i] == "jpeg"]
        if kind == "grey":
            free = [i for i in free if looks[i].colour in ("black", "grey")]
        for i in free[:wanted]:
            kinds[i] = kind
    return kinds


def plan_sizes(kinds: Sequence[str], seed: int) -> list[int]:
    """The longer side of each image."""
    rng = stream(seed, "sizes")
    sizes = [rng.randint(*USUAL) for _ in kinds]
    fixed = [*LARGE, *SMALL]
    jpegs = [i for i, kind in enumerate(kinds) if kind == "jpeg"]
    for i, longer in zip(rng.sample(jpegs, len(fixed)), fixed, strict=True):
        sizes[i] = longer
    return [min(s, PNG_LIMIT) if k == "png" else s for s, k in zip(sizes, kinds, strict=True)]


def plan(seed: int) -> list[Item]:
    """All items of the catalogue."""
    looks = plan_looks(seed)
    kinds = plan_kinds(looks, seed)
    items: list[Item] = []
    turned = 0
    for index, longer in enumerate(plan_sizes(kinds, seed)):
        look, number = looks[index], index // len(CATEGORIES) + 1
        values = list(STORED)
        orientation = values[turned % len(values)] if kinds[index] == "rotated" else 1
        turned += orientation > 1
        name = f"{look.category}-{number:02}.{SUFFIXES.get(kinds[index], 'jpg')}"
        items.append(Item(name, look, kinds[index], longer, orientation))
    return items


def save(item: Item, path: Path, rng: random.Random) -> None:
    """Draws one item and stores it the way its kind says."""
    across, down = rng.choice(ASPECTS)
    zoom = item.longer / max(across, down)
    size = max(SHORTEST, round(across * zoom)), max(SHORTEST, round(down * zoom))
    if item.kind == "cutout":
        cutout(item.look, rng, size).save(path, optimize=True)
        return
    picture = camera(draw(item.look, rng, size), rng)
    if item.kind == "rotated":
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = item.orientation
        picture.transpose(STORED[item.orientation]).save(path, quality=QUALITY, exif=exif)
        return
    mode = {"grey": "L", "cmyk": "CMYK"}.get(item.kind, "RGB")
    picture.convert(mode).save(path, quality=QUALITY, optimize=True)


def describe(item: Item, rng: random.Random) -> dict[str, str]:
    """The item's record: a shop's title, with a brand in half of them, and a text in a quarter."""
    name = title(item.look)
    if rng.random() < 0.5:
        name = f"{rng.choice(BRANDS)} {name[0].lower()}{name[1:]}"
    record = {"id": item.id, "image": item.image, "title": name}
    if rng.random() < 0.25:
        record["text"] = rng.choice(TEXTS)
    return record


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Writes one JSON object a line."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8")


def write_images(out: Path, items: Sequence[Item], seed: int) -> None:
    """Draws and stores every image."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    for index, item in enumerate(items):
        save(item, out / item.image, stream(seed, index))


def write_items(out: Path, items: Sequence[Item], seed: int) -> None:
    """Writes what a shop knows of its items."""
    rng = stream(seed, "items")
    write_lines(out / "items.jsonl", (describe(item, rng) for item in items))


def write_looks(out: Path, items: Sequence[Item]) -> None:
    """Writes the truth: for tests, and as labelled data with the schema that describes it."""
    write_lines(out / "looks.jsonl", ({"id": item.id, **asdict(item.look)} for item in items))
    write_lines(out / "labels.jsonl", ({"id": item.id, "data": asdict(item.look)} for item in items))
    schema = json.dumps(look_schema(), indent=2, ensure_ascii=False)
    (out / "look.schema.json").write_text(f"{schema}\n", encoding="utf-8")


def look_schema() -> dict[str, Any]:
    """The schema of a look as data."""
    properties: dict[str, Any] = {
        "category": {"description": "what the picture shows", "enum": [one.noun for one in CATEGORIES]},
        "colour": {"enum": list(COLOURS)},
        "pattern": {"enum": list(PATTERNS)},
        "count": {"description": "how many of it", "type": "integer", "minimum": 1, "maximum": 3},
    }
    return {"type": "object", "properties": properties, "required": list(properties)}


def write_sessions(out: Path, items: Sequence[Item], seed: int) -> None:
    """Writes shoppers whose history shows one taste, which exactly one of their candidates meets."""
    records = []
    for index in range(SESSIONS):
        rng = stream(seed, f"session:{index}")
        taken = rng.choice(items)
        taste = (taken.look.category, taken.look.colour)
        others = [i for i in items if (i.look.category, i.look.colour) != taste]
        shown = [*rng.sample(others, rng.randint(4, 19)), taken]
        rng.shuffle(shown)
        record: dict[str, Any] = {"id": f"u{index + 1}"}
        if index % 6 == 5:
            record["query"] = " ".join(reversed(taste))
        else:
            past = draw_history(rng, taste, rng.randint(3, 9))
            record["history"] = [{"id": f"h{n}", "text": title(look)} for n, look in enumerate(past, 1)]
        record["candidates"] = [item.id for item in shown]
        record["positive"] = taken.id
        records.append(record)
    write_lines(out / "sessions.jsonl", records)


def main() -> None:
    """Writes the whole catalogue."""
    parser = argparse.ArgumentParser(description="Draw the example catalogue.")
    parser.add_argument("--out", type=Path, default=Path("examples/catalogue"))
    parser.add_argument("--seed", type=int, default=2026)
    options = parser.parse_args()
    items = plan(options.seed)
    write_images(options.out, items, options.seed)
    write_items(options.out, items, options.seed)
    write_looks(options.out, items)
    write_sessions(options.out, items, options.seed)


if __name__ == "__main__":
    main()
